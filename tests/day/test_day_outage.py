"""A venue that is away when a day begins: the stream's day turns all the same, and the day begins when the venue is back."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.day import iso, to_int
from journal.errors import CallerError
from ssmd.commands.day_desk import Desk, taken_roll
from ssmd.day.aggregate import State
from ssmd.day.operations import Operator
from ssmd.day.register import facts
from ssmd.day.runner import AGAIN_FIRST_S, Runner
from tests.day.captures import STREAM, Capture, InProcess


async def until(c: Capture, back: int, state: State) -> None:
    async with asyncio.timeout(150):
        while (await c.register().get(c.calendar.today(c.clock.wall_ns()) - timedelta(days=back))).state != state:
            await c.clock.sleep(0.05)


@pytest.mark.chaos
def test_a_day_that_the_venue_was_away_for_begins_when_it_is_back(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        first = c.calendar.today(c.clock.wall_ns())
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

        def venue(seed: int) -> SimulatorServer:
            return SimulatorServer(SyntheticFeed(seed, markets=4, rate=100.0, frames=100_000), c.clock, speed=1.0, hold=True, port=port)

        async with venue(3) as sim:
            processes = InProcess(c, sim)
            runner = Runner(c.parts(processes), c.register(), "runner@test", lambda _: None)
            running = asyncio.create_task(runner.run())
            await until(c, 0, State.ACTIVE)
        try:
            c.midnight_in(0.5)
            await c.clock.sleep(1.0)
            c.clock.hurry = 20.0
            await until(c, 0, State.ERROR)
            c.clock.hurry = 1.0
            assert (await c.register().get(first)).state == State.ACTIVE
            async with venue(3):
                c.clock.ahead_ns += AGAIN_FIRST_S * 10**9
                await until(c, 0, State.ACTIVE)
                await until(c, 1, State.COMPLETE)
                runner.stop()
                await running
                await processes.stop("connector", "projector", "archiver")
        finally:
            runner.stop()
            await asyncio.gather(running, return_exceptions=True)
            await processes.stop(*processes.tasks)
        moves = [(f.detail["to"], f.who, f.detail["why"]) for f in await facts(c.journal, "local") if f.what == "moved"]
        assert ("STARTING", "schedule", "the venue was unavailable: asked for again") in moves
        assert [m[0] for m in moves].count("ERROR") == 1, "the second start was late enough"

    asyncio.run(run())


def test_the_streams_day_turns_while_nothing_is_connected(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        following = to_int(c.calendar.today(c.clock.wall_ns()) + timedelta(days=1))
        feed = SyntheticFeed(3, markets=4, rate=100.0, frames=100_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim:
            processes = InProcess(c, sim)
            runner = Runner(c.parts(processes), c.register(), "runner@test", lambda _: None)
            running = asyncio.create_task(runner.run())
            await until(c, 0, State.ACTIVE)
        await c.clock.sleep(0.5)  # the connection has ended
        try:
            c.midnight_in(0.5)
            async with asyncio.timeout(20):
                while not await c.journal.last(STREAM, STREAM.subject("kalshi", "control", f"day-{iso(following)}")):
                    await c.clock.sleep(0.1)
        finally:
            runner.stop()
            await running
            await processes.stop(*processes.tasks)

    asyncio.run(run())


def test_of_two_who_roll_at_once_the_runner_carries_out_what_the_other_asked(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        register, old = c.register(), c.calendar.today(c.clock.wall_ns())
        await register.move(old, State.STARTING, who="ana")
        await register.move(old, State.ACTIVE, who="ana")
        c.midnight_in(-1)

        def operator(who: str) -> Operator:
            return Operator(c.register(), c.calendar, c.clock, who)

        def desk(*, mine: bool) -> Desk:
            return Desk(c.settings, c.clock, c.journal, c.register(), c.calendar, operator("ana"), mine)

        assert (await operator("bob").roll())[0] == old
        assert await taken_roll(desk(mine=True)) == old + timedelta(days=1)
        with pytest.raises(CallerError, match="by bob"):
            await taken_roll(desk(mine=False))

    asyncio.run(run())
