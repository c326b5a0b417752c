from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exchanges.kalshi.signing import Signer, load_signer, signed_text, verify
from journal.errors import CallerError

KEY_ID = "a952bcbe-ec3b-4b5b-b8f9-11dae589608c"
TEXT = b"1787838990880GET/trade-api/ws/v2"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey | Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_the_ed25519_vector() -> None:
    signer = Signer(KEY_ID, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    assert signer.headers("get", "/trade-api/ws/v2?x=1", 1787838990880_999_999) == {
        "KALSHI-ACCESS-KEY": KEY_ID,
        "KALSHI-ACCESS-TIMESTAMP": "1787838990880",
        "KALSHI-ACCESS-SIGNATURE": "zJU73C0sBO7mGUIXjA6Gx1HYMtDJc+cXceX6FNn0MI7rXB2De+j03mNDlu7Neqauv6V0dtw7U/byaSy9gurbAA==",
    }
    assert verify(signer.public_key, TEXT, signer.sign(TEXT))
    assert not verify(signer.public_key, TEXT + b" ", signer.sign(TEXT))


def test_what_is_signed() -> None:
    assert signed_text(1787838990880, "get", "/trade-api/v2/markets?limit=5&cursor=a") == b"1787838990880GET/trade-api/v2/markets"


def test_rsa_signatures_have_a_salt_of_32_bytes() -> None:
    signer = Signer(KEY_ID, RSA)
    first, second = signer.sign(TEXT), signer.sign(TEXT)
    assert first != second
    exactly_32 = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    RSA.public_key().verify(base64.b64decode(first), TEXT, exactly_32, hashes.SHA256())
    assert verify(RSA.public_key(), TEXT, second)


@pytest.mark.parametrize("salt", [0, 20, 31, 33, padding.PSS.MAX_LENGTH])
def test_any_other_salt_is_refused(salt: int) -> None:
    wrong = RSA.sign(TEXT, padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt), hashes.SHA256())
    assert not verify(RSA.public_key(), TEXT, base64.b64encode(wrong).decode())


@pytest.mark.parametrize("signature", ["", "not base64!", "AAAA", "é"])
def test_garbage_is_not_a_signature(signature: str) -> None:
    assert not verify(RSA.public_key(), TEXT, signature)
    assert not verify(Ed25519PrivateKey.generate().public_key(), TEXT, signature)


def test_keys_load_from_pem() -> None:
    for key in (RSA, Ed25519PrivateKey.generate()):
        signer = load_signer(KEY_ID, pem(key))
        assert verify(key.public_key(), TEXT, signer.sign(TEXT))
    assert load_signer(KEY_ID, pem(RSA, b"pass"), b"pass").key_id == KEY_ID


@pytest.mark.parametrize(
    ("key_id", "content", "says"),
    [
        ("my-key", pem(RSA), "not a UUID"),
        (KEY_ID, pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA or Ed25519 private key"),
        (KEY_ID, b"", "not a PEM private key"),
        (KEY_ID, pem(RSA)[:300], "not a PEM private key"),
        (KEY_ID, pem(RSA, b"pass"), "encrypted"),
        (
            KEY_ID,
            RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "a public key",
        ),
    ],
)
def test_what_is_wrong_with_a_key(key_id: str, content: bytes, says: str) -> None:
    with pytest.raises(CallerError, match=says):
        load_signer(key_id, content)


def test_secrets_are_not_shown() -> None:
    signer = load_signer(KEY_ID, pem(RSA))
    assert repr(signer) == "Signer(a952bcbe…, key=***)"
    with pytest.raises(CallerError) as caught:
        load_signer(KEY_ID, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__cause__ is None
