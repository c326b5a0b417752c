"""`ssmd run`: one service in this process, for deployments that start each by themselves."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import click

from ssmd.commands.run_gateway import gateway
from ssmd.commands.run_worker import worker
from ssmd.options import DURATION, configured, examples, metered
from ssmd.settings import Settings

_STATUS_S = 1.0


@click.group()
def run() -> None:
    """Run one service: connector, archiver, projector, secmaster, gateway or worker. SIGTERM and Ctrl-C stop it in order."""


run.add_command(gateway)
run.add_command(worker)


def _tell(text: str) -> None:
    click.echo(f"ssmd: {text}", err=True)


@run.command(
    epilog=examples(
        "ssmd run connector --env kalshi-demo",
        "ssmd run connector --key-id UUID --key-file kalshi.pem --series KXBTC15M",
        "ssmd run connector --key-id UUID --key-file kalshi.pem --ticker KXGOLD15M-26AUG101800-00",
        "ssmd run connector --ws-url ws://127.0.0.1:8080/trade-api/ws/v2 --rest-url http://127.0.0.1:8080/trade-api/v2",
    )
)
@click.option("--feed", help="A feed of the project instead of the environment's.")
@click.option("--shard", default="0", show_default=True, metavar="NAME", help="The shard whose stream is written.")
@click.option("--ws-url", metavar="URL", help="WebSocket of the venue instead of the environment's or feed's.")
@click.option("--rest-url", metavar="URL", help="REST of the venue instead of the environment's or feed's.")
@click.option("--key-id", metavar="UUID", envvar="SSMD_KEY_ID", help="API key. [SSMD_KEY_ID]")
@click.option("--key-file", type=click.Path(path_type=Path), metavar="PEM", envvar="SSMD_KEY_FILE", help="Its private key. [SSMD_KEY_FILE]")
@click.option("--ticker", "tickers", multiple=True, help="Capture this market; may be repeated.")
@click.option("--series", multiple=True, help="Capture the open markets of this series, and those that open later; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Capture every open market, whatever the shard selects.")
@click.pass_context
@configured
@metered
def connector(ctx: click.Context, *, settings: Settings, output: str, **venue: Any) -> None:
    """Capture a venue into the journal. With -o json, what was captured is told at the end."""
    ctx.exit(asyncio.run(_connector(settings, output, **venue)))


async def _connector(
    settings: Settings, output: str, *, feed: str | None, shard: str, ws_url: str | None, rest_url: str | None,
    key_id: str | None, key_file: Path | None, tickers: tuple[str, ...], series: tuple[str, ...], everything: bool,
) -> int:  # fmt: skip
    import os
    import random
    import socket
    from urllib.parse import urlsplit

    from exchanges.markets import Selection
    from exchanges.session import Session, SessionConfig
    from exchanges.venues import load
    from journal.day import to_date
    from journal.errors import JournalUnavailable
    from journal.subjects import Stream
    from ssmd import render, venues
    from ssmd.clock import machine_clock
    from ssmd.secmaster.access import open_choice
    from ssmd.services.connector import Connector
    from ssmd.wiring import day_rule, open_journal

    clock, rng = machine_clock(), random.SystemRandom()
    days, name = day_rule(settings), feed or settings.feed
    today = to_date(days.day_of(clock.wall_ns()))
    venue = venues.access(settings, name, today, ws_url=ws_url, rest_url=rest_url, key_id=key_id, key_file=key_file)
    signers, path = [s for s in (venue.signer, venue.older_signer) if s], urlsplit(venue.websocket_url).path

    def another_key() -> bool:
        if len(signers) < 2:
            return False
        del signers[0]
        _tell("the venue refused the key; trying its values from before the last rotation, whose grace period is not over")
        return True

    adapter = load(venue.parts.adapter)
    chosen = Selection(tickers, series, everything=everything)
    if not (tickers or series or everything):
        chosen = venues.selection(settings, shard)
    opened = open_journal(settings, clock)
    async with opened as journal, open_choice(settings, clock, journal, chosen, feed=name, venue=venue) as choice:
        connector = Connector(
            journal, Stream(settings.env, shard=shard), clock, rng, feed=name, days=days,
            session=Session(
                SessionConfig(venue.websocket_url), clock, rng,
                headers=lambda now_ns: signers[0].headers("GET", path, now_ns) if signers else {}, another_key=another_key,
            ),
            adapters=lambda symbols, since_ns: adapter(symbols, since_ns=since_ns, pace=clock.rate),
            choice=choice,
            instance=f"{socket.gethostname()}:{os.getpid()}",
        )  # fmt: skip
        status = connector.status
        code = await _serve(connector.run(), status.told)
        if output in {"json", "jsonl"}:
            lag = {f"p{q}": status.lag.quantile_ns(q / 100) for q in (50, 99)}
            counts = {name: getattr(status, name) for name in ("frames", "entries", "unparsed", "gaps", "connections", "symbols")}
            render.one({**counts, "read_to_durable_ns": {**lag, "worst": status.lag.worst_ns}}, output)
        if status.lost:
            raise JournalUnavailable(
                f"stopped while the journal was away: {status.lost} entries were not durable and are lost; the next run records the gap"
            )
        return code


@run.command(epilog=examples("ssmd run archiver", "ssmd run archiver --nats nats://TOKEN@nats:4222 --storage s3://market-data/ssmd"))
@click.pass_context
@configured
@metered
def archiver(ctx: click.Context, *, settings: Settings, output: str) -> None:
    """Archive every stream of the environment, as it grows."""
    del output
    ctx.exit(asyncio.run(_archiver(settings)))


async def _archiver(settings: Settings) -> int:
    from ssmd.clock import machine_clock
    from ssmd.locks import archiver_lock, held
    from ssmd.services.archiver import Archiver
    from ssmd.software import software
    from ssmd.wiring import open_journal, open_objects

    clock = machine_clock()
    wait = held(
        archiver_lock(settings.data_dir, settings.env), clock, waiting=lambda: _tell("another archiver or an import is at work; waiting")
    )
    async with wait, open_journal(settings, clock) as journal:
        archiver = Archiver(journal, open_objects(settings), settings.env, clock, software=software())
        return await _serve(archiver.run(), lambda: "; ".join(s.error for s in archiver.status() if s.error) or "archiving", archiver.stop)


@run.command(epilog=examples("ssmd run projector", "ssmd run projector --shard 0 --env local"))
@click.option("--shard", default="0", show_default=True, metavar="NAME", help="The shard whose stream is folded.")
@click.pass_context
@configured
@metered
def projector(ctx: click.Context, *, shard: str, settings: Settings, output: str) -> None:
    """Fold a market stream, and journal digests and checkpoints."""
    del output
    ctx.exit(asyncio.run(_projector(settings, shard)))


async def _projector(settings: Settings, shard: str) -> int:
    from journal.subjects import Stream
    from ssmd.clock import machine_clock
    from ssmd.services.projector import Projector
    from ssmd.wiring import open_journal, open_objects

    clock = machine_clock()
    async with open_journal(settings, clock) as journal:
        projector = Projector(journal, open_objects(settings), Stream(settings.env, shard=shard), clock)
        return await _serve(projector.run(), lambda: projector.error or f"folding {projector.stream.name}", projector.stop)


@run.command(
    epilog=examples(
        "ssmd run secmaster --env kalshi-prod",
        "ssmd run secmaster --rest-url http://127.0.0.1:8080/trade-api/v2 --every 1m",
    )
)
@click.option("--feed", metavar="NAME", help="The feed. [default: the environment's]")
@click.option("--shard", default="0", show_default=True, metavar="NAME", help="The shard whose lifecycle messages are followed.")
@click.option("--rest-url", metavar="URL", help="REST of the venue instead of the environment's or feed's.")
@click.option("--every", type=DURATION, default="15m", show_default=True, metavar="DURATION", help="How often the venue is asked.")
@click.pass_context
@configured
@partial(metered, markets=True)
def secmaster(
    ctx: click.Context, *, feed: str | None, shard: str, rest_url: str | None, every: int, settings: Settings, output: str
) -> None:  # fmt: skip
    """Keep the security master up to date: ask the venue, follow messages, derive what nobody announces.

    Of a simulated venue without --rest-url only messages and times are followed. Where the environment's cache is redis, its views of
    markets and days are kept there.
    """
    del output
    ctx.exit(asyncio.run(_secmaster(settings, feed or settings.feed, shard, rest_url, every)))


async def _secmaster(settings: Settings, feed: str, shard: str, rest_url: str | None, every_ns: int) -> int:
    import random

    from exchanges.venues import load
    from journal.subjects import Stream
    from ssmd.clock import machine_clock
    from ssmd.secmaster.access import SIMULATED, open_definitions, open_ledger, parts_of
    from ssmd.secmaster.following import Follower
    from ssmd.secmaster.service import Schedule, SecmasterService
    from ssmd.secmaster.sync import Question, Sync
    from ssmd.wiring import open_journal, open_views

    clock, source = machine_clock(), None
    if rest_url or settings.environment.venue.type == "live":
        venue = open_definitions(settings, clock, feed=feed, rest_url=rest_url)
        simulated = settings.environment.venue.type != "live"  # its address is another one each time, and it is the same venue
        source = (venue.source, Question(feed, SIMULATED if simulated else venue.url))
    parts = parts_of(settings, clock, feed)
    opened = open_journal(settings, clock)
    async with opened as journal, open_ledger(settings, clock, journal) as ledger, open_views(settings, clock, journal) as views:
        sync = Sync(ledger, clock, load(parts.observed), load(parts.due))
        follower = Follower(ledger, journal, Stream(settings.env, shard=shard), feed, load(parts.told))
        schedule = Schedule(every_s=every_ns / 1e9)
        service = SecmasterService(
            ledger, sync, follower, clock, lambda: random.SystemRandom().randbytes(8).hex(), source=source, schedule=schedule, views=views
        )
        return await _serve(service.run(), lambda: service.status)


async def _serve(running: Coroutine[Any, Any, object], status: Callable[[], str], stop: Callable[[], object] | None = None) -> int:
    """Until it ends by itself or a signal stops it, telling what changes: 0, or 130 after an interrupt. Raises what ended it."""
    from ssmd.clock import machine_clock
    from ssmd.services.supervisor import follow_parent

    follow_parent()
    service = asyncio.ensure_future(running)
    code = 0

    def stopped(signal_code: int) -> None:
        nonlocal code
        code = signal_code
        if stop:
            stop()
        else:
            service.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped, 0)
    loop.add_signal_handler(signal.SIGINT, stopped, 130)
    told = ""
    clock = machine_clock()
    while not service.done():
        if (now := status()) != told:
            _tell(now)
            told = now
        pause = asyncio.ensure_future(clock.sleep(_STATUS_S))
        await asyncio.wait([service, pause], return_when=asyncio.FIRST_COMPLETED)
        pause.cancel()
    if not service.cancelled():
        service.result()
    return code
