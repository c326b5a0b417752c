"""`ssmd secmaster`: which markets there are and were."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmd import render
from ssmd.commands.secmaster_write import environment_and, import_, sync
from ssmd.options import DURATION, MOMENT, configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.secmaster.access import Opened

_STATUSES = ("pending", "active", "paused", "closed", "determined", "settled", "unknown")
_SHOWN = 100
_EXAMPLES = 5
_NOTHING = "no markets are known yet: `ssmd secmaster sync` asks the venue"
_as_of = click.option("--as-of", type=MOMENT, metavar="TIME", help="As it was then: 2026-08-10T21:50:00Z, or 2h for two hours ago.")


@click.group()
def secmaster() -> None:
    """Which markets there are and were, in what state: synchronise with the venue, list, search, export."""


for _command in (sync, import_):
    secmaster.add_command(_command)


@asynccontextmanager
async def _opened(settings: Settings, as_of_ns: int | None = None) -> AsyncIterator[Opened]:
    from ssmd.clock import machine_clock
    from ssmd.secmaster.access import open_markets

    async with AsyncExitStack() as stack:
        with render.progress() as meter:
            opened = await stack.enter_async_context(open_markets(settings, machine_clock(), meter, as_of_ns=as_of_ns))
        if not opened.view.place.sequence:
            click.echo(f"ssmd: {_NOTHING if as_of_ns is None else 'no markets were known then'}", err=True)
        yield opened


@secmaster.command(
    "list",
    epilog=examples(
        "ssmd secmaster list local --series KXGOLD15M --status active",
        "ssmd secmaster list local --expiring-within 24h",
        "ssmd secmaster list local --category Economics --as-of 2026-08-10T21:50:00Z --limit 1000 -o jsonl",
    ),
)
@environment_argument
@click.option("--category", default="", metavar="NAME", help="Of this category.")
@click.option("--series", default="", metavar="TICKER", help="Of this series.")
@click.option("--event", default="", metavar="TICKER", help="Of this event.")
@click.option("--status", type=click.Choice(_STATUSES), default=None, help="In this state.")
@click.option("--expiring-within", type=DURATION, metavar="DURATION", help="Expected to expire from now, or --as-of, until then: 24h.")
@_as_of
@click.option("--limit", type=click.IntRange(1), default=_SHOWN, metavar="N", show_default=True, help="At most N markets.")
@configured
def list_(
    *, category: str, series: str, event: str, status: str | None, expiring_within: int | None, as_of: int | None, limit: int,
    settings: Settings, output: str,
) -> None:  # fmt: skip
    """List the markets of ENV by symbol, or by when they expire."""
    output = render.format_of(output)

    async def run() -> None:
        from ssmd.clock import machine_clock
        from ssmd.secmaster import documents, query

        from_ns = machine_clock().wall_ns() if as_of is None else as_of
        bounds = (from_ns, from_ns + expiring_within) if expiring_within else (0, 0)
        async with _opened(settings, as_of) as opened:
            wanted = query.Filter(category, series, event, status or "", *bounds)
            found = [documents.line(f.symbol, f.market) for f in query.select(opened.view, wanted, limit + 1)]
            hint = "" if found else query.near_names(opened.view, wanted)
        shown = found[:limit]
        _print_markets(shown, output)
        if hint:
            click.echo(f"ssmd: {hint}", err=True)
        if len(found) > limit:
            click.echo(f"ssmd: these are the first {limit}; --limit N shows more", err=True)

    asyncio.run(run())


def _print_markets(found: list[dict[str, Any]], output: str) -> None:
    from ssmd.secmaster.documents import shortened

    if output == "table":
        width = shutil.get_terminal_size().columns
        found = [shortened(row, width) for row in found]
    render.rows(found, output, title="markets")


@secmaster.command(
    epilog=examples(
        "ssmd secmaster show local KXGOLD15M-26AUG101800-00",
        "ssmd secmaster show local KXGOLD15M-26AUG101800-00 --as-of 2026-08-10T21:50:00Z",
        "ssmd secmaster show local KXGOLD15M-26AUG101800-00 --history -o jsonl",
    )
)
@environment_and("symbol", "SYMBOL")
@_as_of
@click.option("--history", is_flag=True, help="Its changes instead, oldest first.")
@configured
def show(*, symbol: str, as_of: int | None, history: bool, settings: Settings, output: str) -> None:
    """Show one market of ENV with every field."""
    output = render.format_of(output)

    async def run() -> None:
        from ssmd.secmaster import documents, query
        from ssmd.secmaster.endings import endings
        from ssmd.secmaster.past import history_of, market_as_of, market_now

        async with _opened(settings) as opened:
            row = query.row_of(opened.view, symbol)
            if history:
                found = [d for r in await history_of(opened.history, symbol, as_of) if (d := documents.change(opened.history.stream, r))]
                _print_changes(found, output)
                return
            stored = opened.history
            past = await (market_now(stored, row) if as_of is None else market_as_of(stored, symbol, as_of))
            document = documents.shown(symbol, past, stored.stream)
            if as_of is None:
                document["finalised"] = await endings(stored.reader, settings.env, settings.feed, symbol)
            render.one(documents.readable(document) if output == "table" else document, output)

    asyncio.run(run())


@secmaster.command(epilog=examples("ssmd secmaster search local 'gold price monday'", "ssmd secmaster search local fed --limit 5 -o jsonl"))
@environment_and("query", "QUERY", words=True)
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, metavar="N", show_default=True, help="At most N markets.")
@configured
def search(*, query: str, limit: int, settings: Settings, output: str) -> None:
    """Find markets of ENV by the words of their symbol, title, series, category and rules, best first."""
    output = render.format_of(output)

    async def run() -> None:
        from ssmd.secmaster import documents
        from ssmd.secmaster.query import search

        async with _opened(settings) as opened:
            found = [
                {**documents.line(f.symbol, f.market), "rank": round(f.rank, 3)} for f in search(opened.view, query, limit)
            ]  # fmt: skip
            _print_markets(found, output)

    asyncio.run(run())


@secmaster.command(epilog=examples("ssmd secmaster changes local --since 1h", "ssmd secmaster changes local --follow -o jsonl"))
@environment_argument
@click.option("--since", type=MOMENT, metavar="DURATION|TIME", help="Begin with the first change from then.")
@click.option("--symbol", default="", metavar="SYMBOL", help="Of this market only.")
@click.option("--follow", "-f", is_flag=True, help="Wait for more; without --since, only what comes.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N changes: the last N, with --since or --follow the first.")
@configured
def changes(*, since: int | None, symbol: str, follow: bool, limit: int | None, settings: Settings, output: str) -> None:
    """Print changes of markets of ENV, oldest first."""
    output = output or ("table" if sys.stdout.isatty() else "jsonl")

    async def run() -> None:
        from ssmd.clock import machine_clock
        from ssmd.secmaster import documents
        from ssmd.secmaster.access import open_history
        from ssmd.secmaster.past import changes_of

        lines = _Lines(output)
        async with AsyncExitStack() as stack:
            history = await stack.enter_async_context(open_history(settings, machine_clock()))
            found = changes_of(history, since_ns=since, symbol=symbol, follow=follow, limit=limit)
            async for records in await stack.enter_async_context(aclosing(found)):
                lines.write([d for r in records if (d := documents.change(history.stream, r))])
        if not lines.count and not follow:
            click.echo("ssmd: no changes there", err=True)

    asyncio.run(run())


def _print_changes(found: list[dict[str, Any]], output: str) -> None:
    if output == "table":
        _Lines(output).write(found)
    else:
        render.rows(found, output)


class _Lines:
    """Changes on stdout as they come."""

    def __init__(self, output: str) -> None:
        self._output = "jsonl" if output == "json" else output  # a stream is never one array
        self._head = True
        self.count = 0

    def write(self, found: list[dict[str, Any]]) -> None:
        from ssmd.secmaster.documents import change_line

        self.count += len(found)
        if self._output == "table":
            texts = iter([change_line(document) for document in found])
        else:
            texts = render.lines(found, self._output)
            if self._output == "csv" and not self._head:
                next(texts, None)
            self._head = self._head and not found
        sys.stdout.writelines(f"{text}\n" for text in texts)
        sys.stdout.flush()


@secmaster.command(
    epilog=examples(
        "ssmd secmaster export local --format parquet --to markets.parquet",
        "ssmd secmaster export local --as-of 2026-08-10 --format jsonl > markets.jsonl",
    )
)
@environment_argument
@_as_of
@click.option(
    "--format", "form", type=click.Choice(["parquet", "jsonl", "csv"]), default="jsonl", show_default=True, help="Of what is written."
)
@click.option("--to", "target", type=click.Path(dir_okay=False), metavar="FILE", help="Write this file whole, instead of stdout.")
@configured
def export(*, as_of: int | None, form: str, target: str | None, settings: Settings, output: str) -> None:
    """Export all markets of ENV: integers with their exponents, times in nanoseconds (Parquet: timestamps in UTC)."""
    del output

    async def run() -> None:
        from journal.errors import CallerError
        from ssmd.secmaster import export

        if form == "parquet" and target is None:
            raise CallerError("Parquet is no text: name a file with --to FILE")
        async with _opened(settings, as_of) as opened:
            count = export.write(opened.view, form, target)
        click.echo(f"ssmd: {count} markets{f' in {target}' if target else ''}", err=True)

    asyncio.run(run())


@secmaster.command(
    epilog=examples(
        "ssmd secmaster stats local",
        "ssmd secmaster stats local -o json",
        "ssmd secmaster stats local --textfile /var/lib/node_exporter/ssmd-markets.prom",
    )
)
@environment_argument
@_as_of
@click.option("--textfile", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write Prometheus metrics there.")
@configured
def stats(*, as_of: int | None, textfile: Path | None, settings: Settings, output: str) -> None:
    """Count the markets of ENV, and say when they were last synchronised, and which are in a state that has no name here."""
    if textfile and as_of is not None:
        raise click.UsageError("--textfile is of now: leave --as-of out")

    async def run() -> None:
        from ssmd.secmaster.query import Filter, counts, last_syncs, select

        async with _opened(settings, as_of) as opened:
            document = counts(opened.view) | {"position": f"{opened.history.stream.name}:{opened.view.place.sequence}"}
            unknown = [f.symbol for f in select(opened.view, Filter(status="unknown"), _EXAMPLES)]
            render.one(document | {"unknown": unknown, "syncs": last_syncs(opened.view)}, output)
        if textfile:
            from ssmd.metrics import market_states, write_textfile

            write_textfile(textfile, market_states(settings))
        if unknown:
            count, named = document["by_status"]["unknown"], ", ".join(map(render.plain, unknown))
            click.echo(f"ssmd: {count} markets in a state that has no name here: {named}; `list --status unknown` has them", err=True)

    asyncio.run(run())
