"""Time as an argument. Nothing outside this module reads a clock or sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time. Live code gets `WallClock`, replay a simulated one, a rehearsal a `RateClock`."""

    @property
    def rate(self) -> float:
        """Seconds of `wall_ns` in a second of `mono_ns`; 1 but in a rehearsal."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may step backwards."""
        ...

    def mono_ns(self) -> int:
        """Monotonic nanoseconds; comparable within one process only."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock's monotonic time; 0 yields to the event loop."""
        ...


class WallClock:
    """The machine's clocks."""

    rate = 1.0

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RateClock(WallClock):
    """Calendar time that runs `rate` times as fast as the machine's since `anchor_ns`, for rehearsals of days.

    Timeouts, backoffs and commits are about machines, not about markets: monotonic time and sleeps stay what they are.
    """

    def __init__(self, anchor_ns: int, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"a clock's rate is above 0, not {rate}")
        self.anchor_ns = anchor_ns
        self.rate = rate
        self._ratio = rate.as_integer_ratio()  # exact: a float has no nanoseconds of this century

    def wall_ns(self) -> int:
        gained, each = self._ratio
        return self.anchor_ns + (time.time_ns() - self.anchor_ns) * gained // each


async def pause(clock: Clock, seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but not beyond `stop`."""
    waits = {asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(stop.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
