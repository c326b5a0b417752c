"""Market objects of any shape as definitions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.kalshi.definitions import (
    MAX_TEXT,
    VENUE_STATUS,
    EventFacts,
    SeriesFacts,
    parse_definition,
    parse_event,
    parse_series,
)
from journal.market import Market, PriceRange

NOW = {
    "ticker": "KXBTC15M-26SEP251515-15",
    "event_ticker": "KXBTC15M-26SEP251515",
    "market_type": "binary",
    "title": "BTC up?",
    "yes_sub_title": "Target Price: $83,950.62",
    "status": "active",
    "open_time": "2026-09-25T19:00:00Z",
    "close_time": "2026-09-25T19:15:00Z",
    "expected_expiration_time": "2026-09-25T19:20:00Z",
    "expiration_time": "2026-10-01T00:00:00Z",
    "latest_expiration_time": "2026-10-02T19:15:00Z",
    "strike_type": "between",
    "floor_strike": 83950.62,
    "cap_strike": 84000,
    "custom_strike": {"round_digits": "2", "a": 1.50},
    "price_level_structure": "tapered_deci_cent",
    "price_ranges": [
        {"start": "0.0000", "end": "0.1000", "step": "0.0010"},
        {"start": "0.1000", "end": "1.0000", "step": "0.0100"},
    ],
    "can_close_early": True,
    "result": "",
    "rules_primary": "If it is, yes.",
    "rules_secondary": "Else no.",
    "volume_fp": "12.00",
}
EVENT = EventFacts("KXBTC15M-26SEP251515", "KXBTC15M", "BTC on Sep 25", "Event's")
SERIES = SeriesFacts("Crypto", ("BTC", "15 min"))


def parsed(changes: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> Market:
    record = {name: value for name, value in {**NOW, **(changes or {})}.items() if name not in without}
    market = parse_definition(json.dumps(record).encode(), EVENT, SERIES)
    assert market
    return market


def test_every_field_of_a_market() -> None:
    second = 10**9
    assert parsed() == Market(
        symbol="KXBTC15M-26SEP251515-15",
        event="KXBTC15M-26SEP251515",
        series="KXBTC15M",
        title="BTC up?",
        subtitle="Target Price: $83,950.62",
        category="Crypto",
        tags=("BTC", "15 min"),
        type="binary",
        status="active",
        venue_status="active",
        open_ns=1790362800 * second,
        close_ns=1790363700 * second,
        expected_expiration_ns=1790364000 * second,
        expiration_ns=1790968500 * second,
        strike_type="between",
        strike_floor="83950.62",
        strike_cap="84000",
        strike_custom='{"a":"1.5","round_digits":"2"}',
        price_exponent=-6,
        size_exponent=-2,
        tick_structure="tapered_deci_cent",
        price_ranges=(PriceRange(0, 100_000, 1_000), PriceRange(100_000, 1_000_000, 10_000)),
        can_close_early=True,
        volume_class=2,
        rules="If it is, yes.",
        rules_secondary="Else no.",
    )


@pytest.mark.parametrize(("said", "ours"), VENUE_STATUS.items())
def test_every_status_by_name(said: str, ours: str) -> None:
    market = parsed({"status": said})
    assert (market.status, market.venue_status, market.flaws) == (ours, said, ())


@pytest.mark.parametrize("said", ["open", "suspended", "", 5, ["active"], None])
def test_a_status_without_a_name_is_unknown_and_a_flaw(said: Any) -> None:
    market = parsed({"status": said})
    assert (market.status, market.flaws) == ("unknown", ("status",))
    assert market.venue_status == ("" if said is None else str(said))


def test_a_settled_market_of_each_era() -> None:
    said = {"status": "finalized", "result": "yes", "settlement_ts": "2026-09-25T19:20:00.000001Z"}
    for value in (
        {"settlement_value_dollars": "0.3500"},
        {"settlement_value": 35},
        {"settlement_value": 99, "settlement_value_dollars": "0.35"},
    ):
        market = parsed({**said, **value})
        assert (market.status, market.result, market.settlement_value) == ("settled", "yes", 350_000)
        assert market.settled_ns == 1790364000 * 10**9 + 1_000
    assert parsed(said).settlement_value is None
    assert parsed({"settlement_value_dollars": 1}).flaws == ("settlement_value_dollars",)  # one cent, or one dollar?


def test_ticks_before_there_were_ranges() -> None:
    market = parsed({"tick_size": 5}, without=("price_ranges",))
    assert (market.price_ranges, market.flaws) == ((PriceRange(0, 1_000_000, 50_000),), ())
    assert parsed(without=("price_ranges",)).flaws == ("price_ranges",)


def test_what_is_missing_is_marked() -> None:
    market = parsed(without=("event_ticker", "market_type", "open_time", "close_time", "status"))
    assert market.flaws == ("close_time", "event_ticker", "market_type", "open_time", "status")
    assert (market.event, market.open_ns, market.title) == (EVENT.ticker, 0, "BTC up?")
    alone = parse_definition(json.dumps(NOW).encode())
    assert alone
    assert (alone.flaws, alone.series, alone.category, alone.tags) == (("event",), "", "", ())


WRONG: tuple[tuple[str, Any], ...] = (
    ("open_time", 5),
    ("close_time", "tomorrow"),
    ("latest_expiration_time", "9999-12-31T00:00:00Z"),  # beyond 64 bits of ns
    ("floor_strike", True),
    ("cap_strike", "high"),
    ("custom_strike", ["a"]),
    ("price_ranges", {}),
    ("price_ranges", [{"start": "0"}]),
    ("price_ranges", [{"start": ["0"], "end": 1, "step": "0.01"}]),
    ("price_ranges", [{}] * 300),
    ("can_close_early", "yes"),
    ("rules_primary", "x" * (MAX_TEXT + 1)),
    ("title", {"en": "x"}),
    ("strike_type", 1),
    ("result", True),
    ("volume_fp", "many"),
    ("volume", -3),
)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_is_of_another_type_is_marked_and_the_rest_stands(name: str, value: Any) -> None:
    market = parsed({name: value})
    assert market.flaws == (name,)
    assert market.status == "active"
    assert (market.symbol, market.event) == (NOW["ticker"], NOW["event_ticker"])


@pytest.mark.parametrize(
    ("sent", "digits"),
    [({"volume_fp": "0.00"}, 0), ({"volume_fp": "0.99"}, 0), ({"volume_fp": "1198155.00"}, 7), ({"volume": 9, "volume_fp": None}, 1),
     ({"volume": 10, "volume_fp": None}, 2), ({"volume_fp": None}, 0)],
)  # fmt: skip
def test_the_volume_is_known_by_its_digits(sent: dict[str, Any], digits: int) -> None:
    market = parsed(sent)
    assert (market.volume_class, market.flaws) == (digits, ())


def test_times_that_were_never_set_are_not_said() -> None:
    market = parsed({"expected_expiration_time": "0001-01-01T00:00:00Z"})
    assert (market.expected_expiration_ns, market.flaws) == (0, ())


@pytest.mark.parametrize(
    ("sent", "kept"), [("83950.62", "83950.62"), ("0.10", "0.10"), ("12345678901234567.5", "12345678901234567.5"), ("7", "7")]
)
def test_strikes_are_the_text_that_was_sent(sent: str, kept: str) -> None:
    raw = json.dumps({**NOW, "floor_strike": "HERE"}).replace('"HERE"', sent).encode()
    market = parse_definition(raw, EVENT, SERIES)
    assert market
    assert market.strike_floor == kept


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"5", b"{}", b'{"ticker":""}', b'{"ticker":5}', b'{"ticker":"' + b"x" * 201 + b'"}', b"\xff", b"[" * 9_999]
)
def test_what_names_no_market(raw: bytes) -> None:
    assert parse_definition(raw, EVENT, SERIES) is None


def test_category_is_the_series_and_else_the_events() -> None:
    raw = json.dumps(NOW).encode()
    for series, category in ((SERIES, "Crypto"), (SeriesFacts(), "Event's"), (None, "Event's")):
        market = parse_definition(raw, EVENT, series)
        assert market
        assert market.category == category


def test_a_market_without_a_title_has_its_events() -> None:
    assert parsed(without=("title",)).title == "BTC on Sep 25"


def test_events_and_series() -> None:
    assert parse_event({"event_ticker": "E", "series_ticker": 5, "title": "t", "category": None}) == EventFacts("E", "", "t", "")
    assert parse_event({"event_ticker": None}) is None
    assert parse_series({"ticker": "S", "category": "C", "tags": ["a", 5, "x" * 300]}) == ("S", SeriesFacts("C", ("a",)))
    assert parse_series({"ticker": "S", "tags": None}) == ("S", SeriesFacts())
    assert parse_series({}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*NOW, "settlement_value", "settlement_ts", "tick_size", "market_id", "functional_strike"]), JSON))
def test_nothing_that_a_field_can_be_raises(changes: dict[str, Any]) -> None:
    market = parse_definition(json.dumps({**NOW, **changes, "ticker": "T"}).encode(), EVENT, SERIES)
    assert market
    assert market.symbol == "T"
