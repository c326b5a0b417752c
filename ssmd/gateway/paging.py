"""Cursors: where a page ended, opaque to clients, and good only with the parameters that they were made for."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from hashlib import blake2b
from typing import Any

import msgspec

from ssmd.gateway.problem import Flaw, Problem

_FREE = ("cursor", "limit")  # parameters that may change from page to page


def cursor_of(operation: str, query: msgspec.Struct, place: Any) -> str:
    """The cursor of what comes behind `place`."""
    text = msgspec.json.encode([_mark(operation, query), place])
    return urlsafe_b64encode(text).decode().rstrip("=")


def place_of(operation: str, query: Any, kind: Any) -> Any:
    """Where the page before ended, None for the first page. Raises `Problem`."""
    if query.cursor is None:
        return None
    try:
        mark, place = msgspec.json.decode(urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4)), type=tuple[str, kind])
    except (Error, ValueError, msgspec.MsgspecError):
        raise _wrong("is not one that a page ended with") from None
    if mark != _mark(operation, query):
        raise _wrong("was made for other parameters; begin again without it")
    return place


def _mark(operation: str, query: msgspec.Struct) -> str:
    said = {n: getattr(query, n) for n in query.__struct_fields__ if n not in _FREE}
    return blake2b(msgspec.json.encode([operation, said], order="sorted"), digest_size=6).hexdigest()


def _wrong(reason: str) -> Problem:
    return Problem("bad-parameter", f"cursor {reason}", errors=(Flaw("cursor", reason),))
