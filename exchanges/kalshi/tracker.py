"""Sequence numbers of one connection: the only place that decides what a gap is.

Kalshi counts per sid, over every ticker and every ack on it (S1, S2); a sid's first number is 1 (S4); sids and numbers restart with the
connection, so a tracker lives as long as one (S5). Frames without a number are not shown to it.

Filtered recordings are cut from shared subscriptions: their numbers must increase, holes mean nothing, and going back means that the
recorder had reconnected.
"""

from __future__ import annotations

from typing import NamedTuple

# A venue that repeats or reorders a few frames is tolerated; one that goes on below the last number has restarted its count.
BEHIND_IS_RESTART = 8
# Sids of one connection: channels times resubscriptions, a dozen in practice. The oldest is forgotten beyond this.
MAX_SIDS = 4_096


class Finding(NamedTuple):
    """`gap`: first to last are missing. `duplicate`: the number was passed before. `restart`: the count began again."""

    kind: str
    first_missing: int = 0
    last_missing: int = 0


_DUPLICATE = Finding("duplicate")
_RESTART = Finding("restart")


class Tracker:
    """Watches every number of one connection, in the order read."""

    def __init__(self, *, filtered: bool = False) -> None:
        self._filtered = filtered
        self._last: dict[int, int] = {}
        self._behind: dict[int, int] = {}  # sid -> numbers in a row that were not above the last

    def observe(self, sid: int, seq: int) -> Finding | None:
        """None when `seq` is the next one; call once for each numbered frame."""
        last = self._last.get(sid, 0)
        if seq == last + 1:
            self._last[sid] = seq
            if self._behind:
                self._behind.pop(sid, None)
            return None
        return self._surprise(sid, seq, last)

    def _surprise(self, sid: int, seq: int, last: int) -> Finding | None:
        if seq > last:
            if sid not in self._last and len(self._last) >= MAX_SIDS:
                del self._last[next(iter(self._last))]
            self._last[sid] = seq
            self._behind.pop(sid, None)
            return None if self._filtered else Finding("gap", last + 1, seq - 1)
        if self._filtered:
            if seq == last:
                return _DUPLICATE
            self._last[sid] = seq
            return _RESTART
        behind = self._behind.get(sid, 0) + 1
        if behind < BEHIND_IS_RESTART:
            self._behind[sid] = behind
            return _DUPLICATE
        self._behind.pop(sid, None)
        self._last[sid] = seq
        return _RESTART

    def forget(self, sid: int) -> None:
        """The subscription ended; a sid that is used again starts from 1."""
        self._last.pop(sid, None)
        self._behind.pop(sid, None)
