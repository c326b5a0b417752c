"""A rehearsal of days: the real runner and its processes under a clock that runs fast, and SIGKILLs at moments that a seed draws.

It has a directory of its own: a project with the environment as it is configured, but for its venue, journal, storage and shards, and data.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random
from shutil import copytree, ignore_patterns
from typing import NamedTuple

import msgspec

from journal.clock import Clock, RateClock
from journal.embedded import server_status
from journal.errors import CallerError, StoreError
from journal.protocols import Journal
from ssmd.clock import VARIABLE, clock_setting
from ssmd.day.aggregate import State
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register
from ssmd.moments import rfc3339
from ssmd.services.supervisor import Supervisor
from ssmd.settings import Settings

TARGETS = ("connector", "archiver", "projector", "secmaster", "sim", "nats-server", "runner")
SERIES = "KXSIMBTC15M"  # what the synthetic venue trades with one market open at a time
# A client needs time to subscribe to a market that was announced. The venue's minute is 42 ms of the machine's at 1440.
_ANNOUNCED_S = 0.5  # of the machine's
_ANNOUNCED_MOST_S = 840  # of the venue's: before the market before it opened nobody would
_POLL_S = 0.5
_GRACE_S = 120.0  # of the machine's, for the last day to end
_RETRY_S, _FIND_S = 0.05, 15.0  # a process that is to be killed may be on its way up
_FINAL = frozenset({State.COMPLETE, State.ERROR, State.FAILED})
_SECOND = 10**9


class Kill(NamedTuple):
    """`at_ns` of the rehearsal's time."""

    at_ns: int
    process: str
    pid: int


@dataclass(frozen=True)
class Plan:
    """`frames` are those of the synthetic series in a second of the machine's."""

    first: date
    days: int
    speed: int
    listed: int
    frames: float
    kills: int
    seed: int

    @property
    def dates(self) -> list[date]:
        return [self.first + timedelta(days=n) for n in range(self.days)]


class Rehearsal:
    """`prepare` one, then `run` it."""

    def __init__(self, plan: Plan, directory: Path, settings: Settings, clock: RateClock) -> None:
        self.plan = plan
        self.directory = directory
        self.settings = settings
        self.clock = clock
        self.calendar = Calendar(settings.environment.schedule)
        self.begins_ns = self.calendar.opens_ns(plan.first)
        self.over_ns = self.calendar.opens_ns(plan.first + timedelta(days=plan.days))
        self.kills: list[Kill] = []
        self.ends: list[str] = []  # of what ended and was not killed by us

    @property
    def sent(self) -> Path:
        """Where the simulator's logs are."""
        return self.directory / "sent"

    @property
    def seconds(self) -> float:
        """How long the days take."""
        return (self.over_ns - self.begins_ns) / self.plan.speed / _SECOND

    async def run(self, journal: Journal, tell: Callable[[str], object]) -> None:
        """Until the last day has ended, or could have. Raises `CallerError` where the runner cannot run at all."""
        supervisor = Supervisor(self.clock, self.settings.data_dir / "logs", self._environ(), self._note)
        await supervisor.start("runner", ["day", "run", self.settings.env, "--sim-options", " ".join(self._simulated())])
        follow = _Following(self, supervisor, journal, tell)
        try:
            await follow.until_over()
        finally:
            await supervisor.stop("runner")

    def _simulated(self) -> list[str]:
        plan = self.plan
        ahead_s = min(max(60, int(_ANNOUNCED_S * plan.speed)), _ANNOUNCED_MOST_S)
        return [
            "--markets", "1", "--rate", f"{max(plan.frames / plan.speed, 0.001):.6f}", "--listed", str(plan.listed),
            "--begun", rfc3339(self.begins_ns), "--announced", f"{ahead_s}s", "--log", str(self.sent),
        ]  # fmt: skip

    def _environ(self) -> dict[str, str]:
        return {**silenced(os.environ), **self.settings.environ(), VARIABLE: clock_setting(self.clock)}

    def _note(self, name: str, what: str, pid: int, status: int | None) -> None:
        if what == "crashed" and not any(k.pid == pid for k in self.kills):
            self.ends.append(f"{name} ended by itself with status {status}")


def silenced(environ: Mapping[str, str]) -> dict[str, str]:
    """Our variables, each as if it were not there: what they name is not for rehearsals."""
    return {name: "" for name in environ if name.startswith("SSMD_")}


def prepare(settings: Settings, plan: Plan, directory: Path, now_ns: int) -> Rehearsal:
    """Make the project and the data directory; the clock stands at the first day's opening at the machine's `now_ns`, and runs.

    Raises `CallerError` where the directory holds anything.
    """
    if plan.kills and not Path("/proc/self/task").is_dir():
        raise CallerError("--kills finds processes in /proc, which this machine does not have; rehearse without")
    if directory.exists() and any(directory.iterdir()):
        raise CallerError(f"{directory} is not empty; a rehearsal makes its own data: name a new directory with --keep")
    project, data = directory / "project", directory / "data"
    for folder in ("feeds", "schemas"):
        copytree(settings.project.exchanges / folder, project / "exchanges" / folder, ignore=ignore_patterns("*.py", "__pycache__"))
    target = project / "exchanges" / "environments" / f"{settings.env}.yaml"
    target.parent.mkdir()
    target.write_bytes(msgspec.json.format(msgspec.json.encode(_environment(settings))))  # YAML reads JSON
    for folder_ in (data, directory / "sent"):
        folder_.mkdir(mode=0o700)
    own = Settings.read({"project": str(project), "env": settings.env, "data": str(data)}, {})
    begins_ns = Calendar(own.environment.schedule).opens_ns(plan.first)
    anchor_ns = (now_ns * plan.speed - begins_ns) // (plan.speed - 1)
    return Rehearsal(plan, directory, own, RateClock(anchor_ns, plan.speed))


def _environment(settings: Settings) -> dict[str, object]:
    """As configured; its venue is simulated, one shard captures everything, and nothing outside the directory is used."""
    found = settings.environment
    times = {"timezone", "day_start", "day_end"}  # every day is begun: no cron expressions
    schedule = found.schedule.model_dump(mode="json", exclude_none=True, include=times) | {"auto_roll": True}
    return {
        "name": settings.env, "description": "A rehearsal", "feed": found.feed, "schema": found.schema_, "stage": found.stage,
        "schedule": schedule,
    }  # fmt: skip


class _Following:
    """What goes on while the days do."""

    def __init__(self, rehearsal: Rehearsal, supervisor: Supervisor, journal: Journal, tell: Callable[[str], object]) -> None:
        self._r = rehearsal
        self._clock: Clock = rehearsal.clock
        self._supervisor = supervisor
        self._register = Register(journal, rehearsal.clock, rehearsal.settings.env, rehearsal.calendar.rule)
        self._tell = tell
        self._states: dict[date, str] = {}
        rng, plan = Random(rehearsal.plan.seed), rehearsal.plan  # noqa: S311 - moments, not secrets
        self._started_ns = self._clock.mono_ns()
        self._due = sorted((rng.uniform(0.04, 0.97) * rehearsal.seconds, rng.choice(TARGETS)) for _ in range(plan.kills))

    async def until_over(self) -> None:
        while True:
            elapsed_s = self._elapsed_s()
            while self._due and self._due[0][0] <= elapsed_s:
                await self._kill(self._due.pop(0)[1])
            with suppress(StoreError):
                await self._look()
            if self._supervisor.failed.done():
                raise self._supervisor.failed.result()
            if elapsed_s >= self._r.seconds:
                over = all(self._states.get(d) in _FINAL for d in self._r.plan.dates)
                if over or elapsed_s > self._r.seconds + _GRACE_S:
                    return
            following = self._due[0][0] - elapsed_s if self._due else _POLL_S
            await self._clock.sleep(min(max(following, 0.01), _POLL_S))

    def _elapsed_s(self) -> float:
        return (self._clock.mono_ns() - self._started_ns) / 1e9

    async def _look(self) -> None:
        for day in await self._register.dates():
            if self._states.get(day) == State.COMPLETE:
                continue
            found = await self._register.get(day)
            if found.state != self._states.get(day):
                self._states[day] = found.state
                why = f": {found.why}" if found.state in {State.ERROR, State.FAILED} else ""
                self._tell(f"{self._elapsed_s():6.1f} s  {rfc3339(self._clock.wall_ns())[:16]}Z  {day} is {found.state}{why}")

    async def _kill(self, name: str) -> None:
        """SIGKILL it as soon as it lives."""
        for _ in range(int(_FIND_S / _RETRY_S)):
            if pid := self._pid(name):
                self._r.kills.append(Kill(self._clock.wall_ns(), name, pid))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self._tell(f"{self._elapsed_s():6.1f} s  {rfc3339(self._clock.wall_ns())[:16]}Z  SIGKILL to {name} ({pid})")
                    return
                self._r.kills.pop()
            await self._clock.sleep(_RETRY_S)
        self._tell(f"{name} was not there to be killed")

    def _pid(self, name: str) -> int:
        """Of a process that we started, or that one of those did; 0 while there is none."""
        if name == "nats-server":
            state = server_status(self._r.settings.data_dir)
            return state.server.pid if state else 0
        runner = self._supervisor.children["runner"].process
        if runner is None or runner.returncode is not None:
            return 0
        if name == "runner":
            return runner.pid
        wanted = b"sim" if name == "sim" else name.encode()
        return next((pid for pid, argv in children(runner.pid) if wanted in argv), 0)


def children(pid: int) -> list[tuple[int, list[bytes]]]:
    """The children of a process and what each was started as."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                found.append((int(child), Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")))
    return found
