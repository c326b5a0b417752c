"""What goes wrong around the end of a day: the venue away over midnight, the storage full or away, clocks that jump over it."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from pathlib import Path

import pytest

from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.day import to_int
from journal.errors import StorageError
from journal.memory import MemoryStorage
from ssmd.day.aggregate import State
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.ending import plan_end
from ssmd.day.record import read_record
from ssmd.day.runner import Runner
from tests.day.captures import STREAM, Capture, InProcess
from tests.day.test_day_ending import DAY, ended, journalled, shown
from tests.replay.test_replay import market


async def state_of(c: Capture, day: date, wanted: State, patience_s: float = 40.0) -> None:
    async with asyncio.timeout(patience_s):
        while (found := await c.register().get(day)).state != wanted:
            assert found.state not in {"ERROR", "FAILED"}, found.why
            await c.clock.sleep(0.1)


def test_a_venue_that_is_away_over_midnight_keeps_no_day_from_ending(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        first = c.calendar.today(c.clock.wall_ns())
        feed = SyntheticFeed(3, markets=4, rate=100.0, frames=100_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim:
            processes, register = InProcess(c, sim), c.register()
            runner = Runner(c.parts(processes), register, "runner@test", lambda _: None)
            running = asyncio.create_task(runner.run())
            await state_of(c, first, State.ACTIVE)
        c.midnight_in(1.0)
        c.clock.hurry = 20.0
        try:
            # The next day's start needs the venue, and says that it is away; this one, asked to end meanwhile, does.
            await state_of(c, first + timedelta(days=1), State.STARTING)
            await register.move(first, State.ENDING, who="ana")
            await state_of(c, first, State.COMPLETE)
        finally:
            runner.stop()
            await running
            await processes.stop(*processes.tasks)
        body = read_record(c.storage.get((await register.get(first)).record), (await register.get(first)).record)["body"]
        assert body["verified"]

    asyncio.run(run())


class Faulty(MemoryStorage):
    """Refuses to store what has `word` in its key, so many times."""

    def __init__(self, word: str, times: int) -> None:
        super().__init__()
        self.word, self.times = word, times

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if self.word in key and self.times:
            self.times -= 1
            raise StorageError(f"{key}: no space left on device")
        return super().put(key, data, if_absent=if_absent)


class Gone(MemoryStorage):
    """Cannot be read for a while from when it is told."""

    times = 0

    def get(self, key: str) -> bytes:
        if self.times:
            self.times -= 1
            raise StorageError(f"{key}: connection refused")
        return super().get(key)


@pytest.mark.parametrize(("times", "state"), [(1, "COMPLETE"), (1_000, "ERROR")])
@pytest.mark.parametrize("word", ["_days/", "manifest.json", "/norm/"])
def test_a_storage_that_is_full_is_tried_again_and_then_an_error_that_recovers(tmp_path: Path, word: str, times: int, state: str) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.storage = storage = Faulty(word, times)
        await journalled(c, market(300, days=1))
        found = await ended(c)
        assert found.state == state
        if state == "ERROR":
            assert "no space left" in found.why
            assert found.record == ""
            storage.times = 0
            assert (await ended(c)).state == "COMPLETE"
        body = (await shown(c))["record"]["body"]
        assert (body["verified"], body["entries"]) == (True, 301)

    asyncio.run(run())


def test_a_storage_that_is_away_while_it_verifies_is_no_finding(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.storage = storage = Gone()
        await journalled(c, market(300, days=1))

        def away() -> None:
            storage.times = 1

        found = await ended(c, before_verify=away)
        assert found.state == "COMPLETE", found.why

    asyncio.run(run())


@pytest.mark.parametrize("jump_s", [86_400.0, -7_200.0])
def test_a_clock_that_jumps_over_midnight_leaves_each_entry_in_one_day(tmp_path: Path, jump_s: float) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600 if jump_s > 0 else -3600)
        first = c.calendar.today(c.clock.wall_ns())
        feed = SyntheticFeed(3, markets=4, rate=200.0, frames=100_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim:
            processes, register = InProcess(c, sim), c.register()
            runner = Runner(c.parts(processes), register, "runner@test", lambda _: None)
            running = asyncio.create_task(runner.run())
            await state_of(c, first, State.ACTIVE)
            c.clock.ahead_ns += int(jump_s * 1e9)
            if jump_s > 0:
                await state_of(c, first, State.COMPLETE)
            else:
                await c.clock.sleep(1.5)
            runner.stop()
            await running
            await processes.stop(*processes.tasks)
        last = first + timedelta(days=1) if jump_s > 0 else first
        assert [d.day for d in [await register.get(d) for d in await register.dates()]] == sorted({first.isoformat(), last.isoformat()})
        await register.move(last, State.ENDING, who="ana")
        found = await EmbeddedDriver(register, c.clock, "last").run(last, plan_end(c.parts(), register))
        assert (found.state, found.done["verify"]["verified"]) == ("COMPLETE", True)
        days = [e.day async for records in c.journal.read(STREAM) for _, e in records]
        assert days == sorted(days), "an entry's day never goes back"
        assert set(days) == {to_int(first), to_int(last)}
        times = [e.effective_ns async for records in c.journal.read(STREAM) for _, e in records]
        assert times == sorted(times)
        counted = 0
        for day in await register.dates():
            record = (await register.get(day)).record
            counted += read_record(c.storage.get(record), record)["body"]["entries"]
        assert counted == len(days), "each in the record of one day"

    asyncio.run(run())


def test_a_day_that_never_started_has_no_end(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        with pytest.raises(Exception, match="it was never started"):
            await c.register().move(DAY, State.ENDING, who="ana")

    asyncio.run(run())
