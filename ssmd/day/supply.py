"""What a day that nobody captured is made from: recordings, or the archive of another environment.

Either way the entries go into the shard `import`, whose days may come in any order. Their ids follow from the source alone, so that what
was brought twice, or in part before a kill, is there once.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple, Protocol

from journal.archive import ArchiveReader, segments_of
from journal.clock import Clock
from journal.day import iso, to_date, to_int
from journal.entry import Control, Entry, Record
from journal.errors import CallerError, NotFound
from journal.protocols import MAX_BATCH, Fence, Journal, Storage
from journal.subjects import Stream
from ssmd.day.activity import Result, Work
from ssmd.day.record import archived_streams
from ssmd.settings import IMPORT, Settings
from ssmd.wiring import day_rule, open_objects

_MOST_DAYS = 4_000  # that recordings are said to have
_BATCH_BYTES = 8 << 20  # of frames in one append
_TURN = 5_000  # lines between signs of life


class Supply(Protocol):
    """`facts` are what the history says of it, from which `open_supply` makes it again."""

    facts: dict[str, str]

    async def check(self, work: Work) -> Result:
        """That it has the day and fits the environment. Raises `NotFound` with near days, `CallerError`, `StoreError`."""
        ...

    async def bring(self, journal: Journal, work: Work) -> Result:
        """Append what is not there yet. Killed at any point, it goes on when called again."""
        ...


def open_supply(settings: Settings, clock: Clock, facts: Mapping[str, str]) -> Supply:
    """Raises `CallerError` where they name nothing that can be read."""
    if path := facts.get("recording"):
        return Recordings(settings, clock, Path(path))
    return Archive(settings, clock, facts.get("environment", ""), facts.get("storage", ""))


class Recordings:
    """A file or a folder of them. They are imported whole: a recording is known by its content, not by a part of it."""

    def __init__(self, settings: Settings, clock: Clock, path: Path) -> None:
        self._settings = settings
        self._clock = clock
        self._path = path.absolute()
        self.facts = {"recording": str(self._path)}

    async def check(self, work: Work) -> Result:
        from ssmd.recordings import examine, find, merged

        days = day_rule(self._settings)
        wanted, seen = to_int(work.day), set[int]()

        def look() -> int:
            recordings = []
            for file in find([self._path]):
                work.beat(f"reading {file.name}")
                recordings.append(examine(file, lambda _: work.beat()))
            for n, line in enumerate(merged(recordings)):
                if n % _TURN == 0:
                    work.beat()
                day = days.day_of(line.order_ns)
                if day == wanted:
                    return len(recordings)
                if len(seen) < _MOST_DAYS:
                    seen.add(day)
            raise NotFound("recorded day", work.day.isoformat(), _near(seen, work.day))

        return {"files": await asyncio.to_thread(look), **self.facts}

    async def bring(self, journal: Journal, work: Work) -> Result:
        from exchanges.venues import load
        from ssmd import venues
        from ssmd.importer import Importer
        from ssmd.importing import check
        from ssmd.locks import held, import_lock

        settings, meter = self._settings, _Beats(work)
        adapter = load(venues.adapter_of(settings.project.feeds.read(settings.feed).venue).adapter)
        async with held(import_lock(settings.data_dir), self._clock, waiting=lambda: work.beat("another import is running here")):
            importer = Importer(
                journal, self._clock, random.SystemRandom(), env=settings.env, feed=settings.feed, days=day_rule(settings),
                adapters=lambda: adapter(filtered=True), advance=meter.advance,
            )  # fmt: skip
            recordings = await asyncio.to_thread(check, [self._path], meter)
            report = await importer.run(recordings)
        others = sorted(report.days - {to_int(work.day)})
        found = {"appended": report.entries, "frames": report.frames, "already_there": report.duplicates, "unparsed": report.unparsed}
        return found | ({"other_days": ", ".join(map(iso, others[:10]))} if others else {})


class Archive:
    """The archive of environment `env`, in the storage it names or in `storage`: its captured shards, else its imports.

    Left out are leases, which are of writers and not of the market, and all but the first ``day_opened``, for it is one day.
    """

    def __init__(self, settings: Settings, clock: Clock, env: str, storage: str) -> None:
        other = _other(settings, env, storage)
        self._settings = settings
        self._clock = clock
        self._env = env
        self._storage: Storage = open_objects(other)
        self._place = other.storage
        self.facts = {"environment": env} | ({"storage": other.storage_url} if storage else {})
        if env == settings.env and other.storage == settings.storage:
            raise CallerError(f"{env} at {other.storage} is this environment's own archive; name another environment or storage")

    async def check(self, work: Work) -> Result:
        streams = await self._streams(work.day)
        if not streams:
            raise NotFound(f"archived day of {self._env} at {self._place}", work.day.isoformat(), await self._nearest(work.day))
        days, entries, feeds = day_rule(self._settings), 0, set[str]()
        for stream in streams:
            for folder, ref in await asyncio.to_thread(segments_of, self._storage, stream, to_int(work.day)):
                entries += ref.entries
                feeds.add(folder.split("/")[1])
                for at_ns in (ref.min_effective_ns, ref.max_effective_ns):
                    if days.day_of(at_ns) != to_int(work.day):
                        raise CallerError(
                            f"{self._env} has an entry of {work.day} that is of {iso(days.day_of(at_ns))} by the schedule of "
                            f"{self._settings.env}: give both the same timezone and day_start"
                        )
        if feeds != {self._settings.feed}:
            raise CallerError(
                f"{self._env} captured {', '.join(sorted(feeds))} that day, and {self._settings.env} is of {self._settings.feed}"
            )
        return {"streams_of_source": ", ".join(s.name for s in streams), "entries_of_source": entries, **self.facts}

    async def _streams(self, day: date) -> list[Stream]:
        found = await asyncio.to_thread(archived_streams, self._storage, self._env, to_int(day))
        return [s for s in found if s.shard != IMPORT] or found

    async def _nearest(self, day: date) -> list[str]:
        reader, days = ArchiveReader(self._storage, self._env), set[int]()
        for stream in await reader.streams(self._env):
            if stream.is_market:
                days.update(await reader.days(stream))
        return _near(days, day)

    async def bring(self, journal: Journal, work: Work) -> Result:
        from ssmd.locks import held, import_lock

        async with held(import_lock(self._settings.data_dir), self._clock, waiting=lambda: work.beat("another import is running here")):
            return await self._copy(journal, work)

    async def _copy(self, journal: Journal, work: Work) -> Result:
        stream, feed, day = Stream(self._settings.env, shard=IMPORT), self._settings.feed, to_int(work.day)
        await journal.ensure(stream, feed)
        before = await journal.info(stream)
        fence: Fence | None = None
        batch: list[Entry] = []
        copied, size, opened = 0, 0, False
        async for record in merged_records(self._storage, await self._streams(work.day), day):
            entry = record.entry
            body = entry.body
            if isinstance(body, Control) and (body.action == "lease" or (body.action == "day_opened" and opened)):
                continue
            if isinstance(body, Control) and body.action == "day_opened":
                opened = True
                await self._alone(journal, stream, entry)
            fence = fence or await self._lease(journal, stream, entry)
            if len(batch) == MAX_BATCH or size > _BATCH_BYTES:
                await journal.append(stream, batch, fence)
                size = 0
                batch.clear()
                work.beat(f"{copied} entries")
            batch.append(entry)
            copied, size = copied + 1, size + len(entry.raw)
        if batch:
            await journal.append(stream, batch, fence)
        now = await journal.info(stream)
        appended = (now.last if now else 0) - (before.last if before else 0) - 1  # without our lease
        return {"appended": max(0, appended), "entries": copied, "already_there": max(0, copied - appended)}

    async def _alone(self, journal: Journal, stream: Stream, entry: Entry) -> None:
        """Raise `CallerError` when the day is there from somewhere else: two captures of one day are not one day."""
        known = await journal.last(stream, stream.subject(entry.feed, "control", f"day-{iso(entry.day)}"))
        if known and known.entry.id != entry.id:
            raise CallerError(
                f"{stream.name} has {iso(entry.day)} from another source already (at {known.sequence}); "
                "start it with --from and those recordings"
            )

    async def _lease(self, journal: Journal, stream: Stream, first: Entry) -> Fence:
        from journal.entry import control

        epoch = random.SystemRandom().randbytes(16)
        body, at_ns = control("lease", {"writer": IMPORT}), first.effective_ns
        return await journal.lease(stream, Entry(body, first.feed, f"writer-{IMPORT}", epoch, 0, at_ns, 0, at_ns, first.day))


class _Head(NamedTuple):
    at_ns: int
    number: int
    sequence: int
    record: Record


async def merged_records(storage: Storage, streams: Sequence[Stream], day: int) -> AsyncIterator[Record]:
    """The records of `day` of several streams by (effective time, stream, sequence), each stream in its own order."""
    reads = [_records(storage, stream, day) for stream in streams]
    heap: list[_Head] = []
    latest = [0] * len(reads)  # effective times of an import may go back

    async def push(number: int) -> None:
        async for record in reads[number]:
            latest[number] = max(latest[number], record.entry.effective_ns)
            heapq.heappush(heap, _Head(latest[number], number, record.sequence, record))
            return

    for number in range(len(reads)):
        await push(number)
    while heap:
        head = heapq.heappop(heap)
        yield head.record
        await push(head.number)


async def _records(storage: Storage, stream: Stream, day: int) -> AsyncIterator[Record]:
    reader = ArchiveReader(storage, stream.env)
    segments = await asyncio.to_thread(segments_of, storage, stream, day)
    for _, ref in segments:
        async for records in reader.read(stream, start=ref.first, end=ref.last):
            for record in records:
                yield record


def _other(settings: Settings, env: str, storage: str) -> Settings:
    """The other environment's settings, as far as its objects need them. Raises `CallerError`."""
    from journal.subjects import check_name

    check_name("env", env)
    if storage:
        if "://" not in storage:
            storage = str(Path(storage).absolute())
        elif "@" in storage:
            raise CallerError(
                "--from-storage: no user or password is written into it; S3's are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return replace(settings, env=env, storage_url=storage)
    known = settings.project.environments.names()
    if env not in known:
        raise CallerError(f"no environment {env!r}; known: {', '.join(known)}; of one elsewhere also give --from-storage URL")
    return replace(settings, env=env, environment=settings.project.environments.read(env))


def _near(days: set[int], day: date) -> list[str]:
    return [iso(d) for d in sorted(sorted(days, key=lambda d: abs((to_date(d) - day).days))[:5])]


class _Beats:
    """A meter whose every unit says that the step lives."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def stage(self, name: str, total: int) -> None:
        del total
        self._work.beat(name)

    def advance(self, units: int) -> None:
        del units
        self._work.beat()
