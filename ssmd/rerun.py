"""One market stream's day, copied into another journal at the positions it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from journal.day import iso
from journal.entry import Entry, Gap, Record, Unparsed, control
from journal.errors import CorruptionError, NotFound
from journal.protocols import Keeper, Storage
from journal.subjects import Stream
from projections.digests import Checkpoint, checkpoint_entry, load, store
from projections.projection import Digester
from projections.registry import create
from replay.engine import symbols_of
from replay.ledger import Ledger
from replay.source import INTERLEAVED, Source, market_symbols
from ssmd.secmaster.reading import History

_RUN = 500  # entries of one append


class Rerun:
    """`open`, then `release` what `records` yields. `source` and `history` are of the same stream.

    Positions stay what they are: an entry of another day that stands among this one's, or, with `symbols`, of another symbol, is stood in
    for. `objects`: where snapshots are, and where they are to be.
    """

    def __init__(
        self, source: Source, history: History, target: Keeper, *, objects: tuple[Storage, Storage], day: int,
        symbols: Collection[str] = (),
    ) -> None:  # fmt: skip
        self._source, self._history, self._target = source, history, target
        self._from, self._to = objects
        self._day, self._symbols = day, frozenset(symbols)
        self.stream = history.stream
        self.first = self.last = 0  # what was released: `first` to `last`
        self._end = 0  # of the stream, then of the day where it is known before
        self.opens_ns = 0
        self._checkpoints: list[Checkpoint] = []
        self._held: set[str] = set()  # of the chosen symbols, what the day opens with

    async def open(self, feed: str) -> int:
        """Carry what the day opens with; the effective time of its first entry. Raises `NotFound` for a day without entries."""
        await self._bounds()
        async with aclosing(self._history.read(self.first, self.first)) as reads:
            async for records in reads:
                self.opens_ns = records[0].entry.effective_ns
        ledger = await Ledger.read(self._source, self.stream)
        await self._target.ensure(ledger.system)
        openings = [c for p in create() if (c := ledger.opening(p, self._day))]
        for opening in openings:  # it is the same state, whatever came in between
            await self._keep(opening._replace(digest=opening.digest._replace(sequence=self.first - 1)))
        opened = {o.digest.digest for o in openings} | {""}
        within = [c for c in ledger.checkpoints if c.digest.day == self._day and not c.closing and c.digest.opening in opened]
        self._checkpoints = [] if self._symbols else sorted(within, key=lambda c: -c.digest.sequence)
        await begin(self._target, self.stream, self.first, feed)
        return self.opens_ns

    async def known(self) -> set[str]:
        """Those of the chosen symbols that there is something of, up to the day's end; once it is open."""
        found = set(self._held)
        async with aclosing(self._source.blocks(self.stream, day=self._day, end=self._end, symbols=self._symbols)) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                found |= market_symbols(block) & self._symbols
                if found == self._symbols:
                    break
        return found

    async def symbols(self) -> set[str]:
        """Of the day; reads all of it."""
        return self._held | await symbols_of(self._source, self.stream, self._day)

    async def _bounds(self) -> None:
        _, self._end = await self._history.bounds()
        async with aclosing(self._source.blocks(self.stream, day=self._day, end=self._end)) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                self.first = self.first or block.first
                last_of_day = block.last
                if self.stream.shard != INTERLEAVED:
                    return  # the day ends where a later one begins
        if not self.first:
            raise NotFound(f"day of {self.stream.name}", iso(self._day), [])
        self._end = last_of_day

    async def records(self, ends_ns: int) -> AsyncGenerator[list[Record], None]:
        """Of the day, up to the last one that is not after `ends_ns`; contiguous."""
        before_ns = self.opens_ns
        async with aclosing(self._history.read(self.first, self._end)) as reads:
            async for records in reads:
                ours = [at for at, r in enumerate(records) if r.entry.day == self._day]
                over = self.stream.shard != INTERLEAVED and records[-1].entry.day > self._day
                found = []
                for sequence, entry in records[: ours[-1] + 1 if ours else 0] if over else records:
                    if entry.day != self._day:
                        found.append(Record(sequence, _elsewhere(entry, sequence, self._day, before_ns)))
                        continue
                    if entry.effective_ns > ends_ns:
                        over = True
                        break
                    before_ns = entry.effective_ns
                    found.append(Record(sequence, entry if self._chosen(entry) else _left_out(entry)))
                if found:
                    yield found
                if over:
                    return

    def _chosen(self, entry: Entry) -> bool:
        return not self._symbols or not entry.symbol or entry.symbol in self._symbols or isinstance(entry.body, Gap)

    async def release(self, records: Sequence[Record]) -> None:
        """The next ones."""
        await copy(self._target, self.stream, records)
        self.last = records[-1].sequence
        while self._checkpoints and self._checkpoints[-1].digest.sequence <= self.last:
            await self._keep(self._checkpoints.pop())

    async def _keep(self, checkpoint: Checkpoint) -> None:
        """So that what is asked of the past needs not fold from the beginning. Without its object it is left out."""

        def carry() -> Checkpoint | None:
            try:
                if self._symbols:
                    return self._narrowed(checkpoint)
                self._to.put(checkpoint.object, self._from.get(checkpoint.object))
            except NotFound:
                return None
            return checkpoint

        if kept := await asyncio.to_thread(carry):
            await self._target.append(Stream(self.stream.env, domain="system"), [checkpoint_entry(kept)])

    def _narrowed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The state of the chosen symbols alone."""
        (projection,) = create([checkpoint.digest.projection])
        projection.restore(load(self._from, checkpoint.object))
        projection.keep(self._symbols)
        self._held |= self._symbols & set(projection.keys())
        name = store(self._to, self.stream.env, projection.name, projection.snapshot())
        return checkpoint._replace(object=name, digest=checkpoint.digest._replace(digest=Digester(projection).digest()))


def _elsewhere(entry: Entry, sequence: int, day: int, effective_ns: int) -> Entry:
    """For an entry of another day."""
    said = control("elsewhere", {"day": iso(entry.day)})
    return Entry(said, entry.feed, "", b"another day's...", sequence, effective_ns, 0, effective_ns, day)


def _left_out(entry: Entry) -> Entry:
    """For an entry of another symbol: it counts for coverage as it did."""
    return Entry(
        Unparsed("left out"), entry.feed, "", entry.epoch, entry.frame, entry.recv_ns, entry.mono_ns, entry.effective_ns, entry.day,
        venue_seq=entry.venue_seq, subscription=entry.subscription, part=entry.part, parts=entry.parts,
    )  # fmt: skip


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
