"""Reading a JetStream stream as it is stored: overlapping pulls on a throw-away consumer.

What is delivered is only what was asked for, so a slow reader holds at most two pulls in memory and the server the rest. The consumer's own
numbering shows a message lost on the way; then, and whenever the connection or the consumer is gone, a new consumer starts where the
last chunk ended.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from journal.clock import Clock
from journal.errors import HoleInStream, JournalUnavailable
from journal.link import ApiError, Link, NoResponders, Subscription
from journal.subjects import matches

PULL_MESSAGES = 1_000
PULL_BYTES = 4 << 20  # two outstanding: 8 MiB a reader, or two messages if the server allows larger ones
_EXPIRES_S = 30
_HEARTBEAT_S = 2
_SILENCE_S = 3 * _HEARTBEAT_S
_IDLE_DELETE_S = 300
_POLL_FIRST_S, _POLL_MOST_S = 0.05, 1.0

# A pull that ran out of time, or has its messages or bytes; heartbeats are 100, anything else ends the consumer.
_PULL_ENDED = (b"404", b"408", b"409 Batch Completed", b"409 Message Size Exceeds MaxBytes")
NO_MESSAGE, NO_STREAM = 10037, 10059
_OVERLAP = frozenset({10136, 10138})


class Stored(NamedTuple):
    """One message as stored; `headers` is the raw block or None."""

    sequence: int
    subject: bytes
    headers: bytes | None
    payload: bytes


class Bounds(NamedTuple):
    """Of a stream as JetStream reports it: `first` is `last` + 1 when it is empty."""

    first: int
    last: int
    bytes: int
    config: dict[str, Any]


async def bounds(link: Link, stream: str) -> Bounds | None:
    """None when the stream does not exist. Raises `JournalUnavailable`."""
    try:
        answer = await link.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code == NO_STREAM:
            return None
        raise JournalUnavailable(f"{stream}: {error}") from error
    except NoResponders as error:
        raise JournalUnavailable(f"nothing answers for JetStream at {link.where}") from error
    state = answer["state"]
    last = state["last_seq"]
    return Bounds(state["first_seq"] if state["messages"] else last + 1, last, state["bytes"], answer["config"])


async def fetch(link: Link, stream: str, **query: Any) -> Stored | None:
    """One message by `seq`, `last_by_subj`, or `seq` and `next_by_subj`, from the stream's leader. None: no such message or stream."""
    try:
        message = (await link.api(f"STREAM.MSG.GET.{stream}", query))["message"]
    except ApiError as error:
        if error.code in (NO_MESSAGE, NO_STREAM):
            return None
        raise JournalUnavailable(f"{stream}: {error}") from error
    except NoResponders as error:
        raise JournalUnavailable(f"nothing answers for JetStream at {link.where}") from error
    headers = message.get("hdrs")
    return Stored(
        message["seq"],
        message["subject"].encode(),
        base64.b64decode(headers) if headers else None,
        base64.b64decode(message.get("data", "")),
    )


class _Lost(Exception):
    """The consumer or the connection is gone, or a message was missed: start another consumer."""


class _Pull:
    """One consumer and what it has delivered. Ends with `_Lost`; then make another."""

    def __init__(self, link: Link, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._inbox = b""
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._buffer: list[tuple[bytes, bytes, bytes, bytes | None]] = []
        self._asked: dict[bytes, int] = {}  # pull -> messages still to come; served in order
        self._pulls = 0
        self._delivered = 0
        self._woken = asyncio.Event()
        self._lost = False

    async def open(self, start: int, filters: Sequence[str]) -> None:
        """Raises `ApiError`, `NoResponders`, `JournalUnavailable`."""
        self._inbox, self._subscription = await self._link.subscribe(self._sink, self._lose)
        config = {
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _IDLE_DELETE_S * 1_000_000_000,
        }
        if filters:
            config["filter_subjects"] = list(filters)
        answer = await self._link.api(f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config})
        self._consumer = answer["name"]

    def close(self) -> None:
        if self._subscription:
            self._subscription.cancel()
        if self._consumer and not self._lost:
            self._link.send(b"PUB $JS.API.CONSUMER.DELETE.%b.%b 0\r\n\r\n" % (self._stream.encode(), self._consumer.encode()))

    def _lose(self) -> None:
        self._lost = True
        self._woken.set()

    def _sink(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        if subject.startswith(self._inbox):
            status = headers[9 : headers.index(b"\r\n")] if headers else b""
            if status.startswith(_PULL_ENDED):
                self._asked.pop(subject, None)
            elif not status.startswith(b"100"):
                self._lost = True  # consumer deleted, leader changed, server shut down
        else:
            self._buffer.append((reply, subject, payload, headers))
            first = next(iter(self._asked), None)
            if first is not None:
                if self._asked[first] == 1:
                    del self._asked[first]
                else:
                    self._asked[first] -= 1
        if not self._woken.is_set():
            self._woken.set()

    def _ask(self) -> None:
        """Keep the next pull at the server while the previous one is delivered."""
        while len(self._buffer) + sum(self._asked.values()) <= PULL_MESSAGES and len(self._asked) < 2:
            self._pulls += 1
            inbox = b"%b.%d" % (self._inbox, self._pulls)
            self._asked[inbox] = PULL_MESSAGES
            most = max(PULL_BYTES, self._link.max_payload * 2)
            body = b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}' % (
                PULL_MESSAGES, most, _EXPIRES_S * 1_000_000_000, _HEARTBEAT_S * 1_000_000_000,
            )  # fmt: skip
            name = b"%b.%b" % (self._stream.encode(), self._consumer.encode())
            self._link.send(b"PUB $JS.API.CONSUMER.MSG.NEXT.%b %b %d\r\n%b\r\n" % (name, inbox, len(body), body))

    async def take(self) -> list[Stored]:
        """What has come, empty after a heartbeat without news. Raises `_Lost`."""
        if not self._buffer:
            if self._lost:
                raise _Lost
            self._ask()
            self._woken.clear()
            try:
                async with asyncio.timeout(_SILENCE_S):
                    await self._woken.wait()
            except TimeoutError:
                raise _Lost from None
        arrived, self._buffer = self._buffer, []
        if not self._lost:
            self._ask()
        elif not arrived:
            raise _Lost
        out = []
        for reply, subject, payload, headers in arrived:
            # $JS.ACK.STREAM.CONSUMER.DELIVERIES.SSEQ.CSEQ.TIME.PENDING; servers with domains put two tokens more before STREAM.
            tokens = reply.split(b".")
            at = 5 if len(tokens) == 9 else 7
            self._delivered += 1
            if int(tokens[at + 1]) != self._delivered:
                self._lost = True
                break
            out.append(Stored(int(tokens[at]), subject, headers, payload))
        return out


async def stored(
    link: Link, clock: Clock, stream: str, *, start: int = 1, end: int | None = None, filters: Sequence[str] = (), follow: bool = False
) -> AsyncGenerator[list[Stored], None]:
    """`JournalReader.read` before decoding: the same arguments, rules and errors. Close it (``aclose``) when leaving early."""
    reader = _Reader(link, clock, stream, at=max(start, 1), end=end, filters=filters, follow=follow)
    try:
        while True:
            try:
                if not await reader.ready():
                    return
                while (chunk := await reader.next()) is not None:
                    if chunk:
                        yield chunk
            except (_Lost, JournalUnavailable):
                await reader.pause()
            else:
                return
    finally:
        reader.close()


class _Reader:
    """One read: where it is, and the consumer that serves it now."""

    def __init__(self, link: Link, clock: Clock, stream: str, *, at: int, end: int | None, filters: Sequence[str], follow: bool) -> None:
        self._link, self._clock, self._stream = link, clock, stream
        self._at = at  # everything below has been delivered
        self._start = at
        self._end = end
        self._filters = tuple(filters)
        self._follow = follow
        self._pull: _Pull | None = None
        self._delay = _POLL_FIRST_S
        self._bounded = follow
        self._sift = False  # the server does not filter, `next` does
        self._last: Stored | None = None  # what was delivered last

    async def pause(self) -> None:
        self.close()
        await self._clock.sleep(self._delay)
        self._delay = min(self._delay * 2, _POLL_MOST_S)

    def close(self) -> None:
        if self._pull:
            with contextlib.suppress(JournalUnavailable):  # nothing to tell a server that is gone
                self._pull.close()
            self._pull = None

    async def ready(self) -> bool:
        """Open a consumer; False when there is nothing (more) to read."""
        if self._end is not None and self._at > self._end:
            return False
        while (found := await bounds(self._link, self._stream)) is None:
            if not self._follow:
                return False
            await self.pause()
        if not self._bounded:
            self._end = await self._last_wanted(found)
            self._bounded = True
        if self._end is not None and self._at > self._end:
            return False
        self._check(found)
        await self._check_last()
        pull = _Pull(self._link, self._stream)
        self._pull = pull
        # A followed, filtered read that has an end sees all messages, or it would not know that the end has passed.
        self._sift = self._sift or (bool(self._filters) and self._follow and self._end is not None)
        try:
            await pull.open(self._at, () if self._sift else self._filters)
        except ApiError as error:
            self._sift = self._sift or error.code in _OVERLAP  # it takes no overlapping patterns
            raise JournalUnavailable(f"{self._stream}: {error}") from error
        except NoResponders as error:
            raise JournalUnavailable(f"nothing answers for JetStream at {self._link.where}") from error
        return True

    async def _last_wanted(self, found: Bounds) -> int:
        """The last sequence this read will deliver."""
        last = found.last
        if self._filters:
            newest = [await fetch(self._link, self._stream, last_by_subj=p) for p in self._filters]
            last = max((m.sequence for m in newest if m), default=0)
        return last if self._end is None else min(last, self._end)

    def _check(self, found: Bounds) -> None:
        if self._at > self._start and found.last < self._at - 1:
            raise HoleInStream(
                f"{self._stream} ends at {found.last} but {self._at - 1} was read: the server lost entries or the stream was made anew;"
                " compare it with the archive"
            )
        if not self._filters and self._at < found.first:
            raise HoleInStream(
                f"{self._stream} begins at {found.first}; {self._at} is not there any more: read from {found.first}, or older entries from"
                " the archive"
            )

    async def _check_last(self) -> None:
        """Sequences alone do not tell a stream that was made anew, or restored, and has grown past where this read is."""
        if (last := self._last) is None:
            return
        found = await fetch(self._link, self._stream, seq=last.sequence)
        if found and (found.subject, found.payload) != (last.subject, last.payload):  # else it was purged
            raise HoleInStream(f"{self._stream}:{last.sequence} is another entry than was read: the stream was made anew or restored since")

    async def next(self) -> list[Stored] | None:
        """The next run, empty if it only was time to look; None at the end."""
        if self._end is not None and self._at > self._end:
            return None
        assert self._pull is not None  # noqa: S101 `ready` comes first
        arrived = await self._pull.take()
        if not arrived:
            return await self._idle()
        self._delay = _POLL_FIRST_S
        if arrived[0].sequence < self._at:
            arrived = [m for m in arrived if m.sequence >= self._at]
            if not arrived:
                return []
        last = arrived[-1].sequence
        # Sequences ascend, so a run from `at` as long as it is wide has no hole.
        if not self._filters and (arrived[0].sequence != self._at or last - self._at != len(arrived) - 1):
            expected = next(n for n, m in enumerate(arrived, self._at) if m.sequence != n)
            raise HoleInStream(f"{self._stream}:{expected} is missing; compare the stream with the archive")
        self._at = last + 1
        self._last = arrived[-1]
        if self._end is not None and last > self._end:
            arrived = [m for m in arrived if m.sequence <= self._end]
        return [m for m in arrived if self._wanted(m)] if self._sift else arrived

    def _wanted(self, message: Stored) -> bool:
        subject = message.subject.decode()
        return any(matches(pattern, subject) for pattern in self._filters)

    async def _idle(self) -> list[Stored] | None:
        """Nothing came for a heartbeat: see that what is waited for can still come."""
        found = await bounds(self._link, self._stream)
        if found is None:
            raise _Lost
        self._check(found)
        if not self._follow and self._end is not None and found.first > self._end:
            return None  # a filtered read whose rest was purged meanwhile
        return []
