"""The projector: folds one market stream, journals digests, and keeps checkpoints to start from.

Its state is what was folded and nothing else. Killed at any instant and started again it restores the newest checkpoint that is
whole, folds what followed, and journals byte-identical digests; a fold that came out differently meets `IdConflict` and stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from journal.block import Block, BlockBuilder
from journal.clock import Clock
from journal.entry import Entry
from journal.errors import IdConflict, JournalFull, JournalUnavailable, StorageError
from journal.protocols import MAX_BATCH, Journal, Storage
from journal.subjects import Stream
from projections.digests import CHECKPOINT_EVERY, DIGEST_EVERY, Checkpoint, checkpoint_entry, digest_entry, store
from projections.projection import Projection
from projections.registry import create
from projections.runner import Runner, Stop, multiples
from replay.engine import snapshots
from replay.ledger import Ledger
from replay.source import JournalSource, Source
from ssmd.services.restoring import restore_newest

_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 5.0
_T = TypeVar("_T")


class Projector:
    """One projector a stream. `run` follows a live stream; `run_days` folds an import's days."""

    def __init__(
        self,
        journal: Journal,
        storage: Storage,
        stream: Stream,
        clock: Clock,
        *,
        digest_every: int = DIGEST_EVERY,
        checkpoint_every: int = CHECKPOINT_EVERY,
    ) -> None:
        self._journal = journal
        self._storage = storage
        self._clock = clock
        self._mark = multiples(digest_every)
        self._checkpoint_every = checkpoint_every
        self._stop = asyncio.Event()
        self.stream = stream
        self.system = Stream(stream.env, domain="system")
        self.runner = self._new_runner()
        self.error = ""  # what is being retried; "" when all is well
        self.notes: list[str] = []  # why a checkpoint was passed over at the start
        self._checkpointed = 0  # sequence of the last checkpoint

    def _new_runner(self) -> Runner:
        return Runner(create(), self.stream.name, mark=self._mark)

    @property
    def position(self) -> int:
        """Last folded sequence."""
        return self.runner.here.sequence

    def projection(self, name: str) -> Projection:
        """For views. Raises KeyError."""
        return next(p for p in self.runner.projections if p.name == name)

    async def lag(self) -> int:
        """Entries of the stream that are not folded yet."""
        info = await self._journal.info(self.stream)
        return max(0, info.last - self.position) if info else 0

    def stop(self) -> None:
        """Make `run` checkpoint and return."""
        self._stop.set()

    # --- live ---------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Restore, then follow the stream until `stop` or cancellation; then checkpoint.

        Raises `IdConflict` when a digest differs from the one journalled for the same place, `HoleInStream` when entries were
        purged that no checkpoint covers. A journal or storage that is away is waited for, see `error`.
        """
        await self._patiently(lambda: self._journal.ensure(self.system))
        await self.restore()
        following = asyncio.create_task(self._follow(), name=f"projector {self.stream.name}")
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            failed = following.done()
            following.cancel()
            await asyncio.gather(following, stopping, return_exceptions=True)
            if not failed and self.position > self._checkpointed:
                await self._record(self.runner.here, checkpoint=True)
        if failed:
            following.result()

    async def catch_up(self) -> None:
        """Restore, fold to the stream's present end, checkpoint. Raises as `run` does."""
        await self._journal.ensure(self.system)
        await self.restore()
        await self._follow(follow=False)
        if self.position > self._checkpointed:
            await self._record(self.runner.here, checkpoint=True)

    async def restore(self) -> None:
        """Go to the newest place that has a whole checkpoint of every projection; to the beginning if there is none."""
        found = await restore_newest(self._journal, self._storage, self.stream, self._new_runner, self._patiently)
        self.runner, self._checkpointed = found.runner, found.runner.here.sequence
        self.notes += found.notes

    async def _follow(self, *, follow: bool = True) -> None:
        async for records in self._journal.read(self.stream, start=self.position + 1, follow=follow):
            builder = BlockBuilder(keep_raw=False)
            for record in records:
                builder.add(record)
            await self._fold(builder.build())

    async def _fold(self, block: Block) -> None:
        for stop in self.runner.apply(block):
            await self._record(stop, checkpoint=stop.closing or stop.sequence % self._checkpoint_every == 0)

    # --- imports ------------------------------------------------------------------------------------------------------------

    async def run_days(self, source: Source, days: Collection[int] = ()) -> list[int]:
        """Fold `days` of an import, every later day and every day that was never closed, each from the closing state of the day
        before; journal digests and closing checkpoints. The days that were folded.

        `source` must hold all that the stream has. Idempotent.
        """
        await self._journal.ensure(self.system)
        ledger = await Ledger.read(JournalSource(self._journal), self.stream)
        present = await source.days(self.stream)
        self.runner = self._new_runner()
        closed = ledger.closed(self.runner.projections)
        due = [day for day in present if day in days or day not in closed]
        if not due:
            return []
        openings = {p.name: c for p in self.runner.projections if (c := ledger.opening(p, due[0]))}
        if openings:
            self.runner.restore(await snapshots(self._storage, openings), day=due[0])
        folded = [day for day in present if day >= due[0]]
        for day in folded:
            async for block in source.blocks(self.stream, day=day):
                await self._fold(block)
        await self._record(self.runner.here._replace(closing=True), checkpoint=True)
        return folded

    # --- journalling --------------------------------------------------------------------------------------------------------

    async def _record(self, stop: Stop, *, checkpoint: bool) -> None:
        """Journal the digests of this place; with `checkpoint`, snapshots first and then the entries that name them."""
        digests = self.runner.digests()
        entries = [digest_entry(d) for d in digests]
        if checkpoint:
            states = self.runner.snapshots()
            for digest in digests:
                keep = (self._storage, self.stream.env, digest.projection, states[digest.projection])
                key = await self._patiently(lambda k=keep: asyncio.to_thread(store, *k))  # type: ignore[misc]
                entries.append(checkpoint_entry(Checkpoint(digest, key, stop.closing)))
        for at in range(0, len(entries), MAX_BATCH):
            await self._append(entries[at : at + MAX_BATCH])
        if checkpoint:
            self._checkpointed = stop.sequence

    async def _append(self, entries: list[Entry]) -> None:
        try:
            await self._patiently(lambda: self._journal.append(self.system, entries))
        except IdConflict as error:
            raise IdConflict(
                f"{self.stream.name}:{self.position} was folded before and came out differently ({error}); the stream, a snapshot or a "
                "projection's code changed without its version: compare with `ssmd replay --verify`, then raise the version or restore"
            ) from error

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        delay = _RETRY_FIRST_S
        while True:
            try:
                result = await attempt()
            except (JournalUnavailable, JournalFull, StorageError) as error:
                self.error = str(error)
                await self._clock.sleep(delay)
                delay = min(2 * delay, _RETRY_MOST_S)
            else:
                self.error = ""
                return result
