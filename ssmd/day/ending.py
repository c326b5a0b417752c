"""The steps that end a day. What another day still needs goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import date

from journal.archive import ArchiveReader, find_manifest, segments_of
from journal.day import to_int
from journal.errors import BadObject, CallerError, CorruptionError, HoleInStream, NothingToVerify
from journal.protocols import StreamInfo
from journal.subjects import Stream
from ssmd.day.activity import Finding, Result, Step, Work
from ssmd.day.register import Register
from ssmd.day.starting import Parts, bounds

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
        stopped = await self._p.processes.stop("connector", "sim") if self._p.processes else []
        return {"stopped": ", ".join(stopped) or "nothing was running"}

    async def drain(self, work: Work) -> Result:
        """Everything of the day is folded, and its digests are journalled."""
        from ssmd.services.projector import Projector

        if await self._handed_over(work):
            await self._until(work, lambda: self._closed(work.day), "the day's closing checkpoints")
        else:
            if self._p.processes:
                await self._p.processes.stop("projector")
            if await self._info(self._p.stream):
                projector = Projector(self._p.journal, self._p.storage, self._p.stream, self._p.clock)
                await _beating(work, projector.catch_up(), lambda: f"folded to {projector.position}")
        first, last = await bounds(self._p, work.day)
        system = await self._info(self._system)
        return {"first": first, "last": last, "entries": last - first + 1, "system": system.last if system else 0}

    async def _handed_over(self, work: Work) -> bool:
        """Whether the processes are another day's, and kept by this runner. Where they are nobody's, the work is done here."""
        return self._p.processes is not None and bool(await self._later(work.day))

    async def _closed(self, day: date) -> bool:
        from projections.registry import create
        from replay.ledger import Ledger
        from replay.source import JournalSource

        ledger = await Ledger.read(JournalSource(self._p.journal), self._p.stream)
        return to_int(day) in ledger.closed(create())

    async def flush(self, work: Work) -> Result:
        """Everything of the day is archived, and of the system stream up to its digests."""
        from ssmd.locks import archiver_lock, held
        from ssmd.services.archiver import Archiver
        from ssmd.software import software

        settings, clock = self._p.settings, self._p.clock
        if await self._handed_over(work):
            wanted = {self._p.stream: int(work.done["drain"]["last"]), self._system: int(work.done["drain"]["system"])}
            await self._until(work, lambda: self._archived(wanted), "the archiver")
        else:
            if self._p.processes:
                await self._p.processes.stop("archiver")
            lock = archiver_lock(settings.data_dir, settings.env)
            async with held(lock, clock, waiting=lambda: work.beat("another archiver or an import is at work")):
                archiver = Archiver(self._p.journal, self._p.storage, settings.env, clock, software=software())
                await _beating(work, archiver.catch_up(), lambda: f"{sum(s.object_bytes for s in archiver.status())} bytes")
        manifest = await asyncio.to_thread(find_manifest, self._p.storage, self._p.stream, to_int(work.day))
        return {"objects": sum(len(s.objects) for s in manifest[1].of_stream(self._p.stream.name))} if manifest else {"objects": 0}

    async def _archived(self, wanted: dict[Stream, int]) -> bool:
        for stream, last in wanted.items():
            known = await asyncio.to_thread(segments_of, self._p.storage, stream)
            if last and (not known or known[-1].ref.last < last):
                return False
        return True

    async def verify(self, work: Work) -> Result:
        """What is archived is what was journalled, object for object, and folds to the digests of the live run. Raises `Finding`."""
        if work.forced:
            return {"skipped": f"forced by {work.who}", "verified": False}
        first, last = int(work.done["drain"]["first"]), int(work.done["drain"]["last"])
        if last < first:
            return {"verified": True, "entries": 0, "digests": 0}
        try:
            return await self._verify(work, first, last)
        except (BadObject, HoleInStream) as error:
            raise Finding([str(error)]) from error

    async def _verify(self, work: Work, first: int, last: int) -> Result:
        from projections.registry import create
        from replay.engine import replay
        from replay.source import ArchiveSource

        stream, storage, day = self._p.stream, self._p.storage, to_int(work.day)
        segments = await asyncio.to_thread(segments_of, storage, stream, day)
        archived = [(s.ref.first, s.ref.last, s.ref.entries) for s in segments]
        findings = counted(stream, archived, first, last)
        source = ArchiveSource(ArchiveReader(storage, self._p.settings.env, self._p.clock))
        try:
            result = await replay(
                source, create(), day=day, stream=stream, clock=self._p.clock, storage=storage, verify=True,
                on_block=lambda block: work.beat(f"folded {len(block)} more"),
            )  # fmt: skip
        except NothingToVerify as error:
            raise Finding([*findings, str(error)]) from error
        verified = result.verify
        if verified is None:
            raise CorruptionError("a verification without a result")  # replay promises one
        findings += verified.differences
        if not findings and result.entries < last - first + 1:
            findings.append(f"the archive of {work.day} folds {result.entries} entries, the journal has {last - first + 1}")
        for other in await self._p.journal.streams(self._p.settings.env):
            if not other.is_market:
                work.beat(other.name)
                await asyncio.to_thread(segments_of, storage, other)  # raises HoleInStream
                await ArchiveReader(storage, self._p.settings.env).prove(other, day)
        if findings:
            raise Finding(findings)
        return {"verified": True, "entries": result.entries, "digests": verified.compared, "states": result.digests}

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


def counted(stream: Stream, archived: Sequence[tuple[int, int, int]], first: int, last: int) -> list[str]:
    """What is wrong with segments (first, last, entries) that should hold each of `first` to `last`, once. More at the end is late."""
    findings, following = [], first
    for start, end, entries in archived:
        if start != following:
            findings.append(f"{stream.name}: the archive goes on at {start}, and should at {following}")
        if entries != end - start + 1:
            findings.append(f"{stream.name}: the manifest counts {entries} entries from {start} to {end}, the journal {end - start + 1}")
        following = end + 1
    if following <= last:
        findings.append(f"{stream.name}: the archive of the day ends at {following - 1}, the journal's at {last}")
    return findings


async def _beating(work: Work, doing: object, text: Callable[[], str]) -> None:
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
