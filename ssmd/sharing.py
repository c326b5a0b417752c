"""Views in the environment's cache, for programs that do not read the journal: one sink for each of them.

A view is the fold of one stream under ``ENV:VIEW:…``. What a run of entries changes and the position behind it are one transaction, which
is made only if nobody has moved the position since: any number of sinks may write one view, and one that is killed leaves a view that is
whole as of its position. A cache that was flushed, that is of another journal or another version, or that is ahead of the journal, is made
again from the beginning; meanwhile the position says how far it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from journal.cache import NOT_OURS, cache_key
from journal.clock import Clock
from journal.entry import Entry, Record, canonical_json
from journal.errors import BadObject, CacheError, CorruptionError, StoreError
from journal.protocols import Cache, CacheChange
from ssmd.secmaster.reading import History

_log = logging.getLogger("ssmd")

RUN = 1_000  # entries of one transaction, about 5 MB with the venue's objects
EVERY_S = 0.5  # how far a view is behind, at most, when nothing is wrong; one GET each time
_AGAIN_S = 5.0  # after the cache has failed
_TRIES = 64  # each lost one is somebody else's success


class Position(msgspec.Struct, frozen=True):
    """Value of ``ENV:VIEW:position``: the view is whole up to `sequence` of `stream`, whose entry there is `entry`.

    `build` is drawn when the view is begun: no two positions of a view are ever equal unless the views are. `evicted` is what the cache had
    evicted by then.
    """

    stream: str
    version: int
    build: str
    sequence: int = 0
    entry: str = ""
    effective_ns: int = 0
    evicted: int = 0

    def moved(self, record: Record) -> Position:
        return msgspec.structs.replace(self, sequence=record.sequence, entry=record.entry.id, effective_ns=record.entry.effective_ns)

    def is_behind(self, entry: Entry) -> bool:
        """Whether `entry` is the one. A journal that was begun anew may give the first entry of a market its old id, at another time."""
        return (self.entry, self.effective_ns) == (entry.id, entry.effective_ns)


class _NotAsFolded(Exception):
    """What the cache has at position `held` is not what the entries before it make, or the next ones are wrong."""

    def __init__(self, why: CorruptionError, held: bytes | None) -> None:
        super().__init__(str(why))
        self.why = why
        self.held = held


class Folding(Protocol):
    """What a view is. `name` is the second part of its keys; another `version` has other keys or values."""

    name: str
    version: int

    async def change(self, cache: Cache, records: Sequence[Record]) -> CacheChange:
        """What `records` change of the view as it is in `cache`. Raises `CorruptionError` when they cannot follow on it."""
        ...


class SharedView:
    """Brings a view up to `history` and keeps it there. Memory: one run of entries, and the names of the view's keys to clear it.

    `draw` names builds; no two draw the same.
    """

    def __init__(self, cache: Cache, env: str, folding: Folding, history: History, clock: Clock, *, draw: Callable[[], str]) -> None:
        self._cache = cache
        self._folding = folding
        self._history = history
        self._clock = clock
        self._draw = draw
        self._prefix = cache_key(env, folding.name)
        self._key = f"{self._prefix}:position"
        self.status = ""  # what is wrong
        self.folded = 0  # entries, since it was made

    async def run(self) -> None:
        """Until cancelled; a store that fails is told in `status` and tried again. A journal that is damaged is told, and ends it."""
        while True:
            pause_s = EVERY_S
            try:
                await self.catch_up()
                self.status = await self._lost()
            except StoreError as error:
                self.status = f"{self._prefix} is not up to date: {error}"
                pause_s = _AGAIN_S
            except CorruptionError as error:
                self.status = f"{self._prefix} is not kept any more: {error}"
                return
            await self._clock.sleep(pause_s)

    async def _lost(self) -> str:
        """Whether the cache may have thrown away some of the view, in words."""
        evicted, position = await self._cache.evicted(), position_of(await self._held())
        before = position.evicted if position else 0
        lost = evicted - before if evicted >= before else evicted  # less than before: it was started again
        if not lost:
            return ""
        return (
            f"{self._prefix} may lack keys: the cache has evicted {lost}; set its maxmemory-policy to noeviction, then delete {self._key}"
        )

    async def catch_up(self) -> None:
        """Fold up to what is now the end of the stream. Raises `CacheError`, `StoreError`, `CorruptionError`."""
        mended = False
        for _ in range(_TRIES):
            try:
                if await self._fold():
                    return
            except _NotAsFolded as error:
                # What is in the cache, anybody may have changed; what is in the journal stays wrong when it is folded from the beginning.
                if mended:
                    raise error.why from None
                mended = True
                _log.warning("%s is made again: %s", self._prefix, error.why)
                await self._clear(error.held)
        raise CacheError(f"{self._prefix} was changed {_TRIES} times by others meanwhile; is another journal used with this cache?")

    async def _fold(self) -> bool:
        """Whether it is there; else it was begun anew, or somebody else is at it."""
        held = await self._held()
        position = position_of(held)
        _, last = await self._history.bounds()
        if position is None or not self._ours(position) or position.sequence > last:
            await self._clear(held)
            return False
        if position.sequence == last:
            return True
        waiting: list[Record] = []
        # From the entry at the position on: another journal has another one there.
        async with aclosing(self._history.read(max(1, position.sequence), last)) as reads:
            async for records in reads:
                waiting += records
                if waiting[0].sequence == position.sequence and not position.is_behind(waiting.pop(0).entry):
                    await self._clear(held)
                    return False
                while len(waiting) >= RUN or (waiting and waiting[-1].sequence == last):
                    some, waiting = waiting[:RUN], waiting[RUN:]
                    position = position.moved(some[-1])
                    if not await self._commit(some, held, position):
                        return False
                    held = canonical_json(position)
        return position.sequence == last

    async def _commit(self, records: Sequence[Record], held: bytes | None, position: Position) -> bool:
        """Whether the view was at `held` and is now at `position`."""
        try:
            change = await self._folding.change(self._cache, records)
            done = await self._cache.commit(change._replace(put={**change.put, self._key: canonical_json(position)}), self._key, held)
        except CorruptionError as error:
            if await self._held() != held:
                return False  # it was read while somebody else was at it
            raise _NotAsFolded(error, held) from error
        self.folded += len(records) if done else 0
        return done

    async def _held(self) -> bytes | None:
        try:
            return await self._cache.get(self._key)
        except BadObject:
            await self._cache.delete_prefix(self._key)
            return None

    def _ours(self, position: Position) -> bool:
        return (position.stream, position.version) == (self._history.stream.name, self._folding.version)

    async def _clear(self, held: bytes | None) -> None:
        """Begin anew in one transaction, unless somebody else has moved the position."""
        keys = [key async for run in self._cache.keys(f"{self._prefix}:") for key in run]
        position = Position(self._history.stream.name, self._folding.version, self._draw(), evicted=await self._cache.evicted())
        await self._cache.commit(CacheChange(gone=keys, put={self._key: canonical_json(position)}), self._key, held)


def position_of(value: bytes | None) -> Position | None:
    """None for what is no position: anybody may have written it."""
    try:
        return msgspec.json.decode(value, type=Position) if value else None
    except NOT_OURS:
        return None
