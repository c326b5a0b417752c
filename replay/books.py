"""One book at one moment: what `ssmd book` shows."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import NamedTuple

from journal.block import Block
from journal.day import to_date
from journal.errors import NotFound
from journal.protocols import Storage
from journal.subjects import Stream
from projections.book import BookProjection, BookView
from projections.runner import Runner
from replay.engine import snapshots, symbols_of
from replay.ledger import Ledger
from replay.source import BEFORE_UTC, INTERLEAVED, Source, until

_FOREVER = (1 << 63) - 1


class BookAt(NamedTuple):
    """`as_of_ns` is the moment asked for, or the last effective time that was folded."""

    book: BookView
    day: int
    as_of_ns: int


async def book_at(source: Source, symbol: str, *, stream: Stream, storage: Storage | None = None, as_of_ns: int | None = None) -> BookAt:
    """The symbol's book after every entry with an effective time up to `as_of_ns`, or after all.

    Goes on from the latest checkpoint before that moment, where `storage` has one. Raises `NotFound` with the nearest symbols.
    """
    moment_ns = _FOREVER if as_of_ns is None else as_of_ns
    ledger = await Ledger.read(source, stream)
    days = await source.days(stream)
    known: set[str] = set()
    for day in reversed(days):
        if _earliest_ns(day) > moment_ns:
            continue
        projection = BookProjection()
        runner = Runner([projection], stream.name)
        start = 1
        # The last entry of a checkpoint is not its latest where a stream interleaves: there only whole days are taken.
        checkpoint = ledger.before(projection, day, moment_ns) if storage and stream.shard != INTERLEAVED else None
        opening = ledger.opening(projection, day) if storage else None
        if storage and checkpoint:
            runner.restore(snapshots(storage, {projection.name: checkpoint}))
            start = checkpoint.digest.sequence + 1
        elif storage and opening:
            runner.restore(snapshots(storage, {projection.name: opening}), day=day)
        last_ns = runner.here.effective_ns
        folded = checkpoint is not None
        async for read in source.blocks(stream, day=day, start=start, symbols=[symbol]):
            block: Block = until(read, moment_ns)
            if len(block):
                folded = True
                last_ns = max(last_ns, int(block.rows["effective_ns"].max()))
                for _ in runner.apply(block):
                    pass
        if symbol in projection.keys():  # noqa: SIM118  (a protocol's method, not a dict)
            if folded or day == days[0]:
                return BookAt(projection.book(symbol), day, last_ns if as_of_ns is None else as_of_ns)
        else:
            known.update(projection.keys())
    if days:
        known |= await symbols_of(source, stream, days[-1])
    raise NotFound("book", symbol, sorted(known))


def _earliest_ns(day: int) -> int:
    """No entry of `day` is older than this, in any timezone."""
    return int((datetime.combine(to_date(day), time(), UTC) - BEFORE_UTC).timestamp()) * 1_000_000_000
