"""Where a day is: its market streams, and from which sequence to which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from journal.day import to_int
from journal.errors import StoreError
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd.day.calendar import Calendar
from ssmd.settings import IMPORT, Settings

if TYPE_CHECKING:
    from ssmd.day.activity import Result


class Extent(NamedTuple):
    """First and last sequence of a day in a market stream, and how many entries: between others in the shard `import`, else all between.

    `last` is `first` - 1 when there are none.
    """

    stream: Stream
    first: int
    last: int
    entries: int

    @property
    def contiguous(self) -> bool:
        return self.stream.shard != IMPORT


def shards_of(settings: Settings) -> list[str]:
    return sorted(settings.environment.shards) or ["0"]


async def captured_streams(journal: JournalReader, settings: Settings) -> list[Stream]:
    """The market streams that connectors write: of the environment's shards, and of those that it had and that have a stream still."""
    configured = {Stream(settings.env, shard=shard) for shard in shards_of(settings)}
    known = {s for s in await journal.streams(settings.env) if s.is_market and s.shard != IMPORT}
    return sorted(configured | known, key=lambda s: s.name)


async def bounds(journal: JournalReader, calendar: Calendar, stream: Stream, day: date) -> Extent:
    """Of a captured stream, by effective time: it has one leased writer, so they ascend and a day's entries are contiguous.

    Raises `StoreError` where they do not.
    """
    if await journal.info(stream) is None:
        return Extent(stream, 1, 0, 0)
    first = await journal.seek(stream, calendar.opens_ns(day) - 1)
    last = await journal.seek(stream, calendar.opens_ns(day + timedelta(days=1)) - 1) - 1
    if first <= last:
        for sequence in (first, last):
            async for records in journal.read(stream, start=sequence, end=sequence):
                if records[0].entry.day != to_int(day):
                    raise StoreError(f"{stream.name}:{sequence} is of day {records[0].entry.day}, and its time of {day}")
    return Extent(stream, first, last, last - first + 1)


async def scattered(journal: JournalReader, stream: Stream, day: date, advance: Callable[[int], object]) -> Extent:
    """Of a stream whose days are in any order: all of it is read."""
    wanted, first, last, entries = to_int(day), 1, 0, 0
    info = await journal.info(stream)
    async for records in journal.read(stream, start=info.first if info else 1):
        for sequence, entry in records:
            if entry.day == wanted:
                first = first if entries else sequence
                last, entries = sequence, entries + 1
        advance(records[-1].sequence)
    return Extent(stream, first, last, entries)


def as_result(extents: Iterable[Extent]) -> Result:
    """As a step's result holds them."""
    return {e.stream.name: {"first": e.first, "last": e.last, "entries": e.entries} for e in extents}


def of_results(done: Mapping[str, Mapping[str, Any]]) -> list[Extent]:
    """From the results of the steps that are done; none before one has found them."""
    found: Mapping[str, Any] = next((r["streams"] for r in done.values() if "streams" in r), {})
    return [Extent(Stream.parse(name), at["first"], at["last"], at["entries"]) for name, at in sorted(found.items())]
