"""The processes that a day needs, as children of this one: connector, security master, archiver, projector, and the simulated venue.

They are shared by the days of an environment, so that the next day is live before the last one has ended. Every start, stop and crash is an
entry on ``{env}.system.processes.{name}``. When this process dies, however it dies, they are stopped by the kernel's word and say goodbye.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from journal.clock import Clock
from journal.entry import Entry, Event, canonical_json
from journal.errors import CallerError, SsmdError, StoreError, VenueUnavailable
from journal.protocols import Journal
from journal.subjects import Stream
from ssmd.day.activity import Result
from ssmd.day.calendar import Calendar
from ssmd.day.starting import process_of
from ssmd.local_run import Venue, free_port, recording_option, secmaster_arguments
from ssmd.services.supervisor import Supervisor
from ssmd.settings import Settings

TYPE = "processes"
_FEED = "system"
_MAX_WAITING = 1_000  # of what is not journalled yet; a child that crashes all the time does so every five seconds
_FLUSH_S = 5.0
_VENUE_TRIES, _VENUE_WAIT_S = 100, 0.1


class ChildProcesses:
    """Made on the event loop. `ensure` starts what is not running; `close` stops all and journals what happened."""

    def __init__(self, settings: Settings, clock: Clock, journal: Journal, venue: Venue, who: str) -> None:
        self._clock = clock
        self._journal = journal
        self._venue = venue
        self._who = who
        self._rule = Calendar(settings.environment.schedule).rule
        self._stream = Stream(settings.env, domain=_FEED)
        self._epoch = random.SystemRandom().randbytes(16)
        self._frame = 0
        self._happened: asyncio.Queue[Entry] = asyncio.Queue(_MAX_WAITING)
        self._connect: list[str] = []
        self._rest_url = ""  # of the simulated venue
        self.supervisor = Supervisor(clock, settings.data_dir / "logs", settings.environ(), self._note)
        self._journalling = asyncio.create_task(self._journal_all(), name="journal processes")

    @property
    def failed(self) -> asyncio.Future[SsmdError]:
        """Completes when a process could not run at all."""
        return self.supervisor.failed

    def running(self, name: str) -> bool:
        child = self.supervisor.children.get(name)
        return bool(child and not child.stopping and child.process and child.process.returncode is None)

    async def ensure(self, name: str) -> Result:
        """Running when it returns; its pid. A connector brings the simulated venue and the security master's service with it."""
        children = self.supervisor.children
        kept = name in children and not children[name].stopping  # one that crashed just now is started again by its supervisor
        if not kept:
            kind, shard = process_of(name)
            if kind == "connector":
                await self._ensure_venue()
            of_shard = ["--shard", shard] if shard != "0" else []
            arguments = ["run", kind, *of_shard, *(self._connect if kind == "connector" else ())]
            await self.supervisor.start(name, arguments, vital=kind != "gateway")  # capture goes on without one
            if kind == "connector" and ("secmaster" not in children or children["secmaster"].stopping):
                simulated = self._venue.simulate is not None
                await self.supervisor.start("secmaster", [*secmaster_arguments(self._rest_url, simulated=simulated), *of_shard])
        process = children[name].process
        return {"pid": process.pid if process else 0, "already_ran": kept}

    async def rest_url(self) -> str:
        await self._ensure_venue()
        if not self._rest_url:
            return ""
        host, port = "127.0.0.1", int(self._rest_url.split(":")[2].partition("/")[0])
        for _ in range(_VENUE_TRIES):
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return self._rest_url
            await self._clock.sleep(_VENUE_WAIT_S)
        raise VenueUnavailable(f"the simulated venue does not answer at {self._rest_url}; see sim.log in the data directory")

    async def _ensure_venue(self) -> None:
        if self._venue.simulate is None:
            self._connect = list(self._venue.connect)
        elif "sim" not in self.supervisor.children or self.supervisor.children["sim"].stopping:
            port = free_port()
            await self.supervisor.start("sim", ["sim", "kalshi", "--no-auth", "--port", str(port), *self._venue.simulate], keyless=True)
            self._rest_url = f"http://127.0.0.1:{port}/trade-api/v2"
            urls = ["--ws-url", f"ws://127.0.0.1:{port}/trade-api/ws/v2", "--rest-url", self._rest_url]
            self._connect = [*self._venue.connect, *urls]

    async def stop(self, *names: str) -> list[str]:
        """Stop those of them that run, in this order; their names."""
        stopped = [name for name in names if self.running(name)]
        await self.supervisor.stop(*names)
        return stopped

    async def close(self) -> None:
        """Stop everything, the connectors first."""
        order = ["gateway", "connector", "secmaster", "sim", "projector", "archiver"]
        await self.stop(*sorted(self.supervisor.children, key=lambda name: order.index(process_of(name)[0])))
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self._happened.join()
        self._journalling.cancel()
        await asyncio.wait([self._journalling])

    def _note(self, name: str, what: str, pid: int, status: int | None) -> None:
        self._frame += 1
        now_ns = self._clock.wall_ns()
        detail: dict[str, object] = {"process": name, "what": what, "pid": pid}
        if status is not None:
            detail["status"] = status
        body = Event(TYPE, canonical_json(detail), self._who, what)
        entry = Entry(
            body, _FEED, name, self._epoch, self._frame, now_ns, self._clock.mono_ns(), now_ns, self._rule.day_of(now_ns)
        )  # fmt: skip
        with suppress(asyncio.QueueFull):
            self._happened.put_nowait(entry)

    async def _journal_all(self) -> None:
        made = False
        while True:
            entry = await self._happened.get()
            while True:
                try:
                    if not made:
                        await self._journal.ensure(self._stream)
                        made = True
                    await self._journal.append(self._stream, [entry])
                    break
                except StoreError:
                    await self._clock.sleep(1.0)
            self._happened.task_done()


def venue_of(
    settings: Settings, clock: Clock, *, recording: str | None = None, speed: str = "1", seed: int = 1, sim_options: str = ""
) -> Venue:
    """What is captured: what the environment says, the arguments being of a simulated venue. Raises `CallerError`."""
    import shlex

    from ssmd import venues

    today = Calendar(settings.environment.schedule).today(clock.wall_ns())
    feed, _ = venues.feed_in_force(settings, settings.feed, today)
    venues.adapter_of(feed.venue)
    if settings.environment.venue.type == "live" and recording is None:
        venues.access(settings, settings.feed, today)  # what is wrong with a key is better said before anything starts
        return Venue(None)
    try:
        more = shlex.split(sim_options)
    except ValueError as error:
        raise CallerError(f"--sim-options: {error}; write them as in a shell") from None
    return Venue(["--speed", speed, "--seed", str(seed), *recording_option(recording), *more])
