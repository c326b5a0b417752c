"""`ssmd day rehearse`: days at speed, with kills, held against what the venue sent."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmd.options import DATE, configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from datetime import date

    from ssmd.day.rehearsal import Plan


@click.command(
    epilog=examples(
        "ssmd day rehearse",
        "ssmd day rehearse kalshi-prod --kills 20",
        "ssmd day rehearse --days 2 --speed 2880 --listed 200 -o json",
        "ssmd day rehearse --days 3 --from 2026-10-31 --kills 10 --seed 4093 --keep october",
    )
)
@environment_argument
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="How many.")
@click.option("--from", "first", type=DATE, metavar="DATE", help="The first of them. [default: today]")
@click.option(
    "--speed",
    type=click.IntRange(2, 100_000),
    default=720,
    show_default=True,
    help="Seconds in one of the machine's: at 720 a day takes two minutes.",
)
@click.option("--listed", type=click.IntRange(0, 1_000_000), default=2_000, show_default=True, help="Markets beside the 15-minute series.")
@click.option(
    "--frames", type=click.FloatRange(1, 100_000), default=200, show_default=True, help="Of the series, in a second of the machine's."
)
@click.option(
    "--kills", type=click.IntRange(0, 10_000), default=0, show_default=True, help="SIGKILLs to random processes at random moments."
)
@click.option("--seed", type=click.IntRange(0, (1 << 32) - 1), metavar="N", help="Of the moments. [default: drawn]")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="A new directory, for the data to stay in.")
@click.pass_context
@configured
def rehearse(
    ctx: click.Context, *, settings: Settings, output: str, days: int, first: date | None, speed: int, listed: int, frames: float,
    kills: int, seed: int | None, keep: Path | None,
) -> None:  # fmt: skip
    """Rehearse days of ENV at speed: a simulated venue, the real runner and its processes, the schedule, kills if you like.

    Afterwards the journal and the archive are compared with the venue's own log. Nothing of the environment is touched: its journal and
    storage are new ones in a directory that is removed unless a check fails. Exit 0: every check holds; 1: one does not.
    """
    from random import SystemRandom

    from ssmd.clock import machine_clock
    from ssmd.day.calendar import Calendar
    from ssmd.day.rehearsal import Plan

    today = Calendar(settings.environment.schedule).today(machine_clock().wall_ns())
    drawn = SystemRandom().randrange(1 << 32) if seed is None else seed
    plan = Plan(first or today, days, speed, listed, frames, kills, drawn)
    directory = (keep or Path(tempfile.mkdtemp(prefix="ssmd-rehearsal-"))).absolute()
    report = asyncio.run(_rehearsed(settings, plan, directory))
    _show(report, output)
    if not report["ok"]:
        click.echo(f"ssmd: again with --seed {drawn}; its data and logs are in {directory}", err=True)
    elif keep is None:
        shutil.rmtree(directory)
    ctx.exit(0 if report["ok"] else 1)


async def _rehearsed(settings: Settings, plan: Plan, directory: Path) -> dict[str, Any]:
    from ssmd.clock import machine_clock
    from ssmd.day.rehearsal import prepare
    from ssmd.day.rehearsed import examine
    from ssmd.wiring import open_journal, open_objects

    def tell(text: str) -> None:
        click.echo(f"ssmd: {text}", err=True)

    rehearsal = prepare(settings, plan, directory, machine_clock().wall_ns())
    own = rehearsal.settings
    tell(f"{plan.days} days from {plan.first} at {plan.speed} times speed: {rehearsal.seconds:.0f} s, seed {plan.seed}, in {directory}")
    async with open_journal(own, rehearsal.clock) as journal:
        await rehearsal.run(journal, tell)
        return await examine(rehearsal, journal, open_objects(own), tell)


def _show(report: dict[str, Any], output: str) -> None:
    from ssmd import render

    if render.format_of(output) != "table":
        render.one(report, output)
        return
    columns = ("date", "state", "entries", "gaps", "kills", "verified", "digests", "why")
    render.rows([{name: row[name] for name in columns} for row in report["days"]], "table", title="days")
    render.rows([{**check, "ok": "yes" if check["ok"] else "NO"} for check in report["checks"]], "table", title="checks")
