"""Group commit: what one writer appends within a few milliseconds becomes one durable batch.

One batch is outstanding at a time and the next gathers meanwhile (pipelining batches hurts latency and loses whole batches when a
predecessor fails). A failed append that may be retried is retried with the same entries; ids make that safe.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Body, Entry
from journal.errors import CallerError, JournalFull, JournalUnavailable, SsmdError
from journal.protocols import MAX_BATCH, Fence, Journal
from journal.subjects import Stream

LINGER_S = 0.005
# What a connector may hold while the journal is away; beyond it the socket is not read.
MAX_PENDING_BYTES = 64 << 20
# One append holds its entries three times: as they are, encoded and rendered.
MAX_BATCH_BYTES = 4 << 20
# Python's share of an entry in memory besides its raw bytes: struct, body, tuples (measured with tracemalloc: 480 to 700).
_OVERHEAD_BYTES = 700
_RETRY_FIRST_S, _RETRY_MOST_S = 0.05, 2.0


class Stamper:
    """Gives one writer's entries their effective time and trading day."""

    def __init__(self, days: DayRule) -> None:
        self._days = days
        self._effective_ns = 0

    def stamp(self, recv_ns: int) -> tuple[int, int]:
        """(effective_ns, day) of an entry received at `recv_ns`; call once an entry, in append order."""
        self._effective_ns = max(self._effective_ns, recv_ns)
        return self._effective_ns, self._days.day_of(self._effective_ns)


class EpochWriter:
    """Numbers and stamps one epoch's entries, in the order they will be stored."""

    def __init__(self, feed: str, epoch: bytes, stamper: Stamper) -> None:
        self.feed = feed
        self.epoch = epoch
        self.frame = 0
        self._stamper = stamper

    def entry(
        self,
        body: Body,
        *,
        recv_ns: int,
        mono_ns: int = 0,
        symbol: str = "",
        venue_ns: int = 0,
        venue_seq: int = 0,
        subscription: int = 0,
        price_exponent: int = 0,
        size_exponent: int = 0,
        raw: bytes = b"",
    ) -> Entry:
        """The next frame's entry (part 0 of 1)."""
        effective_ns, day = self._stamper.stamp(recv_ns)
        frame = self.frame
        self.frame = frame + 1
        return Entry(
            body, self.feed, symbol, self.epoch, frame, recv_ns, mono_ns, effective_ns, day, venue_ns, venue_seq,
            subscription, 0, 1, price_exponent, size_exponent, raw,
        )  # fmt: skip


class GroupCommit:
    """Appends entries of one stream through one lease. Use from one event loop; `start` first, `close` last."""

    def __init__(
        self,
        journal: Journal,
        stream: Stream,
        clock: Clock,
        rng: random.Random,
        *,
        fence: Fence | None = None,
        linger_s: float = LINGER_S,
        max_batch: int = 500,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        on_durable: Callable[[list[Entry], list[int]], None] | None = None,
    ) -> None:
        self._journal = journal
        self._stream = stream
        self._clock = clock
        self._rng = rng
        self.fence = fence
        self._linger_s = linger_s
        self._max_batch = min(max_batch, MAX_BATCH)
        self._max_pending_bytes = max_pending_bytes
        self._on_durable = on_durable
        self._queue: deque[Entry] = deque()
        self._waiters: deque[tuple[int, asyncio.Future[list[int]], int]] = deque()  # (ordinal of last entry, future, count)
        self._recent: list[int] = []
        self.pending_bytes = 0
        self._queued = 0  # ordinals: entries ever queued, entries ever durable
        self._durable = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"group-commit {self._stream.name}")

    @property
    def durable(self) -> int:
        """Entries made durable so far."""
        return self._durable

    @property
    def pending(self) -> int:
        """Entries queued and not durable yet; after a `close` that was given up, those that are lost."""
        return self._queued - self._durable

    @property
    def failed(self) -> bool:
        return self._error is not None

    def post(self, entry: Entry) -> None:
        """Queue without waiting. A failure is raised by the next call; wait on `room` to respect the bound."""
        if self._error:
            raise self._error
        if self._closing:
            raise CallerError("this writer is closed; make another")
        self._queue.append(entry)
        self._queued += 1
        self.pending_bytes += len(entry.raw) + _OVERHEAD_BYTES
        if self.pending_bytes > self._max_pending_bytes:
            self._room.clear()
        if not self._wake.is_set():
            self._wake.set()

    async def append(self, *entries: Entry) -> list[int]:
        """Queue and wait until durable; the entries' sequences."""
        for entry in entries:
            self.post(entry)
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._queued, future, len(entries)))
        return await future

    async def room(self) -> None:
        """Return when more may be queued: the caller stops reading its socket meanwhile."""
        if not self._room.is_set():
            await self._room.wait()
        if self._error:
            raise self._error

    async def flush(self) -> None:
        """Return when all that was queued is durable."""
        if self._error:
            raise self._error
        if self._durable < self._queued:
            future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
            self._waiters.append((self._queued, future, 0))
            await future

    async def close(self) -> None:
        """Make durable what is queued, then stop. Cancelled (a journal may be away for long), it gives up what is not durable yet."""
        self._closing = True
        self._wake.set()
        if self._task:
            try:
                await asyncio.wait([self._task])
            finally:
                self._task.cancel()  # the caller would not wait for a journal that is away
        if self._error:
            raise self._error

    async def _run(self) -> None:
        try:
            while True:
                if not self._queue:
                    if self._closing:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                if len(self._queue) < self._max_batch and not self._closing:
                    await self._clock.sleep(self._linger_s)
                batch, size = self._take()
                self._settle(batch, await self._commit(batch), size)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, SsmdError):
                raise

    def _take(self) -> tuple[list[Entry], int]:
        """The next batch, and how much of `pending_bytes` it is; the queue is not empty."""
        batch: list[Entry] = []
        size = 0
        queue = self._queue
        while queue and len(batch) < self._max_batch and size < MAX_BATCH_BYTES:
            entry = queue.popleft()
            batch.append(entry)
            size += len(entry.raw) + _OVERHEAD_BYTES
        return batch, size

    async def _commit(self, batch: list[Entry]) -> list[int]:
        delay = _RETRY_FIRST_S
        while True:
            try:
                return await self._journal.append(self._stream, batch, self.fence)
            except (JournalUnavailable, JournalFull):
                await self._clock.sleep(delay * (0.5 + self._rng.random()))
                delay = min(delay * 2, _RETRY_MOST_S)

    def _settle(self, batch: list[Entry], positions: list[int], size: int) -> None:
        self._durable += len(batch)
        self.pending_bytes -= size
        if self.pending_bytes <= self._max_pending_bytes:
            self._room.set()
        if self._waiters:
            self._recent.extend(positions)
            while self._waiters and self._waiters[0][0] <= self._durable:
                ordinal, future, count = self._waiters.popleft()
                end = len(self._recent) - (self._durable - ordinal)
                if not future.done():
                    future.set_result(self._recent[end - count : end])
            # Keep only what the oldest waiter still needs.
            needed = self._waiters[0][0] - self._waiters[0][2] if self._waiters else self._durable
            del self._recent[: max(needed - (self._durable - len(self._recent)), 0)]
        if self._on_durable:
            self._on_durable(batch, positions)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._room.set()
        while self._waiters:
            _, future, _ = self._waiters.popleft()
            if not future.done():
                future.set_exception(error)
