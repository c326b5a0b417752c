"""Events of aggregates as journal entries, and back: what `journal.recorder` writes and reads.

An event's entry has the domain as its feed, the version as its frame, the bytes of the aggregate's UUID as its epoch (of another id, and of
anything that is no event, a BLAKE2b-128) and canonical JSON as its data, with the library's state verbatim where that is JSON itself.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

import msgspec
from eventsourcing.persistence import DataError, StoredEvent, Tracking

from journal.entry import Entry, Event, Record, canonical_json
from journal.errors import BadObject

# Of an originator id, of an application's name: thrice as much when escaped, in a line of which NATS takes 4,096 bytes.
MAX_NAME_BYTES = 256
_MAX_NUMBER = (1 << 63) - 1


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of an event. `state` is verbatim if it is JSON, else it is `state64`."""

    id: str
    insert: str  # the nonce
    topic: str
    version: int
    state: msgspec.Raw = msgspec.Raw()
    state64: str = ""
    uuid: bool = False  # whether the id is a UUID in Python


class Tracked(msgspec.Struct, frozen=True):
    """Data of a tracking record."""

    application: str
    insert: str
    notification: int


class Insert(NamedTuple):
    """What the entries of one insert share. `said` is an event without data: type, who, why, causation and correlation."""

    domain: str
    nonce: str
    said: Event
    recv_ns: int
    mono_ns: int
    effective_ns: int
    day: int


def event_entry(event: StoredEvent, insert: Insert) -> Entry:
    """Raises `DataError`."""
    originator, version, kind = event.originator_id, event.originator_version, insert.said.type
    name = _checked("originator id", str(originator))
    fact = Fact(name, insert.nonce, event.topic, _counted("version", version), uuid=isinstance(originator, UUID))
    if _is_json(event.state):
        fact = msgspec.structs.replace(fact, state=msgspec.Raw(event.state))
    else:
        fact = msgspec.structs.replace(fact, state64=b64encode(event.state).decode())
    epoch = originator.bytes if isinstance(originator, UUID) and kind == "events" else _hashed(kind, name)
    return _entry(insert, kind, canonical_json(fact), f"{name}.{version}", epoch, version)


def tracking_entry(tracking: Tracking, insert: Insert) -> Entry:
    """Raises `DataError`."""
    name, number = _checked("application name", tracking.application_name), _counted("notification id", tracking.notification_id)
    return _entry(insert, "tracking", canonical_json(Tracked(name, insert.nonce, number)), name, _hashed("tracking", name), number)


_DECODER = msgspec.json.Decoder(Fact)  # made once, since two threads that are the first to decode a type may crash


def stored_event(record: Record) -> StoredEvent:
    """The event of a record. Raises `BadObject`."""
    body = record.entry.body
    try:
        fact = _DECODER.decode(body.data if isinstance(body, Event) else b"")
        state = b64decode(fact.state64, validate=True) if fact.state64 else bytes(fact.state)
        return StoredEvent(UUID(fact.id) if fact.uuid else fact.id, fact.version, fact.topic, state)
    except ValueError as error:
        raise BadObject(f"the entry at sequence {record.sequence} is no event of an aggregate: {error}") from error


def _entry(insert: Insert, kind: str, data: bytes, symbol: str, epoch: bytes, frame: int) -> Entry:  # noqa: PLR0917
    body = msgspec.structs.replace(insert.said, type=kind, data=data)
    return Entry(body, insert.domain, symbol, epoch, frame, insert.recv_ns, insert.mono_ns, insert.effective_ns, insert.day)


def _checked(what: str, name: str) -> str:
    if not 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES:
        raise DataError(f"{what} of {len(name)} characters: 1 to {MAX_NAME_BYTES} bytes")
    return name


def _counted(what: str, number: int) -> int:
    if not 0 <= number <= _MAX_NUMBER:
        raise DataError(f"{what} {number}: 0 to {_MAX_NUMBER}")
    return number


def _hashed(kind: str, name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16, person=kind.encode()).digest()


def _is_json(state: bytes) -> bool:
    """Whether `state` can stand in a JSON document and be found there byte for byte."""
    try:
        msgspec.json.decode(state)
    except (ValueError, RecursionError):
        return False
    return state.strip() == state
