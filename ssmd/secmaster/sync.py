"""Synchronisation with a venue: its definitions page by page, compared with the view, and what differs journalled.

Killed at any page the next one goes on from there; two at once journal each change once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import NamedTuple

from exchanges.markets import DefinitionPage, DefinitionSource
from journal.clock import Clock
from journal.errors import VenueRefused
from journal.market import Change, Market, compare
from ssmd.render import Meter
from ssmd.secmaster.ledger import RUN, Ledger, Proposal
from ssmd.secmaster.runs import Run, Runs
from ssmd.secmaster.stream import Synced

OVERLAP_NS = 600 * 10**9  # asked again of an incremental one: the venue's clock, ours, and answers that come from a cache
_FEW = 100  # markets that may be gone at once without a question
_EXAMPLES = 5
_KEPT = 100  # objects without a name of one run: more of them say nothing more

Observed = Callable[[Market | None, Market, bytes, int, str], Sequence[Change]]
Due = Callable[[Market, int], Sequence[Change]]


class Question(NamedTuple):
    """What is asked: `url` names whom, for people and so that an unfinished one is gone on with. Of some `series`, or all."""

    feed: str
    url: str
    series: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        return " ".join((self.feed, self.url, *sorted(self.series)))


class Summary(NamedTuple):
    """`missing` markets were not removed: too many at once to believe. `unknown`: in a state that has no name here."""

    synced: Synced
    resumed: bool
    missing: int
    nameless: int
    flawed: int
    unknown: tuple[str, ...]


class Sync:
    def __init__(self, ledger: Ledger, clock: Clock, observed: Observed, due: Due) -> None:
        self._ledger = ledger
        self._clock = clock
        self._observed = observed
        self._due = due

    async def run(
        self, source: DefinitionSource, question: Question, name: str, *, full: bool, meter: Meter, accept_missing: bool = False
    ) -> Summary:
        """Synchronise; incremental where there was one before, unless `full`. `name` is the run's, where it is a new one.

        Raises `VenueError` and `StoreError`; what was done is kept and the same call goes on with it.
        """
        await self._ledger.open()
        view, runs = self._ledger.view, Runs(self._ledger.view)
        now_ns = self._clock.wall_ns()
        last = view.synced(question.source)
        if last and last[2].started_ns - OVERLAP_NS > now_ns:
            last = None  # the clock was ahead then: what the venue changed since that time is nothing
        full = full or last is None
        try:
            resumed = runs.resume(question.source, now_ns, full=full)
            since_ns = 0 if full or last is None else max(1, last[2].started_ns - OVERLAP_NS)
            run = resumed or runs.begin(name, question.source, since_ns, now_ns)
            meter.stage("definitions", runs.counted(question.series, settled=True) if full else 0)
            meter.advance(run.markets)
            notes = _Notes(meter)
            run = await self._pages(source, question, run, runs, notes)
            missing = 0
            if full:
                run, missing = await self._remove(run, runs, question.series, meter, accept=accept_missing)
            run.counts.update(await self.due())
            synced = Synced(
                run=run.name, source=question.source, started_ns=run.started_ns, finished_ns=self._clock.wall_ns(), since_ns=run.since_ns,
                pages=run.pages, markets=run.markets, counts=dict(sorted(run.counts.items())),
            )  # fmt: skip
            await self._ledger.record(synced, question.source)
            runs.finish(run)
        finally:
            runs.close()
        return Summary(synced, resumed is not None, missing, notes.nameless, notes.flawed, tuple(notes.unknown))

    async def due(self) -> Counter[str]:
        """Journal what nobody announces: markets whose open or close time has come."""
        view, counts = self._ledger.view, empty()
        while True:
            now_ns = self._clock.wall_ns()
            found = view.query(
                "SELECT symbol FROM markets WHERE status = 'pending' AND open_ns > 0 AND open_ns <= ?"
                " UNION SELECT symbol FROM markets WHERE status = 'active' AND close_ns > 0 AND close_ns <= ? LIMIT ?",
                (now_ns, now_ns, RUN),
            )
            symbols = [symbol for (symbol,) in found]
            if not symbols:
                return counts
            done = await self._ledger.propose({s: Proposal(partial(self._decide_due, now_ns)) for s in symbols})
            counts["derived"] += done.total()
            if not done:
                return counts

    def _decide_due(self, now_ns: int, old: Market | None) -> Sequence[Change]:
        return self._due(old, now_ns) if old else ()

    async def _pages(self, source: DefinitionSource, question: Question, run: Run, runs: Runs, notes: _Notes) -> Run:
        done = run.pages
        while True:
            pages = source.definitions(series=question.series, since_ns=run.since_ns, cursor=run.cursor)
            try:
                async with aclosing(_ahead(pages)) as found:
                    async for page in found:
                        run = await self._page(run, runs, page, notes)
            except VenueRefused:
                if run.pages > done or not run.cursor:
                    raise
                run = run._replace(cursor="")  # an old cursor that the venue does not know any more: from the first page
            else:
                return run

    async def _page(self, run: Run, runs: Runs, page: DefinitionPage, notes: _Notes) -> Run:
        counts, now_ns = empty(), self._clock.wall_ns()
        once = {m.symbol: (m, raw) for m, raw in page.markets}  # of one that comes twice the last
        for some in _runs(once.values()):
            found = {m.symbol: Proposal(partial(_observe, self._observed, m, raw, now_ns), raw, correlation=run.name) for m, raw in some}
            counts.update(await self._ledger.propose(found))
        await self._ledger.keep(page.nameless[: max(0, _KEPT - notes.nameless)])
        notes.take(page)
        return runs.page(run, page.cursor, once.keys(), counts)

    async def _remove(self, run: Run, runs: Runs, series: Sequence[str], meter: Meter, *, accept: bool) -> tuple[Run, int]:
        """Journal that what was not seen is gone; or only say how many, where the venue seems not to have listed all."""
        await self._ledger.catch_up()
        missing = sum(len(some) for some in runs.missing(run, series))
        if not accept and missing > max(_FEW, runs.counted(series, settled=False) // 10):
            return run, missing
        if missing:
            meter.stage("removals", missing)
        for some in runs.missing(run, series):
            now_ns = self._clock.wall_ns()
            counts = await self._ledger.propose({s: Proposal(partial(_gone, now_ns), correlation=run.name) for s in some})
            run.counts.update(counts)
            meter.advance(len(some))
        return run, 0


class _Notes:
    """What pages had that a person should know of."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.nameless = 0
        self.flawed = 0
        self.unknown: list[str] = []

    def take(self, page: DefinitionPage) -> None:
        self._meter.advance(len(page.markets))
        self.nameless += len(page.nameless)
        self.flawed += sum(bool(m.flaws) for m, _ in page.markets)
        room = _EXAMPLES - len(self.unknown)
        self.unknown += islice((m.symbol for m, _ in page.markets if m.status == "unknown"), max(0, room))


async def _ahead(pages: AsyncIterator[DefinitionPage]) -> AsyncGenerator[DefinitionPage, None]:
    """`pages`, each asked for while the one before it is journalled: one more in memory, and nobody waits for the other."""
    async with aclosing(pages):  # type: ignore[type-var]  # the protocol's iterators are generators
        following = asyncio.ensure_future(_next(pages))
        try:
            while page := await following:
                following = asyncio.ensure_future(_next(pages))
                yield page
        finally:
            following.cancel()
            await asyncio.wait([following])
            if not following.cancelled():
                following.exception()  # is nobody's any more


async def _next(pages: AsyncIterator[DefinitionPage]) -> DefinitionPage | None:
    return await anext(pages, None)


def _observe(observed: Observed, new: Market, raw: bytes, now_ns: int, old: Market | None) -> Sequence[Change]:
    return observed(old, new, raw, now_ns, "rest")


def _gone(now_ns: int, old: Market | None) -> Sequence[Change]:
    return compare(old, None, "rest", now_ns) if old and old.status != "settled" else ()


def _runs(found: Iterable[tuple[Market, bytes]]) -> Iterable[list[tuple[Market, bytes]]]:
    left = iter(found)
    while some := list(islice(left, RUN)):
        yield some


def empty() -> Counter[str]:
    return Counter()
