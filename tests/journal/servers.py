"""A plain nats-server for tests (no guard), and a proxy that loses what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from journal.guard import binary

TOKEN = "a-token-of-the-tests"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """Start, kill, start again: same port, same store."""

    def __init__(self, directory: Path, *, jetstream: bool = True, extra: str = "", access: str = f'token: "{TOKEN}"') -> None:
        self.port = free_port()
        self._config = directory / "nats.conf"
        self._log = directory / "nats.log"
        store = (
            f'jetstream {{ store_dir: "{directory / "store"}", sync_interval: always, max_file_store: {1 << 50} }}\n' if jetstream else ""
        )
        self._config.write_text(f'listen: "127.0.0.1:{self.port}"\nauthorization {{ {access} }}\n{store}{extra}\n')
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([binary(), "-c", str(self._config)], stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                if probe.recv(5) == b"INFO ":
                    return
            time.sleep(0.02)
        raise RuntimeError(self._log.read_text())

    def stop(self, sig: signal.Signals = signal.SIGKILL) -> None:
        if self._process:
            self._process.send_signal(sig)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def nats_server(directory: Path, **more: Any) -> Iterator[NatsServer]:
    server = NatsServer(directory, **more)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Proxy:
    """TCP in front of a server. `lose` looks at what the server sends; when it says so the connection is cut instead, once."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.lose: Callable[[bytes], bool] | None = None
        self.swallow: Callable[[bytes], bool] | None = None
        self.cut_up: Callable[[bytes], bytes | None] | None = None  # what to pass on of what a client sends, before the cut; None: all
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, up_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._up(reader, up_writer), self._down(up_reader, writer))
        for end in (writer, up_writer):
            end.close()
        self._writers -= {writer, up_writer}

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            if self.cut_up and (passed := self.cut_up(data)) is not None:
                self.cut_up = None
                self.cuts += 1
                writer.write(passed)
                await writer.drain()
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            if self.lose and self.lose(data):
                self.lose = None
                self.cuts += 1
                raise ConnectionResetError
            if self.swallow and self.swallow(data):
                self.swallow = None
                self.cuts += 1
                continue
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
