"""When a key ends: some days after it was set, and when a certificate in it does, whichever is first."""

from __future__ import annotations

from ssmd.keys.source import Found
from ssmd.metadata.environment import Key

DAY_NS = 86_400 * 10**9
WARN_NS = 14 * DAY_NS  # as the alert rules do
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"


def expires_ns(key: Key, found: Found) -> int:
    """Nanoseconds since 1970; 0 where nothing says so (no `rotation_days`, or not known when it was set, and no certificate)."""
    ends = [found.set_ns + key.rotation_days * DAY_NS] if key.rotation_days and found.set_ns else []
    for secret in found.values.values():
        if _CERTIFICATE in secret.reveal():
            ends += _not_after(secret.reveal())
    return min(ends, default=0)


def _not_after(pem: str) -> list[int]:
    """Of each certificate in `pem`; of none when it is broken, which `ssmd key verify` tells."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return [int(c.not_valid_after_utc.timestamp()) * 10**9 for c in load_pem_x509_certificates(pem.encode())]
    except ValueError:
        return []
