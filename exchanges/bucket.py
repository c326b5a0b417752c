"""How often a venue may be asked."""

from __future__ import annotations

from journal.clock import Clock


class TokenBucket:
    """`requests` tokens in each `per_s`, all of them at once if none were used. One token is one request."""

    def __init__(self, clock: Clock, requests: int, per_s: float) -> None:
        self._clock = clock
        self._most = float(requests)
        self._rate = requests / per_s
        self._tokens = self._most
        self._at_ns = clock.mono_ns()

    async def take(self) -> None:
        """Return when a request may be sent. Several callers are served in no order."""
        while True:
            now_ns = self._clock.mono_ns()
            self._tokens = min(self._most, self._tokens + (now_ns - self._at_ns) / 1e9 * self._rate)
            self._at_ns = now_ns
            if self._tokens >= 1:
                self._tokens -= 1
                return
            await self._clock.sleep((1 - self._tokens) / self._rate)

    def empty(self) -> None:
        """The venue said that it was too much: its own bucket is empty."""
        self._tokens = 0.0
        self._at_ns = self._clock.mono_ns()
