"""The small protocols infrastructure stands behind. Every implementation passes the contract suites under ``tests/``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from journal.entry import Entry, Record
from journal.streams import Change
from journal.subjects import Stream

MAX_BATCH = 1_000  # entries of one atomic append; JetStream's own limit (1,001 is error 10199)


class Fence(NamedTuple):
    """Proof of a lease: appends carrying it are refused once another instance has taken `subject`."""

    writer: str
    subject: str
    sequence: int  # of the lease entry


class StreamInfo(NamedTuple):
    """`first` is 1 and `last` 0 for an empty stream; after a purge `first` is the lowest kept sequence."""

    stream: Stream
    first: int
    last: int
    bytes: int


class JournalReader(Protocol):
    """Reads streams. One reader may serve any number of concurrent reads."""

    def read(
        self,
        stream: Stream,
        *,
        start: int = 1,
        end: int | None = None,
        subjects: Sequence[str] = (),
        follow: bool = False,
    ) -> AsyncIterator[list[Record]]:
        """Yield non-empty runs of records in sequence order, from `start` to `end`, both inclusive.

        Without `follow` it ends at `end` or at what was the last sequence when the read began; with `follow` it waits for
        more (also for the stream to be created) and ends only at `end`. `subjects` are NATS subject patterns; empty means all, and
        then the sequences are contiguous or `HoleInStream` is raised (a `start` below the first kept sequence is a hole).
        Lost connections are survived: the read continues where it was. A stream that does not exist reads as empty.
        """
        ...

    async def info(self, stream: Stream) -> StreamInfo | None:
        """Bounds of the stream, None when it does not exist."""
        ...

    async def streams(self, env: str) -> list[Stream]:
        """The environment's streams, by name."""
        ...

    async def last(self, stream: Stream, subject: str) -> Record | None:
        """The newest record on one subject or NATS subject pattern."""
        ...

    async def seek(self, stream: Stream, effective_ns: int) -> int:
        """First sequence whose effective time is above `effective_ns` (last + 1 if none), by binary search."""
        ...

    async def close(self) -> None: ...


class Journal(JournalReader, Protocol):
    """A journal that can be written."""

    async def ensure(self, stream: Stream, feed: str = "") -> None:
        """Create the stream if it is not there. `feed` is needed for the market stream of shard 0."""
        ...

    async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
        """Store `entries` in order, durable when it returns; their sequences, one each.

        At most `MAX_BATCH`; stored whole or not at all. Idempotent by entry id for any id this stream has ever stored: an entry
        already there keeps its first sequence. Raises `IdConflict` (same id, other content), `Fenced`, `EntryTooLarge` (before
        anything is sent), `JournalFull`, `JournalUnavailable` (not stored as far as is known: append the same entries again).
        Cancelling leaves the entries stored whole or not at all.
        """
        ...

    async def append_if(self, stream: Stream, entries: Sequence[Entry], newest: Sequence[int]) -> list[int]:
        """Store `entries` if on the subject of each the newest entry is still the one at the sequence `newest` says (0: none yet).

        Whole, in order and durable when it returns their sequences. Subjects are distinct, ids new to the stream; at most `MAX_BATCH`.
        Costs the same in a stream of any length. Raises `Superseded`, naming a subject that has changed, with nothing stored; and what
        `append` raises. After `JournalUnavailable` call it again with the same entries and `newest`: entries that were stored after
        all are found by id and content, and their sequences returned. Cancelling leaves them stored whole or not at all.
        """
        ...

    async def largest(self, stream: Stream) -> int:
        """Bytes of the largest encoded entry that `append` takes just now; the stream exists."""
        ...

    async def lease(self, stream: Stream, entry: Entry) -> Fence:
        """Take the writer's lease by appending `entry` (a control with symbol ``writer-NAME``) and return the fence."""
        ...


class Keeper(Journal, Protocol):
    """A journal whose streams can be changed and deleted: for `ssmd env apply` and `teardown`, and nothing else."""

    async def changes(self, stream: Stream, feed: str = "", *, max_bytes: int | None = None) -> list[Change] | None:
        """What of the stream is not as `ensure` would make it, None when it does not exist. Without `max_bytes` its size may be any."""
        ...

    async def update(self, stream: Stream, feed: str = "", *, max_bytes: int | None = None) -> None:
        """Make these changes. Raises `JournalRefused` with those that cannot be made (then none is), `JournalFull`, `NotFound`."""
        ...

    async def delete(self, stream: Stream) -> None:
        """Delete the stream and all that is in it, if it is there."""
        ...

    async def purge(self, stream: Stream, first: int) -> None:
        """Delete the entries before `first`, for good; sequences stay what they are, and an emptied stream goes on at `first`.

        Readers that are not there yet meet `HoleInStream`.
        """
        ...

    async def followers(self, stream: Stream) -> int:
        """Connected readers that wait for more of the stream just now."""
        ...


class ObjectInfo(NamedTuple):
    key: str
    size: int


class Storage(Protocol):
    """Objects by key. Keys are escaped tokens joined by ``/``. Synchronous: callers use threads."""

    def exists(self) -> bool:
        """Whether there is the directory or bucket that holds them. Raises `StorageError`, also for a bucket in another region."""
        ...

    def create(self) -> None:
        """Make it, if it is not there. Raises `StorageError`."""
        ...

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Store the object, durable when it returns; never half-written. With `if_absent`, False and no change when the key
        exists. Raises `StorageError`.
        """
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises `NotFound`."""
        ...

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end. Raises `NotFound`."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Objects whose key starts with `prefix`, by key."""
        ...

    def folders(self, prefix: str) -> Sequence[str]:
        """Names one level below the folder `prefix` ("" for the top) that have objects below them, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""
        ...


class CacheChange(NamedTuple):
    """What one transaction does, in this order: keys `gone`, values `put`, then parts of keys by name.

    A part that is None (a member that is False) is taken away; a key without parts is not there. Scores are exact to 53 bits.
    """

    gone: Sequence[str] = ()
    put: Mapping[str, bytes] = {}
    fields: Mapping[str, Mapping[str, bytes | None]] = {}  # of hashes
    members: Mapping[str, Mapping[str, bool]] = {}  # of sets
    scores: Mapping[str, Mapping[str, float | None]] = {}  # of sorted sets


class Cache(Protocol):
    """Views by key (`journal.cache.cache_key`), which may be lost at any time.

    Raises `CacheError`, and `BadObject` for a key that has something of another kind.
    """

    async def ping(self) -> None:
        """Return when it answers."""
        ...

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, values: Mapping[str, bytes]) -> None:
        """Store all of them, replacing what was there; in part when it raises."""
        ...

    def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        """Keys that begin with `prefix`, taken as it is, in runs and in no order; one that is there throughout is there once or more."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Delete the keys that begin with `prefix` and no others; how many."""
        ...

    async def fields(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        """What a hash has under each name."""
        ...

    async def members(self, key: str, names: Sequence[str]) -> list[bool]:
        """Which names are in a set."""
        ...

    async def scores(self, key: str, names: Sequence[str]) -> list[float | None]:
        """Those of names in a sorted set."""
        ...

    async def commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        """Make all of `change` at once if `guard` still has the value `expected` (None: is not there), else nothing.

        False: it has another one, or the answer was lost; get `guard` to know which. `BadObject` leaves nothing changed, or the rest
        changed and `guard` gone.
        """
        ...

    async def evicted(self) -> int:
        """How many keys, of anybody, it has thrown away by itself since it was started, as far as it says."""
        ...

    async def close(self) -> None: ...
