"""What a request is answered with: live views, reading rooms, clients, and how what is asked of the past is understood."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from journal.clock import Clock
from journal.errors import CallerError, NotFound
from journal.protocols import Keeper
from journal.subjects import Stream, parse_position
from projections.book import BookProjection
from projections.status import StatusProjection
from projections.ticker import TickerProjection
from ssmd.gateway.access import Gatekeeper
from ssmd.gateway.annex import Annex
from ssmd.gateway.answers import Check, Client, ClientLine, Replay
from ssmd.gateway.problem import Flaw, Problem
from ssmd.gateway.rates import Rates
from ssmd.gateway.room import Place, Shelf
from ssmd.moments import parse_moment
from ssmd.settings import Settings
from ssmd.wiring import SHARDS

_AHEAD_NS = 5 * 10**9  # a client's clock may be ahead of ours
_FRESH_NS = 2 * 10**9


class LiveView(Protocol):
    """A market stream folded up to `position`; read on the event loop."""

    stream: Stream
    ready: bool
    position: int
    effective_ns: int
    broken: str  # why it had to begin again, the last time
    missing: str  # what of the beginning is not known
    books: BookProjection
    tickers: TickerProjection
    statuses: StatusProjection

    def knows(self, symbol: str) -> bool: ...

    def symbols(self) -> Iterable[str]: ...


class ClientRegister(Protocol):
    """The streams that are open."""

    def lines(self) -> list[ClientLine]: ...

    def client(self, name: str) -> Client:
        """Raises `NotFound`."""
        ...

    def disconnect(self, name: str, reason: str) -> None:
        """Raises `NotFound`."""
        ...

    def set_mode(self, name: str, mode: str, interval_ms: int, reason: str) -> None:
        """Raises `NotFound`."""
        ...


class AsOf(NamedTuple):
    """A time in the past, and the stream and sequence of the entry where a position was named."""

    ns: int
    stream: Stream | None = None
    sequence: int = 0


class Captured:
    """Symbols that live views know, sorted, looked up again at most every two seconds: 100,000 of them take 50 ms."""

    def __init__(self, clock: Clock, views: Sequence[LiveView]) -> None:
        self._clock, self._views = clock, views
        self._symbols: list[str] = []
        self._until_ns = 0

    def between(self, after: str, last: str | None) -> list[str]:
        """Those behind `after` and before `last`, None for no end."""
        now_ns = self._clock.mono_ns()
        if now_ns >= self._until_ns:
            self._symbols = sorted({s for view in self._views if view.ready for s in view.symbols()})
            self._until_ns = now_ns + _FRESH_NS
        start = bisect_right(self._symbols, after)
        return self._symbols[start : len(self._symbols) if last is None else bisect_left(self._symbols, last)]


@dataclass(frozen=True, slots=True)
class Desk:
    """`now` answers about the present, `past` about what was: in another process, see `annex`. `checks` say whether each part is as it
    should be.
    """

    settings: Settings
    clock: Clock
    journal: Keeper
    gatekeeper: Gatekeeper
    now: Place
    past: Place
    rates: Rates
    views: Sequence[LiveView] = ()
    clients: ClientRegister | None = None
    annex: Annex | None = None
    checks: Callable[[], Sequence[Check]] = tuple
    metrics: Callable[[], bytes] = bytes
    replay: Callable[[], Replay | None] = lambda: None
    captured: Captured = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "captured", Captured(self.clock, self.views))

    @property
    def streams(self) -> list[Stream]:
        """Market streams, in the order in which a symbol is looked for."""
        shards = [*self.settings.environment.shards] or [SHARDS[0]]
        return [Stream(self.settings.env, shard=s) for s in dict.fromkeys([*shards, *SHARDS])]

    def view_of(self, symbol: str) -> LiveView | None:
        """The first live view that knows the symbol."""
        return next((view for view in self.views if view.ready and view.knows(symbol)), None)

    def seen_ns(self, now_ns: int) -> int:
        """Effective time of the newest entry that is folded; now where nothing is yet."""
        return max((view.effective_ns for view in self.views if view.ready), default=0) or now_ns

    async def moment(self, text: str | None, now_ns: int, *, name: str = "as_of") -> AsOf | None:
        """What a parameter means. Raises `Problem`."""
        if text is None:
            return None
        if ":" in text and "_" in text:
            return await self._position(text, name)
        try:
            ns = parse_moment(text.replace(" ", "+"), now_ns)  # a + that was not escaped
        except CallerError as error:
            reason = f"{error}; a position, such as {self.streams[0].name}:123, does as well"
            raise Problem("bad-parameter", f"{name}: {reason}", errors=(Flaw(name, reason),)) from None
        if ns > now_ns + _AHEAD_NS:
            raise Problem("bad-parameter", f"{name}: {text} is still to come", errors=(Flaw(name, "is still to come"),))
        return AsOf(min(ns, now_ns))

    async def _position(self, text: str, name: str) -> AsOf:
        try:
            stream, sequence = parse_position(text)
            if stream.env != self.settings.env:
                raise NotFound("stream", stream.name, [s.name for s in self.streams])
        except CallerError as error:
            raise Problem("bad-parameter", f"{name}: {error}", errors=(Flaw(name, str(error)),)) from None

        async def effective(shelf: Shelf) -> int:
            if 0 < sequence < 1 << 63:
                async for records in shelf.history(stream).read(sequence, sequence):
                    return records[0].entry.effective_ns
            raise NotFound("position", text)

        return AsOf(await self.now.ask(effective), stream, sequence)

    async def read(self, as_of: AsOf | None, work: Callable[[Shelf], Awaitable[Any]]) -> Any:
        """In the room that it belongs to."""
        return await (self.now if as_of is None else self.past).ask(work)
