"""The venue's REST answers, from its state: a path and a query in, a status and a JSON body out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from exchanges.simulator.market import Fields, Market, iso
from exchanges.simulator.venue import PastTrade, Venue

PREFIX = "/trade-api/v2"
# one query status covers several values of the field
STATUSES = {
    "unopened": {"initialized"},
    "open": {"active"},
    "paused": {"inactive"},
    "closed": {"closed", "determined", "disputed", "amended"},
    "settled": {"finalized"},
}
Query = dict[str, str]
T = TypeVar("T")


class Problem(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class Rest:
    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._exact: dict[str, Callable[[Query], Fields]] = {
            "/markets": self._markets,
            "/markets/orderbooks": self._orderbooks,
            "/markets/trades": self._trades,
            "/events": self._events,
            "/series": self._all_series,
            "/exchange/status": self._status,
            "/exchange/schedule": self._schedule,
        }

    def get(self, path: str, query: Query) -> tuple[int, bytes]:
        """`path` without the query string. Never raises for what a client sent."""
        try:
            return 200, msgspec.json.encode(self._answer(path.removeprefix(PREFIX).rstrip("/"), query))
        except Problem as problem:
            return problem.status, msgspec.json.encode({"error": {"code": problem.code, "message": str(problem), "details": path}})

    def _answer(self, path: str, query: Query) -> Fields:
        handler = self._exact.get(path)
        if handler is not None:
            return handler(query)
        match path.strip("/").split("/"):
            case ["markets", ticker]:
                return {"market": self._record(self._market(ticker))}
            case ["markets", ticker, "orderbook"]:
                return {"orderbook_fp": self._book(self._market(ticker), query)}
            case ["events", ticker]:
                return self._event(ticker, query)
            case ["series", ticker] if ticker in self._venue.catalogue.series:
                return {"series": self._venue.catalogue.series[ticker]}
        raise Problem(404, "not_found", "not found")

    def _market(self, ticker: str) -> Market:
        market = self._venue.catalogue.markets.get(ticker)
        if market is None:
            raise Problem(404, "not_found", "market not found")
        return market

    def _record(self, market: Market) -> Fields:
        return market.record(self._venue.books[market.ticker], self._venue.now_ms)

    def _listed(self) -> Iterator[Market]:
        """What has been created by now, by ticker."""
        for ticker in sorted(self._venue.catalogue.markets):
            market = self._venue.catalogue.markets[ticker]
            if market.listed_ms <= self._venue.now_ms:
                yield market

    def _markets(self, query: Query) -> Fields:
        wanted = [market for market in self._listed() if self._selected(market, query)]
        page, cursor = paged(wanted, lambda market: market.ticker, query, most=1000)
        return {"markets": [self._record(market) for market in page], "cursor": cursor}

    def _selected(self, market: Market, query: Query) -> bool:
        tickers = query.get("tickers")
        bounds = (("created", market.listed_ms), ("close", market.close_ms), ("settled", market.settled_ms), ("updated", market.updated_ms))
        return (
            (not tickers or market.ticker in tickers.split(","))
            and query.get("event_ticker") in {None, "", market.event_ticker}
            and query.get("series_ticker") in {None, "", market.series_ticker}
            and (not query.get("status") or market.status(self._venue.now_ms) in statuses(query["status"]))
            and query.get("mve_filter") != "only"
            and all(
                number(query, f"min_{name}_ts", 0) * 1000 <= ms <= number(query, f"max_{name}_ts", 1 << 40) * 1000 for name, ms in bounds
            )
        )

    def _book(self, market: Market, query: Query) -> Fields:
        yes, no = self._venue.books[market.ticker].levels(depth=number(query, "depth", 0, most=100))
        return {"yes_dollars": yes, "no_dollars": no}

    def _orderbooks(self, query: Query) -> Fields:
        tickers = [ticker for ticker in query.get("tickers", "").split(",") if ticker]
        if not 0 < len(tickers) <= 100:
            raise Problem(400, "bad_request", "tickers: 1 to 100 market tickers")
        return {"orderbooks": [{"ticker": ticker, "orderbook_fp": self._book(self._market(ticker), query)} for ticker in tickers]}

    def _trades(self, query: Query) -> Fields:
        ticker = query.get("ticker")
        from_ms, to_ms = number(query, "min_ts", 0) * 1000, number(query, "max_ts", 1 << 40) * 1000 + 999
        wanted = [trade for trade in reversed(self._venue.trades) if ticker in {None, "", trade.ticker} and from_ms <= trade.at_ms <= to_ms]
        page, cursor = paged(wanted, lambda trade: f"{(1 << 40) - trade.number:020}", query, most=1000)
        return {"trades": [_trade(trade) for trade in page], "cursor": cursor}

    def _events(self, query: Query) -> Fields:
        listed: dict[str, list[Market]] = {}
        for market in self._listed():
            listed.setdefault(market.event_ticker, []).append(market)
        tickers = query.get("tickers")
        wanted = [
            ticker
            for ticker in sorted(listed)
            if (not tickers or ticker in tickers.split(","))
            and query.get("series_ticker") in {None, "", listed[ticker][0].series_ticker}
            and (not query.get("status") or any(m.status(self._venue.now_ms) in statuses(query["status"]) for m in listed[ticker]))
            and any(market.close_ms >= number(query, "min_close_ts", 0) * 1000 for market in listed[ticker])
        ]
        page, cursor = paged(wanted, lambda ticker: ticker, query, most=200)
        events = [dict(self._venue.catalogue.events[ticker]) for ticker in page]
        if query.get("with_nested_markets") == "true":
            for event in events:
                event["markets"] = [self._record(market) for market in listed[event["event_ticker"]]]
        return {"events": events, "cursor": cursor}

    def _event(self, ticker: str, query: Query) -> Fields:
        markets = [self._record(market) for market in self._listed() if market.event_ticker == ticker]
        if not markets:
            raise Problem(404, "not_found", "event not found")
        event = dict(self._venue.catalogue.events[ticker])
        if query.get("with_nested_markets") == "true":
            return {"event": event | {"markets": markets}}
        return {"event": event, "markets": markets}

    def _all_series(self, query: Query) -> Fields:
        category = query.get("category")
        series = self._venue.catalogue.series
        return {"series": [series[ticker] for ticker in sorted(series) if category in {None, "", series[ticker].get("category")}]}

    def _status(self, query: Query) -> Fields:
        del query
        return {
            "exchange_active": True,
            "trading_active": True,
            "exchange_estimated_resume_time": None,
            "exchange_index_statuses": [
                {"exchange_index": 0, "description": "simulator", "exchange_active": True, "trading_active": True},
            ],
        }

    def _schedule(self, query: Query) -> Fields:
        del query
        whole = [{"open_time": "00:00", "close_time": "00:00"}]
        days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        hours: Fields = {"start_time": "2024-12-01T00:00:00Z", "end_time": "2200-12-01T00:00:00Z"} | dict.fromkeys(days, whole)
        return {"schedule": {"standard_hours": [hours], "maintenance_windows": []}}


def statuses(name: str) -> set[str]:
    """The field values that a query status covers."""
    if name not in STATUSES:
        raise Problem(400, "bad_request", f"status: one of {', '.join(STATUSES)}")
    return STATUSES[name]


def number(query: Query, name: str, default: int, *, most: int = 1 << 40) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) > most:
        raise Problem(400, "bad_request", f"{name}: a whole number up to {most}")
    return int(text)


def paged(rows: list[T], key: Callable[[T], str], query: Query, *, most: int) -> tuple[list[T], str]:
    """One page of rows that ascend by `key`, and the cursor of the next one, "" at the end. Rows added meanwhile do not shift pages."""
    limit = number(query, "limit", 100, most=most) or 100
    after = ""
    if cursor := query.get("cursor"):
        try:
            after = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
        except ValueError:
            raise Problem(400, "bad_request", "cursor: not one of this endpoint's") from None
    left = [row for row in rows if key(row) > after]
    page = left[:limit]
    return page, base64.urlsafe_b64encode(key(page[-1]).encode()).decode() if len(left) > limit else ""


def _trade(trade: PastTrade) -> dict[str, Any]:
    message = msgspec.json.decode(trade.body)
    at_ms = message.pop("ts_ms", trade.at_ms)
    message.pop("ts", None)
    return {
        "ticker": message.pop("market_ticker"),
        **message,
        "created_time": iso(at_ms),
        "is_block_trade": message.get("is_block_trade", False),
    }
