"""Time as replayed entries have it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from journal.clock import WallClock


class SimulatedClock:
    """Follows the effective time of what is replayed; a `journal.clock.Clock` for code that runs on the past."""

    rate = 1.0

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap; one entry a sleeping task
        self._order = itertools.count()

    def wall_ns(self) -> int:
        return self._now_ns

    def mono_ns(self) -> int:
        return self._now_ns

    def advance(self, now_ns: int) -> None:
        """Move to `now_ns`, never back, and wake who slept until then."""
        self._now_ns = max(self._now_ns, now_ns)
        while self._sleepers and self._sleepers[0][0] <= self._now_ns:
            *_, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Until the replay has come `seconds` further; for ever if it ends before. 0 lets others run."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if seconds > 0:
            heapq.heappush(self._sleepers, (self._now_ns + int(seconds * 1e9), next(self._order), sleeper))
        else:
            asyncio.get_running_loop().call_soon(sleeper.set_result, None)
        await sleeper


class FollowingClock(WallClock):
    """What time it is where a replay is; the machine's monotonic clock and sleeps, for what deals with clients and servers."""

    def __init__(self) -> None:
        self._now_ns = 0

    def wall_ns(self) -> int:
        return self._now_ns

    def advance(self, now_ns: int) -> None:
        """Move to `now_ns`, never back."""
        self._now_ns = max(self._now_ns, now_ns)
