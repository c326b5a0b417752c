"""The simulated venue without sockets: connections, subscriptions, sequence numbers and the true books.

Give it happenings, and commands through `commands.Commands`; it appends text frames to each connection's `out`. Sequence rules as
measured on Kalshi: one counter per sid shared by all its tickers; acknowledgements `ok` and `unsubscribed` use a number, `subscribed` and
`ticker` do not; subscribing again merges; sids and numbers start anew on every connection.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from exchanges.simulator import feed
from exchanges.simulator.book import TrueBook
from exchanges.simulator.channels import BOOKS, ERRORS, LIFECYCLE, TICKERS, TRADES, Connection, Routes, Subscription
from exchanges.simulator.faults import Fate, Faults
from exchanges.simulator.market import Catalogue, Market
from exchanges.simulator.oracle import Oracle, Sent

# `trade` messages of the last trades that REST can page through: 20,000 x 350 bytes = 7 MB
KEPT_TRADES = 20_000
KEPT_SETTLED = 5_000  # settled markets still listed: 20 MB


class Outgoing(NamedTuple):
    """A frame about to leave. `seq` and `sid` are 0 for frames without one."""

    conn: Connection
    channel: str
    sid: int
    seq: int
    ticker: str
    frame: bytes


class PastTrade(NamedTuple):
    number: int
    at_ms: int
    ticker: str
    body: bytes


class Venue:
    """Who asks what is `commands.Commands`; what happens is `publish`."""

    def __init__(
        self,
        catalogue: Catalogue,
        books: dict[str, TrueBook] | None = None,
        oracle: Oracle | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.oracle = oracle or Oracle()
        self.faults = faults
        self.routes = Routes()
        self.now_ms = 0  # the venue's clock: of the latest happening, or later if the owner says so
        self.now_ns = 0  # the machine's clock, for the log; the owner sets it
        self.books = {ticker: TrueBook(known=market.known) for ticker, market in catalogue.markets.items()} | (books or {})
        self.oracle.watch(self.books)
        self.trades: deque[PastTrade] = deque(maxlen=KEPT_TRADES)  # oldest dropped
        self.frames = 0  # sent, all connections
        self.happened: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()  # happenings that contradict the books; not sent
        self.changed: set[Connection] = set()  # connections with something in `out`
        self._connections = 0
        self._settled: deque[str] = deque()  # at most KEPT_SETTLED
        self._publish: dict[type, Callable[[Any], None]] = {
            feed.Delta: self._delta,
            feed.Snapshot: self._snapshot,
            feed.Trade: self._trade,
            feed.Ticker: self._ticker,
            feed.Lifecycle: self._lifecycle,
        }

    # --- connections

    def connect(self) -> Connection:
        self._connections += 1
        return Connection(self._connections)

    def disconnect(self, conn: Connection) -> None:
        """Forget the connection. May be called twice."""
        for sub in list(conn.subscriptions.values()):
            self.routes.close(sub)
        conn.cut = True
        self.changed.discard(conn)

    def terminate(self, sub: Subscription, code: int) -> None:
        """End a subscription with a terminal error: 10, or 25 when its client does not read."""
        self.routes.close(sub)
        error = {"type": "error", "sid": sub.sid, "msg": {"code": code, "msg": ERRORS[code]}}
        self.emit(Outgoing(sub.conn, sub.channel, sub.sid, 0, "", msgspec.json.encode(error)))

    # --- happenings

    def publish(self, happening: feed.Happening) -> None:
        self.now_ms = happening.at_ms
        self._publish[type(happening)](happening)

    def market(self, ticker: str) -> Market:
        """The market; listed on the spot if a feed speaks of it unannounced."""
        market = self.catalogue.markets.get(ticker)
        if market is None:
            event = ticker.rpartition("-")[0] or ticker
            market = Market(
                ticker, event, ticker.partition("-")[0], listed_ms=self.now_ms, open_ms=self.now_ms, close_ms=1 << 42, known=False
            )  # 1 << 42 ms: the year 2109
            self._list_market(market)
        return market

    def _list_market(self, market: Market, event: dict[str, Any] | None = None, series: dict[str, Any] | None = None) -> None:
        self.catalogue.list_market(market, event, series)
        self.books[market.ticker] = TrueBook(known=market.known)

    def _retire(self, ticker: str) -> None:
        """Forget the market that settled longest ago, as the venue moves old ones to its historical endpoints."""
        self._settled.append(ticker)
        if len(self._settled) > KEPT_SETTLED:
            oldest = self._settled.popleft()
            self.routes.forget(oldest)
            self.catalogue.unlist(oldest)
            del self.books[oldest]

    def _delta(self, item: feed.Delta) -> None:
        book = self.books.get(item.ticker)
        if book is None:
            self.market(item.ticker)
            book = self.books[item.ticker]
        if not book.known:
            self.refused["delta before the market's first snapshot"] += 1
        elif not book.apply(item.no, item.price, item.change):
            self.refused["delta below zero"] += 1
        else:
            self._broadcast(BOOKS, b"orderbook_delta", item.ticker, item.body)

    def _snapshot(self, item: feed.Snapshot) -> None:
        market = self.market(item.ticker)
        market.market_id = market.market_id or _market_id(item.body)
        self.books[item.ticker].replace(item.yes, item.no)
        self._broadcast(BOOKS, b"orderbook_snapshot", item.ticker, item.body)

    def _trade(self, item: feed.Trade) -> None:
        self.market(item.ticker).trade(item.price, item.count)
        self.trades.append(PastTrade(self.happened["trade"], item.at_ms, item.ticker, item.body))
        self._broadcast(TRADES, b"trade", item.ticker, item.body)

    def _ticker(self, item: feed.Ticker) -> None:
        self._broadcast(TICKERS, b"ticker", item.ticker, item.body)

    def _lifecycle(self, item: feed.Lifecycle) -> None:
        if item.listing is not None:
            self._list_market(item.listing, item.event_fields, item.series_fields)
        elif (market := self.catalogue.markets.get(item.ticker)) is not None:
            market.updated_ms = item.at_ms
            match item.event:
                case "determined":
                    market.determined, market.result, market.settlement_value = True, item.result, item.settlement_value
                case "settled":
                    market.settled_ms = item.at_ms
                    self._retire(item.ticker)
                case "deactivated" | "activated":
                    market.paused = item.event == "deactivated"
                case "close_date_updated":
                    market.close_ms = item.close_ms or market.close_ms
        if item.body:
            self._broadcast(LIFECYCLE, item.type.encode(), item.ticker, item.body)

    def _broadcast(self, channel: str, kind: bytes, ticker: str, body: bytes) -> None:
        self.happened[channel] += 1
        unseen = True
        for sub in self.routes.to(channel, ticker):
            unseen = False
            if not sub.stalled:
                self.send(sub, kind, ticker, body)
        if unseen and self.oracle.active:
            self.oracle.note(Sent(self.now_ns, 0, 0, 0, Fate.send.value, msgspec.Raw(b'{"type":"%b","msg":%b}' % (kind, body))))

    def send(self, sub: Subscription, kind: bytes, ticker: str, body: bytes, reply: bytes = b"") -> None:
        """One data frame on a subscription; all but `ticker` take its next number. `reply` goes before the sid: ``"id":5,``."""
        if kind == b"ticker":
            seq, frame = 0, b'{"type":"ticker","sid":%d,"msg":%b}' % (sub.sid, body)
        else:
            sub.seq = seq = sub.seq + 1
            frame = b'{"type":"%b",%b"sid":%d,"seq":%d,"msg":%b}' % (kind, reply, sub.sid, seq, body)
        self.emit(Outgoing(sub.conn, sub.channel, sub.sid, seq, ticker, frame))

    def emit(self, out: Outgoing) -> None:
        """The one place where frames leave: faults strike here, and the oracle takes note."""
        conn, frame = out.conn, out.frame
        if conn.cut:
            return
        fate = Fate.send
        if self.faults is not None:
            fate = self.faults.fate(conn.id, out.sid, out.channel, out.ticker, out.seq)
            if fate is Fate.stall:
                sub = conn.subscriptions.get(out.sid)
                if sub is not None:
                    sub.stalled = True
                    sub.seq -= 1 if out.seq else 0
                return
        self.changed.add(conn)
        if fate is Fate.disconnect:
            conn.cut = True
        elif fate is not Fate.drop:
            conn.out.append(frame)
            self.frames += 1
            if fate is Fate.duplicate:
                conn.out.append(frame)
                self.frames += 1
        if self.oracle.active:
            self.oracle.note(Sent(self.now_ns, conn.id, out.sid, out.seq, fate.value, msgspec.Raw(frame)))


class _Identified(msgspec.Struct):
    market_id: str = ""


def _market_id(body: bytes) -> str:
    return msgspec.json.decode(body, type=_Identified).market_id
