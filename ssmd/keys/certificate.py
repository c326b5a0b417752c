"""The certificate that values are sealed with: a cluster's, public, from a file or from its controller."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exchanges.proxies import is_direct
from journal.clock import Clock
from journal.errors import KeyRefused, KeyUnavailable
from journal.link import without_secret

LIMIT_BYTES = 65_536
TIMEOUT_S = 10
_HOW = "get it with: kubeseal --fetch-cert > certificate.pem"


def load_certificate(where: str, clock: Clock) -> bytes:
    """The PEM of an RSA certificate that has not expired, from a file or an https URL. Raises `KeyRefused`, `KeyUnavailable`."""
    url = "://" in where
    shown = without_secret(where) if url else where
    pem = _download(where, shown) if url else _read(Path(where))
    check_certificate(pem, shown, clock)
    return pem


def check_certificate(pem: bytes, shown: str, clock: Clock) -> None:
    """Raises `KeyRefused` for what cannot be sealed with."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_pem_x509_certificate

    if b"PRIVATE KEY" in pem:
        raise KeyRefused(f"{shown} has a private key in it: it belongs to the cluster, take it away from here; {_HOW}")
    try:
        certificate = load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except ValueError:
        raise KeyRefused(f"{shown} is not a PEM of a certificate (-----BEGIN CERTIFICATE-----); {_HOW}") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < 2048:
        raise KeyRefused(f"{shown} is not a certificate of an RSA key of 2048 bits or more, which sealing needs; {_HOW}")
    end = certificate.not_valid_after_utc
    if end.timestamp() * 1e9 <= clock.wall_ns():
        raise KeyRefused(f"the certificate in {shown} expired on {end:%Y-%m-%dT%H:%M:%SZ}; get the cluster's newest: kubeseal --fetch-cert")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            pem = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise KeyRefused(f"{path} cannot be read: {error.strerror}; {_HOW}") from error
    return _limited(pem, str(path))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _download(url: str, shown: str) -> bytes:
    direct = is_direct(url)
    if urlsplit(url).scheme != "https" and not (direct and urlsplit(url).scheme == "http"):
        raise KeyRefused(f"{shown}: who can change it on its way reads what is sealed; use https, or a file")
    opener = urllib.request.build_opener(_NoRedirect, *([urllib.request.ProxyHandler({})] if direct else []))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return _limited(answer.read(LIMIT_BYTES + 1), shown)
    except urllib.error.HTTPError as error:
        with error:
            raise KeyRefused(f"{shown} answered {error.code}; {_HOW}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise KeyRefused(f"{shown} is not trusted: {reason.verify_message}; {_HOW}") from None
        raise KeyUnavailable(f"{shown} does not answer: {reason}") from error


def _limited(pem: bytes, shown: str) -> bytes:
    if len(pem) > LIMIT_BYTES:
        raise KeyRefused(f"{shown} is larger than {LIMIT_BYTES} bytes: is it a certificate?")
    return pem
