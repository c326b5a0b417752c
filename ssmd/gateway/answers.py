"""What REST answers: the types OpenAPI is made from. Prices and sizes are decimal strings; times are RFC 3339 (``*_time``, "" where there
is none) and nanoseconds since 1970 (``*_ns``, 0 where there is none); a position is ``stream:sequence``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

State = Literal["SYNCING", "VALID", "STALE"]
Cursor = Annotated[str | None, Meta(description="For the next page: give it as `cursor`, the rest as before. null: there is no more.")]
Level = tuple[str, str]  # price, size


class Asked(msgspec.Struct, kw_only=True):
    """Of when the answer is: everything up to this effective time."""

    as_of_time: str
    as_of_ns: int


class MarketLine(msgspec.Struct, kw_only=True):
    symbol: str
    status: Annotated[str, Meta(description="pending, active, paused, closed, determined, settled, unknown.")]
    title: str
    category: str
    series: str
    event: str
    open_time: str
    close_time: str
    expires_time: str
    result: str
    captured: Annotated[bool | None, Meta(description="Whether messages of it are journalled; null: of the past, where it is not known.")]
    href: Annotated[str, Meta(description="Path of the market.")]


class Markets(Asked, kw_only=True):
    markets: list[MarketLine]
    next: Cursor


class Quote(msgspec.Struct, kw_only=True):
    """Best prices, and what the venue last sent of the others; null: nothing yet."""

    bid: str | None = None
    bid_size: str | None = None
    ask: str | None = None
    ask_size: str | None = None
    last: str | None = None
    last_size: str | None = None
    volume: str | None = None
    open_interest: str | None = None


class BookSummary(msgspec.Struct, kw_only=True):
    state: Annotated[State, Meta(description="SYNCING: no snapshot yet. STALE: entries are missing since.")]
    position: str
    bids: Annotated[int, Meta(description="Price levels.")]
    asks: int
    venue_time: str
    recv_time: str


class Links(msgspec.Struct, kw_only=True):
    self: str
    book: str
    trades: str
    candles: str
    event: str
    stream: str


class Definition(msgspec.Struct, kw_only=True):
    """Times are nanoseconds since 1970, 0 where the venue does not say; strikes and prices decimal strings."""

    symbol: str
    venue_id: str
    event: str
    series: str
    title: str
    subtitle: str
    category: str
    tags: list[str]
    type: str
    status: str
    venue_status: str
    open_ns: int
    close_ns: int
    expected_expiration_ns: int
    expiration_ns: int
    determined_ns: int
    settled_ns: int
    strike_type: str
    strike_floor: str
    strike_cap: str
    strike_custom: Annotated[Any, Meta(description="As the venue sent it.")]
    price_exponent: int
    size_exponent: int
    tick_structure: str
    price_ranges: Annotated[list[tuple[str, str, str]], Meta(description="[from, to, step].")]
    can_close_early: bool | None
    volume_class: Annotated[int, Meta(description="Digits of the contracts traded when the venue last listed it.")]
    result: str
    settlement_value: str | None
    rules: str
    rules_secondary: str
    flaws: Annotated[list[str], Meta(description="Fields that could not be understood.")]


class Market(Asked, kw_only=True):
    symbol: str
    status: str
    definition: Annotated[Definition | None, Meta(description="What the venue says of it, as `ssmd secmaster show`; null: not known.")]
    prices: Quote
    book: BookSummary | None
    captured: bool
    gaps: Annotated[list[Gap], Meta(description="Known to be missing today, of it or of everything; the newest 20.")]
    links: Links


class Gap(msgspec.Struct, kw_only=True):
    position: str
    symbol: Annotated[str, Meta(description='"": of everything.')]
    channel: str
    reason: str
    from_time: str
    to_time: str
    first_missing: Annotated[int, Meta(description="The venue's numbers.")]
    last_missing: int
    healed_by: str


class BookAnswer(Asked, kw_only=True):
    symbol: str
    state: State
    position: Annotated[str, Meta(description="Of the newest entry folded into it.")]
    bids: Annotated[list[Level], Meta(description="[price, size], best first.")]
    asks: list[Level]
    depth: Annotated[int, Meta(description="Levels asked for of a side; 0: all.")]
    levels: Annotated[tuple[int, int], Meta(description="How many there are of each side.")]
    venue_time: str
    venue_ns: int
    recv_time: str
    recv_ns: int


class TradeLine(msgspec.Struct, kw_only=True):
    position: str
    trade_id: str
    price: str
    size: str
    aggressor: Literal["buy", "sell", "unknown"]
    venue_time: str
    venue_ns: int
    recv_time: str
    recv_ns: int


class Trades(Asked, kw_only=True):
    symbol: str
    order: Literal["newest", "oldest"]
    trades: list[TradeLine]
    next: Cursor


class Candle(msgspec.Struct, kw_only=True):
    start_time: str
    start_ns: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    trades: int


class Candles(Asked, kw_only=True):
    symbol: str
    interval_ns: int
    since_ns: int
    until_ns: Annotated[int, Meta(description="End of the last interval, which may go on.")]
    candles: Annotated[list[Candle], Meta(description="Oldest first; an interval without a trade is left out.")]


class EventLine(msgspec.Struct, kw_only=True):
    event: str
    series: str
    category: str
    title: Annotated[str, Meta(description="Of one of its markets.")]
    markets: int
    active: Annotated[int, Meta(description="Markets that are active.")]
    closes_time: Annotated[str, Meta(description="When the last of them closes.")]
    href: str


class Events(Asked, kw_only=True):
    events: list[EventLine]
    next: Cursor


class DayLine(msgspec.Struct, kw_only=True):
    date: str
    state: Annotated[str, Meta(description="PENDING, STARTING, ACTIVE, ENDING, COMPLETE, ERROR, FAILED.")]
    since_time: str
    since_ns: int
    step: str
    forced: bool
    who: str
    why: str
    opens_time: str
    over_time: str
    href: str


class Days(Asked, kw_only=True):
    today: str
    days: Annotated[list[DayLine], Meta(description="Newest first: those that something happened to, and today.")]
    next: Cursor


class DayStep(msgspec.Struct, kw_only=True):
    """One thing that happened to a day."""

    position: str
    time: str
    at_ns: int
    what: str
    who: str
    detail: dict[str, Any]


class Day(Asked, kw_only=True):
    day: DayLine
    done: Annotated[list[str], Meta(description="Steps of the present phase that are done.")]
    record: Annotated[str, Meta(description="The object with the day's record, once it is complete.")]
    timeline: Annotated[list[DayStep], Meta(description="Oldest first; the newest 500.")]


class CoverageInterval(msgspec.Struct, kw_only=True):
    status: Annotated[str, Meta(description="proved(seq), probable, unknown or gap.")]
    cause: str
    healed_by: str
    subscription: int
    from_time: str
    to_time: str
    first_seq: int
    last_seq: int
    entries: int


class ChannelCoverage(msgspec.Struct, kw_only=True):
    stream: str
    channel: str
    entries: Annotated[dict[str, int], Meta(description="By status.")]
    missing: Annotated[int, Meta(description="Numbers of the venue that are known to be missing.")]
    unreported: int
    disagreed: int
    intervals: Annotated[list[CoverageInterval], Meta(description="Oldest first; the newest 200.")]


class CoverageAnswer(Asked, kw_only=True):
    date: str
    channels: list[ChannelCoverage]


class StreamLine(msgspec.Struct, kw_only=True):
    stream: str
    first: int
    last: int
    bytes: Annotated[int | None, Meta(description="null: of the past, where it is not known.")]
    newest_time: str


class Streams(Asked, kw_only=True):
    streams: list[StreamLine]


class Check(msgspec.Struct, kw_only=True):
    name: str
    good: bool
    reason: str
    needed: bool = True  # what is not needed may be down: the rest serves


class Replay(msgspec.Struct, kw_only=True):
    """A past day that happens again."""

    date: str
    speed: Annotated[str, Meta(description="Times real time, such as 10; max: as clients take it; step: as somebody lets it go on.")]
    symbols: Annotated[list[str], Meta(description="Whose messages alone are released; empty: all.")]
    state: Annotated[Literal["waiting", "running", "over"], Meta(description="Whether it has begun and ended; what is over is served on.")]


class Health(msgspec.Struct, kw_only=True):
    live: bool
    ready: bool
    replay: Annotated[Replay | None, Meta(description="Null where the present is served.")] = None
    checks: list[Check]


class Ready(msgspec.Struct, kw_only=True):
    ready: bool
    reasons: list[str]


class Live(msgspec.Struct, kw_only=True):
    live: bool


class Subscription(msgspec.Struct, kw_only=True):
    id: str
    channels: list[str]
    mode: str
    interval_ms: int
    names: Annotated[int, Meta(description="How many symbols, series and categories it names.")]
    of: Annotated[list[str], Meta(description="20 of them at most: symbols, `*` for all, `series:NAME`, `category:NAME`.")]


class ClientLine(msgspec.Struct, kw_only=True):
    id: str
    who: Annotated[str, Meta(description="Its key, or loopback.")]
    peer: str
    connected_time: str
    state: Annotated[str, Meta(description="healthy, lagging, dropping or disconnecting.")]
    policy: Annotated[str, Meta(description="What becomes of messages that it does not take in time.")]
    mode: Annotated[str, Meta(description="Of its subscriptions; several are joined by commas.")]
    subscriptions: int
    sent: Annotated[int, Meta(description="Messages.")]
    sent_bytes: int
    dropped: int
    conflated: int
    waiting: Annotated[int, Meta(description="Messages in its buffer.")]
    waiting_bytes: int


class Clients(msgspec.Struct, kw_only=True):
    clients: list[ClientLine]


class Client(msgspec.Struct, kw_only=True):
    client: ClientLine
    subscriptions: list[Subscription]


class Done(msgspec.Struct, kw_only=True):
    """An administrator's action, as it was journalled."""

    client: str
    action: str
    who: str
    position: str
