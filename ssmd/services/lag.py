"""A latency histogram of fixed size."""

from __future__ import annotations

_SUB = 16  # buckets an octave: quantiles are within 6 %
_OCTAVES = 40  # of microseconds: 12 days
_BUCKETS = _SUB * _OCTAVES


class Lag:
    """Counts of durations, log-linear in microseconds."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.worst_ns = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """A clock that stepped back counts as 0."""
        micros = max(duration_ns, 0) // 1_000
        if micros < _SUB:
            at = micros
        else:
            shift = micros.bit_length() - 5  # leaves 16 to 31
            at = min((shift << 4) + (micros >> shift), _BUCKETS - 1)
        self._counts[at] += times
        self.count += times
        self.worst_ns = max(self.worst_ns, duration_ns)

    def quantile_ns(self, q: float) -> int:
        """Upper bound of the bucket that holds quantile `q`; 0 when nothing was counted."""
        wanted = q * self.count
        seen = 0
        for at, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                if at < 2 * _SUB:
                    return (at + 1) * 1_000
                shift = (at >> 4) - 1
                return ((at - (shift << 4) + 1) << shift) * 1_000
        return 0
