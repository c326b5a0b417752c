"""How fast a replay goes. A pace cuts entries into the runs that are due together and waits between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from journal.clock import Clock

# At N times real time, entries within this much real time go out together: 200 pieces a second cost a few percent of a core.
_QUANTUM_NS = 5_000_000


class Pace(Protocol):
    def __str__(self) -> str:
        """As `ssmd replay --speed` takes it."""
        ...

    def spans(self, times: NDArray[np.int64]) -> AsyncIterator[slice]:
        """Entries with these effective times, in their order, cut into runs, each yielded when it is due."""
        ...


class Max:
    """As fast as possible; other tasks run in between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __str__(self) -> str:
        return "max"

    async def spans(self, times: NDArray[np.int64]) -> AsyncIterator[slice]:
        yield slice(0, len(times))
        await self._clock.sleep(0)


class Times:
    """`factor` times real time by effective time, from the first entry on. What is late is not waited for again."""

    def __init__(self, clock: Clock, factor: float) -> None:
        self._clock = clock
        self._factor = factor
        self._origin: tuple[int, int] | None = None  # (effective, monotonic) ns of the first entry

    def __str__(self) -> str:
        return f"{self._factor:g}"

    async def spans(self, times: NDArray[np.int64]) -> AsyncIterator[slice]:
        span_ns = max(1, int(_QUANTUM_NS * self._factor))
        at = 0
        while at < len(times):
            now_ns = int(times[at])
            first_ns, started_ns = self._origin = self._origin or (now_ns, self._clock.mono_ns())
            wait_ns = (now_ns - first_ns) / self._factor - (self._clock.mono_ns() - started_ns)
            await self._clock.sleep(max(0.0, wait_ns / 1e9))
            # Effective times of several writers may step back a little: those go out with what is before them.
            later = np.flatnonzero(times[at:] >= now_ns + span_ns)
            end = at + int(later[0]) if len(later) else len(times)
            yield slice(at, end)
            at = end


class Stride(NamedTuple):
    """So many entries, or all within so much time behind the last one."""

    entries: int = 0
    ns: int = 0


class Step:
    """A stride each time `wait` returns with one."""

    def __init__(self, wait: Callable[[], Awaitable[Stride]]) -> None:
        self._wait = wait
        self._entries = 0  # that are due yet
        self._now_ns = self._due_ns = -1  # of the last entry; up to which they are due

    def __str__(self) -> str:
        return "step"

    async def spans(self, times: NDArray[np.int64]) -> AsyncIterator[slice]:
        at = 0
        while at < len(times):
            end = at + self._entries
            if not self._entries:
                later = np.flatnonzero(times[at:] > self._due_ns)
                end = at + int(later[0]) if len(later) else len(times)
            end = min(end, len(times))
            if end > at:
                self._entries = max(0, self._entries - (end - at))
                self._now_ns = max(self._now_ns, int(times[end - 1]))
                yield slice(at, end)
                at = end
                continue
            stride = await self._wait()
            since_ns = self._now_ns if self._now_ns >= 0 else int(times[at])
            self._entries, self._due_ns = stride.entries, since_ns + stride.ns if stride.ns else -1
