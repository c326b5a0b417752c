"""The synthetic market: the same for the same seed, and possible at every moment."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import msgspec
import pytest

from exchanges.simulator.book import DOLLAR, count_hundredths, count_text, price_micros, price_text
from exchanges.simulator.commands import Commands
from exchanges.simulator.feed import Delta, Happening, Lifecycle, Snapshot, Ticker, Trade
from exchanges.simulator.oracle import Oracle
from exchanges.simulator.series import STRUCTURES, step_at, tick_below
from exchanges.simulator.synthetic import SyntheticFeed, split
from exchanges.simulator.venue import Venue
from tests.gold import Books

START = 1_795_353_594_673


def frames(seed: int, start_ms: int = START, number: int = 20_000) -> list[Happening]:
    feed = SyntheticFeed(seed, rate=100)
    feed.catalogue(start_ms)
    return list(islice(feed.play(), number))


def test_the_same_seed_gives_the_same_frames() -> None:
    first = [(happening.at_ms, happening.body) for happening in frames(7)]
    assert [(happening.at_ms, happening.body) for happening in frames(7)] == first
    assert [(happening.at_ms, happening.body) for happening in frames(8)] != first


def test_another_start_moves_times_and_nothing_else() -> None:
    later = 90 * 60_000
    for one, other in zip(frames(7), frames(7, START + later), strict=True):
        assert other.at_ms - one.at_ms == later
        assert type(one) is type(other)
        if isinstance(one, Delta) and isinstance(other, Delta):
            assert (one.no, one.price, one.change) == (other.no, other.price, other.change)


@pytest.mark.parametrize(("markets", "rate", "number"), [(1, 50, 20_000), (20, 40, 120_000), (200, 5_000, 60_000)])
def test_books_are_never_crossed_negative_or_off_the_grid(markets: int, rate: float, number: int) -> None:
    feed = SyntheticFeed(3, markets=markets, rate=rate, frames=number)
    venue = Venue(feed.catalogue(START), feed.books(), Oracle())
    assert len(venue.catalogue.markets) == markets
    kinds: Counter[str] = Counter()
    last_ms = START
    change: Delta | None = None
    removed = 0
    for happening in feed.play():
        venue.publish(happening)
        assert happening.at_ms >= last_ms
        last_ms = happening.at_ms
        kinds[type(happening).__name__] += 1
        if isinstance(happening, Delta):
            book = venue.books[happening.ticker]
            yes, _, no, _ = book.best()
            assert yes + no < DOLLAR
            structure = venue.catalogue.markets[happening.ticker].fields["price_level_structure"]
            assert 0 < happening.price == tick_below(structure, happening.price) < DOLLAR
            assert tick_below(structure, DOLLAR - happening.price) == DOLLAR - happening.price
            removed += happening.price not in (book.no if happening.no else book.yes)
            message = msgspec.json.decode(happening.body)
            assert (price_micros(message["price_dollars"]), count_hundredths(message["delta_fp"])) == (happening.price, happening.change)
            change = happening
        elif isinstance(happening, Trade):
            message = msgspec.json.decode(happening.body)
            assert change is not None
            assert (change.ticker, change.change, change.at_ms) == (happening.ticker, -happening.count, happening.at_ms)
            assert change.price == (DOLLAR - happening.price if change.no else happening.price)
            taker = ("yes", "bid") if change.no else ("no", "ask")
            assert (message["taker_outcome_side"], message["taker_book_side"]) == taker
        elif isinstance(happening, Ticker):
            message = msgspec.json.decode(happening.body)
            yes, yes_count, no, no_count = venue.books[happening.ticker].best()
            assert (message["yes_bid_dollars"], message["yes_bid_size_fp"]) == (price_text(yes), count_text(yes_count))
            assert (message["yes_ask_dollars"], message["yes_ask_size_fp"]) == (price_text(DOLLAR - no), count_text(no_count))
            market = venue.catalogue.markets[happening.ticker]
            assert (message["volume_fp"], message["price_dollars"]) == (count_text(market.volume), price_text(market.last_price))
    assert not venue.refused
    assert removed > 100
    assert kinds["Delta"] > kinds["Trade"] * 5 > 0
    assert kinds["Ticker"] >= kinds["Trade"]
    assert sum(kinds.values()) == number


def test_markets_are_listed_open_trade_close_and_settle() -> None:
    feed = SyntheticFeed(5, markets=9, rate=30, frames=60_000)
    venue = Venue(feed.catalogue(START), feed.books(), Oracle())
    client = venue.connect()
    Commands(venue).serve(client, b'{"id":1,"cmd":"subscribe","params":{"channels":["market_lifecycle_v2"]}}')
    client.out.clear()
    told: dict[str, list[str]] = {}
    ended: set[str] = set()
    traded_after_creation: set[str] = set()
    for happening in feed.play():
        venue.publish(happening)
        market = venue.catalogue.markets.get(happening.ticker)
        if isinstance(happening, Lifecycle) and happening.event:
            told.setdefault(happening.ticker, []).append(happening.event)
        elif isinstance(happening, Snapshot):
            assert (happening.yes, happening.no) == ({}, {})
            ended.add(happening.ticker)
            assert market is not None
            assert market.status(happening.at_ms) == "closed"
        elif isinstance(happening, Delta):
            assert market is not None
            assert market.status(happening.at_ms) == "active"
            assert happening.ticker not in ended
            if told.get(happening.ticker, [""])[0] == "created":
                traded_after_creation.add(happening.ticker)
    frames = [json.loads(frame) for frame in client.out]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert {frame["type"] for frame in frames} == {"market_lifecycle_v2", "event_lifecycle"}
    settled = [ticker for ticker, events in told.items() if events[-2:] == ["determined", "settled"]]
    assert len(settled) > 20
    assert traded_after_creation & set(settled)
    assert {event for events in told.values() for event in events} == {"created", "deactivated", "activated", "determined", "settled"}
    assert {market.result for market in venue.catalogue.markets.values() if market.settled_ms} == {"yes", "no"}
    assert sum(market.status(venue.now_ms) == "active" for market in venue.catalogue.markets.values()) >= 8
    prices = [frame["msg"]["price_level_structure"] for frame in frames if frame["msg"].get("event_type") == "created"]
    assert set(prices) == set(STRUCTURES)
    assert any("." in ticker for ticker in told)


def test_a_subscriber_of_everything_folds_to_the_true_books() -> None:
    feed = SyntheticFeed(9, markets=12, rate=20, frames=30_000)
    venue = Venue(feed.catalogue(START), feed.books(), Oracle())
    commands = Commands(venue)
    client = venue.connect()

    def subscribe(*tickers: str) -> None:
        params = {"channels": ["orderbook_delta"], "market_tickers": tickers}
        commands.serve(client, msgspec.json.encode({"id": 1, "cmd": "subscribe", "params": params}))

    subscribe(*venue.catalogue.markets)
    for happening in feed.play():
        venue.publish(happening)
        if isinstance(happening, Lifecycle) and happening.event == "created":
            subscribe(happening.ticker)
    books = Books()
    numbers = []
    for data in client.out:
        frame = json.loads(data)
        if "seq" in frame:
            numbers.append(frame["seq"])
        if frame["type"].startswith("orderbook"):
            books.apply(frame)
    assert numbers == list(range(1, len(numbers) + 1))
    truth = venue.oracle.books()
    assert truth.keys() == books.ladders.keys()
    assert len(truth) > 20
    for ticker, (yes, no) in truth.items():
        assert {int(p * DOLLAR): int(c * 100) for p, c in books.ladders[ticker]["yes"].items()} == yes
        assert {int(p * DOLLAR): int(c * 100) for p, c in books.ladders[ticker]["no"].items()} == no


@pytest.mark.parametrize("markets", [1, 2, 3, 20, 1000])
def test_all_series_share_the_markets(markets: int) -> None:
    assert sum(split(markets)) == markets
    assert split(markets)[0] == 1


def test_grids() -> None:
    assert tick_below("linear_cent", 419_999) == 410_000
    assert tick_below("linear_cent", 9_999) == 0
    assert tick_below("tapered_deci_cent", 99_999) == 99_000
    assert tick_below("tapered_deci_cent", 119_999) == 110_000
    assert tick_below("tapered_deci_cent", 900_500) == 900_000
    assert tick_below("deci_cent", -5) == 0
    assert step_at("tapered_deci_cent", 950_000) == 1_000


@pytest.mark.parametrize(
    ("text", "micros"), [("0.3200", 320_000), ("0.105000", 105_000), ("0.10", 100_000), ("1", 1_000_000), ("0.123456", 123_456)]
)
def test_prices_are_exact(text: str, micros: int) -> None:
    assert price_micros(text) == micros
    assert price_micros(price_text(micros)) == micros


def test_counts_are_exact() -> None:
    assert [count_hundredths(text) for text in ("12.61", "-0.13", "5", "-46.0", "0.00")] == [1261, -13, 500, -4600, 0]
    assert [count_text(count) for count in (1261, -13, 500, 0)] == ["12.61", "-0.13", "5.00", "0.00"]
    with pytest.raises(ValueError, match="more than 2 decimals"):
        count_hundredths("1.005")
