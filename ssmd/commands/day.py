"""`ssmd day`: trading days, their states, and the runner that carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ssmd.options import DURATION, configured, environment_argument, examples

if TYPE_CHECKING:
    from datetime import date

    from journal.clock import Clock
    from journal.protocols import Journal
    from ssmd.day.calendar import Calendar
    from ssmd.day.operations import Operator
    from ssmd.day.register import Register
    from ssmd.day.runner import Runner
    from ssmd.day.starting import Parts
    from ssmd.settings import Settings

_WATCH_S = 1.0


class Desk(NamedTuple):
    """What a command works with; `mine`: this process is the runner."""

    settings: Settings
    clock: Clock
    journal: Journal
    register: Register
    calendar: Calendar
    operator: Operator
    mine: bool


@click.group()
def day() -> None:
    """Trading days: status, run, start, end, roll, history, show, recover, schedule.

    What is asked for is journalled; the runner (`ssmd day run`, or the first `start`) carries it out. Where it died, the next one goes on.
    """


def _venue_options(function: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--sim", "recording", metavar="RECORDING", help="Simulate the venue from a recording, instead of the environment's."
            ),
            click.option("--speed", default="1", show_default=True, help="Of the simulated venue: a factor, or max."),
            click.option("--seed", type=int, default=1, show_default=True, help="Of the synthetic venue."),
            click.option(
                "--for", "duration", type=DURATION, help="As the runner: stop the processes after this long; the day stays as it is."
            ),
        )
    ):
        function = option(function)
    return function


_why = click.option("--why", default="", metavar="TEXT", help="For the history.")
_date = click.option("--date", "date", metavar="DATE", help="The day: 2026-08-10, today or yesterday.")


def _day(settings: Settings, text: str | None) -> date | None:
    """The trading day that people mean. Raises `CallerError`."""
    from journal.clock import WallClock
    from journal.day import to_date
    from ssmd.moments import parse_date
    from ssmd.wiring import day_rule

    return None if text is None else to_date(parse_date(text, day_rule(settings), WallClock().wall_ns()))


@day.command("run", epilog=examples("ssmd day run", "ssmd day run kalshi-prod", "ssmd day run --for 8h"))
@environment_argument
@_venue_options
@click.pass_context
@configured
def run_(ctx: click.Context, *, settings: Settings, output: str, duration: int | None, **venue: Any) -> None:
    """Be the runner: begin today's day, keep its processes, and follow the schedule.

    Ctrl-C stops the processes in order and leaves the days as they are; the next runner goes on.
    """
    del output

    async def work(desk: Desk) -> int:
        if not desk.mine:
            from journal.errors import CallerError

            raise CallerError(f"a runner of {settings.env} lives already; see `ssmd day status`")
        return await _running(desk, venue, duration, lambda runner: runner.run())

    ctx.exit(asyncio.run(_at_desk(settings, work)))


@day.command(epilog=examples("ssmd day start", "ssmd day start kalshi-prod --why 'after the venue upgrade'"))
@environment_argument
@_date
@click.option("--mode", type=click.Choice(["live", "replay"]), default="live", show_default=True, help="replay is not built yet.")
@_why
@_venue_options
@click.pass_context
@configured
def start(
    ctx: click.Context, *, settings: Settings, output: str, date: str | None, mode: str, why: str, duration: int | None, **venue: Any
) -> None:
    """Start today's day. Where no runner lives, this process becomes it and goes on until Ctrl-C."""
    del output
    from journal.errors import CallerError

    if mode == "replay":
        raise CallerError("--mode replay is not built yet; bring a recording of a missed day in with `ssmd data import`")

    wanted = _day(settings, date)

    async def work(desk: Desk) -> int:
        if not desk.mine:
            return await _watched(desk, await desk.operator.start(wanted))

        async def drive(runner: Runner) -> int | None:
            found = await runner.begin(await desk.operator.start(wanted))
            if found != "ACTIVE":
                return 1
            await runner.run(first=False)
            return None

        return await _running(desk, venue, duration, drive)

    ctx.exit(asyncio.run(_at_desk(settings, work, why)))


@day.command(epilog=examples("ssmd day end", "ssmd day end kalshi-prod --date 2026-11-21 --force --why 'the disk is lost'"))
@environment_argument
@_date
@click.option("--force", is_flag=True, help="Do not verify the day; its history says so for ever.")
@_why
@click.pass_context
@configured
def end(ctx: click.Context, *, settings: Settings, output: str, date: str | None, force: bool, why: str) -> None:
    """End a day: stop, drain, flush, verify, record. By default the oldest that is ACTIVE. Exit 1 when it has an error or a finding."""
    del output

    wanted = _day(settings, date)

    async def work(desk: Desk) -> int:
        chosen = await desk.operator.end(wanted, force=force)
        return await (_carried_out(desk, chosen) if desk.mine else _watched(desk, chosen))

    ctx.exit(asyncio.run(_at_desk(settings, work, why)))


@day.command(epilog=examples("ssmd day roll", "ssmd day roll kalshi-prod"))
@environment_argument
@_why
@_venue_options
@click.pass_context
@configured
def roll(ctx: click.Context, *, settings: Settings, output: str, why: str, duration: int | None, **venue: Any) -> None:
    """Go on to today's day: it is live before the last one ends. With auto_roll the schedule does so by itself."""
    del output

    async def work(desk: Desk) -> int:
        old, new = await desk.operator.roll()
        if desk.mine:
            return await _running(desk, venue, duration, lambda runner: runner.run(first=False))
        code = await _watched(desk, new)
        return code or await _watched(desk, old, rolling=True)

    ctx.exit(asyncio.run(_at_desk(settings, work, why)))


@day.command(epilog=examples("ssmd day recover --dry-run", "ssmd day recover kalshi-prod"))
@environment_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_why
@_venue_options
@click.pass_context
@configured
def recover(ctx: click.Context, *, settings: Settings, output: str, dry_run: bool, why: str, duration: int | None, **venue: Any) -> None:
    """Go on with days that have an error or no runner, from their last checkpoint."""
    from ssmd import render

    async def work(desk: Desk) -> int:
        from ssmd.day.ending import plan_end
        from ssmd.day.runner import runner_lives
        from ssmd.day.starting import plan_start

        parts = _parts(desk)
        found = await desk.operator.recoveries({"start": plan_start(parts), "end": plan_end(parts, desk.register)})
        if not desk.mine and await runner_lives(settings, desk.clock):
            found = [r for r in found if r.move]  # it sees to the others
        rows = [{**r._asdict(), "day": r.day.isoformat()} for r in found]
        render.rows(rows, output, title="days to recover")
        if dry_run:
            return 0
        for recovery in found:
            await desk.operator.recover(recovery)
        if not desk.mine:
            return max([await _watched(desk, r.day) for r in found], default=0)
        if all("ENDING" in (r.move, r.state) for r in found):  # nothing has to live on
            return max([await _carried_out(desk, r.day) for r in found], default=0)
        return await _running(desk, venue, duration, lambda runner: runner.run(first=False))

    ctx.exit(asyncio.run(_at_desk(settings, work, why, take=not dry_run)))


@day.command(epilog=examples("ssmd day status", "ssmd day status kalshi-prod --watch"))
@environment_argument
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@configured
def status(*, settings: Settings, output: str, watch: bool) -> None:
    """The days that are open, and the newest one; and whether a runner lives."""
    from ssmd import render
    from ssmd.day.documents import line, readable
    from ssmd.day.runner import runner_lives

    async def work(desk: Desk) -> int:
        while True:
            known, now_ns = await desk.register.dates(), desk.clock.wall_ns()
            days = [await desk.register.get(d) for d in known[-1:]] or [await desk.register.get(desk.calendar.today(now_ns))]
            days = [*(d for d in await desk.register.open() if d.day != days[0].day), *days]
            lives = await runner_lives(settings, desk.clock)
            rows = [line(d, now_ns, runner=lives) for d in days]
            rows = [readable(r) for r in rows] if _is_table(output) else rows
            render.rows(rows, "jsonl" if watch and output == "json" else output)
            if not watch:
                return 0
            await desk.clock.sleep(_WATCH_S)

    asyncio.run(_at_desk(settings, work, take=False))


@day.command(epilog=examples("ssmd day history", "ssmd day history kalshi-prod --limit 90 -o csv"))
@environment_argument
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="The newest days.")
@configured
def history(*, settings: Settings, output: str, limit: int) -> None:
    """Days, newest last: when each was live, who began and ended it, and what became of it."""
    from ssmd import render

    async def work(desk: Desk) -> int:
        from ssmd.day.documents import brief, readable
        from ssmd.day.register import facts

        dates = (await desk.register.dates())[-limit:]
        rows = [brief(await desk.register.get(date), await facts(desk.journal, settings.env, date)) for date in dates]
        render.rows([readable(r) for r in rows] if _is_table(output) else rows, output, title="days")
        return 0

    asyncio.run(_at_desk(settings, work, take=False))


@day.command(epilog=examples("ssmd day show local today", "ssmd day show kalshi-prod 2026-11-22 -o json"))
@environment_argument
@click.argument("date", metavar="DATE")
@configured
def show(*, settings: Settings, output: str, date: str) -> None:
    """One day: its steps and who did what, its processes, messages, gaps, archive, digests and record."""
    from ssmd import render

    chosen = _day(settings, date)
    assert chosen  # noqa: S101  (an argument is never None)

    async def work(desk: Desk) -> int:
        from journal.errors import NotFound
        from ssmd.day.documents import summary, timeline, whole
        from ssmd.day.register import facts
        from ssmd.wiring import open_objects

        known = await desk.register.dates()
        if chosen not in known:
            near = sorted(known, key=lambda d: abs((d - chosen).days))[:5]
            raise NotFound(f"day of {settings.env}", chosen.isoformat(), [d.isoformat() for d in sorted(near)])
        found = await facts(desk.journal, settings.env, chosen)
        document = await whole(await desk.register.get(chosen), found, desk.calendar, desk.journal, open_objects(settings))
        if _is_table(output):
            render.one(summary(document), "table")
            render.rows(timeline(document), "table", title="timeline")
        else:
            render.one(document, output)
        return 0

    asyncio.run(_at_desk(settings, work, take=False))


@day.command(epilog=examples("ssmd day schedule", "ssmd day schedule kalshi-prod --limit 60"))
@environment_argument
@click.option("--limit", type=click.IntRange(1, 1_000), default=6, show_default=True, help="The next events.")
@configured
def schedule(*, settings: Settings, output: str, limit: int) -> None:
    """When days begin and end next, and whether by themselves."""
    from journal.clock import WallClock
    from ssmd import render
    from ssmd.day.calendar import Calendar
    from ssmd.day.schedule import upcoming
    from ssmd.moments import rfc3339

    rows = upcoming(Calendar(settings.environment.schedule), WallClock().wall_ns(), limit)
    render.rows([{"at": rfc3339(r["at_ns"]), **r} for r in rows], output, title="schedule")


@asynccontextmanager
async def _desk(settings: Settings, why: str, *, take: bool) -> AsyncIterator[Desk]:
    from journal.clock import WallClock
    from ssmd.day.calendar import Calendar
    from ssmd.day.operations import Operator
    from ssmd.day.register import Register
    from ssmd.day.runner import runner_held
    from ssmd.keys.change import whoami
    from ssmd.wiring import open_journal

    clock = WallClock()
    calendar = Calendar(settings.environment.schedule)

    @asynccontextmanager
    async def held() -> AsyncIterator[bool]:
        if not take:
            yield False
            return
        async with runner_held(settings, clock) as mine:
            yield mine

    async with held() as mine, open_journal(settings, clock, read_only=not take) as journal:
        register = Register(journal, clock, settings.env, calendar.rule)
        yield Desk(settings, clock, journal, register, calendar, Operator(register, calendar, clock, whoami(), why), mine)


async def _at_desk(settings: Settings, work: Callable[[Desk], Awaitable[int]], why: str = "", *, take: bool = True) -> int:
    """`work`'s exit code. With `take` this process is the runner if none lives."""
    async with _desk(settings, why, take=take) as desk:
        return await work(desk)


def _parts(desk: Desk, processes: Any = None) -> Parts:
    from ssmd.day.starting import Parts
    from ssmd.wiring import open_objects

    return Parts(desk.settings, desk.clock, desk.journal, open_objects(desk.settings), processes)


async def _running(desk: Desk, venue: dict[str, Any], duration: int | None, drive: Callable[[Runner], Awaitable[int | None]]) -> int:
    """Be the runner until a signal, `duration` or an error; 130 after Ctrl-C."""
    import signal

    from ssmd.day.processes import ChildProcesses, venue_of
    from ssmd.day.runner import Runner
    from ssmd.wiring import process

    source = venue_of(desk.settings, desk.clock, **venue)
    processes = ChildProcesses(desk.settings, desk.clock, desk.journal, source, process())
    runner = Runner(_parts(desk, processes), desk.register, process(), _tell)
    code = 0

    def stopped(signal_code: int) -> None:
        nonlocal code
        code = signal_code
        runner.stop()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped, 0)
    loop.add_signal_handler(signal.SIGINT, stopped, 130)
    timer = loop.call_later(duration / 1e9, runner.stop) if duration else None
    try:
        return await drive(runner) or code
    finally:
        if timer:
            timer.cancel()
        if processes.supervisor.children:
            _tell("stopping the processes; days stay as they are")
        await asyncio.shield(processes.close())


async def _carried_out(desk: Desk, date: date) -> int:
    """Do the phase of a day here and now; no process of it is ours."""
    from ssmd.day.runner import Runner
    from ssmd.wiring import process

    found = await Runner(_parts(desk), desk.register, process(), _tell).carry_out(date)
    return 0 if found.state in {"ACTIVE", "COMPLETE"} else 1


async def _watched(desk: Desk, date: date, *, rolling: bool = False) -> int:
    """What the living runner makes of it; 1 when that is an error or a finding."""
    from ssmd.day.runner import TICK_S, watch

    while rolling and (await desk.register.get(date)).state == "ACTIVE":
        await desk.clock.sleep(TICK_S)
    found = await watch(desk.register, desk.clock, desk.settings, date, _tell)
    return 0 if found.state in {"ACTIVE", "COMPLETE"} else 1


def _is_table(output: str) -> bool:
    import sys

    return output == "table" or (not output and sys.stdout.isatty())


def _tell(text: str) -> None:
    click.echo(f"ssmd: {text}", err=True)
