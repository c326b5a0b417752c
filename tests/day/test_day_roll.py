"""A whole day and a roll in the middle of a burst, everything in this process; nothing falls between the days."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from pathlib import Path

import pytest

from exchanges.simulator.oracle import Oracle
from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.archive import ArchiveReader
from journal.day import to_int
from journal.entry import Control
from journal.memory import MemoryJournal
from projections.registry import create
from replay.ledger import Ledger
from replay.source import ArchiveSource
from ssmd.day.record import read_record
from ssmd.day.register import facts
from ssmd.day.runner import Runner
from tests.day.captures import STREAM, Capture, InProcess


async def raws(journal: MemoryJournal) -> list[tuple[int, int, bytes]]:
    """(sequence, day, frame) of everything that the venue sent."""
    return [(n, e.day, e.raw) async for run in journal.read(STREAM) for n, e in run if e.raw]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_burst_over_midnight_is_whole_and_the_days_meet(tmp_path: Path, seed: int) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(2.0)
        first = c.calendar.today(c.clock.wall_ns())
        second = first + timedelta(days=1)
        feed = SyntheticFeed(seed, markets=8, rate=1_500.0, frames=6_000)
        async with SimulatorServer(feed, c.clock, speed=1.0, hold=True, oracle=Oracle(keep_bytes=1 << 26)) as sim:
            processes, told = InProcess(c, sim), list[str]()
            register = c.register()
            runner = Runner(c.parts(processes), register, "runner@test", told.append)
            running = asyncio.create_task(runner.run())
            async with asyncio.timeout(60):
                while (await register.get(first)).state != "COMPLETE":
                    assert (await register.get(first)).state not in {"ERROR", "FAILED"}, told
                    await c.clock.sleep(0.1)
                await sim.finished()
                await c.clock.sleep(0.3)
            runner.stop()
            await running
            await processes.stop("connector", "projector", "archiver")
            sent = [s.data for s in sim.oracle.sent() if s.conn]
        await _check(c, first, second, sent)

    asyncio.run(run())


async def _check(c: Capture, first: date, second: date, sent: list[bytes]) -> None:
    register = c.register()
    days = {d.day: d for d in [await register.get(d) for d in await register.dates()]}
    assert [d.state for d in days.values()] == ["COMPLETE", "ACTIVE"]
    # Live before the last one has ended: by the order of the journal.
    moves = [(f.day, f.detail["to"], f.who) for f in await facts(c.journal, "local") if f.what == "moved"]
    a, b = days
    assert moves == [
        (a, "STARTING", "schedule"), (a, "ACTIVE", "runner@test"), (b, "STARTING", "schedule"), (b, "ACTIVE", "runner@test"),
        (a, "ENDING", "schedule"), (a, "COMPLETE", "runner@test"),
    ]  # fmt: skip
    # One connection, no gap, both days, cut at one place.
    frames = await raws(c.journal)
    assert [raw for _, _, raw in frames] == sent, "each frame that the venue sent, once, in order"
    assert len(sent) > 6_000
    assert [d for _, d, _ in frames] == sorted(d for _, d, _ in frames)
    assert {d for _, d, _ in frames} == {to_int(first), to_int(second)}
    opened = [e async for run in c.journal.read(STREAM) for _, e in run if isinstance(e.body, Control) and e.body.action == "opened"]
    assert len(opened) == 2, "the run's and its one connection's"
    # The record is of exactly the first day.
    key = days[a].record
    body = read_record(c.storage.get(key), key)["body"]
    (stream,) = body["streams"]
    everything = [(n, e.day) async for run in c.journal.read(STREAM) for n, e in run]
    of_first = [n for n, d in everything if d == to_int(first)]
    assert (stream["first"], stream["last"], body["entries"], body["verified"]) == (of_first[0], of_first[-1], len(of_first), True)
    # What one day closes with is what the next opens with.
    source = ArchiveSource(ArchiveReader(c.storage, "local"))
    ledger = await Ledger.read(source, STREAM)
    for projection in create():
        opening = ledger.opening(projection, to_int(second))
        assert opening is not None
        assert opening.digest.digest == stream["states"][projection.name]
