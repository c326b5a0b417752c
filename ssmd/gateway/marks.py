"""Whether the stream that a client knows is the one that is served: sequences alone do not tell one that was made anew, or restored, and
has grown past where the client was.

A mark is what the gateway gives out with `subscribed`, `heartbeat` and `pong`, and a client gives back to resume: the entry at which each
stream is, as ``stream:sequence:digest``, joined by commas. It holds if the journal has that entry there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from hashlib import sha256

from journal.entry import Record
from journal.errors import SsmdError
from journal.protocols import JournalReader
from ssmd.gateway.view import MarketView

_DIGITS = 12
_AT_ONCE = 8  # reads of the journal: many clients come back at once
_LIMIT_S = 10.0


def digest_of(record: Record) -> str:
    """A journal that was begun anew may give an entry its old id, at another time."""
    return sha256(f"{record.entry.id} {record.entry.effective_ns}".encode()).hexdigest()[:_DIGITS]


def mark_of(views: Iterable[MarketView]) -> str:
    """Of where the views are; empty where nothing is journalled yet."""
    return ",".join(f"{v.stream.name}:{v.newest.sequence}:{digest_of(v.newest)}" for v in views if v.newest)


class Marks:
    """Looks for the entries of marks."""

    def __init__(self, journal: JournalReader, views: Iterable[MarketView]) -> None:
        self._journal = journal
        self._streams = {view.stream.name: view.stream for view in views}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def refuted(self, mark: str) -> str:
        """Why it does not hold, "" if it does. What cannot be looked at does not."""
        parts = mark.split(",")
        if len(parts) > len(self._streams):
            return f"the mark is of {len(parts)} streams; this gateway has {len(self._streams)}"
        try:
            async with asyncio.timeout(_LIMIT_S), self._turns:
                for part in parts:
                    if why := await self._refuted(part):
                        return why
        except (SsmdError, TimeoutError) as error:
            return f"the mark cannot be compared with the journal just now: {error or 'it did not answer in time'}"
        return ""

    async def _refuted(self, part: str) -> str:
        name, _, rest = part.partition(":")
        number, _, digest = rest.partition(":")
        if name not in self._streams or not number.isdecimal() or len(number) > 18 or len(digest) != _DIGITS:
            return f"mark {part[:100]!r} is none of this gateway's streams"
        sequence, info = int(number), await self._journal.info(self._streams[name])
        if info is None or not info.first <= sequence <= info.last:
            return f"the journal has no {name}:{number} (any more), which the mark names"
        async with aclosing(self._journal.read(self._streams[name], start=sequence, end=sequence)) as reads:  # type: ignore[type-var]
            async for records in reads:
                if digest_of(records[0]) == digest:
                    return ""
        return f"{name}:{number} is another entry than the mark's: the stream was made anew or restored since"
