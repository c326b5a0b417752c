"""What live runs journalled about one stream: its digests and checkpoints, read back from ``{env}_system``."""

from __future__ import annotations

from collections.abc import Sequence

from journal.entry import Record
from journal.subjects import Stream
from projections.digests import CHECKPOINT, DIGEST, Checkpoint, Digest, parse, subject
from projections.projection import Projection
from replay.source import Source


class Ledger:
    """Digests and checkpoints of `stream`, in the order they were journalled."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.digests: list[Digest] = []
        self.checkpoints: list[Checkpoint] = []

    @classmethod
    async def read(cls, source: Source, stream: Stream) -> Ledger:
        ledger = cls(stream)
        async for records in source.records(ledger.system, ledger.subjects):
            ledger.add(records)
        return ledger

    @property
    def system(self) -> Stream:
        """Where they are."""
        return Stream(self.stream.env, domain="system")

    @property
    def subjects(self) -> list[str]:
        """Of their entries."""
        return [subject(self.system, kind, "*") for kind in (DIGEST, CHECKPOINT)]

    def add(self, records: Sequence[Record]) -> None:
        """Those that are about the stream; others are left out."""
        for _, entry in records:
            found = parse(entry)
            if isinstance(found, Digest) and found.stream == self.stream.name:
                self.digests.append(found)
            elif isinstance(found, Checkpoint) and found.digest.stream == self.stream.name:
                self.checkpoints.append(found)

    def opening(self, projection: Projection, day: int) -> Checkpoint | None:
        """What `day` opens with: the newest closing checkpoint of the latest earlier day."""
        best = None
        for c in self._of(projection):
            if c.closing and c.digest.day < day and (best is None or _place(c) >= _place(best)):
                best = c
        return best

    def closed(self, projections: Sequence[Projection]) -> set[int]:
        """Days that every projection has closed."""
        days = [{c.digest.day for c in self._of(p) if c.closing} for p in projections]
        return set.intersection(*days) if days else set()

    def before(self, projection: Projection, day: int, effective_ns: int) -> Checkpoint | None:
        """The latest checkpoint within `day`, from its newest opening, whose last entry is not after `effective_ns`."""
        best, opening = None, self.opening(projection, day)
        for c in self._of(projection):
            from_ = opening.digest.digest if opening else ""
            if c.digest.day == day and c.digest.opening == from_ and c.digest.effective_ns <= effective_ns:
                best = c if best is None or _place(c) >= _place(best) else best
        return best

    def resumable(self, projections: Sequence[Projection]) -> list[dict[str, Checkpoint]]:
        """Places where every projection has a checkpoint, newest first: where a projector may go on."""
        places: dict[tuple[int, int], dict[str, Checkpoint]] = {}
        for projection in projections:
            for c in self._of(projection):
                places.setdefault(_place(c), {})[projection.name] = c
        return [places[at] for at in sorted(places, reverse=True) if len(places[at]) == len(projections)]

    def _of(self, projection: Projection) -> list[Checkpoint]:
        return [c for c in self.checkpoints if (c.digest.projection, c.digest.version) == (projection.name, projection.version)]


def _place(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.digest.day, checkpoint.digest.sequence
