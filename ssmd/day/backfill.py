"""A day that nobody captured, made afterwards: the same states as a captured one's, and its history says what it was made from.

The process that asks carries it out, beside a runner or without one, and goes on where another was killed. The day's entries are in
the shard `import`; what they fold to is verified and recorded as any day is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

from journal.archive import ArchiveReader, find_manifest, segments_of
from journal.clock import Clock
from journal.day import to_int
from journal.errors import CallerError
from journal.subjects import Stream
from ssmd.day.activity import Result, Step, Work
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.calendar import Calendar
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.ending import beating
from ssmd.day.extent import as_result, bounds, captured_streams, scattered
from ssmd.day.phase import Tell
from ssmd.day.register import Register
from ssmd.day.starting import Parts, plan_start
from ssmd.day.supply import Supply, open_supply
from ssmd.locks import archiver_lock, held
from ssmd.settings import IMPORT, Settings

_POLL_S = 0.25


def backfill_lock(settings: Settings) -> Path:
    """Held by the one process that makes days of the environment from what others captured."""
    return settings.data_dir / f"backfill-{settings.env}.lock"


@asynccontextmanager
async def backfilling(settings: Settings, clock: Clock) -> AsyncIterator[None]:
    """Raises `CallerError` while another process does so."""
    async with held(backfill_lock(settings), clock, waiting=None) as mine:
        if not mine:
            raise CallerError(f"another process makes a day of {settings.env} just now; see `ssmd day status`")
        yield


async def captured(parts: Parts, day: date) -> str:
    """What connectors captured of the day, in words; "" where they captured no frame."""
    calendar = Calendar(parts.settings.environment.schedule)
    for stream in await captured_streams(parts.journal, parts.settings):
        found = await bounds(parts.journal, calendar, stream, day)
        async for records in parts.journal.read(stream, start=found.first, end=found.last):
            if any(entry.raw for _, entry in records):
                return f"{stream.name} has {found.entries} entries of it"
    return ""


async def carry_out(parts: Parts, register: Register, day: date, who: str, tell: Tell, *, asker: str) -> TradingDay:
    """Bring the day, which `asker` asked for, as far as it comes: COMPLETE, ERROR or FAILED. Raises as `Driver.run`."""
    found = await register.get(day)
    supply = open_supply(parts.settings, parts.clock, found.source)
    driver = EmbeddedDriver(register, parts.clock, who, tell)
    if found.state == State.STARTING:
        found = await driver.run(day, plan_bring(parts, supply))
    if found.state == State.ACTIVE:
        found = await register.move(day, State.ENDING, who=asker, why="everything of it is here")
    if found.state == State.ENDING:
        found = await driver.run(day, plan_close(parts, supply))
    return found


def plan_bring(parts: Parts, supply: Supply | None = None) -> Sequence[Step]:
    """Without a `supply` only to be looked at."""
    steps, common = _Backfill(parts, supply), {step.name: step for step in plan_start(parts)}
    return (
        common["configuration"],
        common["storage"],
        Step("source", steps.source, quiet_s=300),
        Step("entries", steps.entries, quiet_s=300),
    )


def plan_close(parts: Parts, supply: Supply | None = None) -> Sequence[Step]:
    steps = _Backfill(parts, supply)
    return (
        Step("archive", steps.archive, quiet_s=120),
        Step("fold", steps.fold, quiet_s=600),
        Step("flush", steps.flush, quiet_s=120),
        Step("verify", steps.verify, quiet_s=600),
        Step("record", steps.record),
    )


class _Backfill:
    def __init__(self, parts: Parts, supply: Supply | None) -> None:
        self._p = parts
        self._given = supply
        self._stream = Stream(parts.settings.env, shard=IMPORT)
        self._system = Stream(parts.settings.env, domain="system")

    @property
    def _supply(self) -> Supply:
        if self._given is None:
            raise CallerError("a plan without a source is only to be looked at")
        return self._given

    async def source(self, work: Work) -> Result:
        return await self._supply.check(work)

    async def entries(self, work: Work) -> Result:
        return await self._supply.bring(self._p.journal, work)

    async def fold(self, work: Work) -> Result:
        """The day, and each later one of the shard anew: it opens with another state now."""
        from replay.source import JoinedSource
        from ssmd.services.projector import Projector

        projector = Projector(self._p.journal, self._p.storage, self._stream, self._p.clock)
        source = JoinedSource(ArchiveReader(self._p.storage, self._p.settings.env, self._p.clock), self._p.journal)
        folded: list[int] = []

        async def fold() -> None:
            folded.extend(await projector.run_days(source, [to_int(work.day)]))

        await beating(work, fold(), lambda: f"folded to {projector.position}")
        found = await scattered(self._p.journal, self._stream, work.day, lambda sequence: work.beat(f"counted to {sequence}"))
        system = await self._p.journal.info(self._system)
        return {
            "entries": found.entries, "days": len(folded), "streams": as_result([found]), "system": system.last if system else 0,
        }  # fmt: skip

    async def archive(self, work: Work) -> Result:
        """The shard is archived, for what is archived folds fast."""
        info = await self._p.journal.info(self._stream)
        await self._archive({self._stream: info.last if info else 0}, work)
        found = await asyncio.to_thread(find_manifest, self._p.storage, self._stream, to_int(work.day))
        return {"objects": sum(len(s.objects) for s in found[1].of_stream(self._stream.name)) if found else 0}

    async def flush(self, work: Work) -> Result:
        """And so are the digests."""
        await self._archive({self._system: int(work.done["fold"]["system"])}, work)
        return {"system": work.done["fold"]["system"]}

    async def _archive(self, wanted: dict[Stream, int], work: Work) -> None:
        """By a living archiver, else by us."""
        from ssmd.services.archiver import Archiver
        from ssmd.software import software

        storage, settings, told = self._p.storage, self._p.settings, 0
        while True:
            async with held(archiver_lock(settings.data_dir, settings.env), self._p.clock, waiting=None) as ours:
                if ours:
                    archiver = Archiver(self._p.journal, storage, settings.env, self._p.clock, software=software())
                    status = archiver.status
                    await beating(work, archiver.catch_up(wanted), lambda: f"{sum(s.object_bytes for s in status())} bytes")  # noqa: B023
                    return
            if (behind := await self._behind(wanted)) == 0:
                return
            if behind != told:  # one that does nothing is given up
                told = behind
                work.beat(f"waiting for the archiver, which is {behind} entries behind")
            await self._p.clock.sleep(_POLL_S)

    async def _behind(self, wanted: dict[Stream, int]) -> int:
        behind = 0
        for stream, last in wanted.items():
            known = await asyncio.to_thread(segments_of, self._p.storage, stream)
            behind += max(0, last - (known[-1].ref.last if known else 0))
        return behind

    async def verify(self, work: Work) -> Result:
        from ssmd.day.verifying import verify_day

        return await verify_day(self._p, work)

    async def record(self, work: Work) -> Result:
        from ssmd.day.record import write_record

        return await write_record(self._p, work, self._supply.facts)
