"""The recordings, folded from columns, against `tests.gold`: json, dicts and `decimal`."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from exchanges.kalshi.adapter import KalshiAdapter
from journal.block import Block, BlockBuilder
from journal.day import DayRule
from journal.entry import Control, Record
from journal.writer import EpochWriter, Stamper
from projections.book import BookProjection, BookState, BookView
from projections.coverage import CoverageProjection
from projections.trades import TradesProjection
from replay.source import until
from tests import gold
from tests.recordings import gold_files

pytestmark = pytest.mark.data
MILLISECOND = 1_000_000


def columns(path: Path) -> Block:
    """One recording as the importer's entries would be: one filtered epoch."""
    adapter, builder = KalshiAdapter(filtered=True), BlockBuilder(keep_raw=False)
    writer = EpochWriter("kalshi", path.parent.name[-16:].encode().rjust(16), Stamper(DayRule()))
    for recv_ms, event in gold.lines(path):
        now_ns = recv_ms * MILLISECOND
        if not len(builder):
            builder.add(Record(1, writer.entry(Control("opened", detail='{"filtered":true}'), recv_ns=now_ns)))
        for item in adapter.frame(json.dumps(event).encode(), now_ns).items:
            entry = writer.entry(
                item.body, recv_ns=now_ns, symbol=item.symbol, venue_ns=item.venue_ns, venue_seq=item.venue_seq,
                subscription=item.subscription, price_exponent=item.price_exponent, size_exponent=item.size_exponent,
            )  # fmt: skip
            builder.add(Record(1 + len(builder), entry))
    return builder.build()


def ladders(book: BookView) -> dict[str, gold.Ladder]:
    """The venue's two bid ladders."""
    assert (book.price_exponent, book.size_exponent) == (-6, -2)
    return {
        "yes": {Decimal(p).scaleb(-6): Decimal(s).scaleb(-2) for p, s in book.bids},
        "no": {1 - Decimal(p).scaleb(-6): Decimal(s).scaleb(-2) for p, s in book.asks},
    }


@pytest.mark.parametrize("number", range(32))
def test_books_and_trades_at_many_moments_equal_the_decimal_fold(number: int) -> None:
    path = gold_files()[number]
    block = columns(path)
    symbol = path.parent.name
    book, theirs = BookProjection(), gold.Books()
    trades, coverage = TradesProjection(), CoverageProjection()
    for projection in (trades, coverage):
        projection.apply(block)
    if path.name.startswith("2026-08-11") and symbol.endswith("102000-00"):
        theirs.ladders[symbol] = {"yes": {}, "no": {}}  # goes on from the day before: see the test of the two together
        assert book.keys() == []
        return
    at, moments, events = 0, 0, list(gold.lines(path))
    for line, (recv_ms, event) in enumerate(events, 1):
        theirs.apply(event)
        if line == len(events) or (line % 997 == 0 and events[line][0] != recv_ms):
            due = until(block, recv_ms * MILLISECOND)
            book.apply(due.slice(at, len(due)))
            at = len(due)
            view = book.book(symbol)
            assert view.state is BookState.VALID
            assert ladders(view) == theirs.ladders[symbol]
            assert not view.bids or not view.asks or view.bids[0] < view.asks[0]
            assert view.sequence <= at
            moments += 1
    assert moments > 10 or len(events) < 10_000
    if symbol in theirs.trades:
        assert trades.trade(symbol).trades == theirs.trades[symbol]
    counted = [coverage.coverage(channel) for channel in coverage.keys()]  # noqa: SIM118
    assert sum(c.entries["unknown"] for c in counted) == len(events)
    assert sum(c.unreported + c.disagreed for c in counted) == 0


def test_a_market_cut_at_midnight_goes_on_when_switched() -> None:
    first, second = (p for p in gold_files() if p.parent.name.endswith("102000-00"))
    symbol, theirs = first.parent.name, gold.Books()
    for path in (first, second):
        for _, event in list(gold.lines(path))[: None if path is first else -1]:
            theirs.apply(event)
    before, after = columns(first), columns(second)
    opened, *deltas, snapshot = (r.entry for r in after.records())
    switched = msgspec.structs.replace(deltas[0], body=Control("switched"), venue_seq=0)
    book = BookProjection()
    book.apply(before)
    book.apply(Block.of([Record(before.last + 1 + i, e) for i, e in enumerate([opened, switched, *deltas])]))
    assert ladders(book.book(symbol)) == theirs.ladders[symbol]
    assert any(theirs.ladders[symbol].values())
    book.apply(Block.of([Record(before.last + after.last + 9, snapshot)]))
    view = book.book(symbol)
    assert (view.state, view.bids, view.asks) == (BookState.VALID, [], [])
