"""What operators ask of days: each is a move in the journal, or a refusal that says why and what to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from journal.clock import Clock
from journal.errors import CallerError
from ssmd.day.activity import Step
from ssmd.day.aggregate import OPEN, State, TradingDay, date_of
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register
from ssmd.moments import rfc3339


class Recovery(NamedTuple):
    """How a day goes on: to what it is moved ("" where it only has to be carried out), and with which steps."""

    day: date
    state: str
    why: str
    move: str
    done: list[str]
    next: list[str]
    mode: str = "live"


class Operator:
    """`who` asks, and `why`. Each method raises `CallerError` for what cannot be, and `StoreError`."""

    def __init__(self, register: Register, calendar: Calendar, clock: Clock, who: str, why: str = "") -> None:
        self._register = register
        self._calendar = calendar
        self._clock = clock
        self._who = who
        self._why = why

    async def start(self, day: date | None) -> date:
        """Ask for `day`, by default today's; the day."""
        now_ns = self._clock.wall_ns()
        today = self._calendar.today(now_ns)
        day = day or today
        if day > today:
            raise CallerError(f"{day} is in the future: it begins at {_time(self._calendar.opens_ns(day))}; today is {today}")
        if day < today:
            raise CallerError(f"{day} has gone by, and live frames are of {today}; make it with --mode replay")
        if not self._calendar.open(now_ns):
            begins = _time(self._calendar.opens_ns(day + timedelta(days=1)))
            raise CallerError(f"{day} is over since {_time(self._calendar.over_ns(day))}; the next day begins at {begins}")
        for other in await self._register.open():
            if other.day != day.isoformat() and other.phase == "start":
                raise CallerError(
                    f"day {other.day} is {other.state} since {_time(other.since_ns)}, by {other.who}; `ssmd day roll` goes on to {day}"
                )
        await self._register.move(day, State.STARTING, who=self._who, why=self._why)
        return day

    async def replay(
        self,
        day: date,
        source: Mapping[str, str],
        captured: Callable[[], Awaitable[str]],
        check: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Ask for `day`, which nobody captured, from `source`; or that it goes on, where it was interrupted.

        `captured` says what was captured of it after all, "" for nothing. `check` raises where the source will not do, before anything
        is asked.
        """
        today, asked = self._calendar.today(self._clock.wall_ns()), dict(source)
        if day > today:
            raise CallerError(f"{day} is in the future: it begins at {_time(self._calendar.opens_ns(day))}; today is {today}")
        if day == today:
            following = _time(self._calendar.opens_ns(day + timedelta(days=1)))
            raise CallerError(f"{day} is not over before {following}; capture it with `ssmd day start`, or replay it then")
        known = await self._register.get(day)
        if known.mode == "replay" and known.state in OPEN and known.source == asked:
            return  # it goes on
        if known.mode == "replay" and known.state in OPEN:
            raise CallerError(f"{day} is {known.state} from {_listed(known.source)}, by {known.who}; go on with that: ssmd day recover")
        if found := await captured():
            raise CallerError(f"{day} was captured live: {found}; what is missing in it stays a gap, see `ssmd day show`")
        if known.mode == "replay" and known.phase == "end" and known.state != State.COMPLETE and known.source == asked:
            await self._register.move(day, State.ENDING, who=self._who, why=self._why, kept=True)
            return
        if check:
            await check()
        result = {"mode": "replay", "source": asked}
        await self._register.move(day, State.STARTING, who=self._who, why=self._why, result=result)

    async def end(self, day: date | None, *, force: bool) -> date:
        """Ask for the end of `day`, by default of the oldest one that is open."""
        if day is None:
            days = [d for d in await self._register.open() if d.state == State.ACTIVE] or await self._register.open()
            day = date_of(days[0]) if days else max(await self._register.dates(), default=self._calendar.today(self._clock.wall_ns()))
        if (await self._register.get(day)).mode == "replay":
            raise CallerError(f"{day} is made from a source and ends by itself; `ssmd day recover` goes on with it")
        await self._register.move(day, State.ENDING, who=self._who, why=self._why, forced=force)
        return day

    async def roll(self) -> tuple[date, date]:
        """Ask for today's day while an older one is ACTIVE, which ends when today's is live; both."""
        today = self._calendar.today(self._clock.wall_ns())
        active = [date_of(d) for d in await self._register.open() if d.state == State.ACTIVE]
        old = min(active, default=None)
        if old is None:
            raise CallerError("no day is ACTIVE; `ssmd day start` begins one")
        if old >= today:
            following = today + timedelta(days=1)
            raise CallerError(
                f"{old} is today's day; {following} begins at {_time(self._calendar.opens_ns(following))}. `ssmd day end` ends it early"
            )
        if today not in active:
            await self._register.move(today, State.STARTING, who=self._who, why=self._why or f"rolled from {old}")
        return old, today

    async def recoveries(self, plans: dict[str, Sequence[Step]]) -> list[Recovery]:
        """How each day that is not as it should be would go on; `plans` are the steps of start, end, bring and close."""
        found = []
        for day in await self._register.dates():
            known = await self._register.get(day)
            if known.state in {State.ERROR, State.FAILED}:
                timely = known.mode == "replay" or day == self._calendar.today(self._clock.wall_ns())
                to = State.STARTING if known.phase == "start" and timely else State.ENDING
                found.append(_recovery(known, to.value, plans[_plan(known.mode, "start" if to is State.STARTING else "end")]))
            elif known.state in {State.STARTING, State.ENDING}:
                found.append(_recovery(known, "", plans[_plan(known.mode, known.phase)]))
            elif known.state == State.ACTIVE and known.mode == "replay":
                found.append(_recovery(known, "", plans["close"]))
            elif known.state == State.ACTIVE:
                found.append(Recovery(day, known.state, known.why, "", [], ["its processes run again"]))
        return found

    async def recover(self, recovery: Recovery) -> None:
        """Move the day, from its last checkpoint on."""
        if recovery.move:
            await self._register.move(recovery.day, State(recovery.move), who=self._who, why=self._why or "recover", kept=True)


def _recovery(day: TradingDay, move: str, plan: Sequence[Step]) -> Recovery:
    same = not move or (move == State.STARTING) == (day.phase == "start")
    done = [s.name for s in plan if same and s.name in day.done]
    return Recovery(date_of(day), day.state, day.why, move, done, [s.name for s in plan if s.name not in done or s.volatile], day.mode)


def _plan(mode: str, phase: str) -> str:
    return {"start": "bring", "end": "close"}[phase] if mode == "replay" else phase


def _listed(source: Mapping[str, str]) -> str:
    return ", ".join(source.values())


def _time(ns: int) -> str:
    return rfc3339(ns).partition(".")[0] + "Z"
