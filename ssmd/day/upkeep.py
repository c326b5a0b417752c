"""What whoever owns a day's processes owes to days that are open: their processes run, or the day has an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from journal.clock import Clock
from journal.errors import CallerError, SsmdError
from ssmd.day.activity import Processes
from ssmd.day.aggregate import RESUMED, State, TradingDay
from ssmd.day.phase import Tell
from ssmd.day.register import Register

_MOST_TEXT = 2_000  # characters of an error in the journal


class Upkeep:
    """`who` is this process."""

    def __init__(self, register: Register, processes: Processes, clock: Clock, who: str, tell: Tell) -> None:
        self._register = register
        self._processes = processes
        self._clock = clock
        self._who = who
        self._tell = tell

    async def resume(self, states: Mapping[date, State], names: Sequence[str]) -> None:
        """Processes `names` of days that are ACTIVE; days that had an error are left to an operator. Raises `StoreError`."""
        for day, state in sorted(states.items()):
            if state is State.ACTIVE:
                found = {name: await self._processes.ensure(name) for name in names}
                if not all(f["already_ran"] for f in found.values()):
                    await self._note(day, RESUMED, {"pids": {name: f["pid"] for name, f in found.items()}})
                    self._tell(f"{day} is ACTIVE: its processes run again")
            elif state in {State.ERROR, State.FAILED} and day == max(states):
                self._tell(f"{day} is {state.value}; see `ssmd day show`, and `ssmd day recover` to go on")

    async def fail(self, states: Mapping[date, State], error: SsmdError) -> None:
        """A process cannot run: the days that need it have an error, unless another runner has taken them over. Raises `StoreError`."""

        def move(newest: TradingDay) -> None:
            if newest.runner not in {"", self._who}:
                raise CallerError(f"{newest.day} has been taken over by {newest.runner}")
            newest.move(State.ERROR, self._clock.wall_ns(), self._who, str(error)[:_MOST_TEXT])

        for day, state in sorted(states.items()):
            if state in {State.STARTING, State.ACTIVE}:
                try:
                    await self._register.change(day, move, who=self._who, why=str(error)[:_MOST_TEXT])
                except CallerError as other:
                    self._tell(str(other))
                else:
                    self._tell(f"{day} is ERROR")

    async def _note(self, day: date, what: str, detail: dict[str, object]) -> None:
        await self._register.change(day, lambda d: d.note(what, self._clock.wall_ns(), self._who, detail), who=self._who)
