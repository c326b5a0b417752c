"""The JetStream journal: any NATS server from 2.14 on, the embedded one included. `commit` is how it writes, `cursor` how it reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from journal import cursor, streams
from journal.batch import Message, distinct_subjects
from journal.clock import Clock
from journal.codec import body_kind_name, decode, encode
from journal.commit import Appender
from journal.entry import Control, Entry, Record
from journal.errors import BadSubject, CallerError, JournalFull, JournalRefused, JournalUnavailable, NotFound
from journal.link import Access, ApiError, Link, NoResponders
from journal.protocols import MAX_BATCH, Fence, StreamInfo
from journal.sender import STREAM_FULL
from journal.streams import DUPLICATE_WINDOW_S, Change
from journal.subjects import Stream

MAX_STREAM_BYTES = 64 << 30
LEAST_STREAM_BYTES = 1 << 30
_DECODE_CHUNK = 256  # records decoded before the event loop gets a turn: about 3 ms
_SUBJECTS_KEPT = 65_536  # rendered subjects: 10 MB at most
_HEADERS_BYTES = 4_096  # more than those of any message of ours: an id, a batch's id, one expectation
_NAME_IN_USE = 10058
_log = logging.getLogger("journal")
_T = TypeVar("_T")


class JetStreamJournal:
    """`journal.protocols.Journal` over JetStream. One event loop; make one with `connect`."""

    def __init__(self, link: Link, clock: Clock, *, replicas: int, max_stream_bytes: int, duplicate_window_s: float) -> None:
        self._link = link
        self._clock = clock
        self._replicas = replicas
        self._max_stream_bytes = max_stream_bytes
        self._duplicate_window_s = duplicate_window_s
        self._appenders: dict[Stream, Appender] = {}
        self._subjects: dict[tuple[Stream, str, str, str], bytes] = {}
        self._running: set[asyncio.Task[Any]] = set()

    @classmethod
    async def connect(
        cls,
        where: str | Callable[[], str] | Access,
        clock: Clock,
        *,
        token: str | None = None,
        replicas: int = 1,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        duplicate_window_s: float = DUPLICATE_WINDOW_S,
        timeout_s: float = 5.0,
    ) -> JetStreamJournal:
        """Connect and check that the server will do.

        `where` is an URL (several of one cluster separated by commas; a function is asked at every reconnect), or an `Access`, which
        has its own secrets. `replicas`, `max_stream_bytes` and the window are for streams that `ensure` makes. An answer that takes longer
        than `timeout_s` counts as lost. Raises `JournalUnavailable`, `JournalRefused`.
        """
        if isinstance(where, str):
            url = where
            where = Access(lambda: url, token)
        elif not isinstance(where, Access):
            where = Access(where, token)
        link = Link(where, clock, timeout_s=timeout_s)
        try:
            await link.api("INFO")
        except (NoResponders, ApiError) as error:
            await link.close()
            why = str(error) or "nobody answers"
            raise JournalRefused(
                f"NATS at {link.where} has no JetStream for us ({why}): start it with -js and allow JetStream to our account"
            ) from error
        except BaseException:
            await link.close()
            raise
        return cls(link, clock, replicas=replicas, max_stream_bytes=max_stream_bytes, duplicate_window_s=duplicate_window_s)

    async def close(self) -> None:
        """Wait for appends under way (each ends within a few timeouts), then disconnect."""
        if self._running:
            await asyncio.wait(self._running)
        await self._link.close()

    async def read(
        self,
        stream: Stream,
        *,
        start: int = 1,
        end: int | None = None,
        subjects: Sequence[str] = (),
        follow: bool = False,
    ) -> AsyncIterator[list[Record]]:
        chunks = cursor.stored(self._link, self._clock, stream.name, start=start, end=end, filters=subjects, follow=follow)
        async with aclosing(chunks):
            async for chunk in chunks:
                for at in range(0, len(chunk), _DECODE_CHUNK):
                    await self._clock.sleep(0)
                    yield [Record(m.sequence, decode(m.payload)) for m in chunk[at : at + _DECODE_CHUNK]]

    async def info(self, stream: Stream) -> StreamInfo | None:
        found = await cursor.bounds(self._link, stream.name)
        return StreamInfo(stream, max(found.first, 1), found.last, found.bytes) if found else None

    async def streams(self, env: str) -> list[Stream]:
        found: list[Stream] = []
        offset = 0
        while True:
            answer = await self._ask("STREAM.NAMES", {"offset": offset})
            names = answer.get("streams") or []
            for name in names:
                if name.startswith(f"{env}_"):
                    try:
                        found.append(Stream.parse(name))
                    except BadSubject:
                        continue  # not one of ours
            offset += len(names)
            if not names or offset >= answer["total"]:
                return sorted(found, key=lambda s: s.name)

    async def last(self, stream: Stream, subject: str) -> Record | None:
        found = await cursor.fetch(self._link, stream.name, last_by_subj=subject)
        return Record(found.sequence, decode(found.payload)) if found else None

    async def seek(self, stream: Stream, effective_ns: int) -> int:
        found = await cursor.bounds(self._link, stream.name)
        if found is None:
            return 1
        low, high = max(found.first, 1), found.last + 1
        while low < high:
            middle = (low + high) // 2
            # Domain streams may have single entries purged: take the next that is there.
            message = await cursor.fetch(self._link, stream.name, seq=middle, next_by_subj=">")
            if message is None or message.sequence >= high or decode(message.payload).effective_ns > effective_ns:
                high = middle
            else:
                low = message.sequence + 1
        return low

    async def ensure(self, stream: Stream, feed: str = "") -> None:
        """On files, without age limit. A market stream refuses when it has `max_stream_bytes`, which the server sets aside; where it lacks
        them, the half, and so on down to 1 GiB. A stream that exists is left as it is.
        """
        size = wanted = self._max_stream_bytes if stream.is_market else -1
        while not await self._create(stream, feed, size):
            size //= 2
        if size < wanted:
            _log.warning(
                "%s has not %.0f GiB for %s, which has %.0f GiB and refuses when they are full: raise max_file_store before that",
                self._link.where, wanted / (1 << 30), stream.name, size / (1 << 30),
            )  # fmt: skip

    async def _create(self, stream: Stream, feed: str, max_bytes: int) -> bool:
        """False when there is no room for so large a stream, but may be for half of it."""
        try:
            await self._link.api(f"STREAM.CREATE.{stream.name}", self._wanted(stream, feed, max_bytes))
        except ApiError as error:
            if error.code == _NAME_IN_USE:
                return True
            if error.code in STREAM_FULL:
                if await self.info(stream) is not None:  # room is looked at before names
                    return True
                if max_bytes >= 2 * LEAST_STREAM_BYTES:
                    return False
                raise self._no_room(stream, max_bytes, error) from error
            raise self._failed(error) from error
        except NoResponders as error:
            raise self._failed(error) from error
        return True

    def _wanted(self, stream: Stream, feed: str, max_bytes: int | None) -> dict[str, Any]:
        return streams.wanted(
            stream, feed, replicas=self._replicas, max_bytes=max_bytes, duplicate_window_s=self._duplicate_window_s
        )  # fmt: skip

    def _no_room(self, stream: Stream, max_bytes: int, error: ApiError) -> JournalFull:
        return JournalFull(
            f"{self._link.where} has no room for {stream.name} of {max_bytes} bytes: {error};"
            " free some, raise max_file_store, or ask for a smaller stream"
        )

    async def changes(self, stream: Stream, feed: str = "", *, max_bytes: int | None = None) -> list[Change] | None:
        found = await cursor.bounds(self._link, stream.name)
        return None if found is None else streams.plan(self._wanted(stream, feed, max_bytes), found.config, found.bytes)

    async def update(self, stream: Stream, feed: str = "", *, max_bytes: int | None = None) -> None:
        found = await cursor.bounds(self._link, stream.name)
        if found is None:
            raise NotFound("stream", stream.name)
        changes = streams.plan(self._wanted(stream, feed, max_bytes), found.config, found.bytes)
        if refused := [f"{c.setting} is {c.present}, not {c.wanted}: {c.refused}" for c in changes if c.refused]:
            raise JournalRefused(f"{stream.name}: {'; '.join(refused)}")
        if not changes:
            return
        try:
            await self._link.api(f"STREAM.UPDATE.{stream.name}", streams.merged(found.config, changes))
        except ApiError as error:
            if error.code in STREAM_FULL and max_bytes is not None:
                raise self._no_room(stream, max_bytes, error) from error
            raise self._failed(error) from error
        except NoResponders as error:
            raise self._failed(error) from error

    async def delete(self, stream: Stream) -> None:
        self._appenders.pop(stream, None)
        await self._unless_gone(f"STREAM.DELETE.{stream.name}")

    async def purge(self, stream: Stream, first: int) -> None:
        # Up to `first`, exclusive; the server would take 0 for everything.
        if first > 1:
            self._appenders.pop(stream, None)  # it knows where the purged ones were
            await self._unless_gone(f"STREAM.PURGE.{stream.name}", {"seq": first})

    async def _unless_gone(self, name: str, body: dict[str, Any] | None = None) -> None:
        try:
            await self._link.api(name, body)
        except ApiError as error:
            if error.code != cursor.NO_STREAM:
                raise self._failed(error) from error
        except NoResponders as error:
            raise self._failed(error) from error

    async def followers(self, stream: Stream) -> int:
        try:
            answer = await self._link.api(f"CONSUMER.LIST.{stream.name}", {"offset": 0})
        except ApiError as error:
            if error.code == cursor.NO_STREAM:
                return 0
            raise self._failed(error) from error
        except NoResponders as error:
            raise self._failed(error) from error
        # A pull waits while its reader is connected, and only then.
        return sum(1 for consumer in answer.get("consumers") or [] if consumer.get("num_waiting"))

    async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
        if len(entries) > MAX_BATCH:
            raise CallerError(f"{len(entries)} entries in one append; at most {MAX_BATCH}")
        if not entries:
            return []
        messages, openers = self._messages(stream, entries)
        return await self._through(self._appender(stream).append(messages, openers, fence))

    async def append_if(self, stream: Stream, entries: Sequence[Entry], newest: Sequence[int]) -> list[int]:
        if len(entries) > MAX_BATCH:
            raise CallerError(f"{len(entries)} entries in one append; at most {MAX_BATCH}")
        distinct_subjects(stream, entries, newest)
        if not entries:
            return []
        messages, _ = self._messages(stream, entries)
        return await self._through(self._appender(stream).append_if(messages, newest))

    async def largest(self, stream: Stream) -> int:
        return await self._appender(stream).limit() - _HEADERS_BYTES

    async def lease(self, stream: Stream, entry: Entry) -> Fence:
        (message,), _ = self._messages(stream, [entry])
        sequence = await self._through(self._appender(stream).lease(message))
        return Fence(entry.symbol.removeprefix("writer-"), message.subject.decode(), sequence)

    def _appender(self, stream: Stream) -> Appender:
        appender = self._appenders.get(stream)
        if appender is None:
            appender = self._appenders[stream] = Appender(self._link, self._clock, stream)
        return appender

    async def _through(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Finish the work though the caller be cancelled: the entries are stored whole and what we know stays right."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a cancelled caller does not ask for it

    def _messages(self, stream: Stream, entries: Sequence[Entry]) -> tuple[list[Message], frozenset[bytes]]:
        """The entries rendered, and the epochs they open."""
        out: list[Message] = []
        openers: set[bytes] = set()
        subjects = self._subjects
        epochs: dict[tuple[str, bytes], bytes] = {}
        for e in entries:
            body = e.body
            epoch = epochs.get((e.feed, e.epoch))
            if epoch is None:
                epoch = epochs[e.feed, e.epoch] = f"{e.feed}.{e.epoch.hex()}".encode()
            place = (stream, e.feed, body_kind_name(body), e.symbol)
            subject = subjects.get(place)
            if subject is None:
                if len(subjects) >= _SUBJECTS_KEPT:
                    subjects.clear()
                subject = subjects[place] = stream.subject(*place[1:]).encode()
            key = (e.frame, e.part)
            if key == (0, 0) and isinstance(body, Control) and body.action == "opened":
                openers.add(epoch)
            out.append(Message(subject, b"%b.%d.%d" % (epoch, e.frame, e.part), encode(e), epoch, key))
        return out, frozenset(openers)

    async def _ask(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._link.api(name, body)
        except (ApiError, NoResponders) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, ApiError) and error.status < 500:
            return JournalRefused(f"{self._link.where}: {error}")
        return JournalUnavailable(f"JetStream at {self._link.where} does not answer just now ({error or 'nobody listens'})")
