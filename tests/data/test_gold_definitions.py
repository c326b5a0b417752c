"""The gold recordings on the simulated venue: definitions by REST, settlements by message, opening and closing by the time.

The changes alone tell the state of each of the 31 markets at any minute, as the table beside the recordings has it.
"""

from __future__ import annotations

import asyncio
import csv
import json
import random
from bisect import bisect_right
from collections import defaultdict
from urllib.parse import parse_qsl, urlsplit

import pytest

from exchanges.kalshi.changes import derived_changes, lifecycle_changes, observed_changes
from exchanges.kalshi.decode import Decoder
from exchanges.kalshi.numbers import instant_ns
from exchanges.kalshi.rest import KalshiRest
from exchanges.simulator import feed
from exchanges.simulator.recording import RecordingFeed
from exchanges.simulator.rest import Rest
from exchanges.simulator.venue import Venue
from journal.clock import WallClock
from journal.entry import Entry
from journal.market import Change, Market, apply, decode_change
from tests.recordings import directory, gold_files

MINUTE_MS = 60_000
SECOND_NS = 10**9


class Timeline:
    """Every state that a market had, by the time of the change that made it."""

    def __init__(self) -> None:
        self.states: dict[str, list[tuple[int, Market]]] = defaultdict(list)

    def now(self, symbol: str) -> Market | None:
        return self.states[symbol][-1][1] if self.states[symbol] else None

    def add(self, changes: list[Change], now_ns: int) -> None:
        for change in changes:
            market = apply(self.now(change.symbol), decode_change(change.encode()))
            assert market
            self.states[change.symbol].append((change.at_ns if change.derived else now_ns, market))

    def at(self, symbol: str, at_ns: int) -> Market | None:
        states = self.states[symbol]
        place = bisect_right(states, at_ns, key=lambda state: state[0])
        return states[place - 1][1] if place else None


@pytest.mark.data
def test_every_market_at_every_minute() -> None:
    source = RecordingFeed(gold_files(), keep_times=True)
    venue = Venue(source.catalogue(0), source.books())
    served = Rest(venue)
    rest = KalshiRest(
        "http://venue/trade-api/v2", WallClock(), random.Random(1),
        get=lambda url: served.get(urlsplit(url).path, dict(parse_qsl(urlsplit(url).query))),
    )  # fmt: skip
    timeline, decoder = Timeline(), Decoder()
    minute = 0

    async def listed() -> list[tuple[Market, bytes]]:
        return [row async for page in rest.definitions() for row in page.markets]

    for happening in source.play():
        venue.publish(happening)
        now_ns = venue.now_ms * 1_000_000
        if isinstance(happening, feed.Lifecycle):
            frame = {"type": happening.type, "sid": 1, "seq": 1, "msg": json.loads(happening.body)}
            item, _ = decoder.decode(json.dumps(frame).encode(), now_ns)
            entry = Entry(item.body, "kalshi", item.symbol, b"e" * 16, 1, now_ns, 0, now_ns, 20260810)
            timeline.add(lifecycle_changes(timeline.now(item.symbol), entry), now_ns)
        if venue.now_ms // MINUTE_MS > minute:
            minute = venue.now_ms // MINUTE_MS
            for symbol in list(timeline.states):
                if market := timeline.now(symbol):
                    timeline.add(derived_changes(market, now_ns), now_ns)
            if minute % 30 == 0 or not timeline.states:
                for market, raw in asyncio.run(listed()):
                    timeline.add(observed_changes(timeline.now(market.symbol), market, raw, now_ns), now_ns)
    with (directory() / "kalshi" / "gold15m" / "MARKETS.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(timeline.states) == 31
    for row in rows:
        check(timeline, row)


def check(timeline: Timeline, row: dict[str, str]) -> None:
    symbol = row["window"]
    opens, closes, settles = (instant_ns(row[name]) for name in ("open_time", "close_time", "settlement_ts"))
    first_ns = timeline.states[symbol][0][0]
    last = timeline.now(symbol)
    assert last
    assert (last.status, last.result, last.strike_floor) == ("settled", row["result"], row["floor_strike"])
    assert last.settlement_value == int(row["settlement_value_dollars"].replace(".", "")) * 100
    assert last.settled_ns // SECOND_NS == settles // SECOND_NS
    seen = set()
    for at_ns in range(max(first_ns, opens - 600 * SECOND_NS), settles + 600 * SECOND_NS, 60 * SECOND_NS):
        market = timeline.at(symbol, at_ns)
        assert market
        expected = (
            "pending"
            if at_ns < opens
            else "active"
            if at_ns < closes
            else "closed"
            if at_ns < settles // SECOND_NS * SECOND_NS
            else "settled"
        )
        if expected == "closed" and market.status == "settled":
            continue  # within the second of the settlement
        assert market.status == expected, (symbol, at_ns)
        seen.add(expected)
    assert seen >= {"active", "settled"}
