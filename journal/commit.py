"""Appending to one JetStream stream, each entry once.

An append takes these steps:

1. sort the entries by what the stream's `StreamIndex` knows into those stored already (their content is compared) and fresh ones;
2. send the fresh ones as one atomic batch, expecting the writer's lease to be ours, or without a fence that nobody has appended since
   we looked;
3. on any doubt (refused as duplicate, somebody else was faster, no answer) read what was appended meanwhile and begin again.

Which ids the stream holds of an epoch this handle has not written is found from the epoch's opener (``control`` ``epoch-HEX``, its first
entry in the stream): without one the epoch is new if the append opens it, else the stream is read once for its ids (3 µs an entry).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from journal import cursor
from journal.batch import Message, expect_last, expect_lease, message_id
from journal.clock import Clock
from journal.codec import decode
from journal.conditional import append_if
from journal.cursor import Stored
from journal.errors import Fenced, IdConflict, JournalUnavailable
from journal.index import TRAILS, Found, StreamIndex, Trail, split_id
from journal.link import Link
from journal.protocols import Fence
from journal.sender import LookAgain, Sender
from journal.subjects import Stream

# A round follows news from the stream; more in a row than this is a crowd of writers without leases.
_ROUNDS = 16


class Appender:
    """One handle's writing to one stream, one append at a time."""

    def __init__(self, link: Link, clock: Clock, stream: Stream) -> None:
        self._link = link
        self._clock = clock
        self._stream = stream
        self._index = StreamIndex()
        self._turn = asyncio.Lock()
        self._sender = Sender(link, stream)

    async def append(self, messages: Sequence[Message], openers: frozenset[bytes], fence: Fence | None) -> list[int]:
        """Sequences of `messages`, one each. `openers`: the epochs that this append opens."""
        async with self._turn:
            for _ in range(_ROUNDS):
                try:
                    await self._learn(messages, openers, leased=fence is not None)
                    stored, fresh = await self._sort(messages)
                    if fresh:
                        await self._store(list(fresh.values()), stored, fence)
                    elif fence:
                        await self._check(fence)
                    return [stored[m.id] for m in messages]
                except LookAgain as doubt:
                    await self._settle(messages, doubt)
                except IdConflict:
                    if fence:
                        await self._check(fence)  # for a writer that has been replaced, that is the news
                    raise
        raise JournalUnavailable(f"{self._stream.name}: other writers were faster {_ROUNDS} times running; take a lease")

    async def lease(self, message: Message) -> int:
        """Make `message` the newest on its subject; its sequence (of the first time, if it has been appended before).

        Its id is looked for on this subject alone: a lease costs the same in a stream of any length.
        """
        subject = message.subject.decode()
        async with self._turn:
            await self._sender.bounds()
            for _ in range(_ROUNDS):
                newest = 0
                async for found in self._scan(1, None, subject):
                    for m in found:
                        newest = m.sequence
                        if message_id(m.headers) == message.id:
                            self._compare(message, m.sequence, m.payload)
                            return m.sequence
                try:
                    first = await self._send([message], expect_lease(subject, newest))
                except LookAgain as doubt:
                    if doubt.lost:
                        await self._clock.sleep(0)
                    continue
                if self._index.seen >= 0:
                    self._index.appended([message], first, first)
                return first
        raise JournalUnavailable(f"{self._stream.name}: the lease {subject} changed hands {_ROUNDS} times running")

    async def append_if(self, messages: Sequence[Message], newest: Sequence[int]) -> list[int]:
        """`Journal.append_if`: it uses no index and waits for no turn."""
        try:
            return await append_if(self._sender, self._clock, messages, newest)
        finally:
            self._index.unsure = True

    async def limit(self) -> int:
        """Bytes of the largest message the stream takes, headers included."""
        return await self._sender.limit()

    # What is there already

    async def _learn(self, messages: Sequence[Message], openers: frozenset[bytes], *, leased: bool) -> None:
        """Have a trail for each epoch among `messages`."""
        index = self._index
        if index.seen < 0:
            index.seen = (await self._sender.bounds()).last
            index.forget()
        elif index.unsure:
            await self._catch_up()
        if not leased:
            await self._cover(index.low)  # others may write these epochs too
        epochs = dict.fromkeys(m.epoch for m in messages)
        if len(index.trails) >= TRAILS and not all(map(index.known, epochs)):
            index.forget()  # once, before the first of them: all must be known together
        for epoch in epochs:
            if index.known(epoch):
                continue
            feed, _, digits = epoch.decode().rpartition(".")
            opener = self._stream.subject(feed, "control", f"epoch-{digits}")
            found = await cursor.fetch(self._link, self._stream.name, last_by_subj=opener)
            if found is not None:
                await self._cover(found.sequence)
            elif epoch not in openers:
                await self._cover(0)
            index.trails.setdefault(epoch, Trail(whole=True)).whole = True

    async def _cover(self, low: int) -> None:
        """Read ids until every epoch with an entry from `low` to `seen` has its trail; 0: from the beginning."""
        index = self._index
        if index.high < index.seen:
            async for chunk in self._ids(index.high + 1, index.seen):
                index.note(chunk, new=True)
            index.high = index.seen
        if low < index.low:
            earlier = StreamIndex()
            async for chunk in self._ids(max(low, 1), index.low - 1):
                earlier.note(chunk, new=True)
            for epoch, trail in earlier.trails.items():
                index.trails.setdefault(epoch, Trail(whole=False)).precede(trail)
            index.low = low

    async def _catch_up(self) -> None:
        """Read the ids of what was appended since we looked."""
        index = self._index
        last = (await self._sender.bounds()).last
        if last < index.seen:  # the server has lost what it had acknowledged; what we know is void
            index.seen = last
            index.forget()
        contiguous = index.high == index.seen
        async for chunk in self._ids(index.seen + 1, last):
            index.note(chunk, new=contiguous)
        if contiguous:
            index.high = last
        index.seen = last
        index.unsure = False

    async def _settle(self, messages: Sequence[Message], doubt: LookAgain) -> None:
        """Find out what has become of `messages`; return to have them sorted again."""
        index = self._index
        before = index.seen
        await self._catch_up()
        if doubt.lost:
            wanted = {m.epoch for m in messages}
            if not any(index.trails[e].upto > before for e in wanted if e in index.trails):
                raise doubt.lost
        if doubt.duplicate and index.seen == before:
            # The server knows an id that we do not find where we looked: look everywhere.
            index.forget()
            await self._cover(0)
            known = [m for m in messages if (t := index.trails.get(m.epoch)) and m.key <= t.frontier]
            if not known:
                raise JournalUnavailable(
                    f"{self._stream.name} had entries of this append, since purged; it takes them again after its dedupe window"
                )

    async def _sort(self, messages: Sequence[Message]) -> tuple[dict[bytes, int], dict[bytes, Message]]:
        """Sequences of those that are stored, and the others in order, each once. Raises `IdConflict`."""
        trails = self._index.trails
        stored: dict[bytes, int] = {}
        doubtful: dict[bytes, list[Message]] = {}
        for message in messages:
            if message.key <= trails[message.epoch].frontier:
                doubtful.setdefault(message.epoch, []).append(message)
        for epoch, some in doubtful.items():
            await self._find(trails[epoch], some, stored)
        fresh: dict[bytes, Message] = {}
        for message in messages:
            if message.id not in stored and fresh.setdefault(message.id, message).payload != message.payload:
                raise IdConflict(f"entry {message.id.decode()} is twice in one append, with different content")
        return stored, fresh

    async def _find(self, trail: Trail, messages: Sequence[Message], stored: dict[bytes, int]) -> None:
        """Look for `messages`, of one epoch, in the stream; compare the content of those that are there."""
        wanted: dict[bytes, list[Message]] = {}
        for message in messages:
            wanted.setdefault(message.id, []).append(message)
        start = min(trail.look_from(m.key) for m in messages)
        highest = max(m.key for m in messages)
        epoch = messages[0].epoch + b"."
        async for chunk in self._scan(start, self._index.seen):
            for m in chunk:
                entry_id = message_id(m.headers)
                if not entry_id.startswith(epoch):
                    continue
                for message in wanted.pop(entry_id, ()):
                    self._compare(message, m.sequence, m.payload)
                    stored[entry_id] = m.sequence
                if not wanted:
                    return
                if trail.ordered and (parts := split_id(entry_id)) and parts[1] > highest:
                    return

    def _compare(self, message: Message, sequence: int, payload: bytes) -> None:
        if payload != message.payload:
            raise IdConflict(f"entry {message.id.decode()} is already at {self._stream.name}:{sequence} with other content")

    async def _ids(self, start: int, end: int) -> AsyncGenerator[list[Found], None]:
        async for chunk in self._scan(start, end):
            found: list[Found] = []
            for m in chunk:
                if parts := split_id(message_id(m.headers)):
                    epoch, key = parts
                    # Only an opener's subject ends with its epoch.
                    opener = key == (0, 0) and m.subject.endswith(b".control.epoch-" + epoch[-32:])
                    found.append((epoch, key, m.sequence, opener))
            yield found

    async def _scan(self, start: int, end: int | None, subject: str = ">") -> AsyncGenerator[list[Stored], None]:
        """Filtered even when it is for everything: single entries of a domain stream may have been purged."""
        if end is not None and start > end:
            return
        chunks = cursor.stored(self._link, self._clock, self._stream.name, start=start, end=end, filters=(subject,))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    # Sending

    async def _store(self, fresh: list[Message], stored: dict[bytes, int], fence: Fence | None) -> None:
        """Append `fresh` and add their sequences to `stored`. Raises `LookAgain`."""
        for group in [fresh] if self._sender.atomic else [[m] for m in fresh]:
            expectation = expect_lease(fence.subject, fence.sequence) if fence else expect_last(self._index.seen)
            try:
                first = await self._send(group, expectation)
            except LookAgain:
                if fence:
                    await self._check(fence)
                raise
            self._index.appended(group, first, first + len(group) - 1)
            for sequence, message in enumerate(group, first):
                stored[message.id] = sequence

    async def _send(self, messages: Sequence[Message], expectation: bytes) -> int:
        try:
            return await self._sender.send(messages, [expectation])
        except LookAgain as doubt:
            if doubt.lost:
                self._index.unsure = True
            raise

    async def _check(self, fence: Fence) -> None:
        """Raise `Fenced` unless the lease is still ours."""
        newest = await cursor.fetch(self._link, self._stream.name, last_by_subj=fence.subject)
        if newest is None or newest.sequence != fence.sequence:
            detail = getattr(decode(newest.payload).body, "detail", "") if newest else ""
            raise Fenced(f"writer {fence.writer} lost its lease on {self._stream.name} to {detail or 'nobody: it was purged'}", detail)
