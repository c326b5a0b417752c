"""Two hours of the simulated venue: what its messages and the time say of a market is what its REST says."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from urllib.parse import parse_qsl, urlsplit

from msgspec.structs import replace

from exchanges.kalshi.changes import derived_changes, lifecycle_changes, observed_changes
from exchanges.kalshi.decode import Decoder
from exchanges.kalshi.rest import KalshiRest
from exchanges.simulator import feed
from exchanges.simulator.rest import Rest
from exchanges.simulator.synthetic import SyntheticFeed
from exchanges.simulator.venue import Venue
from journal.clock import WallClock
from journal.entry import Entry
from journal.market import Change, Market, apply, decode_change

START_MS = 1_795_000_000_000  # a whole second: messages count in seconds
HOUR_MS = 3_600_000
# What no message says, and what the venue only says by REST: that it did as it had announced.
LATER = {"category", "tags", "type", "expiration_ns", "venue_status", "settled_ns", "volume_class"}


class Folded:
    """Markets by their changes alone, each through its JSON."""

    def __init__(self) -> None:
        self.markets: dict[str, Market] = {}
        self.happened: Counter[str] = Counter()

    def add(self, changes: list[Change]) -> None:
        for change in changes:
            self.happened[f"{change.source} {change.change}"] += 1
            market = apply(self.markets.get(change.symbol), decode_change(change.encode()))
            assert market
            self.markets[change.symbol] = market


def test_messages_time_and_definitions_agree() -> None:
    source = SyntheticFeed(5, markets=20, rate=2.0)
    venue = Venue(source.catalogue(START_MS), source.books())
    venue.now_ms = START_MS
    served = Rest(venue)
    rest = KalshiRest(
        "http://venue/trade-api/v2", WallClock(), random.Random(1),
        get=lambda url: served.get(urlsplit(url).path, dict(parse_qsl(urlsplit(url).query))),
    )  # fmt: skip
    folded, decoder = Folded(), Decoder()
    before_ns = 0

    async def listed(since_ns: int = 0) -> list[tuple[Market, bytes]]:
        return [row async for page in rest.definitions(since_ns=since_ns) for row in page.markets]

    def synchronise(*, whole: bool) -> None:
        nonlocal before_ns
        now_ns = venue.now_ms * 1_000_000
        for market, raw in asyncio.run(listed(0 if whole else before_ns)):
            assert market.flaws == ()
            before = folded.markets.get(market.symbol)
            if before is not None:
                due = derived_changes(before, now_ns)
                folded.add(due)
                before = folded.markets[market.symbol]
                changes = observed_changes(before, market, raw, now_ns)
                assert not any(change.derived for change in changes)
                different = {name for change in changes for name in change.fields}
                paused = before.status == "paused" and market.status == "closed"  # paused at its close: only REST tells
                assert different <= LATER | ({"status"} if paused else set()), (before, market)
            folded.add(observed_changes(before, market, raw, now_ns))
            assert replace(folded.markets[market.symbol], determined_ns=0) == market
        before_ns = now_ns

    synchronise(whole=True)
    due_ms = START_MS
    for happening in source.play():
        venue.publish(happening)
        now_ns = venue.now_ms * 1_000_000
        if isinstance(happening, feed.Lifecycle) and happening.body:
            frame = {"type": happening.type, "sid": 1, "seq": 1, "msg": json.loads(happening.body)}
            item, _ = decoder.decode(json.dumps(frame).encode(), now_ns)
            entry = Entry(item.body, "kalshi", item.symbol, b"e" * 16, 1, now_ns, 0, now_ns, 20261118)
            folded.add(lifecycle_changes(folded.markets.get(item.symbol), entry))
        if venue.now_ms >= due_ms:
            due_ms = venue.now_ms + 7 * 60_000
            synchronise(whole=due_ms % 2 == 0)
        if venue.now_ms > START_MS + 2 * HOUR_MS:
            break
    synchronise(whole=True)
    assert {market.status for market in folded.markets.values()} >= {"active", "settled"}
    happened = folded.happened
    settled = sum(market.status == "settled" for market in folded.markets.values())
    assert happened["lifecycle market_settled"] + happened["rest market_settled"] == settled > 100
    assert happened["lifecycle market_added"] > 100
    assert happened["derived market_status_changed"] > 200
    assert happened["lifecycle market_status_changed"] > 100
    assert decoder.unparsed == 0
