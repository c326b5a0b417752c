"""The worker: owns an environment's processes, and does for Temporal what its workflows ask for.

There is one for each environment, as there is one runner: the processes of a day are its children, and the steps that start and stop them
must find them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import date, timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from journal.errors import CallerError, SsmdError
from ssmd.day.activity import Processes, Result, Step, Work
from ssmd.day.aggregate import OPEN, State, TradingDay, date_of
from ssmd.day.calendar import Calendar
from ssmd.day.ending import plan_end
from ssmd.day.phase import Tell
from ssmd.day.register import Register
from ssmd.day.starting import Parts, plan_start
from ssmd.day.upkeep import Upkeep
from ssmd.temporal import workflows
from ssmd.temporal.activities import Activities
from ssmd.temporal.driver import Queue, TemporalDriver
from ssmd.temporal.link import answered
from ssmd.temporal.pollers import check_alone
from ssmd.temporal.schedules import bring_up_to_date

_BEAT_S = 2.0  # a cancellation comes back with a heartbeat


def worker_of(client: Client, queue: str, activities: Activities) -> Worker:
    """Asks for work of `queue` while it is entered."""
    beat = timedelta(seconds=_BEAT_S)
    return Worker(
        client, task_queue=queue, workflows=workflows.ALL, activities=activities.all, max_heartbeat_throttle_interval=beat,
        default_heartbeat_throttle_interval=beat, sticky_queue_schedule_to_start_timeout=beat,  # soon elsewhere when this one is dead
    )  # fmt: skip


class WorkerService:
    """`run` until `stop`; `parts.processes` must be there."""

    def __init__(self, parts: Parts, register: Register, at: Queue, who: str, tell: Tell) -> None:
        if parts.processes is None:
            raise CallerError("a worker needs processes")
        self._parts = parts
        self._processes: Processes = parts.processes
        self._register = register
        self._at = at
        self._tell = tell
        self._calendar = Calendar(parts.settings.environment.schedule)
        self._upkeep = Upkeep(register, parts.processes, parts.clock, who, tell)
        self._activities = Activities(
            register, self._calendar, parts.clock, who, self._plan, sync=Step("secmaster", self._sync, quiet_s=300), tell=tell
        )
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Leave everything as it is: steps under way are another worker's, and days stay what they are."""
        self._stop.set()

    async def run(self) -> None:
        """Raises what ended a process for good, what Temporal refuses, and `CallerError` where another worker lives."""
        with answered(self._at.target):
            await self._unless_stopped(check_alone(self._at.client, self._at.name, self._parts.clock, self._tell))
        if self._stop.is_set():
            return
        today = self._calendar.today(self._parts.clock.wall_ns())
        await self._upkeep.resume(await self._states(), self._parts.needed)
        with answered(self._at.target):
            for wanted in await bring_up_to_date(self._at.client, self._parts.settings.environment, today):
                self._tell(f"schedule: {wanted.shown}")
        async with worker_of(self._at.client, self._at.name, self._activities):
            self._tell(f"working for task queue {self._at.name} of Temporal at {self._at.target.shown}")
            if await self._something_to_do():
                await TemporalDriver(self._at, self._register, self._parts.clock).begin_roll()
            stopping = asyncio.ensure_future(self._stop.wait())
            ends: set[asyncio.Future[Any]] = {stopping, self._processes.failed}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
        if self._processes.failed.done():
            await self._fail(self._processes.failed.result())

    async def _unless_stopped(self, doing: Coroutine[Any, Any, None]) -> None:
        task, stopping = asyncio.ensure_future(doing), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            stopping.cancel()
            await asyncio.wait([task, stopping])

    async def _fail(self, error: SsmdError) -> None:
        await self._upkeep.fail(await self._states(), error)
        raise error

    async def _something_to_do(self) -> bool:
        """Whether a day is left to be carried out, or the schedule begins one by itself and may have been missed."""
        states = await self._states()
        return self._calendar.auto_roll or any(s in OPEN - {State.ACTIVE} for s in states.values())

    async def _states(self) -> dict[date, State]:
        days = [await self._register.get(day) for day in await self._register.dates()]
        return {date_of(d): State(d.state) for d in days if d.mode == "live"}

    def _plan(self, found: TradingDay) -> list[Step]:
        return list(plan_start(self._parts) if found.phase == "start" else plan_end(self._parts, self._register))

    async def _sync(self, work: Work) -> Result:
        """A day's own sync, outside of its start."""
        settings = self._parts.settings
        if settings.environment.venue.type == "simulated" and not any(self._processes.running(n) for n in self._parts.names("connector")):
            return {"skipped": "the simulated venue is there only while a day is"}
        step = next(s for s in plan_start(self._parts) if s.name == "secmaster")
        return await step.run(work)
