"""What a projection is: a named, versioned fold over one stream.

The unit of a fold is a `Block` (columns of a run of records), live as in replay: live blocks are small, archive blocks large, and how
a run is cut into blocks never changes the state. That is one of the four laws, each a property test for every projection:

1. same entries, same digest;
2. cutting at any point and restoring from the snapshot changes nothing;
3. redelivery (a row whose sequence is not above the last folded one) changes nothing;
4. kinds a projection does not know are skipped explicitly.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Protocol

from journal.block import Block


class Keyed(Protocol):
    """State by key, as bytes that are equal where it is."""

    name: str
    version: int  # a change means: rebuild

    def keys(self) -> list[str]:
        """Every key (symbol) the projection holds state for, sorted."""
        ...

    def canonical(self, key: str) -> bytes:
        """The key's state: fixed field order, little-endian 64-bit integers, levels ascending; no positions, epochs, receive times."""
        ...

    def take_touched(self) -> set[str]:
        """Keys whose state may have changed since the last call."""
        ...


class Projection(Keyed, Protocol):
    """Pure: no I/O, no logging, no clock, nothing swallowed."""

    def apply(self, block: Block) -> None:
        """Fold the block's rows, in order."""
        ...

    def keep(self, keys: Collection[str]) -> None:
        """Forget every other key, as if nothing had ever been said of it."""
        ...

    def snapshot(self) -> bytes:
        """All state, positions and epochs included, so that `restore` continues exactly."""
        ...

    def restore(self, snapshot: bytes) -> None:
        """Replace all state. Raises `BadObject` for bytes that `snapshot` did not make."""
        ...


class Digester:
    """Digest of one projection, rehashing only the keys touched since the last one."""

    def __init__(self, projection: Keyed) -> None:
        self._projection = projection
        self._digests: dict[str, bytes] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after a `restore`."""
        self._projection.take_touched()
        self._digests = {key: self._hash(key) for key in self._projection.keys()}  # noqa: SIM118  (a protocol's method, not a dict)

    def _hash(self, key: str) -> bytes:
        return blake2b(self._projection.canonical(key), digest_size=32).digest()

    def keys(self) -> dict[str, bytes]:
        """Digest by key, up to date."""
        for key in self._projection.take_touched():
            self._digests[key] = self._hash(key)
        return self._digests

    def digest(self, only: Collection[str] | None = None) -> str:
        """BLAKE2b-256 over sorted (key, key digest), in hexadecimal; over some keys where `only` names them."""
        total = blake2b(digest_size=32)
        for key, value in sorted(self.keys().items()):
            if only is not None and key not in only:
                continue
            name = key.encode()
            total.update(len(name).to_bytes(8, "little"))
            total.update(name)
            total.update(value)
        return total.hexdigest()
