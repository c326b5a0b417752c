"""One market as it was, and changes as they were journalled, read from the journal itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from journal.entry import Record
from journal.errors import NotFound
from journal.market import TYPE
from projections.secmaster import Known, change_of, changed
from ssmd.moments import rfc3339
from ssmd.secmaster.reading import History
from ssmd.secmaster.stream import FEED
from ssmd.secmaster.view import Row

_LAST = 20  # changes shown where nobody says how many
_WINDOW = 1_024  # sequences looked at first when the last changes are sought, then four times as many, and so on


class Past(NamedTuple):
    """A market, the sequence of its newest change, and the venue's object or message that was read last; empty where there is none."""

    known: Known
    sequence: int
    raw: bytes


async def history_of(history: History, symbol: str, until_ns: int | None = None) -> list[Record]:
    """Changes of one market, up to a time."""
    first, _ = await history.bounds()
    end = None if until_ns is None else await history.seek(until_ns) - 1
    out: list[Record] = []
    async with aclosing(history.read(first, end, subjects=[_subject(history, symbol)])) as reads:
        async for records in reads:
            out += records
    return out


async def market_as_of(history: History, symbol: str, effective_ns: int) -> Past:
    """The market then. Raises `NotFound` where it was not known yet."""
    known, sequence, raw = None, 0, b""
    for record in await history_of(history, symbol, effective_ns):
        if change := change_of(record.entry):
            known, sequence, raw = changed(known, change, record.entry), record.sequence, record.entry.raw or raw
    if known is None:
        raise NotFound("market", symbol, hint=f"it was not known yet at {rfc3339(effective_ns)}; --history shows its changes")
    return Past(known, sequence, raw)


async def market_now(history: History, row: Row) -> Past:
    """The market of a view's row, with the venue's object."""
    raw = b""
    if row.raw_sequence:
        async with aclosing(history.read(row.raw_sequence, row.raw_sequence)) as reads:
            async for records in reads:
                raw = records[0].entry.raw
    return Past(row.known, row.sequence, raw)


async def changes_of(
    history: History, *, since_ns: int | None = None, symbol: str = "", follow: bool = False, limit: int | None = None
) -> AsyncGenerator[list[Record], None]:
    """Changes in order: from a time, or the last `limit`; with `follow` also what comes."""
    first, last = await history.bounds()
    pattern = _subject(history, symbol)
    if since_ns is not None:
        start = max(first, await history.seek(since_ns - 1))
    elif follow:
        start = last + 1
    else:
        if found := await _last(history, pattern, limit or _LAST):
            yield found
        return
    async with aclosing(history.read(start, subjects=[pattern], follow=follow)) as reads:
        async for records in reads:
            yield records[:limit]
            if limit is not None and (limit := limit - len(records)) <= 0:
                return


async def _last(history: History, pattern: str, count: int) -> list[Record]:
    """The last `count` that match, looking at ever larger windows from the end."""
    first, end = await history.bounds()
    window = max(_WINDOW, count)
    found: list[Record] = []
    while end >= first and len(found) < count:
        start = max(first, end - window + 1)
        part: list[Record] = []
        async with aclosing(history.read(start, end, subjects=[pattern])) as reads:
            async for records in reads:
                part = (part + records)[-count:]
        found = (part + found)[-count:]
        end, window = start - 1, window * 4
    return found


def _subject(history: History, symbol: str) -> str:
    stream = history.stream
    return stream.subject(FEED, TYPE, symbol) if symbol else f"{stream.env}.{FEED}.{TYPE}.*"
