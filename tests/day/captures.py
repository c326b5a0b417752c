"""A day's processes as tasks of the test's own process, on a journal and a storage in memory, with a clock that can be set."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.markets import Selection
from exchanges.session import Session, SessionConfig
from exchanges.simulator.server import SimulatorServer
from journal.clock import WallClock
from journal.errors import SsmdError
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from ssmd.day.activity import Result
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register
from ssmd.day.starting import Parts, process_of
from ssmd.metadata.environment import Environment, Schedule
from ssmd.services.archiver import Archiver
from ssmd.services.connector import Connector
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from tests.choices import choice_of

STREAM = Stream("local", shard="0")


class SetClock(WallClock):
    """The wall clock plus `ahead_ns`; sleeps are shorter by `hurry`: who asks again and again of what is away need not keep us waiting."""

    ahead_ns = 0
    hurry = 1.0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.ahead_ns

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self.hurry)


class InProcess:
    """`Processes` of tasks."""

    def __init__(self, parts: Capture, sim: SimulatorServer) -> None:
        self._c, self._sim = parts, sim
        self.failed: asyncio.Future[SsmdError] = asyncio.get_running_loop().create_future()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.services: dict[str, Connector | Archiver | Projector] = {}

    def running(self, name: str) -> bool:
        return name in self.tasks and not self.tasks[name].done()

    async def rest_url(self) -> str:
        return self._sim.rest_url

    async def ensure(self, name: str) -> Result:
        if ran := self.running(name):
            return {"pid": 1, "already_ran": ran}
        c, clock = self._c, self._c.clock
        service: Connector | Archiver | Projector
        kind, shard = process_of(name)
        if kind == "connector":
            service = Connector(
                c.journal, Stream("local", shard=shard), clock, random.SystemRandom(), feed="kalshi", days=c.calendar.rule,
                session=Session(SessionConfig(self._sim.ws_url), clock, random.SystemRandom()),
                adapters=lambda symbols, since_ns: KalshiAdapter(symbols, since_ns=since_ns),
                choice=choice_of(c.journal, c.settings.data_dir, self._sim.rest_url, clock, Selection(everything=True)),
            )  # fmt: skip
        elif kind == "archiver":
            service = Archiver(c.journal, c.storage, "local", clock, flush_s=0.2)
        else:
            service = Projector(c.journal, c.storage, Stream("local", shard=shard), clock)
        self.services[name] = service
        self.tasks[name] = asyncio.create_task(service.run())
        return {"pid": 1, "already_ran": False}

    async def stop(self, *names: str) -> list[str]:
        stopped = [n for n in names if self.running(n)]
        for name in stopped:
            service = self.services[name]
            if isinstance(service, Connector):
                self.tasks[name].cancel()
            else:
                service.stop()
            await asyncio.gather(self.tasks[name], return_exceptions=True)
        return stopped


class Capture:
    """An environment in memory."""

    def __init__(self, directory: Path, schedule: Schedule | None = None, keys: dict[str, object] | None = None) -> None:
        self.clock = SetClock()
        self.journal, self.storage = MemoryJournal(), MemoryStorage()
        fields = {"name": "local", "feed": "kalshi", "schedule": schedule or Schedule(), "keys": keys or {}}
        self.settings = Settings(env="local", data_dir=directory, environment=Environment.model_validate(fields))
        self.calendar = Calendar(self.settings.environment.schedule)

    def register(self) -> Register:
        return Register(self.journal, self.clock, "local", self.calendar.rule)

    def parts(self, processes: InProcess | None = None) -> Parts:
        return Parts(self.settings, self.clock, self.journal, self.storage, processes)

    def midnight_in(self, seconds: float) -> None:
        """Set the clock so that the next day begins then."""
        from datetime import timedelta

        now_ns = self.clock.wall_ns()
        following = self.calendar.today(now_ns) + timedelta(days=1)
        self.clock.ahead_ns += self.calendar.opens_ns(following) - now_ns - int(seconds * 1e9)
