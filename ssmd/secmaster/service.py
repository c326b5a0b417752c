"""The security master kept up to date: synchronised from time to time, told by messages in between, and by the time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from exchanges.markets import DefinitionSource
from journal.clock import Clock, pause
from journal.errors import JournalUnavailable, VenueError
from ssmd.render import Silent
from ssmd.secmaster.following import Follower
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.sync import Question, Summary, Sync
from ssmd.sharing import SharedView

_DUE_S = 1.0  # how late a derived change is journalled, at most
_AGAIN_S = 1.0
_AWAY_NS = 5 * 10**9  # for how long it is told that the journal was away


class Schedule(NamedTuple):
    """Seconds between synchronisations, and between those that list everything and find what is gone."""

    every_s: float = 900.0
    full_s: float = 86_400.0


class SecmasterService:
    """Writes until cancelled. Without a `source` nothing is asked of a venue. `draw` names runs. `views` are kept for other programs."""

    def __init__(
        self,
        ledger: Ledger,
        sync: Sync,
        follower: Follower,
        clock: Clock,
        draw: Callable[[], str],
        *,
        source: tuple[DefinitionSource, Question] | None,
        schedule: Schedule | None = None,
        views: Sequence[SharedView] = (),
    ) -> None:
        self._ledger = ledger
        self._sync = sync
        self._follower = follower
        self._clock = clock
        self._draw = draw
        self._source = source
        self._schedule = schedule or Schedule()
        self._views = views
        self._status = "starting"
        self._asked = asyncio.Event()  # before its time
        self._away = ("", 0)  # what was said when the journal was last away, and when

    @property
    def status(self) -> str:
        why, at_ns = self._away
        away = why if self._clock.mono_ns() - at_ns < _AWAY_NS else ""
        return "; ".join(part for part in (self._status, away, *(view.status for view in self._views)) if part)

    async def run(self) -> None:
        """Until cancelled. A venue that fails is asked again next time; what is under way when the journal goes away is begun again.

        Raises `StoreError` where waiting does not help.
        """
        await self._patiently(self._ledger.open)
        await self._patiently(self._follower.catch_up)
        works: list[Callable[[], Awaitable[object]]] = [self._follower.follow, self._watch_times, *(view.run for view in self._views)]
        if self._source:
            works += [self._watch_subscriptions, partial(self._synchronise, *self._source)]
        else:
            self._status = "following messages and times"
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(self._patiently(work))

    async def _patiently(self, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except JournalUnavailable as error:
                self._away = (str(error), self._clock.mono_ns())
                self._asked.set()  # nobody may have heard of a subscription meanwhile
                await self._clock.sleep(_AGAIN_S)
            else:
                return

    async def _watch_times(self) -> None:
        while True:
            await self._sync.due()
            await self._clock.sleep(_DUE_S)

    async def _watch_subscriptions(self) -> None:
        """What the venue announced after it was last asked and before a connection had subscribed was heard by nobody: ask again then."""
        async for _ in self._follower.subscribed():
            self._asked.set()

    async def _synchronise(self, source: DefinitionSource, question: Question) -> None:
        full_s = int(self._schedule.full_s * 1e9)
        while True:
            self._asked.clear()
            last = self._ledger.view.synced(question.source, full=True)
            full = last is None or abs(self._clock.wall_ns() - last[2].started_ns) >= full_s  # a clock may have been ahead
            try:
                summary = await self._sync.run(source, question, self._draw(), full=full, meter=Silent())
            except VenueError as error:
                self._status = f"not synchronised: {error}"
            else:
                self._status = _told(summary)
            await pause(self._clock, self._schedule.every_s, self._asked)


def _told(summary: Summary) -> str:
    counted = ", ".join(f"{n} {what.removeprefix('market_')}" for what, n in summary.synced.counts.items()) or "nothing new"
    alarms = [f"unknown states: {', '.join(summary.unknown)}"] if summary.unknown else []
    alarms += (
        [f"{summary.missing} markets are not listed any more and were kept: `ssmd secmaster sync --full --yes`"] if summary.missing else []
    )
    alarms += [f"{summary.nameless} objects name no market"] if summary.nameless else []
    return "; ".join((f"synchronised {summary.synced.markets} markets: {counted}", *alarms))
