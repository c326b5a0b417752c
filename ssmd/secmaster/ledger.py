"""Journalling changes of markets, each once, whoever else does it at the same time.

Whatever is learnt about a market (from REST, from a lifecycle message, because its time has come) goes this way: its change is decided
from the market as the view has it and appended if that is still the newest there is. If somebody was faster the view catches up and it is
decided again, which then finds less to do, or nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from exchanges.backoff import Backoff
from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Entry, Record
from journal.errors import JournalUnavailable, Superseded
from journal.market import Change, Market
from journal.protocols import MAX_BATCH, Journal, JournalReader
from ssmd.secmaster.reading import History, catch_up
from ssmd.secmaster.stream import Synced, change_entry, nameless_entry, secmaster, sync_entry
from ssmd.secmaster.view import Row, View

RUN = 500  # markets of one append: two changes of each in the largest, about 5 MB with the venue's objects
_TRIES = 64  # each lost one is somebody else's success
_ASKED_AGAIN = 12  # about 20 s: a cluster elects a leader in 5 to 7 s


class Proposal(NamedTuple):
    """What is known of a market: `decide` says what changes of the one it is given (None: not there).

    `causation` is the position of the market message it comes from, `correlation` the synchronisation that found it, if one did.
    """

    decide: Callable[[Market | None], Sequence[Change]]
    raw: bytes = b""
    causation: str = ""
    correlation: str = ""


class Ledger:
    """Writes `{env}_secmaster`; `view` is what it decides from."""

    def __init__(
        self, journal: Journal, view: View, env: str, clock: Clock, backoff: Backoff, *, days: DayRule, who: str,
        archive: JournalReader | None = None,
    ) -> None:  # fmt: skip
        self.view = view
        self._journal = journal
        self._stream = secmaster(env)
        self._clock = clock
        self._backoff = backoff
        self._days = days
        self._who = who
        self._history = History(self._stream, journal, archive)

    async def open(self) -> None:
        """Make the stream if need be and bring the view up to it."""
        await self._journal.ensure(self._stream)
        await self.catch_up()

    async def catch_up(self) -> None:
        await catch_up(self.view, self._history)

    async def propose(self, proposals: Mapping[str, Proposal]) -> Counter[str]:
        """Journal what changes, by symbol; how many changes of each kind. At most `RUN` markets. Raises `StoreError`."""
        if len(proposals) > RUN:
            raise ValueError(f"{len(proposals)} markets at once; at most {RUN}")
        written: Counter[str] = Counter()
        left = dict(proposals)
        for _ in range(_TRIES):
            rows = self.view.rows(left)
            wanted = {s: list(p.decide(rows[s].known.market if s in rows else None)) for s, p in left.items()}
            changes = [c[0] for c in wanted.values() if c]
            if not changes:
                return written
            try:
                await self._write(changes, rows, left)
            except Superseded:
                await self.catch_up()
                continue
            written.update(c.change for c in changes)
            # The second change of a market is decided anew: somebody may have come between.
            left = {s: left[s] for s, c in wanted.items() if len(c) > 1}
        raise JournalUnavailable(f"{self._stream.name}: others changed the same markets {_TRIES} times running; try again")

    async def _write(self, changes: Sequence[Change], rows: Mapping[str, Row], proposals: Mapping[str, Proposal]) -> None:
        """Append one change of each of some markets, as they follow on `rows`."""
        now_ns, mono_ns = self._clock.wall_ns(), self._clock.mono_ns()
        effective_ns = max(self.view.place.effective_ns, now_ns)
        day = self._days.day_of(effective_ns)
        entries, newest = [], []
        for change in changes:
            row, proposal = rows.get(change.symbol), proposals[change.symbol]
            newest.append(row.sequence if row else 0)
            entries.append(
                change_entry(
                    change,
                    row.known.changes if row else 0,
                    effective_ns=effective_ns,
                    recv_ns=now_ns,
                    mono_ns=mono_ns,
                    day=day,
                    raw=proposal.raw,
                    who=self._who,
                    causation=proposal.causation,
                    correlation=proposal.correlation,
                )
            )
        await self._append(entries, newest)

    async def record(self, synced: Synced, feed: str) -> None:
        """Journal that a synchronisation has come to its end."""
        for _ in range(_TRIES):
            sequence, frame, _ = self.view.synced(feed) or (0, -1, None)
            effective_ns = max(self.view.place.effective_ns, synced.finished_ns)
            entry = sync_entry(
                synced, feed, frame + 1, effective_ns=effective_ns, mono_ns=self._clock.mono_ns(), day=self._days.day_of(effective_ns),
                who=self._who,
            )  # fmt: skip
            try:
                await self._append([entry], [sequence])
            except Superseded:
                await self.catch_up()
            else:
                return
        raise JournalUnavailable(f"{self._stream.name}: others synchronised {_TRIES} times meanwhile; try again")

    async def keep(self, raws: Iterable[bytes]) -> None:
        """Journal objects that name no market, each once."""
        for raw in raws:
            now_ns = self._clock.wall_ns()
            effective_ns = max(self.view.place.effective_ns, now_ns)
            day, mono_ns = self._days.day_of(effective_ns), self._clock.mono_ns()
            entry = nameless_entry(
                raw, effective_ns=effective_ns, recv_ns=now_ns, mono_ns=mono_ns, day=day, who=self._who
            )  # fmt: skip
            with suppress(Superseded):  # it is there
                await self._append([entry], [0])

    async def _append(self, entries: Sequence[Entry], newest: Sequence[int]) -> None:
        """Append and fold. The same call again settles one without an answer."""
        for at in range(0, len(entries), MAX_BATCH):
            some = entries[at : at + MAX_BATCH]
            sequences = await self._stored(some, newest[at : at + MAX_BATCH])
            records = [Record(n, e) for n, e in zip(sequences, some, strict=True)]
            if sequences[0] != self.view.place.sequence + 1 or not self.view.fold(records):
                await self.catch_up()

    async def _stored(self, entries: Sequence[Entry], newest: Sequence[int]) -> list[int]:
        self._backoff.reset()
        for _ in range(_ASKED_AGAIN):
            try:
                return await self._journal.append_if(self._stream, entries, newest)
            except JournalUnavailable:
                await self._clock.sleep(self._backoff.next_s())
        return await self._journal.append_if(self._stream, entries, newest)
