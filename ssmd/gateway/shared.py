"""The gateway's live view in the environment's cache, under ``ENV:FEED:…``, for programs that do not speak to it::

    book:{symbol}     JSON: the stream's `book` message, a snapshot of all levels
    bbo:{symbol}      JSON: its `bbo` message
    ticker:{symbol}   JSON: its `ticker` message
    market:{symbol}   JSON: its `market` message
    trade:{symbol}    JSON: `LastTrade`
    position:{shard}  JSON: `ssmd.sharing.Position`; with `sequence` 0 the view is being made, and symbols may lack

What changed since the last time and the position behind it are one transaction, made only if nobody has moved the position since. What
changed is read off the view's recent messages, so nothing waits here, however long the cache is away; after more than those, all is
written again. Any number of gateways may write one cache: one that is behind the position waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing

import msgspec

from journal.cache import cache_key
from journal.clock import Clock
from journal.entry import canonical_json
from journal.errors import BadObject, CacheError, StoreError
from journal.protocols import Cache, CacheChange, JournalReader
from ssmd.gateway.answers import Check
from ssmd.gateway.message import Topic, amount, when
from ssmd.gateway.view import MarketView
from ssmd.render import LEAST_DECIMALS
from ssmd.sharing import Position, position_of

VERSION = 1
TYPES = ("book", "bbo", "ticker", "market", "trade")
EVERY_S = 0.25
_AGAIN_S = 2.0
_SLOW_S = 3.0
_DEAD_S = 10.0  # a build by another gateway that does not move any more
_SLICE = 20  # topics that are encoded before others have their turn: about 2 ms
_BUILT = 500  # symbols of one transaction of a build
_ROUNDS = 8


class LastTrade(msgspec.Struct, kw_only=True):
    """The newest trade of a symbol."""

    symbol: str
    position: str
    price: str
    size: str
    aggressor: str
    venue_time: str
    venue_ns: int


class _Elsewhere(Exception):
    """The view began again, or somebody else has moved the position."""


class SharedQuotes:
    """Writes the view at place `at` of `views`. `run` until cancelled; `status` is what is wrong. `draw` names builds, each anew."""

    def __init__(
        self,
        cache: Cache,
        feed: str,
        views: Sequence[MarketView],
        journal: JournalReader,
        clock: Clock,
        *,
        at: int,
        draw: Callable[[], str],
    ) -> None:
        self._cache, self._journal, self._clock, self._draw = cache, journal, clock, draw
        self._view, self._views, self._feed = views[at], views, feed
        view = self._view
        self._key = self.key("position", view.stream.shard)
        self._mine: bytes | None = None  # the position, as last seen to be of this journal
        self._recent = view.recent
        self._forgotten = view.forgotten.times
        self._foreign: tuple[bytes, int] = (b"", 0)  # another's build, and when it was seen first
        self.status = "not written yet"
        self._begun_ns = 0  # when what is being done was begun
        self.written = 0  # values, since it was made

    def key(self, *parts: str) -> str:
        return cache_key(self._view.stream.env, self._feed, *parts)

    async def run(self) -> None:
        while True:
            pause_s = EVERY_S
            self._begun_ns = self._clock.mono_ns()
            try:
                self.status = await self.catch_up()
            except StoreError as error:
                who = "the cache" if isinstance(error, CacheError) else "the journal or the archive"  # not where: readers are told, too
                self.status = f"{self.key('position')}: not up to date: {who} does not answer, or refuses"
                pause_s = _AGAIN_S
            except _Elsewhere:
                pass
            self._begun_ns = 0
            await self._clock.sleep(pause_s)

    def check(self) -> Check:
        """The gateway serves from its own fold: without the cache it is not unready."""
        why = self.status
        if (
            not why and self._begun_ns and self._clock.mono_ns() - self._begun_ns > _SLOW_S * 1e9
        ):  # it hangs, or everything is written again
            why = f"{self.key('position')}: not up to date: the cache takes more than {_SLOW_S:g} s to answer"
        return Check(name=f"cache {self._view.stream.name}", good=not why, reason=why or "up to date", needed=False)

    async def catch_up(self) -> str:
        """Bring the cache up to the view; why it is not, if it is not. Raises `CacheError`, `StoreError`, `_Elsewhere`."""
        view = self._view
        if not view.ready or view.newest is None:
            why = "" if view.ready else "the view is not ready"  # now: it may be when the cache answers
            await self._cache.ping()
            return why
        if view.recent is not self._recent:
            self._recent, self._mine = view.recent, None
        held = await self._held()
        position = position_of(held)
        if held is None or position is None or (position.stream, position.version) != (view.stream.name, VERSION):
            await self._build(held)
        elif not position.sequence:
            if self._is_alive(held):
                return "another gateway is making it"
            await self._build(held)
        elif position.sequence < view.recent.since or (held != self._mine and not await self._is_ours(position)):
            await self._build(held)
        elif position.sequence < view.position:
            self._mine = await self._write(held, position)
        else:
            self._mine = held
        return ""

    async def _held(self) -> bytes | None:
        try:
            return await self._cache.get(self._key)
        except BadObject:
            await self._cache.delete_prefix(self._key)
            return None

    def _is_alive(self, held: bytes) -> bool:
        now = self._clock.mono_ns()
        if self._foreign[0] != held:
            self._foreign = held, now
        return now - self._foreign[1] < _DEAD_S * 1e9

    async def _is_ours(self, position: Position) -> bool:
        """Whether the journal has that entry there; what is older than the journal's first is not known, and made again."""
        info = await self._journal.info(self._view.stream)
        if info is None or not info.first <= position.sequence <= info.last:
            return False
        async with aclosing(self._journal.read(self._view.stream, start=position.sequence, end=position.sequence)) as reads:  # type: ignore[type-var]
            async for records in reads:
                return position.is_behind(records[0].entry)
        return False

    def _changed(self, since: int) -> set[Topic]:
        topics = {u.topic for u in self._recent.behind(since, 1 << 62) if u.channel in TYPES}
        return topics | {("bbo", symbol) for kind, symbol in topics if kind == "book"}  # which has the time of the book

    async def _write(self, held: bytes, position: Position) -> bytes:
        times = self._view.forgotten.times
        gone = await self._strange() if times != self._forgotten else ()
        written = await self._commit(held, position, self._changed(position.sequence), gone)
        self._forgotten = times
        return written

    async def _build(self, held: bytes | None) -> None:
        """All of it, in many transactions; old values stay until they are replaced, with a position that says so."""
        view, at = self._view, self._view.position
        position = Position(view.stream.name, VERSION, self._draw())
        held = await self._put(CacheChange(), held, position)
        symbols = view.symbols()
        for first in range(0, len(symbols), _BUILT):
            some = symbols[first : first + _BUILT]
            values = await self._values((kind, symbol) for symbol in some for kind in TYPES)
            position = msgspec.structs.replace(position, effective_ns=position.effective_ns + 1)  # a sign of life
            held = await self._put(_change(values), held, position)
        if view.recent.since > at:
            raise _Elsewhere  # so much happened meanwhile: once more
        self._mine = await self._commit(held, position, self._changed(at), await self._strange())

    async def _strange(self) -> list[str]:
        """Keys of symbols that no shard knows; none while one of them is not ready."""
        if not all(view.ready for view in self._views):
            return []
        ours = set()
        for view in self._views:
            for number, symbol in enumerate(view.symbols(), 1):
                ours.add(self.key("of", symbol).rpartition(":")[2])
                if number % _BUILT == 0:
                    await self._clock.sleep(0)
        found = []
        for kind in TYPES:
            async for run in self._cache.keys(f"{self.key(kind, 'of').removesuffix('of')}"):
                found += [key for key in run if key.rpartition(":")[2] not in ours]
        return found

    async def _commit(self, held: bytes, position: Position, topics: set[Topic], gone: Sequence[str]) -> bytes:
        """`topics` as they are at one position, which is the view's when the last of them was taken."""
        values: dict[str, bytes | None] = {}
        for _ in range(_ROUNDS):
            at = self._view.position
            values |= await self._values(topics)
            topics = self._changed(at)
            if len(topics) <= _SLICE:
                break
        values |= {self.key(*topic): self._value(topic) for topic in topics}  # nobody else has a turn from here on
        newest = self._view.newest
        if newest is None or newest.sequence != self._view.position:
            raise _Elsewhere
        change = _change(values)
        return await self._put(change._replace(gone=[*change.gone, *gone]), held, position.moved(newest))

    async def _put(self, change: CacheChange, held: bytes | None, position: Position) -> bytes:
        value = canonical_json(position)
        if not await self._cache.commit(change._replace(put={**change.put, self._key: value}), self._key, held):
            raise _Elsewhere
        self.written += len(change.put)
        return value

    async def _values(self, topics: Iterable[Topic]) -> dict[str, bytes | None]:
        values = {}
        for number, topic in enumerate(topics, 1):
            values[self.key(*topic)] = self._value(topic)
            if number % _SLICE == 0:
                await self._clock.sleep(0)
                if self._view.recent is not self._recent or not self._view.ready:
                    raise _Elsewhere
        return values

    def _value(self, topic: Topic) -> bytes | None:
        kind, symbol = topic
        if kind == "trade":
            return self._trade(symbol)
        found = self._view.shown(kind, symbol)
        return found.data if found else None

    def _trade(self, symbol: str) -> bytes | None:
        if not self._view.trades.counted(symbol)[0]:
            return None
        found = self._view.trades.trade(symbol)
        price, size = LEAST_DECIMALS.get(self._feed, (0, 0))
        return msgspec.json.encode(
            LastTrade(
                symbol=symbol,
                position=f"{self._view.stream.name}:{found.sequence}",
                price=amount(found.price, found.price_exponent, price),
                size=amount(found.size, found.size_exponent, size),
                aggressor=found.aggressor.name,
                venue_time=when(found.venue_ns),
                venue_ns=found.venue_ns,
            )
        )


def _change(values: dict[str, bytes | None]) -> CacheChange:
    return CacheChange(gone=[k for k, v in values.items() if v is None], put={k: v for k, v in values.items() if v is not None})
