"""Recordings into the journal: the shard `import`, idempotently.

An entry's identity is its file's content and its line, and all that it says follows from the file alone, so importing twice, or
again after a kill, adds only what is not there. What one line makes is appended whole. Within one import, lines are merged by
receive time, then file order. Each connection of a file is an epoch:

- ``opened`` (frame 0), the lines (frame = line number, from 1), ``imported`` with the last of them (so that a repeat knows in one look);
- ``day_opened`` before the first line of each day of the stream;
- ``switched`` where a symbol's book passes to this file: before the file's first snapshot of it, and before its first delta when that
  continues the subscription another file was cut from (recorders cut at midnight).

The last two and gaps that the adapter finds come before the line that calls for them, as high parts of the frame before: an epoch's ids
ascend, which is what keeps appending fast.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import TypeVar

import msgspec

from exchanges.adapter import Adapter, Normalised
from journal.clock import Clock
from journal.day import DayRule, iso
from journal.entry import Book, Control, Delta, Entry, Unparsed, control
from journal.errors import JournalUnavailable
from journal.protocols import MAX_BATCH, Fence, Journal
from journal.subjects import Stream
from ssmd.recordings import Line, Recording, merged
from ssmd.settings import IMPORT

_OWN_PART = 1 << 15  # the first part number of our own entries; no frame has so many markets
# A recorder that cuts its file at midnight goes on with the next message; a reconnect starts the venue's sequence anew.
_CONTINUES_NS = 60_000_000_000
# Lines between turns of the event loop: a millisecond or two, so that the append under way is served.
_RUN = 250
# Of frames in one append: two appends and their renderings stay under 100 MB even for a file of the longest lines.
_BATCH_BYTES = 8 << 20
_RETRIES, _RETRY_FIRST_S = 7, 0.1  # doubled each time: 13 s in all; a leader election takes 5 to 7 s
_T = TypeVar("_T")


@dataclass
class Report:
    """What an import did. `frames` are input lines, `entries` what was appended now, `duplicates` frames that were already there."""

    frames: int = 0
    entries: int = 0
    unparsed: int = 0
    duplicates: int = 0
    symbols: set[str] = field(default_factory=set)
    days: set[int] = field(default_factory=set)

    def document(self) -> dict[str, object]:
        """The machine format ``docs/schemas/import.json``."""
        return {
            "frames": self.frames,
            "entries": self.entries,
            "unparsed": self.unparsed,
            "duplicates": self.duplicates,
            "symbols": len(self.symbols),
            "days": [iso(d) for d in sorted(self.days)],
        }


@dataclass
class _Source:
    """One connection of one file."""

    epoch: bytes
    adapter: Adapter
    opener: Entry | None  # until it has been written
    stored: int = 0  # the last line that the journal has
    booked: set[str] = field(default_factory=set)  # symbols whose book follows, or was offered to, this source


@dataclass(frozen=True, slots=True)
class _Seen:
    """The newest book or delta of a symbol."""

    epoch: bytes
    subscription: int
    venue_seq: int
    order_ns: int


class Importer:
    """One run. The recordings have been examined; nothing of them is refused here."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        rng: random.Random,
        *,
        env: str,
        feed: str,
        days: DayRule,
        adapters: Callable[[], Adapter],
        advance: Callable[[int], None] = lambda _: None,
        max_batch: int = MAX_BATCH,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._feed = feed
        self._days = days
        self._adapters = adapters
        self._advance = advance
        self._max_batch = max_batch
        self.stream = Stream(env, shard=IMPORT)
        self.report = Report()
        self._batch: list[Entry] = []
        self._batch_bytes = 0
        self._appending: asyncio.Task[None] | None = None
        self._fence: Fence | None = None
        # All bounded by the files and symbols of this import.
        self._sources: dict[tuple[int, str], _Source] = {}
        self._seen: dict[str, _Seen] = {}
        self._ended: set[bytes] = set()
        self._stored: dict[bytes, int] = {}  # epoch -> last line, as found by scanning from
        self._scanned_from = 1 << 63

    async def run(self, recordings: list[Recording]) -> Report:
        """Append what is missing. Cancelled or killed at any point, it resumes when run again."""
        files = self._distinct(recordings)
        await self._journal.ensure(self.stream, self._feed)
        try:
            for n, line in enumerate(merged(files)):
                if n % _RUN == 0:
                    self._advance(_RUN if n else 0)
                    await self._clock.sleep(0)
                await self._line(files[line.file], line)
            await self._flush()
        finally:
            if self._appending:
                await asyncio.gather(self._appending, return_exceptions=True)
        return self.report

    def _distinct(self, recordings: list[Recording]) -> list[Recording]:
        files: dict[bytes, Recording] = {}
        for recording in recordings:
            self.report.frames += recording.lines
            if files.setdefault(recording.sha256, recording) is not recording:
                self.report.duplicates += recording.lines
        return list(files.values())

    async def _line(self, recording: Recording, line: Line) -> None:
        key = line.file, line.epoch
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = await self._open(recording, line)
        own, theirs = await self._items(source, line)
        day = self._days.day_of(line.order_ns)
        if day not in self.report.days:
            self.report.days.add(day)
            symbol = f"day-{iso(day)}"
            if not await self._journal.last(self.stream, self.stream.subject(self._feed, "control", symbol)):
                own.insert(0, Normalised(control("day_opened", {"day": day}), symbol))
        if line.number == recording.lines:
            self._ended.update(s.epoch for (file, _), s in self._sources.items() if file == line.file)
        if line.number <= source.stored:
            self.report.duplicates += 1
            return
        group = [] if source.opener is None else [source.opener]
        source.opener = None
        group += [self._entry(source, line, item, line.number - 1, part=_OWN_PART + n) for n, item in enumerate(own)]
        for part, item in enumerate(theirs):
            entry = self._entry(source, line, item, line.number, part=part, parts=len(theirs), raw=b"" if part else line.data)
            if part:
                entry = msgspec.structs.replace(entry, raw_hash=blake2b(line.data, digest_size=32).digest())
            group.append(entry)
        if line.number == recording.lines:
            group += self._close(line)
        await self._add(group, line)

    async def _items(self, source: _Source, line: Line) -> tuple[list[Normalised], list[Normalised]]:
        """What we have to say before the line, and what the line says."""
        report = self.report
        if line.error:
            report.unparsed += 1
            return [], [Normalised(Unparsed(line.error))]
        own, theirs = [], []
        for item in source.adapter.frame(line.data, line.recv_ns).items:
            if item.own:
                own.append(item)
                continue
            theirs.append(item)
            kind = type(item.body)
            if kind is Delta or kind is Book:
                if (kind is Book or item.symbol not in source.booked) and await self._switches(source, line, item):
                    own.append(Normalised(Control("switched"), item.symbol, subscription=item.subscription))
                self._seen[item.symbol] = _Seen(source.epoch, item.subscription, item.venue_seq, line.order_ns)
            elif kind is Unparsed:
                report.unparsed += 1
            if item.symbol:
                report.symbols.add(item.symbol)
        return own, theirs

    async def _open(self, recording: Recording, line: Line) -> _Source:
        """The source that `line` is the first of, and how much of it the journal has."""
        # A recording is one epoch; archive lines name theirs, and two connections must not share subscription ids.
        epoch = sha256(recording.sha256 + line.epoch.encode()).digest()[:16] if line.epoch else recording.sha256[:16]
        facts: dict[str, object] = {"filtered": True, "lines": recording.lines, "origin": line.epoch, "sha256": recording.sha256.hex()}
        symbol = f"epoch-{epoch.hex()}"
        source = _Source(epoch, self._adapters(), None)
        source.opener = self._entry(source, line, Normalised(control("opened", facts), symbol), 0)
        known = await self._journal.last(self.stream, self.stream.subject(self._feed, "control", symbol))
        if known:
            body = known.entry.body
            if isinstance(body, Control) and body.action == "imported":
                source.stored = recording.lines
            else:
                await self._scan(known.sequence)
                source.stored = self._stored.get(epoch, 0)
        return source

    async def _scan(self, start: int) -> None:
        """Find how far interrupted imports came: the last line of each epoch from sequence `start` on."""
        if start >= self._scanned_from:
            return
        self._scanned_from = start
        async for records in self._journal.read(self.stream, start=start):
            for _, entry in records:
                self._stored[entry.epoch] = entry.frame

    async def _switches(self, source: _Source, line: Line, item: Normalised) -> bool:
        """Whether the symbol's book passes to this source with this item."""
        symbol = item.symbol
        before = self._seen.get(symbol)
        if symbol in source.booked:  # a later snapshot: take the book back from a source that has ended
            return before is not None and before.epoch != source.epoch and before.epoch in self._ended
        source.booked.add(symbol)
        if type(item.body) is Book:
            return True
        before = before or await self._newest(symbol)
        return (
            before is not None
            and before.epoch != source.epoch
            and before.subscription == item.subscription
            and before.venue_seq < item.venue_seq
            and 0 <= line.order_ns - before.order_ns <= _CONTINUES_NS
        )

    async def _newest(self, symbol: str) -> _Seen | None:
        """The symbol's newest book or delta that an earlier import left in the stream."""
        newest = None
        for kind in ("book", "delta"):
            record = await self._journal.last(self.stream, self.stream.subject(self._feed, kind, symbol))
            if record and (newest is None or record.sequence > newest.sequence):
                newest = record
        if not newest:
            return None
        e = newest.entry
        return _Seen(e.epoch, e.subscription, e.venue_seq, e.effective_ns)

    def _close(self, line: Line) -> list[Entry]:
        body = control("imported", {"lines": line.number})
        return [
            self._entry(source, line, Normalised(body, f"epoch-{source.epoch.hex()}"), line.number + 1)
            for (file, _), source in self._sources.items()
            if file == line.file
        ]

    def _entry(
        self, source: _Source, line: Line, item: Normalised, frame: int, *, part: int = 0, parts: int = 1, raw: bytes = b""
    ) -> Entry:
        at_ns = line.order_ns
        return Entry(
            item.body, self._feed, item.symbol, source.epoch, frame, line.recv_ns, line.mono_ns, at_ns, self._days.day_of(at_ns),
            item.venue_ns, item.venue_seq, item.subscription, part, parts, item.price_exponent, item.size_exponent, raw,
        )  # fmt: skip

    async def _add(self, group: list[Entry], line: Line) -> None:
        """Queue what one line made; it shares an atomic batch."""
        if not self._fence:
            self._fence = await self._lease(line)
        self._batch_bytes += len(line.data)
        if len(self._batch) + len(group) > self._max_batch or self._batch_bytes > _BATCH_BYTES:
            await self._commit()
            self._batch_bytes = len(line.data)
        self._batch.extend(group)

    async def _lease(self, line: Line) -> Fence:
        body = control("lease", {"writer": IMPORT})
        day = self._days.day_of(line.order_ns)
        epoch = self._rng.randbytes(16)
        entry = Entry(body, self._feed, f"writer-{IMPORT}", epoch, 0, line.order_ns, 0, line.order_ns, day)
        fence = await self._patiently(lambda: self._journal.lease(self.stream, entry))
        self.report.entries += 1
        return fence

    async def _commit(self) -> None:
        """Send the batch; at most one is under way while the next is made."""
        if self._appending:
            await self._appending
        batch, self._batch = self._batch, []
        self._appending = asyncio.create_task(self._append(batch))

    async def _flush(self) -> None:
        if self._batch:
            await self._commit()
        if self._appending:
            await self._appending
            self._appending = None

    async def _append(self, entries: list[Entry]) -> None:
        await self._patiently(lambda: self._journal.append(self.stream, entries, self._fence))
        self.report.entries += len(entries)

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        delay = _RETRY_FIRST_S
        for _ in range(_RETRIES):
            try:
                return await attempt()
            except JournalUnavailable:
                await self._clock.sleep(delay)
                delay *= 2
        return await attempt()
