"""Between synchronisations: lifecycle messages of a market stream as changes of markets.

How far the messages are folded is in the journal: a change names the message that it comes from. One that changed nothing is read again
after a restart and changes nothing again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial

from journal.entry import Control, Entry, Kind, Record
from journal.market import Change, Market
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd.secmaster.ledger import RUN, Ledger, Proposal
from ssmd.secmaster.sync import OVERLAP_NS

Told = Callable[[Market | None, Entry], Sequence[Change]]


class Follower:
    """Folds the lifecycle messages of one market stream, which `feed` writes."""

    def __init__(self, ledger: Ledger, reader: JournalReader, stream: Stream, feed: str, told: Told) -> None:
        self._ledger = ledger
        self._reader = reader
        self._stream = stream
        self._subject = stream.subject(feed, Kind.lifecycle.name, "").rpartition(".")[0] + ".*"
        self._told = told
        self._acks = stream.subject(feed, Kind.control.name, "")

    async def catch_up(self) -> Counter[str]:
        """Journal what the messages up to now change; how many changes of each kind. The ledger is open."""
        counts: Counter[str] = Counter()
        async for some in self._changes(follow=False):
            counts += some
        return counts

    async def follow(self) -> None:
        """The same with what comes, until cancelled. Raises `StoreError`."""
        async for _ in self._changes(follow=True):
            pass

    async def subscribed(self) -> AsyncIterator[None]:
        """Once each time that the venue has acknowledged subscriptions, from now on: what it announced before is in no message. Never ends.

        Raises `StoreError`.
        """
        info = await self._reader.info(self._stream)
        reads = self._reader.read(self._stream, start=info.last + 1 if info else 1, subjects=[self._acks], follow=True)
        async with aclosing(reads):  # type: ignore[type-var]  # the protocol's iterators are generators
            async for records in reads:
                if any(isinstance(r.entry.body, Control) and r.entry.body.action == "subscribed" for r in records):
                    yield None

    async def _changes(self, *, follow: bool) -> AsyncIterator[Counter[str]]:
        start = await self._start()
        reads = self._reader.read(self._stream, start=start, subjects=[self._subject], follow=follow)
        async with aclosing(reads):  # type: ignore[type-var]  # the protocol's iterators are generators
            async for records in reads:
                for some in _distinct(records):
                    yield await self._ledger.propose({r.entry.symbol: self._proposal(r) for r in some})

    async def _start(self) -> int:
        """Behind the last message that changed something; at first from the last synchronisation on, which knew what was before."""
        view = self._ledger.view
        if done := view.told(self._stream.name):
            return done + 1
        info = await self._reader.info(self._stream)
        first = info.first if info else 1
        synced_ns = view.synced_ns()
        return max(first, await self._reader.seek(self._stream, synced_ns - OVERLAP_NS)) if synced_ns else first

    def _proposal(self, record: Record) -> Proposal:
        entry = record.entry
        return Proposal(partial(self._decide, entry), entry.raw, f"{self._stream.name}:{record.sequence}")

    def _decide(self, entry: Entry, old: Market | None) -> Sequence[Change]:
        return self._told(old, entry)


def _distinct(records: Sequence[Record]) -> list[list[Record]]:
    """Runs in which each symbol is once, so that several messages about one market are folded in their order."""
    runs: list[list[Record]] = [[]]
    seen: set[str] = set()
    for record in records:
        if record.entry.symbol in seen or len(runs[-1]) == RUN:
            runs.append([])
            seen = set()
        seen.add(record.entry.symbol)
        runs[-1].append(record)
    return runs if runs[0] else []
