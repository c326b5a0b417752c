"""A cluster's key and certificates for tests, made anew in each run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.keys.source_contract import NOW_NS

NOW = datetime.fromtimestamp(NOW_NS // 1_000_000_000, UTC)


@cache
def make_key(bits: int = 2048) -> RSAPrivateKey:
    return generate_private_key(65_537, bits)


def private_pem(key: RSAPrivateKey | None = None) -> bytes:
    return (key or make_key()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_certificate(key: RSAPrivateKey | Ed25519PrivateKey | None = None, *, days: int = 30, at: datetime = NOW) -> bytes:
    """PEM, self-signed, of this machine, valid for `days` from `at`; expired where that is negative."""
    key = key or make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sealed-secret")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(at - timedelta(days=365)).not_valid_after(at + timedelta(days=days))
    names = [x509.IPAddress(IPv4Address("127.0.0.1"))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, None if isinstance(key, Ed25519PrivateKey) else SHA256()).public_bytes(Encoding.PEM)
