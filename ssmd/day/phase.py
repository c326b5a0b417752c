"""One phase of a day as every driver carries it out: each attempt at a step begins and ends in the journal, and so does the phase."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from journal.clock import Clock
from journal.errors import CallerError, CorruptionError, Fenced, JournalRefused, SsmdError, StoreError, VenueUnavailable
from ssmd.day.activity import Finding, Result, Step, Work
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.register import Register

# What is worth a retry is tried again after this long, then twice as long, up to the second.
RETRY_FIRST_S, RETRY_MOST_S = 0.5, 10.0
_LOOK_S = 0.25  # between looks whether a step lives
# A step that was begun so often in a round and never ended is what ends its process: a crash, or the machine's memory.
MOST_BEGUN = 10
_MOST_TEXT = 2_000  # characters of an error in the journal

Tell = Callable[[str], object]


class Overtaken(CallerError):
    """The day was moved by somebody else, who has it now."""


class Deadly(CallerError):
    """A step that whoever carries it out does not survive."""


class Attempt(NamedTuple):
    """What became of one: the day as it is then, and what went wrong, if anything did."""

    found: TradingDay
    error: SsmdError | None


class Phase:
    """Round `number` of `day`, which is STARTING or ENDING. `who` is this process; `working` is what goes on, for a display."""

    def __init__(self, register: Register, clock: Clock, who: str, day: date, number: int, tell: Tell) -> None:  # noqa: PLR0917
        self._register = register
        self._clock = clock
        self._who = who
        self.day = day
        self._number = number
        self._tell = tell
        self.working: Work | None = None

    async def attempt(self, step: Step, number: int, label: str, look: Callable[[Work], object] = lambda _: None) -> Attempt:
        """Try `step` once, for the `number`-th time; `look` is called a few times a second while it works.

        Raises `Overtaken`, and `StoreError` when the journal is away.
        """

        def begin(newest: TradingDay) -> None:
            self._check(newest)
            if newest.begun.get(step.name, 0) >= MOST_BEGUN:
                raise Deadly(
                    f"it was begun {MOST_BEGUN} times and its process ended every time, last {newest.runner}; look at what that "
                    "wrote and at the machine's memory, then `ssmd day recover`"
                )
            newest.begin_step(step.name, self._clock.wall_ns(), self._who, number)

        try:
            found = await self._register.change(self.day, begin, who=self._who)
        except Deadly as deadly:
            return Attempt(await self._register.get(self.day), deadly)
        self._tell(f"{label}: …")
        work = Work(self.day, found.key(step.name), found.who, found.forced, done=dict(found.done))
        started_ns = self._clock.mono_ns()
        error: SsmdError | None = None
        self.working = work
        try:
            result = await alive(step, work, self._clock, look)
        except (SsmdError, OSError) as raised:
            error = raised if isinstance(raised, SsmdError) else StoreError(str(raised))
            outcome = "finding" if isinstance(error, CorruptionError) else "failed"
            result = {"error": type(error).__name__, "message": str(error)[:_MOST_TEXT]}
        else:
            outcome = "skipped" if "skipped" in result else "done"
        finally:
            self.working = None

        def end(newest: TradingDay) -> None:
            self._check(newest)
            newest.end_step(step.name, self._clock.wall_ns(), self._who, number, outcome, result)

        found = await self._register.change(self.day, end, who=self._who)
        seconds = (self._clock.mono_ns() - started_ns) / 1e9
        self._tell(f"{label}: {outcome} in {seconds:.1f} s{_shown(result)}")
        return Attempt(found, error)

    async def settle(self) -> TradingDay:
        """Every step is done: ACTIVE or COMPLETE. Raises as `attempt`."""

        def move(newest: TradingDay) -> None:
            self._check(newest)
            to = State.ACTIVE if newest.phase == "start" else State.COMPLETE
            result = newest.done.get("record", {}) if to is State.COMPLETE else {"steps": list(newest.done)}
            newest.move(to, self._clock.wall_ns(), self._who, f"every step of its {newest.phase} is done", result=result)

        found = await self._register.change(self.day, move, who=self._who)
        self._tell(f"{self.day} is {found.state}")
        return found

    async def give_up(self, step: str, error: SsmdError) -> TradingDay:
        """ERROR, or FAILED where the day is not what it must be. Raises as `attempt`."""
        result: Result = {"error": type(error).__name__, "message": str(error)[:_MOST_TEXT]}
        if isinstance(error, Finding):
            result["findings"] = list(error.findings)

        def move(newest: TradingDay) -> None:
            self._check(newest)
            to = State.FAILED if isinstance(error, CorruptionError) and newest.phase == "end" else State.ERROR
            newest.move(to, self._clock.wall_ns(), self._who, f"{step}: {error}"[:_MOST_TEXT], step=step, result=result)

        found = await self._register.change(self.day, move, who=self._who)
        self._tell(f"{self.day} is {found.state}: {step}: {error}")
        return found

    def _check(self, newest: TradingDay) -> None:
        """That it is still ours to carry out."""
        if newest.round != self._number or newest.state not in {State.STARTING, State.ENDING}:
            raise Overtaken(
                f"day {newest.day} of {newest.env} was made {newest.state} by {newest.who} meanwhile: another runner is at work"
            )


def check_open(found: TradingDay) -> None:
    """Raise `CallerError` unless the day is STARTING or ENDING."""
    if found.state not in {State.STARTING, State.ENDING}:
        raise CallerError(f"day {found.day} of {found.env} is {found.state}: there is nothing to carry out")


def worth_a_retry(error: SsmdError) -> bool:
    if isinstance(error, Fenced | JournalRefused):
        return False
    return isinstance(error, StoreError | VenueUnavailable)


async def alive(step: Step, work: Work, clock: Clock, look: Callable[[Work], object]) -> Result:
    """The step's result. Raises `StoreError` when it did not tell that it lives for its `quiet_s`."""
    task = asyncio.ensure_future(step.run(work))
    beats, quiet_ns = work.beats, clock.mono_ns()
    try:
        while not task.done():
            pause = asyncio.ensure_future(clock.sleep(_LOOK_S))
            await asyncio.wait([task, pause], return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()
            look(work)
            now_ns = clock.mono_ns()
            if work.beats != beats:
                beats, quiet_ns = work.beats, now_ns
            elif not task.done() and now_ns - quiet_ns > step.quiet_s * 1e9:
                last = f"; the last it told was: {work.text}" if work.text else ""
                raise StoreError(f"step {step.name} did nothing for {step.quiet_s:g} s and was given up{last}")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _shown(result: Result) -> str:
    if "message" in result:
        return f": {result['message']}"
    if "skipped" in result:
        return f": {result['skipped']}"
    plain = {name: value for name, value in result.items() if isinstance(value, str | int)}
    return f": {', '.join(f'{name} {value}' for name, value in plain.items())}" if plain else ""
