"""Which addresses no proxy can reach."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_direct(url: str) -> bool:
    """Whether `url` is of this machine (a simulated venue): a proxy of the environment would look for it on its own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
