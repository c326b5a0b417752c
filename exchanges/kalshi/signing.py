"""Kalshi request signatures: RSA-PSS (SHA-256, MGF1-SHA-256, salt 32) or Ed25519 over ``timestamp + METHOD + path``.

The path includes ``/trade-api/…`` and excludes the query. Sign afresh for every connection: the venue compares the timestamp with its
clock. Both sides are here, so that the simulator checks exactly what the client claims.
"""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from journal.errors import CallerError

KEY_HEADER = "KALSHI-ACCESS-KEY"
TIMESTAMP_HEADER = "KALSHI-ACCESS-TIMESTAMP"
SIGNATURE_HEADER = "KALSHI-ACCESS-SIGNATURE"
SALT_BYTES = 32  # the digest's length; PSS.AUTO and PSS.MAX_LENGTH would verify any salt
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_BYTES)

PrivateKey = RSAPrivateKey | Ed25519PrivateKey
PublicKey = RSAPublicKey | Ed25519PublicKey


def signed_text(timestamp_ms: int, method: str, path: str) -> bytes:
    """What is signed; anything from ``?`` on is cut off `path`."""
    return f"{timestamp_ms}{method.upper()}{path.partition('?')[0]}".encode()


class Signer:
    """An access key. Holds a secret: its repr shows none of it."""

    def __init__(self, key_id: str, private_key: PrivateKey) -> None:
        try:
            UUID(key_id)
        except ValueError:
            raise CallerError(
                "the key id is not a UUID; copy it from the API keys page (the id and the private key are two different things)"
            ) from None
        self.key_id = key_id
        self._key = private_key

    def __repr__(self) -> str:
        return f"Signer({self.key_id[:8]}…, key=***)"

    @property
    def public_key(self) -> PublicKey:
        return self._key.public_key()

    def sign(self, text: bytes) -> str:
        """Base64 of the signature. RSA signatures of one text differ each time: their salt is random."""
        key = self._key
        signature = key.sign(text, _PSS, hashes.SHA256()) if isinstance(key, RSAPrivateKey) else key.sign(text)
        return base64.b64encode(signature).decode()

    def headers(self, method: str, path: str, wall_ns: int) -> dict[str, str]:
        """The three headers of a request or of a WebSocket upgrade made at `wall_ns`."""
        timestamp_ms = wall_ns // 1_000_000
        return {
            KEY_HEADER: self.key_id,
            TIMESTAMP_HEADER: str(timestamp_ms),
            SIGNATURE_HEADER: self.sign(signed_text(timestamp_ms, method, path)),
        }


def load_signer(key_id: str, pem: bytes, password: bytes | None = None) -> Signer:
    """A signer from a PEM private key. Raises `CallerError` that says what is wrong, never what the key is."""
    try:
        key = serialization.load_pem_private_key(pem, password)
    except TypeError:
        said = "is encrypted and no password was given" if password is None else "is not encrypted but a password was given"
        raise CallerError(f"the private key {said}") from None
    except (ValueError, UnsupportedAlgorithm):
        what = "a public key" if b"PUBLIC KEY" in pem else "not a PEM private key, or the password is wrong"
        raise CallerError(f"the private key file is {what}; it must hold an RSA or Ed25519 key as downloaded from the venue") from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise CallerError("the private key is not an RSA or Ed25519 private key")
    return Signer(key_id, key)


def verify(public_key: PublicKey, text: bytes, signature: str) -> bool:
    """Whether `signature` (base64) is this key's over `text`, with a salt of exactly 32 bytes for RSA."""
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(public_key, RSAPublicKey):
            public_key.verify(raw, text, _PSS, hashes.SHA256())
        else:
            public_key.verify(raw, text)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
