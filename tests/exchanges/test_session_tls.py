"""The session over TLS with a CA of the environment, alone and through a proxy of the environment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from exchanges.session import Session, SessionConfig
from journal.clock import WallClock
from journal.errors import VenueRefused, VenueUnavailable
from tests.authority import make_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder)
    return folder


def venue(authority: Path) -> Any:
    async def handler(ws: ServerConnection) -> None:
        await ws.send(f"you said {await ws.recv()!r}")
        await ws.wait_closed()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "venue.pem")
    return serve(handler, "127.0.0.1", 0, ssl=context, close_timeout=0.5)


def port_of(server: Server | asyncio.Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


async def conversation(url: str) -> bytes:
    connection = await Session(SessionConfig(url, close_timeout_s=0.5), WallClock(), random.Random(1)).connect()
    await connection.send(b"hello")
    ((said, _, _),) = await connection.receive()
    await connection.close()
    return said


def test_a_ca_of_the_environment_is_trusted_and_no_other(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with venue(authority) as server:
            with pytest.raises(VenueRefused, match=r"not trusted.*SSL_CERT_FILE"):
                await conversation(f"wss://127.0.0.1:{port_of(server)}/ws")
            monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
            assert await conversation(f"wss://127.0.0.1:{port_of(server)}/ws") == b"you said 'hello'"
            with pytest.raises(VenueRefused, match="not trusted"):  # the name is not in the certificate
                await conversation(f"wss://localhost:{port_of(server)}/ws")

    asyncio.run(main())


def test_a_proxy_of_the_environment_is_used_but_not_to_this_machine(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def main() -> None:
        async with venue(authority) as server:
            port = port_of(server)

            async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = await reader.readuntil(b"\r\n\r\n")
                asked.append(head.split(b"\r\n")[0])
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

            async with await asyncio.start_server(proxy, "127.0.0.1", 0) as door:
                for name in ("https_proxy", "http_proxy"):
                    monkeypatch.setenv(name, f"http://127.0.0.1:{port_of(door)}")
                monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
                assert await conversation("wss://venue.test/ws") == b"you said 'hello'"
                assert asked == [b"CONNECT venue.test:443 HTTP/1.1"]
                assert await conversation(f"wss://127.0.0.1:{port}/ws") == b"you said 'hello'"
                assert len(asked) == 1

    asyncio.run(main())


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def test_a_proxy_that_is_away_or_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(VenueUnavailable, match="cannot connect"):
        asyncio.run(conversation("wss://venue.test/ws"))
    monkeypatch.setenv("https_proxy", "socks5h://127.0.0.1:1")
    with pytest.raises(VenueRefused, match="python-socks"):
        asyncio.run(conversation("wss://venue.test/ws"))
