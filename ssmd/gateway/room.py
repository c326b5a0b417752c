"""Reading rooms: what reads the journal, the archive and SQLite does so in a thread of its own, with connections of its own, so that no
question holds up the stream. How many are answered at a time, how many wait and how long one may take is bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from journal.archive import ArchiveReader
from journal.clock import Clock
from journal.errors import JournalUnavailable
from journal.protocols import Keeper, Storage
from journal.subjects import Stream
from projections.coverage import CoverageProjection
from replay.ledger import Ledger
from replay.source import JoinedSource, JournalSource, Source
from ssmd.books import folded
from ssmd.gateway.problem import Problem
from ssmd.secmaster.reading import History, catch_up, path_of
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.view import View, delete
from ssmd.settings import Settings
from ssmd.wiring import open_journal, open_objects

_T = TypeVar("_T")
_EVER_NS = (1 << 63) - 1
_PAST_VIEWS = 2  # markets as they were, kept for the next page; each is a file of up to a gigabyte


class Shelf:
    """What is read in a room. Used on its thread only."""

    def __init__(self, settings: Settings, clock: Clock, journal: Keeper, storage: Storage, folder: Path) -> None:
        self.settings, self.clock, self.journal, self.storage = settings, clock, journal, storage
        self.archive = ArchiveReader(storage, settings.env, clock) if settings.archived else None
        self.source: Source = JoinedSource(self.archive, journal, chosen=True) if self.archive else JournalSource(journal, chosen=True)
        self._folder = folder
        self._turn = asyncio.Lock()
        self._view: View | None = None
        self._past: OrderedDict[int, View] = OrderedDict()
        self._ledgers: dict[Stream, tuple[Ledger, int]] = {}
        self._folding = asyncio.Lock()
        self._coverage: dict[Stream, tuple[CoverageProjection, int, int]] = {}  # the day and the sequence that it is folded to

    def history(self, stream: Stream) -> History:
        """All of a stream, wherever its parts are."""
        return History(stream, self.journal, self.archive)

    async def markets(self, as_of_ns: int | None = None) -> View:
        """The security master, as it is or was; good until the next time."""
        history = self.history(secmaster(self.settings.env))
        async with self._turn:
            if as_of_ns is None:
                self._view = self._view or View(path_of(self.settings.data_dir, self.settings.env))
                await catch_up(self._view, history)
                return self._view
            end = await history.seek(as_of_ns) - 1
            if end not in self._past:
                while len(self._past) >= _PAST_VIEWS:
                    _, gone = self._past.popitem(last=False)
                    gone.close()
                    delete(gone.path)
                self._past[end] = View(self._folder / f"{end}.sqlite", words=False)
            self._past.move_to_end(end)
            # What was cut short by its time limit goes on from there when it is asked again.
            await catch_up(self._past[end], history, end=end)
            return self._past[end]

    async def ledger(self, stream: Stream) -> Ledger:
        """What is journalled about `stream` up to now; what was read before is kept."""
        async with self._turn:
            ledger, done = self._ledgers.get(stream, (Ledger(stream), 0))
            history = self.history(ledger.system)
            first, last = await history.bounds()
            if last < done:  # another journal
                ledger, done = Ledger(stream), 0
            if last > done:
                async for records in history.read(max(first, done + 1), last, subjects=ledger.subjects):
                    ledger.add(records)
            self._ledgers[stream] = ledger, last
            return ledger

    async def coverage(self, stream: Stream, day: int, upto: list[int]) -> CoverageProjection:
        """Of the present day, as it is; good until the next time. What was folded before is kept, so that a page may ask often."""
        async with self._folding:
            last = await self.source.last(stream)
            fold, kept, done = self._coverage.get(stream, (CoverageProjection(), 0, 0))
            if kept == day and done <= last:
                async for block in self.source.blocks(stream, day=day, start=done + 1, end=last):
                    fold.apply(block)
            else:
                fold = CoverageProjection()
                await folded(self.source, self.storage, stream, [fold], as_of_ns=_EVER_NS, upto=upto, end=last, ledgers=self.ledger)
            self._coverage[stream] = fold, day, last
            return fold

    def close(self) -> None:
        for view in (self._view, *self._past.values()):
            if view:
                view.close()


@asynccontextmanager
async def open_shelf(settings: Settings, clock: Clock) -> AsyncIterator[Shelf]:
    """With connections of its own. Raises what opening the journal raises."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ssmd-gateway-")))
        journal = await stack.enter_async_context(open_journal(settings, clock, read_only=True))
        shelf = Shelf(settings, clock, journal, open_objects(settings), folder)
        stack.callback(shelf.close)
        yield shelf


class Place(Protocol):
    """Where questions are answered."""

    async def ask(self, work: Callable[[Shelf], Awaitable[_T]]) -> _T: ...


class Room:
    """A thread with an event loop. `at_once` questions are answered at a time, four times as many wait, each for `limit_s` in all."""

    def __init__(self, name: str, settings: Settings, clock: Clock, *, at_once: int, limit_s: float) -> None:
        self._settings, self._clock, self._at_once, self._limit_s = settings, clock, at_once, limit_s
        self._asked = 0
        self._thread = threading.Thread(target=self._work, name=f"gateway {name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: asyncio.Future[None] | None = None
        self._stop: asyncio.Event | None = None
        self._shelf: Shelf | None = None
        self._turns = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Room]:
        """While the block lasts questions may be asked, from its event loop. Raises what opening the journal raises."""
        self._opener = asyncio.get_running_loop()
        self._opened = self._opener.create_future()
        self._thread.start()
        try:
            await self._opened
            yield self
        finally:
            if self._loop and self._stop:
                with suppress(RuntimeError):  # it has ended already
                    self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(self._thread.join, 10)

    async def ask(self, work: Callable[[Shelf], Awaitable[_T]]) -> _T:
        """What `work` answers. Raises `Problem` where too many ask, `TimeoutError` where it takes too long, and what it raises."""
        if self._asked >= 5 * self._at_once:
            raise Problem("busy", "too many questions of this kind are waiting; ask again a little later", headers={"Retry-After": "2"})
        if self._loop is None or not self._loop.is_running():
            raise JournalUnavailable("the gateway is stopping")
        self._asked += 1
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answer(work), self._loop))
        finally:
            self._asked -= 1

    async def _answer(self, work: Callable[[Shelf], Awaitable[_T]]) -> _T:
        assert self._shelf is not None  # noqa: S101  `ask` is for rooms that are open
        async with asyncio.timeout(self._limit_s), self._turns:
            return await work(self._shelf)

    def _work(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        try:
            async with open_shelf(self._settings, self._clock) as shelf:
                self._shelf, self._loop = shelf, asyncio.get_running_loop()
                self._tell(None)
                await self._stop.wait()
        except BaseException as error:  # noqa: BLE001  (who opened the room hears it)
            self._tell(error)
        finally:
            self._loop = None

    def _tell(self, error: BaseException | None) -> None:
        def tell(opened: asyncio.Future[Any] | None) -> None:
            if opened is None or opened.done():
                return
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)

        with suppress(RuntimeError):
            self._opener.call_soon_threadsafe(tell, self._opened)
