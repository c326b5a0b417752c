"""What is said of keys that are there, are not, or are not what they should be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from exchanges.kalshi.signing import load_signer
from ssmd.keys.check import examine, inspect
from ssmd.keys.expiry import DAY_NS, WARN_NS, expires_ns
from ssmd.keys.resolve import Resolver
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found
from ssmd.metadata.environment import Environment, Key
from tests.keys.sealing import make_certificate, make_key, private_pem
from tests.keys.source_contract import NOW_NS, Home

TLS = Key(type="tls", fields=("certificate", "key"))


def found(set_ns: int = 0, **values: str | bytes) -> Found:
    return Found({n: Secret(v if isinstance(v, str) else v.decode()) for n, v in values.items()}, set_ns)


@pytest.fixture(scope="module")
def stranger() -> RSAPrivateKey:
    return generate_private_key(65_537, 2048)


def test_pairs_of_certificate_and_key(stranger: RSAPrivateKey) -> None:
    certificate, pem = make_certificate(), private_pem()
    assert inspect(TLS, found(certificate=certificate, key=pem), None) == []
    assert inspect(TLS, found(certificate=make_certificate(stranger) + certificate, key=pem), None) == []  # a chain
    assert inspect(TLS, found(certificate=certificate, key=private_pem(stranger)), None) == [
        "key is not the private key of the certificate"
    ]
    for bad in ("secret-text", b"-----BEGIN PRIVATE KEY-----\nsecret-text\n-----END PRIVATE KEY-----\n"):
        said = inspect(TLS, found(certificate=certificate, key=bad), None)
        assert said == ["key is neither a PEM certificate nor a PEM private key"]
    encrypted = make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    assert "encrypted" in inspect(TLS, found(certificate=certificate, key=encrypted), None)[0]


def test_venue_keys_are_parsed_and_nothing_may_be_blank() -> None:
    key = Key(type="api_key", fields=("key_id", "private_key"))
    assert inspect(key, found(key_id="5f3f1b0a-1111-4222-8333-abcdefabcdef", private_key=private_pem()), load_signer) == []
    assert "not a UUID" in inspect(key, found(key_id="x", private_key=private_pem()), load_signer)[0]
    assert inspect(key, found(key_id="x", private_key="y"), None) == []  # of a venue that is not built
    assert inspect(key, found(key_id=" ", private_key="y"), load_signer) == ["key_id is blank"]


def test_the_first_end_counts(stranger: RSAPrivateKey) -> None:
    def ending(days: int) -> bytes:
        name = x509.Name([])
        end = datetime.fromtimestamp(NOW_NS // 10**9, UTC) + timedelta(days=days)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(stranger.public_key())
        return builder.not_valid_before(end - timedelta(days=90)).not_valid_after(end).sign(stranger, SHA256()).public_bytes(Encoding.PEM)

    rotated = Key(type="tls", fields=("certificate",), rotation_days=30)
    assert expires_ns(rotated, found()) == 0
    assert expires_ns(rotated, found(NOW_NS)) == NOW_NS + 30 * DAY_NS
    assert expires_ns(rotated, found(NOW_NS, certificate=ending(20) + ending(10))) == NOW_NS + 10 * DAY_NS
    assert expires_ns(TLS, found(NOW_NS, certificate="-----BEGIN CERTIFICATE-----\nbroken")) == 0


def test_states_and_which_of_them_somebody_must_act_on(tmp_path: Path) -> None:
    home = Home(tmp_path, {"SSMD_SOON_A": "x", "SSMD_SOON_SET_AT": "2026-11-20T16:00:00Z", "SSMD_HALF_A": "x"})
    environment = Environment.model_validate(
        {
            "name": "dev",
            "feed": "kalshi",
            "keys": {
                "soon": {"type": "webhook", "fields": ("a",), "rotation_days": 15},
                "half": {"type": "webhook", "fields": ("a", "b")},
                "may": {"type": "webhook", "fields": ("a",), "required": False},
                "bad": {"type": "webhook", "fields": ("a",), "required": False, "source": "exec:false"},
                "later": {"type": "webhook", "fields": ("a",), "source": "exec:sh -c 'exit 75'"},
            },
        }
    )
    states = {s.name: s for s in examine(environment, Resolver("dev", environment.keys, home.place), home.place)}
    said = {n: (s.status, s.finding) for n, s in states.items()}
    assert said == {
        "soon": ("expiring", False), "half": ("missing", True), "may": ("missing", False), "bad": ("refused", True),
        "later": ("unavailable", True),
    }  # fmt: skip
    assert 0 < states["soon"].expires_ns - NOW_NS < WARN_NS
    assert states["half"].fields == {"a": "present", "b": "missing"}
    assert states["bad"].fields == {"a": "unknown"}
