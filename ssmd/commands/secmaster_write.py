"""`ssmd secmaster sync` and `import`: what changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmd import options, render
from ssmd.names import ENVIRONMENT
from ssmd.options import configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.secmaster.sync import Summary


def environment_and(name: str, metavar: str, *, words: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Arguments ``[ENV] METAVAR``: the command is called with `name`; with `words` the last one may be several."""

    def split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str:
        if not value or (len(value) > 2 and not words):
            raise click.UsageError(f"write [ENV] {metavar}, not {len(value)} words", ctx)
        if len(value) > 1:
            options.name_environment(ctx, param, value[0])
        return " ".join(value[1:] or value)

    return click.argument(name, nargs=-1, metavar=f"[ENV] {metavar}", callback=split, type=ENVIRONMENT)


@click.command(
    epilog=examples(
        "ssmd secmaster sync kalshi-prod",
        "ssmd secmaster sync kalshi-prod --full -o json",
        "ssmd secmaster sync local --rest-url http://127.0.0.1:8080/trade-api/v2 --series KXGOLD15M",
    )
)
@environment_argument
@click.option("--full", is_flag=True, help="Every market, and which are gone; else what the venue changed since the last time.")
@click.option("--series", multiple=True, metavar="TICKER", help="Of these series only; repeatable.")
@click.option("--feed", metavar="NAME", help="Of this feed's venue. [default: the environment's feed]")
@click.option("--rest-url", metavar="URL", help="REST of the venue instead of the environment's or feed's.")
@click.option("--yes", is_flag=True, help="Also remove more than a tenth of the markets at once, if the venue does not list them.")
@click.pass_context
@configured
def sync(
    ctx: click.Context, *, full: bool, series: tuple[str, ...], feed: str | None, rest_url: str | None, yes: bool, settings: Settings,
    output: str,
) -> None:  # fmt: skip
    """Ask the venue of ENV for its markets and journal what has changed.

    Stopped at any point the same command goes on where it was. Exit 1: the venue says something that is not understood, or does not list
    many markets that it did.
    """
    ctx.exit(asyncio.run(_sync(settings, output, full=full, series=series, feed=feed, rest_url=rest_url, yes=yes)))


async def _sync(
    settings: Settings, output: str, *, full: bool, series: tuple[str, ...], feed: str | None, rest_url: str | None, yes: bool
) -> int:
    import random

    from exchanges.venues import load
    from journal.errors import VenueError
    from ssmd.clock import machine_clock
    from ssmd.secmaster.access import open_definitions, open_ledger
    from ssmd.secmaster.sync import Question, Sync

    clock, feed = machine_clock(), feed or settings.feed
    venue = open_definitions(settings, clock, feed=feed, rest_url=rest_url)
    async with open_ledger(settings, clock) as ledger:
        with render.progress() as meter:
            work = Sync(ledger, clock, load(venue.parts.observed), load(venue.parts.due))
            name = random.SystemRandom().randbytes(8).hex()
            question = Question(feed, venue.url, series)
            try:
                summary = await work.run(venue.source, question, name, full=full, meter=meter, accept_missing=yes)
            except VenueError:
                click.echo("ssmd: what was read is kept; the same command goes on from there, within an hour", err=True)
                raise
        document = _document(summary, ledger.view.place.sequence, settings.env)
    render.one(document, output)
    return _alarms(summary)


def _document(summary: Summary, sequence: int, env: str) -> dict[str, Any]:
    s = summary.synced
    seconds = (s.finished_ns - s.started_ns) / 1e9
    return {
        "kind": "full" if s.full else "incremental",
        "source": s.source,
        "resumed": summary.resumed,
        "pages": s.pages,
        "markets": s.markets,
        "changes": s.counts,
        "missing": summary.missing,
        "flawed": summary.flawed,
        "nameless": summary.nameless,
        "unknown": list(summary.unknown),
        "seconds": round(seconds, 3),
        "rate": round(s.markets / seconds) if seconds > 0 else 0,
        "position": f"{env}_secmaster:{sequence}",
    }


def _alarms(summary: Summary) -> int:
    """Say what a person should look at; the exit code."""
    said = []
    if summary.unknown:
        named = ", ".join(map(render.plain, summary.unknown))
        said.append(f"markets in a state that has no name here: {named}, …; `ssmd secmaster list --status unknown`")
    if summary.missing:
        said.append(
            f"the venue did not list {summary.missing} markets that it did before; they were kept: if they are gone say --full --yes"
        )
    if summary.nameless:
        said.append(f"{summary.nameless} objects of the venue name no market")
    for text in said:
        click.echo(f"ssmd: {text}", err=True)
    return 1 if said else 0


@click.command("import", epilog=examples("ssmd secmaster import local markets.jsonl", "ssmd secmaster import local markets.parquet"))
@environment_and("file", "FILE")
@click.option("--dry-run", is_flag=True, help="Only check the file.")
@configured
def import_(*, file: str, dry_run: bool, settings: Settings, output: str) -> None:
    """Journal the markets of FILE, as `ssmd secmaster export` writes it (JSON Lines or .parquet), where they differ from those of ENV.

    Nothing is removed. The file is checked whole before anything is journalled.
    """

    async def run() -> None:
        from ssmd.clock import machine_clock
        from ssmd.secmaster import export
        from ssmd.secmaster.access import open_ledger
        from ssmd.secmaster.importing import import_markets

        path = Path(file)
        count = sum(1 for _ in export.read(path))
        document: dict[str, Any] = {"file": file, "markets": count, "changes": {}}
        if not dry_run:
            clock = machine_clock()
            async with open_ledger(settings, clock) as ledger:
                with render.progress() as meter:
                    meter.stage("markets", count)
                    document["changes"] = dict(await import_markets(ledger, clock, export.read(path), meter))
        render.one(document, output)

    asyncio.run(run())
