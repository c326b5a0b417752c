"""Temporal's own servers for tests, on 127.0.0.1: a real one, which keeps what it has when it is killed, and one that skips time."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

from tests.tools import Served, started

BIN = Path(sys.prefix) / "bin"
SKIPPING = BIN / "temporal-test-server"


class DevServer(Served):
    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        argv: list[str | Path] = [
            BIN / "temporal", "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port), "--log-level", "error",
            "--db-filename", self.directory / "temporal.db",
        ]  # fmt: skip
        self.launch(argv, {"HOME": str(self.directory)}, self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


def dev_server(directory: Path) -> contextlib.AbstractContextManager[DevServer]:
    return started(DevServer(directory))
