"""What clients ask of the venue: subscribe, unsubscribe, update_subscription, list_subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from exchanges.simulator.channels import BOOKS, CHANNELS, ERRORS, NEEDS, TICKERS, UNFILTERED, Connection, Refusal, Subscription
from exchanges.simulator.venue import Outgoing, Venue


class Commands:
    """`limit`: most markets of one subscription (error 26); the real value is not published, 0 is none."""

    def __init__(self, venue: Venue, *, limit: int = 0) -> None:
        self._venue = venue
        self._limit = limit
        self.subscribed = 0  # subscribe commands served
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

    def serve(self, conn: Connection, data: str | bytes) -> None:
        """Answer one message of a client, whatever it is."""
        number = 0
        try:
            message = _decode(data)
            number = message["id"] if isinstance(message.get("id"), int) else 0
            self._handler(message)(conn, number, _params(message))
        except Refusal as refusal:
            self._reply(conn, {"type": "error", **_id(number), "msg": refusal.message})

    def _handler(self, message: dict[str, Any]) -> Callable[[Connection, int, dict[str, Any]], None]:
        handler = self._commands.get(str(message.get("cmd")))
        if handler is None:
            raise Refusal(5)
        return handler

    def _reply(self, conn: Connection, reply: dict[str, Any], sub: Subscription | None = None) -> None:
        channel, sid = (sub.channel, sub.sid) if sub else ("", 0)
        self._venue.emit(Outgoing(conn, channel, sid, reply.get("seq", 0), "", msgspec.json.encode(reply)))

    def _subscribe(self, conn: Connection, number: int, params: dict[str, Any]) -> None:
        channels = params.get("channels")
        if not isinstance(channels, list) or not channels:
            raise Refusal(3)
        asked = self._asked(params)
        for channel in channels:
            if not isinstance(channel, str) or channel not in CHANNELS:
                raise Refusal(8)
            if channel == BOOKS and not asked:
                raise Refusal(14)
            if channel in NEEDS and not params.get(NEEDS[channel][1]):
                raise Refusal(NEEDS[channel][0])
        if params.get("use_yes_price"):
            raise Refusal(11, "use_yes_price is not simulated")
        tickers = self._known(asked) if asked else None
        if self._limit and tickers and len(tickers) > self._limit:
            raise Refusal(26)
        self.subscribed += 1
        for channel in dict.fromkeys(channels):
            wanted = None if channel in UNFILTERED or channel in NEEDS else tickers
            sub = conn.on(channel)
            if sub is None:
                sub = conn.subscription(channel, filtered=wanted is not None)
                self._venue.routes.open(sub)
                self._reply(conn, {"type": "subscribed", **_id(number), "msg": {"channel": channel, "sid": sub.sid}}, sub)
                self._opening(sub, self._venue.routes.join(sub, wanted or ()), params)
            else:
                if wanted is None and sub.tickers is not None:
                    self._venue.routes.widen(sub)
                new = self._venue.routes.join(sub, wanted or ())
                self._ok(sub, number, params)
                self._opening(sub, new, params)

    def _unsubscribe(self, conn: Connection, number: int, params: dict[str, Any]) -> None:
        sids = params.get("sids")
        if not isinstance(sids, list) or not sids:
            raise Refusal(4)
        for sid in sids:
            sub = conn.subscriptions.get(sid) if isinstance(sid, int) else None
            if sub is None:
                self._reply(conn, {"type": "error", **_id(number), "msg": {"code": 7, "msg": ERRORS[7]}})
                continue
            self._venue.routes.close(sub)
            sub.seq += 1
            self._reply(conn, {"type": "unsubscribed", **_id(number), "sid": sub.sid, "seq": sub.seq}, sub)

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
        if self._limit and sub.tickers is not None and len(sub.tickers | dict.fromkeys(tickers)) > self._limit:
            raise Refusal(26)
        new = self._venue.routes.join(sub, tickers)
        self._ok(sub, number, params)
        self._opening(sub, new, params)

    def _delete_markets(self, sub: Subscription, number: int, params: dict[str, Any], tickers: list[str]) -> None:
        if sub.tickers is None:
            raise Refusal(11, "the subscription has no market filter")
        self._venue.routes.leave(sub, tickers)
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
        self._reply(conn, {"type": "ok", **_id(number), "msg": listed})

    def _ok(self, sub: Subscription, number: int, params: dict[str, Any]) -> None:
        sub.seq += 1
        reply: dict[str, Any] = {"type": "ok", **_id(number), "sid": sub.sid, "seq": sub.seq}
        if not params.get("skip_ticker_ack"):
            tickers = list(sub.tickers or ())
            reply["msg"] = {"market_tickers": tickers, "market_ids": [self._venue.market(ticker).market_id for ticker in tickers]}
        self._reply(sub.conn, reply, sub)

    def _opening(self, sub: Subscription, tickers: Iterable[str], params: dict[str, Any]) -> None:
        """What new tickers of a subscription get at once."""
        if sub.channel == BOOKS:
            for ticker in tickers:
                self._send_book(sub, ticker)
        elif sub.channel == TICKERS and params.get("send_initial_snapshot"):
            for ticker in tickers:
                body = msgspec.json.encode(self._venue.market(ticker).ticker_message(self._venue.books[ticker], self._venue.now_ms))
                self._venue.send(sub, b"ticker", ticker, body)

    def _send_book(self, sub: Subscription, ticker: str, reply: bytes = b"") -> None:
        message: dict[str, Any] = {"market_ticker": ticker, "market_id": self._venue.market(ticker).market_id}
        yes, no = self._venue.books[ticker].levels()
        if yes:  # the key of an empty side is absent
            message["yes_dollars_fp"] = yes
        if no:
            message["no_dollars_fp"] = no
        self._venue.send(sub, b"orderbook_snapshot", ticker, msgspec.json.encode(message), reply)

    def _asked(self, params: dict[str, Any]) -> list[str]:
        """Tickers that the command names, known or not; market ids are looked up."""
        asked: list[Any] = []
        for one, many in (("market_ticker", "market_tickers"), ("market_id", "market_ids")):
            values = params.get(many, [params[one]] if one in params else [])
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise Refusal(11, many)
            if one == "market_id" and values:
                by_id = {market.market_id: market.ticker for market in self._venue.catalogue.markets.values()}
                values = [by_id.get(value, value) for value in values]
            asked += values
        return asked

    def _known(self, asked: Iterable[str]) -> dict[str, None]:
        return {ticker: None for ticker in asked if ticker in self._venue.catalogue.markets}


def _id(number: int) -> dict[str, int]:
    """Command id 0 means none."""
    return {"id": number} if number else {}


def _decode(data: str | bytes) -> dict[str, Any]:
    try:
        message = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(1) from None
    if not isinstance(message, dict):
        raise Refusal(1)
    return message


def _params(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    if isinstance(params, dict):
        return params
    if message["cmd"] == "list_subscriptions":
        return {}
    raise Refusal(2)
