"""What a conversation with Kalshi is made of: channels, commands, and how each error code is met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from exchanges.adapter import Normalised, Output
from journal.entry import Body, Book, Control, Delta, Gap, Lifecycle, Ticker, Trade, canonical_json

BOOKS = "orderbook_delta"
CHANNELS = (BOOKS, "trade", "ticker", "market_lifecycle_v2")
# Channels that take no market filter: one subscription is all markets.
UNFILTERED = frozenset(("market_lifecycle_v2", "multivariate_market_lifecycle"))
CHANNEL_OF: dict[type, str] = {
    Delta: BOOKS,
    Book: BOOKS,
    Trade: "trade",
    Ticker: "ticker",
    Lifecycle: "market_lifecycle_v2",
}

COMMAND_NS = 10_000_000_000  # without an answer the connection is not healthy; the venue's own command timeout is error 18
FIRST_SNAPSHOT_NS = 10_000_000_000
RETRY_NS = 1_000_000_000  # times the number of tries
MAX_TRIES = 5

RETRY = frozenset((1, 18, 27))  # cannot process, command timeout, too many requests
TERMINAL = frozenset((10, 25))  # channel error, buffer overflow: the subscription is dead
# A subscribe we build wrongly or may not make; saying it again changes nothing. An unknown channel (8) or a full
# subscription (26) is not among them: the rest is still worth capturing, and what is not captured is journalled as missing.
FATAL = frozenset((2, 3, 5, 9, 11, 14))


@dataclass(slots=True)
class Channel:
    """A channel and its one subscription."""

    name: str
    since_ns: int = 0  # data is missing from here until the subscription shows a sign of life; 0: none known to be
    sid: int = 0
    last_ns: int = 0  # receive time of its last frame
    busy: bool = False  # a subscribe is on its way
    asked: set[str] = field(default_factory=set)
    late: dict[str, int] = field(default_factory=dict)  # market -> it is to be heard from here, and is not yet
    deaths: int = 0
    full: bool = False  # one more market was refused (error 26)

    def lives(self, sid: int, wanted: Iterable[str], draft: Draft) -> None:
        """Its first frame, before which it says what was missing until now. Of `wanted`, what was not asked for comes later than this."""
        self.sid = sid
        if self.since_ns:
            draft.own(Gap("not subscribed", self.name, from_ns=self.since_ns, to_ns=draft.now_ns), sid=sid)
        rest = (s for s in wanted if s not in self.asked)
        self.late = dict.fromkeys(rest, self.since_ns or draft.now_ns) | self.late
        self.told(self.asked, draft)  # before their snapshots

    def told(self, symbols: Iterable[str], draft: Draft) -> None:
        """They are heard from now on: say of what they are missing until now."""
        for symbol in symbols:
            if 0 < (since_ns := self.late.pop(symbol, 0)) < draft.now_ns:
                draft.own(Gap("not subscribed", self.name, from_ns=since_ns, to_ns=draft.now_ns), symbol=symbol, sid=self.sid)

    def ended(self) -> None:
        self.sid = 0
        self.busy = False
        self.asked = set()


@dataclass(slots=True)
class Command:
    """A command of ours that waits for its reply."""

    kind: str  # subscribe, unsubscribe, add_markets, delete_markets, get_snapshot
    channel: str
    symbols: tuple[str, ...] = ()
    sid: int = 0  # of the subscription it was sent for
    due_ns: int = 0
    tries: int = 1


class Draft:
    """An output in the making."""

    __slots__ = ("error", "items", "now_ns", "reconnect", "send")

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.items: list[Normalised] = []
        self.send: list[bytes] = []
        self.error = ""
        self.reconnect = ""

    def own(self, body: Body, *, symbol: str = "", sid: int = 0) -> None:
        """Our own decision, at this place in the order."""
        self.items.append(Normalised(body, symbol, subscription=sid, own=True))

    def decide(self, action: str, channel: str = "", *, sid: int = 0, **detail: object) -> None:
        """An own control entry."""
        self.own(Control(action, channel, canonical_json(detail).decode() if detail else ""), sid=sid)

    def output(self) -> Output:
        return Output(self.items, self.send, self.error, self.reconnect)
