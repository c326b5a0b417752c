"""What the stream sends: every frame is a JSON array of these messages, told apart by ``type``.

Prices and sizes are decimal strings; times are RFC 3339 (``*_time``) and nanoseconds since 1970 (``*_ns``); a position is
``stream:sequence``. A data message carries no subscription id, so that its bytes are the same for every client. `prev_position` is the
position of the previous message of the same channel and symbol: a client whose last one is another has missed something.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec

from ssmd.moments import rfc3339
from ssmd.render import decimal_text

CHANNELS = ("book", "bbo", "trade", "ticker", "market", "gap", "day")
# Of these a newer message says all that an older one did: they may be conflated. Trades and gaps are facts.
STATE_CHANNELS = frozenset({"book", "bbo", "ticker", "market", "day"})
_LEAST_DEFLATED = 128  # bytes: less is hardly made smaller
MAX_FRAME = 256 << 10  # bytes of messages of one frame; clients commonly refuse more than 1 MiB

Topic = tuple[str, str]  # channel, symbol ("" where there is none)
Level = tuple[str, str]  # price, size
Group = Literal["series", "category"]  # of markets
GROUPS: tuple[Group, ...] = get_args(Group)

_TEXTS = 1 << 16  # of one exponent, about 100 bytes each

_ENCODER = msgspec.json.Encoder()
encode: Callable[[Any], bytes] = _ENCODER.encode


class Texts(dict[int, str]):
    """Integers of one exponent as decimals, by the integer: prices and sizes repeat."""

    def __init__(self, exponent: int, least: int) -> None:
        super().__init__()
        self._exponent, self._least = exponent, least

    def __missing__(self, value: int) -> str:
        if len(self) >= _TEXTS:
            self.clear()
        text = self[value] = decimal_text(value, self._exponent, self._least)
        return text


texts = lru_cache(maxsize=16)(Texts)


def amount(value: int, exponent: int, least: int = 0) -> str:
    """As `ssmd.render.decimal_text`."""
    return texts(exponent, least)[value]


class Message(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True, gc=False):
    """Fields that have their default are left out."""


class Data(Message, kw_only=True, gc=False):
    """A message of a channel, or about one market's."""

    symbol: str
    position: str
    prev_position: str | None = None


class BookData(Data, tag="book", kw_only=True, gc=False):
    """`snapshot` replaces the book; of a `delta` each level's size is its new total, "0" where there is none any more. Best level first."""

    kind: Literal["snapshot", "delta"]
    state: Literal["SYNCING", "VALID", "STALE"]
    bids: list[Level]
    asks: list[Level]
    recv_time: str = ""
    recv_ns: int = 0
    venue_time: str = ""
    venue_ns: int = 0


class BboData(Data, tag="bbo", kw_only=True, gc=False):
    """Best bid and offer; None: there is none."""

    kind: Literal["snapshot", "update"]
    state: Literal["SYNCING", "VALID", "STALE"]
    bid: Level | None = None
    ask: Level | None = None
    recv_time: str = ""
    recv_ns: int = 0
    venue_time: str = ""
    venue_ns: int = 0


class TradeData(Data, tag="trade", kw_only=True, gc=False):
    price: str
    size: str
    aggressor: Literal["buy", "sell", "unknown"]
    trade_id: str = ""
    block: bool = False
    recv_time: str = ""
    recv_ns: int = 0
    venue_time: str = ""
    venue_ns: int = 0


class TickerData(Data, tag="ticker", kw_only=True, gc=False):
    """Every field that the venue ever sent of the market, as last sent."""

    kind: Literal["snapshot", "update"]
    last: str | None = None
    bid: str | None = None
    ask: str | None = None
    bid_size: str | None = None
    ask_size: str | None = None
    last_size: str | None = None
    volume: str | None = None
    open_interest: str | None = None
    dollar_volume: str | None = None
    dollar_open_interest: str | None = None
    venue_time: str = ""
    venue_ns: int = 0


class MarketData(Data, tag="market", kw_only=True, gc=False):
    """What the venue said the market is."""

    kind: Literal["snapshot", "update"]
    event: str = ""
    status: str = ""
    open_time: str = ""
    open_ns: int = 0
    close_time: str = ""
    close_ns: int = 0
    determined_time: str = ""
    determined_ns: int = 0
    settled_time: str = ""
    settled_ns: int = 0
    settlement_value: str | None = None
    result: str = ""


class GapData(Data, tag="gap", kw_only=True, gc=False):
    """Entries are known to be missing: of the symbol, of all where it is "". `first_missing` and `last_missing` are the venue's numbers."""

    reason: str
    channel: str = ""
    first_missing: int = 0
    last_missing: int = 0
    from_time: str = ""
    from_ns: int = 0
    to_time: str = ""
    to_ns: int = 0
    healed_by: str = ""


class Stale(Data, tag="stale", kw_only=True, gc=False):
    """The market's book cannot be trusted from here on; its next book message is a snapshot."""

    channel: str = "book"
    reason: str = ""


class DayData(Message, tag="day", kw_only=True, gc=False):
    """A trading day after what happened to it."""

    kind: Literal["snapshot", "update"]
    position: str
    prev_position: str | None = None
    date: str
    state: str
    happened: str = ""
    step: str = ""
    who: str = ""
    why: str = ""
    time: str = ""
    time_ns: int = 0


# --- about the connection ---------------------------------------------------------------------------------------------------


class Welcome(Message, tag="welcome", kw_only=True):
    """The first message: who the client is, and where the streams are."""

    client: str
    env: str
    positions: list[str]
    heartbeat_s: float
    flush_ms: float
    policy: str
    max_messages: int
    max_bytes: int


class Unknown(msgspec.Struct, omit_defaults=True):
    """A name that nothing is known of, with those that are like it. `kind` is what it was asked as; `known_as` what it is instead: name
    it there.
    """

    name: str
    near: list[str] = []
    kind: Literal["symbol", "series", "category"] = "symbol"
    known_as: Literal["", "series", "category"] = ""

    def __str__(self) -> str:
        if self.known_as:
            return f"{self.name} is a {self.known_as} and no symbol: name it as `{self.known_as}`"
        return f"nothing is known of {self.name}" + (f" (like {', '.join(self.near)})" if self.near else "")


class Subscribed(Message, tag="subscribed", kw_only=True):
    """`positions`: what follows was journalled behind them. `resumed`: what was missed follows; if false, `resume_from` says from
    where it could have, and `reason` why not, where that is not its age alone. Give the newest `mark` back when you resume.
    """

    subscription: str
    id: str = ""
    channels: list[str]
    mode: str
    interval_ms: int = 0
    symbols: int | None = None
    positions: list[str]
    unknown: list[Unknown] = []
    resumed: bool | None = None
    resume_from: list[str] = []
    reason: str = ""
    mark: str = ""


class Unsubscribed(Message, tag="unsubscribed", kw_only=True):
    subscription: str
    id: str = ""
    reason: str = ""


class Snapshots(Message, tag="snapshots", kw_only=True):
    """The snapshots that were asked for follow."""

    id: str = ""
    positions: list[str]
    unknown: list[Unknown] = []


class Configured(Message, tag="configured", kw_only=True):
    id: str = ""
    policy: str


class Mode(Message, tag="mode", kw_only=True):
    """The mode of the client's subscriptions was changed by an operator."""

    mode: str
    interval_ms: int = 0
    reason: str = ""


class Heartbeat(Message, tag="heartbeat", kw_only=True):
    """Nothing was sent for a while; all up to `positions` was seen. Neither they nor `mark` are there while a subscription is resumed."""

    positions: list[str]
    mark: str = ""
    time: str
    time_ns: int


class Pong(Message, tag="pong", kw_only=True):
    id: str = ""
    mark: str = ""
    time: str
    time_ns: int


class Failed(Message, tag="error", kw_only=True):
    """`code` is for programs, `message` for people. The connection goes on unless it is closed behind it."""

    code: str
    message: str
    id: str = ""


class Pace(Message, tag="state", kw_only=True):
    """The client's buffer went into this state: told before anything is dropped."""

    state: Literal["healthy", "lagging", "dropping", "disconnecting"]
    policy: str
    pending_messages: int
    pending_bytes: int


class Lost(msgspec.Struct):
    """Of one channel and symbol: how many, from and to which position."""

    channel: str
    symbol: str
    count: int
    first_position: str
    last_position: str


class Dropped(Message, tag="dropped", kw_only=True):
    """Messages that will never be sent, because the client was slow. Of state-like channels a snapshot follows."""

    count: int
    topics: list[Lost]
    more_topics: int = 0


class Conflated(Message, tag="conflated", kw_only=True):
    """State-like messages instead of which one newer snapshot of each topic follows."""

    count: int
    topics: list[Lost]
    more_topics: int = 0


DATA = (BookData, BboData, TradeData, TickerData, MarketData, GapData, Stale, DayData)
CONTROL = (Welcome, Subscribed, Unsubscribed, Snapshots, Configured, Mode, Heartbeat, Pong, Failed, Pace, Dropped, Conflated)


class Update(msgspec.Struct, gc=False, eq=False):
    """One message of a channel, encoded once for all clients: by now (`made`), or when first wanted (`make`, of its position and `of`).

    `weight` is about how many levels it has. The collector does not walk it: tens of thousands are kept.
    """

    topic: Topic
    stream: str
    sequence: int
    make: Callable[..., Message] | None = None
    of: tuple[Any, ...] = ()
    weight: int = 1
    made: bytes = b""

    @property
    def channel(self) -> str:
        return self.topic[0]

    @property
    def position(self) -> str:
        return f"{self.stream}:{self.sequence}"

    @property
    def data(self) -> bytes:
        """The message's JSON."""
        if self.make is not None:
            self.made, self.make, self.of = encode(self.make(self.position, *self.of)), None, ()
        return self.made


def text_frames(messages: Iterable[bytes], *, deflated: bool = False) -> list[bytes]:
    """WebSocket text frames (a server's, unmasked: RFC 6455, 5.2) of arrays of the messages, in order, none above `MAX_FRAME` unless
    one message is. Deflated ones (RFC 7692) refer to no other frame, so that they are the same for every client that takes such.
    """
    frames: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for message in messages:
        if part and size + len(message) > MAX_FRAME:
            frames.append(_frame(part, deflated=deflated))
            part, size = [], 0
        part.append(message)
        size += len(message) + 1
    if part:
        frames.append(_frame(part, deflated=deflated))
    return frames


def _frame(messages: list[bytes], *, deflated: bool) -> bytes:
    payload, first = b"[" + b",".join(messages) + b"]", 0x81
    if deflated and len(payload) >= _LEAST_DEFLATED:
        payload, first = _deflated(payload), 0xC1  # RSV1
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    head = struct.pack("!BBH", first, 126, size) if size < 1 << 16 else struct.pack("!BBQ", first, 127, size)
    return head + payload


def _deflated(payload: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)  # level 6 takes four times as long for a fifth less
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@lru_cache(maxsize=64)
def _second(digits: str) -> str:
    return rfc3339(int(digits) * 10**9)[:-11]


def when(ns: int) -> str:
    """As `ssmd.moments.rfc3339`, "" for 0."""
    if ns < 10**9:
        return rfc3339(ns) if ns else ""
    digits = str(ns)
    return f"{_second(digits[:-9])}.{digits[-9:]}Z"
