"""The journal's one record type and the bodies it can carry.

All prices and sizes are integers; ``value = integer * 10 ** exponent`` with the exponents of the entry.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec


class Kind(IntEnum):
    """Body of an entry; the numbers are the union's discriminants in ``entry.capnp``."""

    trade = 0
    book = 1
    delta = 2
    ticker = 3
    lifecycle = 4
    gap = 5
    control = 6
    unparsed = 7
    event = 8


class Side(IntEnum):
    bid = 0
    ask = 1


class Op(IntEnum):
    add = 0  # size is a signed change of the level
    set = 1  # size is the level's new total, 0 removes it


class Aggressor(IntEnum):
    unknown = 0
    buy = 1
    sell = 2


class Change(NamedTuple):
    """One level of a snapshot (`op` set) or one change of a delta."""

    price: int
    size: int
    side: int
    op: int


class Trade(msgspec.Struct, frozen=True, gc=False):
    price: int
    size: int
    aggressor: int
    block: int  # 0 no, 1 yes, 2 the venue did not say
    trade_id: str


class Book(msgspec.Struct, frozen=True):
    """A snapshot. Replaces the book; levels in the order the venue sent them."""

    levels: tuple[Change, ...]


class Delta(msgspec.Struct, frozen=True):
    changes: tuple[Change, ...]


class Ticker(msgspec.Struct, frozen=True, gc=False):
    """None: the venue did not send the field."""

    last: int | None = None
    bid: int | None = None
    ask: int | None = None
    bid_size: int | None = None
    ask_size: int | None = None
    last_size: int | None = None
    volume: int | None = None
    open_interest: int | None = None
    dollar_volume: int | None = None
    dollar_open_interest: int | None = None


class Lifecycle(msgspec.Struct, frozen=True, gc=False):
    """A market's change of state; times in ns, 0 where not sent; `detail` is canonical JSON of the rest."""

    event: str
    status: str = ""
    open_ns: int = 0
    close_ns: int = 0
    determined_ns: int = 0
    settled_ns: int = 0
    settlement_value: int | None = None
    result: str = ""
    detail: str = ""


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Entries known to be missing. The entry's subscription and symbol ("" for all of it) say where."""

    reason: str
    channel: str = ""
    first_missing: int = 0
    last_missing: int = 0
    from_ns: int = 0
    to_ns: int = 0
    healed_by: str = ""
    detail: str = ""


class Control(msgspec.Struct, frozen=True, gc=False):
    """Our own decisions (connected, subscribed, lease, day_opened) and the venue's acknowledgements."""

    action: str
    channel: str = ""
    detail: str = ""


class Unparsed(msgspec.Struct, frozen=True, gc=False):
    """A frame we did not understand; its bytes are in the entry's `raw`."""

    error: str


class Event(msgspec.Struct, frozen=True, gc=False):
    """A domain event; `data` is canonical JSON."""

    type: str
    data: bytes = b"{}"
    who: str = ""
    why: str = ""
    causation: str = ""
    correlation: str = ""


Body = Trade | Book | Delta | Ticker | Lifecycle | Gap | Control | Unparsed | Event

KIND_OF: dict[type, Kind] = {
    Trade: Kind.trade,
    Book: Kind.book,
    Delta: Kind.delta,
    Ticker: Kind.ticker,
    Lifecycle: Kind.lifecycle,
    Gap: Kind.gap,
    Control: Kind.control,
    Unparsed: Kind.unparsed,
    Event: Kind.event,
}


class Entry(msgspec.Struct, frozen=True):
    """One immutable fact. Identity is (feed, epoch, frame, part); order is the journal's, never a timestamp."""

    body: Body
    feed: str
    symbol: str
    epoch: bytes  # 16 bytes
    frame: int
    recv_ns: int
    mono_ns: int
    effective_ns: int
    day: int  # yyyymmdd
    venue_ns: int = 0
    venue_seq: int = 0
    subscription: int = 0
    part: int = 0
    parts: int = 1
    price_exponent: int = 0
    size_exponent: int = 0
    raw: bytes = b""
    raw_hash: bytes = b""

    @property
    def kind(self) -> Kind:
        return KIND_OF[type(self.body)]

    @property
    def id(self) -> str:
        return f"{self.feed}.{self.epoch.hex()}.{self.frame}.{self.part}"


class Record(NamedTuple):
    """An entry at its place: the stream's sequence, from 1."""

    sequence: int
    entry: Entry


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no white space: one value, one text."""
    return msgspec.json.encode(value, order="sorted")


def control(action: str, detail: dict[str, object]) -> Control:
    """A decision of ours, with `detail` as canonical JSON."""
    return Control(action, detail=canonical_json(detail).decode())
