"""A capture of real processes that can be killed: simulator, connector, projector, archiver, guard, nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from journal.clock import WallClock
from journal.guard import ServerState
from journal.subjects import Stream
from ssmd.settings import Settings
from ssmd.wiring import open_journal

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
QUIET_S = 3
STREAM = Stream("local", shard="0")


class Rig:
    """Start with `start`, kill with `kill`, end with `drain`. Killed services are started again by `keep`."""

    def __init__(
        self, data: Path, *, simulate: list[str], connect: list[str], capture: tuple[str, ...] = ("projector", "archiver")
    ) -> None:
        self.data = data
        self.log = data / "sent.jsonl"
        self._simulate = simulate
        self._connect = connect
        self._readers = capture
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._arguments: dict[str, list[str]] = {}
        self.rest_url = ""
        self.kills: list[tuple[float, str]] = []

    def start(self) -> None:
        for name in self._readers:
            self._begin(name, ["run", name])
        self._begin("sim", ["sim", "kalshi", "--no-auth", "--hold", "-o", "json", "--log", str(self.log), *self._simulate])
        out = self._children["sim"].stdout
        assert out is not None
        ports = json.loads(out.readline())
        self.rest_url = ports["rest_url"]
        self._begin("connector", ["run", "connector", "--ws-url", ports["ws_url"], "--rest-url", ports["rest_url"], *self._connect])

    def _begin(self, name: str, arguments: list[str]) -> None:
        self._arguments[name] = arguments
        with (self.data / f"{name}.log").open("a") as log:
            out = subprocess.PIPE if name == "sim" else log
            argv, env = [sys.executable, "-m", "ssmd.cli", *arguments], {**os.environ, "SSMD_DATA": str(self.data)}
            self._children[name] = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=out, stderr=log, text=True)

    def keep(self) -> None:
        """Start again what was killed. Fails the test for a service that ended by itself."""
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            assert code == -signal.SIGKILL, f"{name} ended with {code}:\n{self.tail(name)}"
            assert name != "sim"
            self._begin(name, self._arguments[name])

    def pid(self, name: str) -> int | None:
        """Of a service, or of the guard or the server; None while there is none."""
        if name in self._children:
            return self._children[name].pid
        try:
            state = msgspec.json.decode((self.data / "server.json").read_bytes(), type=ServerState)
        except (OSError, msgspec.DecodeError):
            return None
        return state.guard.pid if name == "guard" else state.server.pid

    def kill(self, name: str) -> bool:
        """SIGKILL it; False when there is nothing to kill just now."""
        pid = self.pid(name)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills.append((time.time(), name))
        return True

    def torment(self, targets: tuple[str, ...], times: int, seconds: float, seed: int) -> None:
        """Kill each target at `times` random instants within `seconds`."""
        rng = random.Random(seed)
        plan = sorted((rng.uniform(1, seconds), name) for name in targets for _ in range(times))
        start = time.monotonic()
        for at, name in plan:
            while time.monotonic() - start < at:
                time.sleep(0.02)
                self.keep()
            while not self.kill(name):
                time.sleep(0.02)
                self.keep()
                assert time.monotonic() - start < seconds + DEADLINE_S, f"{name} never came back (seed {seed})"

    def status(self) -> dict[str, Any]:
        return self._get("/sim/status")

    def books(self) -> dict[str, Any]:
        return self._get("/sim/books")

    def _get(self, path: str) -> dict[str, Any]:
        root = self.rest_url.partition("/trade-api")[0]
        with urllib.request.urlopen(root + path, timeout=10) as answer:  # noqa: S310  (our own server)
            found: dict[str, Any] = json.load(answer)
        return found

    def wait(self, seconds: float = DEADLINE_S) -> None:
        """Until the feed has ended, and a little longer for what is under way."""
        end = time.monotonic() + seconds
        while not self.status()["finished"]:
            assert time.monotonic() < end, f"the feed did not end within {seconds} s: {self.status()}"
            time.sleep(0.1)
            self.keep()
        asyncio.run(self._quiet())
        self.keep()

    async def _quiet(self) -> None:
        """Until the journal is back, whatever was killed last, and has had what the connector still held."""
        async with open_journal(Settings(data_dir=self.data), WallClock(), read_only=True) as journal:
            last, since = -1, time.monotonic()
            while time.monotonic() - since < QUIET_S:
                info = await journal.info(STREAM)
                if info and info.last != last:
                    last, since = info.last, time.monotonic()
                await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Stop all politely, the connector first. Fails the test for one that does not stop well."""
        for name in ("connector", "sim", *self._readers):
            child = self._children[name]
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=DEADLINE_S)
            assert child.returncode == 0, f"{name} ended with {child.returncode}:\n{self.tail(name)}"

    def tail(self, name: str) -> str:
        return (self.data / f"{name}.log").read_text()[-2_000:]

    def orphans(self) -> list[str]:
        """Command lines of processes that still use the data directory."""
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(self.data) in line:
                    found.append(line)
        return found


@contextlib.contextmanager
def rig(data: Path, **options: Any) -> Iterator[Rig]:
    """A rig whose processes end with the block, whatever happens in it."""
    made = Rig(data, **options)
    try:
        yield made
    finally:
        for child in made._children.values():
            if child.poll() is None:
                child.kill()
                child.communicate()
