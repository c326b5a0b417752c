"""`ssmd demo`: the whole path in about half a minute, a crash included."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssmd import options

if TYPE_CHECKING:
    from rich.console import Console

    from journal.clock import Clock
    from replay.engine import ReplayResult
    from ssmd.local_run import LocalRun
    from ssmd.settings import Settings

DEMO_DIR = ".ssmd/demo"
_RECORDING_SPEED = "60"  # a quarter of an hour in fifteen seconds
_SYNTHETIC = ["--rate", "1500", "--markets", "30", "--seed", "7"]
_CRASH_AT = 0.4  # of the run
_CLEAR_S, _POLL_S = 15.0, 0.1  # a server stops two seconds after its last user
NEXT = """\
The data is in {data}. Ask it things:

  export SSMD_DATA={data}
  ssmd journal tail --limit 5
  ssmd journal streams
  ssmd book {symbol}
  ssmd replay --date {date} --from archive --verify
  ssmd doctor

(ssmd is .venv/bin/ssmd.)  To capture for longer, and look at it on http://127.0.0.1:8080/: ssmd up --gateway 8080"""


@click.command(epilog=options.examples("ssmd demo", "ssmd demo --recording FOLDER --seconds 30"))
@click.option("--recording", metavar="PATH", help="Play this recording instead of the synthetic venue.")
@click.option("--seconds", type=click.FloatRange(3, 600), default=20, show_default=True, help="Of capturing.")
@options.configured
def demo(recording: str | None, seconds: float, *, settings: Settings, output: str) -> int:
    """Capture a simulated venue, kill the connector, recover, archive, replay, compare every digest.

    Exit code 0: every digest of the replay equals the live one; 1: at least one does not. Each demo starts afresh in .ssmd/demo; --data-dir
    and SSMD_DATA are not for it.
    """
    del output
    from dataclasses import replace

    return asyncio.run(_demo(replace(settings, data_dir=Path(DEMO_DIR).absolute()), recording, seconds))


async def _demo(settings: Settings, recording: str | None, seconds: float) -> int:
    from ssmd.clock import machine_clock
    from ssmd.local_run import LocalRun, Venue, console, recording_option
    from ssmd.locks import capture_lock, held
    from ssmd.wiring import open_journal

    clock, out = machine_clock(), console()
    simulate = ["--speed", _RECORDING_SPEED, *recording_option(recording)] if recording else _SYNTHETIC
    await _clear(settings.data_dir, clock)
    out.rule("1  capture")
    out.print(f"A simulated Kalshi, a journal, a connector, an archiver and a projector, each a process; data in {settings.data_dir}\n")
    async with held(capture_lock(settings.data_dir), clock, waiting=None), open_journal(settings, clock) as journal:
        local = LocalRun(settings, clock, journal, out)

        async def crash() -> None:
            local.view.note(f"SIGKILL to the connector, pid {await local.supervisor.kill('connector')}; it will be started again")

        try:
            await local.start(Venue(simulate))
            await local.watch(seconds, [(seconds * _CRASH_AT, crash)])
        finally:
            await asyncio.shield(local.finish())
        result = await _verify(settings, local, out)
    if result is None or result.verify is None:
        return 1
    symbol = max(local.view.activity.items(), key=lambda item: item[1], default=("SYMBOL", 0))[0]
    out.rule("3  next")
    data = settings.data_dir
    shown = data.relative_to(Path.cwd()) if data.is_relative_to(Path.cwd()) else data
    out.print(NEXT.format(data=shown, symbol=symbol, date=result.date), markup=False, highlight=False)
    return 1 if result.verify.mismatched else 0


async def _clear(data_dir: Path, clock: Clock) -> None:
    """Remove the last demo's data. A server that still lives there is waited for: without its directory it would never end."""
    from journal.embedded import server_status
    from journal.errors import CallerError

    for _ in range(int(_CLEAR_S / _POLL_S)):
        if server_status(data_dir) is None:
            break
        await clock.sleep(_POLL_S)
    else:
        raise CallerError(f"another ssmd is at work in {data_dir}; stop it (a demo, a tail --follow), then run the demo again")
    shutil.rmtree(data_dir, ignore_errors=True)


async def _verify(settings: Settings, local: LocalRun, out: Console) -> ReplayResult | None:
    """Fold the archive from scratch and show its digests beside the live ones. None, with a message, when nothing was captured."""
    from rich.table import Table

    from journal.archive import ArchiveReader
    from journal.day import iso
    from projections.registry import create
    from replay.engine import replay
    from replay.ledger import Ledger
    from replay.source import ArchiveSource
    from ssmd.clock import machine_clock
    from ssmd.wiring import open_objects

    storage = open_objects(settings)
    source = ArchiveSource(ArchiveReader(storage, settings.env))
    days = await source.days(local.stream)
    if not days:
        out.print(f"[red]nothing was captured; see {local.supervisor.log('connector')}[/]")
        return None
    out.rule("2  replay from the archive")
    ledger = await Ledger.read(source, local.stream)
    result = None
    for day in days:
        result = await replay(source, create(), day=day, stream=local.stream, clock=machine_clock(), storage=storage, verify=True)
        live = {d.projection: d for d in ledger.digests if d.day == day}
        table = Table(title=f"{iso(day)}: {result.entries:,} entries, {result.symbols} symbols, {result.entries_per_s:,.0f} entries/s")
        for column in ("projection", "live digest", "replayed digest", ""):
            table.add_column(column)
        for name, digest in sorted(result.digests.items()):
            was = live[name].digest if name in live else ""
            table.add_row(name, was[:24], digest[:24], "[green]equal[/]" if was == digest else "[red]differs[/]")
        out.print(table)
        if result.verify is not None:
            verdict = "all equal" if not result.verify.mismatched else f"{result.verify.mismatched} DIFFER"
            out.print(f"{result.verify.compared} digests compared, {verdict}; {local.view.gaps} gap entries tell of the outage\n")
            if result.verify.mismatched:
                return result
    return result
