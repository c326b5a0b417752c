"""From a trail into the tables that SQL is asked over, batch by batch; never more than was allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing

import numpy as np
import pyarrow as pa

from journal.block import Block
from journal.entry import Record
from journal.errors import CallerError
from journal.subjects import Stream
from ssmd import columns
from ssmd.querying import Wanted, bound
from ssmd.render import Meter
from ssmd.sql import Session
from ssmd.trail import Bounds, Run, Trail

SCHEMAS = {"events": columns.EVENTS, "entries": columns.ENTRIES}
_MOST_NS = (1 << 63) - 1


class Load:
    """The streams a query reads and where. `plan` comes first; then `most` is how many entries there can be, `exact` whether there are."""

    def __init__(self, trail: Trail, wanted: Wanted, limit: int) -> None:
        self._trail = trail
        self._wanted = wanted
        self._limit = limit
        self._places: list[tuple[Stream, Bounds]] = []
        self.most = 0
        self.exact = True
        self.loaded = 0

    async def plan(self, streams: Sequence[Stream], tables: Collection[str]) -> None:
        """Raises `CallerError` for more entries than allowed."""
        for stream in streams:
            if _table(stream) not in tables:
                continue
            bounds = await bound(self._trail, stream, self._wanted)
            if bounds.last >= bounds.first:
                self._places.append((stream, bounds))
                self.most += bounds.last - bounds.first + 1
                self.exact = self.exact and self._wanted.counts(stream)
        if self.exact and self.most > self._limit:
            raise CallerError(self._too_many(f"{self.most:,} entries"))

    @property
    def streams(self) -> list[str]:
        return [stream.name for stream, _ in self._places]

    async def into(self, session: Session, tables: Sequence[str], meter: Meter) -> None:
        """Hand over the tables in their order. Raises `CallerError` when more are found than allowed."""
        meter.stage("entries", self.most)
        for table in tables:
            with session.table(SCHEMAS[table]) as write:
                for stream, bounds in self._places:
                    if _table(stream) == table:
                        async for batch in self._batches(stream, bounds, meter):
                            write(batch)

    async def _batches(self, stream: Stream, bounds: Bounds, meter: Meter) -> AsyncIterator[pa.RecordBatch]:
        at = bounds.first
        runs = self._trail.runs(stream, bounds, subjects=self._wanted.patterns(stream), symbols=self._wanted.symbols or None)
        async with aclosing(runs) as reads:
            async for run in reads:
                last = run[-1].sequence if isinstance(run, list) else run.last
                batch = rows_of(stream, run, self._wanted)
                meter.advance(last + 1 - at)
                at = last + 1
                if batch is None:
                    continue
                self.loaded += batch.num_rows
                if self.loaded > self._limit:
                    raise CallerError(self._too_many(f"more than {self._limit:,} entries"))
                yield batch

    def _too_many(self, what: str) -> str:
        return (
            f"{what} to load, and at most {self._limit:,} are: ask for less with --since, --until, --date, --stream, --subject, --symbol "
            "or --type, or allow more with --limit-entries (a million of the market takes about half a gigabyte of disk where memory ends)"
        )


def _table(stream: Stream) -> str:
    return "entries" if stream.is_market else "events"


def rows_of(stream: Stream, run: Run, wanted: Wanted) -> pa.RecordBatch | None:
    """The wanted entries of a run as rows of the stream's table, None for none."""
    if not stream.is_market:
        found = [r for r in (run if isinstance(run, list) else run.records()) if wanted.takes(stream, r)]
        return columns.events(stream, found) if found else None
    if isinstance(run, list):
        found = [r for r in run if wanted.takes(stream, r)]
        return columns.entries(stream, Block.of(found)) if found else None
    block = _within(stream, run, wanted)
    return columns.entries(stream, block) if block else None


def _within(stream: Stream, block: Block, wanted: Wanted) -> Block | None:
    """The block's rows that are wanted, by columns; entry by entry only where a type or a subject is to be known."""
    rows = block.rows
    keep = (rows["effective_ns"] >= wanted.since_ns) & (rows["effective_ns"] <= min(wanted.until_ns, _MOST_NS))
    if wanted.dates:
        keep &= np.isin(rows["day"], list(wanted.dates))
    if wanted.symbols:
        keep &= np.isin(rows["symbol"], [n for n, symbol in enumerate(block.symbols) if symbol in wanted.symbols])
    if wanted.types or wanted.subject or wanted.of_people:
        for at in np.flatnonzero(keep).tolist():
            keep[at] = wanted.takes(stream, Record(int(rows["sequence"][at]), block.entry(at)))
    if keep.all():
        return block
    return block.with_rows(rows[keep]) if keep.any() else None
