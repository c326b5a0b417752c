"""When to try again."""

from __future__ import annotations

import random


class Backoff:
    """Delays between attempts: doubling, each between half and all of its step, so that a fleet does not return at once."""

    def __init__(self, rng: random.Random, first_s: float, most_s: float) -> None:
        self._rng = rng
        self._first_s = first_s
        self._most_s = most_s
        self._step_s = first_s

    def next_s(self) -> float:
        step = self._step_s
        self._step_s = min(step * 2, self._most_s)
        return step * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """The last attempt did well."""
        self._step_s = self._first_s
