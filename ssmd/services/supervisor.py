"""Keeps a set of ssmd processes running: starts them, restarts the ones that die, stops them in order.

Each child is its own process group, so that Ctrl-C reaches the supervisor only and the children are stopped in order. A child that exits
with status 2 could not run at all (a refused key, a bad option): restarting would not help, so that ends the run, unless others can do
without it: it is tried again then, for what it lacks (a port that is taken) may come.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from journal.clock import Clock
from journal.embedded import PASSED
from journal.errors import CallerError, SsmdError
from ssmd.clock import VARIABLE

_RESTART_FIRST_S, _RESTART_MOST_S = 0.2, 5.0
_STOP_S = 20.0  # a connector flushes up to 64 MiB, a projector writes its snapshots
_TAIL_BYTES = 4_000
_KEYLESS = {*PASSED, "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "SSMD_PARENT", "SSMD_DEBUG", VARIABLE}


class ChildFailed(CallerError):
    """A process could not run; the message holds the end of what it wrote."""


@dataclass
class Child:
    name: str
    args: Sequence[str]
    process: asyncio.subprocess.Process | None = None
    keyless: bool = False
    vital: bool = True
    restarts: int = 0
    stopping: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Children by name, in the order they were added. `failed` completes with the error that ended the run.

    `told` is called with a child's name, what happened to it (started, crashed, stopped), its pid and its exit status, if it has one.
    """

    def __init__(
        self, clock: Clock, logs: Path, env: dict[str, str], told: Callable[[str, str, int, int | None], object] | None = None
    ) -> None:
        self._clock = clock
        self._logs = logs
        self._env = {**os.environ, **env, "SSMD_PARENT": str(os.getpid())}
        self._told = told or (lambda *_: None)
        self.children: dict[str, Child] = {}
        self.failed: asyncio.Future[SsmdError] = asyncio.get_running_loop().create_future()

    async def start(self, name: str, args: Sequence[str], *, keyless: bool = False, vital: bool = True) -> Child:
        """Start ``ssmd ARGS`` and keep it running until `stop`. A `keyless` one gets none of our variables that may be secrets.

        One that is not `vital` never ends the run.
        """
        child = Child(name, args, keyless=keyless, vital=vital)
        self.children[name] = child
        self._logs.mkdir(parents=True, exist_ok=True)
        self.log(name).write_bytes(b"")  # of this run only
        await self._spawn(child)
        child.task = asyncio.create_task(self._keep(child), name=f"keep {name}")
        return child

    def log(self, name: str) -> Path:
        """Where the child's stdout and stderr go."""
        return self._logs / f"{name}.log"

    async def kill(self, name: str) -> int:
        """SIGKILL the child, which is then restarted; the pid that was killed."""
        process = self.children[name].process
        if process is None or process.returncode is not None:
            raise ChildFailed(f"{name} is not running")
        process.kill()
        return process.pid

    async def stop(self, *names: str) -> None:
        """Stop the named children (all, last first, by default), politely, then with SIGKILL after 20 s."""
        for name in names or tuple(reversed(self.children)):
            child = self.children.get(name)
            if child is None or child.stopping:
                continue
            child.stopping = True
            process = child.process
            if process and process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), _STOP_S)
                except TimeoutError:
                    process.kill()
                    await process.wait()
                self._told(name, "stopped", process.pid, process.returncode)
            if child.task:
                child.task.cancel()
                await asyncio.wait([child.task])

    async def _spawn(self, child: Child) -> None:
        with self.log(child.name).open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ssmd.cli", *child.args,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={n: v for n, v in self._env.items() if n in _KEYLESS} if child.keyless else self._env,
            )  # fmt: skip
        self._told(child.name, "started", child.process.pid, None)

    async def _keep(self, child: Child) -> None:
        delay = _RESTART_FIRST_S
        while child.process:
            started = self._clock.mono_ns()
            status = await child.process.wait()
            if child.stopping:
                return
            self._told(child.name, "crashed", child.process.pid, status)
            if status == 2 and child.vital:
                if not self.failed.done():
                    self.failed.set_result(ChildFailed(f"{child.name} could not run:\n{self._tail(child.name)}"))
                return
            if self._clock.mono_ns() - started > 10 * 10**9:
                delay = _RESTART_FIRST_S
            await self._clock.sleep(delay)
            delay = min(delay * 2, _RESTART_MOST_S)
            child.restarts += 1
            await self._spawn(child)

    def _tail(self, name: str) -> str:
        text = self.log(name).read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        return "\n".join(text.splitlines()[-8:])


def follow_parent() -> None:
    """End this process when the supervisor that started it dies, however it dies. Does nothing without a supervisor.

    Linux tells us (PR_SET_PDEATHSIG); elsewhere a child of a SIGKILLed supervisor goes on until it is stopped by hand.
    """
    parent = os.environ.get("SSMD_PARENT")
    if not parent or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)
