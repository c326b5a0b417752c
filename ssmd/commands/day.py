"""`ssmd day`: trading days and their states; what changes them is in `day_change`."""

from __future__ import annotations

import asyncio

import click

from ssmd.commands.day_change import end, recover, roll, run_, start
from ssmd.commands.day_desk import Desk, at_desk, chosen_day, tell_temporal
from ssmd.commands.day_rehearse import rehearse
from ssmd.commands.secmaster_write import environment_and
from ssmd.options import configured, environment_argument, examples
from ssmd.settings import Settings

_WATCH_S = 1.0


@click.group()
def day() -> None:
    """Trading days: status, run, start, end, roll, history, show, recover, schedule, rehearse.

    What is asked for is journalled; the runner (`ssmd day run`, or the first `start`) carries it out. Where it died, the next one goes on.
    """


for _command in (run_, start, end, roll, recover, rehearse):
    day.add_command(_command)


@day.command(epilog=examples("ssmd day status", "ssmd day status kalshi-prod --watch"))
@environment_argument
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@configured
def status(*, settings: Settings, output: str, watch: bool) -> None:
    """The days that are open, and the newest one; and whether a runner lives."""
    from ssmd import render
    from ssmd.day.documents import failing, line, readable
    from ssmd.day.runner import runner_lives

    async def work(desk: Desk) -> int:
        while True:
            known, now_ns = await desk.register.dates(), desk.clock.wall_ns()
            days = [await desk.register.get(d) for d in known[-1:]] or [await desk.register.get(desk.calendar.today(now_ns))]
            days = [*(d for d in await desk.register.open(mode="") if d.day != days[0].day), *days]
            lives = await runner_lives(settings, desk.clock)
            ill = await failing(desk.journal, settings.env, now_ns)
            rows = [line(d, now_ns, runner=lives, failing=ill) for d in days]
            rows = readable(rows) if _is_table(output) else rows
            render.rows(rows, "jsonl" if watch and output == "json" else output)
            if settings.environment.scheduler.type == "temporal":
                await tell_temporal(desk, days)
            if not watch:
                return 0
            await desk.clock.sleep(_WATCH_S)

    asyncio.run(at_desk(settings, work, take=False))


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
        render.rows(readable(rows) if _is_table(output) else rows, output, title="days")
        return 0

    asyncio.run(at_desk(settings, work, take=False))


@day.command(epilog=examples("ssmd day show today", "ssmd day show kalshi-prod 2026-11-22 -o json"))
@environment_and("date", "DATE")
@configured
def show(*, settings: Settings, output: str, date: str) -> None:
    """One day: its steps and who did what, its processes, messages, gaps, archive, digests and record."""
    from ssmd import render

    chosen = chosen_day(settings, date)
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

    asyncio.run(at_desk(settings, work, take=False))


@day.command(epilog=examples("ssmd day schedule", "ssmd day schedule kalshi-prod --limit 60"))
@environment_argument
@click.option("--limit", type=click.IntRange(1, 1_000), default=6, show_default=True, help="The next events.")
@configured
def schedule(*, settings: Settings, output: str, limit: int) -> None:
    """When days begin and end next, and whether by themselves."""
    from ssmd import render
    from ssmd.clock import machine_clock
    from ssmd.day.calendar import Calendar
    from ssmd.day.schedule import upcoming
    from ssmd.moments import rfc3339

    rows = upcoming(Calendar(settings.environment.schedule), machine_clock().wall_ns(), limit)
    if _is_table(output):
        shown = [{"at": rfc3339(r["at_ns"]).partition(".")[0] + "Z", **{k: v for k, v in r.items() if k != "at_ns"}} for r in rows]
    else:
        shown = [{"at": rfc3339(r["at_ns"]), **r} for r in rows]
    render.rows(shown, output, title="schedule")


def _is_table(output: str) -> bool:
    import sys

    return output == "table" or (not output and sys.stdout.isatty())
