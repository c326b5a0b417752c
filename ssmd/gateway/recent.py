"""The newest messages of a stream, for clients that come back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from ssmd.gateway.message import Update

RECENT_MESSAGES = 50_000  # kept for clients that come back, about 40 MB with `RECENT_WEIGHT`
RECENT_WEIGHT = 500_000  # levels of the snapshots among them, 16 bytes each

_sequence = attrgetter("sequence")


class Recent:
    """The newest messages of a stream. What came behind `since` is all there."""

    def __init__(self, most: int = RECENT_MESSAGES, weight: int = RECENT_WEIGHT) -> None:
        self._most, self._most_weight = most, weight
        self._updates: list[Update] = []  # those before `_gone` are of no use any more
        self._gone = 0
        self._weight = 0
        self.since = 0

    def add(self, updates: Sequence[Update]) -> None:
        self._updates.extend(updates)
        self._weight += sum(u.weight for u in updates)
        while len(self._updates) - self._gone > self._most or self._weight > self._most_weight:
            gone = self._updates[self._gone]
            self._gone += 1
            self._weight -= gone.weight
            self.since = gone.sequence
        if self._gone > self._most // 4 + 1_000:  # now and then, so that it costs little
            del self._updates[: self._gone]
            self._gone = 0

    def behind(self, sequence: int, limit: int) -> list[Update]:
        """The first messages of entries behind `sequence`: `limit`, and those that belong to the same entry as the last one."""
        first = bisect_right(self._updates, sequence, lo=self._gone, key=_sequence)
        last = min(first + limit, len(self._updates))
        while 0 < last < len(self._updates) and self._updates[last].sequence == self._updates[last - 1].sequence:
            last += 1
        return self._updates[first:last]
