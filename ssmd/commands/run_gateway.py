"""`ssmd run gateway`: serve clients."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ssmd.options import configured, examples, metered

if TYPE_CHECKING:
    from ssmd.settings import Settings

# A look at every object (generation 2) holds clients up for 0.2 to 0.5 s. By default it comes every few seconds when much is allocated;
# after 20,000 x 50 x 20 new objects it comes every few minutes, and cycles of connections that ended wait for it.
_GC = (20_000, 50, 20)


@click.command(
    epilog=examples(
        "ssmd run gateway",
        "ssmd run gateway --env kalshi-demo --port 8081",
        "ssmd run gateway --host 0.0.0.0    # needs a key: ssmd gateway key create NAME",
    )
)
@click.option("--host", metavar="ADDRESS", help="Address to listen on. [default: the environment's gateway.host]")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="PORT", help="Port, 0 for any. [default: the environment's gateway.port]")
@click.pass_context
@configured
@metered
def gateway(ctx: click.Context, *, host: str | None, port: int | None, settings: Settings, output: str) -> None:
    """Serve live books, trades and market state: WebSocket at /v1/stream, REST below /v1.

    It holds no truth: it folds the journal from the newest checkpoint, and may be killed at any time. Without a key only this machine is
    let in.
    """
    del output
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        ctx.exit(runner.run(_gateway(settings, host, port)))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on every machine
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


async def _gateway(settings: Settings, host: str | None, port: int | None) -> int:
    from ssmd.clock import machine_clock
    from ssmd.commands.run import _serve
    from ssmd.gateway.server import Gateway

    gc.set_threshold(*_GC)
    gc.freeze()  # what is there by now, 180,000 objects of what was imported, stays: it is not looked at
    served = Gateway(settings, machine_clock(), host=host, port=port)
    return await _serve(served.run(), lambda: served.status, served.stop)
