"""What one handle knows about the entry ids a stream holds, so that appending is idempotent beyond the server's dedupe window.

An epoch's entries are normally appended in ascending order of (frame, part), so its highest one, the frontier, says of almost every
entry whether it can be there; a sparse list of marks says where to look for the others. Nothing is kept per entry: a trail is at most
`MARKS` marks, a stream at most `TRAILS` trails (some 30 MB at worst), and what is forgotten is read again from the stream.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from journal.batch import Message

Key = tuple[int, int]  # (frame, part)
Found = tuple[bytes, Key, int, bool]  # epoch, key, sequence, whether it is the epoch's opener

MARKS = 64
TRAILS = 4_096
_MARK_EVERY = 1_000  # sequences between marks, at first; doubled whenever they are thinned


class Trail:
    """One epoch in one stream. `whole`: its first entry has been seen, so nothing of it lies before the first mark."""

    __slots__ = ("_every", "frontier", "marks", "ordered", "upto", "whole")

    def __init__(self, *, whole: bool) -> None:
        self.frontier: Key = (-1, -1)
        self.ordered = True
        self.whole = whole
        self.upto = 0  # noted up to this sequence
        self.marks: list[tuple[Key, int]] = []
        self._every = _MARK_EVERY

    def note(self, key: Key, sequence: int) -> None:
        """An entry of the epoch is stored there. Sequences already noted are passed over."""
        if sequence <= self.upto:
            return
        self.upto = sequence
        if key <= self.frontier:
            self.ordered = False
            return
        self.frontier = key
        if not self.marks or sequence >= self.marks[-1][1] + self._every:
            self.marks.append((key, sequence))
            if len(self.marks) > MARKS:
                del self.marks[1::2]
                self._every *= 2

    def look_from(self, key: Key) -> int:
        """The lowest sequence at which `key` can be."""
        if not self.marks:
            return 1
        if not self.ordered:
            return self.marks[0][1]
        return self.marks[max(bisect_right(self.marks, key, key=lambda m: m[0]) - 1, 0)][1]

    def precede(self, earlier: Trail) -> None:
        """Put what was found in an earlier part of the stream before what is known."""
        if earlier.marks:
            self.ordered = earlier.ordered and self.ordered and (not self.marks or earlier.frontier < self.marks[0][0])
            self.marks = (earlier.marks + self.marks)[: 2 * MARKS]
            self.frontier = max(self.frontier, earlier.frontier)
            self.upto = max(self.upto, earlier.upto)
        self.whole = self.whole or earlier.whole


class StreamIndex:
    """The trails of one stream. Every epoch with an entry in `low` to `high` has a trail; `low` 0: from the stream's beginning."""

    def __init__(self) -> None:
        self.trails: dict[bytes, Trail] = {}
        self.low, self.high = 1, 0
        self.seen = -1  # last sequence of the stream known to this handle; -1: not asked yet
        self.unsure = False  # an append of ours may be stored behind `seen`

    def known(self, epoch: bytes) -> Trail | None:
        """The epoch's trail if it is complete up to `seen`."""
        trail = self.trails.get(epoch)
        return trail if trail and (trail.whole or self.low == 0) else None

    def note(self, found: Iterable[Found], *, new: bool) -> None:
        """Stored entries, ascending; those of epochs without a trail only if `new`."""
        trails = self.trails
        for epoch, key, sequence, opener in found:
            trail = trails.get(epoch)
            if trail is None:
                if not new:
                    continue
                trail = trails[epoch] = Trail(whole=opener)
            trail.note(key, sequence)

    def appended(self, messages: Iterable[Message], first: int, last: int) -> None:
        """An append of this handle is stored from `first` to `last`."""
        trails = self.trails
        for sequence, message in enumerate(messages, first):
            trail = trails.get(message.epoch)
            if trail is None:  # a lease: its epoch may have other entries
                trail = trails[message.epoch] = Trail(whole=False)
            trail.note(message.key, sequence)
        if first == self.seen + 1 == self.high + 1:
            self.high = last
        self.seen = last

    def forget(self) -> None:
        """Start again from nothing but `seen`."""
        self.trails.clear()
        self.low, self.high = self.seen + 1, self.seen


def split_id(entry_id: bytes) -> tuple[bytes, Key] | None:
    """``feed.epoch.frame.part`` as (``feed.epoch``, (frame, part)); None for an id that is not ours."""
    epoch, _, rest = entry_id.rpartition(b".")
    epoch, _, frame = epoch.rpartition(b".")
    if not epoch or not frame.isdigit() or not rest.isdigit():
        return None
    return epoch, (int(frame), int(rest))
