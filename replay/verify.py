"""Does a replay come to the states that the live run had? Every digest it journalled of the day is compared.

With all symbols, the projections' digests are compared at each sequence where the live run took one. With some symbols only, those
are of no use: the keys are compared with the same keys in the snapshots of the day's checkpoints, each of which must first have the
digest that was journalled for it.

A digest names the state its day was opened with. The newest one of the day must name the closing state of the day before that we
opened with too: opening(D) = closing(D-1). Older ones that name another state were superseded when an earlier day was imported later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from journal.errors import BadObject, NothingToVerify
from journal.protocols import Storage
from projections.digests import Checkpoint, Digest, load
from projections.projection import Digester, Projection
from projections.registry import create
from projections.runner import Runner
from replay.ledger import Ledger


class Verified(msgspec.Struct):
    """`differences` says, for the first few mismatches, what differs."""

    compared: int = 0
    mismatched: int = 0
    differences: list[str] = msgspec.field(default_factory=list)

    def count(self, same: bool, what: str) -> None:
        self.compared += 1
        if not same:
            self.mismatched += 1
            if len(self.differences) < 20:
                self.differences.append(what)


class Verifier:
    """Holds a runner against the ledger, from `first`, before which a day was torn down, to `last`: an archive may end before the live run.

    `marks` are the sequences to stop at; call `check` at each stop and `result` at the end.
    """

    def __init__(
        self,
        ledger: Ledger,
        projections: Sequence[Projection],
        openings: dict[str, str],
        day: int,
        *,
        first: int,
        last: int,
        symbols: Collection[str] | None = None,
        storage: Storage | None = None,
    ) -> None:
        self._verified = Verified()
        self._symbols = sorted(symbols) if symbols is not None else None
        self._storage = storage
        self._digests: dict[tuple[str, int], Digest] = {}
        self._checkpoints: dict[tuple[str, int], Checkpoint] = {}
        self._day = f"{ledger.stream.name}, day {day}"
        for projection in projections:
            name, version = projection.name, projection.version
            ours = [d for d in ledger.digests if (d.projection, d.version, d.day) == (name, version, day) and first <= d.sequence <= last]
            if ours and ours[-1].opening != openings[name]:
                was = ours[-1].opening or "nothing"
                what = f"{name}: the live run opened the day with {was}, its day before closed with {openings[name]}"
                self._verified.count(same=False, what=what)
            self._digests.update({d.place: d for d in ours if d.opening == openings[name]})
            self._checkpoints.update(
                {
                    c.digest.place: c
                    for c in ledger.checkpoints
                    if (c.digest.projection, c.digest.version, c.digest.day, c.digest.opening) == (name, version, day, openings[name])
                    and first <= c.digest.sequence <= last
                }
            )
        self.marks = sorted({sequence for _, sequence in (self._digests if symbols is None else self._checkpoints)})

    def check(self, runner: Runner) -> None:
        """Compare what was journalled for the runner's place, if anything."""
        sequence = runner.here.sequence
        for digest in runner.digests():
            at = digest.place
            if self._symbols is None and at in self._digests:
                self._verified.count(
                    digest.digest == self._digests[at].digest,
                    f"{at[0]} at {sequence}: live {self._digests[at].digest}, replay {digest.digest}",
                )
            elif self._symbols is not None and at in self._checkpoints:
                self._compare_keys(self._checkpoints[at], runner.keys(at[0]), self._symbols)

    def _compare_keys(self, checkpoint: Checkpoint, ours: dict[str, bytes], symbols: Sequence[str]) -> None:
        if self._storage is None:
            raise NothingToVerify("some symbols are compared with snapshots, which needs the storage")
        (live,) = create([checkpoint.digest.projection])
        live.restore(load(self._storage, checkpoint.object))
        digester = Digester(live)
        if digester.digest() != checkpoint.digest.digest:
            raise BadObject(f"snapshot {checkpoint.object} has another digest than its checkpoint; verify without --symbol")
        theirs = digester.keys()
        for symbol in symbols:
            if symbol in ours or symbol in theirs:
                what = f"{checkpoint.digest.projection} of {symbol} at {checkpoint.digest.sequence} differs from the live snapshot"
                self._verified.count(ours.get(symbol) == theirs.get(symbol), what)

    def result(self) -> Verified:
        """Raises `NothingToVerify`."""
        if not self._verified.compared:
            what = "digests" if self._symbols is None else "checkpoints that hold these symbols"
            raise NothingToVerify(
                f"no live {what} of {self._day} to compare with; they are journalled while a projector runs (ssmd run projector), "
                "at every 65,536 entries, at its clean stop and when the day closes; an archive has them when the archiver has caught up"
            )
        return self._verified
