"""A past day copied from where it is kept into another journal, entry by entry as its time comes, for readers that know nothing of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from itertools import chain, groupby, takewhile
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from journal.entry import Record
from journal.errors import NotFound
from journal.protocols import Keeper
from replay.clock import FollowingClock
from replay.pace import Pace
from ssmd.rerun import Rerun, begin, copy
from ssmd.secmaster.reading import History

_RUN = 500  # entries that are released together at most

Times = NDArray[np.int64]


class Lane:
    """What is released of a stream beside the market: all of it, in order, as far as its effective times are reached."""

    def __init__(self, history: History, target: Keeper) -> None:
        self._history, self._target = history, target
        self._reads: AsyncGenerator[list[Record], None] | None = None
        self._waiting: list[Record] = []

    async def open(self) -> None:
        """What is appended later is not of this replay."""
        first, last = await self._history.bounds()
        if last >= first:
            await begin(self._target, self._history.stream, first)
            self._reads = self._history.read(first, last)

    async def upto(self, effective_ns: int) -> int:
        """The greatest effective time of what was released, 0 for nothing."""
        newest_ns = 0
        while self._reads is not None:
            if not self._waiting and not (found := await anext(self._reads, None)):
                self._reads = None
                break
            self._waiting = self._waiting or found or []
            due = list(takewhile(lambda r: r.entry.effective_ns <= effective_ns, self._waiting))
            if not due:
                break
            await copy(self._target, self._history.stream, due)
            newest_ns = max(newest_ns, *(r.entry.effective_ns for r in due))
            del self._waiting[: len(due)]
        return newest_ns

    async def close(self) -> None:
        if self._reads is not None:
            await self._reads.aclose()


class Release:
    """`open`, then `run`: the day of each of `reruns`, by effective time, and the `lanes` beside them. `clock` is put forward to what was
    released.
    """

    def __init__(
        self, reruns: Sequence[Rerun], lanes: Sequence[Lane], clock: FollowingClock, *, opens_ns: int, ends_ns: int,
        symbols: Collection[str] = (),
    ) -> None:  # fmt: skip
        self._symbols = frozenset(symbols)
        self.reruns, self._lanes, self._clock = reruns, lanes, clock
        self._opens_ns, self._ends_ns = opens_ns, ends_ns

    async def open(self, feed: str) -> None:
        """All that was before the day's first entry. Raises `NotFound` for a day without entries, or a symbol without any in it."""
        opens_ns = max(self._opens_ns, min([await rerun.open(feed) for rerun in self.reruns]) - 1)
        await self._check_symbols()
        for lane in self._lanes:
            await lane.open()
            await lane.upto(opens_ns)
        self._clock.advance(opens_ns)

    async def _check_symbols(self) -> None:
        unknown = self._symbols - {symbol for rerun in self.reruns for symbol in await rerun.known()} if self._symbols else ()
        if unknown:
            known = {symbol for rerun in self.reruns for symbol in await rerun.symbols()}
            raise NotFound("symbol", min(unknown), sorted(known))

    @property
    def positions(self) -> str:
        """Of the newest entry of each market stream; before the first one, of those that come first."""
        return ", ".join(f"{rerun.stream.name}:{rerun.last or rerun.first}" for rerun in self.reruns)

    async def run(self, pace: Pace, taken: Callable[[], Awaitable[None]]) -> None:
        """Release the day at `pace`; `taken` is awaited behind each run of entries. Raises `StoreError`, `HoleInStream`."""
        async with aclosing(merged([rerun.records(self._ends_ns) for rerun in self.reruns])) as reads:
            async for times, found in reads:
                async for span in pace.spans(times):
                    for at in range(span.start, span.stop, _RUN):
                        await self._release(found[at : min(at + _RUN, span.stop)], int(times[min(at + _RUN, span.stop) - 1]))
                        await taken()
        for lane in self._lanes:
            self._clock.advance(await lane.upto(self._ends_ns))

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.close()

    async def _release(self, found: Sequence[tuple[int, Record]], now_ns: int) -> None:
        for lane in self._lanes:  # what is said of a market comes before its messages
            await lane.upto(now_ns)
        for at, records in groupby(sorted(found, key=itemgetter(0)) if len(self.reruns) > 1 else found, key=itemgetter(0)):
            await self.reruns[at].release([record for _, record in records])
        self._clock.advance(now_ns)


class Head:
    """What a read has yielded and was not taken yet. An entry's time is that of the latest up to it: a stream keeps its order."""

    def __init__(self, number: int, read: AsyncGenerator[list[Record], None]) -> None:
        self._number, self._read = number, read
        self._records: list[Record] = []
        self._latest_ns = 0
        self.times: Times = np.zeros(0, np.int64)

    async def fill(self) -> bool:
        """Whether there is something."""
        if not self._records:
            self._records = await anext(self._read, [])
            times = np.array([self._latest_ns, *(r.entry.effective_ns for r in self._records)], dtype=np.int64)
            self.times = np.maximum.accumulate(times)[1:]
            self._latest_ns = int(self.times[-1]) if self._records else 0
        return bool(self._records)

    def take(self, due_ns: int) -> tuple[Times, list[tuple[int, Record]]]:
        """Those up to `due_ns`, with the read's number."""
        count = int(np.searchsorted(self.times, due_ns, side="right"))
        taken = self.times[:count], [(self._number, record) for record in self._records[:count]]
        self.times, self._records = self.times[count:], self._records[count:]
        return taken


async def merged(reads: Sequence[AsyncGenerator[list[Record], None]]) -> AsyncGenerator[tuple[Times, list[tuple[int, Record]]], None]:
    """What several reads yield, by time, each record with the number of its read; and those times."""
    heads = [Head(number, read) for number, read in enumerate(reads)]
    try:
        while heads := [head for head in heads if await head.fill()]:
            due_ns = min(int(head.times[-1]) for head in heads)
            times, found = zip(*(head.take(due_ns) for head in heads), strict=True)
            when = np.concatenate(times)
            order = np.argsort(when, kind="stable")
            records = [*chain(*found)]
            yield when[order], records if len(heads) == 1 else [records[at] for at in order.tolist()]
    finally:
        for read in reads:
            await read.aclose()
