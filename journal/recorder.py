"""Aggregates in the journal: a recorder of the `eventsourcing` library over any `Journal`.

A journal is asynchronous and aggregates are not, so the recorder is called from threads, never from the journal's own event loop::

    async def main(journal: Journal) -> None:
        stream = Stream("local", domain="key")
        recorder = JournalRecorder(journal, asyncio.get_running_loop(), stream, WallClock(), random.SystemRandom())

        def work() -> None:
            app = application(Application, recorder)  # of `journal.application`; or a subclass of yours
            key = Aggregate()
            app.save(key, who="ana", why="the first key", correlation="ticket-7")
            key.trigger_event(Aggregate.Event)
            app.save(key, who="ana")
            assert app.repository.get(key.id).version == 2

        await asyncio.to_thread(work)

One event is one entry on ``{env}.{domain}.events.{id}.{version}``, appended if that subject has none: of several writers one wins and the
others get the library's `IntegrityError` (load the aggregate again and decide anew). A notification id is the stream's sequence. An insert
whose reply is lost is repeated until it is settled, within `timeout_s`; a nonce in its events tells a repeated insert from another one with
the same events. A process's events and its tracking record are one batch.

Errors are the library's, caused by (``__cause__``) ours: `IntegrityError` somebody else was first, `OperationalError` no answer within
`timeout_s` (whether the events are stored is then not known), or the journal is full or refuses, `DataError` what is or would be stored is
no event, `InternalError` the stream is damaged, `ProgrammingError` a wrong call.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing, contextmanager, suppress
from typing import Any, TypeVar, cast
from uuid import UUID

from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InternalError,
    Notification,
    OperationalError,
    PersistenceError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
)

from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Entry, Event, Record
from journal.errors import (
    BadObject,
    CallerError,
    CorruptionError,
    EntryTooLarge,
    JournalUnavailable,
    SsmdError,
    Superseded,
)
from journal.fact import Insert, event_entry, stored_event, tracking_entry
from journal.protocols import MAX_BATCH, Journal
from journal.subjects import VERSIONED, Stream, escape

TIMEOUT_S = 30.0  # a cluster elects a leader in 5 to 7 s, an embedded server starts again in less
_RETRY_FIRST_S, _RETRY_MOST_S = 0.05, 1.0
_TRACKING_ROUNDS = 16  # each follows somebody else's tracking record
_T = TypeVar("_T")


class JournalRecorder(ProcessRecorder):
    """A `ProcessRecorder` (and so an application's, an aggregates' and a tracking recorder) in one domain stream.

    `loop` is the one the journal lives on. `rng` draws the nonces and nobody else may draw the same: `random.SystemRandom`. The first
    insert makes the stream. A call that has no answer within `timeout_s` raises `OperationalError`.
    """

    def __init__(
        self,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
        stream: Stream,
        clock: Clock,
        rng: random.Random,
        *,
        days: DayRule | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if stream.is_market:
            raise CallerError(f"{stream.name} is a market stream; aggregates live in domain streams")
        self._journal, self._loop, self._stream, self._clock, self._rng = journal, loop, stream, clock, rng
        self._days = days or DayRule()
        self._timeout_s = timeout_s
        self._effective_ns = 0
        self._made = False

    # Writing

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        tracking: Tracking | None = None,
        kind: str = "events",
        who: str = "",
        why: str = "",
        causation: str = "",
        correlation: str = "",
        **unknown: Any,
    ) -> Sequence[int]:
        """Notification ids of the events, all stored or none; at most 1,000 with their `tracking`. `kind` is "events" or "snapshots".

        Raises `IntegrityError` when one of them is there already or the tracking is not above what is recorded.
        """
        if kind not in VERSIONED:
            raise ProgrammingError(f"no kind {kind!r}: events or snapshots")
        if unknown:
            raise ProgrammingError(f"insert_events knows tracking, who, why, causation and correlation, not {', '.join(unknown)}")
        return self._call(self._insert, list(stored_events), tracking, Event(kind, b"", who, why, causation, correlation))

    def insert_tracking(self, tracking: Tracking) -> None:
        self.insert_events([], tracking=tracking)

    async def _insert(self, events: Sequence[StoredEvent], tracking: Tracking | None, said: Event) -> list[int]:
        if len({(str(e.originator_id), e.originator_version) for e in events}) < len(events):
            raise IntegrityError("one version of an aggregate is twice in one insert")
        if len(events) + (tracking is not None) > MAX_BATCH:
            raise DataError(f"{len(events)} events in one insert; at most {MAX_BATCH} with their tracking: save aggregates more often")
        insert = self._begin(said)
        entries = [event_entry(e, insert) for e in events]
        if tracking is None:
            return await self._append(entries, [0] * len(entries)) if entries else []
        entries.append(tracking_entry(tracking, insert))
        subject = self._subject("tracking", escape(tracking.application_name))
        for _ in range(_TRACKING_ROUNDS):
            newest = await self._answered(self._journal.last, self._stream, subject)
            if newest and newest.entry.frame >= tracking.notification_id:
                raise IntegrityError(
                    f"{tracking.application_name} is tracked to {newest.entry.frame}, not below {tracking.notification_id}"
                )
            try:
                return (await self._append(entries, [0] * len(events) + [newest.sequence if newest else 0]))[: len(events)]
            except Superseded as error:
                if error.subject != subject:
                    raise
        raise OperationalError(f"others track {tracking.application_name} too: were faster {_TRACKING_ROUNDS} times running; let one do it")

    def _begin(self, said: Event) -> Insert:
        recv_ns = self._clock.wall_ns()
        self._effective_ns = max(self._effective_ns, recv_ns)
        day = self._days.day_of(self._effective_ns)
        return Insert(self._stream.domain, self._rng.randbytes(16).hex(), said, recv_ns, self._clock.mono_ns(), self._effective_ns, day)

    async def _append(self, entries: Sequence[Entry], newest: Sequence[int]) -> list[int]:
        if not self._made:
            await self._answered(self._journal.ensure, self._stream)
            self._made = True
        return await self._answered(self._journal.append_if, self._stream, entries, newest)

    # Reading

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
        kind: str = "events",
    ) -> list[StoredEvent]:
        """By version. All of the aggregate's are read whatever is asked for; no more than a chunk above `limit` is held."""

        def wanted(record: Record) -> bool:
            version = record.entry.frame
            return (gt is None or version > gt) and (lte is None or version <= lte)

        return self._call(self._select, self._subject(kind, escape(str(originator_id)), "*"), wanted, desc, limit)

    async def _select(self, subject: str, wanted: Callable[[Record], bool], desc: bool, limit: int | None) -> list[StoredEvent]:
        found: list[Record] = []
        async with aclosing(self._read(subject)) as chunks:
            async for records in chunks:
                found += filter(wanted, records)
                # Versions come in order from those that load an aggregate before they change it, which nobody else has to do.
                found.sort(key=lambda r: r.entry.frame, reverse=desc)
                del found[len(found) if limit is None else limit :]
        return list(map(stored_event, found))

    def select_notifications(
        self, start: int | None, limit: int, stop: int | None = None, topics: Sequence[str] = (), *, inclusive_of_start: bool = True
    ) -> list[Notification]:
        """At most `limit`, from sequence `start` (None: the first) to `stop`. Ids are not contiguous where there is tracking too."""
        first = 1 if start is None else start + (not inclusive_of_start)
        return self._call(self._notifications, first, limit, stop, topics)

    async def _notifications(self, start: int, limit: int, stop: int | None, topics: Sequence[str]) -> list[Notification]:
        found: list[Notification] = []
        async with aclosing(self._read(self._subject("events", ">"), start=start, end=stop)) as chunks:
            async for records in chunks:
                found += _noted(records, topics)
                if len(found) >= limit:
                    break
        return found[:limit]

    def max_notification_id(self) -> int | None:
        return self._newest(self._subject("events", ">"), lambda record: record.sequence)

    def max_tracking_id(self, application_name: str) -> int | None:
        return self._newest(self._subject("tracking", escape(application_name)), lambda record: record.entry.frame)

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> JournalSubscription:
        """Notifications above `gt`, recorded by anybody, as they come; waits for more, also while the journal is away."""
        return JournalSubscription(self, gt, topics)

    def follow(self, gt: int) -> AsyncGenerator[list[Record], None]:
        """The records of events above `gt`, for a subscription: on the journal's loop."""
        return self._read(self._subject("events", ">"), start=gt + 1, follow=True)

    def _newest(self, subject: str, number: Callable[[Record], int]) -> int | None:
        found = self._call(self._answered, self._journal.last, self._stream, subject)
        return number(found) if found else None

    def _read(self, subject: str, **span: Any) -> AsyncGenerator[list[Record], None]:
        return cast("AsyncGenerator[list[Record], None]", self._journal.read(self._stream, subjects=[subject], **span))

    def _subject(self, *tokens: str) -> str:
        return ".".join((self._stream.env, self._stream.domain, *tokens))

    # Between threads

    def submit(self, work: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> Future[_T]:
        """Have the journal's loop run ``work(*args)``. Raises `ProgrammingError` on that loop's own thread, which would wait for itself."""
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise ProgrammingError("a recorder is called from threads, not from its journal's event loop: use asyncio.to_thread")
        if not self._loop.is_running():
            raise OperationalError("the journal's event loop is not running; keep it running while the recorder is used")
        return asyncio.run_coroutine_threadsafe(work(*args), self._loop)

    def _call(self, work: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
        future = self.submit(self._in_time, work, *args)
        with _library_errors():
            try:
                return cast("_T", future.result())
            except BaseException:
                future.cancel()  # of an interrupted thread
                raise

    async def _in_time(self, work: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work(*args)
        except TimeoutError as error:
            raise OperationalError(
                f"no answer from the journal about {self._stream.name} within {self._timeout_s:g} s; is it there?"
            ) from error

    async def _answered(self, ask: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
        """Ask again until there is an answer: each of what we ask may be asked twice."""
        delay = _RETRY_FIRST_S
        while True:
            try:
                return await ask(*args)
            except JournalUnavailable:
                await self._clock.sleep(delay)
                delay = min(2 * delay, _RETRY_MOST_S)


class JournalSubscription(Subscription[JournalRecorder]):
    """Follows the journal. `stop` may be called from any thread and wakes the one that waits for a notification."""

    def __init__(self, recorder: JournalRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._records = recorder.follow(gt or 0)
        self._turn = asyncio.Lock()
        self._ready: Iterator[Notification] = iter(())
        self._waiting: Future[list[Record]] | None = None

    def __next__(self) -> Notification:
        while not self._has_been_stopped:
            for notification in self._ready:
                return notification
            self._waiting = self._recorder.submit(self._more)
            if self._has_been_stopped:  # before it could see what we wait for
                self._waiting.cancel()
            try:
                with _library_errors():
                    self._ready = iter(_noted(self._waiting.result(), self._topics))
            except OperationalError:
                if not self._has_been_stopped:
                    raise
        raise StopIteration

    async def _more(self) -> list[Record]:
        async with self._turn:
            return await anext(self._records)

    def stop(self) -> None:
        if self._has_been_stopped:
            return
        super().stop()
        if self._waiting:
            self._waiting.cancel()
        with suppress(OperationalError):  # a loop that has ended has closed it
            self._recorder.submit(self._close)

    async def _close(self) -> None:
        async with self._turn:
            await self._records.aclose()


def _noted(records: Sequence[Record], topics: Sequence[str]) -> list[Notification]:
    stored = [(r.sequence, stored_event(r)) for r in records]
    return [
        Notification(e.originator_id, e.originator_version, e.topic, e.state, number)
        for number, e in stored
        if not topics or e.topic in topics
    ]


@contextmanager
def _library_errors() -> Iterator[None]:
    """Our errors as the library's."""
    try:
        yield
    except Superseded as error:
        raise IntegrityError(str(error)) from error
    except (BadObject, EntryTooLarge) as error:
        raise DataError(str(error)) from error
    except CorruptionError as error:
        raise InternalError(str(error)) from error
    except CallerError as error:
        raise ProgrammingError(str(error)) from error
    except SsmdError as error:
        raise OperationalError(str(error)) from error
    except CancelledError as error:
        raise OperationalError("the journal's event loop was stopped while the recorder waited for it") from error


@contextmanager
def our_errors() -> Iterator[None]:
    """The library's errors as those of ours that they were made from."""
    try:
        yield
    except PersistenceError as error:
        raise error.__cause__ if isinstance(error.__cause__, SsmdError) else JournalUnavailable(str(error)) from error
