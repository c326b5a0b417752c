"""One symbol's book at any moment: found in the shards, folded from the day's opening."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from journal.day import DayRule
from journal.errors import NotFound
from journal.protocols import Storage
from journal.subjects import Stream
from projections.book import BookProjection, BookState, BookView
from projections.projection import Projection
from projections.runner import Runner
from replay.engine import snapshots
from replay.ledger import Ledger
from replay.source import INTERLEAVED, Source, market_symbols, until
from ssmd.render import LEAST_DECIMALS, decimal_text

_NEAR_DAYS = 3  # that symbols are named from when one is not found


async def find_book(
    source: Source, storage: Storage, streams: Sequence[Stream], symbol: str, *, as_of_ns: int, days: DayRule,
    end: int | None = None,
) -> tuple[Stream, BookView]:  # fmt: skip
    """The book in the first stream that knows the symbol; `end` is a sequence of one stream. Raises `NotFound` with similar symbols."""
    known: set[str] = set()
    for stream in streams:
        upto = [d for d in await source.days(stream) if d <= days.day_of(as_of_ns)]
        if upto and (view := await _fold(source, storage, stream, symbol, as_of_ns=as_of_ns, upto=upto, end=end)):
            return stream, view
        for day in upto[-_NEAR_DAYS:]:
            async for block in source.blocks(stream, day=day):
                known |= market_symbols(until(block, as_of_ns))
    raise NotFound(f"symbol up to then in {' or '.join(s.name for s in streams)}:", symbol, sorted(known))


async def _fold(
    source: Source, storage: Storage, stream: Stream, symbol: str, *, as_of_ns: int, upto: list[int], end: int | None
) -> BookView | None:
    books = BookProjection()
    seen = symbol in await folded(source, storage, stream, books, as_of_ns=as_of_ns, upto=upto, symbols=[symbol], end=end)
    try:
        return books.book(symbol)
    except NotFound:
        # Known by a trade or a listing, no snapshot yet.
        return BookView(symbol, BookState.SYNCING, [], [], 0, 0, 0, 0, 0) if seen else None


async def folded(
    source: Source, storage: Storage, stream: Stream, projection: Projection, *, as_of_ns: int, upto: list[int],
    symbols: Collection[str] | None = None, end: int | None = None,
) -> set[str]:  # fmt: skip
    """Fold `projection` up to a time, or to the sequence `end` where that comes first; which symbols it met, or had already.

    `upto` are the days there are, ascending, none after the time's own. It goes on from the latest checkpoint or opening.
    """
    runner = Runner([projection], stream.name, mark=lambda _: 1 << 63, crossing=True)
    ledger = await Ledger.read(source, stream)
    start = 1
    # The entry of a checkpoint is the latest up to there, except in an import: there only whole days are taken.
    place = ledger.before(projection, upto[-1], as_of_ns)
    if place and stream.shard != INTERLEAVED and (end is None or place.digest.sequence <= end):
        runner.restore(await snapshots(storage, {projection.name: place}))
        start, upto = place.digest.sequence + 1, upto[-1:]
    elif opening := ledger.opening(projection, upto[-1]):
        runner.restore(await snapshots(storage, {projection.name: opening}), day=upto[-1])
        upto = upto[-1:]
    seen = set(projection.keys())
    for day in upto:
        async for read in source.blocks(stream, day=day, start=start, end=end, symbols=symbols):
            block = until(read, as_of_ns)
            for _ in runner.apply(block):
                pass
            seen |= market_symbols(block)
    return seen


def document(stream: Stream, view: BookView, feed: str, as_of_ns: int) -> dict[str, Any]:
    """The machine format ``docs/schemas/book.json``. A market pays one, so what is asked at p is a bid for the other outcome at 1 - p."""
    decimals = LEAST_DECIMALS.get(feed, (0, 0))
    one = 10**-view.price_exponent if view.price_exponent < 0 else 1

    def shown(levels: Sequence[tuple[int, int]]) -> list[list[str]]:
        return [
            [decimal_text(price, view.price_exponent, decimals[0]), decimal_text(size, view.size_exponent, decimals[1])]
            for price, size in levels
        ]

    return {
        "symbol": view.symbol,
        "as_of_ns": as_of_ns,
        "state": view.state.name,
        "position": f"{stream.name}:{view.sequence}",
        "bids": shown(view.bids),
        "asks": shown(view.asks),
        "yes": shown(view.bids),
        "no": shown([(one - price, size) for price, size in view.asks]),
    }
