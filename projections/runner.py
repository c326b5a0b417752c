"""The one fold loop: live, recovery, replay and backtest pass it blocks from different readers.

`Runner.apply` is a generator that stands still at every mark and at the end of every day, so that the caller may take digests or
snapshots of exactly that state before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from journal.block import Block
from journal.day import iso
from journal.errors import BadObject, CorruptionError
from projections.digests import DIGEST_EVERY, NOTHING, Digest
from projections.projection import Digester, Projection
from projections.rows import Cursor

_NEVER = 1 << 63


class Stop(NamedTuple):
    """Where a fold stands still. `closing`: this was the day's last entry, for a later day's has come."""

    day: int
    sequence: int
    effective_ns: int
    closing: bool


def multiples(step: int = DIGEST_EVERY) -> Callable[[int], int]:
    """Marks at every multiple of `step`: a live fold's."""
    return lambda sequence: (sequence // step + 1) * step


def listed(sequences: Sequence[int]) -> Callable[[int], int]:
    """Marks at the given sequences."""
    marks = np.array(sorted(set(sequences)), np.int64)

    def following(sequence: int) -> int:
        at = int(np.searchsorted(marks, sequence, "right"))
        return int(marks[at]) if at < len(marks) else _NEVER

    return following


class Runner:
    """Drives projections over one stream.

    `mark` gives the next sequence to stop at, by default each multiple of 65,536. It is reached by folding the entry with that
    sequence; with `crossing` also by meeting a later one, as a fold of some symbols only does.
    """

    def __init__(
        self, projections: Sequence[Projection], stream: str, *, mark: Callable[[int], int] | None = None, crossing: bool = False
    ) -> None:
        self.projections = list(projections)
        self.stream = stream
        self._mark = mark or multiples()
        self._crossing = crossing
        self._digesters = {p.name: Digester(p) for p in self.projections}
        self.openings = dict.fromkeys(self._digesters, NOTHING)
        self._cursor = Cursor()
        self._effective_ns = 0
        self._highest = 0  # sequence folded or restored
        self.entries = 0

    @property
    def here(self) -> Stop:
        """The place of the last folded entry; all zero before the first."""
        return Stop(self._cursor.day, self._cursor.sequence, self._effective_ns, closing=False)

    def restore(self, snapshots: Mapping[str, tuple[Digest, bytes]], *, day: int | None = None) -> None:
        """Continue from snapshots taken at one place; or open `day` with closing ones of an earlier day (a projection that has
        none opens it with nothing).

        Raises `BadObject` for bytes that are no snapshot or do not have the digest they were recorded with.
        """
        for projection in self.projections:
            if day and projection.name not in snapshots:
                continue
            digest, snapshot = snapshots[projection.name]
            projection.restore(snapshot)
            digester = self._digesters[projection.name]
            digester.reset()
            if digester.digest() != digest.digest:
                raise BadObject(
                    f"the snapshot of {projection.name} at {self.stream}:{digest.sequence} has another digest than its checkpoint; "
                    "fold from an earlier one"
                )
            self.openings[projection.name] = digest.digest if day else digest.opening
            self._cursor = Cursor(day, 0) if day else Cursor(digest.day, digest.sequence)
            self._effective_ns = digest.effective_ns
            self._highest = 0 if day else digest.sequence

    def apply(self, block: Block) -> Iterator[Stop]:
        """Fold the block's rows behind the runner's place. Exhaust it: the fold goes on when the next stop is asked for."""
        rows = Cursor(self._cursor.day, self._cursor.sequence).take(block)
        if len(rows) != len(block):
            self._check_late(block)
            block = block.with_rows(rows)
        at, stop = 0, len(rows)
        sequences, days = rows["sequence"], rows["day"]
        while at < stop:
            day, first = int(days[at]), int(sequences[at])
            if day != self._cursor.day:
                if self._cursor.day:
                    yield self.here._replace(closing=True)
                    self.openings = {d.projection: d.digest for d in self.digests()}
                self._cursor = Cursor(day)
            mark = self._mark(self._cursor.sequence if self._crossing else first - 1)
            if mark < first:
                self._cursor.sequence = mark
                yield self.here
                continue
            end = stop if int(days[-1]) == day else at + int(np.searchsorted(days[at:], day, "right"))
            if int(sequences[end - 1]) > mark:
                end = at + int(np.searchsorted(sequences[at:end], mark, "right"))
            part = block if at == 0 and end == stop else block.slice(at, end)
            for projection in self.projections:
                projection.apply(part)
            self.entries += end - at
            at = end
            self._cursor.sequence = int(sequences[end - 1])
            self._effective_ns = int(rows["effective_ns"][end - 1])
            self._highest = max(self._highest, self._cursor.sequence)
            if self._cursor.sequence == mark:
                yield self.here

    def _check_late(self, block: Block) -> None:
        """Raise for rows that are left out and are no redelivery: a writer went on in a day that another had ended."""
        rows = block.rows
        late = rows[(rows["day"] < self._cursor.day) & (rows["sequence"] > self._highest)]
        if len(late):
            at, day, now = int(late["sequence"][0]), iso(int(late["day"][0])), iso(self._cursor.day)
            raise CorruptionError(
                f"{self.stream}:{at} is of {day}, after {now} had begun: the days of a live stream must not go back; an import's are "
                "folded one by one"
            )

    def finish(self, sequence: int) -> Iterator[Stop]:
        """The marks up to `sequence` that no entry came to cross."""
        while self._crossing and (mark := self._mark(self._cursor.sequence)) <= sequence:
            self._cursor.sequence = mark
            yield self.here

    def digests(self) -> list[Digest]:
        """What the state is, here, by projection."""
        here = self.here
        return [
            Digest(
                p.name, p.version, self.stream, here.day, here.sequence, self._digesters[p.name].digest(), here.effective_ns,
                self.openings[p.name],
            )
            for p in self.projections
        ]  # fmt: skip

    def digest(self, projection: str, only: Collection[str] | None = None) -> str:
        """One projection's digest, here; of some keys where `only` names them."""
        return self._digesters[projection].digest(only)

    def keys(self, projection: str) -> dict[str, bytes]:
        """Digest of each key of one projection, here. Do not change it."""
        return self._digesters[projection].keys()

    def snapshots(self) -> dict[str, bytes]:
        """State by projection, here."""
        return {p.name: p.snapshot() for p in self.projections}
