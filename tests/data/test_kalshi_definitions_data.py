"""Every captured market object of three eras as a definition, compared with an independent reading of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from exchanges.kalshi.changes import lifecycle_changes
from exchanges.kalshi.decode import Decoder
from exchanges.kalshi.definitions import _FIELDS, EventFacts, parse_definition, parse_event, parse_series
from journal.entry import Entry, Lifecycle
from journal.market import Market
from tests.recordings import directory

pytestmark = pytest.mark.data
ERAS = {"rest_202601": 7, "rest_202603": 46, "rest_202609": 1, "gold15m/metadata": 31}


def objects(value: Any, event: dict[str, Any] | None = None) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Every market object in an answer, with the event it stands under or beside."""
    if isinstance(value, dict):
        if "ticker" in value and "market_type" in value:
            yield value, event
        beside = value.get("event", value if "event_ticker" in value else event)
        for inner in value.values():
            yield from objects(inner, beside if isinstance(beside, dict) else event)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner, event)


def captured(era: str) -> Iterator[tuple[bytes, dict[str, Any], dict[str, Any] | None]]:
    """Each as (the bytes of it, the object with numbers as Decimal, its event)."""
    for path in sorted((directory() / "kalshi" / era).glob("*.json")):
        for record, event in objects(json.loads(path.read_text(), parse_float=Decimal)):
            yield json.dumps(record, default=float).encode(), record, event


def ns(text: str | None) -> int:
    if not text or text.startswith("0001"):
        return 0
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000


def micros(text: str) -> int:
    exact = Fraction(text) * 1_000_000
    assert exact.denominator == 1
    return exact.numerator


def same(market: Market, record: dict[str, Any]) -> None:
    assert market.symbol == record["ticker"]
    assert market.event == record["event_ticker"]
    assert (market.type, market.title) == (record["market_type"], record["title"])
    assert (market.open_ns, market.close_ns) == (ns(record["open_time"]), ns(record["close_time"]))
    assert market.close_ns > market.open_ns > 0
    assert market.expiration_ns == ns(record["latest_expiration_time"])
    assert market.expected_expiration_ns == ns(record["expected_expiration_time"])
    assert market.settled_ns == ns(record.get("settlement_ts"))
    assert (market.rules, market.rules_secondary) == (record["rules_primary"], record["rules_secondary"])
    assert market.status == {"active": "active", "finalized": "settled"}[record["status"]]
    assert market.venue_status == record["status"]
    assert market.result == record["result"]
    for text, name in ((market.strike_floor, "floor_strike"), (market.strike_cap, "cap_strike")):
        assert (Decimal(text) if text else None) == record.get(name)
    assert json.loads(market.strike_custom or "null") == record.get("custom_strike")
    assert market.strike_type == record.get("strike_type", "")
    assert [(r.start, r.end, r.step) for r in market.price_ranges] == [
        (micros(r["start"]), micros(r["end"]), micros(r["step"])) for r in record["price_ranges"]
    ]
    assert market.tick_structure == record["price_level_structure"]
    assert market.can_close_early is record["can_close_early"]
    value = record.get("settlement_value_dollars")
    assert market.settlement_value == (None if value is None else micros(value))


@pytest.mark.parametrize(("era", "markets"), ERAS.items())
def test_every_market_of_an_era(era: str, markets: int) -> None:
    count = 0
    for raw, record, event in captured(era):
        facts = parse_event(event) if event else EventFacts(record["event_ticker"])
        market = parse_definition(raw, facts)
        assert market
        assert market.flaws == ()
        same(market, record)
        if event:
            assert market.series == event.get("series_ticker", "")
            assert market.category == event.get("category", "")
        count += 1
    assert count == markets


def test_strikes_are_the_very_text_of_the_capture() -> None:
    text = (directory() / "kalshi" / "rest_202609" / "markets_open_KXBTC15M.json").read_bytes()

    class Page(msgspec.Struct):
        markets: list[msgspec.Raw]

    (raw,) = msgspec.json.decode(text, type=Page).markets
    market = parse_definition(raw)
    assert market
    assert market.strike_floor == "83950.62"
    assert bytes(raw) in text


def test_every_series() -> None:
    root = directory() / "kalshi"
    many = json.loads((root / "rest_202601" / "series_list_response.json").read_text())["response"]["series"]
    one = json.loads((root / "rest_202609" / "series_KXBTC15M.json").read_text())["series"]
    assert len(many) > 100
    for record in (*many, one):
        found = parse_series(record)
        assert found
        assert found == (record["ticker"], (record["category"], tuple(record["tags"] or ())))


def test_gold_markets_agree_with_their_table() -> None:
    root = directory() / "kalshi" / "gold15m"
    with (root / "MARKETS.csv").open() as lines:
        table = {row["window"]: row for row in csv.DictReader(lines)}
    found = {m.symbol: m for raw, _, event in captured("gold15m/metadata") if (m := parse_definition(raw, parse_event(event or {})))}
    assert found.keys() == table.keys()
    assert len(found) == 31
    for symbol, market in found.items():
        row = table[symbol]
        assert market.series == "KXGOLD15M"
        assert (market.result, market.settlement_value) == (row["result"], micros(row["settlement_value_dollars"]))
        assert (market.settled_ns, market.strike_floor) == (ns(row["settlement_ts"]), row["floor_strike"])


def test_captured_messages_change_the_markets_they_name() -> None:
    lines = (directory() / "kalshi" / "frames" / "frames.jsonl").read_text().splitlines()
    outcomes: list[tuple[str, str]] = []
    for line in lines:
        item, _ = Decoder().decode(json.dumps(json.loads(line)["frame"]).encode(), 1_784_501_723 * 10**9)
        if not isinstance(item.body, Lifecycle):
            continue
        at_ns = 1_784_501_723 * 10**9
        entry = Entry(item.body, "kalshi", item.symbol, b"e" * 16, 1, at_ns, 0, at_ns, 20260719)
        market = Market(symbol=item.symbol, status="closed", venue_status="closed")
        outcomes += [(change.change, change.fields["status"][1]) for change in lifecycle_changes(market, entry)]
    assert outcomes == [
        ("market_status_changed", "determined"),
        ("market_settled", "settled"),
        ("market_status_changed", "determined"),
        ("market_settled", "settled"),
    ]


# Prices, other volumes, what only says again what another field says, and legs of combinations, which are in the raw object.
LEFT_OUT = """
created_time early_close_condition exchange_index expiration_value fractional_trading_enabled last_price last_price_dollars liquidity
liquidity_dollars mve_collection_ticker mve_selected_legs no_ask no_ask_dollars no_bid no_bid_dollars no_sub_title notional_value
notional_value_dollars occurrence_datetime open_interest open_interest_fp previous_price previous_price_dollars previous_yes_ask
previous_yes_ask_dollars previous_yes_bid previous_yes_bid_dollars response_price_units settlement_timer_seconds updated_time
volume_24h volume_24h_fp yes_ask yes_ask_dollars yes_ask_size_fp yes_bid yes_bid_dollars yes_bid_size_fp
"""


def test_nothing_else_of_the_captures_is_left_out() -> None:
    read = {name for name, _, _ in _FIELDS} | {"ticker", "status"}
    sent = {name for era in ERAS for _, record, _ in captured(era) for name in record}
    assert sent - read == set(LEFT_OUT.split())
