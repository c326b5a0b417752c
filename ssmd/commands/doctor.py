"""`ssmd doctor`: is this installation what it promises to be."""

from __future__ import annotations

import asyncio

import click

from ssmd import render
from ssmd.options import configured, examples
from ssmd.settings import Settings


@click.command(
    epilog=examples("ssmd doctor", "ssmd doctor --data-dir /srv/ssmd -o json", "ssmd doctor --nats nats://TOKEN@nats.example:4222")
)
@click.option("--monitor", default="", metavar="URL", help="Monitoring port of --nats. [default: http://HOST:8222]")
@click.pass_context
@configured
def doctor(ctx: click.Context, *, monitor: str, settings: Settings, output: str) -> None:
    """Check packages, server, disk, storage and clock, and say what a power cut would cost.

    Exit code: 0 all holds, 1 findings, 2 a check could not be made.
    """
    from ssmd.checks import examine
    from ssmd.clock import machine_clock

    checks = asyncio.run(examine(settings, machine_clock(), monitor))
    render.rows([check._asdict() for check in checks], output)
    found = {check.status for check in checks}
    ctx.exit(2 if "failed" in found else 1 if "finding" in found else 0)
