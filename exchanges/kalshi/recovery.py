"""The ladder a subscription's books climb after a gap: get_snapshot, delete and add, unsubscribe and subscribe, reconnect.

Pure bookkeeping: which books still wait for a snapshot, whom to ask next, and when a step has failed. REST is no rung: it is cached.
"""

from __future__ import annotations

from collections.abc import Iterable

STEPS = ("get_snapshot", "readd", "resubscribe", "reconnect")
STEP_NS = 5_000_000_000  # without any snapshot arriving; a healthy venue answers in one round trip
WINDOW = 200  # get_snapshot commands unanswered at a time: 2 % of the venue's 10,000 commands a second
MAX_GAPS = 10  # in one recovery; a subscription that goes on losing frames needs the next step


class Recovery:
    """One channel's recovery. Idle while `step` is empty. `pace`: of the times given, as the adapter's."""

    def __init__(self, pace: float = 1.0) -> None:
        self._step_ns = int(STEP_NS * pace)
        self.step = ""
        self._waiting: dict[str, None] = {}
        self._asked: set[str] = set()
        self._due_ns = 0
        self._gaps = 0

    def __len__(self) -> int:
        """Books that still wait."""
        return len(self._waiting)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._waiting

    @property
    def waiting(self) -> list[str]:
        return list(self._waiting)

    def begin(self, symbols: Iterable[str], now_ns: int) -> None:
        """These books may be wrong from here on. During a recovery: they are, again."""
        for symbol in symbols:
            self._waiting[symbol] = None
            self._asked.discard(symbol)
        if not self._waiting:
            return
        if not self.step:
            self.step, self._gaps, self._due_ns = STEPS[0], 0, now_ns + self._step_ns
        self._gaps += 1
        if self._gaps > MAX_GAPS:
            self._due_ns = now_ns  # the next tick takes the next step

    def ask(self) -> list[str]:
        """Books to send get_snapshot for now; each is given once."""
        if self.step != STEPS[0]:
            return []
        room = WINDOW - len(self._asked)
        chosen = [s for s in self._waiting if s not in self._asked][:room] if room > 0 else []
        self._asked.update(chosen)
        return chosen

    def arrived(self, symbol: str, now_ns: int) -> bool:
        """A snapshot came. True when it was the last one: recovered."""
        if symbol not in self._waiting:
            return False
        self._due_ns = now_ns + self._step_ns if self._gaps <= MAX_GAPS else self._due_ns
        return self.drop((symbol,))

    def drop(self, symbols: Iterable[str]) -> bool:
        """Wait for these no longer. True when nothing is left to wait for."""
        for symbol in symbols:
            self._waiting.pop(symbol, None)
            self._asked.discard(symbol)
        if self._waiting or not self.step:
            return False
        self.step = ""
        return True

    def overdue(self, now_ns: int) -> bool:
        return bool(self.step) and now_ns >= self._due_ns

    def escalate(self, now_ns: int) -> str:
        """The next step; its name."""
        return self.go(STEPS[min(STEPS.index(self.step) + 1, len(STEPS) - 1)], now_ns)

    def go(self, step: str, now_ns: int) -> str:
        """Take this step, whatever was tried before."""
        self.step = step
        self._asked.clear()
        self._gaps = 0
        self._due_ns = now_ns + self._step_ns
        return step
