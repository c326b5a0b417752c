"""The texts a source has, made into `Found`: one convention of names for all of them.

Beside ``FIELD`` a source may hold ``FIELD.previous``, the value before the last rotation, ``previous-until``, when it ends, and
``set-at``, when the key was set (both RFC 3339). No field's own name has a dot or a dash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from journal.clock import Clock
from journal.errors import CallerError, KeyRefused
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found, Wanted
from ssmd.moments import parse_moment

# The longest real value is a certificate chain: some 20 KiB.
LIMIT_BYTES = 65_536
PREVIOUS = ".previous"
SET_AT = "set-at"
PREVIOUS_UNTIL = "previous-until"


def list_names(wanted: Wanted) -> tuple[str, ...]:
    """Every name a source looks for."""
    return (*wanted.fields, *(f + PREVIOUS for f in wanted.fields), SET_AT, PREVIOUS_UNTIL)


def assemble(texts: Mapping[str, str], wanted: Wanted, where: str, clock: Clock, *, set_ns: int = 0) -> Found:
    """What `texts` hold of `wanted`; names that are not its own are ignored, an empty text is an absent one.

    `where` begins every message; `set_ns` is what the source knows itself, ``set-at`` goes before it. Previous values are there
    until ``previous-until``, and not without it. Raises `KeyRefused` for a text that is too long or not UTF-8, or for a time that is none.
    """
    for name in list_names(wanted):
        check_size(texts.get(name, ""), f"{where}: {name}")
    set_ns = _moment(texts.get(SET_AT, ""), f"{where}: {SET_AT}") or set_ns
    until_ns = _moment(texts.get(PREVIOUS_UNTIL, ""), f"{where}: {PREVIOUS_UNTIL}")
    values = {f: Secret(texts[f]) for f in wanted.fields if texts.get(f)}
    previous = {f: Secret(texts[f + PREVIOUS]) for f in wanted.fields if texts.get(f + PREVIOUS)}
    if not previous or until_ns <= clock.wall_ns():
        return Found(values, set_ns)
    return Found(values, set_ns, previous, until_ns)


def check_size(text: str, what: str) -> None:
    """Raises `KeyRefused` for a text over 64 KiB, or one that no UTF-8 was read from."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1  # raised below: the exception here holds the text
    if size < 0:
        raise KeyRefused(f"{what} is not UTF-8; write bytes as base64 or PEM")
    if size > LIMIT_BYTES:
        raise KeyRefused(f"{what} is larger than {LIMIT_BYTES} bytes: is it a key?")


def decode(raw: bytes, what: str) -> str:
    """Raises `KeyRefused` for bytes that are not UTF-8, without them."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass  # raised below: the exception here holds the bytes
    raise KeyRefused(f"{what} is not UTF-8; write bytes as base64 or PEM")


def drop_newline(text: str) -> str:
    """Without the one newline that editors and ``echo`` end a text with."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _moment(text: str, what: str) -> int:
    text = text.strip()
    if not text:
        return 0
    try:
        if re.match(r"\d{4}-", text):
            return parse_moment(text, 0)
    except CallerError:
        pass  # raised below, without the text: it may be a value in the wrong place
    raise KeyRefused(f"{what} is not a time; write it as 2026-08-10T21:50:00Z")
