"""`ssmd day run`, `start`, `end`, `roll` and `recover`: what is asked of days, and the runner that carries it out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmd.commands.day_desk import (
    Desk,
    at_desk,
    carried_out,
    check_workers,
    chosen_day,
    made,
    parts_of,
    rolled,
    running,
    taken,
    taken_roll,
    watched,
)
from ssmd.options import DURATION, configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from datetime import date

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

    from journal.errors import CallerError

    if settings.environment.scheduler.type == "temporal":
        raise CallerError(
            f"Temporal drives the days of {settings.env}: `ssmd run worker {settings.env}` carries them out; to do without it, set "
            "scheduler.type: embedded in the environment's file first"
        )

    async def work(desk: Desk) -> int:
        if not desk.mine:
            raise CallerError(f"a runner of {settings.env} lives already; see `ssmd day status`")
        return await running(desk, venue, duration, lambda runner: runner.run())

    ctx.exit(asyncio.run(at_desk(settings, work)))


@click.command(
    epilog=examples(
        "ssmd day start",
        "ssmd day start kalshi-prod --why 'after the venue upgrade'",
        "ssmd day start kalshi-prod --mode replay --date 2026-11-20 --from recordings/2026-11-20.ndjson.gz",
        "ssmd day start kalshi-prod --mode replay --date 2026-11-20 --from-env kalshi-standby",
        "ssmd day start local --mode replay --date 2026-11-20 --from-env kalshi-prod --from-storage s3://market-data/ssmd",
    )
)
@environment_argument
@_date
@click.option(
    "--mode", type=click.Choice(["live", "replay"]), default="live", show_default=True, help="replay: make a day that was missed."
)
@click.option("--from", "from_path", type=click.Path(path_type=Path), metavar="PATH", help="Replay: a recording, or a folder of them.")
@click.option("--from-env", metavar="NAME", help="Replay: from this environment's archive.")
@click.option("--from-storage", metavar="URL", help="Replay: where that archive is, if not where the environment's file says.")
@_why
@venue_options
@click.pass_context
@configured
def start(
    ctx: click.Context, *, settings: Settings, output: str, date: str | None, mode: str, from_path: Path | None, from_env: str | None,
    from_storage: str | None, why: str, duration: int | None, **venue: Any,
) -> None:  # fmt: skip
    """Start today's day. Where no runner lives, this process becomes it and goes on until Ctrl-C.

    With --mode replay a day that nobody captured is made from recordings or from another environment's archive: its entries go into the
    shard `import`, and are archived, folded, verified and recorded. Killed, it goes on when it is run again. Exit 1 when it does not
    come to be COMPLETE.
    """
    del output
    from journal.errors import CallerError

    wanted = chosen_day(settings, date)
    given = {"recording": str(from_path.absolute()) if from_path else "", "environment": from_env or "", "storage": from_storage or ""}
    if mode == "replay":
        ctx.exit(asyncio.run(at_desk(settings, lambda desk: _replayed(desk, wanted, given), why, take=False, write=True)))
    if any(given.values()):
        raise CallerError("--from, --from-env and --from-storage are for --mode replay")
    check_workers(settings, {**venue, "duration": duration})

    async def work(desk: Desk) -> int:
        if not desk.mine:
            return await watched(desk, await desk.operator.start(wanted))

        async def drive(runner: Runner) -> int | None:
            found = await runner.begin(await taken(desk, desk.operator.start(wanted), wanted, "STARTING"))
            if found != "ACTIVE":
                return 1
            await runner.run(first=False)
            return None

        return await running(desk, venue, duration, drive)

    ctx.exit(asyncio.run(at_desk(settings, work, why)))


async def _replayed(desk: Desk, wanted: date | None, given: dict[str, str]) -> int:
    from journal.errors import CallerError
    from ssmd.day.activity import Work
    from ssmd.day.backfill import captured
    from ssmd.day.supply import open_supply

    if wanted is None:
        raise CallerError("--mode replay makes a day that has gone by: name it with --date")
    if bool(given["recording"]) == bool(given["environment"]) or (given["storage"] and not given["environment"]):
        raise CallerError("--mode replay needs --from PATH, or --from-env NAME (with --from-storage URL where it is elsewhere)")
    supply = open_supply(desk.settings, desk.clock, given)
    await desk.operator.replay(
        wanted, supply.facts, lambda: captured(parts_of(desk), wanted), lambda: supply.check(Work(wanted, "", "", forced=False))
    )
    return await made(desk, wanted)


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
        chosen = await taken(desk, desk.operator.end(wanted, force=force), wanted, "ENDING")
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
    check_workers(settings, {**venue, "duration": duration})

    async def work(desk: Desk) -> int:
        if not desk.mine:
            return await rolled(desk, *await desk.operator.roll())
        await taken_roll(desk)
        return await running(desk, venue, duration, lambda runner: runner.run(first=False))

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

    check_workers(settings, {**venue, "duration": duration})

    async def work(desk: Desk) -> int:
        from ssmd.day.backfill import plan_bring, plan_close
        from ssmd.day.ending import plan_end
        from ssmd.day.runner import runner_lives
        from ssmd.day.starting import plan_start

        parts = parts_of(desk)
        plans = {"start": plan_start(parts), "end": plan_end(parts, desk.register), "bring": plan_bring(parts), "close": plan_close(parts)}
        found = await desk.operator.recoveries(plans)
        if settings.environment.scheduler.type == "temporal":
            found = [r for r in found if r.state != "ACTIVE" or r.mode == "replay"]  # of those the worker's processes are
        elif not desk.mine and await runner_lives(settings, desk.clock):
            found = [r for r in found if r.move or r.mode == "replay"]  # it sees to the others
        rows = [{**r._asdict(), "day": r.day.isoformat()} for r in found]
        render.rows(rows, output, title="days to recover")
        if dry_run:
            return 0
        for recovery in found:
            await desk.operator.recover(recovery)
        replayed = [r.day for r in found if r.mode == "replay"]
        found = [r for r in found if r.mode != "replay"]
        code = max([await made(desk, day) for day in replayed], default=0)
        if replayed and not found:
            return code
        if not desk.mine:
            return max([await watched(desk, r.day) for r in found], default=code)
        if all("ENDING" in (r.move, r.state) for r in found):  # nothing has to live on
            return max([await carried_out(desk, r.day) for r in found], default=0)
        return await running(desk, venue, duration, lambda runner: runner.run(first=False))

    ctx.exit(asyncio.run(at_desk(settings, work, why, take=not dry_run)))
