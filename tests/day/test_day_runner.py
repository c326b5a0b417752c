"""The runner: what it does when a process cannot run, when the clock jumps, when it comes back, and when another one is asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest

from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.day import to_int
from journal.entry import Gap
from journal.errors import CallerError, Fenced, JournalUnavailable, VenueUnavailable
from ssmd.day.aggregate import State
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.ending import plan_end
from ssmd.day.record import read_record
from ssmd.day.register import Register, facts
from ssmd.day.runner import Runner, runner_held, watch
from ssmd.metadata.environment import Schedule
from ssmd.services.supervisor import ChildFailed
from tests.day.captures import STREAM, Capture, InProcess
from tests.day.driver_contract import Killed


@asynccontextmanager
async def venue(c: Capture) -> AsyncIterator[InProcess]:
    feed = SyntheticFeed(random.Random(1).randrange(99), markets=4, rate=50.0, frames=100_000)
    async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim:
        processes = InProcess(c, sim)
        try:
            yield processes
        finally:
            await processes.stop("connector", "projector", "archiver")


async def until(c: Capture, state: str, *, back: int = 0) -> None:
    day = c.calendar.today(c.clock.wall_ns()) - timedelta(days=back)
    async with asyncio.timeout(30):
        while (await c.register().get(day)).state != state:
            await c.clock.sleep(0.05)


def test_a_runner_whose_processes_another_one_has_displaced_leaves_the_day_to_it(tmp_path: Path) -> None:
    """Two data directories, one journal: the second runner's connector takes the lease, and the first one's cannot run any more."""

    async def run() -> None:
        c, told = Capture(tmp_path), list[str]()
        c.midnight_in(3600)
        async with venue(c) as processes, venue(c) as others:
            running = asyncio.create_task(Runner(c.parts(processes), c.register(), "first", told.append).run())
            await until(c, "ACTIVE")
            day = (await c.register().dates())[0]
            second = Runner(c.parts(others), c.register(), "second", lambda _: None)
            other = asyncio.create_task(second.run())
            async with asyncio.timeout(30):
                while (await c.register().get(day)).runner != "second":
                    await c.clock.sleep(0.05)
            processes.failed.set_result(ChildFailed("writer connector lost its lease"))
            with pytest.raises(ChildFailed):
                await running
            assert (await c.register().get(day)).state == "ACTIVE"
            assert any("taken over by second" in line for line in told)
            second.stop()
            await other
            assert isinstance(processes.tasks["connector"].exception(), Fenced)

    asyncio.run(run())


def test_a_process_that_cannot_run_is_the_days_error_and_the_runners_end(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        async with venue(c) as processes:
            running = asyncio.create_task(Runner(c.parts(processes), c.register(), "first", lambda _: None).run())
            await until(c, "ACTIVE")
            processes.failed.set_result(ChildFailed("connector could not run:\nthe key was refused"))
            with pytest.raises(ChildFailed):
                await running
            day = (await c.register().dates())[0]
            found = await c.register().get(day)
            assert (found.state, found.who) == ("ERROR", "first")
            assert "the key was refused" in found.why

            # The next runner leaves it to an operator.
            processes.failed = asyncio.get_running_loop().create_future()
            told: list[str] = []
            second = Runner(c.parts(processes), c.register(), "second", told.append)
            running = asyncio.create_task(second.run())
            await c.clock.sleep(1.0)
            assert told == [f"{day} is ERROR; see `ssmd day show`, and `ssmd day recover` to go on"]
            await c.register().move(day, State.STARTING, who="ana", kept=True)
            await until(c, "ACTIVE")
            second.stop()
            await running

    asyncio.run(run())


def test_days_that_were_slept_through_are_rolled_once_and_the_jump_is_in_the_history(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        async with venue(c) as processes:
            told: list[str] = []
            runner = Runner(c.parts(processes), c.register(), "runner", told.append)
            running = asyncio.create_task(runner.run())
            await until(c, "ACTIVE")
            c.clock.ahead_ns += 3 * 86_400 * 10**9
            await until(c, "COMPLETE", back=3)
            c.clock.ahead_ns -= 2 * 86_400 * 10**9  # and back: begins nothing
            await c.clock.sleep(1.2)
            runner.stop()
            await running
            first, last = await c.register().dates()
            assert last - first == timedelta(days=3)
            begun = [f.detail["why"] for f in await facts(c.journal, "local", last) if f.what == "moved"]
            assert "the clock jumped by +259200 s" in begun[0]
            assert "the clock jumped by -172800 s" in told

    asyncio.run(run())


class Away(Register):
    """The journal is away when a runner has just begun."""

    refused = 0

    async def dates(self) -> list[date]:
        if self.refused < 2:
            self.refused += 1
            raise JournalUnavailable("the connection was lost")
        return await super().dates()


def test_a_runner_that_begins_while_the_journal_is_away_waits_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        async with venue(c) as processes:
            await c.register().move(c.calendar.today(c.clock.wall_ns()), State.STARTING, who="ana")
            told: list[str] = []
            register = Away(c.journal, c.clock, "local", c.calendar.rule)
            runner = Runner(c.parts(processes), register, "runner", told.append)
            running = asyncio.create_task(runner.run())
            await until(c, "ACTIVE")
            runner.stop()
            await running
            assert register.refused == 2
            assert "waiting: the connection was lost" in told

    asyncio.run(run())


def test_an_operator_ends_the_day_of_a_living_runner_and_watches(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path, Schedule(auto_roll=False))
        c.midnight_in(3600)
        async with venue(c) as processes, runner_held(c.settings, c.clock):
            runner = Runner(c.parts(processes), c.register(), "runner", lambda _: None)
            running = asyncio.create_task(runner.run())
            await until(c, "ACTIVE")
            day, told = c.calendar.today(c.clock.wall_ns()), list[str]()
            await c.register().move(day, State.ENDING, who="ana", why="the venue closes")
            found = await watch(c.register(), c.clock, c.settings, day, told.append)
            assert (found.state, told[-1]) == ("COMPLETE", f"{day} is COMPLETE")
            assert not processes.running("connector")
            await running  # nothing is open, and without auto_roll nothing will be

    asyncio.run(run())


def test_who_watches_is_told_when_the_runner_dies(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        day = c.calendar.today(c.clock.wall_ns())
        await c.register().move(day, State.STARTING, who="ana")
        with pytest.raises(CallerError, match=r"the runner has ended while day .* was STARTING; `ssmd day recover` goes on"):
            await watch(c.register(), c.clock, c.settings, day, lambda _: None)

    asyncio.run(run())


def test_killed_at_every_step_of_a_roll_both_days_come_out_whole(tmp_path: Path) -> None:
    start = ("configuration", "secmaster", "storage", "connector", "archiver", "projector", "gateway", "health")
    places = [*((" start ", s) for s in start), *((" end ", s) for s in ("stop", "drain", "flush", "verify", "record"))]

    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(2.0)
        first = c.calendar.today(c.clock.wall_ns())
        left, rolling = list(places), False

        def tell(text: str) -> None:
            nonlocal rolling
            rolling = rolling or text == f"{first} is ACTIVE"
            if rolling and left and text.endswith(f" {left[0][1]}: …") and left[0][0] in text:
                left.pop(0)
                raise Killed

        feed = SyntheticFeed(3, markets=4, rate=80.0, frames=100_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim, asyncio.timeout(70):
            while True:
                processes = InProcess(c, sim)
                runner = Runner(c.parts(processes), c.register(), f"runner {len(left)}", tell)
                running = asyncio.create_task(runner.run())
                while not running.done() and (left or (await c.register().get(first)).state != "COMPLETE"):
                    await asyncio.wait([running], timeout=0.1)
                runner.stop()
                dead = (await asyncio.gather(running, return_exceptions=True))[0]
                await processes.stop("connector", "projector", "archiver")
                if not isinstance(dead, Killed):
                    break
        assert left == []
        register = c.register()
        assert [(await register.get(d)).state for d in await register.dates()] == ["COMPLETE", "ACTIVE"]
        found = await register.get(first)
        body = read_record(c.storage.get(found.record), found.record)["body"]
        assert body["verified"]
        days = [(n, e.day) async for records in c.journal.read(STREAM) for n, e in records]
        assert [d for _, d in days] == sorted(d for _, d in days)
        assert body["entries"] == sum(d == to_int(first) for _, d in days)
        # The second day, ended too, is whole: each death of the runner is a gap that somebody said.
        second = (await register.dates())[1]
        await register.move(second, State.ENDING, who="ana")
        found = await EmbeddedDriver(register, c.clock, "last").run(second, plan_end(c.parts(), register))
        assert (found.state, found.done["verify"]["verified"]) == ("COMPLETE", True)
        gaps = [e async for records in c.journal.read(STREAM) for _, e in records if isinstance(e.body, Gap)]
        assert len(gaps) >= len(places)

    asyncio.run(run())


def test_the_security_master_is_synchronised_by_cron_and_a_failure_ends_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path, Schedule(sync_cron="* * * * *"))
        c.midnight_in(3600)
        async with venue(c) as processes:
            told: list[str] = []
            runner = Runner(c.parts(processes), c.register(), "runner", told.append)
            running = asyncio.create_task(runner.run())
            await until(c, "ACTIVE")
            day = c.calendar.today(c.clock.wall_ns())

            async def noted(what: str) -> None:
                c.clock.ahead_ns += 60 * 10**9
                async with asyncio.timeout(30):
                    while not any(f.what == "noted" and f.detail["what"] == what for f in await facts(c.journal, "local", day)):
                        await c.clock.sleep(0.1)

            await noted("synchronised")

            async def away() -> str:
                raise VenueUnavailable("the venue is away")

            processes.rest_url = away  # type: ignore[method-assign]
            await noted("not_synchronised")
            assert (await c.register().get(day)).state == "ACTIVE"
            runner.stop()
            await running
            assert f"{day}: security master not synchronised" in told

    asyncio.run(run())
