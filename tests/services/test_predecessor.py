"""What a run must say about those before it, also about those before one that was killed too early to say it itself."""

from __future__ import annotations

import asyncio

from journal.day import DayRule
from journal.entry import Change, Control, Delta, Gap, Record, canonical_json
from journal.memory import MemoryJournal
from journal.subjects import Stream
from journal.writer import EpochWriter, Stamper
from ssmd.services.predecessor import Predecessor, find

STREAM = Stream("local", shard="0")
NAME = "connector"


class Runs:
    """Runs of one writer, killed at will."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.stamper = Stamper(DayRule())
        self.lease: Record | None = None
        self.now_ns = 0

    async def begin(self, number: int) -> EpochWriter:
        await self.journal.ensure(STREAM)
        run = EpochWriter("kalshi", bytes([number]) * 16, self.stamper)
        await self.say(run, Control("opened", detail=_json(kind="run", writer=NAME)), f"epoch-{run.epoch.hex()}")
        previous = self.lease.sequence if self.lease else 0
        sequence = await self.say(run, Control("lease", detail=_json(run=run.epoch.hex(), previous=previous)), f"writer-{NAME}")
        async for records in self.journal.read(STREAM, start=sequence):
            self.lease = records[0]
        return run

    async def connect(self, number: int) -> EpochWriter:
        connection = EpochWriter("kalshi", bytes([number]) * 16, self.stamper)
        await self.say(connection, Control("opened", detail=_json(kind="connection", writer=NAME)), f"epoch-{connection.epoch.hex()}")
        await self.say(connection, Delta((Change(1, 1, 0, 0),)), "A")
        return connection

    async def say(self, writer: EpochWriter, body: Control | Delta | Gap, symbol: str) -> int:
        self.now_ns += 1_000
        raw = b"{}" if isinstance(body, Delta) else b""
        (sequence,) = await self.journal.append(STREAM, [writer.entry(body, recv_ns=self.now_ns, symbol=symbol, raw=raw)])
        return sequence

    async def found(self) -> Predecessor:
        assert self.lease
        return await find(self.journal, STREAM, "kalshi", NAME, self.lease)


def _json(**detail: object) -> str:
    return canonical_json(detail).decode()


def test_a_run_that_died_before_it_spoke_hides_nothing() -> None:
    async def story() -> None:
        runs = Runs()
        await runs.begin(1)
        connection = await runs.connect(2)
        last_ns = runs.now_ns
        for number in (3, 4):  # two in a row die right after the lease
            await runs.begin(number)
            assert await runs.found() == Predecessor([connection.epoch.hex()], last_ns)

    asyncio.run(story())


def test_a_run_that_spoke_and_never_connected_is_the_last_word() -> None:
    async def story() -> None:
        runs = Runs()
        await runs.begin(1)
        await runs.connect(2)
        second = await runs.begin(3)
        held_ns = runs.now_ns
        await runs.say(second, Gap("connector restarted"), "")
        await runs.say(second, Control("closed", detail=_json(epoch=(bytes([2]) * 16).hex())), "")
        assert await runs.found() == Predecessor([], held_ns)  # nothing was read since

    asyncio.run(story())


def test_what_was_not_read_when_a_run_stopped_is_missing() -> None:
    async def story() -> None:
        runs = Runs()
        run = await runs.begin(1)
        connection = await runs.connect(2)
        last_ns = runs.now_ns
        await runs.say(run, Control("silence", detail=_json(expected=True)), f"silence-{NAME}")
        await runs.say(connection, Control("closed", detail=_json(reason="stopped")), "")
        assert await runs.found() == Predecessor([], last_ns)

    asyncio.run(story())


def test_the_first_run_of_all() -> None:
    async def story() -> None:
        runs = Runs()
        await runs.begin(1)
        assert await runs.found() == Predecessor([], runs.now_ns)

    asyncio.run(story())
