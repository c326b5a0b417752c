"""`ssmd journal`: look at what was recorded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import TextIO

import click

from journal.entry import Record
from journal.errors import NotFound
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd import documents, moments, render, tailing
from ssmd.clock import machine_clock
from ssmd.commands.journal_query import query
from ssmd.options import MOMENT, POSITION, configured, examples
from ssmd.querying import Wanted
from ssmd.settings import Settings
from ssmd.wiring import open_journal

NOTHING = (
    "no entries there. A subject is ENV.FEED.TYPE.SYMBOL (of imports internal.ENV.import.FEED.TYPE.SYMBOL); a symbol's bytes other than "
    "letters, digits, '_' and '-' are written %XX, so a dot is %2E; `ssmd journal streams` lists what is there"
)


@click.group()
def journal() -> None:
    """Look at the journal: tail, query, show, streams."""


journal.add_command(query)


@journal.command(
    epilog=examples(
        "ssmd journal tail --limit 5",
        "ssmd journal tail --follow --since 1m",
        "ssmd journal tail local.kalshi.trade -o jsonl",
        "ssmd journal tail 'internal.local.import.kalshi.*.KXGOLD15M-26AUG101800-00'",
        "ssmd journal tail --symbol KXGOLD15M-26AUG101800-00 --type trade",
        "ssmd journal tail local.system",
    )
)
@click.argument("subject", default="")
@click.option("--since", type=MOMENT, metavar="DURATION|TIME", help="Begin at the first entry from then: 5m, 2026-08-10T21:50:00Z.")
@click.option("--until", type=MOMENT, metavar="DURATION|TIME", help="End at the last entry up to then.")
@click.option("--follow", "-f", is_flag=True, help="Wait for more; without --since, from the last ten entries on.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N entries: the last N, with --since the first.")
@click.option("--symbol", "symbols", multiple=True, metavar="SYMBOL", help="Of this market, or this aggregate's id. Repeatable.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Of this type: trade, gap, events. Repeatable.")
@click.option("--who", multiple=True, metavar="NAME", help="By this actor; * is any text. Repeatable.")
@configured
def tail(
    *, subject: str, since: int | None, until: int | None, follow: bool, limit: int | None, symbols: tuple[str, ...],
    types: tuple[str, ...], who: tuple[str, ...], settings: Settings, output: str,
) -> None:  # fmt: skip
    """Print entries, oldest first.

    SUBJECT is a NATS subject pattern; a short one stands for everything below it. Without it: every market stream of the environment,
    with --who every other one.
    There is no order between streams: they come one after the other, with --follow as entries come.
    """
    output = output or ("table" if sys.stdout.isatty() else "jsonl")

    async def run() -> None:
        async with open_journal(settings, machine_clock(), read_only=True) as opened:
            streams = await tailing.streams(opened, settings.env, subject, follow=follow, domain=bool(who))
            wanted = Wanted(subject=subject, symbols=frozenset(symbols), types=frozenset(types), who=who)
            span = tailing.Span(subject, since, until, limit, wanted or None)
            printed = Printed(output)
            async for stream, records in tailing.follow(opened, streams, span) if follow else tailing.stored(opened, streams, span):
                printed.write((stream, record) for record in records)
            if not printed.count:
                click.echo(NOTHING, err=True)

    asyncio.run(run())


class Printed:
    """Entries on stdout, or in a file, in the format asked for, flushed run by run; what a JSON array needs at its end is not kept back."""

    def __init__(self, output: str, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout
        self._table = output == "table"
        self._output = "jsonl" if output == "json" else output  # entries are a stream: never one array
        self._head = True
        self.count = 0

    def write(self, found: Iterable[tuple[Stream, Record]]) -> None:
        records = list(found)
        self.count += len(records)
        if self._table:
            self._file.writelines(documents.row(s, r) + "\n" for s, r in records)
        else:
            texts = render.lines((documents.line(s, r) for s, r in records), self._output)
            if self._output == "csv" and not self._head:
                next(texts, None)
            self._head = False
            self._file.writelines(text + "\n" for text in texts)
        self._file.flush()


@journal.command(epilog=examples("ssmd journal show local_md_0:1", "ssmd journal show local_md_import:4711 -o json"))
@click.argument("position", type=POSITION)
@configured
def show(*, position: tuple[Stream, int], settings: Settings, output: str) -> None:
    """Print one entry with all its fields and the frame as the venue sent it."""
    stream, sequence = position

    async def run() -> None:
        async with open_journal(settings, machine_clock(), read_only=True) as opened:
            info = await opened.info(stream)
            if info is None:
                raise NotFound("stream", stream.name, [s.name for s in await opened.streams(stream.env)])
            if not info.first <= sequence <= info.last:
                nearest = [f"{stream.name}:{n}" for n in sorted({info.first, info.last}) if info.last]
                raise NotFound("position", f"{stream.name}:{sequence}", nearest)
            async for records in opened.read(stream, start=sequence, end=sequence):
                render.one(documents.whole(stream, records[0]), output)

    asyncio.run(run())


@journal.command(epilog=examples("ssmd journal streams", "ssmd journal streams --env local -o json"))
@configured
def streams(*, settings: Settings, output: str) -> None:
    """List the environment's streams with their bounds."""

    async def run() -> None:
        async with open_journal(settings, machine_clock(), read_only=True) as opened:
            rows = [await _stream(opened, stream) for stream in await opened.streams(settings.env)]
            render.rows(rows, output, title=f"streams of environment {settings.env}")

    asyncio.run(run())


async def _stream(opened: JournalReader, stream: Stream) -> dict[str, object]:
    info = await opened.info(stream)
    first = last = size = 0
    if info:
        first, last, size = info.first, info.last, info.bytes
    newest = ""
    if last:
        async for records in opened.read(stream, start=last, end=last):
            newest = moments.rfc3339(records[-1].entry.effective_ns)
    return {"stream": stream.name, "first": first, "last": last, "bytes": size, "newest": newest}
