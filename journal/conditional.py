"""Appending to a JetStream stream on condition that some subjects have not changed.

Every message says which is the newest on its own subject, and the server takes all or none, so nothing has to be read before. On any doubt
(refused, no answer) the first message after the expected one on the first subject tells: it is ours, or ours are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from journal import cursor
from journal.batch import Message, expect_subject, message_id
from journal.clock import Clock
from journal.cursor import Stored
from journal.errors import IdConflict, JournalRefused, JournalUnavailable, Superseded
from journal.sender import LookAgain, Sender

# Half a second in all: rounds follow a batch that was seen in part, or an expectation refused though nothing has changed, which is how
# a batch looks that is being stored just now.
_ROUNDS = 8
_PAUSE_FIRST_S = 0.002


async def append_if(sender: Sender, clock: Clock, messages: Sequence[Message], newest: Sequence[int]) -> list[int]:
    """`Journal.append_if` of rendered entries. Each call stands for itself and may run beside others."""
    await sender.know()
    name = sender.stream.name
    if len(messages) > 1 and not sender.atomic:
        raise JournalRefused(f"stream {name} has no atomic batches: set allow_atomic on it")
    expectations = [expect_subject(n) for n in newest]
    duplicate, lost = False, None
    for attempt in range(_ROUNDS):
        first = 0
        if not duplicate:  # a server that knows an id forgets it some time, and would then store it twice
            try:
                first = await sender.send(messages, expectations)
            except LookAgain as doubt:
                duplicate, lost = doubt.duplicate, doubt.lost
        if not first:
            first, seen = await _look(sender, clock, messages, newest[0])
            if not seen:
                await _check(sender, messages, newest)
                if lost:
                    raise lost
        if first:
            return list(range(first, first + len(messages)))
        await clock.sleep(_PAUSE_FIRST_S * 2**attempt)
    await _check(sender, messages, newest)
    if duplicate:
        raise IdConflict(f"{name} has an entry of this append ({messages[0].id.decode()}, …) where the append does not expect it")
    raise JournalUnavailable(f"{name}: refused {_ROUNDS} times running though nothing had changed")


async def _look(sender: Sender, clock: Clock, messages: Sequence[Message], expected: int) -> tuple[int, int]:
    """The sequence of the first message if all are stored; and that of what may be the first of them, 0 if none of them can be."""
    name, subject = sender.stream.name, messages[0].subject.decode()
    found = await cursor.fetch(sender.link, name, seq=expected + 1, next_by_subj=subject)
    if not found or not _same(messages[0], found):
        return 0, 0
    first, last, rest = found.sequence, found.sequence + len(messages) - 1, list(messages[:0:-1])
    if rest:
        chunks = cursor.stored(sender.link, clock, name, start=first + 1, end=last, filters=(">",))
        async with aclosing(chunks):
            async for chunk in chunks:
                if not all(_same(rest.pop(), m) for m in chunk):
                    return 0, 0
    return (0 if rest else first), first


async def _check(sender: Sender, messages: Sequence[Message], newest: Sequence[int]) -> None:
    """Raise `Superseded` for the first subject that is not as expected."""
    for message, sequence in zip(messages, newest, strict=True):
        subject = message.subject.decode()
        last = await cursor.fetch(sender.link, sender.stream.name, last_by_subj=subject)
        if (last.sequence if last else 0) != sequence:
            raise Superseded(subject)


def _same(message: Message, stored: Stored) -> bool:
    return (message.subject, message.id, message.payload) == (stored.subject, message_id(stored.headers), stored.payload)
