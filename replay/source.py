"""Where a replay's entries come from: the archive, the journal, or the archive as far as it goes and then the journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, time, timedelta
from operator import attrgetter
from typing import Protocol

import numpy as np

from journal.archive import ArchiveReader
from journal.block import Block, BlockBuilder
from journal.day import iso, to_date
from journal.entry import Kind, Record
from journal.errors import CorruptionError, NotFound
from journal.protocols import JournalReader
from journal.subjects import Stream, escape

INTERLEAVED = "import"  # the shard whose stream does not keep its days in order
# Rows a block of the journal has: 4,096 columns of a row and its body are about 1 MB while they are built.
_BLOCK_ROWS = 4_096
_CHOSEN = 8  # symbols whose messages a server is asked for, each in a read; of more symbols everything is read
_sequence = attrgetter("sequence")
# A trading day begins at most 14 h (the earliest timezone) before its date does in UTC; an hour for clock changes.
_BEFORE_UTC = timedelta(hours=15)


class Source(Protocol):
    """A reader of whole days, as columns. Blocks come in stream order and are never empty."""

    def blocks(
        self, stream: Stream, *, day: int, start: int = 1, end: int | None = None, symbols: Collection[str] | None = None
    ) -> AsyncIterator[Block]:
        """The rows of `day` with sequences from `start` to `end`. With `symbols`, only rows of those and gap and control rows.

        Nothing for a day that is not there.
        """
        ...

    async def days(self, stream: Stream) -> list[int]:
        """Days with entries, ascending."""
        ...

    async def last(self, stream: Stream) -> int:
        """Last sequence it has of the stream, 0 if none."""
        ...

    async def first(self, stream: Stream) -> int:
        """First sequence it has of the stream, 1 if none."""
        ...

    async def prove(self, stream: Stream, day: int) -> None:
        """Raise `BadObject` for stored objects of `day` that `blocks` does not read and that are not what was stored."""
        ...

    def records(self, stream: Stream, subjects: Sequence[str]) -> AsyncIterator[list[Record]]:
        """Whole entries on some subjects, over all days."""
        ...


class ArchiveSource:
    """What manifests name, and nothing else."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive

    async def blocks(
        self, stream: Stream, *, day: int, start: int = 1, end: int | None = None, symbols: Collection[str] | None = None
    ) -> AsyncIterator[Block]:
        if day in await self._archive.days(stream):
            async for block in self._archive.blocks(stream, day=day, start=start, end=end, symbols=symbols):
                yield block

    async def days(self, stream: Stream) -> list[int]:
        return await self._archive.days(stream)

    async def last(self, stream: Stream) -> int:
        info = await self._archive.info(stream)
        return info.last if info else 0

    async def first(self, stream: Stream) -> int:
        info = await self._archive.info(stream)
        return info.first if info else 1

    async def prove(self, stream: Stream, day: int) -> None:
        await self._archive.prove(stream, day)

    async def records(self, stream: Stream, subjects: Sequence[str]) -> AsyncIterator[list[Record]]:
        async for records in self._archive.read(stream, subjects=subjects):
            yield records


class JournalSource:
    """What the journal still holds. Entries are turned into columns as they are read, 20 µs each or more.

    With `chosen` the server is asked for what is of few symbols or of none: a hundredth of the work, and holes are not seen.
    """

    def __init__(self, journal: JournalReader, *, chosen: bool = False) -> None:
        self._journal = journal
        self._chosen = chosen
        self._days: dict[Stream, tuple[int, int, set[int]]] = {}  # first and last sequence when they were looked at, and the days

    async def blocks(
        self, stream: Stream, *, day: int, start: int = 1, end: int | None = None, symbols: Collection[str] | None = None
    ) -> AsyncIterator[Block]:
        info = await self._journal.info(stream)
        if info is None:
            return
        if stream.shard != INTERLEAVED:
            midnight = datetime.combine(to_date(day), time(), UTC) - _BEFORE_UTC
            start = max(start, await self._journal.seek(stream, int(midnight.timestamp()) * 1_000_000_000))
        few = self._chosen and symbols is not None and len(symbols) <= _CHOSEN
        patterns = [[_pattern(stream, "*", escape(name))] for name in sorted({"", *(symbols or ())})] if few else [[]]
        builder = BlockBuilder(keep_raw=False)
        reads = [self._journal.read(stream, start=max(start, info.first), end=end, subjects=subjects) for subjects in patterns]
        async with aclosing(_merged(reads)) as merged:
            async for records in merged:
                for record in records:
                    if record.entry.day == day and (symbols is None or _wanted(record, symbols)):
                        builder.add(record)
                if len(builder) >= _BLOCK_ROWS:
                    yield builder.build()
                    builder = BlockBuilder(keep_raw=False)
                if records[-1].entry.day > day and stream.shard != INTERLEAVED:
                    break
        if len(builder):
            yield builder.build()

    async def days(self, stream: Stream) -> list[int]:
        info = await self._journal.info(stream)
        if info is None or info.first > info.last:
            return []
        first, last, days = self._days.get(stream, (0, 0, set()))
        if first != info.first or last > info.last:  # its beginning was deleted, or it is another one
            last, days = 0, set()
        # Every connection and every day begins with a control entry, so those name the days without reading the rest.
        control = [_pattern(stream, "control", "*")]
        async for records in self._journal.read(stream, start=last + 1, end=info.last, subjects=control):
            days.update(r.entry.day for r in records)
        async for records in self._journal.read(stream, start=info.last, end=info.last):
            days.update(r.entry.day for r in records)
        self._days[stream] = info.first, info.last, days
        return sorted(days)

    async def last(self, stream: Stream) -> int:
        info = await self._journal.info(stream)
        return info.last if info else 0

    async def first(self, stream: Stream) -> int:
        info = await self._journal.info(stream)
        return info.first if info else 1

    async def prove(self, stream: Stream, day: int) -> None:
        """The server checks each message as it is read."""

    async def records(self, stream: Stream, subjects: Sequence[str]) -> AsyncIterator[list[Record]]:
        async for records in self._journal.read(stream, subjects=subjects):
            yield records


class JoinedSource:
    """The archive up to its last sequence, the journal from there. The seam is fixed when a read begins."""

    def __init__(self, archive: ArchiveReader, journal: JournalReader, *, chosen: bool = False) -> None:
        self._archive = ArchiveSource(archive)
        self._journal = JournalSource(journal, chosen=chosen)
        self._reader = journal

    async def blocks(
        self, stream: Stream, *, day: int, start: int = 1, end: int | None = None, symbols: Collection[str] | None = None
    ) -> AsyncIterator[Block]:
        seam = await self._seam(stream)
        until = seam if end is None else min(seam, end)
        async for block in self._archive.blocks(stream, day=day, start=start, end=until, symbols=symbols):
            yield block
        if end is None or end > seam:
            async for block in self._journal.blocks(stream, day=day, start=max(start, seam + 1), end=end, symbols=symbols):
                yield block

    async def days(self, stream: Stream) -> list[int]:
        return sorted({*await self._archive.days(stream), *await self._journal.days(stream)})

    async def _seam(self, stream: Stream) -> int:
        seam = await self._archive.last(stream)
        info = await self._reader.info(stream)
        if info and info.last < seam:
            raise CorruptionError(
                f"{stream.name} is archived to {seam}, and ends at {info.last} in the journal: the journal was lost, cut or replaced; "
                "restore it, or read one of them (replay --from archive, or journal)"
            )
        return seam

    async def last(self, stream: Stream) -> int:
        return max(await self._archive.last(stream), await self._journal.last(stream))

    async def first(self, stream: Stream) -> int:
        return await (self._archive if await self._archive.last(stream) else self._journal).first(stream)

    async def prove(self, stream: Stream, day: int) -> None:
        await self._archive.prove(stream, day)

    async def records(self, stream: Stream, subjects: Sequence[str]) -> AsyncIterator[list[Record]]:
        seam = await self._seam(stream)
        async for records in self._archive.records(stream, subjects):
            if records := [r for r in records if r.sequence <= seam]:
                yield records
        async for records in self._reader.read(stream, start=seam + 1, subjects=subjects):
            yield records


async def known_day(source: Source, stream: Stream, day: int) -> None:
    """Raise `NotFound`, with the nearest days, for a day without entries."""
    days = await source.days(stream)
    if day not in days:
        near = sorted(days, key=lambda d: abs((to_date(d) - to_date(day)).days))[:5]
        raise NotFound(f"day of {stream.name}", iso(day), [iso(d) for d in sorted(near)])


def until(block: Block, effective_ns: int) -> Block:
    """The block's rows with an effective time up to `effective_ns`."""
    due = block.rows["effective_ns"] <= effective_ns
    return block if due.all() else block.with_rows(block.rows[due])


def market_symbols(block: Block) -> set[str]:
    """Symbols that the block has market messages of."""
    rows = block.rows
    return {block.symbols[s] for s in np.unique(rows["symbol"][rows["kind"] <= Kind.lifecycle]).tolist()} - {""}


def _wanted(record: Record, symbols: Collection[str]) -> bool:
    return record.entry.symbol in symbols or record.entry.kind in (Kind.gap, Kind.control)


def _pattern(stream: Stream, kind: str, token: str) -> str:
    """Subjects of a kind of message, of whatever feed."""
    tokens = stream.subject("feed", kind, "").split(".")
    tokens[-3], tokens[-1] = "*", token
    return ".".join(tokens)


async def _merged(reads: Sequence[AsyncIterator[list[Record]]]) -> AsyncGenerator[list[Record], None]:
    """What several reads of one stream yield, in its order. A server looks one pattern up, and compares every message with several."""
    async with AsyncExitStack() as stack:
        for read in reads:
            stack.push_async_callback(read.aclose)  # type: ignore[attr-defined]
        heads: dict[int, list[Record]] = {at: [] for at in range(len(reads))}
        while True:
            for at in [at for at, head in heads.items() if not head]:
                heads[at] = await anext(reads[at], [])
                if not heads[at]:
                    del heads[at]
            if not heads:
                return
            end = min(head[-1].sequence for head in heads.values())
            yield sorted((r for head in heads.values() for r in head if r.sequence <= end), key=_sequence)
            heads = {at: [r for r in head if r.sequence > end] for at, head in heads.items()}
