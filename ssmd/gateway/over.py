"""Markets that are over leave the live view: short-lived ones come by the hundred an hour, and a gateway runs for weeks.

Only those of which nothing is told any more, whatever happens: their books are not VALID, so that no lost connection makes them stale.
When something is said of one after all, the view folds all of them again from a checkpoint, which takes seconds and is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from journal.entry import Record
from projections.book import BookProjection, BookState
from projections.status import StatusProjection

SETTLED_NS = 3_600 * 10**9  # after its settlement
CLOSED_NS = 86_400 * 10**9  # after its close or determination: the settlement may still come
LOOK_NS = 600 * 10**9  # between looks: 100,000 markets take 100 ms
MANY = 2_000  # at a time: what stays is written and read once, as in a checkpoint
REMEMBERED = 200_000  # names, 20 MB
_OVER = {"settled": SETTLED_NS, "determined": CLOSED_NS, "closed": CLOSED_NS}


class Folds(Protocol):
    """What is looked at."""

    effective_ns: int
    books: BookProjection
    statuses: StatusProjection


def over(folds: Folds) -> set[str]:
    """What is over for long enough, by the time of the newest entry."""
    found = set()
    symbols = folds.statuses.keys()
    for symbol in symbols:
        status, top = folds.statuses.status(symbol), folds.books.top(symbol)
        if (after_ns := _OVER.get(status.status)) is None or (top and top.state == BookState.VALID):
            continue
        ended_ns = max(status.close_ns, status.determined_ns, status.settled_ns, top.recv_ns if top else 0)
        if ended_ns + after_ns <= folds.effective_ns:
            found.add(symbol)
    return found


class Forgotten:
    """Names of what was forgotten, the oldest of too many without trace. `times`: how often something was."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._names: dict[str, None] = {}
        self.times = 0

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Iterable[str]) -> None:
        self.times += 1
        self._names.update(dict.fromkeys(names))
        for name in list(self._names)[: max(0, len(self._names) - self._most)]:
            del self._names[name]

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._names.pop(name, None)

    def clear(self) -> None:
        self._names.clear()

    def among(self, records: Sequence[Record]) -> set[str]:
        """Those that something is said of."""
        return {r.entry.symbol for r in records if r.entry.symbol in self._names} if self._names else set()
