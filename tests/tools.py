"""Servers and programs that tests use, each in a virtual environment of its own: they pin what we do not, or are large."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from tests.journal.servers import free_port

_START_S = 30


def environment(name: str) -> Path:
    """The ``bin`` of tool `name`, installed as ``servers/NAME.lock`` says unless it is. Raises CalledProcessError when that fails."""
    lock = Path(__file__).parent / "servers" / f"{name}.lock"
    home = Path(sys.prefix) / "tools" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    stamp, wanted = home / ".installed", sha256(lock.read_bytes()).hexdigest()
    with (home.parent / f"{name}.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            python = home / "bin" / "python"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
            uv = Path(sys.prefix) / "bin" / "uv"
            sync: list[str | Path] = [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock]
            # As in the Makefile: the second try trusts the machine's own certificates too.
            if subprocess.run(sync, check=False, capture_output=True).returncode:
                subprocess.run([*sync, "--system-certs"], check=True)
            stamp.write_text(wanted)
    return home / "bin"


class Served:
    """A server of another program on a free port of 127.0.0.1. Killed, it may be started again on what it has kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        raise NotImplementedError

    def launch(self, argv: Sequence[str | Path], environ: dict[str, str], is_ready: Callable[[], bool]) -> None:
        """Returns when it is ready. Raises RuntimeError with the end of its log when it will not be."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(
                argv, env={"PATH": os.environ["PATH"], **environ}, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start: {path.read_text()[-2000:]}")
            time.sleep(0.02)

    def hang(self) -> None:
        """From now on it takes connections and answers nothing, until `go_on`."""
        assert self._process
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, its children included."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


_S = TypeVar("_S", bound=Served)


@contextmanager
def started(server: _S) -> Iterator[_S]:
    """While the block runs."""
    try:
        server.start()
        yield server
    finally:
        server.kill()
