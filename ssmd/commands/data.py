"""`ssmd data`: bring recordings in."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import click

from exchanges.venues import VENUES
from ssmd import render
from ssmd.commands.replay import replay
from ssmd.options import configured, examples
from ssmd.settings import Settings


def _tell(text: str) -> None:
    click.echo(f"ssmd: {text}", err=True)


@click.group()
def data() -> None:
    """Bring recordings in: import, replay."""


data.add_command(replay)


@data.command(
    "import",
    epilog=examples(
        "ssmd data import --feed kalshi recordings/",
        "ssmd data import --feed kalshi 2026-08-10.ndjson.gz 2026-08-11.ndjson.gz -o json",
        "ssmd replay --date 2026-08-10 --shard import --verify",
    ),
)
@click.option("--feed", type=click.Choice(tuple(VENUES)), required=True, help="Whose messages these are.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@configured
def import_(*, feed: str, paths: tuple[Path, ...], settings: Settings, output: str) -> None:
    """Turn recordings into journal entries of the shard `import`, archived and folded like any day.

    PATH is a file (JSON lines, plain, gzip or zstd) or a folder of them; `{"recv_ms", "event"}` lines and raw lines of an ssmd archive are
    known. Everything is checked before anything is appended. Importing again adds nothing; an interrupted import goes on when run again.
    """
    from ssmd.clock import machine_clock
    from ssmd.importing import import_recordings

    with render.progress() as meter:
        run = import_recordings(
            settings,
            machine_clock(),
            random.SystemRandom(),
            feed,
            paths=paths,
            meter=meter,
            tell=_tell,
        )
        report = asyncio.run(run)
    if report.unparsed:
        _tell(f"{report.unparsed} lines were not understood; they are kept as entries of type unparsed")
    render.one(report.document(), output)
