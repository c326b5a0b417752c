"""The security master kept up to date: synchronised from time to time, told by messages in between, and by the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from exchanges.markets import DefinitionSource
from journal.clock import Clock, pause
from journal.errors import VenueError
from ssmd.render import Silent
from ssmd.secmaster.following import Follower
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.sync import Question, Summary, Sync
from ssmd.sharing import SharedView

_DUE_S = 1.0  # how late a derived change is journalled, at most


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

    @property
    def status(self) -> str:
        return "; ".join((self._status, *(view.status for view in self._views if view.status)))

    async def run(self) -> None:
        """Raises `StoreError`; a venue that fails is asked again next time."""
        await self._ledger.open()
        await self._follower.catch_up()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.follow())
            group.create_task(self._watch_times())
            for view in self._views:
                group.create_task(view.run())
            if self._source:
                group.create_task(self._watch_subscriptions())
                group.create_task(self._synchronise(*self._source))
            else:
                self._status = "following messages and times"

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
