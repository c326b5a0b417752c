"""Events of ``{env}_system`` that say how something is: appended when it changes, and not when it is said again."""

from __future__ import annotations

from hashlib import blake2b

from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Entry, Event, Record
from journal.errors import Superseded
from journal.protocols import Journal
from journal.subjects import Stream

_TRIES = 8  # each lost one is another process's event


async def say(journal: Journal, env: str, key: str, event: Event, *, clock: Clock, days: DayRule) -> Record:
    """Append `event` unless the newest of its type and `key` has the same data; the one that is the newest then.

    Any number of processes may do so at once. Effective times do not go back where the clock does. Raises `StoreError`.
    """
    stream = Stream(env, domain="system")
    subject = stream.subject("", event.type, key)
    epoch = blake2b(f"{event.type}:{key}".encode(), digest_size=16).digest()
    await journal.ensure(stream)
    for _ in range(_TRIES):
        newest = await journal.last(stream, subject)
        if newest and isinstance(newest.entry.body, Event) and newest.entry.body.data == event.data:
            return newest
        recv_ns = clock.wall_ns()
        effective_ns = max(recv_ns, newest.entry.effective_ns if newest else 0)
        frame = newest.entry.frame + 1 if newest else 1
        entry = Entry(event, "system", key, epoch, frame, recv_ns, clock.mono_ns(), effective_ns, days.day_of(effective_ns))
        try:
            (sequence,) = await journal.append_if(stream, [entry], [newest.sequence if newest else 0])
        except Superseded:
            continue
        return Record(sequence, entry)
    raise Superseded(subject)
