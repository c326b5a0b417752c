"""The venue's REST answers, from its state: a path and a query in, a status and a JSON body out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from exchanges.simulator.book import TrueBook
from exchanges.simulator.listing import Listing
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
LISTED = "listed-"  # how a cursor into the synthetic listing begins; it comes after the markets that trade
Query = dict[str, str]
T = TypeVar("T")


class Problem(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class Rest:
    """`listing`: markets that are listed beside those of the venue's feed."""

    def __init__(self, venue: Venue, listing: Listing | None = None) -> None:
        self._venue = venue
        self._listing = listing or Listing(0, 0, 0)
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
            case ["series", ticker] if (number := self._listing.find_series(ticker)) is not None:
                return {"series": self._listing.series_record(number)}
        raise Problem(404, "not_found", "not found")

    def _market(self, ticker: str) -> Market:
        market = self._venue.catalogue.markets.get(ticker)
        if market is None and (number := self._listing.find_market(ticker)) is not None:
            market = self._listing.market(number, self._venue.now_ms)
        if market is None:
            raise Problem(404, "not_found", "market not found")
        return market

    def _record(self, market: Market) -> Fields:
        return market.record(self._true_book(market), self._venue.now_ms)

    def _true_book(self, market: Market) -> TrueBook:
        return self._venue.books.get(market.ticker) or TrueBook()

    def _listed(self) -> Iterator[Market]:
        """What has been created by now, by ticker."""
        for ticker in sorted(self._venue.catalogue.markets):
            market = self._venue.catalogue.markets[ticker]
            if market.listed_ms <= self._venue.now_ms:
                yield market

    def _markets(self, query: Query) -> Fields:
        page: list[Market] = []
        cursor = query.get("cursor", "")
        if not cursor.startswith(LISTED):
            wanted = [market for market in self._listed() if self._selected(market, query)]
            page, cursor = paged(wanted, lambda market: market.ticker, query, most=1000)
            cursor = cursor or f"{LISTED}0"
        if cursor.startswith(LISTED):
            more, cursor = self._more_markets(query, _position(cursor), (number(query, "limit", 100, most=1000) or 100) - len(page))
            page += more
        return {"markets": [self._record(market) for market in page], "cursor": cursor}

    def _more_markets(self, query: Query, at: int, limit: int) -> tuple[list[Market], str]:
        """Up to `limit` markets of the listing from the `at`th of those asked for, and the cursor of the next."""
        listing, now_ms = self._listing, self._venue.now_ms
        numbers: Iterable[int] = range(len(listing))
        if query.get("tickers"):
            numbers = [n for ticker in query["tickers"].split(",") if (n := listing.find_market(ticker)) is not None]
        elif query.get("event_ticker"):
            event = listing.find_event(query["event_ticker"])
            numbers = listing.of_event(event) if event is not None else ()
        elif query.get("series_ticker"):
            series = listing.find_series(query["series_ticker"])
            numbers = [n for event in listing.of_series(series) for n in listing.of_event(event)] if series is not None else ()
        found: list[Market] = []
        since_ms = number(query, "min_updated_ts", 0) * 1000
        for place, wanted in enumerate(numbers[at:], at):  # type: ignore[index]  # ranges and lists
            if since_ms and listing.updated_ms(wanted, now_ms) < since_ms:
                continue
            market = listing.market(wanted, now_ms)
            if market.listed_ms <= now_ms and self._selected(market, query):
                if len(found) == limit:
                    return found, f"{LISTED}{place}"
                found.append(market)
        return found, ""

    def _selected(self, market: Market, query: Query) -> bool:
        tickers = query.get("tickers")
        updated_ms = market.changed_ms(self._venue.now_ms)
        bounds = (("created", market.listed_ms), ("close", market.close_ms), ("settled", market.settled_ms), ("updated", updated_ms))
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
        yes, no = self._true_book(market).levels(depth=number(query, "depth", 0, most=100))
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
        nested = query.get("with_nested_markets") == "true"
        events: list[Fields] = []
        cursor = query.get("cursor", "")
        if not cursor.startswith(LISTED):
            events, cursor = self._own_events(query, nested=nested)
            cursor = cursor or f"{LISTED}0"
        if cursor.startswith(LISTED):
            more, cursor = self._more_events(query, _position(cursor), (number(query, "limit", 100, most=200) or 100) - len(events))
            for event, markets in more:
                events.append(event | ({"markets": [self._record(market) for market in markets]} if nested else {}))
        return {"events": events, "cursor": cursor}

    def _own_events(self, query: Query, *, nested: bool) -> tuple[list[Fields], str]:
        listed: dict[str, list[Market]] = {}
        for market in self._listed():
            listed.setdefault(market.event_ticker, []).append(market)
        tickers = query.get("tickers")
        wanted = [
            ticker
            for ticker in sorted(listed)
            if (not tickers or ticker in tickers.split(","))
            and query.get("series_ticker") in {None, "", listed[ticker][0].series_ticker}
            and self._has_wanted(listed[ticker], query)
        ]
        page, cursor = paged(wanted, lambda ticker: ticker, query, most=200)
        events = [dict(self._venue.catalogue.events[ticker]) for ticker in page]
        if nested:
            for event in events:
                event["markets"] = [self._record(market) for market in listed[event["event_ticker"]]]
        return events, cursor

    def _has_wanted(self, markets: list[Market], query: Query) -> bool:
        return (not query.get("status") or any(m.status(self._venue.now_ms) in statuses(query["status"]) for m in markets)) and any(
            market.close_ms >= number(query, "min_close_ts", 0) * 1000 for market in markets
        )

    def _more_events(self, query: Query, at: int, limit: int) -> tuple[list[tuple[Fields, list[Market]]], str]:
        """Up to `limit` events of the listing from the `at`th of those asked for, and the cursor of the next."""
        listing, now_ms = self._listing, self._venue.now_ms
        numbers: Iterable[int] = range(listing.events)
        if query.get("tickers"):
            numbers = [n for ticker in query["tickers"].split(",") if (n := listing.find_event(ticker)) is not None]
        elif query.get("series_ticker"):
            series = listing.find_series(query["series_ticker"])
            numbers = listing.of_series(series) if series is not None else ()
        found: list[tuple[Fields, list[Market]]] = []
        for place, wanted in enumerate(numbers[at:], at):  # type: ignore[index]  # ranges and lists
            markets = [market for n in listing.of_event(wanted) if (market := listing.market(n, now_ms)).listed_ms <= now_ms]
            if markets and self._has_wanted(markets, query):
                if len(found) == limit:
                    return found, f"{LISTED}{place}"
                found.append((listing.event(wanted), markets))
        return found, ""

    def _event(self, ticker: str, query: Query) -> Fields:
        markets = [market for market in self._listed() if market.event_ticker == ticker]
        event = self._venue.catalogue.events.get(ticker)
        if not markets and (number := self._listing.find_event(ticker)) is not None:
            markets = [self._listing.market(n, self._venue.now_ms) for n in self._listing.of_event(number)]
            event = self._listing.event(number)
        if not markets or event is None:
            raise Problem(404, "not_found", "event not found")
        records = [self._record(market) for market in markets]
        if query.get("with_nested_markets") == "true":
            return {"event": event | {"markets": records}}
        return {"event": dict(event), "markets": records}

    def _all_series(self, query: Query) -> Fields:
        category = query.get("category")
        own = self._venue.catalogue.series
        every = [*(own[ticker] for ticker in sorted(own)), *self._listing.all_series()]
        return {"series": [series for series in every if category in {None, "", series.get("category")}]}

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


def _position(cursor: str) -> int:
    at = cursor.removeprefix(LISTED)
    if not at.isdecimal() or len(at) > 12:
        raise Problem(400, "bad_request", "cursor: not one of this endpoint's")
    return int(at)


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
