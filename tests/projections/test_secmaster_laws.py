"""The four laws of the fold of markets, and that it agrees with applying one change after the other."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.block import Block
from journal.entry import Entry, Event, Record
from journal.errors import BadObject, CorruptionError
from journal.market import TYPE, Change, Market, apply, compare
from projections.projection import Digester
from projections.registry import create
from projections.secmaster import Known, SecmasterProjection, canonical, changed

T0 = 1_786_363_200 * 10**9
SYMBOLS = ("A", "B-1", "Ω.2")
_STATUSES = ("pending", "active", "paused", "closed", "determined", "settled", "unknown")


def entry(body: Event, symbol: str, at: int) -> Entry:
    return Entry(body, "secmaster", symbol, b"e" * 16, at, T0 + at, at, T0 + at, 20260810)


def event(change: Change, at: int) -> Record:
    return Record(at, entry(Event(TYPE, change.encode(), "tests"), change.symbol, at))


@st.composite
def histories(draw: st.DrawFn, max_size: int = 40) -> list[Record]:
    """What ledgers write: each change follows on the market as it is; other events between them."""
    markets: dict[str, Market | None] = {}
    records: list[Record] = []
    for _ in range(draw(st.integers(0, max_size))):
        symbol = draw(st.sampled_from(SYMBOLS))
        if draw(st.integers(0, 9)) == 0:
            records.append(Record(len(records) + 1, entry(Event("syncs", b"{}"), symbol, len(records) + 1)))
            continue
        old = markets.get(symbol)
        new = None
        if draw(st.integers(0, 5)):
            new = Market(
                symbol=symbol,
                title=draw(st.sampled_from(("", "one", "two"))),
                status=draw(st.sampled_from(_STATUSES)),
                tags=tuple(draw(st.lists(st.sampled_from("xyz"), max_size=2))),
                close_ns=draw(st.sampled_from((0, T0))),
                settlement_value=draw(st.sampled_from((None, 0, 1_000_000))),
            )
        for change in compare(old, new, "rest", draw(st.sampled_from((0, T0 + len(records))))):
            records.append(event(change, len(records) + 1))
        markets[symbol] = new
    return records


def fold(stream: list[Record], cuts: list[int] | None = None) -> SecmasterProjection:
    (projection,) = create(["secmaster"])
    assert isinstance(projection, SecmasterProjection)
    for start, stop in pairwise([0, *sorted(c % (len(stream) + 1) for c in cuts or []), len(stream)]):
        projection.apply(Block.of(stream[start:stop]))
    return projection


def state(projection: SecmasterProjection) -> tuple[str, bytes]:
    return Digester(projection).digest(), projection.snapshot()


@given(stream=histories(), cuts=st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=50)
def test_same_entries_same_digest_however_they_are_cut(stream: list[Record], cuts: list[int]) -> None:
    assert state(fold(stream)) == state(fold(stream, cuts))


@given(stream=histories(), cut=st.integers(0, 100))
@settings(max_examples=50)
def test_cutting_and_restoring_changes_nothing(stream: list[Record], cut: int) -> None:
    cut %= len(stream) + 1
    before, after = fold(stream[:cut]), fold([])
    after.restore(before.snapshot())
    assert state(after) == state(before)
    after.apply(Block.of(stream[cut:]))
    assert state(after) == state(fold(stream))


@given(stream=histories(), back=st.integers(1, 60))
@settings(max_examples=50)
def test_redelivery_changes_nothing(stream: list[Record], back: int) -> None:
    projection = fold(stream)
    before = state(projection)
    projection.apply(Block.of(stream[-back:]))
    assert state(projection) == before


@given(stream=histories(max_size=20), kind=st.sampled_from([0, 4, 6, 9, 255]))
@settings(max_examples=20)
def test_unknown_kinds_are_skipped(stream: list[Record], kind: int) -> None:
    projection = fold([])
    strange = Block.of(stream)
    strange.rows["kind"] = kind
    projection.apply(strange)
    assert projection.keys() == []
    assert projection.take_touched() == set()


@given(stream=histories())
@settings(max_examples=50)
def test_touched_keys_are_all_that_changed(stream: list[Record]) -> None:
    half = len(stream) // 2
    projection = fold(stream[:half])
    digester = Digester(projection)
    projection.apply(Block.of(stream[half:]))
    incremental = digester.digest()
    digester.reset()
    assert incremental == digester.digest()


@given(stream=histories())
@settings(max_examples=50)
def test_it_agrees_with_one_change_after_the_other(stream: list[Record]) -> None:
    markets: dict[str, Market | None] = {}
    for _, e in stream:
        if isinstance(e.body, Event) and e.body.type == TYPE:
            markets[e.symbol] = apply(markets.get(e.symbol), msgspec.json.decode(e.body.data, type=Change))
    projection = fold(stream)
    assert projection.markets() == {symbol: m for symbol, m in markets.items() if m}
    assert projection.keys() == sorted(markets)


def test_the_digest_is_of_what_is_known_and_of_nothing_else() -> None:
    """A known value: another one means that stored digests do not compare any more, and the projection's version must change."""
    projection = fold([event(change, 1) for change in compare(None, Market(symbol="A", status="active"), "rest", T0)])
    assert canonical(Known(Market(symbol="A", status="active"), T0, T0, 1)) == (
        b'[1786363200000000000,1786363200000000000,1,{"status":"active","symbol":"A"}]'
    )
    assert (
        Digester(projection).digest() == Digester(fold([event(c, 7) for c in compare(None, projection.market("A"), "rest", T0)])).digest()
    )


def test_what_cannot_follow_is_corruption() -> None:
    stray = Change(change="market_updated", symbol="A", source="rest", fields={"title": ("a", "b")})
    with pytest.raises(CorruptionError, match="never added"):
        fold([event(stray, 1)])
    with pytest.raises(CorruptionError, match="no change of a market"):
        fold([Record(1, entry(Event(TYPE, b'{"change":"market_exploded"}'), "A", 1))])
    wrong = Change(change="market_updated", symbol="A", source="rest", fields={"open_ns": (0, "noon")})
    with pytest.raises(CorruptionError, match="Expected `int`"):
        changed(Known(Market(symbol="A"), 1, 1, 1), wrong, entry(Event(TYPE), "A", 2))


def test_what_is_no_snapshot_is_refused() -> None:
    for junk in (b"", b"junk", b"\xc0", fold([]).snapshot()[:-1] + b"\x01"):
        with pytest.raises(BadObject):
            fold([]).restore(junk)
