"""Which markets a connector captures: what the security master chooses, what the venue announces in between, and how each ends.

All of it is told in the market stream, by the run's epoch. ``chosen`` (control) names markets that join and the place of the security
master that they were chosen at; a ``definition`` (lifecycle) says what a market is, and again when the security master learns of a state
that the stream does not have in the venue's own words; ``finalised`` (control, on the market's subject) that nothing more of it will come
that was subscribed, why, and where its last entry is. ``silence`` (control, on ``silence-WRITER``) says whether frames are to be expected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from journal.clock import Clock
from journal.entry import Gap, Kind, Lifecycle, canonical_json, control
from journal.errors import SsmdError, StoreError
from journal.market import Market
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd.secmaster.choosing import Choice, Listed
from ssmd.services import inheritance
from ssmd.services.captured import Captured
from ssmd.services.ledger import Ledger

GRACE_S = 600.0
_NEW = frozenset(("created", "activated"))
_SETTLE_NS = 5 * 10**9  # of the machine's, after it was unsubscribed: what was on its way has come
_RETRY_S = 5.0
_NAMES = 500  # symbols of one ``chosen`` entry: about 20 kB
_HEARD = (Kind.trade, Kind.book, Kind.delta, Kind.ticker, Kind.gap)  # lifecycle messages come of every market, also of others'
_ENDED = frozenset(("closed", "determined", "settled"))


class _Ending(NamedTuple):
    symbol: str
    reason: str
    at_ns: int


class Roster:
    """`open` first; then `follow` and `tend` side by side, and `announced` for each of the venue's messages."""

    def __init__(
        self, choice: Choice, ledger: Ledger, journal: JournalReader, stream: Stream, clock: Clock, *, feed: str, grace_s: float
    ) -> None:
        self.captured = Captured(int(grace_s * 1e9))
        self.finalised = 0
        self.silence = ""
        self._trouble = ""
        self._said: str | None = None  # about silence
        self._choice = choice
        self._ledger = ledger
        self._journal = journal
        self._stream = stream
        self._clock = clock
        self._feed = feed
        self._ending: deque[_Ending] = deque()  # in order of time
        self._begun_ns = 0

    @property
    def trouble(self) -> str:
        """What keeps us from following the security master, or the security master from following the venue."""
        return self._trouble or self._choice.trouble

    async def open(self) -> None:
        """Choose, and go on with what the run before had not finished. Raises `NotFound`, `VenueError`, `StoreError`."""
        self._begun_ns = self._clock.wall_ns()
        await self._choice.open()
        self._say_chosen([])
        await self._choose()
        before = self._ledger.before
        left = await inheritance.find(self._journal, self._stream, self._feed, before) if before else []
        for at in range(0, len(left), _NAMES):
            symbols = [s for s in left[at : at + _NAMES] if s not in self.captured]
            found = {listed.symbol: listed for listed in await self._choice.look(symbols)}
            known = [found.get(s) or Listed(s, None, 0) for s in symbols]
            self._enter([listed for listed in known if listed.market or listed.sequence])
            for listed in known:
                self._news(listed)

    async def _choose(self) -> dict[str, int]:
        """Enter what is chosen now; see `_enter`."""
        fresh: dict[str, int] = {}
        async for page in self._choice.pages():
            fresh |= self._enter([listed for listed in page if listed.symbol not in self.captured])
            for listed in page:
                self._news(listed)
            await self._ledger.room()
        return fresh

    def _enter(self, some: list[Listed]) -> dict[str, int]:
        """Those that were not there, each with the time since when it is to be heard, see `_since_ns`."""
        fresh = {
            x.symbol: self._opened_ns(x.market)
            for x in some
            if self.captured.join(x.symbol, *((x.market.status, x.market.open_ns) if x.market else ("removed",)))
        }
        if fresh:
            self._say_chosen(list(fresh))
        return fresh

    def announced(self, symbol: str, body: Lifecycle, now_ns: int) -> int | None:
        """The venue's message about a market: since when one that joins is to be heard, see `_since_ns`; None of others."""
        captured = self.captured
        captured.told(symbol, body.status, now_ns)
        if body.event not in _NEW or symbol in captured or not self._choice.selection.matches(symbol, body.status or "pending"):
            return None
        captured.join(symbol, body.status or "pending", body.open_ns)
        self._say_chosen([symbol])
        # Where it would have been chosen when it was created, that was not heard: it may have been open ever since.
        unheard = body.event == "activated" and self._choice.selection.matches(symbol)
        return self._since_ns(body.open_ns or (self._begun_ns if unheard else 0), body.close_ns)

    def _opened_ns(self, market: Market | None) -> int:
        """See `_since_ns`. Its time says when a market opens: the venue may not yet have said that it is open.

        One that waited until enough was traded is not late. The first run of all owes nothing of what was open when it began; another goes
        on with the capture, and what is before it its own gap says.
        """
        if market is None or self._choice.selection.min_volume:
            return 0
        return self._since_ns(market.open_ns, market.close_ns)

    def _since_ns(self, open_ns: int, close_ns: int) -> int:
        """Since when we owe what is said of a market: its opening, which may be to come; 0 where we owe nothing of before."""
        since_ns = max(open_ns, self._begun_ns) if self._ledger.before else open_ns
        return since_ns if self._begun_ns <= since_ns and (not close_ns or since_ns < close_ns) else 0

    async def _missed(self, market: Market | None) -> None:
        """Say of a market that opened and closed before we learnt of it that nobody has heard it, nor what was said after its end."""
        if market is None or market.status not in _ENDED or not self._choice.selection.covers(market):
            return
        since_ns = self._opened_ns(market)
        if 0 < since_ns < self._clock.wall_ns() and not await self._last(market.symbol, _HEARD):
            now_ns = self._clock.wall_ns()
            self._ledger.say(Gap("not subscribed", from_ns=since_ns, to_ns=now_ns), now_ns, market.symbol)

    async def follow(self) -> AsyncGenerator[dict[str, int], None]:
        """Markets that join because the security master has changed, each with the time since when it is to be heard.

        Without end. What goes wrong is told in `trouble`, and mended.
        """
        changes = self._choice.changes()
        while True:
            try:
                some = await anext(changes)
            except SsmdError as error:
                self._trouble = f"the security master cannot be followed: {error}"
                await self._clock.sleep(_RETRY_S)
                changes = self._choice.changes()
                try:
                    await self._choice.again()
                    fresh = await self._choose()
                    for listed in await self._choice.look(self.captured):
                        self._news(listed)
                except SsmdError as again:
                    self._trouble = f"the security master cannot be followed: {again}"
                else:
                    self._trouble = ""
                    yield fresh
                continue
            selection = self._choice.selection
            fresh = self._enter([x for x in some if x.symbol not in self.captured and x.market and selection.begins(x.market)])
            for listed in some:
                self._news(listed)
            if fresh:
                yield fresh
            for listed in some:
                if listed.symbol not in self.captured:
                    with suppress(StoreError):  # the journal is away: then nothing at all is captured, which has its own gap
                        await self._missed(listed.market)

    def _news(self, listed: Listed) -> None:
        """What the security master has of a market; of others' nothing is done."""
        captured, (symbol, market, _, told) = self.captured, listed
        if symbol not in captured:
            return
        now_ns = self._clock.wall_ns()
        status = market.status if market else "removed"
        new = captured.news(symbol, status, market.open_ns if market else 0, told=told)
        if market is None or status == "settled":
            captured.leave(symbol, status, now_ns)
        elif not self._choice.selection.covers(market):
            captured.leave(symbol, "not chosen any more", now_ns)
        else:
            captured.stay(symbol)
        if market and new:
            self._ledger.say(
                definition(market, self._choice.at(listed.sequence)), now_ns, symbol,
                price_exponent=market.price_exponent, size_exponent=market.size_exponent,
            )  # fmt: skip

    def _say_chosen(self, symbols: list[str]) -> None:
        for at in range(0, max(1, len(symbols)), _NAMES):
            detail: dict[str, object] = {"secmaster": self._choice.position, "symbols": symbols[at : at + _NAMES]}
            self._ledger.say(control(inheritance.CHOSEN, detail), self._clock.wall_ns())

    # -- the end of markets ------------------------------------------------------------------------------------------

    async def tend(self, leave: Callable[[list[str]], None]) -> None:
        """Let go of what is due, through `leave`, and finalise it. Call about every second."""
        now_ns = self._clock.wall_ns()
        if due := self.captured.due(now_ns):
            leave([symbol for symbol, _ in due])
            settled_ns = now_ns + int(_SETTLE_NS * self._clock.rate)
            self._ending += (_Ending(symbol, reason, settled_ns) for symbol, reason in due)
        while self._ending and self._ending[0].at_ns <= now_ns:
            ending = self._ending[0]
            try:
                last = 0 if ending.symbol in self.captured else await self._last(ending.symbol)
            except StoreError:
                break
            self._ending.popleft()
            if ending.symbol in self.captured:
                continue  # it came back
            detail: dict[str, object] = {"reason": ending.reason, "last": f"{self._stream.name}:{last}", "secmaster": self._choice.position}
            self._ledger.say(control(inheritance.FINALISED, detail), self._clock.wall_ns(), ending.symbol)
            self.finalised += 1
        self.silence = self.captured.silence(now_ns)
        if self.silence != self._said:
            self._said = self.silence
            quiet: dict[str, object] = {"expected": bool(self.silence), "reason": self.silence}
            self._ledger.say(control("silence", quiet), self._clock.wall_ns(), f"silence-{self._ledger.writer}")

    async def _last(self, symbol: str, kinds: Iterable[Kind] = (*_HEARD, Kind.lifecycle)) -> int:
        """Sequence of the market's last entry of `kinds`, 0 if it has none."""
        found = [await self._journal.last(self._stream, self._stream.subject(self._feed, kind.name, symbol)) for kind in kinds]
        return max((record.sequence for record in found if record), default=0)


def definition(market: Market, position: str) -> Lifecycle:
    """A market as the security master had it at `position`, for the market stream."""
    said = {
        "secmaster": position, "venue_status": market.venue_status, "event": market.event, "series": market.series, "title": market.title,
        "subtitle": market.subtitle, "category": market.category, "type": market.type, "tick_structure": market.tick_structure,
        "strike_type": market.strike_type, "strike_floor": market.strike_floor, "strike_cap": market.strike_cap,
        "price_ranges": [[r.start, r.end, r.step] for r in market.price_ranges],
    }  # fmt: skip
    return Lifecycle(
        inheritance.DEFINITION,
        market.status,
        open_ns=market.open_ns,
        close_ns=market.close_ns,
        determined_ns=market.determined_ns,
        settled_ns=market.settled_ns,
        settlement_value=market.settlement_value,
        result=market.result,
        detail=canonical_json({name: value for name, value in said.items() if value}).decode(),
    )
