"""All that the gateway knows just now: the views of the environment's market streams, of its days, and what markets are called."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial

from journal.clock import Clock
from journal.entry import Record
from journal.errors import CorruptionError, HoleInStream, NotFound, SsmdError, StorageError, StoreError
from journal.protocols import JournalReader, Storage
from journal.subjects import Stream
from projections.book import BookView
from projections.status import StatusView
from projections.ticker import TickerView
from projections.trades import TradeView
from ssmd.gateway import message as m
from ssmd.gateway.kinds import Kinds
from ssmd.gateway.marks import mark_of
from ssmd.gateway.message import Update, when
from ssmd.gateway.problem import Problem
from ssmd.gateway.view import MarketView, Publish
from ssmd.secmaster.query import near
from ssmd.secmaster.view import Place
from ssmd.secmaster.view import View as Markets

_RETRY_S = 1.0
_REFRESH_S = 5.0
_LOOKED_UP = 500
_COMPARED = 100  # symbols before and behind where an unknown one would be, that it is compared with: 2 ms
_NEAR = 5


class DayView:
    """The days of an environment: the newest event of each of the last ones."""

    def __init__(self, env: str, *, most: int = 32) -> None:
        self.stream = Stream(env, domain="day")
        self._most = most
        self._forget()

    def _forget(self) -> None:
        self.position = 0
        self._days: dict[str, Update] = {}
        self._states: dict[str, str] = {}
        self._before = 0

    def newest(self) -> Update | None:
        """The latest day, as it is now."""
        return self._days[max(self._days)] if self._days else None

    async def follow(self, journal: JournalReader, publish: Publish) -> None:
        """Until cancelled. Raises `StoreError`, `HoleInStream`."""
        async for records in journal.read(self.stream, start=self.position + 1, follow=True):
            publish(self.changes(records))

    async def start(self, journal: JournalReader) -> None:
        """Know the days there are; again if need be. Raises `StoreError`, `HoleInStream`."""
        self._forget()
        info = await journal.info(self.stream)
        if info is None:
            return
        self.position = info.first - 1
        async for records in journal.read(self.stream, start=info.first, end=info.last):
            self.changes(records)

    def changes(self, records: Sequence[Record]) -> list[Update]:
        from ssmd.day.register import fact_of

        out = []
        for record in records:
            self.position = record.sequence
            fact = fact_of(self.stream, record)
            if fact is None or not fact.day:
                continue
            detail = fact.detail
            if fact.what == "moved":
                self._states[fact.day] = str(detail.get("to", ""))
            said = m.DayData(
                kind="update", position=fact.position, prev_position=f"{self.stream.name}:{self._before}" if self._before else None,
                date=fact.day, state=self._states.get(fact.day, "PENDING"), happened=fact.what, step=str(detail.get("step", "")),
                who=fact.who, why=str(detail.get("why", "")), time=when(fact.at_ns), time_ns=fact.at_ns,
            )  # fmt: skip
            self._before = record.sequence
            update = Update(("day", ""), self.stream.name, record.sequence, lambda _, said=said: said)
            self._days[fact.day] = update
            while len(self._days) > self._most:
                day = min(self._days)
                del self._days[day]
                self._states.pop(day, None)
            out.append(update)
        return out


class Views:
    """`start`, then `run`; questions at any time.

    `markets` is the security master's file, where there is one, which `refresh` brings up to date.
    """

    def __init__(
        self,
        env: str,
        feed: str,
        shards: Sequence[str],
        clock: Clock,
        *,
        markets: Markets | None = None,
        refresh: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.shards = [MarketView(Stream(env, shard=shard), feed) for shard in shards]
        self.days = DayView(env)
        self.error = ""  # what is being retried; "" when all is well
        self._clock = clock
        self._markets = markets
        self._refresh = refresh
        self._of: dict[str, MarketView] = {}
        self._kinds = Kinds()
        self._unnamed: set[str] = set()  # those of them that the security master does not have yet
        self._named: Place | None = None  # what it had when they were looked up
        self._symbols: list[str] = []
        self._lists: list[list[str]] = []  # of the views, that the symbols were collected from
        self._sorted: list[str] = []  # symbols whose kinds are all known

    # --- following ----------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return all(view.ready for view in self.shards)

    async def start(self, journal: JournalReader, storage: Storage) -> None:
        """Fold up to the present; a journal or storage that is away, or has a hole just now, is waited for, see `error`."""
        for view in self.shards:
            await self._patiently(partial(view.start, journal, storage))
        await self._patiently(partial(self.days.start, journal))

    async def run(self, journal: JournalReader, storage: Storage, publish: Publish, dismiss: Callable[[str], object]) -> None:
        """Follow until cancelled. What cannot be followed any more (entries are gone, or others than were read) is begun again from what
        is there: then `dismiss` is told why, and no client may be sent more of what it was sent before.
        """

        async def begin_again(start: Callable[[], Awaitable[None]], why: str) -> None:
            self._of.clear()
            dismiss(why)
            await self._patiently(start)

        async def follow(view: MarketView) -> None:
            while True:
                try:
                    await self._patiently(partial(view.follow, journal, storage, publish), (StoreError,))
                except HoleInStream as error:
                    view.give_up(str(error))
                    await begin_again(partial(view.start, journal, storage), view.broken)

        async def follow_days() -> None:
            while True:
                try:
                    await self._patiently(partial(self.days.follow, journal, publish), (StoreError,))
                except HoleInStream as error:
                    await begin_again(partial(self.days.start, journal), str(error))

        async with asyncio.TaskGroup() as group:
            for view in self.shards:
                group.create_task(follow(view))
            group.create_task(follow_days())
            if self._refresh and self._markets:
                group.create_task(self._name_markets(self._markets, self._refresh))

    async def _patiently(
        self, work: Callable[[], Awaitable[None]], passing: tuple[type[SsmdError], ...] = (StoreError, HoleInStream)
    ) -> None:
        while True:
            try:
                await work()
            except passing as error:
                self.error = str(error)
                await self._clock.sleep(_RETRY_S)
            else:
                self.error = ""
                return

    async def _name_markets(self, markets: Markets, refresh: Callable[[], Awaitable[object]]) -> None:
        while True:
            # Names are as old as they are when this fails; the stream goes on.
            with suppress(StoreError, CorruptionError, TimeoutError, Problem):
                await refresh()
                strange: list[str] = []
                if (place := markets.place) != self._named:
                    self._named = place
                    strange += self._unnamed
                known = self.symbols()
                if len(self._kinds) > 2 * len(known) + _LOOKED_UP:  # views forget what is over
                    for symbol in set(self._kinds).difference(known):
                        self._kinds.drop(symbol)
                        self._unnamed.discard(symbol)
                    self._of.clear()
                # Looked up before they are asked for, a few at a time.
                strange += [symbol for symbol in known if symbol not in self._kinds]
                for at in range(0, len(strange), _LOOKED_UP):
                    self._learn(strange[at : at + _LOOKED_UP])
                    await self._clock.sleep(0)
            await self._clock.sleep(_REFRESH_S)

    def _learn(self, symbols: Sequence[str]) -> None:
        try:
            rows = self._markets.rows(symbols) if self._markets else {}
        except StorageError:
            rows, self._named = {}, None  # they are looked up again soon
        for symbol in symbols:
            series, category = symbol.partition("-")[0], ""
            if (row := rows.get(symbol)) and row.known.market:
                series, category = row.known.market.series or series, row.known.market.category
                self._unnamed.discard(symbol)
            else:
                self._unnamed.add(symbol)
            self._kinds.put(symbol, series, category)

    # --- questions ----------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """Of the first stream."""
        return self.positions()[0]

    def positions(self) -> list[str]:
        """How far each market stream is folded."""
        return [f"{view.stream.name}:{view.position}" for view in self.shards]

    def mark(self) -> str:
        """Of the entries that they are at."""
        return mark_of(self.shards)

    async def lag(self, journal: JournalReader) -> dict[str, int]:
        """Entries of each stream that are not folded yet. Raises `StoreError`."""
        found = {}
        for view in self.shards:
            info = await journal.info(view.stream)
            found[view.stream.name] = max(0, info.last - view.position) if info else 0
        return found

    def symbols(self) -> list[str]:
        """Every symbol of which anything is known, sorted: the same list until there are others."""
        lists = [view.symbols() for view in self.shards]
        if len(lists) != len(self._lists) or any(now is not was for now, was in zip(lists, self._lists, strict=True)):
            self._lists, self._symbols = lists, lists[0] if len(lists) == 1 else sorted(set().union(*lists))
        return self._symbols

    def of(self, symbol: str) -> MarketView | None:
        """The view that knows the symbol."""
        found = self._of.get(symbol)
        if found is None or not found.knows(symbol):
            self._of.pop(symbol, None)
            found = next((view for view in self.shards if view.knows(symbol)), None)
            if found:
                self._of[symbol] = found
        return found

    def _view(self, what: str, symbol: str) -> MarketView:
        if found := self.of(symbol):
            return found
        raise NotFound(what, symbol, self.near(symbol))

    def book(self, symbol: str) -> BookView:
        """Raises `NotFound`, as the following ones."""
        return self._view("book", symbol).books.book(symbol)

    def trade(self, symbol: str) -> TradeView:
        return self._view("trades of", symbol).trades.trade(symbol)

    def ticker(self, symbol: str) -> TickerView:
        return self._view("ticker of", symbol).tickers.ticker(symbol)

    def status(self, symbol: str) -> StatusView:
        return self._view("status of", symbol).statuses.status(symbol)

    def snapshot(self, channel: str, symbol: str) -> Update | None:
        """A state-like topic's state as a message."""
        if channel == "day":
            return self.days.newest()
        view = self.of(symbol)
        return view.snapshot(channel, symbol) if view else None

    def kinds(self, symbol: str) -> tuple[str, str]:
        """Series and category. Without a security master a series is what stands before the first dash."""
        if (found := self._kinds.get(symbol)) is None:
            self._learn([symbol])
            found = self._kinds.of(symbol)
        return found

    def members(self, kind: str, name: str) -> Collection[str]:
        """Symbols of a group, also some of which nothing is known any more."""
        if (known := self.symbols()) is not self._sorted:
            self._learn([symbol for symbol in known if symbol not in self._kinds])
            self._sorted = known
        return self._kinds.members(kind, name)

    def strange(self, symbols: Iterable[str]) -> set[str]:
        """Those that are no markets, as far as is known: neither captured nor in the security master."""
        found = {symbol for symbol in symbols if not self.of(symbol)}
        with suppress(StorageError):
            found -= self._markets.known_of(found) if self._markets and found else set()
        return found

    def group_of(self, name: str) -> m.Group | None:
        """What `name` is the name of, if not of a symbol."""
        return next((kind for kind in m.GROUPS if not self.lacking(kind, [name])), None)

    def lacking(self, kind: m.Group, names: Iterable[str]) -> list[str]:
        """Those of the names, sorted, of which series or category there is no market, as far as is known."""
        found = {n for n in names if n not in self._kinds.names(kind) and not (kind == "series" and "-" not in n and self._begins(f"{n}-"))}
        with suppress(StorageError):
            found -= self._markets.groups_of(kind, found) if self._markets and found else set()
        return sorted(found)

    def _begins(self, start: str) -> bool:
        """Whether a captured symbol begins so."""
        found = [(symbols, bisect_left(symbols, start)) for view in self.shards for symbols in [view.symbols()]]
        return any(at < len(symbols) and symbols[at].startswith(start) for symbols, at in found)

    def near(self, name: str, kind: str = "symbol") -> list[str]:
        """Names like one that is unknown."""
        known = []
        for names in [view.symbols() for view in self.shards] if kind == "symbol" else [sorted(self._kinds.names(kind))]:
            at = bisect_left(names, name)
            known += names[max(0, at - _COMPARED) : at + _COMPARED]
        if self._markets and kind == "symbol":
            with suppress(StorageError):
                known += near(self._markets, name)
        return get_close_matches(name, sorted(set(known)), n=_NEAR, cutoff=0.4)
