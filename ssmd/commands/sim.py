"""`ssmd sim`: simulated venues."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from journal.clock import Clock
from ssmd.clock import machine_clock
from ssmd.options import DURATION, MOMENT, configured, examples
from ssmd.services.supervisor import follow_parent
from ssmd.settings import Settings


class Speed(click.ParamType[float]):
    """A positive factor; 0 for ``max``."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if value == "max":
            return 0.0
        with contextlib.suppress(ValueError):
            if 0 < (speed := float(value)) < float("inf"):
                return speed
        raise click.BadParameter(f"{value!r} is neither max nor a number above 0", ctx, param)


@click.group()
def sim() -> None:
    """Run a simulated venue that a real client could talk to."""


@sim.command(
    epilog=examples(
        "ssmd sim kalshi",
        "ssmd sim kalshi --seed 7 --markets 100 --rate 5000",
        "ssmd sim kalshi --listed 500000",
        "ssmd sim kalshi --recording recordings/ --speed 10",
        "ssmd sim kalshi --recording monday/*.gz --speed 10",
        "ssmd sim kalshi --recording day.ndjson.gz --speed max --hold --log sent.jsonl",
        "ssmd sim kalshi --key-file public.pem --key-id 11111111-2222-3333-4444-555555555555",
    )
)
@click.option(
    "--recording", "recordings", multiple=True, metavar="PATH", type=click.Path(path_type=Path),
    help="Play a recording: a file, or a folder of files; more paths may follow. Without it, a synthetic market.",
)  # fmt: skip
@click.argument("more", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@click.option("--seed", default=1, show_default=True, help="Of the synthetic market: the same seed trades the same.")
@click.option("--markets", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Synthetic markets open at a time.")
@click.option(
    "--rate", default=200.0, show_default=True, type=click.FloatRange(0.001, 1_000_000), help="Synthetic frames in a second of venue time."
)
@click.option("--frames", type=click.IntRange(1), metavar="N", help="End the synthetic market after N frames.")
@click.option("--speed", type=Speed(), default="1", show_default=True, metavar="N|max", help="How fast data and schedules run.")
@click.option("--listed", default=0, metavar="N", type=click.IntRange(0, 1_000_000), help="List N more markets, which do not trade.")
@click.option("--keep-times", is_flag=True, help="Leave the recorded times; by default the first frame is now.")
@click.option("--hold", is_flag=True, help="Start when a client has subscribed; by default nobody is waited for.")
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="Port on 127.0.0.1; by default a free one.")
@click.option(
    "--announced", type=DURATION, default="60s", show_default=True, metavar="DURATION", help="Synthetic markets: before they open."
)
@click.option("--begun", type=MOMENT, metavar="TIME", help="The synthetic venue began then; what it did since is made up for first.")
@click.option(
    "--log", type=click.Path(path_type=Path), metavar="FILE", help="Write all that is sent as JSON lines; in a folder, a file a run."
)
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), metavar="PUBLIC.pem", help="Check signatures with this key.")
@click.option("--key-id", metavar="UUID", help="The access key id that belongs to --key-file.")
@click.option("--no-auth", is_flag=True, help="Ask for no signature; so it is without --key-file.")
@click.option("--for", "duration_ns", type=DURATION, metavar="DURATION", help="Stop after this time: 30s, 10m.")
@configured
@click.pass_context
def kalshi(  # noqa: PLR0917 - click passes options by name
    ctx: click.Context,
    recordings: tuple[Path, ...],
    more: tuple[Path, ...],
    frames: int | None,
    seed: int,
    markets: int,
    rate: float,
    speed: float,
    listed: int,
    keep_times: bool,
    hold: bool,
    port: int,
    announced: int,
    begun: int | None,
    log: Path | None,
    key_file: Path | None,
    key_id: str | None,
    no_auth: bool,
    duration_ns: int | None,
    settings: Settings,
    output: str,
) -> None:
    """Kalshi's WebSocket and REST, from a recording or a seeded synthetic market.

    Stays up after the end of a recording. /sim/status and /sim/books on the same port tell what was sent and the true books.
    """
    from exchanges.simulator.authority import Authority, load_public_key
    from exchanges.simulator.feed import Feed
    from exchanges.simulator.listing import Listing
    from exchanges.simulator.oracle import Oracle
    from exchanges.simulator.recording import RecordingFeed
    from exchanges.simulator.server import SimulatorServer
    from exchanges.simulator.synthetic import SyntheticFeed

    del settings
    if (key_file is None) != (key_id is None):
        raise click.UsageError("--key-file and --key-id belong together")
    if key_file is not None and no_auth:
        raise click.UsageError("--no-auth and --key-file exclude each other")
    if keep_times and not recordings:
        raise click.UsageError("--keep-times is about recordings; name one with --recording")
    if more and not recordings:
        raise click.UsageError(f"unexpected {str(more[0])!r}; recordings follow --recording")
    if begun is not None and (recordings or hold or speed != 1):
        raise click.UsageError("--begun is about a synthetic venue at --speed 1, which waits for nobody")
    clock = machine_clock()
    now_ms = clock.wall_ns() // 1_000_000
    begun_ms = None if begun is None else min(begun // 1_000_000, now_ms)
    if log is not None and log.is_dir():
        log /= f"{now_ms}.jsonl"
    feed: Feed = (
        RecordingFeed([*recordings, *more], keep_times=keep_times)
        if recordings
        else SyntheticFeed(seed, markets=markets, rate=rate, frames=frames, announced_s=announced / 1e9)
    )
    server = SimulatorServer(
        feed,
        clock,
        speed=speed or None,
        port=port,
        oracle=Oracle(path=log),
        authority=Authority({key_id: load_public_key(key_file)}, clock) if key_file and key_id else None,
        hold=hold,
        listing=Listing(seed, listed, now_ms if begun_ms is None else begun_ms),
        begun_ms=begun_ms,
    )

    def announce() -> None:
        click.echo(f"WebSocket {server.ws_url}\nREST      {server.rest_url}", err=True)
        if key_file is None:
            click.echo("Signatures are not checked (--key-file and --key-id would).", err=True)
        if output in {"json", "jsonl"} or not (output or sys.stdout.isatty()):
            ready = {"ws_url": server.ws_url, "rest_url": server.rest_url, "port": server.port, "pid": os.getpid()}
            click.echo(msgspec.json.encode(ready).decode())

    async def main() -> int:
        async with server:
            announce()
            return await _serve(server.finished(), clock, duration_ns)

    code = asyncio.run(main())
    status = server.status()
    click.echo(f"{status['frames']} frames sent", err=True)
    for what in ("skipped", "refused"):
        for reason, number in dict(status[what]).items():  # type: ignore[call-overload]  # both are counters
            click.echo(f"{what}: {number} x {reason}", err=True)
    ctx.exit(code)


async def _serve(finished: Any, clock: Clock, duration_ns: int | None) -> int:
    """Until a signal or the duration; the exit code. Raises what ended the feed early."""
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stopped(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stopped, 130)
    loop.add_signal_handler(signal.SIGTERM, stopped, 0)
    follow_parent()
    playing = asyncio.ensure_future(finished)
    waits: set[asyncio.Future[Any]] = {stop, playing}
    if duration_ns is not None:
        waits.add(asyncio.ensure_future(clock.sleep(duration_ns / 1e9)))
    try:
        while True:
            done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if playing in done:
                playing.result()
                click.echo("The feed has ended; still serving.", err=True)
                done.discard(playing)
            if stop in done:
                return stop.result()
            if done:
                return 0
    finally:
        for wait in waits:
            wait.cancel()
