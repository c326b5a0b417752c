"""Synchronisations of the security master that a schedule asks for, between the ones that days begin with."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import date

from journal.errors import SsmdError
from ssmd.day.activity import Work
from ssmd.day.calendar import Calendar
from ssmd.day.phase import Tell, alive
from ssmd.day.register import Register
from ssmd.day.starting import Parts, plan_start

_MOST_TEXT = 2_000  # characters of an error in the journal


class Syncing:
    """At most one at a time: what falls due meanwhile is done by it. What it comes to is noted in the day, and never ends one."""

    def __init__(self, parts: Parts, register: Register, calendar: Calendar, who: str, tell: Tell) -> None:
        self._parts = parts
        self._register = register
        self._calendar = calendar
        self._who = who
        self._tell = tell
        self._since_ns = parts.clock.wall_ns()
        self._task: asyncio.Task[None] | None = None

    def look(self, active: date | None) -> None:
        """Begin one if it is due and a day is ACTIVE. Raises what ended the last one, if that was no error of the venue or a store."""
        if self._task and self._task.done():
            task, self._task = self._task, None
            task.result()
        now_ns = self._parts.clock.wall_ns()
        self._since_ns = min(self._since_ns, now_ns)  # a clock that was set back does not stop them
        at_ns = self._calendar.synced_ns(self._since_ns, now_ns)
        if at_ns and self._task is None:
            self._since_ns = at_ns
            if active:
                self._task = asyncio.create_task(self._sync(active), name="sync of the security master")

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _sync(self, day: date) -> None:
        step = next(s for s in plan_start(self._parts) if s.name == "secmaster")
        work = Work(day, f"{day}/sync-{self._since_ns}", self._who, forced=False)
        try:
            detail = await alive(step, work, self._parts.clock, lambda _: None)
            what = "synchronised"
        except (SsmdError, OSError) as error:
            what, detail = "not_synchronised", {"error": type(error).__name__, "message": str(error)[:_MOST_TEXT]}
        self._tell(f"{day}: security master {what.replace('_', ' ')}")
        with suppress(SsmdError):  # the days' stream is told again by the next one
            await self._register.change(day, lambda d: d.note(what, self._parts.clock.wall_ns(), self._who, detail), who=self._who)
