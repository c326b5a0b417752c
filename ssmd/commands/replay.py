"""`ssmd replay`: fold a past day again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from ssmd import render
from ssmd.options import MOMENT, configured, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from journal.clock import Clock
    from replay.pace import Pace

_MOST_PORT = 65_535


def _speed(_ctx: click.Context, _param: click.Parameter, value: str) -> float | str:
    if value in {"max", "step"}:
        return value
    try:
        if 0 < (factor := float(value)) < float("inf"):
            return factor
    except ValueError:
        pass
    raise click.BadParameter(f"{value!r}: write max, step, or how many times real time, such as 10")


def _port(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """-1 for the environment's."""
    if value is None or not value:
        return None if value is None else -1
    if value.isascii() and value.isdigit() and int(value) <= _MOST_PORT:
        return int(value)
    raise click.BadParameter(f"{value!r}: write a port, 0 for any, or nothing for the environment's")


@click.command(
    epilog=examples(
        "ssmd replay --date today --verify",
        "ssmd replay --date 2026-08-10 --shard import --from archive --verify -o json",
        "ssmd replay --date 2026-08-10 --symbol KXGOLD15M-26AUG101800-00 --speed 10",
        "ssmd replay --date 2026-08-10 --until 2026-08-10T21:50:00Z",
        "ssmd replay --date 2026-08-10 --serve-gateway 8081 --speed 10    # open http://127.0.0.1:8081/",
    )
)
@click.option("--date", "date", required=True, metavar="DATE", help="The trading day: 2026-08-10, today or yesterday.")
@click.option(
    "--shard",
    metavar="NAME",
    help="By default shard 0 (with --serve-gateway all shards), or the import where there is nothing of that day.",
)
@click.option("--symbol", "symbols", multiple=True, metavar="SYMBOL", help="Only this symbol; may be repeated.")
@click.option(
    "--speed",
    default="max",
    show_default=True,
    callback=_speed,
    metavar="N|max|step",
    help="Times real time; step: each Enter is an entry, a number so many, 10s so much of the day.",
)
@click.option("--from", "origin", type=click.Choice(["journal", "archive", "auto"]), default="auto", show_default=True, help="Where from.")
@click.option("--until", type=MOMENT, metavar="TIME", help="Stop at the last entry up to this effective time.")
@click.option("--verify", is_flag=True, help="Compare with every digest the live run journalled; exit 1 when one differs, 2 without any.")
@click.option(
    "--serve-gateway",
    "port",
    is_flag=False,
    flag_value="",
    callback=_port,
    metavar="[PORT]",
    help="Serve the day to clients and on a page as a gateway does, on 127.0.0.1, until Ctrl-C; 0: any port. [default: the environment's]",
)
@click.option(
    "--clients", type=click.IntRange(0, 1_000), metavar="N", help="With --serve-gateway: begin when so many have subscribed. [default: 1]"
)
@click.pass_context
@configured
def replay(ctx: click.Context, *, settings: Settings, output: str, port: int | None, clients: int | None, **asked: Any) -> None:
    """Fold a day again from its opening snapshot, and say what state it comes to.

    The same entries give the same digests, bit for bit, from the journal or from the archive, at any speed. The configuration in force at
    the end of the day is named, where it was journalled. With --serve-gateway nothing is compared: the day happens again, from its opening
    on, for clients that cannot tell it from a live one.
    """
    if port is not None:
        ctx.exit(_serve_day(ctx, settings, None if port < 0 else port, 1 if clients is None else clients, **asked))
    if clients is not None:
        raise click.UsageError("--clients is for --serve-gateway", ctx)
    with render.progress() as meter:
        result, configuration = asyncio.run(_run(settings, meter, output, **asked))
    verified = result.verify
    for difference in verified.differences if verified else ():
        click.echo(f"ssmd: {difference}", err=True)
    document = {name: getattr(result, name) for name in result.__struct_fields__}
    document["verify"] = {"compared": verified.compared, "mismatched": verified.mismatched} if verified else None
    document["configuration"] = {"sha256": configuration.sha256, "position": configuration.position} if configuration else None
    render.one(document, output)
    ctx.exit(1 if verified and verified.mismatched else 0)


def _serve_day(
    ctx: click.Context, settings: Settings, port: int | None, clients: int, *, date: str, shard: str | None, symbols: tuple[str, ...],
    speed: float | str, origin: str, until: int | None, verify: bool,
) -> int:  # fmt: skip
    if verify:
        raise click.UsageError("--verify compares a fold of its own: run `ssmd replay --verify` without --serve-gateway", ctx)

    from ssmd.clock import machine_clock
    from ssmd.commands.run import _serve
    from ssmd.commands.run_gateway import loop_factory
    from ssmd.moments import parse_date
    from ssmd.past_day import Chosen, PastDay
    from ssmd.wiring import day_rule

    clock = machine_clock()
    day = parse_date(date, day_rule(settings), clock.wall_ns())
    chosen = Chosen(day, _pace(speed, clock), shard, origin, until, clients, symbols)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        served = PastDay(settings, clock, chosen, port)
        return runner.run(_serve(served.run(), lambda: served.status, served.stop))


async def _run(
    settings: Settings, meter: render.Meter, output: str, *, date: str, shard: str | None, symbols: tuple[str, ...], speed: float | str,
    origin: str, until: int | None, verify: bool,
) -> Any:  # fmt: skip
    from datetime import timedelta

    from journal.day import to_date
    from projections.registry import create
    from replay.engine import replay as fold
    from ssmd.clock import machine_clock
    from ssmd.configuration import in_force
    from ssmd.moments import parse_date
    from ssmd.wiring import choose_stream, day_rule, open_objects, open_source

    clock = machine_clock()
    rule = day_rule(settings)
    day = parse_date(date, rule, clock.wall_ns())
    async with open_source(settings, clock, origin) as source:
        stream = await choose_stream(source, settings, shard, day)
        meter.stage(f"replay {date}", 0)

        def folded(block: Any) -> None:
            meter.advance(len(block))
            if speed == "step":
                _show(stream, block, output)

        result = await fold(
            source, create(), day=day, stream=stream, clock=clock, storage=open_objects(settings), symbols=symbols or None,
            until_ns=until, pace=_pace(speed, clock), verify=verify, on_block=folded,
        )  # fmt: skip
        end_ns = rule.opens_ns(to_date(day) + timedelta(days=1)) - 1 if until is None else until
        return result, await in_force(source, settings.env, end_ns)


def _pace(speed: float | str, clock: Clock) -> Pace:
    from replay.pace import Max, Step, Times
    from ssmd.strides import KEYS, Typed

    if isinstance(speed, float):
        return Times(clock, speed)
    if speed == "max":
        return Max(clock)
    click.echo(f"ssmd: {KEYS}", err=True)
    return Step(Typed(lambda said: click.echo(f"ssmd: {said}", err=True)))


def _show(stream: Any, block: Any, output: str) -> None:
    from ssmd import documents

    del output
    for record in block.records():
        click.echo(documents.row(stream, record), err=True)
