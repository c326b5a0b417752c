"""The embedded driver: steps in this process, checkpoints in the day's own events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from journal.clock import Clock
from ssmd.day.activity import Step, Work
from ssmd.day.aggregate import TradingDay
from ssmd.day.phase import RETRY_FIRST_S, RETRY_MOST_S, Attempt, Phase, Tell, check_open, worth_a_retry
from ssmd.day.register import Register


class EmbeddedDriver:
    """A `Driver`. `who` is this process, as histories name it; `tell` is given a line for people about each step."""

    def __init__(self, register: Register, clock: Clock, who: str, tell: Tell = lambda _: None) -> None:
        self._register = register
        self._clock = clock
        self._who = who
        self._tell = tell
        self._phase: Phase | None = None

    @property
    def working(self) -> Work | None:
        """What goes on, for a live display."""
        return self._phase.working if self._phase else None

    async def run(self, day: date, plan: Sequence[Step]) -> TradingDay:
        found = await self._register.get(day)
        check_open(found)
        phase = self._phase = Phase(self._register, self._clock, self._who, day, found.round, self._tell)
        for count, step in enumerate(plan, 1):
            label = f"{day} {found.phase} {count}/{len(plan)} {step.name}"
            if step.name in found.done and not step.volatile:
                self._tell(f"{label}: was done before")
                continue
            found, error = await self._carry_out(phase, step, label)
            if error is not None:
                return await phase.give_up(step.name, error)
        return await phase.settle()

    async def _carry_out(self, phase: Phase, step: Step, label: str) -> Attempt:
        """Try until it is done or no try is left."""
        delay = RETRY_FIRST_S
        for number in range(1, step.tries + 1):
            made = await phase.attempt(step, number, label)
            if made.error is None or not worth_a_retry(made.error) or number == step.tries:
                return made
            await self._clock.sleep(delay)
            delay = min(2 * delay, RETRY_MOST_S)
        raise AssertionError  # a step has a try
