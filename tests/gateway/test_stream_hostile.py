"""Clients that mean no good, or do not know better: refused with a clear error, at a bounded cost, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ssmd.gateway.server import Gateway
from tests.gateway.rig import Market, client_of, gateway_of, journal_of, messages, next_of, send, stream_url, write
from tests.journal.servers import nats_server

Attack = Callable[[Gateway], Awaitable[None]]


def attacked(tmp_path: Path, *attacks: Attack) -> None:
    """Run the attacks one after the other; after each, an honest client is served."""

    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await write(journal, Market(random.Random(7), 4), 200)
                async with gateway_of(server, tmp_path) as gateway:
                    for attack in attacks:
                        await asyncio.wait_for(attack(gateway), 60)
                        async with client_of(gateway.port, "symbols=KXA-1&channels=book") as ws:
                            assert (await next_of(ws, "book"))["kind"] == "snapshot"

    asyncio.run(run())


async def refused(ws: ClientConnection, data: str | bytes, text: str) -> None:
    await ws.send(data)
    error = await next_of(ws, "error")
    assert error["code"] == "bad_request"
    assert text in error["message"], error
    assert len(error["message"]) < 2_000


async def closed(ws: ClientConnection) -> tuple[int, str]:
    """With which code and reason, once it is."""
    with pytest.raises(ConnectionClosed) as error:
        await drained(ws)
    close = error.value.rcvd
    return (close.code, close.reason if close.code != 1009 else "") if close else (1006, "")


async def drained(ws: ClientConnection) -> None:
    while True:
        await messages(ws)


async def bad_requests(gateway: Gateway) -> None:
    async with client_of(gateway.port) as ws:
        await refused(ws, "{", "op")
        await refused(ws, "[" * 60_000, "")
        await refused(ws, '{"op":"explode"}', "explode")
        await refused(ws, '{"op":"subscribe","symbols":["A"],"channels":["books"]}', "books")
        await refused(ws, '{"op":"subscribe","symbols":["KXA-1"],"depth":5}', "depth")
        await refused(ws, '{"op":"subscribe"}', "of what")
        await refused(ws, '{"op":"subscribe","symbols":["NOTHING"]}', "NOTHING")
        await refused(ws, '{"op":"subscribe","symbols":["KXA-1"],"resume":"x"}', "stream:sequence")
        await refused(ws, '{"op":"subscribe","symbols":["KXA-1"],"mode":"conflated","interval_ms":0}', "interval_ms")
        await refused(ws, json.dumps({"op": "subscribe", "symbols": ["A" * 300]}), "256")
        await refused(ws, '{"op":"unsubscribe","subscription":"s9"}', "s9")
        await refused(ws, b"\x00\x01", "text frames")
        await refused(ws, '{"op":"ping","id":"' + "x" * 100 + '"}', "64")
        await send(ws, op="ping", id="still here")
        assert (await next_of(ws, "pong"))["id"] == "still here"


async def many_names(gateway: Gateway) -> None:
    async with client_of(gateway.port) as ws:
        await send(ws, op="subscribe", symbols=["KXA-1", *(f"NO-{n}" for n in range(1_500))])
        ack = await next_of(ws, "subscribed")
        assert len(ack["unknown"]) == 1_500
        assert sum(1 for u in ack["unknown"] if u.get("near")) <= 5, "looking for near names is bounded"


async def huge_frame(gateway: Gateway) -> None:
    async with client_of(gateway.port) as ws:
        await ws.send('{"op":"ping","id":"' + "x" * 2_000_000 + '"}')
        assert await closed(ws) == (1009, "")


async def endless_fragments(gateway: Gateway) -> None:
    async with client_of(gateway.port) as ws:
        with suppress(ConnectionClosed):
            await ws.send("x" * 1_000 for _ in range(1_000))
        code, _ = await closed(ws)
        assert code == 1009


async def flood(gateway: Gateway) -> None:
    async with client_of(gateway.port) as ws:
        with suppress(ConnectionClosed):
            for _ in range(3_000):
                await send(ws, op="subscribe", symbols=["*"])
        assert await closed(ws) == (1008, "too many requests")


async def many_subscriptions(gateway: Gateway) -> None:
    limit = gateway.settings.environment.gateway.limits.subscriptions
    async with client_of(gateway.port) as ws:
        for _ in range(limit + 1):
            await send(ws, op="subscribe", symbols=["KXA-1"], channels=["trade"])
            await asyncio.sleep(0.05)
        assert str(limit) in (await next_of(ws, "error"))["message"]


async def bomb(gateway: Gateway) -> None:
    """Compression is not agreed on, whatever is offered; a frame that says it is compressed all the same is a violation."""
    async with connect(stream_url(gateway.port), compression="deflate") as ws:
        assert ws.protocol.extensions == []
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(handshake(gateway.port, "Sec-WebSocket-Extensions: permessage-deflate\r\n"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    assert b"deflate" not in head.lower()
    packed = zlib.compress(bytes(50_000_000))[2:-4]
    writer.write(bytes((0xC1, 0xFE)) + len(packed[:60_000]).to_bytes(2) + bytes(4) + packed[:60_000])
    rest = await reader.read()
    assert (1002).to_bytes(2) in rest
    writer.close()


def handshake(port: int, more: str = "", path: str = "/v1/stream") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    ).encode()


async def wrong_doors(gateway: Gateway) -> None:
    for url, headers, status in (
        (f"ws://127.0.0.1:{gateway.port}/v1/other", {}, 404),
        (stream_url(gateway.port), {"Origin": "https://evil.example"}, 403),
        (stream_url(gateway.port), {"Authorization": "Bearer ssmd_0_0"}, 401),
        (stream_url(gateway.port), {"X-Forwarded-For": "10.0.0.1"}, 401),
        (stream_url(gateway.port, "policy=explode"), {}, 400),
        (stream_url(gateway.port, "symbols=A&channels=books"), {}, 400),
        (stream_url(gateway.port, "&".join(f"a{n}=1" for n in range(40))), {}, 400),
    ):
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(url, additional_headers=headers):
                pass
        response = refusal.value.response
        assert response.status_code == status, (url, headers, response)
        assert response.headers["Content-Type"] == "application/problem+json"
        assert json.loads(response.body or b"")["status"] == status


async def slow_heads(gateway: Gateway) -> None:
    """Connections that send a request byte by byte are closed; a head without end is."""
    drips = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(20)]
    for _, writer in drips:
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: ")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)))
    assert b" 400 " in (await reader.readline())
    writer.close()
    for reader, writer in drips:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def no_pong_needed_to_write(gateway: Gateway) -> None:
    """Pings without end from one that does not read: it is not read from any more, and memory stays bounded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1_024)
    writer.write(handshake(gateway.port))
    await reader.readuntil(b"\r\n\r\n")
    ping = bytes((0x89, 0xFD)) + bytes(4) + bytes(125)
    taken = 0
    with suppress(TimeoutError, ConnectionError):
        for _ in range(400):
            writer.write(ping * 1_000)
            await asyncio.wait_for(writer.drain(), 2)
            taken += 1
    assert taken < 400
    writer.transport.abort()


def test_requests_that_cannot_be(tmp_path: Path) -> None:
    attacked(tmp_path, bad_requests, many_names, many_subscriptions)


def test_too_much(tmp_path: Path) -> None:
    attacked(tmp_path, huge_frame, endless_fragments, flood, bomb, no_pong_needed_to_write)


def test_not_let_in(tmp_path: Path) -> None:
    attacked(tmp_path, wrong_doors, slow_heads)
