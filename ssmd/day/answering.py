"""Whether the gateway that a day started answers."""

from __future__ import annotations

import http.client
import ssl

from journal.errors import StoreError
from ssmd.metadata.environment import Gateway

_READY = "/v1/health/ready"
_TIMEOUT_S = 2.0
_MOST = 500  # bytes of an answer that are told
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to


def address(spec: Gateway) -> str:
    host = _ANY.get(spec.host, spec.host)
    return f"http{'s' if spec.tls else ''}://{f'[{host}]' if ':' in host else host}:{spec.port}{_READY}"


def ask_ready(spec: Gateway) -> None:
    """Ask it, on this machine, whether it can serve. Blocks at most a few seconds. Raises `StoreError` saying why it does not."""
    host = _ANY.get(spec.host, spec.host)
    connection = http.client.HTTPConnection(host, spec.port, timeout=_TIMEOUT_S)
    if spec.tls:  # whether its certificate is of this address is its clients' business
        unchecked = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(host, spec.port, timeout=_TIMEOUT_S, context=unchecked)
    try:
        connection.request("GET", _READY)
        answer = connection.getresponse()
        said = answer.read(_MOST).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise StoreError(f"the gateway does not answer at {address(spec)}: {error}; see logs/gateway.log in the data directory") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise StoreError(f"the gateway is not ready: {answer.status} {said}")
