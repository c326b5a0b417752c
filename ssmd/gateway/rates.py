"""How often one client may ask: a token bucket for each, and the headers that tell it so."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from math import ceil
from typing import NamedTuple

from journal.clock import Clock

_MOST = 10_000  # buckets; the one that was unused longest is forgotten, and full when it is made again


class Taken(NamedTuple):
    """`allowed`, tokens `left`, and seconds until there is one more (if not allowed) or until all are there."""

    allowed: bool
    left: int
    wait_s: float


class Rates:
    """Buckets by name, of `burst` tokens at most, `per_s` of them a second; what is asked costs one or more."""

    def __init__(self, clock: Clock, per_s: int, burst: int) -> None:
        self._clock = clock
        self.per_s = per_s
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, name: str, cost: int = 1) -> Taken:
        """Take `cost` tokens if they are there."""
        now_ns = self._clock.mono_ns()
        tokens, at_ns = self._buckets.pop(name, (float(self.burst), now_ns))
        tokens = min(self.burst, tokens + (now_ns - at_ns) / 1e9 * self.per_s)
        cost = min(cost, self.burst)
        allowed = tokens >= cost
        if allowed:
            tokens -= cost
        self._buckets[name] = tokens, now_ns
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return Taken(allowed, int(tokens), ((self.burst if allowed else cost) - tokens) / self.per_s)

    def headers(self, taken: Taken) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers, and the three that came before them."""
        reset = ceil(taken.wait_s)
        found = {
            "RateLimit-Policy": f'"default";q={self.burst};w={ceil(self.burst / self.per_s)}',
            "RateLimit": f'"default";r={taken.left};t={reset}',
            "RateLimit-Limit": str(self.burst),
            "RateLimit-Remaining": str(taken.left),
            "RateLimit-Reset": str(reset),
        }
        return found if taken.allowed else {**found, "Retry-After": str(max(1, reset))}


class Seats:
    """Names by which connections are counted: the least free one of those of their key, so that who connects anew begins no new count."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, who: str) -> str:
        seat = next(name for number in count(1) if (name := f"{who} {number}") not in self._taken)
        self._taken.add(seat)
        return seat

    def free(self, seat: str) -> None:
        self._taken.discard(seat)
