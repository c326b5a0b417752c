"""Digests and checkpoints as entries of ``{env}_system``, and back.

They are functions of what was folded alone: a refold makes byte-identical entries, so appending them again changes nothing, and a
refold that comes out differently meets `IdConflict`.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from typing import NamedTuple

import msgspec
import zstandard

from journal.entry import Entry, Event, canonical_json
from journal.errors import BadObject, NotFound
from journal.protocols import Storage
from journal.subjects import Stream, escape

FEED = "system"
DIGEST, CHECKPOINT = "digest", "checkpoint"
# Digests of each projection are compared this often; checkpoints bound how much is folded again after a crash.
DIGEST_EVERY = 65_536
CHECKPOINT_EVERY = 262_144
NOTHING = ""  # the opening of a stream's first day


class Digest(NamedTuple):
    """`projection` at `version`, folded over `day` of `stream` from the state with digest `opening` up to `sequence`."""

    projection: str
    version: int
    stream: str
    day: int
    sequence: int
    digest: str
    effective_ns: int
    opening: str

    @property
    def place(self) -> tuple[str, int]:
        return self.projection, self.sequence


class Checkpoint(NamedTuple):
    """A digest whose state is in storage under `object`. `closing`: the day's last entry is folded and a later day has begun."""

    digest: Digest
    object: str
    closing: bool


class _Data(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    projection: str
    version: int
    stream: str
    day: int
    sequence: int
    digest: str
    opening: str
    object: str = ""
    closing: bool = False


_DATA = msgspec.json.Decoder(_Data)  # made once, since two threads that are the first to decode a type may crash


def digest_entry(digest: Digest) -> Entry:
    return _entry(DIGEST, digest, "", closing=False)


def checkpoint_entry(checkpoint: Checkpoint) -> Entry:
    return _entry(CHECKPOINT, checkpoint.digest, checkpoint.object, closing=checkpoint.closing)


def _entry(kind: str, d: Digest, key: str, *, closing: bool) -> Entry:
    data = _Data(d.projection, d.version, d.stream, d.day, d.sequence, d.digest, d.opening, key, closing)
    # The opening is part of the identity: an import of an earlier day changes what a later one starts from, and that is a new fact.
    name = f"{'closing' if closing else kind}:{d.projection}:{d.version}:{d.stream}:{d.day}:{d.opening}"
    epoch = blake2b(name.encode(), digest_size=16).digest()
    body = Event(kind, canonical_json(data))
    return Entry(body, FEED, d.projection, epoch, d.sequence, d.effective_ns, 0, d.effective_ns, d.day)


def parse(entry: Entry) -> Digest | Checkpoint | None:
    """What a system entry says, None when it is neither. Raises `BadObject` for one that is malformed."""
    body = entry.body
    if not isinstance(body, Event) or body.type not in (DIGEST, CHECKPOINT):
        return None
    try:
        data = _DATA.decode(body.data)
    except msgspec.MsgspecError as error:
        raise BadObject(f"system entry {entry.id} is no {body.type}: {error}") from error
    digest = Digest(
        data.projection, data.version, data.stream, data.day, data.sequence, data.digest, entry.effective_ns, data.opening
    )  # fmt: skip
    return digest if body.type == DIGEST else Checkpoint(digest, data.object, data.closing)


def subject(system: Stream, kind: str, projection: str) -> str:
    """Where the entries of one projection are; ``*`` for all of them."""
    return f"{system.env}.{system.domain}.{kind}.{'*' if projection == '*' else escape(projection)}"


def store(storage: Storage, env: str, projection: str, snapshot: bytes) -> str:
    """Keep a snapshot; its object key. The name is the content's SHA-256, the object is compressed: compressors change, names must not."""
    key = f"{env}/_snapshots/{escape(projection)}/{sha256(snapshot).hexdigest()}"
    storage.put(key, zstandard.ZstdCompressor(level=3).compress(snapshot), if_absent=True)
    return key


def load(storage: Storage, key: str) -> bytes:
    """The snapshot of a checkpoint. Raises `BadObject` when it is missing or not what its name says."""
    try:
        data = zstandard.ZstdDecompressor().decompress(storage.get(key))
    except NotFound as error:
        raise BadObject(f"snapshot {key} is missing; it is made again by a fold from an earlier checkpoint") from error
    except zstandard.ZstdError as error:
        raise BadObject(f"snapshot {key} cannot be decompressed: {error}") from error
    if sha256(data).hexdigest() != key.rpartition("/")[2]:
        raise BadObject(f"snapshot {key} does not match its name")
    return data
