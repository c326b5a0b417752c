"""The four frequent messages as Kalshi sends them now (prices in dollar strings, counts with two decimals).

Strict on purpose: a field that is not listed makes the fast decoder refuse the frame, and the careful path in `decode` counts it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]  # escaped it must still be a subject token
Sid = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]  # the entry's field
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=2**63 // 1_000_000)]  # as ns it must fit 64 bits
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 // 1_000_000_000)]
Dollars = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Outcome = Literal["yes", "no"]
Levels = list[tuple[str, str]]


class DeltaMsg(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    market_ticker: Symbol
    price_dollars: str
    delta_fp: str
    side: Outcome
    market_id: str = ""
    ts_ms: Millis = 0
    ts: str = ""
    client_order_id: str | None = None
    subaccount: int | None = None


class DeltaFrame(msgspec.Struct, tag_field="type", tag="orderbook_delta", forbid_unknown_fields=True, gc=False):
    sid: Sid
    seq: Seq
    msg: DeltaMsg


class SnapshotMsg(msgspec.Struct, forbid_unknown_fields=True):
    """A side that is absent has no levels. Both sides are bids."""

    market_ticker: Symbol
    market_id: str = ""
    yes_dollars_fp: Levels | None = None
    no_dollars_fp: Levels | None = None


class SnapshotFrame(msgspec.Struct, tag_field="type", tag="orderbook_snapshot", forbid_unknown_fields=True):
    sid: Sid
    msg: SnapshotMsg
    seq: Seq = 0
    id: int = 0  # of the get_snapshot it answers


class TradeMsg(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    trade_id: str
    market_ticker: Symbol
    yes_price_dollars: str
    count_fp: str
    no_price_dollars: str = ""
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


class TickerMsg(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    market_ticker: Symbol
    price_dollars: str
    yes_bid_dollars: str
    yes_ask_dollars: str
    market_id: str = ""
    yes_bid_size_fp: str | None = None
    yes_ask_size_fp: str | None = None
    last_trade_size_fp: str | None = None
    volume_fp: str | None = None
    open_interest_fp: str | None = None
    dollar_volume: Dollars | None = None
    dollar_open_interest: Dollars | None = None
    ts_ms: Millis = 0
    ts: Seconds = 0
    time: str = ""


class TickerFrame(msgspec.Struct, tag_field="type", tag="ticker", forbid_unknown_fields=True, gc=False):
    sid: Sid
    msg: TickerMsg
    seq: Seq = 0


Frame = DeltaFrame | SnapshotFrame | TradeFrame | TickerFrame
