"""The four laws, for every projection, over streams of every kind of entry."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.block import Block
from journal.entry import Book, Control, Delta, Gap, Record, Ticker
from journal.errors import BadObject
from projections import kernels as k
from projections.book import BookProjection, top_of
from projections.projection import Digester, Projection
from projections.registry import PROJECTIONS, create
from projections.ticker import TickerProjection
from projections.trades import TradesProjection
from tests.projections.streams import ReferenceBooks, ReferenceTrades, records

ALL = pytest.mark.parametrize("name", sorted(PROJECTIONS))


def make(name: str) -> Projection:
    return create([name])[0]


def fold(name: str, stream: list[Record], cuts: list[int] | None = None) -> Projection:
    projection = make(name)
    for start, stop in pairwise([0, *sorted(c % (len(stream) + 1) for c in cuts or []), len(stream)]):
        projection.apply(Block.of(stream[start:stop]))
    return projection


def state(projection: Projection) -> tuple[str, bytes]:
    return Digester(projection).digest(), projection.snapshot()


@ALL
@given(stream=records(), cuts=st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=25)
def test_same_entries_same_digest_however_they_are_cut(name: str, stream: list[Record], cuts: list[int]) -> None:
    assert state(fold(name, stream)) == state(fold(name, stream, cuts))


@ALL
@given(stream=records(), cut=st.integers(0, 100))
@settings(max_examples=25)
def test_cutting_and_restoring_changes_nothing(name: str, stream: list[Record], cut: int) -> None:
    cut %= len(stream) + 1
    before = fold(name, stream[:cut])
    after = make(name)
    after.restore(before.snapshot())
    assert state(after) == state(before)
    after.apply(Block.of(stream[cut:]))
    assert state(after) == state(fold(name, stream))


@ALL
@given(stream=records(), back=st.integers(1, 60))
@settings(max_examples=25)
def test_redelivery_changes_nothing(name: str, stream: list[Record], back: int) -> None:
    projection = fold(name, stream)
    before = state(projection)
    projection.apply(Block.of(stream[-back:]))
    assert state(projection) == before
    overlapping = make(name)
    half = len(stream) // 2
    overlapping.apply(Block.of(stream[:half]))
    overlapping.apply(Block.of(stream[max(0, half - back) :]))
    assert state(overlapping) == before


@ALL
@given(stream=records(max_size=20), kind=st.sampled_from([8, 9, 42, 255]))
@settings(max_examples=20)
def test_unknown_kinds_are_skipped(name: str, stream: list[Record], kind: int) -> None:
    projection = make(name)
    strange = Block.of([Record(sequence, e) for sequence, e in stream])
    strange.rows["kind"] = kind
    strange.rows["subscription"] = 0  # coverage counts every kind that a subscription carries
    projection.apply(strange)
    assert projection.keys() == []
    assert projection.take_touched() == set()


@ALL
@given(stream=records())
@settings(max_examples=25)
def test_touched_keys_are_all_that_changed(name: str, stream: list[Record]) -> None:
    projection = make(name)
    half = len(stream) // 2
    projection.apply(Block.of(stream[:half]))
    digester = Digester(projection)
    projection.apply(Block.of(stream[half:]))
    incremental = digester.digest()
    digester.reset()
    assert incremental == digester.digest()


@ALL
@given(stream=records(), cut=st.integers(0, 100), kept=st.sets(st.sampled_from(["A", "B", "C"])))
@settings(max_examples=25)
def test_what_is_kept_goes_on_as_if_the_rest_had_never_been(name: str, stream: list[Record], cut: int, kept: set[str]) -> None:
    cut %= len(stream) + 1
    before, narrowed = fold(name, stream[:cut]), make(name)
    before.keep(kept)
    narrowed.restore(before.snapshot())
    if name == "coverage":  # its keys are channels
        assert state(narrowed) == state(fold(name, stream[:cut]))
        return
    assert set(narrowed.keys()) <= kept
    narrowed.apply(Block.of([r for r in stream[cut:] if r.entry.symbol in {*kept, ""} or isinstance(r.entry.body, Gap)]))
    assert Digester(narrowed).digest(kept) == Digester(fold(name, stream)).digest(kept)


@ALL
def test_what_is_no_snapshot_is_refused(name: str) -> None:
    for junk in (b"", b"junk", b"\xc0", make("status").snapshot()[:-1] + b"\x01"):
        with pytest.raises(BadObject):
            make(name).restore(junk)


@given(stream=records(max_size=120))
@settings(max_examples=80)
def test_books_agree_with_a_straightforward_fold_after_every_entry(stream: list[Record]) -> None:
    ours, theirs = BookProjection(), ReferenceBooks()
    for record in stream:
        ours.apply(Block.of([record]))
        theirs.apply(record.entry)
        views = {symbol: ours.book(symbol) for symbol in ours.keys()}  # noqa: SIM118
        assert {s: (v.state.name, v.bids, v.asks) for s, v in views.items()} == theirs.shown()


@given(stream=records(max_size=120), cut=st.integers(0, 120))
def test_a_trace_tells_the_book_behind_every_entry(stream: list[Record], cut: int) -> None:
    traced, stepped = BookProjection(), BookProjection()
    for run in (stream[:cut], stream[cut:]):
        block = Block.of(run)
        trace = traced.tracer(block)
        for at, record in enumerate(run):
            entry = record.entry
            before = stepped.top(entry.symbol)
            stepped.apply(block.slice(at, at + 1))
            if not isinstance(entry.body, Book | Delta | Gap | Control):
                continue
            top, sizes = trace(at)
            if not isinstance(entry.body, Book | Delta):
                continue
            after = stepped.top(entry.symbol)
            assert (top_of(top) if top[k.P_STATE] else None) == after
            assert bool(top[k.P_CHANGED]) == ((before and before[:5]) != (after and after[:5]))
            if isinstance(entry.body, Delta) and after:
                view = stepped.book(entry.symbol)
                levels = {(price, side): size for side, of in ((0, view.bids), (1, view.asks)) for price, size in of}
                assert sizes == [levels.get((c.price, c.side), 0) for c in entry.body.changes]
        keys = stepped.keys()
        assert traced.keys() == keys
        assert [traced.canonical(key) for key in keys] == [stepped.canonical(key) for key in keys]


@given(stream=records(max_size=120))
@settings(max_examples=40)
def test_trades_agree_with_sums_of_lists(stream: list[Record]) -> None:
    ours, theirs = TradesProjection(), ReferenceTrades()
    ours.apply(Block.of(stream))
    for record in stream:
        theirs.apply(record.entry)
    shown = {}
    for symbol in ours.keys():  # noqa: SIM118
        t = ours.trade(symbol)
        totals = (t.trades, t.volume, t.buy_volume, t.sell_volume, t.open, t.high, t.low, t.close, t.notional)
        shown[symbol] = (t.price, t.size, *totals)
    assert shown == theirs.shown()


@given(stream=records(max_size=120))
@settings(max_examples=40)
def test_tickers_keep_each_field_as_last_sent(stream: list[Record]) -> None:
    ours = TickerProjection()
    ours.apply(Block.of(stream))
    expected: dict[str, dict[str, int]] = {}
    units: dict[str, tuple[int, int]] = {}
    for _, e in stream:
        if isinstance(e.body, Ticker):
            if units.get(e.symbol) != (e.price_exponent, e.size_exponent):
                expected[e.symbol] = {}
            units[e.symbol] = (e.price_exponent, e.size_exponent)
            sent = {name: getattr(e.body, name) for name in Ticker.__struct_fields__}
            expected[e.symbol].update({name: value for name, value in sent.items() if value is not None})
    assert {s: ours.ticker(s).values for s in ours.keys()} == {s: Ticker(**values) for s, values in expected.items()}  # noqa: SIM118
