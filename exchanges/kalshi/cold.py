"""Kalshi's infrequent messages: replies, lifecycle, and those that are kept but have no body of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from exchanges.adapter import Normalised
from exchanges.kalshi.cents import settlement
from exchanges.kalshi.numbers import (
    MILLISECOND_NS,
    PRICE_EXPONENT,
    SECOND_NS,
    SIZE_EXPONENT,
    BadFrame,
)
from journal.entry import Control, Lifecycle, canonical_json

# https://docs.kalshi.com, WebSocket error codes, as of 2026-11; starred ones are retired.
ERRORS = {
    1: "cannot process",
    2: "params required",
    3: "channels required",
    4: "sids required",
    5: "unknown command",
    6: "already subscribed (retired)",
    7: "unknown sid",
    8: "unknown channel",
    9: "authentication required",
    10: "channel error",
    11: "invalid parameter",
    12: "exactly one sid required",
    13: "unsupported action",
    14: "market ticker required",
    15: "action required",
    16: "market not found (retired)",
    17: "internal error (retired)",
    18: "command timeout",
    19: "shard parameters",
    20: "shard parameters",
    21: "shard parameters",
    22: "shard parameters",
    23: "match ids",
    24: "index ids",
    25: "subscription buffer overflow",
    26: "market limit per subscription exceeded",
    27: "too many requests",
    28: "underlying tickers",
}
STATUS = {  # lifecycle event -> the market's state, where the event says it
    "created": "pending",
    "activated": "active",
    "deactivated": "paused",
    "determined": "determined",
    "settled": "settled",
}
_TIMES = ("open_ts", "close_ts", "determination_ts", "settled_ts")
_SAID = frozenset(("market_ticker", "event_type", "result", "settlement_value", *_TIMES))


class Reply(msgspec.Struct):
    """An answer to a command of ours. `symbols` is None where the venue sent no list."""

    kind: str  # subscribed, unsubscribed, ok, error
    id: int
    sid: int
    channel: str = ""
    code: int = 0
    message: str = ""
    symbols: list[str] | None = None


def integer(frame: Any, name: str, *, most: int) -> int:
    """A field that is an integer from 0 to `most`, else 0."""
    value = frame.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else 0


def text(frame: Any, name: str, *, most: int) -> str:
    """A field that is text of at most `most` characters, else empty."""
    value = frame.get(name)
    return value if isinstance(value, str) and len(value) <= most else ""


def _symbols(msg: Any) -> list[str] | None:
    found = msg.get("market_tickers") if isinstance(msg, dict) else None
    return [s for s in found if isinstance(s, str)] if isinstance(found, list) else None


def _reply(frame: dict[str, Any], msg: dict[str, Any]) -> tuple[Normalised, Reply]:
    sid = integer(frame, "sid", most=2**32 - 1) or integer(msg, "sid", most=2**32 - 1)
    reply = Reply(
        str(frame["type"]),
        integer(frame, "id", most=2**63 - 1),
        sid,
        text(msg, "channel", most=80),
        integer(msg, "code", most=10**6),
        text(msg, "msg", most=500),
        _symbols(msg),
    )
    detail: dict[str, Any] = {"id": reply.id}
    if reply.kind == "error":
        detail |= {"code": reply.code, "meaning": ERRORS.get(reply.code, "unknown code"), "msg": reply.message}
    elif reply.symbols is not None:
        detail["count"] = len(reply.symbols)
    return Normalised(Control(reply.kind, reply.channel, canonical_json(detail).decode())), reply


def _subscribed(frame: dict[str, Any], msg: dict[str, Any]) -> tuple[Normalised, Reply]:
    item, reply = _reply(frame, msg)
    if not reply.sid or not reply.channel:
        raise BadFrame("channel or sid is missing")
    return item, reply


def _seconds(msg: dict[str, Any], name: str) -> int:
    value = msg.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 2**63 // SECOND_NS - 1:
        raise BadFrame(f"{name} is not a time in seconds")
    return value * SECOND_NS


def _market(_frame: dict[str, Any], msg: dict[str, Any]) -> tuple[Normalised, None]:
    symbol, event = text(msg, "market_ticker", most=200), text(msg, "event_type", most=80)
    if not symbol or not event:
        raise BadFrame("market_ticker or event_type is missing")
    opens, closes, determined, settled = (_seconds(msg, name) for name in _TIMES)
    rest = {name: value for name, value in msg.items() if name not in _SAID}
    body = Lifecycle(
        event, STATUS.get(event, ""), opens, closes, determined, settled, settlement(msg.get("settlement_value")),
        text(msg, "result", most=80), canonical_json(rest).decode() if rest else "",
    )  # fmt: skip
    return Normalised(body, symbol, price_exponent=PRICE_EXPONENT, size_exponent=SIZE_EXPONENT), None


def _event(frame: dict[str, Any], msg: dict[str, Any]) -> tuple[Normalised, None]:
    symbol = text(msg, "event_ticker", most=200)
    if not symbol:
        raise BadFrame("event_ticker is missing")
    rest = {name: value for name, value in msg.items() if name != "event_ticker"}
    return Normalised(Lifecycle(str(frame["type"]), detail=canonical_json(rest).decode()), symbol), None


def _kept(frame: dict[str, Any], msg: dict[str, Any]) -> tuple[Normalised, None]:
    at = integer(msg, "ts_ms", most=2**63 // MILLISECOND_NS - 1) or integer(msg, "source_ts_ms", most=2**63 // MILLISECOND_NS - 1)
    symbol = text(msg, "market_ticker", most=200)
    return Normalised(Control("data", str(frame["type"])), symbol, at * MILLISECOND_NS), None


Cold = Callable[[dict[str, Any], dict[str, Any]], tuple[Normalised, Reply | None]]
COLD: dict[str, Cold] = {
    "subscribed": _subscribed,
    "unsubscribed": _reply,
    "ok": _reply,
    "error": _reply,
    "market_lifecycle_v2": _market,
    "multivariate_market_lifecycle": _market,
    "event_lifecycle": _event,
    "event_fee_update": _event,
    # Account and index channels: captured whole, folded by nothing here.
    "fill": _kept,
    "market_position": _kept,
    "market_positions": _kept,
    "user_order": _kept,
    "user_orders": _kept,
    "order_group_updates": _kept,
    "communications": _kept,
    "cfbenchmarks_value": _kept,
    "cfbenchmarks_value_5hz": _kept,
    "pyth_value": _kept,
}
