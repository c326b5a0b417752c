"""The synthetic venue's series: what is traded, for how long, at which prices."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from exchanges.simulator.book import DOLLAR, price_text
from exchanges.simulator.market import Fields

CENT = DOLLAR // 100
DECI = DOLLAR // 1000

# name -> (from, to, step), as the venue's `price_ranges`; symmetric, so a no price is on the same grid as its yes price
STRUCTURES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "linear_cent": ((0, DOLLAR, CENT),),
    "deci_cent": ((0, DOLLAR, DECI),),
    "tapered_deci_cent": ((0, 10 * CENT, DECI), (10 * CENT, 90 * CENT, CENT), (90 * CENT, DOLLAR, DECI)),
}


def price_ranges(structure: str) -> list[dict[str, str]]:
    return [{"start": price_text(start), "end": price_text(end), "step": price_text(step)} for start, end, step in STRUCTURES[structure]]


def tick_below(structure: str, price: int) -> int:
    """The highest allowed price at or below `price`; 0 below the lowest."""
    for start, end, step in STRUCTURES[structure]:
        if price < end:
            return price - (price - start) % step if price > 0 else 0
    return DOLLAR - STRUCTURES[structure][-1][2]


def step_at(structure: str, price: int) -> int:
    return next((step for _, end, step in STRUCTURES[structure] if price < end), STRUCTURES[structure][-1][2])


class Series(NamedTuple):
    """`spot` in cents of the underlying; `volatility` relative, per square root of a second."""

    ticker: str
    title: str
    category: str
    length_s: int
    first_close_s: int  # after the start: closings come soon in a short demonstration
    spot: int
    volatility: float
    structure: str
    letter: str  # of the strike in the ticker; "" for an up/down market

    def record(self) -> Fields:
        return {
            "ticker": self.ticker,
            "frequency": "hourly" if self.length_s >= 3600 else "custom",
            "title": self.title,
            "category": self.category,
            "categories": [self.category],
            "tags": ["simulated"],
            "settlement_sources": [{"name": "ssmd simulator", "url": ""}],
            "contract_url": "",
            "contract_terms_url": "",
            "fee_type": "quadratic",
            "fee_multiplier": 1,
            "exchange_index": 0,
        }

    def event_ticker(self, close_ms: int) -> str:
        """``KXSIMGOLDH-26NOV221400``: the minute of the close, UTC."""
        return f"{self.ticker}-{datetime.fromtimestamp(close_ms // 1000, UTC).strftime('%y%b%d%H%M').upper()}"

    def event_record(self, event_ticker: str) -> Fields:
        return {
            "event_ticker": event_ticker,
            "series_ticker": self.ticker,
            "title": self.title,
            "sub_title": event_ticker.rpartition("-")[2],
            "collateral_return_type": "",
            "mutually_exclusive": False,
            "category": self.category,
            "strike_period": "",
            "exchange_index": 0,
        }


SERIES = (
    Series("KXSIMBTC15M", "Bitcoin up in 15 minutes?", "Crypto", 900, 75, 8_395_000, 8e-5, "tapered_deci_cent", ""),
    Series("KXSIMETH5M", "Ether above a price in 5 minutes?", "Crypto", 300, 15, 265_050, 1.1e-4, "deci_cent", "B"),
    Series("KXSIMGOLDH", "Gold above a price this hour?", "Commodities", 3600, 600, 461_600, 4e-5, "linear_cent", "T"),
)
