"""A past day copied from where it is kept into another journal, entry by entry as its time comes, for readers that know nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import takewhile

import numpy as np

from journal.day import iso
from journal.entry import Entry, Record, control
from journal.errors import CorruptionError, NotFound
from journal.protocols import Keeper, Storage
from journal.subjects import Stream
from projections.digests import Checkpoint, checkpoint_entry
from projections.registry import create
from replay.clock import FollowingClock
from replay.ledger import Ledger
from replay.pace import Pace
from replay.source import INTERLEAVED, Source
from ssmd.secmaster.reading import History

_RUN = 500  # entries of one append


class Lane:
    """What is released of a stream beside the market: all of it, in order, as far as its effective times are reached."""

    def __init__(self, history: History, target: Keeper) -> None:
        self._history, self._target = history, target
        self._reads: AsyncGenerator[list[Record], None] | None = None
        self._waiting: list[Record] = []

    async def open(self) -> None:
        """What is appended later is not of this replay."""
        first, last = await self._history.bounds()
        if last >= first:
            await begin(self._target, self._history.stream, first)
            self._reads = self._history.read(first, last)

    async def upto(self, effective_ns: int) -> int:
        """The greatest effective time of what was released, 0 for nothing."""
        newest_ns = 0
        while self._reads is not None:
            if not self._waiting and not (found := await anext(self._reads, None)):
                self._reads = None
                break
            self._waiting = self._waiting or found or []
            due = list(takewhile(lambda r: r.entry.effective_ns <= effective_ns, self._waiting))
            if not due:
                break
            await copy(self._target, self._history.stream, due)
            newest_ns = max(newest_ns, *(r.entry.effective_ns for r in due))
            del self._waiting[: len(due)]
        return newest_ns

    async def close(self) -> None:
        if self._reads is not None:
            await self._reads.aclose()


class Release:
    """`open`, then `run`. `source` and `history` are of the same stream, `lanes` are released beside it.

    Positions stay what they are: an entry of another day that stands among this one's is stood in for by a control entry. `clock` is put
    forward to what was released.
    """

    def __init__(
        self, source: Source, history: History, target: Keeper, *, lanes: Sequence[Lane], objects: tuple[Storage, Storage],
        clock: FollowingClock, day: int, opens_ns: int, ends_ns: int,
    ) -> None:  # fmt: skip
        self._source, self._history, self._target, self._lanes = source, history, target, lanes
        self._from, self._to = objects
        self._clock, self._day, self._opens_ns, self._ends_ns = clock, day, opens_ns, ends_ns
        self.stream = history.stream
        self.first = self.last = 0  # what was released: `first` to `last`
        self._end = 0  # of the stream, then of the day where it is known before
        self._checkpoints: list[Checkpoint] = []

    async def open(self, feed: str) -> None:
        """All that was before the day's first entry. Raises `NotFound` for a day without entries up to its end."""
        await self._bounds()
        opens_ns = self._opens_ns
        async with aclosing(self._history.read(self.first, self.first)) as reads:
            async for records in reads:
                opens_ns = max(opens_ns, records[0].entry.effective_ns - 1)
        ledger = await Ledger.read(self._source, self.stream)
        await self._target.ensure(ledger.system)
        openings = [c for p in create() if (c := ledger.opening(p, self._day))]
        for opening in openings:  # it is the same state, whatever came in between
            await self._keep(opening._replace(digest=opening.digest._replace(sequence=self.first - 1)))
        opened = {o.digest.digest for o in openings} | {""}
        within = [c for c in ledger.checkpoints if c.digest.day == self._day and not c.closing and c.digest.opening in opened]
        self._checkpoints = sorted(within, key=lambda c: -c.digest.sequence)
        await begin(self._target, self.stream, self.first, feed)
        for lane in self._lanes:
            await lane.open()
            await lane.upto(opens_ns)
        self._clock.advance(opens_ns)

    async def _bounds(self) -> None:
        _, self._end = await self._history.bounds()
        async with aclosing(self._source.blocks(self.stream, day=self._day, end=self._end)) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                self.first = self.first or block.first
                self._last_of_day = block.last
                if self.stream.shard != INTERLEAVED:
                    return  # the day ends where a later one begins
        if not self.first:
            raise NotFound(f"day of {self.stream.name}", iso(self._day), [])
        self._end = self._last_of_day

    async def run(self, pace: Pace, taken: Callable[[int], Awaitable[None]]) -> None:
        """Release the day at `pace`; `taken` is awaited with the sequence behind each run. Raises `StoreError`, `HoleInStream`."""
        async with aclosing(self._records()) as reads:
            async for records in reads:
                times = np.array([r.entry.effective_ns for r in records], dtype=np.int64)
                async for span in pace.spans(times):
                    for at in range(span.start, span.stop, _RUN):
                        await self._release(records[at : min(at + _RUN, span.stop)])
                        await taken(self.last)
        for lane in self._lanes:
            self._clock.advance(await lane.upto(self._ends_ns))

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.close()

    async def _release(self, records: list[Record]) -> None:
        now_ns = max(r.entry.effective_ns for r in records)
        for lane in self._lanes:  # what is said of a market comes before its messages
            await lane.upto(now_ns)
        await copy(self._target, self.stream, records)
        self._clock.advance(now_ns)
        self.last = records[-1].sequence
        while self._checkpoints and self._checkpoints[-1].digest.sequence <= self.last:
            await self._keep(self._checkpoints.pop())

    async def _keep(self, checkpoint: Checkpoint) -> None:
        """So that what is asked of the past needs not fold from the beginning. Without its object it is left out."""

        def carry() -> bool:
            try:
                self._to.put(checkpoint.object, self._from.get(checkpoint.object))
            except NotFound:
                return False
            return True

        if await asyncio.to_thread(carry):
            await self._target.append(Stream(self.stream.env, domain="system"), [checkpoint_entry(checkpoint)])

    async def _records(self) -> AsyncGenerator[list[Record], None]:
        """Of the day, up to its end; contiguous."""
        before_ns = self._clock.wall_ns()
        async with aclosing(self._history.read(self.first, self._end)) as reads:
            async for records in reads:
                ours = [at for at, r in enumerate(records) if r.entry.day == self._day]
                over = self.stream.shard != INTERLEAVED and records[-1].entry.day > self._day
                found = []
                for sequence, entry in records[: ours[-1] + 1 if ours else 0] if over else records:
                    if entry.day == self._day:
                        if entry.effective_ns > self._ends_ns:
                            over = True
                            break
                        before_ns = entry.effective_ns
                    found.append(Record(sequence, entry if entry.day == self._day else _stand_in(entry, sequence, self._day, before_ns)))
                if found:
                    yield found
                if over:
                    return


def _stand_in(entry: Entry, sequence: int, day: int, effective_ns: int) -> Entry:
    """For an entry of another day."""
    said = control("elsewhere", {"day": iso(entry.day)})
    return Entry(said, entry.feed, "", b"another day's...", sequence, effective_ns, 0, effective_ns, day)


async def begin(target: Keeper, stream: Stream, first: int, feed: str = "") -> None:
    """An empty stream whose first entry will have the sequence `first`."""
    await target.ensure(stream, feed)
    await target.purge(stream, first)


async def copy(target: Keeper, stream: Stream, records: Sequence[Record]) -> None:
    """Raises `CorruptionError` where an entry would get another sequence."""
    for at in range(0, len(records), _RUN):
        run = records[at : at + _RUN]
        if await target.append(stream, [r.entry for r in run]) != [r.sequence for r in run]:
            raise CorruptionError(f"{stream.name}:{run[0].sequence} is stored twice, or out of its order, in what is replayed")
