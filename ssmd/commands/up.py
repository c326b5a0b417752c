"""`ssmd up`: capture, archive and fold, everything embedded."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from ssmd import options

if TYPE_CHECKING:
    from journal.clock import Clock
    from journal.protocols import Journal
    from ssmd.local_run import Venue
    from ssmd.settings import Settings

EXAMPLES = """\b
Examples:
  ssmd up --for 10s                    # a simulated venue, for ten seconds
  ssmd up --sim FOLDER --speed 60      # a recording, sixty times as fast
  ssmd up --gateway 8080               # and a page to look at: http://127.0.0.1:8080/
  ssmd up --env kalshi-demo            # what an environment of the project says
  ssmd up --key-id UUID --key-file kalshi.pem --series KXBTC15M
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--sim", "recording", is_flag=False, flag_value="", metavar="[RECORDING]", help="Simulate the venue: a recording, or synthetic."
)
@click.option("--for", "duration", type=options.DURATION, help="Stop after this long, such as 90s or 2h; else on Ctrl-C.")
@click.option("--speed", default="1", show_default=True, help="Of the simulated venue: a factor, or max.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the synthetic venue.")
@click.option("--key-id", metavar="UUID", help="Kalshi API key: capture the real venue.")
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False), help="Its private key, PEM.")
@click.option("--series", multiple=True, help="Capture the open markets of this series; may be repeated.")
@click.option("--ticker", multiple=True, help="Capture this market; may be repeated.")
@click.option("--gateway", type=click.IntRange(1, 65_535), metavar="PORT", help="Serve the page and clients there, too.")
@click.pass_context
@options.configured
def up(ctx: click.Context, duration: int | None, gateway: int | None, *, settings: Any, output: str, **venue: Any) -> None:
    """Capture a venue into the journal, archive it and fold it, with a live table.

    The environment says which venue; the default one, `local`, simulates it.
    Ctrl-C (exit code 130) and SIGTERM (0) stop everything in order; nothing that was captured is lost by it.
    """
    del output
    from journal.errors import CallerError
    from ssmd.local_run import LocalRun, console
    from ssmd.locks import capture_lock, held
    from ssmd.wiring import open_journal

    source = _venue(settings, venue)

    async def run() -> None:
        from ssmd.clock import machine_clock

        clock = machine_clock()
        async with held(capture_lock(settings.data_dir), clock, waiting=None) as mine:
            if not mine:
                raise CallerError(f"another `ssmd up` is capturing into {settings.data_dir}; stop it, or name another --data-dir")
            async with open_journal(settings, clock) as journal:
                await capture(clock, journal)

    async def capture(clock: Clock, journal: Journal) -> None:
        from ssmd.configuration import journal_configuration
        from ssmd.keys.change import whoami

        out = console()
        out.print(f"data in {settings.data_dir}; {'a simulated venue' if source.simulate is not None else settings.feed}; Ctrl-C stops")
        spec = settings.environment.gateway
        if gateway or spec.enabled:
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(spec.host, spec.host)  # noqa: S104  (where it listens, opened on this machine)
            address = f"{'https' if spec.tls else 'http'}://{host}:{gateway or spec.port}/"
            out.print(f"the page, as soon as the gateway has begun: {address}", soft_wrap=True)
        await journal_configuration(journal, settings, clock, who=whoami(), why="up")
        local = LocalRun(settings, clock, journal, out)
        try:
            await local.start(source, gateway)
            await local.watch(duration / 1e9 if duration else None)
        finally:
            await asyncio.shield(local.finish())
            info = await journal.info(local.stream)
            out.print(f"stopped; {local.stream.name} holds {info.last if info else 0:,} entries")
            env = "" if settings.env == "local" else f"--env {settings.env} "
            out.print(f"next: ssmd replay {env}--data-dir {settings.data_dir} --date today --from archive --verify", soft_wrap=True)

    ctx.exit(asyncio.run(_until_stopped(run())))


async def _until_stopped(work: Coroutine[Any, Any, None]) -> int:
    """Await `work`, which a signal cancels, also where a script that began us with ``&`` has Ctrl-C ignored: 0, or 130 after Ctrl-C."""
    running, code = asyncio.ensure_future(work), -1

    def stopped(signal_code: int) -> None:
        nonlocal code
        code = signal_code
        running.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped, 0)
    loop.add_signal_handler(signal.SIGINT, stopped, 130)
    await asyncio.wait([running])
    if not (code >= 0 and running.cancelled()):
        running.result()
    return max(code, 0)


def _venue(settings: Settings, options: dict[str, Any]) -> Venue:
    """What to capture: what the options say, else what the environment does. Raises `CallerError` where they contradict."""
    from datetime import date

    from journal.day import to_date
    from journal.errors import CallerError
    from ssmd import venues
    from ssmd.clock import machine_clock
    from ssmd.local_run import Venue, recording_option
    from ssmd.wiring import day_rule

    today: date = to_date(day_rule(settings).day_of(machine_clock().wall_ns()))
    feed, version = venues.feed_in_force(settings, settings.feed, today)
    parts = venues.adapter_of(feed.venue)
    if unknown := [s for s in settings.environment.shards if s != "0"]:
        raise CallerError(
            f"`ssmd up` runs shard 0 only; start {', '.join(unknown)} with `ssmd run connector --shard NAME` and its projector"
        )
    chosen = [option for name in ("series", "ticker") for value in options[name] for option in (f"--{name}", value)]
    live = settings.environment.venue.type == "live"
    if options["key_id"] or options["key_file"]:
        if options["recording"] is not None:
            raise CallerError("--sim and --key-id: capture a simulated venue or the real one, not both")
        if not (options["key_id"] and options["key_file"]):
            raise CallerError("the venue needs both --key-id and --key-file")
        rest_url = "" if live else version.rest or parts.rest_url
        return Venue(None, ["--key-id", options["key_id"], "--key-file", options["key_file"], *chosen], rest_url)
    if live and options["recording"] is None:
        # Asked here too: what is wrong with a key is better said before anything starts.
        venues.access(settings, settings.feed, today)
        return Venue(None, chosen)
    if chosen and options["recording"] is None:
        raise CallerError("--series and --ticker choose among the real venue's markets: add --key-id and --key-file, or --sim")
    simulate = ["--speed", options["speed"], "--seed", str(options["seed"]), *recording_option(options["recording"])]
    return Venue(simulate, chosen or (["--all"] if live else []))
