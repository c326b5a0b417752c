"""`ssmd env teardown`: delete an environment's streams, objects and cache keys, or one day of them."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from ssmd import render
from ssmd.options import configured, environment_argument, examples
from ssmd.prompt import interruptible
from ssmd.settings import Settings

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from ssmd.temporal.driver import Queue


@click.command(
    epilog=examples(
        "ssmd env teardown kalshi-dev --dry-run",
        "ssmd env teardown kalshi-dev --yes",
        "ssmd env teardown kalshi-dev --date 2026-08-10",
    )
)
@environment_argument
@click.option("--date", metavar="DATE", help="Only this day's archive objects and market entries; domain history stays.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for the environment's name.")
@click.pass_context
@configured
def teardown(ctx: click.Context, *, date: str | None, dry_run: bool, yes: bool, settings: Settings, output: str) -> None:
    """Delete ENV's streams, objects, cache keys and schedules in Temporal, and nothing else: not its files, not its keys.

    What would be deleted is shown first. Refused while something captures or archives, and for a protected environment. With --date, the
    day must be over and the oldest that is left. If it is interrupted, run it again.
    """
    ctx.exit(asyncio.run(_teardown(settings, output, date, dry_run=dry_run, yes=yes)))


async def _teardown(settings: Settings, output: str, date: str | None, *, dry_run: bool, yes: bool) -> int:
    from contextlib import AsyncExitStack

    from journal.embedded import has_data
    from ssmd import teardown
    from ssmd.clock import machine_clock
    from ssmd.keys.change import whoami
    from ssmd.moments import parse_date
    from ssmd.wiring import day_rule, open_cache, open_journal, open_objects

    if "env" not in settings.origins:
        raise click.UsageError(f"name the environment, although there is only one: ssmd env teardown {settings.env}")
    teardown.allow(settings)
    clock, output = machine_clock(), render.format_of(output)
    day = parse_date(date, day_rule(settings), clock.wall_ns()) if date else None
    async with AsyncExitStack() as opened:
        cache = open_cache(settings)
        opened.push_async_callback(cache.close)
        journal = None
        if not settings.embedded or has_data(settings.data_dir):
            journal = await opened.enter_async_context(open_journal(settings, clock, read_only=True))
        temporal, left = await _temporal(settings, opened) if day is None else (None, "")
        backends = teardown.Backends(journal, open_objects(settings), cache, temporal)
        if not dry_run:
            await opened.enter_async_context(teardown.quiet(settings, clock, journal))
        doomed = await (teardown.find(settings, backends) if day is None else teardown.find_day(settings, backends, clock, day))
        document = _document(settings, date, doomed)
        if output == "table":
            render.rows(document["deleted"], output, title="deleted by it")
        if date:
            _tell(f"domain history of {settings.env} stays: trading days, keys, digests, and the state the next day opens with")
        if doomed and not dry_run:
            if not (yes or _agreed(settings.env)):
                return 2
            if day is not None and journal:
                await teardown.note_day(settings, clock, journal, day=day, doomed=doomed, who=whoami())
            with render.progress() as meter:
                meter.stage(f"delete {settings.env}", len(doomed) + sum(d.total for d in doomed if d.kind == "objects"))
                await teardown.delete(settings, backends, doomed, meter.advance)
    _tell(_said(settings.env, found=bool(doomed), dry_run=dry_run))
    if left:
        _tell(left)
    if output != "table":
        _print({**document, "done": bool(doomed) and not dry_run}, output)
    return 1 if left else 0


async def _temporal(settings: Settings, opened: AsyncExitStack) -> tuple[Queue | None, str]:
    """What has the environment's schedules, if anything has; or what is left because it does not answer."""
    if settings.environment.scheduler.type != "temporal":
        return None, ""
    from journal.errors import SsmdError
    from ssmd.wiring import open_temporal

    try:
        return await opened.enter_async_context(open_temporal(settings)), ""
    except SsmdError as error:
        why = str(error).partition(",")[0].partition(":")[0]
        return None, f"{why}: schedules ssmd-{settings.env}-* that it has stay; run `ssmd env teardown {settings.env}` again when it does"


def _document(settings: Settings, date: str | None, doomed: list[Any]) -> dict[str, Any]:
    rows = [{"kind": d.kind, "name": d.name, "count": d.total, "bytes": d.bytes} for d in doomed]
    return {"env": settings.env, "date": date, "deleted": rows}


def _agreed(env: str) -> bool:
    if not sys.stdin.isatty():
        _tell("nothing was deleted: say --yes where nobody can be asked")
        return False
    with interruptible():
        typed = click.prompt(f"This cannot be undone. Type {env} to delete it", err=True, default="", show_default=False)
    if typed == env:
        return True
    _tell(f"that is not {env}; nothing was deleted")
    return False


def _said(env: str, *, found: bool, dry_run: bool) -> str:
    if not found:
        return f"{env} has nothing to delete"
    return "nothing was deleted (--dry-run)" if dry_run else f"deleted; the files and keys of {env} are untouched"


def _tell(text: str) -> None:
    click.echo(f"ssmd: {text}", err=True)


def _print(document: dict[str, Any], output: str) -> None:
    if output in {"jsonl", "csv"}:
        render.rows(document["deleted"], output)
    else:
        render.one(document, output)
