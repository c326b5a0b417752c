"""The steps that end a day. What another day still needs goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import date

from journal.archive import find_manifest, segments_of
from journal.day import to_int
from journal.errors import CallerError
from journal.protocols import StreamInfo
from journal.subjects import Stream
from ssmd.day.activity import Result, Step, Work
from ssmd.day.calendar import Calendar
from ssmd.day.extent import Extent, as_result, bounds, captured_streams, of_results
from ssmd.day.register import Register
from ssmd.day.starting import Parts

_POLL_S = 0.25


def plan_end(parts: Parts, register: Register) -> Sequence[Step]:
    steps = _End(parts, register)
    return (
        Step("stop", steps.stop),
        Step("drain", steps.drain, quiet_s=120),
        Step("flush", steps.flush, quiet_s=120),
        Step("verify", steps.verify, quiet_s=600),
        Step("record", steps.record),
    )


class _End:
    def __init__(self, parts: Parts, register: Register) -> None:
        self._p = parts
        self._register = register
        self._system = Stream(parts.settings.env, domain="system")

    async def _later(self, day: date) -> str:
        """The day that has taken over, if one has."""
        others = [d for d in await self._register.open() if d.day > day.isoformat() and d.phase == "start"]
        return others[-1].day if others else ""

    async def stop(self, work: Work) -> Result:
        """No new frames of the day: the connector stops, or has gone on to another day."""
        if later := await self._later(work.day):
            return {"skipped": f"the connector goes on for {later}", "later": later}
        stopped = await self._p.processes.stop(*self._p.names("connector"), "sim") if self._p.processes else []
        return {"stopped": ", ".join(stopped) or "nothing was running"}

    async def drain(self, work: Work) -> Result:
        """Everything of the day is folded, and its digests are journalled."""
        from ssmd.services.projector import Projector

        streams = await captured_streams(self._p.journal, self._p.settings)
        if await self._handed_over(work):
            await self._until(work, lambda: self._closed(streams, work.day), "the day's closing checkpoints")
        else:
            if self._p.processes:
                await self._p.processes.stop(*self._p.names("projector"))
            for stream in streams:
                if await self._info(stream):
                    projector = Projector(self._p.journal, self._p.storage, stream, self._p.clock)
                    await beating(work, projector.catch_up(), lambda p=projector: f"{p.stream.name}: folded to {p.position}")  # type: ignore[misc]
        found = [e for s in streams if (e := await self._bounds(s, work.day)).entries or s in self._p.streams]
        system = await self._info(self._system)
        return {"entries": sum(e.entries for e in found), "streams": as_result(found), "system": system.last if system else 0}

    async def _bounds(self, stream: Stream, day: date) -> Extent:
        return await bounds(self._p.journal, Calendar(self._p.settings.environment.schedule), stream, day)

    async def _handed_over(self, work: Work) -> bool:
        """Whether the processes are another day's, and kept by this runner. Where they are nobody's, the work is done here."""
        return self._p.processes is not None and bool(await self._later(work.day))

    async def _closed(self, streams: Sequence[Stream], day: date) -> bool:
        """Whether each of them has gone on to another day, and every projection has closed this one."""
        from projections.registry import create
        from replay.ledger import Ledger
        from replay.source import JournalSource

        for stream in streams:
            ledger = await Ledger.read(JournalSource(self._p.journal), stream)
            if to_int(day) not in ledger.closed(create()) and (stream in self._p.streams or (await self._bounds(stream, day)).entries):
                return False
        return True

    async def flush(self, work: Work) -> Result:
        """Everything of the day is archived, and of the system stream up to its digests."""
        from ssmd.locks import archiver_lock, held
        from ssmd.services.archiver import Archiver
        from ssmd.software import software

        settings, clock, extents = self._p.settings, self._p.clock, of_results(work.done)
        if await self._handed_over(work):
            wanted = {e.stream: e.last for e in extents if e.entries} | {self._system: int(work.done["drain"]["system"])}
            await self._until(work, lambda: self._archived(wanted), "the archiver")
        else:
            if self._p.processes:
                await self._p.processes.stop("archiver")
            lock = archiver_lock(settings.data_dir, settings.env)
            async with held(lock, clock, waiting=lambda: work.beat("another archiver or an import is at work")):
                archiver = Archiver(self._p.journal, self._p.storage, settings.env, clock, software=software())
                await beating(work, archiver.catch_up(), lambda: f"{sum(s.object_bytes for s in archiver.status())} bytes")
        objects = 0
        for found in extents:
            manifest = await asyncio.to_thread(find_manifest, self._p.storage, found.stream, to_int(work.day))
            objects += sum(len(s.objects) for s in manifest[1].of_stream(found.stream.name)) if manifest else 0
        return {"objects": objects}

    async def _archived(self, wanted: dict[Stream, int]) -> bool:
        for stream, last in wanted.items():
            known = await asyncio.to_thread(segments_of, self._p.storage, stream)
            if last and (not known or known[-1].ref.last < last):
                return False
        return True

    async def verify(self, work: Work) -> Result:
        from ssmd.day.verifying import verify_day

        return await verify_day(self._p, work)

    async def record(self, work: Work) -> Result:
        from ssmd.day.record import write_record

        return await write_record(self._p, work)

    async def _info(self, stream: Stream) -> StreamInfo | None:
        return await self._p.journal.info(stream)

    async def _until(self, work: Work, done: Callable[[], object], what: str) -> None:
        """Wait for `what`; the step's quiet time bounds it while nothing moves."""
        seen = -1
        while not await done():  # type: ignore[misc]
            if self._p.processes and self._p.processes.failed.done():
                raise CallerError(str(self._p.processes.failed.result()))
            system = await self._info(self._system)
            if system and system.last != seen:
                seen = system.last
                work.beat(f"waiting for {what}")
            await self._p.clock.sleep(_POLL_S)


async def beating(work: Work, doing: object, text: Callable[[], str]) -> None:
    """Await `doing`, and tell that it lives while what `text` says changes."""
    task = asyncio.ensure_future(doing)  # type: ignore[call-overload]
    told = ""
    try:
        while not task.done():
            await asyncio.wait([task], timeout=1.0)
            if (now := text()) != told:
                told = now
                work.beat(now)
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
