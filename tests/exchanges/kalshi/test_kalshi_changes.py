"""What messages, the time and newer definitions change of a market."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from exchanges.kalshi.changes import derived_changes, lifecycle_changes, observed_changes
from exchanges.kalshi.decode import Decoder
from journal.entry import Entry, Lifecycle
from journal.market import Change, Market, PriceRange, apply, decode_change

SECOND = 10**9
OPEN, CLOSE, END = 1_000 * SECOND, 2_000 * SECOND, 3_000 * SECOND
MARKET = Market(
    symbol="KXA-1-T5",
    event="KXA-1",
    series="KXA",
    title="A?",
    category="Crypto",
    status="active",
    venue_status="active",
    open_ns=OPEN,
    close_ns=CLOSE,
    price_exponent=-6,
    size_exponent=-2,
)
PENDING = replace(MARKET, status="pending", venue_status="initialized")


def entry(event: str, at_ns: int = OPEN + SECOND, **msg: Any) -> Entry:
    """The message as our adapter reads it from the venue's frame."""
    frame = {"type": "market_lifecycle_v2", "sid": 1, "seq": 1, "msg": {"market_ticker": MARKET.symbol, "event_type": event, **msg}}
    item, _ = Decoder().decode(json.dumps(frame).encode(), at_ns)
    assert isinstance(item.body, Lifecycle)
    return Entry(item.body, "kalshi", item.symbol, b"e" * 16, 1, at_ns, 0, at_ns, 20260925, price_exponent=-6, size_exponent=-2)


def replace_body(entry: Entry, event: str) -> Entry:
    return replace(entry, body=Lifecycle(event))


def folded(market: Market | None, changes: list[Change]) -> Market:
    """After the changes, each through its JSON: that is what a journal gives back."""
    for change in changes:
        market = apply(market, decode_change(change.encode()))
    assert market
    return market


def told(market: Market | None, event: str, at_ns: int = OPEN + SECOND, **msg: Any) -> tuple[list[str], Market]:
    changes = lifecycle_changes(market, entry(event, at_ns, **msg))
    return [c.change for c in changes], folded(market, changes)


def test_opening_and_closing_are_derived_at_their_times() -> None:
    assert derived_changes(PENDING, OPEN - 1) == []
    (opened,) = derived_changes(PENDING, OPEN)
    assert (opened.change, opened.derived, opened.source, opened.at_ns) == ("market_status_changed", True, "derived", OPEN)
    assert opened.fields == {"status": ("pending", "active")}
    both = derived_changes(PENDING, CLOSE)
    assert [(c.fields["status"][1], c.at_ns) for c in both] == [("active", OPEN), ("closed", CLOSE)]
    market = folded(PENDING, both)
    assert (market.status, market.venue_status) == ("closed", "initialized")
    assert derived_changes(market, END) == []
    assert derived_changes(replace(MARKET, status="paused"), END) == []
    assert derived_changes(replace(PENDING, open_ns=0, close_ns=0), END) == []


def test_a_created_market_is_added_whole() -> None:
    changes, market = told(
        None, "created", OPEN - SECOND, open_ts=1_000, close_ts=2_000, exchange_index=2, price_level_structure="linear_cent",
        price_ranges=[{"start": "0.0000", "end": "1.0000", "step": "0.0100"}],
        additional_metadata={
            "name": "A", "title": "A?", "yes_sub_title": "yes", "no_sub_title": "no", "rules_primary": "r1", "rules_secondary": "r2",
            "can_close_early": True, "event_ticker": "KXA-1", "expected_expiration_ts": 3_000, "strike_type": "greater",
            "floor_strike": 4128.56,
        },
    )  # fmt: skip
    assert changes == ["market_added"]
    assert market == Market(
        symbol="KXA-1-T5", event="KXA-1", series="KXA", title="A?", subtitle="yes", status="pending", venue_status="initialized",
        open_ns=OPEN, close_ns=CLOSE, expected_expiration_ns=END, strike_type="greater", strike_floor="4128.56", price_exponent=-6,
        size_exponent=-2, tick_structure="linear_cent", price_ranges=(PriceRange(0, 1_000_000, 10_000),), can_close_early=True,
        rules="r1", rules_secondary="r2",
    )  # fmt: skip


def test_created_late_is_added_and_then_opened() -> None:
    changes, market = told(None, "created", OPEN, open_ts=1_000, close_ts=2_000)
    assert changes == ["market_added", "market_status_changed"]
    assert (market.status, market.flaws) == ("active", ("event_ticker", "price_ranges"))


def test_created_again_changes_only_what_it_says() -> None:
    assert told(MARKET, "created", open_ts=1_000, close_ts=2_000)[0] == []
    changes, market = told(MARKET, "created", open_ts=1_000, close_ts=2_500)
    assert (changes, market.status, market.close_ns) == (["market_updated"], "active", 2_500 * SECOND)


def test_paused_and_resumed() -> None:
    changes, paused = told(MARKET, "deactivated", is_deactivated=True)
    assert (changes, paused.status, paused.venue_status) == (["market_status_changed"], "paused", "inactive")
    assert told(paused, "activated")[1] == MARKET
    assert told(PENDING, "activated", OPEN - SECOND) == ([], PENDING)  # it will open at its time


def test_what_was_due_comes_before_the_message_and_is_marked() -> None:
    changes = lifecycle_changes(
        PENDING, entry("determined", CLOSE + SECOND, determination_ts=2_001, result="yes", settlement_value="1.0000")
    )
    assert [(c.change, c.derived) for c in changes] == [("market_status_changed", True)] * 2 + [("market_status_changed", False)]
    market = folded(PENDING, changes)
    assert (market.status, market.result, market.settlement_value) == ("determined", "yes", 1_000_000)
    assert market.determined_ns == 2_001 * SECOND


def test_settled_once() -> None:
    closed = replace(MARKET, status="determined", venue_status="determined", result="no", determined_ns=2_001 * SECOND)
    changes, settled = told(closed, "settled", END, settled_ts=3_000)
    assert (changes, settled.status, settled.venue_status, settled.settled_ns) == (["market_settled"], "settled", "finalized", END)
    assert told(settled, "settled", END + SECOND, settled_ts=3_000)[0] == []
    late, same = told(settled, "determined", END + SECOND, determination_ts=2_001, result="no")
    assert (late, same) == ([], settled)


def test_a_close_that_moves() -> None:
    changes, earlier = told(MARKET, "close_date_updated", 1_500 * SECOND, close_ts=1_500)
    assert (changes, earlier.status) == (["market_updated", "market_status_changed"], "closed")
    changes, later = told(earlier, "close_date_updated", 1_501 * SECOND, close_ts=2_000)
    assert (changes, later) == (["market_updated", "market_status_changed"], MARKET)


def test_metadata_and_prices() -> None:
    _, market = told(MARKET, "metadata_updated", yes_sub_title="Target $5", floor_strike=5.25, strike_type="greater")
    assert (market.subtitle, market.strike_floor, market.strike_type, market.title) == ("Target $5", "5.25", "greater", "A?")
    ranges = [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}]
    _, market = told(MARKET, "price_level_structure_updated", price_level_structure="deci_cent", price_ranges=ranges)
    assert (market.tick_structure, market.price_ranges) == ("deci_cent", (PriceRange(0, 1_000_000, 1_000),))
    _, market = told(MARKET, "price_level_structure_updated", price_ranges="all")
    assert (market.price_ranges, market.flaws) == ((), ("price_ranges",))


def test_combinations_are_left_out_as_definitions_leave_them_out() -> None:
    event = {"event_ticker": "KXMVESPORTSMULTIGAMEEXTENDED-S2025"}
    assert lifecycle_changes(None, entry("created", open_ts=1_000, close_ts=2_000, additional_metadata=event)) == []


@pytest.mark.parametrize("event", ["settled", "determined", "activated", "metadata_updated"])
def test_a_market_that_nobody_defined_waits_for_its_definition(event: str) -> None:
    assert lifecycle_changes(None, entry(event, yes_sub_title="x")) == []


def test_other_entries_change_nothing() -> None:
    for event in ("rest", "definition", "event_lifecycle", "event_fee_update"):
        assert lifecycle_changes(MARKET, replace_body(entry("activated"), event)) == []
    assert lifecycle_changes(None, entry("created", event_ticker="E")) != []


def test_what_has_no_name_marks_the_market_until_it_is_defined_again() -> None:
    kinds, marked = told(MARKET, "suspended")
    assert (kinds, marked) == (["market_updated"], replace(MARKET, flaws=("event_type",)))
    assert told(marked, "suspended")[0] == []
    assert lifecycle_changes(None, entry("suspended")) == []
    again = observed_changes(marked, MARKET, b"{}", OPEN + SECOND)
    assert folded(marked, again) == MARKET


def test_a_definition_of_an_unknown_market() -> None:
    changes = observed_changes(None, PENDING, b"", OPEN)
    assert [(c.change, c.source, c.derived) for c in changes] == [
        ("market_added", "rest", False),
        ("market_status_changed", "derived", True),
    ]
    assert observed_changes(folded(None, changes), PENDING, b"", OPEN + SECOND) == []  # still called initialized by a cache


def test_the_venue_confirms_what_was_derived() -> None:
    opened = folded(PENDING, derived_changes(PENDING, OPEN))
    (change,) = observed_changes(opened, MARKET, b"", OPEN + SECOND)
    assert (change.change, change.fields) == ("market_updated", {"venue_status": ("initialized", "active")})


def test_a_definition_keeps_what_it_cannot_say() -> None:
    _, told_of = told(MARKET, "determined", CLOSE, determination_ts=2_001, result="no", settlement_value="0.0000")
    definition = replace(MARKET, status="determined", venue_status="determined", result="no", settlement_value=0)
    assert observed_changes(told_of, definition, b"", END) == []
    _, settled = told(told_of, "settled", END, settled_ts=3_000)
    finer = replace(definition, status="settled", venue_status="finalized", settled_ns=END + 5)
    (change,) = observed_changes(settled, finer, b"", END + SECOND)
    assert (change.change, change.fields) == ("market_updated", {"settled_ns": (END, END + 5)})  # settled but once
    assert told(folded(settled, [change]), "settled", END + SECOND, settled_ts=3_000)[0] == []


def test_a_definition_from_before_the_message_does_not_undo_it() -> None:
    _, determined = told(MARKET, "determined", CLOSE, determination_ts=2_001, result="no", settlement_value="0.0000")
    stale = replace(MARKET, title="B?")
    changes = observed_changes(determined, stale, b'{"updated_time":"1970-01-01T00:33:20Z"}', END)
    assert [(c.change, list(c.fields)) for c in changes] == [("market_updated", ["title"])]
    reopened = observed_changes(determined, MARKET, b'{"updated_time":"1970-01-01T00:33:25Z"}', OPEN + SECOND)
    assert [c.change for c in reopened] == ["market_status_changed"]
    assert folded(determined, reopened) == MARKET
    assert observed_changes(determined, MARKET, b"{}", OPEN + SECOND) == reopened  # it does not say when: believed


def test_equal_definitions_change_nothing() -> None:
    assert observed_changes(MARKET, MARKET, b"", OPEN) == []
