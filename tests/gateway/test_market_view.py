"""What a view tells of each entry is what the folds, and a reference of a few lines, say."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.block import Block
from journal.entry import Body, Book, Change, Delta, Entry, Record, Trade
from journal.memory import READ_CHUNK, MemoryJournal, MemoryStorage
from journal.subjects import Stream
from projections.book import BookProjection
from ssmd.gateway.message import BookData, Update, amount, encode
from ssmd.gateway.recent import Recent
from ssmd.gateway.shown import Row, Shown
from ssmd.gateway.view import MarketView, block_of
from ssmd.moments import rfc3339
from tests.gateway.follower import Follower, exact
from tests.gateway.rig import STREAM as MARKET
from tests.gateway.rig import Market
from tests.projections.streams import ReferenceBooks, records

STREAM = Stream("t", shard="0")


def told(updates: list[Update]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(update.data) for update in updates]


@settings(max_examples=40, deadline=None)
@given(records(), st.data())
def test_a_follower_has_every_book_at_every_position(stream: list[Record], data: st.DataObject) -> None:
    view, follower, reference = MarketView(STREAM, "f"), Follower(), ReferenceBooks()
    fold = BookProjection()
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 9))
        run, at = stream[at : at + size], at + size
        messages = told(view.changes(Block.of(run)))
        for record in run:
            fold.apply(Block.of([record]))
            reference.apply(record.entry)
            for message in messages:
                if message["position"] == f"t_md_0:{record.sequence}":
                    follower.receive(message)
            compare(follower, fold, reference)
    assert view.position == stream[-1].sequence
    for symbol, top in ((s, view.books.top(s)) for s in follower.bests):
        assert top
        want = [next(iter(exact([best], top.price_exponent, top.size_exponent).items())) if best else None for best in (top.bid, top.ask)]
        assert follower.bests[symbol] == (top.state.name, *want)


def compare(follower: Follower, fold: BookProjection, reference: ReferenceBooks) -> None:
    shown = reference.shown()
    for symbol in fold.keys():  # noqa: SIM118
        book = fold.book(symbol)
        assert (book.state.name, book.bids, book.asks) == shown[symbol]
        if symbol not in follower.books:
            assert book.state.name == "SYNCING"
            continue
        state, bids, asks = follower.books[symbol]
        assert state == book.state.name
        if state == "VALID":
            assert bids == exact(book.bids, book.price_exponent, book.size_exponent)
            assert asks == exact(book.asks, book.price_exponent, book.size_exponent)


@settings(max_examples=25, deadline=None)
@given(records())
def test_each_trade_is_told_once(stream: list[Record]) -> None:
    view = MarketView(STREAM, "f")
    messages = [m for m in told(view.changes(Block.of(stream))) if m["type"] == "trade"]
    seen: set[str] = set()
    expected = []
    for number, entry in stream:
        if isinstance(entry.body, Trade):
            name = entry.body.trade_id if entry.body.trade_id.count("-") == 4 else f"{entry.symbol}/{entry.body.trade_id}"
            if name not in seen:
                expected.append((number, entry.body.trade_id))
            seen.add(name)
    assert [(int(m["position"].rpartition(":")[2]), m.get("trade_id", "")) for m in messages] == expected


@settings(max_examples=25, deadline=None)
@given(records())
def test_a_snapshot_is_what_a_follower_has(stream: list[Record]) -> None:
    view, follower, late = MarketView(STREAM, "f"), Follower(), Follower()
    for message in told(view.changes(Block.of(stream))):
        follower.receive(message)
    for symbol in view.symbols():
        for channel in ("book", "bbo", "ticker", "market"):
            if found := view.snapshot(channel, symbol):
                assert found is view.snapshot(channel, symbol), "encoded once"
                late.receive(msgspec.json.decode(found.data))
    for symbol, (state, bids, asks) in follower.books.items():
        assert late.books[symbol][0] == state
        if state == "VALID":
            assert late.books[symbol][1:] == (bids, asks)
    for symbol, best in follower.bests.items():
        assert late.bests[symbol] == best
    for symbol, ticker in follower.tickers.items():
        assert {**late.tickers[symbol], "kind": "", "prev_position": ""} == {**ticker, "kind": "", "prev_position": ""}
    for symbol, market in follower.markets.items():
        assert {**late.markets[symbol], "kind": "", "prev_position": ""} == {**market, "kind": "", "prev_position": ""}


@settings(max_examples=40, deadline=None)
@given(records(), st.data())
def test_folding_entry_by_entry_leaves_what_folding_blocks_does(stream: list[Record], data: st.DataObject) -> None:
    stepped, whole = MarketView(STREAM, "f"), MarketView(STREAM, "f")
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 9))
        run, at = stream[at : at + size], at + size
        stepped.changes(Block.of(run))
        whole._fold(Block.of(run))
    for one, other in ((stepped.books, whole.books), (stepped.trades, whole.trades), (stepped.tickers, whole.tickers)):
        keys = one.keys()
        assert keys == other.keys()
        assert [one.canonical(key) for key in keys] == [other.canonical(key) for key in keys]


def test_kept_messages_are_little_for_the_collector_to_walk() -> None:
    """It holds up every client meanwhile."""
    levels = tuple(Change(n * 10_000, 10**6, 0, 1) for n in range(1, 21))
    view, epoch = MarketView(STREAM, "f"), bytes(16)
    bodies: list[Body] = [Book(levels), *(Delta((Change(n % 20 * 10_000 + 10_000, 5, 0, 0),)) for n in range(4_000))]
    run = [
        Record(n, Entry(body, "f", "A", epoch, n, n, 0, n, 20261122, n, 0, 1, 0, 1, -6, -2))
        for n, body in enumerate(bodies, 1)
    ]  # fmt: skip
    block = Block.of(run)
    gc.collect()
    before = len(gc.get_objects())
    view.recent.add(view.changes(block))
    gc.collect()
    assert len(gc.get_objects()) - before < 1.2 * len(view.recent.behind(0, 10_000))


def test_recent_messages_are_bounded_and_whole_entries_are_given() -> None:
    recent = Recent(most=10, weight=1_000)
    for n in range(1, 31):
        recent.add([Update(("trade", "A"), "t_md_0", n, lambda _: None), Update(("bbo", "A"), "t_md_0", n, lambda _: None)])  # type: ignore[arg-type, return-value]
    assert recent.since == 25
    assert [u.sequence for u in recent.behind(25, 100)] == [26, 26, 27, 27, 28, 28, 29, 29, 30, 30]
    assert [u.sequence for u in recent.behind(26, 1)] == [27, 27]
    recent.add([Update(("book", "A"), "t_md_0", 31, lambda _: None, weight=2_000)])  # type: ignore[arg-type, return-value]
    assert recent.since == 31
    assert not recent.behind(0, 100)


def test_a_start_tells_what_came_in_the_last_seconds_and_only_folds_what_is_older() -> None:
    async def run() -> None:
        journal, market = MemoryJournal(), Market(random.Random(5), 4)
        await journal.ensure(MARKET, "kalshi")
        for age_s in (600, 5):
            entries = market.run(2 * READ_CHUNK)
            old = [msgspec.structs.replace(e, effective_ns=e.effective_ns - age_s * 10**9) for e in entries]
            for at in (0, READ_CHUNK):
                await journal.append(MARKET, old[at : at + READ_CHUNK])
        view, whole = MarketView(MARKET, "kalshi"), MarketView(MARKET, "kalshi")
        await view.start(journal, MemoryStorage())
        async for some in journal.read(MARKET, start=1):
            whole.recent.add(whole.changes(block_of(some)))
        assert (view.recent.since, view.position) == (2 * READ_CHUNK, 4 * READ_CHUNK)
        told_later = [u for u in whole.recent.behind(0, 10_000) if u.sequence > view.recent.since]
        assert {u.topic for u in view.recent.behind(0, 10_000)} == {u.topic for u in told_later}
        for symbol in market.symbols:
            for channel in ("book", "bbo", "ticker", "market"):
                found = [msgspec.json.decode(u.data) for v in (view, whole) if (u := v.snapshot(channel, symbol))]
                for one in found:  # of what did not change since, the place where it did is not known
                    assert view.position >= int(one.pop("position").rpartition(":")[2])
                assert found[0] == found[1], (channel, symbol)

    asyncio.run(run())


_rows = st.builds(
    Row, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), st.integers(1, 2**53),
    *[st.just(0) | st.integers(1, 4 * 10**18)] * 2, *[st.integers(-9, 3)] * 2,
)  # fmt: skip
_sides = st.tuples(*[st.dictionaries(st.integers(-(2**40), 2**62), st.integers(0, 2**62), max_size=4)] * 2)


@given(row=_rows, before=st.none() | st.integers(1, 2**53), sides=_sides)
def test_the_text_of_a_delta_is_that_of_its_message(row: Row, before: int | None, sides: Any) -> None:
    bids, asks = ([(amount(p, row.price_exponent, 4), amount(s, row.size_exponent, 2)) for p, s in side.items()] for side in sides)
    said = BookData(
        kind="delta", symbol=row.symbol, position=f"t_md_0:{row.sequence}", prev_position=f"t_md_0:{before}" if before else None,
        state="VALID", bids=bids, asks=asks, recv_time=rfc3339(row.recv_ns), recv_ns=row.recv_ns,
        venue_time=rfc3339(row.venue_ns), venue_ns=row.venue_ns,
    )  # fmt: skip
    assert Shown("t_md_0", (4, 2)).delta(row, (sides[0].items(), sides[1].items()), before).data == encode(said)
