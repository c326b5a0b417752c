"""Kalshi's channels and error codes, and who is subscribed to what."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

BOOKS = "orderbook_delta"
TRADES = "trade"
TICKERS = "ticker"
LIFECYCLE = "market_lifecycle_v2"
UNFILTERED = frozenset({
    LIFECYCLE, "multivariate_market_lifecycle", "fill", "market_positions", "communications", "order_group_updates", "user_orders",
})  # fmt: skip
NEEDS = {"cfbenchmarks_value": (24, "index_ids"), "cfbenchmarks_value_5hz": (24, "index_ids"), "pyth_value": (28, "underlying_tickers")}
CHANNELS = frozenset({BOOKS, TRADES, TICKERS}) | UNFILTERED | set(NEEDS)
ERRORS = {
    1: "Unable to process message",
    2: "Params required",
    3: "Channels required",
    4: "Subscription IDs required",
    5: "Unknown command",
    7: "Unknown subscription ID",
    8: "Unknown channel name",
    10: "Channel error",
    11: "Invalid parameter",
    12: "Exactly one subscription ID is required",
    13: "Unsupported action",
    14: "Market ticker required",
    15: "Action required",
    24: "Index IDs required",
    25: "Subscription buffer overflow",
    26: "Market limit per subscription exceeded",
    28: "Underlying tickers required",
}


class Refusal(Exception):
    """A command that gets an `error` frame."""

    def __init__(self, code: int, detail: str = "", **more: Any) -> None:
        self.message: dict[str, Any] = {"code": code, "msg": f"{ERRORS[code]}: {detail}" if detail else ERRORS[code], **more}
        super().__init__(self.message["msg"])


class Subscription:
    """`tickers` None: every market."""

    __slots__ = ("channel", "conn", "seq", "sid", "stalled", "tickers")

    def __init__(self, conn: Connection, sid: int, channel: str, tickers: dict[str, None] | None) -> None:
        self.conn = conn
        self.sid = sid
        self.channel = channel
        self.tickers = tickers
        self.seq = 0
        self.stalled = False


class Connection:
    """`out` holds frames to be sent; whoever owns the socket empties it after each call. `cut`: close the connection now."""

    __slots__ = ("_next_sid", "cut", "id", "out", "subscriptions")

    def __init__(self, number: int) -> None:
        self.id = number
        self.out: list[bytes] = []
        self.cut = False
        self.subscriptions: dict[int, Subscription] = {}
        self._next_sid = 1

    def subscription(self, channel: str, *, filtered: bool) -> Subscription:
        """A new one with the next sid; `Routes.open` makes it count."""
        sub = Subscription(self, self._next_sid, channel, {} if filtered else None)
        self._next_sid += 1
        return sub

    def on(self, channel: str) -> Subscription | None:
        return next((sub for sub in self.subscriptions.values() if sub.channel == channel), None)


class Routes:
    """Finds the subscriptions that a message goes to."""

    def __init__(self) -> None:
        self._narrow: dict[str, dict[str, list[Subscription]]] = {channel: {} for channel in CHANNELS}
        self._wide: dict[str, list[Subscription]] = {channel: [] for channel in CHANNELS}

    def to(self, channel: str, ticker: str) -> Iterable[Subscription]:
        narrow = self._narrow[channel].get(ticker, ())
        wide = self._wide[channel]
        return chain(narrow, wide) if wide else narrow

    def open(self, sub: Subscription) -> None:
        sub.conn.subscriptions[sub.sid] = sub
        if sub.tickers is None:
            self._wide[sub.channel].append(sub)

    def widen(self, sub: Subscription) -> None:
        """From a set of markets to every market."""
        self.leave(sub, list(sub.tickers or ()))
        sub.tickers = None
        self._wide[sub.channel].append(sub)

    def join(self, sub: Subscription, tickers: Iterable[str]) -> list[str]:
        """Add tickers; those that were not there before."""
        if sub.tickers is None:
            return []
        new = [ticker for ticker in tickers if ticker not in sub.tickers]
        narrow = self._narrow[sub.channel]
        for ticker in new:
            sub.tickers[ticker] = None
            narrow.setdefault(ticker, []).append(sub)
        return new

    def leave(self, sub: Subscription, tickers: Iterable[str]) -> None:
        narrow = self._narrow[sub.channel]
        for ticker in tickers:
            if sub.tickers is not None and ticker in sub.tickers:
                del sub.tickers[ticker]
                narrow[ticker].remove(sub)
                if not narrow[ticker]:
                    del narrow[ticker]

    def close(self, sub: Subscription) -> None:
        if sub.tickers is None:
            self._wide[sub.channel].remove(sub)
        else:
            self.leave(sub, list(sub.tickers))
        sub.conn.subscriptions.pop(sub.sid, None)

    def forget(self, ticker: str) -> None:
        """The market is no longer listed."""
        for narrow in self._narrow.values():
            for sub in list(narrow.get(ticker, ())):
                self.leave(sub, [ticker])
