"""A day of an environment with shards: each has its connector, its projector and its part of the record."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.day import to_int
from journal.subjects import Stream
from ssmd.day.activity import Result, Step, Work
from ssmd.day.aggregate import State
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.ending import plan_end
from ssmd.day.record import read_record
from ssmd.day.runner import Runner
from ssmd.day.starting import process_name, process_of
from ssmd.metadata.environment import Environment
from tests.day.captures import Capture, InProcess

SHARDS = ("0", "gold-1")


def sharded(directory: Path) -> Capture:
    c = Capture(directory)
    fields = {"name": "local", "feed": "kalshi", "shards": {name: {} for name in SHARDS}}
    object.__setattr__(c.settings, "environment", Environment.model_validate(fields))
    return c


def test_names_of_processes() -> None:
    assert [process_name("connector", s) for s in SHARDS] == ["connector", "connector-gold-1"]
    assert [process_of(n) for n in ("connector", "connector-gold-1", "archiver")] == [
        ("connector", "0"), ("connector", "gold-1"), ("archiver", "0"),
    ]  # fmt: skip


def test_every_shard_is_started_rolled_verified_and_recorded(tmp_path: Path) -> None:
    async def run() -> None:
        c = sharded(tmp_path)
        c.midnight_in(3.0)
        first = c.calendar.today(c.clock.wall_ns())
        feed = SyntheticFeed(3, markets=4, rate=200.0, frames=100_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim:
            processes, told = InProcess(c, sim), list[str]()
            register = c.register()
            runner = Runner(c.parts(processes), register, "runner@test", told.append)
            running = asyncio.create_task(runner.run())
            async with asyncio.timeout(60):
                while (await register.get(first)).state != "COMPLETE":
                    assert (await register.get(first)).state not in {"ERROR", "FAILED"}, told
                    await c.clock.sleep(0.1)
            assert set(processes.tasks) == {"archiver", "connector", "connector-gold-1", "projector", "projector-gold-1"}
            runner.stop()
            await running
            await processes.stop(*processes.tasks)
        # The second day is ended by a process that has none of theirs.
        second = first + timedelta(days=1)
        await register.move(second, State.ENDING, who="ana")
        await EmbeddedDriver(register, c.clock, "other@test").run(second, plan_end(c.parts(), register))
        for day in (first, second):
            found = await register.get(day)
            body = read_record(c.storage.get(found.record), found.record)["body"]
            assert body["verified"]
            assert [s["stream"] for s in body["streams"]] == ["local_md_0", "local_md_gold-1"]
            for row, shard in zip(body["streams"], SHARDS, strict=True):
                stream = Stream("local", shard=shard)
                theirs = [n async for records in c.journal.read(stream) for n, e in records if e.day == to_int(day)]
                assert (row["first"], row["last"], row["entries"]) == (theirs[0], theirs[-1], len(theirs))
                assert row["states"].keys() == {"book", "coverage", "status", "ticker", "trades"}
            assert body["entries"] == sum(s["entries"] for s in body["streams"])

    asyncio.run(run())


def test_a_shard_that_lost_an_object_fails_the_day_by_name(tmp_path: Path) -> None:
    async def run() -> None:
        c = sharded(tmp_path)
        c.midnight_in(3600)
        day = c.calendar.today(c.clock.wall_ns())
        feed = SyntheticFeed(3, markets=4, rate=200.0, frames=100_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True) as sim:
            processes, register = InProcess(c, sim), c.register()
            await register.move(day, State.STARTING, who="ana")
            runner = Runner(c.parts(processes), register, "runner@test", lambda _: None)
            assert await runner.begin(day) == "ACTIVE"
            await processes.stop("connector", "connector-gold-1", "projector", "projector-gold-1", "archiver")
        await register.move(day, State.ENDING, who="ana")
        plan = list(plan_end(c.parts(), register))

        async def damage(work: Work) -> Result:
            del work
            key = next(o.key for o in c.storage.list("local/kalshi/") if "norm/local_md_gold-1" in o.key)
            c.storage.put(key, b"?" + c.storage.get(key)[1:])
            return {"damaged": key}

        plan.insert(3, Step("damage", damage))
        found = await EmbeddedDriver(register, c.clock, "x").run(day, plan)
        assert found.state == "FAILED"
        assert found.done["damage"]["damaged"] in found.why
        assert "local_md_0" not in found.why

    asyncio.run(run())
