"""Thirty days of rolls on Temporal's own server that skips time, both changes of New York's clocks among them.

That server has no schedules (those are compared with the calendar on a real one); a workflow of the test wakes at the instants at which
they fire and starts what they start.
"""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

from temporalio import activity, workflow
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from journal.clock import WallClock
from journal.memory import MemoryJournal
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register, facts
from ssmd.metadata.environment import Schedule
from ssmd.temporal import workflows
from ssmd.temporal.activities import Activities
from ssmd.temporal.orders import Asked
from tests.day.driver_contract import Effects
from tests.temporal.servers import SKIPPING

CALENDAR = Calendar(Schedule(timezone="America/New_York", day_start="02:30"))
FIRST = (date(2027, 3, 7), date(2027, 11, 1))
DAYS = 15


class ServersClock(WallClock):
    """Set to the server's time whenever a schedule fires."""

    now_ns = 0

    def wall_ns(self) -> int:
        return self.now_ns

    @activity.defn
    async def set(self, now_ns: int) -> None:
        self.now_ns = now_ns


@workflow.defn
class Almanac:
    @workflow.run
    async def run(self, instants: list[int]) -> list[int]:
        woken = []
        for at_ns in instants:
            await workflow.sleep((at_ns - workflow.time_ns()) / 1e9)
            woken.append(workflow.time_ns())
            await workflow.execute_activity("set", workflow.time_ns(), start_to_close_timeout=timedelta(seconds=30))
            await workflow.execute_child_workflow("RollTradingDay", Asked("local"), id=f"roll-{at_ns}")
        return woken


def test_every_day_is_begun_and_ended_at_its_instant_when_clocks_change() -> None:
    days = [first + timedelta(days=n) for first in FIRST for n in range(DAYS)]

    async def run() -> None:
        clock, journal, effects = ServersClock(), MemoryJournal(), Effects()
        register = Register(journal, clock, "local", CALENDAR.rule)
        plans = {"start": [effects.step("connector")], "end": [effects.step("record")]}
        activities = Activities(register, CALENDAR, clock, "worker@test:1", lambda found: plans[found.phase])
        server = await WorkflowEnvironment.start_time_skipping(test_server_existing_path=str(SKIPPING))
        async with (
            server as env,
            Worker(
                env.client,
                task_queue="q",
                workflows=[*workflows.ALL, Almanac],
                activities=[*activities.all, clock.set],
                workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox does not like where pytest puts modules
            ),  # fmt: skip
        ):
            instants = [CALENDAR.begins_ns(day) for day in days]
            woken = await env.client.execute_workflow(Almanac.run, instants, id="almanac", task_queue="q")
        assert all(0 <= at - wanted < 10**9 for at, wanted in zip(woken, instants, strict=True))
        assert await register.dates() == days
        lengths = set()
        for day, following in zip(days, [*days[1:], None], strict=True):
            moves = {f.detail["to"]: f.at_ns for f in await facts(journal, "local", day) if f.what == "moved"}
            assert moves["ACTIVE"] // 10**9 == CALENDAR.begins_ns(day) // 10**9
            if following and following - day == timedelta(days=1):
                assert moves["COMPLETE"] // 10**9 == CALENDAR.over_ns(day) // 10**9
                lengths.add((CALENDAR.over_ns(day) - CALENDAR.begins_ns(day)) // (1800 * 10**9))
            elif following is None:
                assert "ENDING" not in moves
        assert lengths == {46, 48, 50}  # half-hours
        # Live before the last one ends, every time.
        assert effects.calls == ["connector", *["connector", "record"] * (len(days) - 1)]

    asyncio.run(run())
