"""The runner: owns an environment's processes, carries out what its days ask for, and follows the schedule.

There is one on a machine for each environment and data directory; its lock tells others that it lives. What operators want is in the
journal (a day that is STARTING or ENDING), so it matters to nobody whether the runner that carries it out is the one that was there then:
killed at any instant, the next one goes on from the last step that was done, and starts the processes of days that are ACTIVE again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TypeVar

from journal.clock import Clock, pause
from journal.errors import CallerError, JournalUnavailable, VenueUnavailable
from ssmd.day.activity import Processes, Step
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.calendar import Calendar
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.ending import plan_end
from ssmd.day.phase import Tell
from ssmd.day.register import Register
from ssmd.day.schedule import WHO, due
from ssmd.day.starting import Parts, plan_start
from ssmd.day.syncing import Syncing
from ssmd.day.upkeep import Upkeep
from ssmd.locks import capture_lock, held
from ssmd.settings import Settings

TICK_S = 0.5
# The wall clock may gain or lose this much on the monotonic one between two ticks before it is said to have jumped.
JUMP_S = 5.0
# A start that the venue was away for is asked for again after this long, then twice as long, up to the second.
AGAIN_FIRST_S, AGAIN_MOST_S = 15, 300
_T = TypeVar("_T")


def runner_lock(settings: Settings) -> Path:
    """Held by the one runner of the environment."""
    return settings.data_dir / f"day-{settings.env}.lock"


@asynccontextmanager
async def runner_held(settings: Settings, clock: Clock) -> AsyncIterator[bool]:
    """Be the runner: True; False where one lives. Raises `CallerError` where `ssmd up` captures into the same directory."""
    async with held(runner_lock(settings), clock, waiting=None) as mine:
        if not mine:
            yield False
            return
        async with held(capture_lock(settings.data_dir), clock, waiting=None) as capture:
            if not capture:
                raise CallerError(f"another capture (`ssmd up`, or the days of another environment) works in {settings.data_dir}; stop it")
            yield True


async def runner_lives(settings: Settings, clock: Clock) -> bool:
    if not runner_lock(settings).exists():
        return False
    async with held(runner_lock(settings), clock, waiting=None) as mine:
        return not mine


class Runner:
    """`run` until `stop`; `parts.processes` must be there. `carry_out` does one day's phase and returns."""

    def __init__(self, parts: Parts, register: Register, who: str, tell: Tell) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._register = register
        self._who = who
        self._tell = tell
        self._calendar = Calendar(parts.settings.environment.schedule)
        self.driver = EmbeddedDriver(register, parts.clock, who, tell)
        self._stop = asyncio.Event()
        self._states: dict[date, State] = {}
        self._again_ns: dict[date, int] = {}  # when a day that the venue was away for is asked for again
        self._seen = -1  # last sequence of the days' stream that `_states` knows
        self._looked_ns = (0, 0)  # wall and monotonic, at the last tick
        self._told = ""

    def stop(self) -> None:
        """Leave everything as it is: days stay what they are, and the next runner goes on."""
        self._stop.set()

    async def run(self, *, first: bool = True) -> None:
        """Until `stop`; with `first`, today's day is asked for if none was yet. Raises what ended a process for good."""
        processes = self._parts.processes
        if processes is None:
            raise CallerError("a runner needs processes")
        self._looked_ns = self._clock.wall_ns(), self._clock.mono_ns()
        await self._take_over(processes)
        syncing = Syncing(self._parts, self._register, self._calendar, self._who, self._tell)
        try:
            await self._ticks(processes, syncing, first=first)
        finally:
            await syncing.close()

    async def _take_over(self, processes: Processes) -> None:
        """Know the days there are, and have the processes of those that are ACTIVE; waits where the journal is away."""
        while not self._stop.is_set():
            try:
                await self._look()
                await self._upkeep(processes).resume(self._states, self._parts.needed)
            except JournalUnavailable as error:
                self._say(f"waiting: {error}")
                await pause(self._clock, TICK_S, self._stop)
            else:
                return

    async def _ticks(self, processes: Processes, syncing: Syncing, *, first: bool) -> None:
        while not self._stop.is_set():
            try:
                jumped = self._jumped()
                await self._look()
                for move in due(self._calendar, self._states, self._clock.wall_ns(), first=first):
                    with suppress(CallerError):  # an operator was first
                        await self._register.move(move.day, move.to, who=WHO, why=f"{move.why}{jumped}")
                first = False
                await self._ask_again()
                await self._look()
                await self._carry_out_all()
                syncing.look(max((d for d, s in self._states.items() if s is State.ACTIVE), default=None))
            except JournalUnavailable as error:
                self._say(f"waiting: {error}")
            if processes.failed.done():
                await self._fail(processes)
            if not self._calendar.auto_roll and not self._open():
                self._say("no day is open, and the schedule begins none by itself")
                return
            await pause(self._clock, TICK_S, self._stop)

    async def begin(self, day: date) -> State:
        """Carry out the phase that `day` is in, now; what it is then. Raises what ended a process for good."""
        await self._unless_stopped(self.carry_out(day))
        await self._look()
        if self._parts.processes and self._parts.processes.failed.done():
            await self._fail(self._parts.processes)
        return self._states[day]

    async def carry_out(self, day: date) -> TradingDay:
        """The phase that `day` is in."""
        found = await self._register.get(day)
        if found.mode != "live":
            raise CallerError(f"{day} is made from a source; `ssmd day recover` goes on with it")
        plan: Sequence[Step] = plan_start(self._parts) if found.phase == "start" else plan_end(self._parts, self._register)
        return await self.driver.run(day, plan)

    async def _carry_out_all(self) -> None:
        """What starts first: a day that ends may take its time."""
        for state in (State.STARTING, State.ENDING):
            for day in sorted(d for d, s in self._states.items() if s is state):
                if self._stop.is_set():
                    return
                await self._unless_stopped(self.carry_out(day))
                await self._look()
                if state is State.ENDING and any(s is State.STARTING for s in self._states.values()):
                    return

    async def _unless_stopped(self, doing: Awaitable[_T]) -> _T | None:
        """None when it was interrupted: by `stop`, or by a process that could not run."""
        processes = self._parts.processes
        task, stopping = asyncio.ensure_future(doing), asyncio.ensure_future(self._stop.wait())
        watched: set[asyncio.Future[object]] = {task, stopping}  # type: ignore[arg-type]
        if processes:
            watched.add(processes.failed)  # type: ignore[arg-type]
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        except CallerError as error:  # somebody else carries it out
            self._say(str(error))
            return None
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _fail(self, processes: Processes) -> None:
        """A process cannot run: the days that need it have an error, and the runner ends."""
        error = processes.failed.result()
        await self._upkeep(processes).fail(self._states, error)
        raise error

    def _upkeep(self, processes: Processes) -> Upkeep:
        return Upkeep(self._register, processes, self._clock, self._who, self._tell)

    async def _look(self) -> None:
        """The states of all days, read again when something happened to one."""
        info = await self._parts.journal.info(self._register.stream)
        last = info.last if info else 0
        if last == self._seen:
            return
        for day in await self._register.dates():
            # What is COMPLETE stays so.
            if self._states.get(day) is State.COMPLETE:
                continue
            found = await self._register.get(day)
            self._again_ns.pop(day, None)
            if found.mode == "live":
                self._states[day] = State(found.state)
                if (found.state, found.phase, found.error) == (State.ERROR, "start", VenueUnavailable.__name__):
                    wait_s = min(AGAIN_FIRST_S << min(found.round - 1, 10), AGAIN_MOST_S)
                    self._again_ns[day] = found.since_ns + wait_s * 10**9
            else:  # whoever makes it afterwards carries it out, too
                self._states.pop(day, None)
        self._seen = last

    async def _ask_again(self) -> None:
        """For today's day, where nothing but the venue was in its way: it begins when that is back."""
        now_ns = self._clock.wall_ns()
        today = self._calendar.today(now_ns)
        if not 0 < self._again_ns.get(today, 0) <= now_ns or not self._calendar.open(now_ns):
            return
        with suppress(CallerError):  # an operator was first
            why = "the venue was unavailable: asked for again"
            await self._register.move(today, State.STARTING, who=WHO, why=why, kept=True)

    def _open(self) -> list[date]:
        return sorted(d for d, s in self._states.items() if s in {State.STARTING, State.ACTIVE, State.ENDING})

    def _jumped(self) -> str:
        """By how much the wall clock has jumped since the last tick, for the reason of what it brings about."""
        (last_ns, last_mono_ns), self._looked_ns = self._looked_ns, (self._clock.wall_ns(), self._clock.mono_ns())
        wall_ns, mono_ns = self._looked_ns
        jump_s = (wall_ns - last_ns - (mono_ns - last_mono_ns) * self._clock.rate) / 1e9
        if abs(jump_s) < JUMP_S * self._clock.rate:
            return ""
        self._tell(f"the clock jumped by {jump_s:+.0f} s")
        return f"; the clock jumped by {jump_s:+.0f} s"

    def _say(self, text: str) -> None:
        """Once, while it stays the same."""
        if text != self._told:
            self._told = text
            self._tell(text)


async def watch(register: Register, clock: Clock, settings: Settings, day: date, tell: Callable[[str], object]) -> TradingDay:
    """Follow what the living runner does about `day` until it is no longer STARTING or ENDING. Raises `CallerError` when it dies."""
    seen, told = -1, ""
    while True:
        info = await register.journal.info(register.stream)
        if info and info.last != seen:
            seen = info.last
            found = await register.get(day)
            if found.state not in {State.STARTING, State.ENDING}:
                tell(f"{day} is {found.state}{f': {found.why}' if found.state in {State.ERROR, State.FAILED} else ''}")
                return found
            now = f"{day} {found.phase}: {found.step or 'next step'} (done: {', '.join(found.done) or 'nothing'})"
            if now != told:
                told = now
                tell(now)
        if not await runner_lives(settings, clock):
            raise CallerError(f"the runner has ended while day {day} was {found.state}; `ssmd day recover` goes on from there")
        await clock.sleep(TICK_S)
