"""The simulated venue without sockets: connections, subscriptions, sequence numbers, commands and the true books.

Give it commands and happenings; it appends text frames to each connection's `out`. Sequence rules as measured on Kalshi: one counter per
sid shared by all its tickers; acknowledgements `ok` and `unsubscribed` use a number, `subscribed` and `ticker` do not; subscribing again
merges; sids and numbers start anew on every connection.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from exchanges.simulator import feed
from exchanges.simulator.book import TrueBook
from exchanges.simulator.faults import Fate, Faults
from exchanges.simulator.market import Catalogue, Market
from exchanges.simulator.oracle import Oracle

BOOKS = "orderbook_delta"
TRADES = "trade"
TICKERS = "ticker"
LIFECYCLE = "market_lifecycle_v2"
UNFILTERED = frozenset({
    LIFECYCLE, "multivariate_market_lifecycle", "fill", "market_positions", "communications", "order_group_updates", "user_orders",
})  # fmt: skip
NEEDS = {"cfbenchmarks_value": (24, "index_ids"), "cfbenchmarks_value_5hz": (24, "index_ids"), "pyth_value": (28, "underlying_tickers")}
CHANNELS = frozenset({BOOKS, TRADES, TICKERS}) | UNFILTERED | set(NEEDS)
# `trade` messages of the last trades that REST can page through: 20,000 x 350 bytes = 7 MB
KEPT_TRADES = 20_000

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


class Refusal(Exception):  # noqa: N818 - it becomes an error frame, not a traceback
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

    __slots__ = ("cut", "id", "next_sid", "out", "subscriptions")

    def __init__(self, number: int) -> None:
        self.id = number
        self.out: list[bytes] = []
        self.cut = False
        self.subscriptions: dict[int, Subscription] = {}
        self.next_sid = 1

    def on(self, channel: str) -> Subscription | None:
        return next((sub for sub in self.subscriptions.values() if sub.channel == channel), None)


class PastTrade(NamedTuple):
    number: int
    at_ms: int
    ticker: str
    body: bytes


class Venue:
    """`limit`: most markets of one subscription (error 26); the real value is not published, 0 is none."""

    def __init__(self, catalogue: Catalogue, oracle: Oracle | None = None, faults: Faults | None = None, *, limit: int = 0) -> None:
        self.catalogue = catalogue
        self.oracle = oracle or Oracle()
        self.faults = faults
        self.limit = limit
        self.now_ms = 0  # the venue's clock: of the latest happening, or later if the owner says so
        self.now_ns = 0  # the machine's clock, for the log; the owner sets it
        self.books = {ticker: TrueBook(known=market.known) for ticker, market in catalogue.markets.items()}
        self.oracle.watch(self.books)
        self.trades: deque[PastTrade] = deque(maxlen=KEPT_TRADES)  # oldest dropped
        self.frames = 0  # sent, all connections
        self.happened: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()  # happenings that contradict the books
        self.connections: dict[int, Connection] = {}
        self.changed: set[Connection] = set()  # connections with something in `out`
        self.subscribed = 0  # subscribe commands served
        self._next_connection = 1
        self._routes: dict[str, dict[str, list[Subscription]]] = {channel: {} for channel in CHANNELS}
        self._wide: dict[str, list[Subscription]] = {channel: [] for channel in CHANNELS}
        self._publish: dict[type, Callable[[Any], None]] = {
            feed.Delta: self._delta,
            feed.Snapshot: self._snapshot,
            feed.Trade: self._trade,
            feed.Ticker: self._ticker,
            feed.Lifecycle: self._lifecycle,
        }
        self._commands: dict[str, Callable[[Connection, int, dict[str, Any]], None]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "update_subscription": self._update,
            "list_subscriptions": self._list,
        }
        self._actions: dict[str, Callable[[Subscription, int, dict[str, Any], list[str]], None]] = {
            "add_markets": self._add_markets,
            "delete_markets": self._delete_markets,
            "get_snapshot": self._get_snapshot,
        }

    # --- connections

    def connect(self) -> Connection:
        conn = Connection(self._next_connection)
        self._next_connection += 1
        self.connections[conn.id] = conn
        return conn

    def disconnect(self, conn: Connection) -> None:
        """Forget the connection. May be called twice."""
        for sub in list(conn.subscriptions.values()):
            self._drop(sub)
        self.connections.pop(conn.id, None)
        self.changed.discard(conn)

    def overflow(self, conn: Connection) -> None:
        """The client does not read: every subscription ends with error 25, as the venue does."""
        for sub in list(conn.subscriptions.values()):
            self._drop(sub)
            self._reply(conn, sub.channel, sub.sid, 0, {"type": "error", "sid": sub.sid, "msg": {"code": 25, "msg": ERRORS[25]}})

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
        self.market(item.ticker).trade(item.price, item.count, item.at_ms)
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
                case "deactivated" | "activated":
                    market.paused = item.event == "deactivated"
                case "close_date_updated":
                    market.close_ms = item.close_ms or market.close_ms
        if item.body:
            self._broadcast(LIFECYCLE, item.type.encode(), item.ticker, item.body)

    def _broadcast(self, channel: str, kind: bytes, ticker: str, body: bytes) -> None:
        self.happened[channel] += 1
        unseen = True
        for subs in (self._routes[channel].get(ticker, ()), self._wide[channel]):
            for sub in subs:
                unseen = False
                if not sub.stalled:
                    self._send(sub, kind, ticker, body)
        if unseen and self.oracle.active:
            self.oracle.note(self.now_ns, 0, 0, 0, "send", b'{"type":"%b","msg":%b}' % (kind, body))

    def _send(self, sub: Subscription, kind: bytes, ticker: str, body: bytes, reply: bytes = b"") -> None:
        if kind == b"ticker":
            seq, frame = 0, b'{"type":"ticker","sid":%d,"msg":%b}' % (sub.sid, body)
        else:
            sub.seq = seq = sub.seq + 1
            frame = b'{"type":"%b",%b"sid":%d,"seq":%d,"msg":%b}' % (kind, reply, sub.sid, seq, body)
        self._emit(sub.conn, sub.channel, sub.sid, seq, ticker, frame)

    def _reply(self, conn: Connection, channel: str, sid: int, seq: int, reply: dict[str, Any]) -> None:
        self._emit(conn, channel, sid, seq, "", msgspec.json.encode(reply))

    def _emit(self, conn: Connection, channel: str, sid: int, seq: int, ticker: str, frame: bytes) -> None:
        if conn.cut:
            return
        fate = Fate.send
        if self.faults is not None:
            fate = self.faults.fate(conn.id, sid, channel, ticker, seq)
            if fate is Fate.stall:
                sub = conn.subscriptions.get(sid)
                if sub is not None:
                    sub.stalled = True
                    sub.seq = seq - 1 if seq else sub.seq
                return
            conn.cut = fate is Fate.disconnect
        if fate in _LEAVES:
            conn.out.append(frame)
            self.frames += 1
            if fate is Fate.duplicate:
                conn.out.append(frame)
        self.changed.add(conn)
        if self.oracle.active:
            self.oracle.note(self.now_ns, conn.id, sid, seq, fate.value, frame)

    # --- commands

    def command(self, conn: Connection, data: str | bytes) -> None:
        """Serve one message of a client."""
        number = 0
        try:
            try:
                message = msgspec.json.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise Refusal(1) from None
            if not isinstance(message, dict):
                raise Refusal(1)
            if isinstance(message.get("id"), int):
                number = message["id"]
            handler = self._commands.get(str(message.get("cmd")))
            if handler is None:
                raise Refusal(5)
            params = message.get("params")
            if not isinstance(params, dict):
                if message["cmd"] != "list_subscriptions":
                    raise Refusal(2)
                params = {}
            handler(conn, number, params)
        except Refusal as refusal:
            self._reply(conn, "", 0, 0, {"type": "error", **_id(number), "msg": refusal.message})

    def _subscribe(self, conn: Connection, number: int, params: dict[str, Any]) -> None:
        channels = params.get("channels")
        if not isinstance(channels, list) or not channels:
            raise Refusal(3)
        asked = self._asked(params)
        for channel in channels:
            if channel not in CHANNELS:
                raise Refusal(8)
            if channel == BOOKS and not asked:
                raise Refusal(14)
            if channel in NEEDS and not params.get(NEEDS[channel][1]):
                raise Refusal(NEEDS[channel][0])
        if params.get("use_yes_price"):
            raise Refusal(11, "use_yes_price is not simulated")
        tickers = self._known(asked) if asked else None
        if self.limit and tickers and len(tickers) > self.limit:
            raise Refusal(26)
        self.subscribed += 1
        for channel in dict.fromkeys(channels):
            wanted = None if channel in UNFILTERED or channel in NEEDS else tickers
            sub = conn.on(channel)
            if sub is None:
                sub = Subscription(conn, conn.next_sid, channel, {} if wanted is not None else None)
                conn.next_sid += 1
                conn.subscriptions[sub.sid] = sub
                if wanted is None:
                    self._wide[channel].append(sub)
                self._reply(conn, channel, sub.sid, 0, {"type": "subscribed", **_id(number), "msg": {"channel": channel, "sid": sub.sid}})
                self._opening(sub, self._join(sub, wanted or ()), params)
            else:
                if wanted is None and sub.tickers is not None:
                    self._leave(sub, list(sub.tickers))
                    sub.tickers = None
                    self._wide[channel].append(sub)
                new = self._join(sub, wanted or ())
                self._ok(sub, number, params)
                self._opening(sub, new, params)

    def _unsubscribe(self, conn: Connection, number: int, params: dict[str, Any]) -> None:
        sids = params.get("sids")
        if not isinstance(sids, list) or not sids:
            raise Refusal(4)
        for sid in sids:
            sub = conn.subscriptions.get(sid) if isinstance(sid, int) else None
            if sub is None:
                self._reply(conn, "", 0, 0, {"type": "error", **_id(number), "msg": {"code": 7, "msg": ERRORS[7]}})
                continue
            self._drop(sub)
            sub.seq += 1
            self._reply(conn, sub.channel, sub.sid, sub.seq, {"type": "unsubscribed", **_id(number), "sid": sub.sid, "seq": sub.seq})

    def _update(self, conn: Connection, number: int, params: dict[str, Any]) -> None:
        sids = params.get("sids", [params["sid"]] if "sid" in params else [])
        if not isinstance(sids, list) or len(sids) != 1 or ("sid" in params and params["sid"] != sids[0]):
            raise Refusal(12)
        sub = conn.subscriptions.get(sids[0]) if isinstance(sids[0], int) else None
        if sub is None:
            raise Refusal(7)
        if not params.get("action"):
            raise Refusal(15)
        action = self._actions.get(str(params["action"]))
        if action is None or sub.channel in UNFILTERED or sub.channel in NEEDS:
            raise Refusal(13)
        asked = self._asked(params)
        if not asked:
            raise Refusal(14)
        action(sub, number, params, list(self._known(asked)))

    def _add_markets(self, sub: Subscription, number: int, params: dict[str, Any], tickers: list[str]) -> None:
        if self.limit and sub.tickers is not None and len(sub.tickers | dict.fromkeys(tickers)) > self.limit:
            raise Refusal(26)
        new = self._join(sub, tickers)
        self._ok(sub, number, params)
        self._opening(sub, new, params)

    def _delete_markets(self, sub: Subscription, number: int, params: dict[str, Any], tickers: list[str]) -> None:
        if sub.tickers is None:
            raise Refusal(11, "the subscription has no market filter")
        self._leave(sub, tickers)
        self._ok(sub, number, params)

    def _get_snapshot(self, sub: Subscription, number: int, params: dict[str, Any], tickers: list[str]) -> None:
        del params
        if sub.channel != BOOKS:
            raise Refusal(13)
        if missing := [ticker for ticker in tickers if ticker not in (sub.tickers or ())] or ([] if tickers else [""]):
            raise Refusal(11, "not subscribed to these markets", market_tickers=[name for name in missing if name])
        for ticker in tickers:
            self._send_book(sub, ticker, b'"id":%d,' % number if number else b"")

    def _list(self, conn: Connection, number: int, params: dict[str, Any]) -> None:
        del params
        listed = [{"channel": sub.channel, "sid": sub.sid} for sub in conn.subscriptions.values()]
        self._reply(conn, "", 0, 0, {"type": "ok", **_id(number), "msg": listed})

    # --- subscriptions

    def _ok(self, sub: Subscription, number: int, params: dict[str, Any]) -> None:
        sub.seq += 1
        reply: dict[str, Any] = {"type": "ok", **_id(number), "sid": sub.sid, "seq": sub.seq}
        if not params.get("skip_ticker_ack"):
            tickers = list(sub.tickers or ())
            reply["msg"] = {"market_tickers": tickers, "market_ids": [self.market(ticker).market_id for ticker in tickers]}
        self._reply(sub.conn, sub.channel, sub.sid, sub.seq, reply)

    def _opening(self, sub: Subscription, tickers: Iterable[str], params: dict[str, Any]) -> None:
        """What new tickers of a subscription get at once."""
        if sub.channel == BOOKS:
            for ticker in tickers:
                self._send_book(sub, ticker)
        elif sub.channel == TICKERS and params.get("send_initial_snapshot"):
            for ticker in tickers:
                body = msgspec.json.encode(self.market(ticker).ticker_message(self.books[ticker], self.now_ms))
                self._send(sub, b"ticker", ticker, body)

    def _send_book(self, sub: Subscription, ticker: str, reply: bytes = b"") -> None:
        message: dict[str, Any] = {"market_ticker": ticker, "market_id": self.market(ticker).market_id}
        yes, no = self.books[ticker].levels()
        if yes:  # the key of an empty side is absent
            message["yes_dollars_fp"] = yes
        if no:
            message["no_dollars_fp"] = no
        self._send(sub, b"orderbook_snapshot", ticker, msgspec.json.encode(message), reply)

    def _asked(self, params: dict[str, Any]) -> list[str]:
        """Tickers that the command names, known or not; market ids are looked up."""
        asked: list[Any] = []
        for one, many in (("market_ticker", "market_tickers"), ("market_id", "market_ids")):
            values = params.get(many, [params[one]] if one in params else [])
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise Refusal(11, many)
            if one == "market_id" and values:
                by_id = {market.market_id: market.ticker for market in self.catalogue.markets.values()}
                values = [by_id.get(value, value) for value in values]
            asked += values
        return asked

    def _known(self, asked: Iterable[str]) -> dict[str, None]:
        return {ticker: None for ticker in asked if ticker in self.catalogue.markets}

    def _join(self, sub: Subscription, tickers: Iterable[str]) -> list[str]:
        """Add tickers; those that were not there before."""
        if sub.tickers is None:
            return []
        new = [ticker for ticker in tickers if ticker not in sub.tickers]
        routes = self._routes[sub.channel]
        for ticker in new:
            sub.tickers[ticker] = None
            routes.setdefault(ticker, []).append(sub)
        return new

    def _leave(self, sub: Subscription, tickers: Iterable[str]) -> None:
        routes = self._routes[sub.channel]
        for ticker in tickers:
            if sub.tickers is not None and ticker in sub.tickers:
                del sub.tickers[ticker]
                routes[ticker].remove(sub)
                if not routes[ticker]:
                    del routes[ticker]

    def _drop(self, sub: Subscription) -> None:
        if sub.tickers is None:
            self._wide[sub.channel].remove(sub)
        else:
            self._leave(sub, list(sub.tickers))
        sub.conn.subscriptions.pop(sub.sid, None)


_LEAVES = frozenset({Fate.send, Fate.duplicate})


def _id(number: int) -> dict[str, int]:
    """Command id 0 means none."""
    return {"id": number} if number else {}


class _Identified(msgspec.Struct):
    market_id: str = ""


def _market_id(body: bytes) -> str:
    return msgspec.json.decode(body, type=_Identified).market_id
