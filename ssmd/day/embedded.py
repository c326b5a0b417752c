"""The embedded driver: steps in this process, checkpoints in the day's own events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import date

from journal.clock import Clock
from journal.errors import CallerError, CorruptionError, Fenced, JournalRefused, SsmdError, StoreError, VenueUnavailable
from ssmd.day.activity import Finding, Result, Step, Work
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.register import Register

_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 10.0
_LOOK_S = 0.25  # between looks whether a step lives
_MOST_TEXT = 2_000  # characters of an error in the journal

Tell = Callable[[str], object]


class EmbeddedDriver:
    """A `Driver`. `who` is this process, as histories name it; `tell` is given a line for people about each step."""

    def __init__(self, register: Register, clock: Clock, who: str, tell: Tell = lambda _: None) -> None:
        self._register = register
        self._clock = clock
        self._who = who
        self._tell = tell
        self.working: Work | None = None  # for a live display

    async def run(self, day: date, plan: Sequence[Step]) -> TradingDay:
        found = await self._register.get(day)
        if found.state not in {State.STARTING, State.ENDING}:
            raise CallerError(f"day {day} of {self._register.env} is {found.state}: there is nothing to carry out")
        phase, number = found.phase, found.round
        for count, step in enumerate(plan, 1):
            label = f"{day} {phase} {count}/{len(plan)} {step.name}"
            if step.name in found.done and not step.volatile:
                self._tell(f"{label}: was done before")
                continue
            found, error = await self._carry_out(found, step, label)
            if error is not None:
                return await self._give_up(day, step, error, number)
        to = State.ACTIVE if phase == "start" else State.COMPLETE
        result = found.done.get("record", {}) if to is State.COMPLETE else {"steps": list(found.done)}

        def settle(newest: TradingDay) -> None:
            self._check(newest, number)
            newest.move(to, self._clock.wall_ns(), self._who, f"every step of its {phase} is done", result=result)

        found = await self._register.change(day, settle, who=self._who)
        self._tell(f"{day} is {found.state}")
        return found

    async def _carry_out(self, found: TradingDay, step: Step, label: str) -> tuple[TradingDay, SsmdError | None]:
        """Try until it is done or no try is left."""
        day, number, delay = date.fromisoformat(found.day), found.round, _RETRY_FIRST_S
        error: SsmdError | None = None
        for attempt in range(1, step.tries + 1):

            def begin(newest: TradingDay, attempt: int = attempt) -> None:
                self._check(newest, number)
                newest.begin_step(step.name, self._clock.wall_ns(), self._who, attempt)

            found = await self._register.change(day, begin, who=self._who)
            self._tell(f"{label}: …")
            work = Work(day, found.key(step.name), found.who, found.forced, done=dict(found.done))
            started_ns = self._clock.mono_ns()
            try:
                result = await self._alive(step, work)
            except (SsmdError, OSError) as raised:
                error = raised if isinstance(raised, SsmdError) else StoreError(str(raised))
                outcome = "finding" if isinstance(error, CorruptionError) else "failed"
                result = {"error": type(error).__name__, "message": str(error)[:_MOST_TEXT]}
            else:
                error, outcome = None, "skipped" if "skipped" in result else "done"

            def end(newest: TradingDay, attempt: int = attempt, outcome: str = outcome, result: Result = result) -> None:
                self._check(newest, number)
                newest.end_step(step.name, self._clock.wall_ns(), self._who, attempt, outcome, result)

            found = await self._register.change(day, end, who=self._who)
            seconds = (self._clock.mono_ns() - started_ns) / 1e9
            self._tell(f"{label}: {outcome} in {seconds:.1f} s{_shown(result)}")
            if error is None or not _worth_a_retry(error):
                return found, error
            if attempt < step.tries:
                await self._clock.sleep(delay)
                delay = min(2 * delay, _RETRY_MOST_S)
        return found, error

    async def _alive(self, step: Step, work: Work) -> Result:
        """The step's result. Raises `StoreError` when it did not tell that it lives for its `quiet_s`."""
        self.working = work
        task = asyncio.ensure_future(step.run(work))
        beats, quiet_ns = work.beats, self._clock.mono_ns()
        try:
            while not task.done():
                pause = asyncio.ensure_future(self._clock.sleep(_LOOK_S))
                await asyncio.wait([task, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                now_ns = self._clock.mono_ns()
                if work.beats != beats:
                    beats, quiet_ns = work.beats, now_ns
                elif not task.done() and now_ns - quiet_ns > step.quiet_s * 1e9:
                    last = f"; the last it told was: {work.text}" if work.text else ""
                    raise StoreError(f"step {step.name} did nothing for {step.quiet_s:g} s and was given up{last}")
            return task.result()
        finally:
            self.working = None
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _give_up(self, day: date, step: Step, error: SsmdError, number: int) -> TradingDay:
        result: Result = {"error": type(error).__name__, "message": str(error)[:_MOST_TEXT]}
        if isinstance(error, Finding):
            result["findings"] = list(error.findings)

        def settle(newest: TradingDay) -> None:
            self._check(newest, number)
            to = State.FAILED if isinstance(error, CorruptionError) and newest.phase == "end" else State.ERROR
            newest.move(to, self._clock.wall_ns(), self._who, f"{step.name}: {error}"[:_MOST_TEXT], step=step.name, result=result)

        found = await self._register.change(day, settle, who=self._who)
        self._tell(f"{day} is {found.state}: {step.name}: {error}")
        return found

    def _check(self, newest: TradingDay, number: int) -> None:
        """That it is still ours to carry out."""
        if newest.round != number or newest.state not in {State.STARTING, State.ENDING}:
            raise CallerError(
                f"day {newest.day} of {newest.env} was made {newest.state} by {newest.who} meanwhile: another runner is at work"
            )


def _worth_a_retry(error: SsmdError) -> bool:
    if isinstance(error, Fenced | JournalRefused):
        return False
    return isinstance(error, StoreError | VenueUnavailable)


def _shown(result: Result) -> str:
    if "message" in result:
        return f": {result['message']}"
    if "skipped" in result:
        return f": {result['skipped']}"
    plain = {name: value for name, value in result.items() if isinstance(value, str | int)}
    return f": {', '.join(f'{name} {value}' for name, value in plain.items())}" if plain else ""
