"""`ssmd env apply`: make what an environment needs, and journal its configuration."""

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
    from ssmd.apply import Step


@click.command(
    epilog=examples("ssmd env apply local", "ssmd env apply kalshi-prod --dry-run", "ssmd env apply kalshi-prod --yes -o json"),
)
@environment_argument
@click.option("--dry-run", is_flag=True, help="Show the plan and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before something that exists is changed.")
@click.pass_context
@configured
def apply(ctx: click.Context, *, dry_run: bool, yes: bool, settings: Settings, output: str) -> None:
    """Validate ENV, check its required keys, create or update its streams and bucket, and journal the configuration in force.

    The plan is shown first. Run again, it finds nothing to do.
    """
    ctx.exit(asyncio.run(_apply(settings, output, dry_run=dry_run, yes=yes)))


async def _apply(settings: Settings, output: str, *, dry_run: bool, yes: bool) -> int:
    from contextlib import AsyncExitStack

    from journal.embedded import has_data
    from ssmd import apply
    from ssmd.clock import machine_clock
    from ssmd.keys.change import whoami
    from ssmd.wiring import open_cache, open_journal, open_objects

    clock, output = machine_clock(), render.format_of(output)
    apply.check(settings, clock)
    async with AsyncExitStack() as opened:
        cache = open_cache(settings)
        opened.push_async_callback(cache.close)
        storage = open_objects(settings)
        journal = None
        if not (dry_run and settings.embedded and not has_data(settings.data_dir)):
            journal = await opened.enter_async_context(open_journal(settings, clock, read_only=dry_run))
        steps = await apply.plan(settings, clock, journal, storage, cache)
        due = apply.due(steps)
        if output == "table":
            render.rows([s._asdict() for s in steps], output, title="plan")
        apply.refuse(steps)
        configuration = None
        if due and not dry_run and journal:
            if not (yes or _agreed(due)):
                return 2
            configuration = await apply.carry_out(settings, clock, journal, storage, who=whoami())
    click.echo(f"ssmd: {_said(settings.env, due, done=configuration is not None)}", err=True)
    if output != "table":
        _tell(settings, output, steps, {"sha256": configuration.sha256, "position": configuration.position} if configuration else None)
    return 0


def _agreed(due: list[Step]) -> bool:
    """What is only created needs no question."""
    changed = [s.resource for s in due if s.action == "update" and s.resource.startswith("stream ")]
    if not changed:
        return True
    if not sys.stdin.isatty():
        click.echo(f"ssmd: {', '.join(changed)} would be changed; nothing was done: say --yes", err=True)
        return False
    with interruptible():
        return click.confirm(f"Change {', '.join(changed)}?", err=True)


def _said(env: str, due: list[Step], *, done: bool) -> str:
    if not due:
        return f"{env} is as it should be; nothing to do"
    created, updated = (sum(s.action == action for s in due) for action in ("create", "update"))
    if done:
        return f"{env} is applied: {created} created, {updated} updated"
    return f"{created} to create, {updated} to update; nothing was done"


def _tell(settings: Settings, output: str, steps: list[Step], configuration: dict[str, Any] | None) -> None:
    rows = [s._asdict() for s in steps]
    if output in {"jsonl", "csv"}:
        render.rows(rows, output)
    else:
        render.one({"env": settings.env, "applied": configuration is not None, "configuration": configuration, "plan": rows}, output)
