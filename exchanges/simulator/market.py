"""Markets, events and series as the simulated venue lists them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from exchanges.simulator.book import DOLLAR, TrueBook, count_text, price_text

Fields = dict[str, Any]


def iso(ms: int) -> str:
    """RFC 3339 with as many decimals as needed, as the venue writes times."""
    text = _second(ms // 1000)
    return f"{text}.{ms % 1000:03d}Z" if ms % 1000 else f"{text}Z"


def precise_iso(us: int) -> str:
    """RFC 3339 to the microsecond, trailing zeros trimmed, as the venue writes the `ts` of a frame."""
    whole, micros = divmod(us, 1_000_000)
    return f"{_second(whole)}.{micros:06d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=64)  # nearly all frames share the second of the frame before, and the markets of an event their times
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


class Market:
    """One market: what was said at its listing (`fields`), and its state, which the venue moves as things happen."""

    __slots__ = (
        "close_ms", "determined", "event_ticker", "fields", "known", "last_count", "last_price", "listed_ms", "market_id",
        "open_interest", "open_ms", "paused", "result", "series_ticker", "settled_ms", "settlement_value", "ticker", "traded", "updated_ms",
        "volume",
    )  # fmt: skip

    def __init__(
        self,
        ticker: str,
        event_ticker: str,
        series_ticker: str,
        *,
        market_id: str = "",
        listed_ms: int,
        open_ms: int,
        close_ms: int,
        known: bool = True,
        fields: Fields | None = None,
    ) -> None:
        self.ticker = ticker
        self.event_ticker = event_ticker
        self.series_ticker = series_ticker
        self.market_id = market_id
        self.listed_ms = listed_ms
        self.open_ms = open_ms
        self.close_ms = close_ms
        self.known = known  # False: the book is unknown until the first snapshot
        self.fields = fields or {}
        self.paused = False
        self.determined = False
        self.result = ""
        self.settlement_value = 0  # micro-dollars
        self.settled_ms = 0
        self.updated_ms = listed_ms
        self.last_price = 0
        self.last_count = 0
        self.volume = 0
        self.open_interest = 0
        self.traded = 0  # micro-dollars x hundredths

    def status(self, now_ms: int) -> str:
        if self.settled_ms:
            return "finalized"
        if self.determined:
            return "determined"
        if now_ms >= self.close_ms:
            return "closed"
        if self.paused:
            return "inactive"
        return "active" if now_ms >= self.open_ms else "initialized"

    def trade(self, price: int, count: int) -> None:
        self.last_price = price
        self.last_count = count
        self.volume += count
        self.open_interest += count
        self.traded += price * count

    def changed_ms(self, now_ms: int) -> int:
        """When it last changed, as the venue counts: what is not trading, opening and closing included."""
        return max(self.updated_ms, *(at for at in (self.open_ms, self.close_ms, 0) if at <= now_ms))

    def record(self, book: TrueBook, now_ms: int) -> Fields:
        """The market as REST shows it at this moment; nothing of its future."""
        yes, yes_count, no, no_count = book.best()
        record: Fields = {
            "market_type": "binary",
            "title": self.ticker,
            "yes_sub_title": "",
            "no_sub_title": "",
            "expected_expiration_time": iso(self.close_ms + 300_000),
            "latest_expiration_time": iso(self.close_ms),
            "settlement_timer_seconds": 1,
            "settlement_bounds_type": "default",
            "can_close_early": True,
            "notional_value_dollars": "1.0000",
            "previous_yes_bid_dollars": "0.0000",
            "previous_yes_ask_dollars": "0.0000",
            "previous_price_dollars": "0.0000",
            "rules_primary": "",
            "rules_secondary": "",
            "price_level_structure": "linear_cent",
            "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}],
            "exchange_index": 0,
        }
        record |= self.fields
        record |= {
            "ticker": self.ticker,
            "event_ticker": self.event_ticker,
            "status": self.status(now_ms),
            "created_time": iso(self.listed_ms),
            "updated_time": iso(self.changed_ms(now_ms)),
            "open_time": iso(self.open_ms),
            "close_time": iso(self.close_ms),
            "yes_bid_dollars": price_text(yes),
            "yes_bid_size_fp": count_text(yes_count),
            "yes_ask_dollars": price_text(DOLLAR - no),
            "yes_ask_size_fp": count_text(no_count),
            "no_bid_dollars": price_text(no),
            "no_ask_dollars": price_text(DOLLAR - yes),
            "last_price_dollars": price_text(self.last_price),
            "volume_fp": count_text(self.volume),
            "volume_24h_fp": count_text(self.volume),
            "open_interest_fp": count_text(self.open_interest),
            "result": self.result,
            "expiration_value": self.fields.get("expiration_value", "") if self.determined else "",
        }
        if self.determined:
            record["settlement_value_dollars"] = price_text(self.settlement_value)
        if self.settled_ms:
            record["settlement_ts"] = iso(self.settled_ms)
        return record

    def ticker_message(self, book: TrueBook, at_ms: int) -> Fields:
        """The `msg` of a `ticker` frame."""
        yes, yes_count, no, no_count = book.best()
        return {
            "market_id": self.market_id,
            "market_ticker": self.ticker,
            "price_dollars": price_text(self.last_price),
            "yes_bid_dollars": price_text(yes),
            "yes_ask_dollars": price_text(DOLLAR - no),
            "volume_fp": count_text(self.volume),
            "open_interest_fp": count_text(self.open_interest),
            "yes_bid_size_fp": count_text(yes_count),
            "yes_ask_size_fp": count_text(no_count),
            "last_trade_size_fp": count_text(self.last_count),
            "dollar_volume": self.traded // (DOLLAR * 100),
            "dollar_open_interest": self.open_interest // 100,
            "ts": at_ms // 1000,
            "ts_ms": at_ms,
            "time": iso(at_ms),
        }


class Catalogue:
    """What is listed. Events and series are the venue's REST records without nested markets."""

    def __init__(self) -> None:
        self.series: dict[str, Fields] = {}
        self.events: dict[str, Fields] = {}
        self.markets: dict[str, Market] = {}

    def list_market(self, market: Market, event: Fields | None = None, series: Fields | None = None) -> None:
        """Add a market, and its event and series where they are not listed yet."""
        self.markets[market.ticker] = market
        self.series.setdefault(
            market.series_ticker,
            series
            or {
                "ticker": market.series_ticker,
                "frequency": "custom",
                "title": market.series_ticker,
                "category": "Simulated",
                "categories": ["Simulated"],
                "tags": [],
                "settlement_sources": [],
                "contract_url": "",
                "contract_terms_url": "",
                "fee_type": "quadratic",
                "fee_multiplier": 1,
                "exchange_index": 0,
            },
        )
        self.events.setdefault(
            market.event_ticker,
            event
            or {
                "event_ticker": market.event_ticker,
                "series_ticker": market.series_ticker,
                "title": market.event_ticker,
                "sub_title": "",
                "collateral_return_type": "",
                "mutually_exclusive": False,
                "category": "Simulated",
                "exchange_index": 0,
            },
        )

    def unlist(self, ticker: str) -> None:
        """Remove a market, and its event with its last market."""
        market = self.markets.pop(ticker)
        if all(other.event_ticker != market.event_ticker for other in self.markets.values()):
            self.events.pop(market.event_ticker, None)
