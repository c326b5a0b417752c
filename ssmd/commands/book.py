"""`ssmd book`: one order book, now or then."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ssmd import render
from ssmd.options import MOMENT, configured, examples
from ssmd.settings import Settings


@click.command(
    epilog=examples(
        "ssmd book KXGOLD15M-26AUG101800-00",
        "ssmd book KXGOLD15M-26AUG101800-00 --as-of 2026-08-10T21:50:00Z -o json",
        "ssmd book KXGOLD15M-26AUG101800-00 --as-of 5m --shard 0",
    )
)
@click.argument("symbol")
@click.option("--as-of", type=MOMENT, metavar="DURATION|TIME", help="The book as it was then: every entry up to this effective time.")
@click.option("--shard", metavar="NAME", help="By default shard 0, then the import.")
@configured
def book(*, symbol: str, as_of: int | None, shard: str | None, settings: Settings, output: str) -> None:
    """Show an order book, best prices first, and whether it can be trusted.

    A book is VALID, SYNCING (no snapshot yet) or STALE (entries are missing since).
    """
    found = asyncio.run(_run(settings, symbol, as_of, shard))
    output = render.format_of(output)
    if output == "table":
        _table(found)
    else:
        render.one(found, output)


async def _run(settings: Settings, symbol: str, as_of: int | None, shard: str | None) -> dict[str, Any]:
    from journal.subjects import Stream
    from ssmd.books import document, find_book
    from ssmd.clock import machine_clock
    from ssmd.wiring import SHARDS, day_rule, open_objects, open_source

    clock = machine_clock()
    as_of_ns = clock.wall_ns() if as_of is None else as_of
    streams = [Stream(settings.env, shard=s) for s in ([shard] if shard else SHARDS)]
    async with open_source(settings, clock) as source:
        stream, view = await find_book(source, open_objects(settings), streams, symbol, as_of_ns=as_of_ns, days=day_rule(settings))
    return document(stream, view, settings.feed, as_of_ns)


def _table(found: dict[str, Any]) -> None:
    from ssmd.moments import rfc3339

    click.echo(f"{found['symbol']}  {found['state']}  as of {rfc3339(found['as_of_ns'])}  {found['position']}")
    bids, asks = found["bids"], found["asks"]
    depth = max(len(bids), len(asks))
    pairs = zip(*(side + [["", ""]] * (depth - len(side)) for side in (bids, asks)), strict=True)
    render.rows([{"size": b[1], "bid": b[0], "ask": a[0], "size ": a[1]} for b, a in pairs], "table", title="levels")
