"""`ssmd day run`, `start`, `end`, `roll` and `recover`: what is asked of days, and the runner that carries it out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from ssmd.commands.day_desk import Desk, at_desk, carried_out, chosen_day, parts_of, running, watched
from ssmd.options import DURATION, configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.day.runner import Runner


def venue_options(function: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--sim", "recording", metavar="RECORDING", help="Simulate the venue from a recording, instead of the environment's."
            ),
            click.option("--speed", default="1", show_default=True, help="Of the simulated venue: a factor, or max."),
            click.option("--seed", type=int, default=1, show_default=True, help="Of the synthetic venue."),
            click.option("--sim-options", default="", metavar="OPTIONS", help="More of `ssmd sim kalshi`: '--listed 2000 --rate 20'."),
            click.option(
                "--for", "duration", type=DURATION, help="As the runner: stop the processes after this long; the day stays as it is."
            ),
        )
    ):
        function = option(function)
    return function


_why = click.option("--why", default="", metavar="TEXT", help="For the history.")
_date = click.option("--date", "date", metavar="DATE", help="The day: 2026-08-10, today or yesterday.")


@click.command("run", epilog=examples("ssmd day run", "ssmd day run kalshi-prod", "ssmd day run --for 8h"))
@environment_argument
@venue_options
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
        return await running(desk, venue, duration, lambda runner: runner.run())

    ctx.exit(asyncio.run(at_desk(settings, work)))


@click.command(epilog=examples("ssmd day start", "ssmd day start kalshi-prod --why 'after the venue upgrade'"))
@environment_argument
@_date
@click.option("--mode", type=click.Choice(["live", "replay"]), default="live", show_default=True, help="replay is not built yet.")
@_why
@venue_options
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

    wanted = chosen_day(settings, date)

    async def work(desk: Desk) -> int:
        if not desk.mine:
            return await watched(desk, await desk.operator.start(wanted))

        async def drive(runner: Runner) -> int | None:
            found = await runner.begin(await desk.operator.start(wanted))
            if found != "ACTIVE":
                return 1
            await runner.run(first=False)
            return None

        return await running(desk, venue, duration, drive)

    ctx.exit(asyncio.run(at_desk(settings, work, why)))


@click.command(epilog=examples("ssmd day end", "ssmd day end kalshi-prod --date 2026-11-21 --force --why 'the disk is lost'"))
@environment_argument
@_date
@click.option("--force", is_flag=True, help="Do not verify the day; its history says so for ever.")
@_why
@click.pass_context
@configured
def end(ctx: click.Context, *, settings: Settings, output: str, date: str | None, force: bool, why: str) -> None:
    """End a day: stop, drain, flush, verify, record. By default the oldest that is ACTIVE. Exit 1 when it has an error or a finding."""
    del output

    wanted = chosen_day(settings, date)

    async def work(desk: Desk) -> int:
        chosen = await desk.operator.end(wanted, force=force)
        return await (carried_out(desk, chosen) if desk.mine else watched(desk, chosen))

    ctx.exit(asyncio.run(at_desk(settings, work, why)))


@click.command(epilog=examples("ssmd day roll", "ssmd day roll kalshi-prod"))
@environment_argument
@_why
@venue_options
@click.pass_context
@configured
def roll(ctx: click.Context, *, settings: Settings, output: str, why: str, duration: int | None, **venue: Any) -> None:
    """Go on to today's day: it is live before the last one ends. With auto_roll the schedule does so by itself."""
    del output

    async def work(desk: Desk) -> int:
        old, new = await desk.operator.roll()
        if desk.mine:
            return await running(desk, venue, duration, lambda runner: runner.run(first=False))
        code = await watched(desk, new)
        return code or await watched(desk, old, rolling=True)

    ctx.exit(asyncio.run(at_desk(settings, work, why)))


@click.command(epilog=examples("ssmd day recover --dry-run", "ssmd day recover kalshi-prod"))
@environment_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_why
@venue_options
@click.pass_context
@configured
def recover(ctx: click.Context, *, settings: Settings, output: str, dry_run: bool, why: str, duration: int | None, **venue: Any) -> None:
    """Go on with days that have an error or no runner, from their last checkpoint."""
    from ssmd import render

    async def work(desk: Desk) -> int:
        from ssmd.day.ending import plan_end
        from ssmd.day.runner import runner_lives
        from ssmd.day.starting import plan_start

        parts = parts_of(desk)
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
            return max([await watched(desk, r.day) for r in found], default=0)
        if all("ENDING" in (r.move, r.state) for r in found):  # nothing has to live on
            return max([await carried_out(desk, r.day) for r in found], default=0)
        return await running(desk, venue, duration, lambda runner: runner.run(first=False))

    ctx.exit(asyncio.run(at_desk(settings, work, why, take=not dry_run)))
