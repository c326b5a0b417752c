"""Who may connect: registered public keys, and a timestamp near the venue's clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from exchanges.kalshi.signing import KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, PublicKey, signed_text, verify
from journal.clock import Clock
from journal.errors import CallerError

SKEW_MS = 10_000  # the real bound is not published


class Authority:
    """Checks the three headers of a request against the registered keys."""

    def __init__(self, keys: Mapping[str, PublicKey], clock: Clock) -> None:
        self._keys = dict(keys)
        self._clock = clock

    def objection(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """What is wrong with the request, "" if nothing. `path` may have a query."""
        key = self._keys.get(headers.get(KEY_HEADER, ""))
        if KEY_HEADER not in headers:
            return "authentication required"
        if key is None:
            return "unknown access key"
        timestamp = headers.get(TIMESTAMP_HEADER, "")
        if not timestamp.isdecimal():
            return "bad timestamp: Unix milliseconds wanted"
        late_ms = self._clock.wall_ns() // 1_000_000 - int(timestamp)
        if abs(late_ms) > SKEW_MS:
            return f"timestamp is {late_ms} ms off the venue's clock"
        if not verify(key, signed_text(int(timestamp), method, path), headers.get(SIGNATURE_HEADER, "")):
            return "incorrect signature"
        return ""


def load_public_key(path: Path) -> PublicKey:
    """An RSA or Ed25519 public key from a PEM file. Raises `CallerError`."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise CallerError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, UnsupportedAlgorithm):
        raise CallerError(
            f"{path}: not a PEM public key; make one of your private key: openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem"
        ) from None
    if not isinstance(key, RSAPublicKey | Ed25519PublicKey):
        raise CallerError(f"{path}: neither an RSA nor an Ed25519 key")
    return key
