"""The 31 recorded markets as a venue would have listed them, asked every minute: definitions and settlements as of any minute.

The venue is the simulated one with the recorded definitions; what is true is read from the recordings' own table.
"""

from __future__ import annotations

import asyncio
import csv
import json
import random
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from exchanges.kalshi.changes import derived_changes, observed_changes
from exchanges.kalshi.rest import Answer, KalshiRest
from exchanges.simulator.metadata import Listings
from exchanges.simulator.rest import PREFIX, Rest
from exchanges.simulator.venue import Venue
from journal.errors import NotFound
from journal.memory import MemoryJournal
from projections.secmaster import change_of
from ssmd.render import Silent
from ssmd.secmaster.past import history_of, market_as_of
from ssmd.secmaster.reading import History
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import Sync
from tests.recordings import directory, gold_files
from tests.secmaster.listing import ENV, QUESTION, SetClock, ledger_of

pytestmark = [pytest.mark.data, pytest.mark.timeout(600)]
MINUTE_MS = 60_000
AROUND = 3  # minutes before the opening and after the settlement


class Gold:
    """The recorded venue at any time, moved forward only."""

    def __init__(self) -> None:
        listings = Listings()
        for path in gold_files():
            listings.look_near(path)
            listings.infer(0, "", json.dumps({"market_ticker": path.parent.name}).encode())
        with (directory() / "kalshi" / "gold15m" / "MARKETS.csv").open() as file:
            self.truth = {row["window"]: row for row in csv.DictReader(file)}
        self.minutes = sorted({m for symbol in self.truth for m in self.life(symbol)})
        catalogue, self._endings = listings.catalogue(0, from_ms=self.minutes[0])
        self.venue = Venue(catalogue)
        self._rest = Rest(self.venue)

    def ms(self, symbol: str, field: str) -> int:
        return int(datetime.fromisoformat(self.truth[symbol][field]).timestamp() * 1000)

    def life(self, symbol: str) -> range:
        """Whole minutes from before the opening to after the settlement."""
        first = self.ms(symbol, "open_time") // MINUTE_MS - AROUND
        return range(first * MINUTE_MS, (self.ms(symbol, "settlement_ts") // MINUTE_MS + AROUND) * MINUTE_MS, MINUTE_MS)

    def go(self, now_ms: int) -> None:
        self.venue.now_ms = now_ms
        while self._endings and self._endings[0].at_ms <= now_ms:
            self.venue.publish(self._endings.pop(0))

    def get(self, url: str) -> Answer:
        parts = urlsplit(url)
        return self._rest.get(PREFIX + parts.path.removeprefix(PREFIX), dict(parse_qsl(parts.query)))

    def expected(self, symbol: str, at_ms: int) -> str:
        if at_ms >= self.ms(symbol, "settlement_ts"):
            return "settled"
        if at_ms >= self.ms(symbol, "close_time"):
            return "closed"
        return "active" if at_ms >= self.ms(symbol, "open_time") else "pending"


def test_definitions_and_settlements_are_queryable_as_of_any_minute(tmp_path: Path) -> None:
    async def body() -> None:
        gold, journal, clock = Gold(), MemoryJournal(), SetClock()
        assert len(gold.truth) == 31
        ledger = ledger_of(tmp_path, journal, clock)
        sync = Sync(ledger, clock, observed_changes, derived_changes)
        rest = KalshiRest(f"https://venue{PREFIX}", clock, random.Random(1), get=gold.get)
        unknown: tuple[str, ...] = ()
        for now_ms in gold.minutes:
            gold.go(now_ms)
            clock.ns = now_ms * 1_000_000
            unknown += (await sync.run(rest, QUESTION, "gold", full=False, meter=Silent())).unknown
        assert unknown == ()
        history, checked = History(secmaster(ENV), journal), 0
        for symbol, truth in gold.truth.items():
            for at_ms in gold.life(symbol):
                known, _, raw = await market_as_of(history, symbol, at_ms * 1_000_000)
                market, expected = known.market, gold.expected(symbol, at_ms)
                assert market
                assert market.status == expected, (symbol, at_ms)
                assert (market.series, market.flaws) == ("KXGOLD15M", ())
                assert json.loads(raw)["ticker"] == symbol
                if expected == "settled":
                    value = round(float(truth["settlement_value_dollars"]) * 1_000_000)
                    assert (market.result, market.settlement_value) == (truth["result"], value)
                else:
                    assert (market.result, market.settlement_value) == ("", None)  # nothing is known before it is
                checked += 1
            changes = [c for r in await history_of(history, symbol) if (c := change_of(r.entry))]
            assert changes[0].change == "market_added"
            assert [c.change for c in changes].count("market_settled") == 1
            assert changes[0].market
            assert float(changes[0].market.strike_floor) == float(truth["floor_strike"])
            with pytest.raises(NotFound, match="not known yet"):
                await market_as_of(history, symbol, (gold.minutes[0] - 1) * 1_000_000)
        assert checked > 31 * 15

    asyncio.run(body())
