"""What the last runs of a writer left behind in its stream: connections that nobody closed, and when one last wrote.

A run that was killed before it could say what the run before it missed has said nothing: then that run is looked at too, and so on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from journal.entry import Body, Control, Entry, Gap, Record
from journal.protocols import JournalReader
from journal.subjects import Stream

# Entries looked at in one read, newest first. What the writer wrote last is near the end unless others wrote much since.
_WINDOW = 2_000


class Predecessor(NamedTuple):
    """`dead` are epochs (hex) without a ``closed`` entry; `last_ns` is when the run that captured last read its last frame.

    Not when it said that it stopped: what was in the socket then nobody has read.
    """

    dead: list[str]
    last_ns: int


async def find(journal: JournalReader, stream: Stream, feed: str, writer: str, lease: Record) -> Predecessor:
    """The run that took `lease`. Call when its successor holds the lease: nothing of it can follow any more."""
    controls = stream.subject(feed, "control", "").rpartition(".")[0] + ".*"
    gaps = stream.subject(feed, "gap", "")
    while True:
        epochs: dict[bytes, bool] = {lease.entry.epoch: False}  # of that run -> a connection that is open
        spoke = False
        async for records in journal.read(stream, start=lease.sequence, subjects=[controls, gaps]):
            for _, entry in records:
                _note(entry, writer, epochs)
                spoke = spoke or (isinstance(entry.body, Gap) and entry.epoch == lease.entry.epoch)
        previous = detail_of(lease.entry.body).get("previous", 0)
        info = await journal.info(stream)
        if spoke or len(epochs) > 1 or not info or previous < info.first:
            break
        async for records in journal.read(stream, start=previous, end=previous):
            lease = records[-1]
    last_ns = await _last_ns(journal, stream, epochs, lease)
    return Predecessor([epoch.hex() for epoch, is_open in epochs.items() if is_open], last_ns)


def _note(entry: Entry, writer: str, epochs: dict[bytes, bool]) -> None:
    body = entry.body
    if not isinstance(body, Control) or body.action not in {"opened", "closed"}:
        return
    detail = detail_of(body)
    if body.action == "opened":
        if detail.get("writer") == writer and detail.get("kind") == "connection":
            epochs[entry.epoch] = True
    elif entry.epoch in epochs:
        epochs[entry.epoch] = False


async def _last_ns(journal: JournalReader, stream: Stream, epochs: dict[bytes, bool], lease: Record) -> int:
    info = await journal.info(stream)
    end = info.last if info else 0
    while end > lease.sequence:
        start = max(lease.sequence, end - _WINDOW + 1, info.first if info else 1)
        found = 0
        async for records in journal.read(stream, start=start, end=end):
            for record in records:
                if record.entry.raw and record.entry.epoch in epochs:
                    found = record.entry.recv_ns
        if found:
            return found
        end = start - 1
    return lease.entry.recv_ns


def detail_of(body: Body) -> dict[str, Any]:
    """The body's detail, {} when it has none that is a JSON object."""
    if not isinstance(body, Control):
        return {}
    try:
        detail = msgspec.json.decode(body.detail)
    except msgspec.DecodeError:
        return {}
    return detail if isinstance(detail, dict) else {}
