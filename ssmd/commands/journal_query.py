"""`ssmd journal query`: find entries of all streams, or ask SQL over them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from ssmd import render
from ssmd.options import DURATION, MOMENT, configured, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from journal.entry import Record
    from journal.subjects import Stream
    from ssmd.querying import Wanted
    from ssmd.sql import Session

_SHOWN = 1_000  # rows of a table, where nobody says how many
_ENTRIES = 5_000_000
_SUFFIXES = (".parquet", ".jsonl", ".csv")


@click.command(
    "query",
    epilog=examples(
        "ssmd journal query --since 1d --who 'alice*'",
        "ssmd journal query --symbol KXGOLD15M-26AUG101800-00 --as-of 2026-08-10T21:50:00Z -o jsonl",
        "ssmd journal query 'SELECT day, type, who, count(*) FROM events GROUP BY ALL ORDER BY 1, 2'",
        "ssmd journal query \"SELECT effective_time, who, why, data->>'$.state' FROM events WHERE stream = 'local_day' ORDER BY 1\"",
        "ssmd journal query 'SELECT symbol, sum(size) FROM entries WHERE type = '\\''trade'\\'' GROUP BY 1' --date 2026-08-10",
        "ssmd journal query 'FROM entries' --date 2026-08-10 --out day.parquet",
    ),
)
@click.argument("sql", default="")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Of this stream: secmaster, local_md_0. Repeatable.")
@click.option("--subject", default="", metavar="SUBJECT", help="On this subject, or below it: local.day.events.")
@click.option("--since", type=MOMENT, metavar="DURATION|TIME", help="From then on: 5m, 2026-08-10T21:50:00Z.")
@click.option("--until", type=MOMENT, metavar="DURATION|TIME", help="Up to then.")
@click.option("--as-of", type=MOMENT, metavar="TIME", help="What there was then: nothing later is seen.")
@click.option("--date", "dates", multiple=True, metavar="DATE", help="Of this trading day: 2026-08-10, today, yesterday. Repeatable.")
@click.option("--symbol", "symbols", multiple=True, metavar="SYMBOL", help="Of this market, or this aggregate's id. Repeatable.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Of this type: trade, gap, changes, events. Repeatable.")
@click.option("--who", multiple=True, metavar="NAME", help="By this actor; * is any text. Repeatable.")
@click.option("--correlation", "correlations", multiple=True, metavar="ID", help="Of this correlation. Repeatable.")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["auto", "archive", "journal"]),
    default="auto",
    show_default=True,
    help="Where entries come from.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write .parquet, .jsonl or .csv, whole or not at all."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help=f"At most N rows; of a table {_SHOWN} without it.")
@click.option(
    "--limit-entries",
    type=click.IntRange(1),
    default=_ENTRIES,
    show_default=True,
    metavar="N",
    help="At most N entries for SQL to look at.",
)
@click.option(
    "--time-limit", type=DURATION, default="60s", show_default=True, metavar="DURATION", help="At most so long for SQL to answer."
)
@configured
def query(
    *, sql: str, out: Path | None, limit: int | None, limit_entries: int, time_limit: int, origin: str, settings: Settings, output: str,
    **filters: Any,
) -> None:  # fmt: skip
    """Find entries by what is known of them, or ask SQL (DuckDB) over those that are found.

    Without SQL: matching entries of all streams, stream by stream, oldest first. With SQL: one SELECT over `events` (domain streams:
    position, stream, sequence, effective_time, effective_ns, recv_time, recv_ns, day, feed, type, symbol, who, why, causation, correlation,
    data as JSON) and `entries` (market streams: also kind, price, size, changes and more as integers, with price_exponent and
    size_exponent). Only what matches the filters is there. SQL writes nothing, and reaches no file and no network.
    """  # fmt: skip
    if out and out.suffix not in _SUFFIXES:
        raise click.UsageError(f"--out {out}: the name's end says what is written: {', '.join(_SUFFIXES)}")
    output = out.suffix[1:] if out else output or ("table" if sys.stdout.isatty() else "jsonl")
    asked = _Asked(settings, _wanted(settings, **filters), origin, out, output, limit or (_SHOWN if output == "table" else None))
    if sql.strip():
        _answer(asked, sql, limit_entries, time_limit / 1e9)
    else:
        asyncio.run(_copy(asked) if output == "parquet" else _print(asked))


class _Asked(NamedTuple):
    settings: Settings
    wanted: Wanted
    origin: str
    out: Path | None
    output: str  # of a file, what its name ends with
    limit: int | None


def _wanted(
    settings: Settings, *, streams: tuple[str, ...], subject: str, since: int | None, until: int | None, as_of: int | None,
    dates: tuple[str, ...], symbols: tuple[str, ...], types: tuple[str, ...], who: tuple[str, ...], correlations: tuple[str, ...],
) -> Wanted:  # fmt: skip
    from ssmd.clock import machine_clock
    from ssmd.moments import parse_date
    from ssmd.querying import END_NS, Wanted
    from ssmd.wiring import day_rule

    rule, now_ns = day_rule(settings), machine_clock().wall_ns()
    ends = [end for end in (until, as_of) if end is not None]
    return Wanted(
        streams, subject, since or 0, min(ends, default=END_NS), frozenset(parse_date(d, rule, now_ns) for d in dates), frozenset(symbols),
        frozenset(types), who, frozenset(correlations),
    )  # fmt: skip


async def _print(asked: _Asked) -> None:
    """Matching entries as lines, as they are found."""
    from ssmd.commands.journal import NOTHING, Printed

    with _target(asked.out) as file:
        printed = Printed(asked.output, file)
        async with aclosing(_found(asked)) as found:
            async for stream, records in found:
                printed.write((stream, record) for record in records)
    if not printed.count:
        click.echo(NOTHING, err=True)
    _tell(asked, printed.count)


async def _copy(asked: _Asked) -> None:
    """Matching entries to a Parquet file."""
    from journal.block import Block
    from ssmd import answers, columns

    assert asked.out is not None  # noqa: S101  only a file's name can end so
    count = 0
    with answers.parquet(asked.out, columns.ENTRIES) as write:
        async with aclosing(_found(asked)) as found:
            async for stream, records in found:
                write(columns.entries(stream, Block.of(records)))
                count += len(records)
    _tell(asked, count)


async def _found(asked: _Asked) -> AsyncGenerator[tuple[Stream, list[Record]], None]:
    from ssmd import querying
    from ssmd.clock import machine_clock
    from ssmd.trail import open_trail

    left = asked.limit
    async with open_trail(asked.settings, machine_clock(), asked.origin) as trail:
        streams = await querying.choose(trail, asked.wanted)
        async with aclosing(querying.matching(trail, streams, asked.wanted)) as found:
            async for stream, records in found:
                yield stream, records[:left]
                if left is not None and (left := left - len(records)) <= 0:
                    return


def _answer(asked: _Asked, sql: str, limit_entries: int, time_limit_s: float) -> None:
    from ssmd import answers
    from ssmd.clock import machine_clock
    from ssmd.loading import SCHEMAS
    from ssmd.sql import Session

    with Session(machine_clock(), time_limit_s=time_limit_s) as session:
        tables = session.ask(sql, SCHEMAS)
        if tables:
            asyncio.run(_load(asked, session, tables, limit_entries))
        answer = session.answer()
        batches = answers.first(answer.batches, asked.limit)
        if asked.output == "parquet":
            assert asked.out is not None  # noqa: S101  only a file's name can end so
            with answers.parquet(asked.out, answer.schema) as write:
                count = sum(write(batch) for batch in batches)
        else:
            with _target(asked.out) as file:
                count = answers.write(answer.columns, batches, asked.output, file)
    _tell(asked, count)


async def _load(asked: _Asked, session: Session, tables: list[str], limit_entries: int) -> None:
    from ssmd import querying
    from ssmd.clock import machine_clock
    from ssmd.loading import Load
    from ssmd.trail import open_trail

    async with open_trail(asked.settings, machine_clock(), asked.origin) as trail:
        load = Load(trail, asked.wanted, limit_entries)
        await load.plan(await querying.choose(trail, asked.wanted), tables)
        what = f"{load.most:,} entries" if load.exact else f"what matches of {load.most:,} entries"
        click.echo(f"ssmd: loading {what} of {', '.join(load.streams) or 'no stream'}", err=True)
        with render.progress() as meter:
            await load.into(session, tables, meter)


@contextmanager
def _target(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    from ssmd.answers import replacing

    with replacing(out) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


def _tell(asked: _Asked, count: int) -> None:
    if asked.out:
        click.echo(f"ssmd: {count:,} rows in {asked.out}", err=True)
    if count == asked.limit:
        click.echo(f"ssmd: stopped at {count:,} rows; --limit N shows more", err=True)
