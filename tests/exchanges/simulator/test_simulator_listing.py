"""Synthetic definitions, and the faults of the simulated REST."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from exchanges.simulator.book import TrueBook
from exchanges.simulator.listing import DAY_MS, DETERMINED_MS, SETTLED_MS, Listing
from exchanges.simulator.rest_faults import RestFault, RestFaults

START_MS = 1_795_000_020_000  # a whole minute


def record(listing: Listing, number: int, now_ms: int = START_MS) -> dict[str, object]:
    return listing.market(number, now_ms).record(TrueBook(), now_ms)


def test_the_same_seed_lists_the_same() -> None:
    numbers = (0, 1, 499_999, 123_456)
    one, two = Listing(1, 500_000, START_MS), Listing(1, 500_000, START_MS)
    assert [record(one, n) for n in numbers] == [record(two, n) for n in numbers]
    assert record(Listing(2, 500_000, START_MS), 1) != record(one, 1)
    assert one.events == 100_000
    assert one.series == 2_000
    assert sum(1 for _ in one.all_series()) == 2_000


def test_definitions_are_as_large_as_real_ones_and_in_every_state() -> None:
    listing = Listing(1, 500_000, START_MS)
    sample = [record(listing, n) for n in range(0, 500_000, 500)]
    size = sum(len(json.dumps(r, separators=(",", ":"))) for r in sample) / len(sample)
    assert 1_800 < size < 2_600
    states = Counter(r["status"] for r in sample)
    assert states.keys() >= {"initialized", "active", "inactive", "finalized"}
    assert states["active"] > 400
    assert len({r["ticker"] for r in sample}) == len(sample)


@pytest.mark.parametrize("markets", [0, 1, 4, 5, 6, 251, 10_000])
def test_every_name_is_found_again(markets: int) -> None:
    listing = Listing(1, markets, START_MS)
    numbers = [n for n in {0, 1, markets // 2, markets - 1} if 0 <= n < markets]
    for n in numbers:
        market = listing.market(n, START_MS)
        assert listing.find_market(market.ticker) == n
        event = listing.find_event(market.event_ticker)
        assert event is not None
        assert n in listing.of_event(event)
        series = listing.find_series(market.series_ticker)
        assert series is not None
        assert event in listing.of_series(series)
        assert listing.event(event)["series_ticker"] == market.series_ticker
    assert sum(len(listing.of_event(e)) for s in range(listing.series) for e in listing.of_series(s)) == markets


@pytest.mark.parametrize(
    "name", ["", "KXL", "KXL00000-E000000-T5", "KXL00000-E000000-T01", "KXL00001-E000000-T0", "KXL00000-E-1-T0", "KXLxxxxx-Ey-Tz"]
)
def test_names_of_nothing(name: str) -> None:
    listing = Listing(1, 500, START_MS)
    assert (listing.find_market(name), listing.find_event(name), listing.find_series(name)) == (None, None, None)


def test_a_market_lives() -> None:
    listing = Listing(1, 5_000, START_MS)
    number = next(n for n in range(5_000) if record(listing, n)["status"] == "initialized")
    market = listing.market(number, START_MS)
    moments = (market.open_ms, market.close_ms, market.close_ms + DETERMINED_MS, market.close_ms + SETTLED_MS)
    states = [record(listing, number, at)["status"] for at in moments]
    assert states == ["active", "closed", "determined", "finalized"]
    assert [listing.updated_ms(number, at) for at in moments] == list(moments)
    assert record(listing, number, moments[-1])["result"] in {"yes", "no"}
    assert market.close_ms - market.open_ms >= DAY_MS


def test_a_share_of_them_changes() -> None:
    before, after = Listing(1, 20_000, START_MS), Listing(1, 20_000, START_MS, changed=0.01, changed_ms=START_MS)
    differ = [n for n in range(20_000) if record(before, n) != record(after, n)]
    assert 150 < len(differ) < 250
    assert [n for n in range(20_000) if after.updated_ms(n, START_MS) == START_MS > before.updated_ms(n, START_MS)] == differ


def test_faults_strike_by_count() -> None:
    body = json.dumps({"markets": [{"ticker": "A", "floor_strike": 1.5}], "cursor": "2"}).encode()
    faults = RestFaults([RestFault("busy", path="/markets", after=1, times=2), RestFault("slow", delay_s=0.5, times=1)])
    assert faults.strike("/events", 200, body) == (0.5, 200, body)
    assert faults.strike("/markets", 200, body) == (0.0, 200, body)
    assert [faults.strike("/markets", 200, body)[1] for _ in range(3)] == [429, 429, 200]
    assert faults.struck == [2, 1]


@pytest.mark.parametrize(("kind", "expected"), [("missing", {"ticker": "A"}), ("mistyped", {"ticker": "A", "floor_strike": [17]})])
def test_fields_are_left_out_or_of_another_type(kind: str, expected: dict[str, object]) -> None:
    body = json.dumps({"events": [{"event_ticker": "E", "markets": [{"ticker": "A", "floor_strike": 1.5}]}], "cursor": ""}).encode()
    faults = RestFaults([RestFault(kind, field="floor_strike")])  # type: ignore[arg-type]  # by parameter
    _, _, struck = faults.strike("/events", 200, body)
    assert json.loads(struck)["events"][0]["markets"] == [expected]


def test_a_circle_leads_back() -> None:
    faults = RestFaults([RestFault("circle", after=2)])
    cursors = [json.loads(faults.strike("/markets", 200, json.dumps({"markets": [], "cursor": c}).encode())[2])["cursor"] for c in "1234"]
    assert cursors == ["1", "2", "1", "4"]
