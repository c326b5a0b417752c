"""What a command of `ssmd day` works with, and how it carries out what was asked: itself, or by watching the runner that lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from datetime import date

    from journal.clock import Clock
    from journal.protocols import Journal
    from ssmd.day.aggregate import TradingDay
    from ssmd.day.calendar import Calendar
    from ssmd.day.operations import Operator
    from ssmd.day.processes import ChildProcesses
    from ssmd.day.register import Register
    from ssmd.day.runner import Runner
    from ssmd.day.starting import Parts
    from ssmd.settings import Settings
    from ssmd.temporal.driver import Queue, TemporalDriver


class Desk(NamedTuple):
    """What a command works with; `mine`: this process is the runner; `temporal`: what carries days out here instead of a runner."""

    settings: Settings
    clock: Clock
    journal: Journal
    register: Register
    calendar: Calendar
    operator: Operator
    mine: bool
    temporal: Queue | None = None


def chosen_day(settings: Settings, text: str | None) -> date | None:
    """The trading day that people mean. Raises `CallerError`."""
    from journal.day import to_date
    from ssmd.clock import machine_clock
    from ssmd.moments import parse_date
    from ssmd.wiring import day_rule

    return None if text is None else to_date(parse_date(text, day_rule(settings), machine_clock().wall_ns()))


@asynccontextmanager
async def _desk(settings: Settings, why: str, *, take: bool, write: bool) -> AsyncIterator[Desk]:
    from ssmd.clock import machine_clock
    from ssmd.day.calendar import Calendar
    from ssmd.day.operations import Operator
    from ssmd.day.register import Register
    from ssmd.day.runner import runner_held
    from ssmd.keys.change import whoami
    from ssmd.wiring import open_journal, open_temporal

    clock = machine_clock()
    calendar = Calendar(settings.environment.schedule)

    async with AsyncExitStack() as stack:
        temporal, mine = None, False
        if take and settings.environment.scheduler.type == "temporal":
            temporal = await stack.enter_async_context(open_temporal(settings))  # or nothing is asked at all
        elif take:
            mine = await stack.enter_async_context(runner_held(settings, clock))
        journal = await stack.enter_async_context(open_journal(settings, clock, read_only=not (take or write)))
        register = Register(journal, clock, settings.env, calendar.rule)
        yield Desk(settings, clock, journal, register, calendar, Operator(register, calendar, clock, whoami(), why), mine, temporal)


async def at_desk(
    settings: Settings, work: Callable[[Desk], Awaitable[int]], why: str = "", *, take: bool = True, write: bool = False
) -> int:
    """`work`'s exit code. With `take` this process is the runner if none lives, or asks Temporal where that drives days.

    Without, with `write`, it may change days all the same.
    """
    async with _desk(settings, why, take=take, write=write) as desk:
        return await work(desk)


def parts_of(desk: Desk, processes: Any = None) -> Parts:
    from ssmd.day.starting import Parts
    from ssmd.wiring import open_objects

    return Parts(desk.settings, desk.clock, desk.journal, open_objects(desk.settings), processes)


async def running(desk: Desk, venue: dict[str, Any], duration: int | None, drive: Callable[[Runner], Awaitable[int | None]]) -> int:
    """Be the runner until a signal, `duration` or an error; 130 after Ctrl-C."""
    from ssmd.day.processes import ChildProcesses, venue_of
    from ssmd.day.runner import Runner
    from ssmd.services.supervisor import follow_parent
    from ssmd.wiring import process

    follow_parent()  # in a rehearsal
    source = venue_of(desk.settings, desk.clock, **venue)
    processes = ChildProcesses(desk.settings, desk.clock, desk.journal, source, process())
    runner = Runner(parts_of(desk, processes), desk.register, process(), tell)
    return await until_stopped(drive(runner), runner.stop, processes, duration)


async def until_stopped(work: Awaitable[int | None], stop: Callable[[], None], processes: ChildProcesses, duration: int | None) -> int:
    """Await `work`, which `stop` ends at a signal or after `duration` ns; then stop the processes. `work`'s code, else 130 after Ctrl-C."""
    import signal

    code = 0

    def stopped(signal_code: int) -> None:
        nonlocal code
        code = signal_code
        stop()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped, 0)
    loop.add_signal_handler(signal.SIGINT, stopped, 130)
    timer = loop.call_later(duration / 1e9, stop) if duration else None
    try:
        return await work or code
    finally:
        if timer:
            timer.cancel()
        if processes.supervisor.children:
            tell("stopping the processes; days stay as they are")
        await asyncio.shield(processes.close())


async def carried_out(desk: Desk, date: date) -> int:
    """Do the phase of a day here and now; no process of it is ours."""
    from ssmd.day.runner import Runner
    from ssmd.wiring import process

    found = await Runner(parts_of(desk), desk.register, process(), tell).carry_out(date)
    return 0 if found.state in {"ACTIVE", "COMPLETE"} else 1


async def taken(desk: Desk, asking: Awaitable[date], wanted: date | None, state: str) -> date:
    """The day that was asked for: by us, or by somebody who was first, when it is for us, the runner, to carry out."""
    from journal.errors import CallerError
    from ssmd.day.aggregate import date_of

    try:
        return await asking
    except CallerError as error:
        waiting = [day for d in await desk.register.open() if d.state == state and (day := date_of(d)) and wanted in {None, day}]
        if not desk.mine or not waiting:
            raise
        tell(f"{error}; this process is the runner and carries it out")
        return waiting[0]


async def taken_roll(desk: Desk) -> date:
    """The day that is rolled into, whoever was first to ask for it."""

    async def ask() -> date:
        return (await desk.operator.roll())[1]

    return await taken(desk, ask(), desk.calendar.today(desk.clock.wall_ns()), "STARTING")


async def made(desk: Desk, date: date) -> int:
    """Go on with a day that is made from a source."""
    from ssmd.day.backfill import backfilling, carry_out
    from ssmd.keys.change import whoami
    from ssmd.wiring import process

    async with backfilling(desk.settings, desk.clock):
        found = await carry_out(parts_of(desk), desk.register, date, process(), tell, asker=whoami())
    return 0 if found.state == "COMPLETE" else 1


async def watched(desk: Desk, date: date, *, rolling: bool = False) -> int:
    """What the living runner makes of it; 1 when that is an error or a finding."""
    from ssmd.day.runner import TICK_S, watch

    if desk.temporal:
        found = await _temporal_driver(desk).carry_out(date)
        return 0 if found.state in {"ACTIVE", "COMPLETE"} else 1
    while rolling and (await desk.register.get(date)).state == "ACTIVE":
        await desk.clock.sleep(TICK_S)
    found = await watch(desk.register, desk.clock, desk.settings, date, tell)
    return 0 if found.state in {"ACTIVE", "COMPLETE"} else 1


async def rolled(desk: Desk, old: date, new: date) -> int:
    """What comes of going on from `old` to `new`; 1 when that is an error or a finding."""
    if not desk.temporal:
        return await watched(desk, new) or await watched(desk, old, rolling=True)
    await _temporal_driver(desk).roll([new, old])
    states = [(await desk.register.get(day)).state for day in (new, old)]
    return 0 if states == ["ACTIVE", "COMPLETE"] else 1


def _temporal_driver(desk: Desk) -> TemporalDriver:
    from ssmd.temporal.driver import TemporalDriver

    assert desk.temporal  # noqa: S101  (asked by who has looked)
    return TemporalDriver(desk.temporal, desk.register, desk.clock, tell)


async def tell_temporal(desk: Desk, days: Sequence[TradingDay]) -> None:
    """How the workflows of `days` go, and whether a worker is there for them. Raises where Temporal does not answer."""
    from ssmd.wiring import open_temporal

    async with open_temporal(desk.settings) as at:
        from ssmd.temporal.driver import tell_going

        await tell_going(at, days, desk.clock.wall_ns(), tell)


def check_workers(settings: Settings, options: dict[str, Any]) -> None:
    """Raise `CallerError` for options of the runner where it is a worker that Temporal asks."""
    given = {"recording": None, "speed": "1", "seed": 1, "duration": None}
    if settings.environment.scheduler.type == "temporal" and any(value != given.get(name, value) for name, value in options.items()):
        from journal.errors import CallerError

        raise CallerError(f"--sim, --speed, --seed and --for are the worker's here: give them to `ssmd run worker {settings.env}`")


def tell(text: str) -> None:
    click.echo(f"ssmd: {text}", err=True)
