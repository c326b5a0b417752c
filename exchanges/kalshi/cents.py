"""The same four messages with every field they ever had: the cents era, its transition, and now.

Integer cents and integer counts were sent until 2026-03-12, beside dollar strings from about January 2026. The dollar string wins where
both are there: it is the finer one. Fields are optional here, so what is missing altogether is found by the functions below.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from exchanges.kalshi.numbers import BadFrame, amount, cents, count, price, size
from exchanges.kalshi.wire import Dollars, Millis, Outcome, Seconds, Seq, Sid, Symbol

# First instant without cents: 2026-03-12 00:00 UTC. The hour of the change is not known, which is why both decoders know both forms.
CENTS_END_NS = 1_773_273_600 * 1_000_000_000
Count = Annotated[int, msgspec.Meta(ge=-(10**15), le=10**15)]
Levels = list[tuple[int | str, int | str]]


class DeltaMsg(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    market_ticker: Symbol
    side: Outcome
    price_dollars: str | None = None
    delta_fp: str | None = None
    price: int | None = None
    delta: Count | None = None
    market_id: str = ""
    ts_ms: Millis = 0
    ts: str = ""
    client_order_id: str | None = None
    subaccount: int | None = None


class DeltaFrame(msgspec.Struct, tag_field="type", tag="orderbook_delta", forbid_unknown_fields=True, gc=False):
    sid: Sid
    msg: DeltaMsg
    seq: Seq = 0
    id: int = 0


class SnapshotMsg(msgspec.Struct, forbid_unknown_fields=True):
    market_ticker: Symbol
    market_id: str = ""
    yes_dollars_fp: Levels | None = None
    no_dollars_fp: Levels | None = None
    yes_dollars: Levels | None = None
    no_dollars: Levels | None = None
    yes: Levels | None = None
    no: Levels | None = None


class SnapshotFrame(msgspec.Struct, tag_field="type", tag="orderbook_snapshot", forbid_unknown_fields=True):
    sid: Sid
    msg: SnapshotMsg
    seq: Seq = 0
    id: int = 0


class TradeMsg(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    market_ticker: Symbol
    trade_id: str = ""
    yes_price_dollars: str | None = None
    no_price_dollars: str | None = None
    count_fp: str | None = None
    yes_price: int | None = None
    no_price: int | None = None
    count: Count | None = None
    market_id: str = ""
    taker_outcome_side: Outcome | None = None
    taker_book_side: Literal["bid", "ask"] | None = None
    taker_side: Outcome | None = None
    is_block_trade: bool | None = None
    ts_ms: Millis = 0
    ts: Seconds = 0


class TradeFrame(msgspec.Struct, tag_field="type", tag="trade", forbid_unknown_fields=True, gc=False):
    sid: Sid
    msg: TradeMsg
    seq: Seq = 0
    id: int = 0


class TickerMsg(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    market_ticker: Symbol
    price_dollars: str | None = None
    yes_bid_dollars: str | None = None
    yes_ask_dollars: str | None = None
    no_bid_dollars: str | None = None
    no_ask_dollars: str | None = None
    price: int | None = None
    yes_bid: int | None = None
    yes_ask: int | None = None
    no_bid: int | None = None
    no_ask: int | None = None
    market_id: str = ""
    yes_bid_size_fp: str | None = None
    yes_ask_size_fp: str | None = None
    last_trade_size_fp: str | None = None
    volume_fp: str | None = None
    open_interest_fp: str | None = None
    volume: Count | None = None
    open_interest: Count | None = None
    dollar_volume: Dollars | None = None
    dollar_open_interest: Dollars | None = None
    ts_ms: Millis = 0
    ts: Seconds = 0
    time: str = ""
    Clock: int | None = None


class TickerFrame(msgspec.Struct, tag_field="type", tag="ticker", forbid_unknown_fields=True, gc=False):
    sid: Sid
    msg: TickerMsg
    seq: Seq = 0
    id: int = 0


Frame = DeltaFrame | SnapshotFrame | TradeFrame | TickerFrame
FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    str(frame.__struct_config__.tag): (frozenset(("type", *frame.__struct_fields__)), frozenset(msg.__struct_fields__))
    for frame, msg in (
        (DeltaFrame, DeltaMsg),
        (SnapshotFrame, SnapshotMsg),
        (TradeFrame, TradeMsg),
        (TickerFrame, TickerMsg),
    )
}


def either_price(dollars: str | None, in_cents: int | None) -> int | None:
    """Micro-dollars from whichever form was sent."""
    if dollars is not None:
        return price(dollars)
    return None if in_cents is None else cents(in_cents)


def either_size(fixed_point: str | None, whole: int | None) -> int | None:
    """Hundredths from whichever form was sent."""
    if fixed_point is not None:
        return size(fixed_point)
    return None if whole is None else whole * 100


def level(pair: tuple[int | str, int | str]) -> tuple[int, int]:
    """One snapshot level; `yes_dollars` arrays mix a dollar string with an integer count."""
    at, resting = pair
    value = count(resting) if isinstance(resting, str) else resting * 100
    if not 0 <= value < 2**63:
        raise BadFrame(f"count {resting} of a level is negative or too large")
    return (price(at) if isinstance(at, str) else cents(at)), value


def required(value: Any, name: str) -> Any:
    """`value`, or `BadFrame` when neither form of it was sent."""
    if value is None:
        raise BadFrame(f"{name} is missing")
    return value


def settlement(value: object) -> int | None:
    """A settlement value of any era: dollar string, integer cents, or none."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return amount(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return cents(value)
    raise BadFrame("settlement_value is neither a string nor an integer")
