"""Everything an environment ever journalled, wherever it is: the journal, the archive, or the archive as far back as the journal begins."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from journal.archive import ArchiveReader
from journal.block import Block
from journal.clock import Clock
from journal.entry import Record
from journal.errors import CorruptionError, HoleInStream, NotFound
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd.settings import Settings

Run = Block | list[Record]  # of the archive, columns without raw bytes; of the journal, records


class Bounds(NamedTuple):
    """First and last sequence, both inclusive; `last` is below `first` for an empty stream.

    The archive has what is up to `kept`, the journal what is from `live` on; both may have what is between.
    """

    first: int
    live: int
    kept: int
    last: int


class Trail:
    """Reads the streams of one environment, within bounds that are taken once, so that a query has one end."""

    def __init__(self, env: str, journal: JournalReader | None, archive: ArchiveReader | None) -> None:
        self.env = env
        self._journal = journal
        self._archive = archive

    async def streams(self) -> list[Stream]:
        """Market streams and the others, by name."""
        found = [await reader.streams(self.env) for reader in (self._journal, self._archive) if reader]
        return sorted({s for streams in found for s in streams}, key=lambda s: s.name)

    async def bounds(self, stream: Stream) -> Bounds:
        """Raises `CorruptionError` for an archive that knows more than the journal, `HoleInStream` for a part that is nowhere."""
        live = await self._journal.info(stream) if self._journal else None
        kept = await self._archive.info(stream) if self._archive else None
        if live is None or kept is None:
            only = live or kept
            if only is None:
                return Bounds(1, 1, 0, 0)
            return Bounds(only.first, only.first, 0, only.last) if live else Bounds(only.first, only.last + 1, only.last, only.last)
        if live.last < kept.last:
            raise CorruptionError(
                f"{stream.name} is archived to {kept.last}, and ends at {live.last} in the journal: the journal was lost, cut or replaced; "
                "restore it, or ask one of them (--from archive, or journal)"
            )
        if kept.last < live.first - 1:
            raise HoleInStream(
                f"{stream.name} is archived to {kept.last} and begins at {live.first} in the journal: what was between is nowhere; "
                "ask one of them (--from archive, or journal)"
            )
        return Bounds(min(kept.first, live.first), live.first, kept.last, live.last)

    async def seek(self, stream: Stream, bounds: Bounds, effective_ns: int) -> int:
        """First sequence whose effective time is above `effective_ns`; of streams in which it never decreases (`tailing.sought`)."""
        if self._archive and bounds.first < bounds.live:
            found = await self._archive.seek(stream, effective_ns)
            if found < bounds.live or bounds.live > bounds.last:
                return found
        return await self._journal.seek(stream, effective_ns) if self._journal else bounds.last + 1

    async def runs(
        self, stream: Stream, bounds: Bounds, *, subjects: Sequence[str] = (), symbols: Collection[str] | None = None
    ) -> AsyncGenerator[Run, None]:
        """What is within the bounds, in order. `subjects` and `symbols` only spare reading: more than them may come.

        All of a stream comes from the archive as far as it goes, eight times as fast; some subjects from the journal as far back.
        """
        seam = bounds.live if subjects else max(bounds.live, bounds.kept + 1)
        if self._archive and bounds.first < seam:
            stop = min(bounds.last, seam - 1)
            blocks = self._archive.blocks(stream, start=bounds.first, end=stop, symbols=symbols if stream.is_market else None)
            async with aclosing(blocks) as reads:  # type: ignore[type-var]
                async for block in reads:
                    yield block
        start = max(bounds.first, seam)
        if self._journal and start <= bounds.last:
            async with aclosing(self._journal.read(stream, start=start, end=bounds.last, subjects=subjects)) as runs:  # type: ignore[type-var]
                async for records in runs:
                    yield records


@asynccontextmanager
async def open_trail(settings: Settings, clock: Clock, origin: str = "auto") -> AsyncIterator[Trail]:
    """Of the ``archive`` alone, the ``journal`` alone or (``auto``) both. Raises `NotFound` when there is neither."""
    from journal.embedded import has_data
    from ssmd.wiring import open_journal, open_objects

    archive = None
    if origin != "journal" and settings.archived:
        archive = ArchiveReader(open_objects(settings), settings.env, clock)
    if origin == "archive" or (archive and settings.embedded and not has_data(settings.data_dir)):
        if archive is None:
            raise NotFound("archive in", settings.storage)
        yield Trail(settings.env, None, archive)
        return
    async with open_journal(settings, clock, read_only=True) as journal:
        yield Trail(settings.env, journal, archive)
