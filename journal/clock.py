"""Time as an argument. Nothing outside this module reads a clock or sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time. Live code gets `WallClock`, replay a simulated one."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may step backwards."""
        ...

    def mono_ns(self) -> int:
        """Monotonic nanoseconds; comparable within one process only."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock's time; 0 yields to the event loop."""
        ...


class WallClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def pause(clock: Clock, seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but not beyond `stop`."""
    waits = {asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(stop.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
