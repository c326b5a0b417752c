"""`ssmd run worker`: what carries out trading days where a Temporal drives them."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ssmd.commands.day_change import venue_options
from ssmd.commands.day_desk import tell, until_stopped
from ssmd.options import configured, environment_argument, examples, metered
from ssmd.settings import Settings


@click.command(epilog=examples("ssmd run worker kalshi-prod", "ssmd run worker --env kalshi-prod --metrics 127.0.0.1:9464"))
@environment_argument
@venue_options
@click.pass_context
@configured
@metered
def worker(ctx: click.Context, *, settings: Settings, output: str, duration: int | None, **venue: Any) -> None:
    """Own an environment's processes, and carry out what Temporal asks for. Needs scheduler.type: temporal.

    One for each environment, on the machine that captures. At its start it brings Temporal's schedules up to date with the environment's.
    Ctrl-C stops the processes in order and leaves the days as they are; the next worker goes on.
    """
    del output
    ctx.exit(asyncio.run(_worker(settings, duration, venue)))


async def _worker(settings: Settings, duration: int | None, venue: dict[str, Any]) -> int:
    import logging

    from journal.errors import CallerError
    from ssmd.clock import machine_clock
    from ssmd.day.calendar import Calendar
    from ssmd.day.processes import ChildProcesses, venue_of
    from ssmd.day.register import Register
    from ssmd.day.runner import runner_held
    from ssmd.day.starting import Parts
    from ssmd.services.supervisor import follow_parent
    from ssmd.wiring import open_journal, open_objects, open_temporal, process

    if settings.environment.scheduler.type != "temporal":
        raise CallerError(f"scheduler.type of {settings.env} is embedded: `ssmd day run` is its runner; a worker is for type temporal")
    follow_parent()
    logging.getLogger("temporalio").setLevel(logging.ERROR)  # what it warns of is in the day's history, or a retry
    clock = machine_clock()
    source = venue_of(settings, clock, **venue)
    async with open_temporal(settings) as at, runner_held(settings, clock) as mine, open_journal(settings, clock) as journal:
        if not mine:
            raise CallerError(f"a worker or runner of {settings.env} works in {settings.data_dir} already; see `ssmd day status`")
        from ssmd.temporal.service import WorkerService

        processes = ChildProcesses(settings, clock, journal, source, process())
        parts = Parts(settings, clock, journal, open_objects(settings), processes)
        register = Register(journal, clock, settings.env, Calendar(settings.environment.schedule).rule)
        service = WorkerService(parts, register, at, process(), tell)
        return await until_stopped(service.run(), service.stop, processes, duration)
