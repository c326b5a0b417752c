"""The way through the venue's lists, against the simulated venue's REST."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.bucket import TokenBucket
from exchanges.kalshi import listing as module
from exchanges.kalshi.listing import SINGLE_SERIES, AnswerTooLarge
from exchanges.kalshi.rest import Answer, KalshiRest
from exchanges.markets import DefinitionPage, DefinitionSource
from exchanges.simulator.listing import DAY_MS, Listing
from exchanges.simulator.market import Catalogue
from exchanges.simulator.rest import PREFIX, Rest
from exchanges.simulator.rest_faults import RestFault, RestFaults
from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from exchanges.simulator.venue import Venue
from journal.clock import WallClock
from journal.errors import CallerError, VenueRefused, VenueUnavailable

START_MS = 1_795_000_020_000  # a whole minute
MARKETS = 3_003  # 601 events in 13 series: four pages of events


class Simulated:
    """The simulated venue's REST without sockets, a clock that is never waited for, and what was asked."""

    rate = 1.0

    def __init__(self, *faults: RestFault, markets: int = MARKETS, changed: float = 0.0, most_bytes: int = 1 << 30) -> None:
        venue = Venue(Catalogue())
        venue.now_ms = START_MS
        self.listing = Listing(7, markets, START_MS, changed=changed, changed_ms=START_MS)
        self.served = Rest(venue, self.listing)
        self.faults = RestFaults(faults)
        self.most_bytes = most_bytes
        self.asked: list[str] = []
        self.slept: list[float] = []
        self.now_ns = 0
        self.rest = KalshiRest("https://venue/trade-api/v2", self, random.Random(1), get=self.get)

    def get(self, url: str) -> Answer:
        parts = urlsplit(url)
        path = parts.path.removeprefix(PREFIX)
        self.asked.append(f"{path}?{parts.query}")
        status, body = self.served.get(parts.path, dict(parse_qsl(parts.query)))
        delay_s, status, body = self.faults.strike(path, status, body)
        if delay_s:
            raise TimeoutError("timed out")
        if len(body) > self.most_bytes:
            raise AnswerTooLarge("the answer is too large")
        return status, body

    def wall_ns(self) -> int:
        return self.now_ns

    def mono_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_ns += int(seconds * 1e9) + 1

    def pages(self, **question: Any) -> list[DefinitionPage]:
        return asyncio.run(collect(self.rest, **question))

    def listed(self, wanted: Callable[[int], bool] = lambda _: True) -> set[str]:
        """By the listing itself."""
        return {self.listing.market(n, START_MS).ticker for n in range(len(self.listing)) if wanted(self.listing.updated_ms(n, START_MS))}


async def collect(source: DefinitionSource, **question: Any) -> list[DefinitionPage]:
    return [page async for page in source.definitions(**question)]


def symbols(pages: list[DefinitionPage]) -> list[str]:
    return [market.symbol for page in pages for market, _ in page.markets]


def test_the_whole_list() -> None:
    venue = Simulated()
    pages = venue.pages()
    found = symbols(pages)
    assert set(found) == venue.listed()
    assert len(found) == len(set(found)) == pages[-1].total_seen == MARKETS
    assert [path.partition("?")[0] for path in venue.asked] == ["/series", *["/events"] * len(pages)]
    assert pages[-1].cursor == ""
    for market, raw in (row for page in pages for row in page.markets):
        assert market.flaws == ()
        assert json.loads(raw)["ticker"] == market.symbol
        assert (market.series, len(market.tags)) == (market.event.partition("-")[0], 2)
        assert market.category


def test_what_was_changed_is_the_same_as_in_the_whole_list() -> None:
    venue = Simulated(changed=0.01)
    since_ms = START_MS - 30_000
    pages = venue.pages(since_ns=since_ms * 1_000_000)
    assert set(symbols(pages)) == venue.listed(lambda updated_ms: updated_ms >= since_ms)
    assert 10 < pages[-1].total_seen < 100
    whole = {market.symbol: (market, raw) for page in venue.pages() for market, raw in page.markets}
    for page in pages:
        for market, raw in page.markets:
            assert whole[market.symbol] == (market, raw)


def test_some_series() -> None:
    venue = Simulated(changed=0.5)
    names = ["KXL00003", "KXL00001", "KXL99999"]
    found = symbols(venue.pages(series=names))
    assert set(found) == {symbol for symbol in venue.listed() if symbol[:8] in names}
    assert [path.partition("?")[0] for path in venue.asked[:3]] == [f"/series/{name}" for name in names]
    changed = symbols(venue.pages(series=names, since_ns=START_MS * 1_000_000))
    assert 0 < len(changed) < len(found)
    assert set(changed) == {s for s in venue.listed(lambda updated_ms: updated_ms >= START_MS) if s[:8] in names}


@pytest.mark.parametrize("question", [{}, {"series": ["KXL00003", "KXL00000", "KXL00008"]}, {"since_ns": (START_MS - DAY_MS) * 1_000_000}])
def test_gone_on_with_after_any_page(question: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_PAGE", 40)
    monkeypatch.setattr(module, "MARKETS_PAGE", 20)
    venue = Simulated(markets=600, changed=0.1)
    pages = venue.pages(**question)
    assert len(pages) > 2
    for at, page in enumerate(pages[:-1], 1):
        rest = Simulated(markets=600, changed=0.1).pages(**question, cursor=page.cursor)
        assert rest == pages[at:]


@pytest.mark.parametrize("cursor", ["x", "5 0 ", "0", "0 x y", "-1 0 "])
def test_a_cursor_of_another_list(cursor: str) -> None:
    with pytest.raises(CallerError, match="begin without one"):
        Simulated(markets=5).pages(cursor=cursor)


def test_a_cursor_the_venue_does_not_know_any_more() -> None:
    with pytest.raises(VenueRefused, match="cursor"):
        Simulated(markets=5).pages(cursor="0 100 CgYI8JHtswk")


def test_answers_that_are_too_large_are_asked_for_in_parts() -> None:
    venue = Simulated(markets=600, most_bytes=150_000)
    assert set(symbols(venue.pages())) == venue.listed()
    limits = [int(dict(parse_qsl(path))["limit"]) for asked in venue.asked if (path := asked.partition("/events?")[2])]
    assert limits[0] == 200
    assert limits[-1] < 20
    with pytest.raises(AnswerTooLarge):
        Simulated(markets=600, most_bytes=2_000).pages()


@pytest.mark.parametrize("question", [{}, {"since_ns": 1}])
def test_a_list_that_goes_in_circles(question: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARKETS_PAGE", 200)
    path = "/markets" if question else "/events"
    venue = Simulated(RestFault("circle", path=path, after=2 if question else 1, times=10**9))
    with pytest.raises(VenueUnavailable, match="repeats a page"):
        venue.pages(**question)
    assert len([asked for asked in venue.asked if asked.startswith(path)]) < 10


def test_a_page_that_comes_again_under_another_cursor() -> None:
    guard = module.Guard("/events")
    guard.check("a", ["E1", "E2"])
    guard.check("b", [])
    guard.check("c", [])  # empty pages on the way are no circle
    with pytest.raises(VenueUnavailable, match="repeats a page"):
        guard.check("d", ["E1", "E2"])


def test_a_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAGES", 3)
    monkeypatch.setattr(module, "EVENTS_PAGE", 1)
    venue = Simulated(markets=600)
    with pytest.raises(VenueRefused, match="does not end within 3 pages"):
        venue.pages()


def test_a_venue_in_trouble() -> None:
    faults = [
        RestFault("busy", path="/events", times=2),
        RestFault("down", path="/events", after=3),
        RestFault("slow", path="/events", after=5, delay_s=60.0),
        RestFault("cut", path="/markets"),
    ]
    venue = Simulated(*faults)
    assert set(symbols(venue.pages())) == venue.listed()
    assert venue.faults.struck == [2, 1, 1, 0]
    assert len(venue.slept) == 4
    assert 0.25 <= venue.slept[0] <= 0.5 <= venue.slept[1] <= 1.0


@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_both_shapes_of_errors(kind: Any) -> None:
    with pytest.raises(VenueRefused, match="HTTP 400 internal something went wrong simulated"):
        Simulated(RestFault(kind, path="/events")).pages()


def test_an_answer_that_was_cut() -> None:
    with pytest.raises(VenueUnavailable, match="/events answered with something that is not JSON"):
        Simulated(RestFault("cut", path="/events", after=1)).pages()


@pytest.mark.parametrize(("kind", "flaw"), [("missing", ["close_time"]), ("mistyped", ["close_time"])])
def test_fields_that_are_not_what_they_should_be(kind: Any, flaw: list[str]) -> None:
    venue = Simulated(RestFault(kind, path="/events", after=1, times=1, field="close_time"))
    pages = venue.pages()
    assert set(symbols(pages)) == venue.listed()
    flawed = [market for page in pages for market, _ in page.markets if market.flaws]
    assert flawed == [market for market, _ in pages[1].markets]
    assert {market.flaws for market in flawed} == {tuple(flaw)}


def test_objects_that_name_no_market_are_handed_over() -> None:
    pages = Simulated(RestFault("missing", path="/events", field="ticker")).pages()
    assert pages[0].markets == []
    assert len(pages[0].nameless) > 100
    assert all(b"KXL" in raw for raw in pages[0].nameless)
    pages = Simulated(RestFault("mistyped", path="/events", field="markets")).pages()
    assert (pages[0].markets, len(pages[0].nameless)) == ([], 200)


def test_an_event_without_a_name() -> None:
    (first, *_) = Simulated(RestFault("missing", path="/events", field="event_ticker")).pages()
    assert {market.flaws for market, _ in first.markets} == {("event", "event_ticker")}


def test_the_few_series_of_a_look_at_changes_are_asked_for_once() -> None:
    venue = Simulated(markets=30_000, changed=0.002)
    venue.pages(since_ns=START_MS * 1_000_000)
    asked = [path for path in venue.asked if path.startswith("/series")]
    assert 10 < len(asked) <= SINGLE_SERIES + 1
    venue.pages(since_ns=START_MS * 1_000_000)
    assert [path for path in venue.asked if path.startswith("/series")] == asked


def test_a_limit_is_kept() -> None:
    venue = Simulated(RestFault("busy", path="/events", after=2))
    rest = KalshiRest("https://venue/trade-api/v2", venue, random.Random(1), get=venue.get, limit=TokenBucket(venue, 2, 10.0))
    pages = asyncio.run(collect(rest))
    requests = len(venue.asked)
    assert (len(pages), requests) == (4, 6)
    # Two at once, then one in 5 s; the bucket was emptied by the 429.
    assert (requests - 2) * 5 <= venue.now_ns / 1e9 <= (requests - 1) * 5 + 1


def test_over_sockets_with_markets_that_trade() -> None:
    async def scene() -> None:
        clock = WallClock()
        extra = Listing(3, 1_000, clock.wall_ns() // 1_000_000)
        faults = RestFaults([RestFault("busy"), RestFault("slow", path="/events", delay_s=0.1)])
        async with SimulatorServer(SyntheticFeed(1, frames=50), clock, listing=extra, rest_faults=faults) as sim:
            rest = KalshiRest(sim.rest_url, clock, random.Random(1))
            pages = await collect(rest)
            found = symbols(pages)
            own = set(sim.venue.catalogue.markets)
            assert own < set(found)
            assert len(found) == len(set(found)) >= 1_000 + len(own)
            assert [page.total_seen for page in pages][-1] == len(found)
            listed = next(s for s in found if s.startswith("KXL"))
            body = json.loads(await rest._answer(f"/markets/{listed}"))
            assert body["market"]["ticker"] == listed
            event = json.loads(await rest._answer(f"/events/{body['market']['event_ticker']}"))
            assert listed in {market["ticker"] for market in event["markets"]}
        assert faults.struck == [1, 1]

    asyncio.run(scene())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**66) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["ticker", "event_ticker", "series_ticker", "markets", "tags", "status", "title"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ANSWERS = st.dictionaries(st.sampled_from(["events", "markets", "series", "cursor"]), JSON | st.lists(JSON, max_size=4)) | JSON


@given(st.lists(ANSWERS, min_size=1, max_size=6), st.booleans())
def test_whatever_a_venue_answers(answers: list[Any], whole: bool) -> None:
    """Pages, or an error that says so: the sync above knows what to do with both."""
    served = iter(answers)

    def get(_: str) -> Answer:
        answer = next(served, None)
        return (404, b"{}") if answer is None else (200, json.dumps(answer).encode())

    venue = Simulated(markets=0)
    rest = KalshiRest("https://venue/trade-api/v2", venue, random.Random(1), get=get)
    with contextlib.suppress(VenueUnavailable, VenueRefused):
        for page in asyncio.run(collect(rest, since_ns=0 if whole else 1)):
            assert all(market.symbol for market, _ in page.markets)
