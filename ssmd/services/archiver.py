"""The archiver: every stream of an environment, from the journal to object storage.

Its only state is in the manifests: started again at any instant it reads on from them and writes the same objects. For each segment it
puts the objects, reads them back, swaps the manifest, and deletes last what the manifest no longer names. It holds one segment a stream,
compressed as it grows, and reads no further while the storage is slow or away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from journal.archive import ArchiveReader, Located, segments_of
from journal.clock import Clock, pause
from journal.entry import Record
from journal.errors import BadObject, CorruptionError, HoleInStream, JournalUnavailable, NotFound, StorageError
from journal.manifest import ObjectRef, SegmentRef, decode, folder, manifest_key, new, object_key, object_prefix, segment_ref
from journal.protocols import JournalReader, Storage, StreamInfo
from journal.segment import LIMITS, GapNote, Limits, SegmentBuilder
from journal.subjects import Stream
from ssmd.services.closings import Closings

# How often new streams are looked for.
POLL_S = 1.0
# An open tail is written again this often: what a lost journal disk would cost. Its objects are at most a few MB.
FLUSH_S = 30.0
SYSTEM = "system"
# How many days of the system stream are read again at a start, for closing checkpoints whose manifests were not there yet.
_RECALLED_DAYS = 2
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 30.0


class StreamStatus(NamedTuple):
    """For a live table. `position` is the last sequence taken, `archived` the last one in a manifest, `last` the stream's own.

    `closed` is the last one in a segment that never changes: the journal may be purged up to it, and not beyond, because an open tail
    is read again from the journal after a restart.
    """

    stream: str
    position: int
    archived: int
    last: int
    object_bytes: int  # put since this archiver started
    error: str
    closed: int

    @property
    def lag(self) -> int:
        return max(0, self.last - self.archived)


@dataclass
class _Lane:
    """One stream being archived."""

    stream: Stream
    next: int
    # Guards the builder: held while records are taken and while a tail is flushed.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    builder: SegmentBuilder | None = None
    feed: str = ""
    day: int = 0
    archived: int = 0
    last: int = 0
    put_bytes: int = 0
    error: str = ""
    closed: int = 0
    before: tuple[str, SegmentRef] | None = None  # the folder and segment that this archiver closed last


class Archiver:
    """Archives all streams of `env`. One archiver an environment: a second one is noticed at a manifest swap, and refused."""

    def __init__(
        self,
        journal: JournalReader,
        storage: Storage,
        env: str,
        clock: Clock,
        *,
        flush_s: float = FLUSH_S,
        software: str = "",
        limits: Limits = LIMITS,
    ) -> None:
        self._journal = journal
        self._storage = storage
        self._env = env
        self._clock = clock
        self._flush_s = flush_s
        self._software = software
        self._limits = limits
        self._lanes: dict[Stream, _Lane] = {}
        self._closings = Closings(storage)
        self._swap = asyncio.Lock()  # streams of one feed share a manifest
        self._following = False
        self._stop = asyncio.Event()

    async def catch_up(self, until: Mapping[Stream, int] | None = None) -> None:
        """Archive every stream to its present end (or to its position in `until`; then only those), open tails included.

        Raises `StorageError` at the first failure; call again to go on.
        """
        for stream in await self._journal.streams(self._env) if until is None else until:
            lane = await self._lane(stream)
            async with lane.lock:
                async for records in self._journal.read(stream, start=lane.next, end=until[stream] if until else None):
                    await self._take(lane, records)
                lane.last = max(lane.last, lane.next - 1)
                await self._flush(lane)

    async def run(self) -> None:
        """Follow every stream, also those that appear later, until `stop` or cancellation; then write the open tails.

        A storage that fails or is full is tried again for ever, reading stops meanwhile; `status` says why. Corruption is raised.
        """
        self._following = True
        followers: dict[Stream, asyncio.Task[None]] = {}
        flushed_ns = self._clock.mono_ns()
        try:
            while not self._stop.is_set():
                with suppress(JournalUnavailable):  # the reads themselves survive it; look again next time
                    await self._look(followers)
                for task in followers.values():
                    if task.done():
                        task.result()
                if self._clock.mono_ns() - flushed_ns >= self._flush_s * 1e9:
                    flushed_ns = self._clock.mono_ns()
                    await self.flush()
                await pause(self._clock, POLL_S, self._stop)
        finally:
            self._following = False
            await self._end(followers)

    def stop(self) -> None:
        """Let `run` write what is open and return."""
        self._stop.set()

    async def flush(self) -> None:
        """Write the open tails that have grown."""
        for lane in list(self._lanes.values()):
            async with lane.lock:
                await self._flush(lane)

    def status(self) -> list[StreamStatus]:
        """One row a stream, by name."""
        rows = [StreamStatus(n.stream.name, n.next - 1, n.archived, n.last, n.put_bytes, n.error, n.closed) for n in self._lanes.values()]
        return sorted(rows)

    async def _look(self, followers: dict[Stream, asyncio.Task[None]]) -> None:
        for stream in await self._journal.streams(self._env):
            if stream not in followers:
                followers[stream] = asyncio.create_task(self._follow(stream), name=f"archive {stream.name}")
            info = await self._journal.info(stream)
            lane = self._lanes.get(stream)
            if info and lane:
                lane.last = info.last

    async def _follow(self, stream: Stream) -> None:
        while True:
            with suppress(JournalUnavailable):
                lane = await self._lane(stream)
                break
            await self._clock.sleep(POLL_S)
        async for records in self._journal.read(stream, start=lane.next, follow=True):
            async with lane.lock:
                await self._take(lane, records)

    async def _end(self, followers: dict[Stream, asyncio.Task[None]]) -> None:
        # A follower is cancelled only while it waits for records, never half-way through a segment.
        for stream, task in followers.items():
            lane = self._lanes.get(stream)
            async with lane.lock if lane else asyncio.Lock():
                task.cancel()
        ended = await asyncio.gather(*followers.values(), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        await self.flush()

    async def _lane(self, stream: Stream) -> _Lane:
        lane = self._lanes.get(stream)
        if lane is None:
            lane = self._lanes[stream] = await self._resume(stream)
        return lane

    async def _resume(self, stream: Stream) -> _Lane:
        """Read on behind the last closed segment. Removes what a crash left of the segment before."""
        known = await asyncio.to_thread(segments_of, self._storage, stream)
        info = await self._journal.info(stream)
        first = info.first if info else 1
        if not known:
            return _Lane(stream, first, archived=first - 1, closed=first - 1)
        where, last = known[-1]
        await self._compare(stream, last, info)
        await asyncio.to_thread(self._sweep, where, last)
        start = last.last + 1 if last.cut else last.first
        if first > start:
            raise HoleInStream(
                f"{stream.name} is archived to {start - 1} but begins at {first} in the journal: {first - start} entries were purged "
                "before they were archived; restore them from another copy, or move this archive away and start a new one"
            )
        lane = _Lane(stream, start, archived=last.last, closed=start - 1)
        if stream.domain == SYSTEM:
            await self._recall(stream, known)
        return lane

    async def _compare(self, stream: Stream, ref: SegmentRef, info: StreamInfo | None) -> None:
        """Raise `CorruptionError` when the journal is not the one that was archived: its entries would replace or hide older ones."""
        end = info.last if info else 0
        if end < ref.last:
            raise CorruptionError(
                f"{stream.name} is archived to {ref.last}, and ends at {end} in the journal: the journal was lost, cut or replaced; "
                "restore it, or move this archive away and start a new one"
            )
        theirs = [r async for rs in self._journal.read(stream, start=ref.last, end=ref.last, subjects=[">"]) for r in rs]
        ours: list[Record] = []
        with suppress(BadObject):  # a damaged tail is written again, a damaged segment is told by who reads it
            async for block in ArchiveReader(self._storage, self._env).blocks(stream, start=ref.last, end=ref.last):
                ours += block.records()
        for (_, mine), (_, other) in zip(ours, theirs, strict=False):  # it may have been purged since
            if (mine.id, mine.recv_ns) != (other.id, other.recv_ns):
                raise CorruptionError(
                    f"{stream.name}:{ref.last} is {other.id} in the journal and {mine.id} in the archive: the journal was replaced; "
                    "restore it, or move this archive away and start a new one"
                )

    async def _recall(self, stream: Stream, known: list[Located]) -> None:
        """Closing checkpoints of the last days may have been archived before the manifests of their days were there."""
        recent = sorted({s.folder for s in known})[-_RECALLED_DAYS:]
        first = min(s.ref.first for s in known if s.folder in recent)
        async for records in ArchiveReader(self._storage, self._env).read(stream, start=first):
            for record in records:
                self._closings.saw(record.entry)

    async def _take(self, lane: _Lane, records: list[Record]) -> None:
        if lane.builder is not None and lane.builder.full:  # closing it failed before
            await self._close(lane)
        market, system = lane.stream.is_market, lane.stream.domain == SYSTEM
        for record in records:
            entry = record.entry
            builder = lane.builder
            if builder is not None and (entry.day != lane.day or (market and entry.feed != lane.feed)):
                await self._close(lane, "day" if entry.day != lane.day else "feed")
                builder = None
            if builder is None:
                builder = lane.builder = SegmentBuilder(lane.stream.name, record.sequence, self._limits)
                lane.day, lane.feed = entry.day, entry.feed if market else ""
            builder.add(record)
            lane.next = record.sequence + 1
            if system:
                self._closings.saw(entry)
            if builder.full:
                await self._close(lane)

    async def _close(self, lane: _Lane, cut: str = "") -> None:
        await self._write(lane, cut)
        lane.builder = None

    async def _flush(self, lane: _Lane) -> None:
        """Write the open tail, if it has grown."""
        if lane.builder is None or lane.archived >= lane.next - 1:
            return
        await self._write(lane, "")
        if lane.builder.full:
            lane.builder = None

    async def _write(self, lane: _Lane, cut: str) -> None:
        """Write the lane's segment as it is. While following, a failing storage is tried again; nothing more is read meanwhile."""
        delay = _RETRY_FIRST_S
        while True:
            try:
                await self._write_once(lane, cut)
            except StorageError as error:
                lane.error = str(error)
                if not self._following or self._stop.is_set():
                    raise
            else:
                lane.error = ""
                return
            await pause(self._clock, delay, self._stop)
            delay = min(delay * 2, _RETRY_MOST_S)

    async def _write_once(self, lane: _Lane, cut: str) -> None:
        assert lane.builder is not None  # noqa: S101  callers have one
        where = folder(lane.stream, lane.feed, lane.day)
        built, summary = await asyncio.to_thread(lane.builder.build)
        cut = cut or lane.builder.full
        name = lane.stream.name
        put = asyncio.to_thread  # hashing 32 MB takes 20 ms
        norm = await put(self._put, object_key(where, "norm", name, summary.first, summary.last), built.norm)
        raw = await put(self._put, object_key(where, "raw", name, summary.first, summary.last), built.raw) if built.raw else None
        ref = segment_ref(summary, name, cut, norm, raw)
        async with self._swap:
            await asyncio.to_thread(self._closings.copy)
            await asyncio.to_thread(self._swap_manifest, lane, where, ref, summary.gaps)
        await asyncio.to_thread(self._sweep, where, ref)
        lane.archived = summary.last
        if cut:
            lane.closed, lane.before = summary.last, (where, ref)
        lane.put_bytes += sum(o.bytes for o in ref.objects)

    def _put(self, key: str, data: bytes) -> ObjectRef:
        self._storage.put(key, data)
        if self._storage.get(key) != data:
            raise StorageError(f"{key} reads back other than it was written; check the storage, nothing was deleted")
        return ObjectRef(key, len(data), sha256(data).hexdigest())

    def _swap_manifest(self, lane: _Lane, where: str, ref: SegmentRef, gaps: list[GapNote]) -> None:
        key = manifest_key(where)
        try:
            before = decode(self._storage.get(key), key)
        except NotFound:
            before = new(lane.stream, lane.feed, lane.day, self._software)
        if lane.before and lane.before[0] == where and lane.before[1] not in before.segments:
            raise StorageError(
                f"{key} no longer names {lane.before[1].norm.key}: another archiver serves {self._env} and overwrote it; stop one, then "
                "start the other again, which archives what is missing"
            )
        for other in before.of_stream(ref.stream):
            if other.first > ref.first or (other.first == ref.first and other.last > ref.last):
                raise StorageError(
                    f"{key} names {other.norm.key}, which this archiver did not write: another archiver serves {self._env}; stop one"
                )
        data = before.with_segment(ref, gaps, self._software).encode()
        self._storage.put(key, data)

    def _sweep(self, where: str, ref: SegmentRef) -> None:
        """Delete what `ref` replaced, and what a crash left behind of the same segment."""
        keep = {o.key for o in ref.objects}
        for kind in ("norm", "raw"):
            for found in self._storage.list(object_prefix(where, kind, ref.stream, ref.first)):
                if found.key not in keep:
                    self._storage.delete(found.key)
