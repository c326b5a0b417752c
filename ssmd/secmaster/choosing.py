"""Which markets a capture is of: chosen from the security master at the start, and again whenever it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from exchanges.markets import DefinitionSource, Selection
from journal.clock import Clock
from journal.errors import NotFound, VenueError
from journal.market import Market
from projections.secmaster import change_of
from ssmd.render import Silent
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.query import near
from ssmd.secmaster.reading import History
from ssmd.secmaster.stream import Synced
from ssmd.secmaster.sync import Question, Sync
from ssmd.secmaster.view import GONE, View

FRESH_NS = 900 * 10**9  # as often as the security master's own service asks
_PAGE = 500


class Listed(NamedTuple):
    """A market as the security master has it, None where it was removed. `sequence` is of its newest change.

    `told`: that change was learnt from the venue's own message, which the market stream has too.
    """

    symbol: str
    market: Market | None
    sequence: int
    told: bool = False


class Asked(NamedTuple):
    """Where to ask. `changing`: a simulated one, which lists other markets each time it is started."""

    sync: Sync
    source: DefinitionSource
    feed: str
    url: str
    run: str  # a new name for a run
    changing: bool = False


class Choice:
    """`open` first, then `pages` and `changes`. One reader; the view is used in threads, so that a capture does not wait for it."""

    def __init__(self, ledger: Ledger, history: History, selection: Selection, clock: Clock, venue: Asked | None = None) -> None:
        self.selection = selection
        self.trouble = ""  # why the venue could not be asked
        self._ledger = ledger
        self._history = history
        self._clock = clock
        self._venue = venue
        self._at = 0

    @property
    def position(self) -> str:
        """Up to where the security master was looked at."""
        return self.at(self._at)

    def at(self, sequence: int) -> str:
        return f"{self._history.stream.name}:{sequence}"

    async def open(self) -> None:
        """Bring the security master up to date. Raises `NotFound` for a symbol that is in none, `VenueError` where it was never asked."""
        await self._ledger.open()
        asked = await self._synchronise()
        if not asked and self._unknown():
            await self._synchronise(anew=True)
        if unknown := self._unknown():
            view = self._ledger.view
            raise NotFound("market", unknown, near(view, unknown), hint="" if near(view, "") else "the venue lists none of its series")
        self._at = self._ledger.view.place.sequence

    async def again(self) -> None:
        """Look at all of it once more: call `pages` after it, and `look` for what was chosen before."""
        await self._ledger.catch_up()
        self._at = self._ledger.view.place.sequence

    async def pages(self) -> AsyncGenerator[list[Listed], None]:
        """What is chosen, as it is now; a market may come twice."""
        found = self._chosen()
        while page := await asyncio.to_thread(next, found, None):
            yield page

    async def look(self, symbols: Iterable[str]) -> list[Listed]:
        """Those of `symbols` that were ever there."""
        return await asyncio.to_thread(self._look, list(symbols), frozenset())

    async def changes(self) -> AsyncGenerator[list[Listed], None]:
        """Markets that changed since they were last looked at, without end. Raises `StoreError`, `CorruptionError`: then `again`."""
        async with aclosing(self._history.read(self._at + 1, follow=True)) as reads:
            async for records in reads:
                if not await asyncio.to_thread(self._ledger.view.fold, records):
                    await self._ledger.catch_up()  # it was made anew meanwhile
                newest = {c.symbol: c for _, entry in records if (c := change_of(entry))}
                told = frozenset(symbol for symbol, change in newest.items() if change.source == "lifecycle")
                found = await asyncio.to_thread(self._look, list(newest), told)
                self._at = records[-1].sequence
                if found:
                    yield found

    # -- the view ----------------------------------------------------------------------------------------------------

    def _look(self, symbols: list[str], told: frozenset[str]) -> list[Listed]:
        rows = self._ledger.view.rows(symbols)
        return [Listed(s, self._whole(r.known.market), r.sequence, s in told) for s, r in rows.items()]

    def _chosen(self) -> Iterator[list[Listed]]:
        wanted, view = self.selection, self._ledger.view
        if named := list(wanted.symbols):
            yield [x for x in self._look(named, frozenset()) if self._begins(x)]
        statuses = sorted(wanted.statuses)
        if wanted.everything or wanted.tags:
            scopes = [("status", status) for status in statuses]
        else:
            # A market that the venue has only announced has no category yet: its series tells.
            categories = ("", *wanted.categories) if wanted.categories else ()
            scopes = [("series", s) for s in wanted.series] + [("category", c) for c in categories]
        for column, value in scopes:
            for page in _scan(view, column, value, statuses):
                if found := [x for x in self._look(page, frozenset()) if self._begins(x)]:
                    yield found

    def _begins(self, listed: Listed) -> bool:
        return listed.market is not None and self.selection.begins(listed.market)

    def _whole(self, market: Market | None) -> Market | None:
        """With category and tags as another market of its series has them, where the next synchronisation will add them."""
        wanted = self.selection
        if market is None or market.category or not market.series or not (wanted.categories or wanted.tags):
            return market
        view = self._ledger.view
        sql = "SELECT symbol FROM markets WHERE series = ? AND category > '' LIMIT 1"
        for row in view.rows(symbol for (symbol,) in view.query(sql, [market.series])).values():
            if like := row.known.market:
                return msgspec.structs.replace(market, category=like.category, tags=like.tags)
        return market

    # -- the venue ---------------------------------------------------------------------------------------------------

    def _unknown(self) -> str:
        known = self._ledger.view.rows(self.selection.symbols)
        return next((s for s in self.selection.symbols if s not in known), "")

    async def _synchronise(self, *, anew: bool = False) -> bool:
        """Whether the venue was asked: not if it was a short while ago."""
        if self._venue is None:
            return False
        sync, source, feed, url, run, changing = self._venue
        question, last = self._question(feed, url)
        fresh = last is not None and self._clock.wall_ns() - last.started_ns < FRESH_NS
        if fresh and not (anew or changing):
            return False
        try:
            await sync.run(source, question, run, full=changing or last is None, meter=Silent(), accept_missing=changing)
        except VenueError as error:
            if last is None or changing:
                raise
            self.trouble = f"the security master is of {(self._clock.wall_ns() - last.started_ns) // 10**9} s ago: {error}"
        else:
            self.trouble = ""
        return True

    def _question(self, feed: str, url: str) -> tuple[Question, Synced | None]:
        """What to ask, and when it was last: of everything, unless only series and symbols are chosen and nobody asked for all."""
        wanted = self.selection
        names = sorted({*wanted.series, *(s.partition("-")[0] for s in wanted.symbols)})
        some = not (wanted.everything or wanted.categories or wanted.tags)
        asked: list[tuple[Question, Synced | None]] = []
        for question in (Question(feed, url), *((Question(feed, url, tuple(names)),) if some else ())):
            found = self._ledger.view.synced(question.source)
            asked.append((question, found[2] if found else None))
        return max(reversed(asked), key=lambda a: a[1].started_ns if a[1] else 0)


def _scan(view: View, column: str, value: str, statuses: list[str]) -> Iterator[list[str]]:
    """Symbols of one series, category or state, in order; only as many at once as one may hold."""
    marks = ",".join("?" * len(statuses))
    sql = (
        f"SELECT symbol FROM markets WHERE {column} = ? AND symbol > ? AND status IN ({marks}) AND status <> ?"  # noqa: S608 (a column, marks)
        f" ORDER BY symbol LIMIT {_PAGE}"
    )
    after = ""
    while found := [symbol for (symbol,) in view.query(sql, [value, after, *statuses, GONE])]:
        yield found
        after = found[-1]
