"""A leased writer's side of a connector: the run's epoch, day openings, and entries on their way to being durable."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from hashlib import blake2b
from typing import TypeVar

import msgspec

from journal.clock import Clock
from journal.codec import encode
from journal.day import DayRule, iso, to_date
from journal.entry import Body, Entry, Gap, Record, Unparsed, canonical_json, control
from journal.errors import JournalUnavailable
from journal.protocols import Journal
from journal.subjects import Stream
from journal.writer import MAX_PENDING_BYTES, EpochWriter, GroupCommit, Stamper
from ssmd.services import predecessor
from ssmd.services.lag import Lag

STOP_S = 10.0  # to make durable what is pending when stopped; a journal that is away longer loses what was not acknowledged
_RETRY_S = 0.5
_T = TypeVar("_T")


class Ledger:
    """`open` first, `close` last. All methods between are for one event loop; those that are not async never wait."""

    def __init__(
        self,
        journal: Journal,
        stream: Stream,
        clock: Clock,
        rng: random.Random,
        *,
        feed: str,
        days: DayRule,
        writer: str,
        instance: str = "",
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self.writer = writer
        self.instance = instance
        self.lag = Lag()  # from socket read to durable
        self.next_day_ns = 0  # an entry received from here on belongs to another day: call `turn_day` before it
        self.large_bytes = self._max_entry_bytes = 0
        self._journal = journal
        self._stream = stream
        self._clock = clock
        self._rng = rng
        self._feed = feed
        self._days = days
        self.before: Record | None = None  # the lease of the run before
        self._known_day = 0
        self._stamper = Stamper(days)
        self._run = EpochWriter(feed, rng.randbytes(16), self._stamper)
        self._group = GroupCommit(journal, stream, clock, rng, max_pending_bytes=max_pending_bytes, on_durable=self._on_durable)
        self.post = self._group.post
        self.room = self._group.room

    @property
    def failed(self) -> bool:
        return self._group.failed

    @property
    def durable(self) -> int:
        """Entries made durable, but for the first two of the run."""
        return self._group.durable

    @property
    def pending(self) -> int:
        """Entries that are not durable yet; after `close`, those that never will be."""
        return self._group.pending

    @property
    def pending_bytes(self) -> int:
        return self._group.pending_bytes

    async def open(self, waiting: Callable[[str], None]) -> int:
        """Take the lease and say what the run before left unsaid; the time since when data is missing, 0 if there was no run.

        Waits for an unavailable journal, telling `waiting` why. Raises what the journal cannot recover from.
        """
        await self._available(lambda: self._journal.ensure(self._stream, self._feed), waiting)
        self._max_entry_bytes = await self._available(lambda: self._journal.largest(self._stream), waiting)
        # A snapshot's level takes 24 bytes and at least 19 in its frame: below this any entry fits.
        self.large_bytes = self._max_entry_bytes // 3
        before, newest_ns = await self._available(self._look, waiting)
        self.before = before
        self._stamper.stamp(newest_ns)  # never before what is there
        now_ns = self._clock.wall_ns()
        opened: dict[str, object] = {"kind": "run", "writer": self.writer, "instance": self.instance}
        claim: dict[str, object] = {"instance": self.instance, "run": self._run.epoch.hex(), "previous": before.sequence if before else 0}
        first = self._run.entry(control("opened", opened), recv_ns=now_ns, symbol=f"epoch-{self._run.epoch.hex()}")
        lease = self._run.entry(control("lease", claim), recv_ns=now_ns, symbol=f"writer-{self.writer}")
        await self._available(lambda: self._journal.append(self._stream, [first]), waiting)
        self._group.fence = await self._available(lambda: self._journal.lease(self._stream, lease), waiting)
        self._group.start()
        subject = self._stream.subject(self._feed, "control", f"day-{iso(first.day)}")
        if await self._available(lambda: self._journal.last(self._stream, subject), waiting):
            self._known_day = first.day
        self.turn_day(now_ns)
        return await self._available(lambda: self._bury(before, now_ns), waiting) if before else 0

    async def _available(self, attempt: Callable[[], Awaitable[_T]], waiting: Callable[[str], None]) -> _T:
        while True:
            try:
                return await attempt()
            except JournalUnavailable as error:
                waiting(str(error))
                await self._clock.sleep(_RETRY_S)

    async def _look(self) -> tuple[Record | None, int]:
        """The lease before ours, and the effective time of the stream's newest entry."""
        before = await self._journal.last(self._stream, self._stream.subject(self._feed, "control", f"writer-{self.writer}"))
        info = await self._journal.info(self._stream)
        newest_ns = 0
        if info and info.last >= info.first:
            async for records in self._journal.read(self._stream, start=info.last, end=info.last):
                newest_ns = records[-1].entry.effective_ns
        return before, newest_ns

    async def _bury(self, before: Record, now_ns: int) -> int:
        """Close the connections of a run that could not, and say since when nothing was captured."""
        found = await predecessor.find(self._journal, self._stream, self._feed, self.writer, before)
        for epoch in found.dead:
            of = canonical_json({"epoch": epoch}).decode()
            self.say(Gap("connector restarted", from_ns=found.last_ns, to_ns=now_ns, detail=of), now_ns)
            self.say(control("closed", {"epoch": epoch, "reason": "its connector died"}), now_ns)
        if not found.dead:
            self.say(Gap("connector was stopped", from_ns=found.last_ns, to_ns=now_ns), now_ns)
        return found.last_ns

    async def close(self, reason: str) -> None:
        """Make durable what is pending, within `STOP_S`. Raises nothing: what stopped the run is already on its way to the caller."""
        if self._group.fence is None:
            return
        with contextlib.suppress(Exception):
            if not self.failed:
                self.say(control("closed", {"reason": reason}), self._clock.wall_ns())
            async with asyncio.timeout(STOP_S):
                await self._group.close()

    def connection(self) -> EpochWriter:
        """A writer for a new connection; its first entry must be ``opened``."""
        return EpochWriter(self._feed, self._rng.randbytes(16), self._stamper)

    def say(self, body: Body, recv_ns: int, symbol: str = "", *, price_exponent: int = 0, size_exponent: int = 0) -> None:
        """Post an entry of the run's epoch."""
        if recv_ns >= self.next_day_ns:
            self.turn_day(recv_ns)
        self.post(
            self._run.entry(body, recv_ns=recv_ns, symbol=symbol, price_exponent=price_exponent, size_exponent=size_exponent),
        )

    def turn_day(self, recv_ns: int) -> None:
        """Post ``day_opened`` if what was received at `recv_ns` is the first of its day in this stream."""
        _, day = self._stamper.stamp(recv_ns)
        self.next_day_ns = self._days.opens_ns(to_date(day) + timedelta(days=1))
        if day != self._known_day:
            self._known_day = day
            self.say(control("day_opened", {"day": day}), recv_ns, f"day-{iso(day)}")

    def fitting(self, entry: Entry) -> Entry:
        """The entry, or, after a gap, what the journal takes of it: its bytes as they are, else their hash."""
        size = len(encode(entry))
        if size <= self._max_entry_bytes:
            return entry
        said = f"its entry of {size} bytes exceeds {self._max_entry_bytes}"
        bare = msgspec.structs.replace(entry, body=Unparsed(said))
        digest = blake2b(entry.raw, digest_size=32).hexdigest()
        of = canonical_json({"epoch": entry.epoch.hex(), "subscription": entry.subscription, "seq": entry.venue_seq}).decode()
        self.say(Gap("frame too large", from_ns=entry.recv_ns, to_ns=entry.recv_ns, detail=of), entry.recv_ns, entry.symbol)
        if len(encode(bare)) <= self._max_entry_bytes:
            return bare
        return msgspec.structs.replace(
            entry, body=Unparsed(f"frame of {len(entry.raw)} bytes, BLAKE2b-256 {digest}: {said}, not kept"), raw=b""
        )

    def _on_durable(self, entries: list[Entry], positions: list[int]) -> None:
        del positions
        now_ns, lag = self._clock.mono_ns(), self.lag
        at, times = 0, 0
        for entry in entries:  # frames of one read share its time
            if entry.mono_ns == at:
                times += 1
                continue
            if at:
                lag.add(now_ns - at, times)
            at, times = entry.mono_ns, 1
        if at:
            lag.add(now_ns - at, times)
