"""A journal and an object storage in memory: real ones, with real conflicts, for tests and one-process runs."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from journal.batch import distinct_subjects, subject_of
from journal.codec import encode
from journal.entry import Entry, Event, Record
from journal.errors import CallerError, EntryTooLarge, Fenced, HoleInStream, IdConflict, NotFound, Superseded
from journal.protocols import MAX_BATCH, Fence, ObjectInfo, StreamInfo
from journal.streams import Change
from journal.subjects import Stream, check_key, matches

READ_CHUNK = 512


# In place of sequences that a stream went past without an entry.
_NEVER = Record(0, Entry(Event(""), "", "", b"", 0, 0, 0, 0, 0))


@dataclass
class _Log:
    records: list[Record] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    ids: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)  # subject -> sequence
    size: int = 0  # bytes
    first: int = 1  # lowest sequence that was not purged
    followers: int = 0
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, subject: str, entry: Entry, payload: bytes) -> int:
        sequence = len(self.records) + 1
        self.records.append(Record(sequence, entry))
        self.subjects.append(subject)
        self.ids[entry.id] = (sequence, payload)
        self.newest[subject] = sequence
        self.size += len(payload)
        self.grew.set()
        self.grew = asyncio.Event()
        return sequence

    def forget(self, first: int) -> None:
        """Purge what is before `first`; an emptied stream goes on there."""
        for sequence, entry in self.records[self.first - 1 : first - 1]:
            if sequence:
                self.size -= len(self.ids.pop(entry.id)[1])
        missing = first - 1 - len(self.records)
        self.records += [_NEVER] * missing
        self.subjects += [""] * missing
        self.newest = {subject: sequence for subject, sequence in self.newest.items() if sequence >= first}
        self.first = max(self.first, first)


class MemoryJournal:
    """Keeps entries as objects; unbounded, so for bounded runs only. One event loop."""

    def __init__(self, *, max_entry_bytes: int = 1 << 20) -> None:
        self._max_entry_bytes = max_entry_bytes
        self._logs: dict[Stream, _Log] = {}
        self._created = asyncio.Event()

    async def ensure(self, stream: Stream, feed: str = "") -> None:
        del feed
        if stream not in self._logs:
            self._logs[stream] = _Log()
            self._created.set()
            self._created = asyncio.Event()

    def _opened(self, stream: Stream, entries: Sequence[Entry]) -> tuple[_Log, list[bytes]]:
        """The stream's log and the entries encoded, if they may be appended."""
        if len(entries) > MAX_BATCH:
            raise CallerError(f"{len(entries)} entries in one append; at most {MAX_BATCH}")
        payloads = [encode(e) for e in entries]
        for entry, payload in zip(entries, payloads, strict=True):
            if len(payload) > self._max_entry_bytes:
                raise EntryTooLarge(f"entry {entry.id} is {len(payload)} bytes; at most {self._max_entry_bytes}")
        log = self._logs.get(stream)
        if log is None:
            raise CallerError(f"stream {stream.name} does not exist; create it with ensure()")
        return log, payloads

    async def append_if(self, stream: Stream, entries: Sequence[Entry], newest: Sequence[int]) -> list[int]:
        log, payloads = self._opened(stream, entries)
        subjects = distinct_subjects(stream, entries, newest)
        if not entries:
            return []
        first, _ = log.ids.get(entries[0].id, (0, b""))
        stored = [(first + n, p) for n, p in enumerate(payloads)] == [log.ids.get(e.id) for e in entries]
        if stored and first > newest[0] and subjects[0] not in log.subjects[newest[0] : first - 1]:
            return [first + n for n in range(len(entries))]
        for subject, sequence in zip(subjects, newest, strict=True):
            if log.newest.get(subject, 0) != sequence:
                raise Superseded(subject)
        if known := next((e for e in entries if e.id in log.ids), None):
            raise IdConflict(f"entry {known.id} is already at {stream.name}:{log.ids[known.id][0]}, where this append does not expect it")
        return [log.add(*added) for added in zip(subjects, entries, payloads, strict=True)]

    async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
        log, payloads = self._opened(stream, entries)
        if not entries:
            return []
        if fence and (newest := log.newest.get(fence.subject, 0)) != fence.sequence:
            successor = log.records[newest - 1].entry if newest else None
            detail = getattr(successor.body, "detail", "") if successor else ""
            raise Fenced(f"writer {fence.writer} lost its lease on {stream.name} to {detail}", detail)
        positions: list[int] = []
        fresh: list[tuple[Entry, bytes]] = []
        seen: dict[str, tuple[int, bytes]] = {}
        for entry, payload in zip(entries, payloads, strict=True):
            known = log.ids.get(entry.id) or seen.get(entry.id)
            if known is None:
                known = (len(log.records) + len(fresh) + 1, payload)
                seen[entry.id] = known
                fresh.append((entry, payload))
            elif known[1] != payload:
                raise IdConflict(f"entry {entry.id} is already at {stream.name}:{known[0]} with other content")
            positions.append(known[0])
        for entry, payload in fresh:
            log.add(subject_of(stream, entry), entry, payload)
        return positions

    async def largest(self, stream: Stream) -> int:
        del stream
        return self._max_entry_bytes

    async def lease(self, stream: Stream, entry: Entry) -> Fence:
        (sequence,) = await self.append(stream, [entry])
        subject = subject_of(stream, entry)
        return Fence(entry.symbol.removeprefix("writer-"), subject, sequence)

    async def read(
        self,
        stream: Stream,
        *,
        start: int = 1,
        end: int | None = None,
        subjects: Sequence[str] = (),
        follow: bool = False,
    ) -> AsyncIterator[list[Record]]:
        wanted = _filter(subjects)
        while (log := self._logs.get(stream)) is None:
            if not follow:
                return
            await self._created.wait()
        at = max(start, 1)
        if not follow:
            end = min(len(log.records), end) if end is not None else len(log.records)
        at = _kept(stream, log, at, end, holes=wanted is not None)
        while end is None or at <= end:
            grew = log.grew
            stop = min(len(log.records), at + READ_CHUNK - 1, end if end is not None else 1 << 63)
            chunk = log.records[at - 1 : stop]
            if wanted:
                chunk = [r for r in chunk if wanted(log.subjects[r.sequence - 1])]
            at = max(stop + 1, at)
            if chunk:
                yield chunk
            if at > len(log.records):
                if not follow:
                    return
                log.followers += 1
                try:
                    await grew.wait()
                finally:
                    log.followers -= 1

    async def info(self, stream: Stream) -> StreamInfo | None:
        log = self._logs.get(stream)
        return StreamInfo(stream, log.first, len(log.records), log.size) if log else None

    async def streams(self, env: str) -> list[Stream]:
        return sorted((s for s in self._logs if s.env == env), key=lambda s: s.name)

    async def last(self, stream: Stream, subject: str) -> Record | None:
        log = self._logs.get(stream)
        if log is None:
            return None
        wanted = _filter([subject] if {"*", ">"} & set(subject.split(".")) else [])
        sequence = max((n for s, n in log.newest.items() if wanted(s)), default=0) if wanted else log.newest.get(subject, 0)
        return log.records[sequence - 1] if sequence >= log.first else None

    async def seek(self, stream: Stream, effective_ns: int) -> int:
        log = self._logs.get(stream)
        return 1 + bisect_left(log.records, effective_ns + 1, log.first - 1, key=lambda r: r.entry.effective_ns) if log else 1

    async def changes(self, stream: Stream, feed: str = "", *, max_bytes: int | None = None) -> list[Change] | None:
        del feed, max_bytes
        return [] if stream in self._logs else None

    async def update(self, stream: Stream, feed: str = "", *, max_bytes: int | None = None) -> None:
        del feed, max_bytes
        if stream not in self._logs:
            raise NotFound("stream", stream.name)

    async def delete(self, stream: Stream) -> None:
        self._logs.pop(stream, None)

    async def purge(self, stream: Stream, first: int) -> None:
        if log := self._logs.get(stream):
            log.forget(first)

    async def followers(self, stream: Stream) -> int:
        log = self._logs.get(stream)
        return log.followers if log else 0

    async def close(self) -> None:
        return None


def _kept(stream: Stream, log: _Log, at: int, end: int | None, *, holes: bool) -> int:
    """Where a read from `at` begins. Raises `HoleInStream` when what it begins with was purged, unless it takes holes."""
    if at < log.first and not holes and (end is None or at <= end):
        raise HoleInStream(f"{stream.name} begins at {log.first}; {at} is not there any more: read from {log.first}")
    return max(at, log.first)


def _filter(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    return (lambda subject: any(matches(p, subject) for p in patterns)) if patterns else None


class MemoryStorage:
    """Objects in a dict."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def exists(self) -> bool:
        return True

    def create(self) -> None:
        return None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        check_key(key)
        if if_absent and key in self._objects:
            return False
        self._objects[key] = bytes(data)
        return True

    def get(self, key: str) -> bytes:
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise NotFound("object", key, list(self._objects)) from None

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        return self.get(key)[offset : offset + size]

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [ObjectInfo(k, len(v)) for k, v in sorted(self._objects.items()) if k.startswith(prefix)]

    def folders(self, prefix: str) -> Sequence[str]:
        head = f"{prefix}/" if prefix else ""
        below = [k[len(head) :].partition("/") for k in list(self._objects) if k.startswith(head)]
        return sorted({name for name, slash, _ in below if slash})

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)
