"""Reading the archive: what manifests name, with every object's hash checked before a byte of it is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from journal import manifest as manifests
from journal.block import Block
from journal.clock import Clock
from journal.codec import body_kind_name
from journal.entry import Record
from journal.errors import BadObject, CallerError, HoleInStream, NotFound
from journal.manifest import Manifest, ObjectRef, SegmentRef, date_name
from journal.protocols import MAX_BATCH, Keeper, Storage, StreamInfo
from journal.segment import Segment, cut, read_raw
from journal.subjects import Stream, matches

# Manifests of one stream are read side by side: a year of days would take a minute one by one from S3.
_READERS = 8
# A tail that grows while we read is looked up again; each time we get further, so more tries in vain than this are no race.
_TRIES = 5
_POLL_S = 1.0


class Located(NamedTuple):
    """A segment and the folder whose manifest names it."""

    folder: str
    ref: SegmentRef


class ArchiveReader:
    """A `JournalReader` over the archive of `env`. Reads skip what was never archived; nothing here writes.

    `follow` looks again every second and needs the clock.
    """

    def __init__(self, storage: Storage, env: str, clock: Clock | None = None) -> None:
        self._storage = storage
        self._env = env
        self._clock = clock

    async def blocks(
        self,
        stream: Stream,
        *,
        day: int | None = None,
        start: int = 1,
        end: int | None = None,
        symbols: Collection[str] | None = None,
    ) -> AsyncIterator[Block]:
        """Columns, without raw bytes, in order, of one `day` or of all. With `symbols`, see `Segment.blocks`.

        Raises `NotFound` with the nearest days, and `BadObject` for an object that is not what the manifest says.
        """
        if day is not None:
            await self.manifest(stream, day)
        async with aclosing(self._load(stream, day, start, end, symbols, raw=False)) as loads:
            async for loaded in loads:
                for block in loaded:
                    yield block

    async def read(
        self,
        stream: Stream,
        *,
        start: int = 1,
        end: int | None = None,
        subjects: Sequence[str] = (),
        follow: bool = False,
    ) -> AsyncIterator[list[Record]]:
        """As the journal held them: raw bytes and hashes are joined back."""
        if follow and self._clock is None:
            raise CallerError("this archive reader has no clock to follow with; follow the journal")
        at = start
        while True:
            async with aclosing(self._load(stream, None, at, end, None, raw=True)) as loads:
                async for loaded in loads:
                    for block in loaded:
                        at = block.last + 1
                        records = list(block.records())
                        if subjects:
                            records = [r for r in records if _wanted(stream, r, subjects)]
                        if records:
                            yield records
            if not follow or (end is not None and at > end):
                return
            assert self._clock is not None  # noqa: S101  checked above
            await self._clock.sleep(_POLL_S)

    async def info(self, stream: Stream) -> StreamInfo | None:
        known = await asyncio.to_thread(segments_of, self._storage, stream)
        if not known:
            return None
        size = sum(o.bytes for s in known for o in s.ref.objects)
        return StreamInfo(stream, known[0].ref.first, known[-1].ref.last, size)

    async def streams(self, env: str) -> list[Stream]:
        return await asyncio.to_thread(streams_of, self._storage, env)

    async def last(self, stream: Stream, subject: str) -> Record | None:
        pattern = {"*", ">"} & set(subject.split("."))
        symbols = None if pattern else [stream.symbol(subject)]
        for located in reversed(await asyncio.to_thread(segments_of, self._storage, stream)):
            for block in reversed(await self._begin(located.ref, 1, None, symbols, raw=False)):
                numbers = [n for n, s in enumerate(block.symbols) if symbols is None or s in symbols]
                for index in np.flatnonzero(np.isin(block.rows["symbol"], numbers))[::-1].tolist():
                    record = Record(int(block.rows["sequence"][index]), block.entry(index))
                    if _wanted(stream, record, [subject]):
                        whole = [r async for chunk in self.read(stream, start=record.sequence, end=record.sequence) for r in chunk]
                        return whole[0]  # with its raw bytes
        return None

    async def seek(self, stream: Stream, effective_ns: int) -> int:
        known = await asyncio.to_thread(segments_of, self._storage, stream)
        low, high = 0, len(known)
        while low < high:
            middle = (low + high) // 2
            if known[middle].ref.max_effective_ns > effective_ns:
                high = middle
            else:
                low = middle + 1
        if low == len(known):
            return known[-1].ref.last + 1 if known else 1
        ref = known[low].ref
        for block in await self._begin(ref, 1, None, None, raw=False):
            times = block.rows["effective_ns"]
            if times[-1] > effective_ns:
                return int(block.rows["sequence"][np.searchsorted(times, effective_ns, "right")])
        return ref.last + 1

    async def close(self) -> None:
        return None

    async def prove(self, stream: Stream, day: int) -> None:
        """Raise `BadObject` unless the raw objects of `day`, which no block is made of, are what the manifest says."""
        gone = None
        for _ in range(_TRIES):  # the tail may be replaced while we read
            try:
                for _, ref in await asyncio.to_thread(segments_of, self._storage, stream, day):
                    if ref.raw:
                        await asyncio.to_thread(fetch, self._storage, ref.raw)
            except NotFound as error:
                gone = error
            else:
                return
        if gone:
            raise _gone(gone) from gone

    async def days(self, stream: Stream) -> list[int]:
        """Days with entries of the stream, ascending."""
        known = await asyncio.to_thread(segments_of, self._storage, stream)
        return sorted({int(s.folder.rpartition("/")[2].replace("-", "")) for s in known})

    async def manifest(self, stream: Stream, day: int) -> Manifest:
        """The manifest that holds the stream's part of `day`. Raises `NotFound` with the nearest days, or streams."""
        if found := await asyncio.to_thread(find_manifest, self._storage, stream, day):
            return found[1]
        if days := await self.days(stream):
            near = sorted(days, key=lambda d: abs(d - day))[:5]
            raise NotFound(f"archived day of {stream.name}", date_name(day), [date_name(d) for d in sorted(near)])
        raise NotFound("archived stream", stream.name, [s.name for s in await self.streams(stream.env)])

    async def _load(
        self, stream: Stream, day: int | None, start: int, end: int | None, symbols: Collection[str] | None, *, raw: bool
    ) -> AsyncGenerator[list[Block], None]:
        """The blocks of each segment; the next segment is read and decompressed in a thread while this one is used."""
        at, tries = start, 0
        while True:
            known = await asyncio.to_thread(segments_of, self._storage, stream, day)
            wanted = [s for s in known if s.ref.last >= at and (end is None or s.ref.first <= end)]
            pending: asyncio.Future[list[Block]] | None = None
            try:
                for index in range(len(wanted)):
                    load = pending or self._begin(wanted[index].ref, at, end, symbols, raw=raw)
                    pending = None
                    loaded = await load
                    if index + 1 < len(wanted):
                        pending = self._begin(wanted[index + 1].ref, at, end, symbols, raw=raw)
                    at, tries = wanted[index].ref.last + 1, 0
                    if loaded:
                        yield loaded
            except NotFound as error:  # the tail was replaced since we read the manifest
                tries += 1
                if tries == _TRIES:
                    raise _gone(error) from error
            else:
                return
            finally:
                if pending:
                    with suppress(Exception):
                        await pending

    def _begin(
        self, ref: SegmentRef, start: int, end: int | None, symbols: Collection[str] | None, *, raw: bool
    ) -> asyncio.Future[list[Block]]:
        return asyncio.ensure_future(asyncio.to_thread(self._blocks, ref, start, end, symbols, raw=raw))

    def _blocks(self, ref: SegmentRef, start: int, end: int | None, symbols: Collection[str] | None, *, raw: bool) -> list[Block]:
        try:
            segment = Segment(fetch(self._storage, ref.norm))
            _check(segment, ref)
            if not raw:
                return list(segment.blocks(start=start, end=end, symbols=symbols))
            return list(_joined(segment, fetch(self._storage, ref.raw) if ref.raw else b"", start, end))
        except BadObject as error:
            if ref.norm.key in str(error) or (ref.raw and ref.raw.key in str(error)):
                raise
            raise BadObject(f"{ref.norm.key}: {error}") from error


def _gone(error: NotFound) -> BadObject:
    return BadObject(f"{error}, yet a manifest names it; restore the object or archive the day again")


def _check(segment: Segment, ref: SegmentRef) -> None:
    """Raise `BadObject` for a manifest that was changed: it must say of a segment what the segment says of itself."""
    infos = segment.infos
    told = (ref.stream, ref.first, ref.last, ref.entries, ref.min_effective_ns, ref.max_effective_ns)
    rows, least, most = int(infos["rows"].sum()), int(infos["min_effective_ns"].min()), int(infos["max_effective_ns"].max())
    found = (segment.stream, int(infos["first"][0]), int(infos["last"][-1]), rows, least, most)
    if found != told or (ref.raw_bytes and not ref.raw):
        raise BadObject(
            f"the manifest that names {ref.norm.key} was changed: it says {told} (stream, first, last, entries, effective times)"
            f"{' and no raw object' if not ref.raw else ''}, the segment says {found}; restore the manifest from a copy"
        )


def _joined(segment: Segment, raw: bytes, start: int, end: int | None) -> Iterator[Block]:
    """Blocks with their raw bytes. Hashes need the rows before them, so whole blocks are joined and then cut."""
    lines = read_raw(raw) if raw else iter(())
    line = next(lines, None)
    for block in segment.blocks():
        raws = []
        for sequence in block.rows["sequence"].tolist():
            if line is not None and line.sequence == sequence:
                raws.append(line.raw)
                line = next(lines, None)
            else:
                raws.append(b"")
        block.raws = raws
        block.hashes = block.raw_hashes()
        if len(within := cut(block, start, end)):
            yield within


def _wanted(stream: Stream, record: Record, subjects: Sequence[str]) -> bool:
    entry = record.entry
    subject = stream.subject(entry.feed, body_kind_name(entry.body), entry.symbol)
    return any(matches(pattern, subject) for pattern in subjects)


def fetch(storage: Storage, ref: ObjectRef) -> bytes:
    """The object, if it is what the manifest says. Raises `BadObject` naming it, `NotFound` when it is gone."""
    data = storage.get(ref.key)
    if sha256(data).hexdigest() != ref.sha256:
        raise BadObject(
            f"{ref.key} is not what its manifest says: SHA-256 {sha256(data).hexdigest()} of {len(data)} bytes, not {ref.sha256} of "
            f"{ref.bytes}; restore it from a copy, or delete the day and archive it again from the journal"
        )
    return data


def segments_of(storage: Storage, stream: Stream, day: int | None = None, *, whole: bool = True) -> list[Located]:
    """The stream's segments in order, over all days or of one. If they are to be `whole`, raises `HoleInStream` when one is missing
    between others.
    """
    for _ in range(_TRIES):  # a day may end between our reads of two manifests
        located = _look(storage, stream, day)
        hole = next((two for two in pairwise(located) if two[0].ref.last + 1 != two[1].ref.first), None)
        if not hole or day is not None or not whole:
            return located
    before, after = hole  # type: ignore[misc]
    raise HoleInStream(
        f"the archive of {stream.name} goes from {before.ref.last} (in {manifests.manifest_key(before.folder)}) to {after.ref.first} (in "
        f"{manifests.manifest_key(after.folder)}): a manifest was changed or deleted; restore it from a copy"
    )


def _look(storage: Storage, stream: Stream, day: int | None) -> list[Located]:
    folders = [
        f"{root}/{date}" for root in _roots(storage, stream) for date in ([date_name(day)] if day is not None else storage.folders(root))
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        found = zip(folders, pool.map(lambda f: _manifest(storage, f), folders), strict=True)
        located = [Located(folder, ref) for folder, m in found if m for ref in m.of_stream(stream.name)]
    return sorted(located, key=lambda s: s.ref.first)


def find_manifest(storage: Storage, stream: Stream, day: int) -> tuple[str, Manifest] | None:
    """Folder and manifest of the stream's part of `day`."""
    for root in _roots(storage, stream):
        folder = f"{root}/{date_name(day)}"
        found = _manifest(storage, folder)
        if found and found.of_stream(stream.name):
            return folder, found
    return None


def streams_of(storage: Storage, env: str) -> list[Stream]:
    """Streams that have an archive, by name."""
    names = set(storage.folders(f"{env}/_domain"))
    for feed in _feeds(storage, env):
        for date in storage.folders(f"{env}/{feed}"):
            if m := _manifest(storage, f"{env}/{feed}/{date}"):
                names.update(s.stream for s in m.ranges)
    return [Stream.parse(name) for name in sorted(names)]


def _feeds(storage: Storage, env: str) -> list[str]:
    return [f for f in storage.folders(env) if not f.startswith("_")]


def _roots(storage: Storage, stream: Stream) -> list[str]:
    if not stream.is_market:
        return [manifests.root(stream)]
    return [f"{stream.env}/{feed}" for feed in _feeds(storage, stream.env)]


def _manifest(storage: Storage, folder: str) -> Manifest | None:
    key = manifests.manifest_key(folder)
    try:
        data = storage.get(key)
    except NotFound:
        return None
    return manifests.decode(data, key)


async def rebuild(reader: ArchiveReader, journal: Keeper, stream: Stream, feed: str = "") -> int:
    """Append the archived entries to a journal, in order; how many. Idempotent, so it may be run again after a failure.

    Entries are stored byte for byte as they were, with their old sequences where the journal has nothing of the stream yet.
    """
    await journal.ensure(stream, feed)
    archived, present = await reader.info(stream), await journal.info(stream)
    if archived and present and present.last < present.first:
        await journal.purge(stream, archived.first)  # the days before were torn down
    total = 0
    async for records in reader.read(stream):
        for at in range(0, len(records), MAX_BATCH):
            entries = [r.entry for r in records[at : at + MAX_BATCH]]
            await journal.append(stream, entries)
            total += len(entries)
    return total
