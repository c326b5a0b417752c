"""Kalshi frames to journal bodies, by dated decoders: the time a frame was read picks the one that is tried first.

A frame takes the fast path when it is one of the four frequent messages in exactly the form its time promises. Everything else takes the
careful path, which knows both eras, every reply and every other message, counts what it does not know, and never raises:

- a field nobody listed: counted, named once in `fresh` (the adapter journals that), the rest of the frame is used;
- a snapshot with an unlisted list or object, which could be a renamed side: `Unparsed`, or it would read as "no liquidity";
- an unknown message type, a malformed frame, a number that does not fit: `Unparsed` with the reason, and sid, seq, symbol if readable;
- a known message that has no body of its own (fills, orders, index values): `Control` with action ``data`` and the type as channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from exchanges.adapter import Normalised
from exchanges.kalshi import cents, wire
from exchanges.kalshi.cold import COLD, Reply, integer, text
from exchanges.kalshi.numbers import (
    DOLLAR,
    MILLISECOND_NS,
    PRICE_EXPONENT,
    SECOND_NS,
    SIZE_EXPONENT,
    BadFrame,
    count,
    instant_ns,
    price,
    size,
)
from journal.entry import Aggressor, Book, Change, Delta, Op, Side, Ticker, Trade, Unparsed

Decoded = tuple[Normalised, Reply | None]
MAX_ERROR = 300  # characters of an error text: it may quote the venue
MAX_NAMES = 1_000  # distinct unknown names counted by name; a venue that invents more has them counted as "…"

_BID, _ASK, _ADD, _SET = int(Side.bid), int(Side.ask), int(Op.add), int(Op.set)
_BUY, _SELL, _UNKNOWN = int(Aggressor.buy), int(Aggressor.sell), int(Aggressor.unknown)
_AGGRESSOR = {"yes": _BUY, "bid": _BUY, "no": _SELL, "ask": _SELL, None: _UNKNOWN}
_BLOCK = {False: 0, True: 1, None: 2}


def _delta(frame: wire.DeltaFrame) -> Normalised:
    m = frame.msg
    if m.side == "yes":
        change = Change(price(m.price_dollars), size(m.delta_fp), _BID, _ADD)
    else:
        change = Change(DOLLAR - price(m.price_dollars), size(m.delta_fp), _ASK, _ADD)
    at = m.ts_ms * MILLISECOND_NS if m.ts_ms else _instant(m.ts)
    return Normalised(Delta((change,)), m.market_ticker, at, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _snapshot(frame: wire.SnapshotFrame) -> Normalised:
    m = frame.msg
    levels = [Change(price(at), count(resting), _BID, _SET) for at, resting in m.yes_dollars_fp or ()]
    levels += [Change(DOLLAR - price(at), count(resting), _ASK, _SET) for at, resting in m.no_dollars_fp or ()]
    return Normalised(Book(tuple(levels)), m.market_ticker, 0, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _trade(frame: wire.TradeFrame) -> Normalised:
    m = frame.msg
    body = Trade(
        price(m.yes_price_dollars),
        count(m.count_fp),
        _AGGRESSOR[m.taker_outcome_side or m.taker_book_side or m.taker_side],
        _BLOCK[m.is_block_trade],
        m.trade_id,
    )
    at = m.ts_ms * MILLISECOND_NS if m.ts_ms else m.ts * SECOND_NS
    return Normalised(body, m.market_ticker, at, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _count(value: str | None) -> int | None:
    return None if value is None else count(value)


def _instant(value: str) -> int:
    return instant_ns(value) if value else 0


def _ticker(frame: wire.TickerFrame) -> Normalised:
    m = frame.msg
    body = Ticker(
        price(m.price_dollars),
        price(m.yes_bid_dollars),
        price(m.yes_ask_dollars),
        _count(m.yes_bid_size_fp),
        _count(m.yes_ask_size_fp),
        _count(m.last_trade_size_fp),
        _count(m.volume_fp),
        _count(m.open_interest_fp),
        m.dollar_volume,
        m.dollar_open_interest,
    )
    at = m.ts_ms * MILLISECOND_NS if m.ts_ms else m.ts * SECOND_NS
    return Normalised(body, m.market_ticker, at, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _any_delta(frame: cents.DeltaFrame) -> Normalised:
    m = frame.msg
    at = cents.required(cents.either_price(m.price_dollars, m.price), "price")
    change = cents.required(cents.either_size(m.delta_fp, m.delta), "delta")
    side = (at, _BID) if m.side == "yes" else (DOLLAR - at, _ASK)
    venue_ns = m.ts_ms * MILLISECOND_NS if m.ts_ms else _instant(m.ts)
    body = Delta((Change(side[0], change, side[1], _ADD),))
    return Normalised(body, m.market_ticker, venue_ns, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _any_snapshot(frame: cents.SnapshotFrame) -> Normalised:
    m = frame.msg
    levels: list[Change] = []
    for side, forms in (
        (_BID, (m.yes_dollars_fp, m.yes_dollars, m.yes)),
        (_ASK, (m.no_dollars_fp, m.no_dollars, m.no)),
    ):
        for pair in next((form for form in forms if form is not None), ()):
            at, resting = cents.level(pair)
            levels.append(Change(at if side == _BID else DOLLAR - at, resting, side, _SET))
    return Normalised(Book(tuple(levels)), m.market_ticker, 0, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _any_trade(frame: cents.TradeFrame) -> Normalised:
    m = frame.msg
    at = cents.either_price(m.yes_price_dollars, m.yes_price)
    if at is None:
        at = DOLLAR - cents.required(cents.either_price(m.no_price_dollars, m.no_price), "yes_price")
    traded = cents.required(cents.either_size(m.count_fp, m.count), "count")
    if traded < 0:
        raise BadFrame(f"count of a trade is negative: {traded} hundredths")
    aggressor = _AGGRESSOR[m.taker_outcome_side or m.taker_book_side or m.taker_side]
    body = Trade(at, traded, aggressor, _BLOCK[m.is_block_trade], m.trade_id)
    venue_ns = m.ts_ms * MILLISECOND_NS if m.ts_ms else m.ts * SECOND_NS
    return Normalised(body, m.market_ticker, venue_ns, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


def _any_ticker(frame: cents.TickerFrame) -> Normalised:
    m = frame.msg
    body = Ticker(
        cents.either_price(m.price_dollars, m.price),
        cents.either_price(m.yes_bid_dollars, m.yes_bid),
        cents.either_price(m.yes_ask_dollars, m.yes_ask),
        _count(m.yes_bid_size_fp),
        _count(m.yes_ask_size_fp),
        _count(m.last_trade_size_fp),
        cents.either_size(m.volume_fp, m.volume),
        cents.either_size(m.open_interest_fp, m.open_interest),
        m.dollar_volume,
        m.dollar_open_interest,
    )
    venue_ns = m.ts_ms * MILLISECOND_NS if m.ts_ms else m.ts * SECOND_NS
    return Normalised(body, m.market_ticker, venue_ns, frame.seq, frame.sid, PRICE_EXPONENT, SIZE_EXPONENT)


_NORMALISE: dict[type, Callable[[Any], Normalised]] = {
    wire.DeltaFrame: _delta,
    wire.SnapshotFrame: _snapshot,
    wire.TradeFrame: _trade,
    wire.TickerFrame: _ticker,
    cents.DeltaFrame: _any_delta,
    cents.SnapshotFrame: _any_snapshot,
    cents.TradeFrame: _any_trade,
    cents.TickerFrame: _any_ticker,
}
_NOW = msgspec.json.Decoder(wire.Frame)
_CENTS = msgspec.json.Decoder(cents.Frame)
# Literals with a point stay text: a float never gets further than the parser.
_ANY = msgspec.json.Decoder(float_hook=str)
# What msgspec raises for bytes (UnicodeDecodeError is a ValueError, as is our BadFrame), and for ten thousand opening brackets.
_BAD = (msgspec.DecodeError, ValueError, RecursionError)


class Decoder:
    """Decodes one connection's frames and counts what it did not know."""

    def __init__(self) -> None:
        self.unknown: dict[str, int] = {}  # "type" or "type.field" -> frames
        self.fresh: list[str] = []  # names seen for the first time; the adapter empties it
        self.unparsed = 0

    def decode(self, data: bytes, recv_ns: int) -> Decoded:
        """The frame's one item, and the reply in it if it is one. Never raises for any bytes."""
        try:
            frame = (_NOW if recv_ns >= cents.CENTS_END_NS else _CENTS).decode(data)
            return _NORMALISE[type(frame)](frame), None
        except _BAD:
            return self._careful(data)

    def _careful(self, data: bytes) -> Decoded:
        try:
            frame = _ANY.decode(data)
        except _BAD as error:
            return self._refuse(f"not JSON: {error}", "", 0, 0), None
        kind = frame.get("type") if isinstance(frame, dict) else None
        if not isinstance(kind, str):
            return self._refuse("no message type", "", 0, 0), None
        sid = integer(frame, "sid", most=2**32 - 1)
        seq = integer(frame, "seq", most=2**63 - 1)
        msg = frame.get("msg")
        symbol = text(msg, "market_ticker", most=200) if isinstance(msg, dict) else ""
        try:
            if kind in cents.FIELDS:
                return self._frequent(kind, frame), None
            if kind in COLD:
                item, reply = COLD[kind](frame, msg if isinstance(msg, dict) else {})
                item.subscription, item.venue_seq = reply.sid if reply else sid, seq
                return item, reply
        except _BAD as error:
            return self._refuse(f"{kind}: {error}", symbol, sid, seq), None
        self._count(kind[:80])
        return self._refuse(f"unknown message type {kind[:80]!a}", symbol, sid, seq), None

    def _frequent(self, kind: str, frame: dict[str, Any]) -> Normalised:
        """One of the four frequent messages in any era's form, with unlisted fields counted and left out."""
        envelope, fields = cents.FIELDS[kind]
        msg = frame.get("msg")
        if isinstance(msg, dict):
            for name in [name for name in msg if name not in fields]:
                self._count(f"{kind}.{name[:80]}")
                value = msg.pop(name)
                if kind == "orderbook_snapshot" and isinstance(value, (list, dict)):
                    raise BadFrame(f"unknown field {name[:80]!a} may hold depth")
        for name in [name for name in frame if name not in envelope]:
            self._count(f"{kind}.{name[:80]}")
            del frame[name]
        known = msgspec.convert(frame, cents.Frame)
        return _NORMALISE[type(known)](known)

    def _count(self, name: str) -> None:
        if name in self.unknown:
            self.unknown[name] += 1
        elif len(self.unknown) < MAX_NAMES:
            self.unknown[name] = 1
            self.fresh.append(name)
        else:
            self.unknown["…"] = self.unknown.get("…", 0) + 1

    def _refuse(self, error: str, symbol: str, sid: int, seq: int) -> Normalised:
        self.unparsed += 1
        return Normalised(Unparsed(error[:MAX_ERROR]), symbol, 0, seq, sid)
