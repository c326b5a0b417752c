"""One symbol's book at any moment: found in the shards, folded from the day's opening."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
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


Ledgers = Callable[[Stream], Awaitable[Ledger]]


async def find_book(
    source: Source, storage: Storage, streams: Sequence[Stream], symbol: str, *, as_of_ns: int, days: DayRule,
    end: int | None = None,
) -> tuple[Stream, BookView]:  # fmt: skip
    """The book in the first stream that knows the symbol; `end` is a sequence of one stream. Raises `NotFound` with similar symbols."""
    if found := await find_folds(source, storage, streams, symbol, [BookProjection], as_of_ns=as_of_ns, days=days, end=end):
        return found[0], book_of(found[1][0], symbol)
    known: set[str] = set()
    for stream in streams:
        for day in [d for d in await source.days(stream) if d <= days.day_of(as_of_ns)][-_NEAR_DAYS:]:
            async for block in source.blocks(stream, day=day):
                known |= market_symbols(until(block, as_of_ns))
    raise NotFound(f"symbol up to then in {' or '.join(s.name for s in streams)}:", symbol, sorted(known))


def book_of(books: Any, symbol: str) -> BookView:
    """The book of a symbol that is known; by a trade or a listing perhaps, with no snapshot yet."""
    try:
        found: BookView = books.book(symbol)
    except NotFound:
        return BookView(symbol, BookState.SYNCING, [], [], 0, 0, 0, 0, 0)
    return found


async def find_folds(
    source: Source, storage: Storage, streams: Sequence[Stream], symbol: str, kinds: Sequence[Callable[[], Projection]], *,
    as_of_ns: int, days: DayRule, end: int | None = None, ledgers: Ledgers | None = None,
) -> tuple[Stream, list[Projection]] | None:  # fmt: skip
    """Projections of the symbol in the first stream that knows it, folded in one pass; None where no stream does."""
    for stream in streams:
        upto = [d for d in await source.days(stream) if d <= days.day_of(as_of_ns)]
        made = [kind() for kind in kinds]
        if upto and symbol in await folded(
            source, storage, stream, made, as_of_ns=as_of_ns, upto=upto, symbols=[symbol], end=end, ledgers=ledgers
        ):
            return stream, made
    return None


async def folded(
    source: Source, storage: Storage, stream: Stream, projections: Sequence[Projection], *, as_of_ns: int, upto: list[int],
    symbols: Collection[str] | None = None, end: int | None = None, ledgers: Ledgers | None = None,
) -> set[str]:  # fmt: skip
    """Fold `projections` up to a time, or to the sequence `end` where that comes first; which symbols they met, or had already.

    `upto` are the days there are, ascending, none after the time's own. It goes on from the latest checkpoints or openings.
    """
    runner = Runner(projections, stream.name, mark=lambda _: 1 << 63, crossing=True)
    ledger = await ledgers(stream) if ledgers else await Ledger.read(source, stream)
    start = 1
    # The entry of a checkpoint is the latest up to there, except in an import: there only whole days are taken.
    places = {p.name: c for p in projections if (c := ledger.before(p, upto[-1], as_of_ns)) and (end is None or c.digest.sequence <= end)}
    together = len(places) == len(projections) and len({c.digest.sequence for c in places.values()}) == 1
    if together and stream.shard != INTERLEAVED:
        runner.restore(await snapshots(storage, places))
        start, upto = runner.here.sequence + 1, upto[-1:]
    else:
        openings = {p.name: c for p in projections if (c := ledger.opening(p, upto[-1]))}
        if len(openings) == len(projections):
            runner.restore(await snapshots(storage, openings), day=upto[-1])
            upto = upto[-1:]
    seen = {key for p in projections for key in p.keys()}  # noqa: SIM118  (a protocol's method, not a dict)
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
