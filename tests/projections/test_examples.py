"""What each fold does with one thing at a time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchanges.kalshi.adapter import KalshiAdapter
from journal.block import Block
from journal.entry import Body, Book, Change, Control, Delta, Entry, Gap, Lifecycle, Record, Ticker, Trade, Unparsed, canonical_json
from journal.errors import NotFound
from projections import kernels
from projections.book import BookProjection, BookState
from projections.coverage import CoverageProjection
from projections.status import StatusProjection
from projections.trades import TradesProjection

E1, E2 = b"1" * 16, b"2" * 16
BID, ASK = 0, 1


class Tape:
    """Entries one after the other, each its own block."""

    def __init__(self, *projections: BookProjection | TradesProjection | CoverageProjection | StatusProjection) -> None:
        self.projections = projections
        self.sequence = 0

    def add(
        self, body: Body, symbol: str = "A", *, epoch: bytes = E1, sid: int = 1, seq: int = 0, price_exponent: int = -6, day: int = 20260810
    ) -> None:
        self.sequence += 1
        n = self.sequence
        entry = Entry(body, "f", symbol, epoch, n, n, 0, n, day, n, seq, sid, 0, 1, price_exponent, -2)
        for projection in self.projections:
            projection.apply(Block.of([Record(n, entry)]))


def bid(price: int, size: int, op: int = 0) -> Delta:
    return Delta((Change(price, size, BID, op),))


SNAPSHOT = Book((Change(40, 5, BID, 1), Change(60, 7, ASK, 1)))


@pytest.fixture
def book() -> BookProjection:
    return BookProjection()


def test_a_book_is_syncing_until_its_first_snapshot_then_valid(book: BookProjection) -> None:
    tape = Tape(book)
    with pytest.raises(NotFound):
        book.book("A")
    tape.add(bid(40, 5))
    assert book.book("A").state is BookState.SYNCING
    tape.add(SNAPSHOT)
    tape.add(bid(41, 3))
    tape.add(bid(40, -5))
    view = book.book("A")
    assert (view.state, view.bids, view.asks, view.sequence) == (BookState.VALID, [(41, 3)], [(60, 7)], 4)
    tape.add(Book(()))
    assert book.book("A")[1:4] == (BookState.VALID, [], [])
    with pytest.raises(NotFound, match="nearest: A"):
        book.book("B")


@pytest.mark.parametrize(
    ("body", "sid", "symbol", "stale"),
    [
        (Gap("seq"), 1, "", True),
        (Gap("seq"), 0, "", True),
        (Gap("seq"), 2, "", False),
        (Gap("seq"), 1, "A", True),
        (Gap("seq"), 1, "B", False),
        (Control("closed"), 0, "epoch-00", True),
        (Control("unsubscribed"), 1, "", True),
        (Control("unsubscribed"), 0, "", False),
        (Control("unsubscribed"), 1, "B", False),
        (Control("ok"), 1, "", False),
        (Unparsed("?"), 1, "A", False),
    ],
)
def test_what_makes_a_book_stale(book: BookProjection, body: Body, sid: int, symbol: str, stale: bool) -> None:
    tape = Tape(book)
    tape.add(SNAPSHOT)
    book.take_touched()
    tape.add(body, symbol, sid=sid)
    assert book.book("A").state is (BookState.STALE if stale else BookState.VALID)
    assert book.take_touched() == ({"A"} if stale else set())
    tape.add(bid(40, 1))
    assert book.book("A").bids == [(40, 5 if stale else 6)]
    tape.add(SNAPSHOT, epoch=E2, sid=9)
    assert book.book("A").state is BookState.VALID
    tape.add(bid(40, 1), epoch=E2, sid=9)
    assert book.book("A").bids == [(40, 6)]


def test_a_successor_speaks_of_the_connection_that_died(book: BookProjection) -> None:
    tape = Tape(book)
    tape.add(SNAPSHOT)
    tape.add(Control("closed", detail=canonical_json({"epoch": E1.hex()}).decode()), "", epoch=E2, sid=0)
    assert book.book("A").state is BookState.STALE
    for detail in ("", "[]", "{", '{"epoch":"zz"}', '{"epoch":"00"}'):
        tape.add(SNAPSHOT)
        tape.add(Gap("restart", detail=detail), "", epoch=E2, sid=0)
        assert book.book("A").state is BookState.VALID


@pytest.mark.parametrize("change", [bid(40, -6), bid(39, -1), bid(40, -1, 1)])
def test_a_level_is_never_negative(book: BookProjection, change: Delta) -> None:
    tape = Tape(book)
    tape.add(SNAPSHOT)
    tape.add(change)
    assert book.book("A")[1:4] == (BookState.STALE, [(40, 5)], [(60, 7)])


def test_other_units_make_a_book_stale_and_a_snapshot_brings_them(book: BookProjection) -> None:
    tape = Tape(book)
    tape.add(SNAPSHOT)
    tape.add(bid(40, 1), price_exponent=-4)
    assert book.book("A").state is BookState.STALE
    tape.add(SNAPSHOT, price_exponent=-4)
    assert book.book("A").price_exponent == -4


def test_a_shadow_takes_over_with_everything_that_happened_since_its_snapshot(book: BookProjection) -> None:
    tape = Tape(book)
    tape.add(SNAPSHOT)
    tape.add(Book((Change(30, 1, BID, 1),)), epoch=E2)
    tape.add(bid(31, 2), epoch=E2)
    tape.add(bid(40, 1))
    assert book.book("A").bids == [(40, 6)]
    tape.add(Control("switched"), "A", epoch=E2)
    assert book.book("A").bids == [(31, 2), (30, 1)]
    tape.add(bid(40, 1))
    tape.add(bid(31, -2), epoch=E2)
    assert book.book("A").bids == [(30, 1)]


def test_ten_thousand_levels_in_random_order_and_the_pool_stays_bounded(book: BookProjection) -> None:
    rng, tape, levels = random.Random(3), Tape(book), {}
    tape.add(Book(()))
    prices = rng.sample(range(1_000_000), 10_000)
    for at in range(0, len(prices), 100):
        chunk = tuple(Change(p, p + 1, BID, 0) for p in prices[at : at + 100])
        levels.update({c.price: c.size for c in chunk})
        tape.add(Delta(chunk))
    assert book.book("A").bids == sorted(levels.items(), reverse=True)
    for _ in range(50):
        tape.add(Book(()))
        tape.add(Delta(tuple(Change(p, 1, ASK, 0) for p in prices[:500])))
    assert book.book("A").asks == [(p, 1) for p in sorted(prices[:500])]
    assert len(book._pool) < 250_000


def trade(number: int, price: int = 10, size: int = 1, side: int = 1) -> Trade:
    return Trade(price, size, side, 0, f"00000000-0000-0000-0000-{number:012x}")


def test_trades_are_counted_once_and_the_day_is_opened_once() -> None:
    trades = TradesProjection()
    tape = Tape(trades)
    opened = Control("day_opened", detail='{"day":20260810}')
    tape.add(opened, "", sid=0)
    tape.add(trade(1, 10, 5))
    tape.add(trade(2, 12, 7, 2), epoch=E2)
    tape.add(trade(1, 10, 5), epoch=E2)
    tape.add(opened, "", sid=0)
    t = trades.trade("A")
    assert (t.trades, t.volume, t.buy_volume, t.sell_volume, t.notional) == (2, 12, 5, 7, 134)
    assert (t.open, t.high, t.low, t.close, t.price) == (10, 12, 10, 12, 12)
    trades.take_touched()
    tape.add(Control("day_opened", detail='{"day":20260811}'), "", sid=0)
    assert trades.take_touched() == {"A"}
    t = trades.trade("A")
    assert (t.trades, t.volume, t.notional, t.close, t.price, t.size) == (0, 0, 0, 0, 12, 7)
    tape.add(trade(3, 2**62, 2**62))
    tape.add(trade(4, 2**62, 2**62))
    tape.add(trade(5, -3, 5))
    assert trades.trade("A").notional == 2**125 - 15
    tape.add(trade(6), price_exponent=-4)
    assert (trades.trade("A").trades, trades.trade("A").odd) == (3, 1)


def test_a_repeat_is_known_within_the_remembered_trades_and_memory_is_bounded() -> None:
    trades = TradesProjection()
    n = kernels.REMEMBERED

    def block(numbers: range, first: int) -> Block:
        return Block.of(
            [Record(first + i, Entry(trade(k), "f", "A", E1, first + i, 0, 0, 0, 20260810, subscription=1)) for i, k in enumerate(numbers)]
        )

    trades.apply(block(range(1, 3 * n + 1), 1))
    assert trades.trade("A").trades == 3 * n
    trades.apply(block(range(2 * n + 1, 3 * n + 1), 3 * n + 1))
    assert trades.trade("A").trades == 3 * n
    trades.apply(block(range(1, 11), 4 * n + 1))
    assert trades.trade("A").trades == 3 * n + 10
    assert int((trades._seen != 0).any(axis=2).sum()) <= 2 * n


def test_status_keeps_what_was_last_said() -> None:
    status = StatusProjection()
    tape = Tape(status)
    tape.add(Lifecycle("created", "pending", open_ns=5, close_ns=9))
    tape.add(Lifecycle("activated", "active"))
    tape.add(Lifecycle("determined", "determined", determined_ns=10, result="yes", settlement_value=1_000_000))
    m = status.status("A")
    assert (m.event, m.status, m.open_ns, m.close_ns, m.determined_ns, m.result) == ("determined", "determined", 5, 9, 10, "yes")
    assert (m.settlement_value, m.price_exponent) == (1_000_000, -6)
    with pytest.raises(NotFound):
        status.status("B")


@pytest.fixture
def coverage() -> CoverageProjection:
    return CoverageProjection()


def test_numbers_that_follow_each_other_are_proof_acknowledgements_included(coverage: CoverageProjection) -> None:
    tape = Tape(coverage)
    tape.add(Control("subscribed", "orderbook_delta"), "")
    tape.add(SNAPSHOT, seq=1)
    tape.add(Control("ok", "orderbook_delta"), "", seq=2)
    tape.add(bid(40, 1), seq=3)
    tape.add(Ticker(last=1), sid=2)
    found = coverage.coverage("orderbook_delta")
    assert found.entries == {"proved(seq)": 3, "probable": 0, "unknown": 0}
    assert (found.unreported, found.disagreed, found.gaps) == (0, 0, {})
    assert coverage.coverage("ticker").entries["probable"] == 1
    (interval,) = found.intervals
    assert (interval.first_seq, interval.last_seq, interval.entries, interval.from_ns, interval.to_ns) == (1, 3, 3, 2, 4)


def test_a_jump_must_have_been_announced_with_just_these_numbers(coverage: CoverageProjection) -> None:
    tape = Tape(coverage)
    tape.add(SNAPSHOT, seq=1)
    tape.add(bid(40, 1), seq=5)
    found = coverage.coverage("book")
    assert (found.unreported, found.gaps) == (1, {("unreported", ""): (1, 3)})
    tape.add(Gap("sequence gap", "book", 6, 8), "")
    tape.add(bid(40, 1), seq=9)
    assert (coverage.coverage("book").unreported, coverage.coverage("book").disagreed) == (1, 0)
    tape.add(Gap("sequence gap", "book", 11, 12, healed_by="snapshot"), "")
    assert coverage.coverage("book").disagreed == 1
    assert coverage.coverage("book").gaps["sequence gap", "snapshot"] == (1, 2)
    assert [i.status for i in coverage.coverage("book").intervals] == ["proved(seq)", "gap", "proved(seq)", "gap", "proved(seq)", "gap"]


def test_recordings_are_unknown_and_their_holes_mean_nothing(coverage: CoverageProjection) -> None:
    tape = Tape(coverage)
    tape.add(Control("opened", detail='{"filtered":true}'), "epoch", sid=0)
    for seq in (7, 9, 400):
        tape.add(bid(40, 1), seq=seq)
    found = coverage.coverage("book")
    assert (found.entries["unknown"], found.unreported, found.restarts) == (3, 0, 0)
    tape.add(Control("imported"), "epoch", sid=0)
    assert not coverage._filtered
    assert not coverage._links.channel


def test_a_day_counts_anew_and_connections_go_on(coverage: CoverageProjection) -> None:
    tape = Tape(coverage)
    tape.add(SNAPSHOT, seq=1)
    tape.add(bid(40, 1), seq=2)
    tape.add(Control("day_opened", detail='{"day":20260811}'), "", sid=0)
    assert coverage.coverage("book").entries["proved(seq)"] == 0
    tape.add(bid(40, 1), seq=3)
    tape.add(bid(40, 1), seq=4)
    found = coverage.coverage("book")
    assert (found.entries["proved(seq)"], found.unreported) == (2, 0)
    assert [(i.first_seq, i.last_seq) for i in found.intervals] == [(3, 4)]


def test_a_gap_of_a_dead_connection_covers_its_channels(coverage: CoverageProjection) -> None:
    tape = Tape(coverage)
    tape.add(SNAPSHOT, seq=1)
    tape.add(trade(1), sid=2, seq=1)
    detail = canonical_json({"epoch": E1.hex()}).decode()
    tape.add(Gap("connector restarted", from_ns=2, to_ns=50, detail=detail), "", epoch=E2, sid=0)
    tape.add(Control("closed", detail=detail), "", epoch=E2, sid=0)
    for channel in ("book", "trade"):
        assert coverage.coverage(channel).gaps == {("connector restarted", ""): (1, 0)}
    assert not coverage._links.channel


def _frames(rng: random.Random) -> Iterator[dict[str, object]]:
    """A venue's side of one subscription of books and one of trades, with acks that consume numbers."""
    numbers = {1: 0, 2: 0}
    yield {"type": "subscribed", "id": 1, "msg": {"channel": "orderbook_delta", "sid": 1}}
    yield {"type": "subscribed", "id": 2, "msg": {"channel": "trade", "sid": 2}}
    for n in range(60):
        sid = rng.choice([1, 1, 2])
        numbers[sid] += 1
        head = {"sid": sid, "seq": numbers[sid]}
        if sid == 2:
            msg = {
                "trade_id": f"00000000-0000-0000-0000-{n:012x}", "market_ticker": "A", "yes_price_dollars": "0.4000",
                "no_price_dollars": "0.6000", "count_fp": "1.00", "taker_outcome_side": "yes", "taker_book_side": "bid", "ts_ms": n,
            }  # fmt: skip
            yield {"type": "trade", **head, "msg": msg}
        elif n % 9 == 0:
            yield {
                "type": "orderbook_snapshot",
                **head,
                "msg": {"market_ticker": "A", "market_id": "", "yes_dollars_fp": [["0.4000", "5.00"]]},
            }
        elif n % 11 == 0:
            yield {"type": "ok", "id": 90 + n, **head, "msg": {"market_tickers": ["A"], "market_ids": [""]}}
        else:
            msg = {"market_ticker": "A", "market_id": "", "price_dollars": "0.4000", "delta_fp": "1.00", "side": "yes", "ts_ms": n}
            yield {"type": "orderbook_delta", **head, "msg": msg}


@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.05, 0.3]), repeat=st.sampled_from([0.0, 0.05]))
@settings(max_examples=60)
def test_coverage_agrees_with_the_adapter_about_every_loss(seed: int, loss: float, repeat: float) -> None:
    rng, coverage, adapter = random.Random(seed), CoverageProjection(), KalshiAdapter(["A"])
    tape = Tape(coverage)
    last, missing = {1: 0, 2: 0}, 0
    for number, frame in enumerate(_frames(rng)):
        sid, seq = int(frame.get("sid", 0)), int(frame.get("seq", 0))  # type: ignore[call-overload]
        if seq and rng.random() < loss:
            continue
        if seq:
            missing += seq - last[sid] - 1
            last[sid] = seq
        for _ in range(2 if seq and rng.random() < repeat else 1):
            for item in adapter.frame(json.dumps(frame).encode(), 1_000 + number).items:
                tape.add(item.body, item.symbol, sid=item.subscription, seq=item.venue_seq)
    found = [coverage.coverage(channel) for channel in coverage.keys()]  # noqa: SIM118  (a protocol's method, not a dict)
    assert sum(c.unreported + c.disagreed + c.restarts for c in found) == 0
    assert sum(m for c in found for _, m in c.gaps.values()) == missing
