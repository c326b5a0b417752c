"""Everything on one machine: the processes of `ssmd up`, their order of starting and stopping, and their live table."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from journal.clock import Clock
from journal.errors import CallerError
from journal.protocols import Journal
from journal.subjects import Stream
from ssmd.live import LiveView
from ssmd.locks import archiver_lock, held
from ssmd.services.archiver import Archiver
from ssmd.services.projector import Projector
from ssmd.services.supervisor import Supervisor
from ssmd.settings import Settings
from ssmd.software import software
from ssmd.wiring import open_objects

_FRAMES_PER_SECOND = 4
_SAID_BYTES = 2_000  # of the connector's log: more than its last line
_LINE_S = 2.0  # between lines where there is no terminal


@dataclass(frozen=True, slots=True)
class Venue:
    """Where the connector connects: a simulator to start (`simulate` holds its options) or the venue itself (`connect`).

    `rest_url`: of the venue itself, where the environment does not say.
    """

    simulate: Sequence[str] | None
    connect: Sequence[str] = ()
    rest_url: str = ""


def secmaster_arguments(rest_url: str, *, simulated: bool) -> list[str]:
    """Of the security master's service. A simulated venue is asked more often: it costs nothing, and may run faster than the clock."""
    return ["run", "secmaster", *(["--rest-url", rest_url] if rest_url else []), *(["--every", "1m"] if simulated else [])]


class LocalRun:
    """Start with `start`, watch with `watch`, end with `finish`."""

    def __init__(self, settings: Settings, clock: Clock, journal: Journal, console: Console) -> None:
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._console = console
        self.stream = Stream(settings.env, shard="0")
        self.view = LiveView(journal, self.stream, clock, settings.feed)
        self.supervisor = Supervisor(clock, settings.data_dir / "logs", settings.environ())

    async def start(self, venue: Venue, gateway: int | None = None) -> None:
        """The archiver and the projector first, so that nothing waits for them; then the venue, if simulated; then the connector.

        The security master's service comes behind it, which has what it needs without it. `gateway`: its port, where one was asked for.
        """
        await self.supervisor.start("projector", ["run", "projector"])
        await self.supervisor.start("archiver", ["run", "archiver"])
        connect, rest_url = list(venue.connect), venue.rest_url
        if venue.simulate is not None:
            port = free_port()
            await self.supervisor.start("sim", ["sim", "kalshi", "--no-auth", "--port", str(port), *venue.simulate], keyless=True)
            rest_url = f"http://127.0.0.1:{port}/trade-api/v2"
            connect += ["--ws-url", f"ws://127.0.0.1:{port}/trade-api/ws/v2", "--rest-url", rest_url]
        await self.supervisor.start("connector", ["run", "connector", *connect])
        await self.supervisor.start("secmaster", secmaster_arguments(rest_url, simulated=venue.simulate is not None))
        if gateway or self._settings.environment.gateway.enabled:
            await self.supervisor.start("gateway", ["run", "gateway", *(["--port", str(gateway)] if gateway else [])])

    async def watch(self, seconds: float | None, events: Sequence[tuple[float, Callable[[], Awaitable[object]]]] = ()) -> None:
        """Show the table for `seconds` (None: until cancelled), doing each event at its second. Raises what ended a process for good."""
        follow = asyncio.create_task(self.view.run())
        started = self._clock.mono_ns()
        left = sorted(events, key=lambda event: event[0])
        try:
            with self._live() as show:
                while seconds is None or (self._clock.mono_ns() - started) / 1e9 < seconds:
                    await self._clock.sleep(1 / _FRAMES_PER_SECOND)
                    elapsed = (self._clock.mono_ns() - started) / 1e9
                    while left and left[0][0] <= elapsed:
                        await left.pop(0)[1]()
                    show(elapsed)
                    if self.supervisor.failed.done():
                        raise self.supervisor.failed.result()
                    if follow.done():
                        follow.result()
        finally:
            follow.cancel()
            await asyncio.wait([follow])

    async def finish(self) -> None:
        """Stop everything, the connector first; then fold and archive what its readers had not yet."""
        await self.supervisor.stop("gateway", "connector", "secmaster", "sim", "projector", "archiver")
        storage = open_objects(self._settings)
        await Projector(self._journal, storage, self.stream, self._clock).catch_up()
        lock = archiver_lock(self._settings.data_dir, self._settings.env)
        async with held(lock, self._clock, waiting=lambda: self._console.print("another archiver or an import is at work; waiting")):
            await Archiver(self._journal, storage, self._settings.env, self._clock, software=software()).catch_up()

    @contextlib.contextmanager
    def _live(self) -> Iterator[Callable[[float], None]]:
        """What to call with the seconds gone by to show where things are."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=False) as live:
                yield lambda _elapsed: live.update(self.view.render(self._below(), width=self._console.width), refresh=True)
            return
        told = [0.0]

        def show(elapsed: float) -> None:
            if elapsed - told[0] >= _LINE_S:
                told[0] = elapsed
                trouble = self._trouble()
                self._console.print(
                    f"{elapsed:5.0f} s  {self.view.line()}{f'; {trouble}' if trouble else ''}", markup=False, soft_wrap=True
                )

        yield show

    def _below(self) -> RenderableType:
        trouble = self._trouble()
        return Group(self._processes(), Text(trouble, style="yellow")) if trouble else self._processes()

    def _trouble(self) -> str:
        """What the connector said last, unless it captures: an address that does not answer is seen here first."""
        try:
            with self.supervisor.log("connector").open("rb") as log:
                log.seek(max(log.seek(0, 2) - _SAID_BYTES, 0))
                said = log.read().decode(errors="replace").strip().rpartition("\n")[2].removeprefix("ssmd: ")
        except OSError:
            return ""
        return "" if said.startswith("capturing") else f"connector: {said}" if said else ""

    def _processes(self) -> Columns:
        return Columns(
            f"[{'green' if c.process and c.process.returncode is None else 'red'}]●[/] {c.name} {c.process.pid if c.process else ''}"
            + (f" [yellow](restarted {c.restarts}x)[/]" if c.restarts else "")
            for c in self.supervisor.children.values()
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def recording_option(path: str | None) -> list[str]:
    """The simulator's options for a recording, absolute because a child may run elsewhere. Raises `CallerError`."""
    if path and not Path(path).exists():
        raise CallerError(f"{path}: no such file or folder; name a recording, or leave it out for a synthetic venue")
    return ["--recording", str(Path(path).absolute())] if path else []


def console() -> Console:
    """Progress and tables for people go to stderr; stdout is for data."""
    return Console(file=sys.stderr)
