"""The security master's history, wherever its parts are, and bringing a view up to it, or to what it said at some time."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from journal.entry import Record
from journal.errors import HoleInStream, StorageError
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd.render import Meter, Silent
from ssmd.secmaster.view import View, mark_of

_RUN = 2_000  # entries of one transaction, about 10 MB with the venue's objects
_TRIES = 5


def path_of(data_dir: Path, env: str) -> Path:
    """Where the view of an environment is."""
    return data_dir / "views" / f"{env}-secmaster.sqlite"


class History:
    """One stream: what `reader` does not keep any more comes from `archive`, where there is one."""

    def __init__(self, stream: Stream, reader: JournalReader, archive: JournalReader | None = None) -> None:
        self.stream = stream
        self.reader = reader
        self._archive = archive

    async def bounds(self) -> tuple[int, int]:
        """First and last sequence; 1 and 0 of an empty one."""
        info = await self.reader.info(self.stream)
        if info is None:
            return 1, 0
        archived = await self._archive.info(self.stream) if self._archive and info.first > 1 else None
        return archived.first if archived else info.first, info.last

    async def seek(self, effective_ns: int) -> int:
        """As `JournalReader.seek`."""
        info = await self.reader.info(self.stream)
        found = await self.reader.seek(self.stream, effective_ns)
        if self._archive and info and info.first > 1 and found <= info.first:
            return min(await self._archive.seek(self.stream, effective_ns), info.first)
        return found

    async def read(
        self, start: int, end: int | None = None, *, subjects: Sequence[str] = (), follow: bool = False
    ) -> AsyncGenerator[list[Record], None]:
        """As `JournalReader.read`. Raises `HoleInStream` for a part that is nowhere."""
        info = await self.reader.info(self.stream)
        first = info.first if info else 1
        if start < first:
            if self._archive is None:
                raise HoleInStream(f"{self.stream.name} begins at {first} and there is no archive of what was before it")
            stop = first - 1 if end is None else min(end, first - 1)
            async with aclosing(self._archive.read(self.stream, start=start, end=stop, subjects=subjects)) as reads:  # type: ignore[type-var]
                async for records in reads:
                    yield records
            start = first
        if end is None or start <= end:
            live = self.reader.read(self.stream, start=start, end=end, subjects=subjects, follow=follow)
            async with aclosing(live) as reads:  # type: ignore[type-var]
                async for records in reads:
                    yield records


async def catch_up(view: View, history: History, *, end: int | None = None, meter: Meter | None = None) -> None:
    """Fold what is behind the view's place, up to `end`.

    A view of another stream than this one (a journal that was deleted and began anew) is cleared first.
    """
    for _ in range(_TRIES):
        if await _fold(view, history, end, meter or Silent()):
            return
    raise StorageError(f"{view.path} was cleared {_TRIES} times while it was made: another journal is used with this data directory")


async def _fold(view: View, history: History, end: int | None, meter: Meter) -> bool:
    """Whether it is there."""
    place, (_, last) = view.place, await history.bounds()
    if place.sequence and not (place.sequence <= last and await _same(view, history)):
        view.clear()
        place = view.place
    last = last if end is None else min(last, end)
    if place.sequence >= last:
        return True
    meter.stage("markets view", last - place.sequence)
    waiting: list[Record] = []
    async with aclosing(history.read(place.sequence + 1, last)) as reads:
        async for records in reads:
            waiting += records
            if len(waiting) >= _RUN or waiting[-1].sequence == last:
                if not view.fold(waiting):
                    return False
                meter.advance(len(waiting))
                waiting = []
    return not waiting and view.place.sequence >= last


async def _same(view: View, history: History) -> bool:
    """Whether the entry at the view's place is the one that it folded."""
    place = view.place
    async with aclosing(history.read(place.sequence, place.sequence)) as reads:
        async for records in reads:
            return mark_of(records[0].entry) == place.id
    return False


@asynccontextmanager
async def view_as_of(history: History, effective_ns: int, *, meter: Meter | None = None) -> AsyncIterator[View]:
    """The markets as they were at `effective_ns`, folded into a temporary file without full text."""
    end = await history.seek(effective_ns) - 1
    with tempfile.TemporaryDirectory(prefix="ssmd-secmaster-") as directory:
        view = View(Path(directory) / "as-of.sqlite", words=False)
        try:
            await catch_up(view, history, end=end, meter=meter)
            yield view
        finally:
            view.close()
