"""Frames that are deflated once for all who agreed to it, and deflated ones of clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from ssmd.gateway.message import text_frames
from ssmd.gateway.server import Gateway
from tests.gateway.follower import Follower
from tests.gateway.rig import (
    History,
    Market,
    client_of,
    journal_of,
    messages,
    next_of,
    send,
    settings_of,
    stream_url,
    until,
    write,
)
from tests.journal.servers import nats_server

Body = Callable[[Gateway, JetStreamJournal, Market], Awaitable[None]]
_EMPTY = b"\x00\x00\xff\xff"


def deflating(tmp_path: Path, body: Body) -> None:
    """Run `body` with a gateway that deflates."""

    async def run() -> None:
        with nats_server(tmp_path) as server:
            settings = settings_of(server, tmp_path)
            spec = settings.environment.gateway.model_copy(update={"compression": True})
            settings = replace(settings, environment=settings.environment.model_copy(update={"gateway": spec}))
            gateway = Gateway(settings, WallClock(), port=0)
            async with journal_of(server) as journal:
                market = Market(random.Random(5), 4)
                await write(journal, market, 200)
                running = asyncio.create_task(gateway.run())
                await until(lambda: running.done() or gateway.status.startswith("serving"), "the gateway is ready")
                try:
                    await asyncio.wait_for(body(gateway, journal, market), 120)
                finally:
                    gateway.stop()
                    await asyncio.wait_for(running, 20)

    asyncio.run(run())


def handshake(port: int, offer: str, path: str = "/v1/stream") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"
    ).encode()


def inflated(data: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(data + _EMPTY)


async def same_as_plain(gateway: Gateway, journal: JetStreamJournal, market: Market) -> None:
    """A client that inflates and one that does not are sent the same messages, one of them in fewer bytes."""
    url = stream_url(gateway.port, "symbols=*&channels=book,trade")
    async with connect(url, max_size=4 << 20) as packed, client_of(gateway.port, "symbols=*&channels=book,trade") as plain:
        assert [e.name for e in packed.protocol.extensions] == ["permessage-deflate"]
        assert plain.protocol.extensions == []
        followers = Follower(), Follower()
        await write(journal, market, 2_000, per_s=4_000)
        end = (await History.read(journal)).end
        await until(lambda: gateway.views.shards[0].position >= end, "all of it is folded")
        await asyncio.sleep(0.5)
        for follower, ws in zip(followers, (packed, plain), strict=True):
            await send(ws, op="ping")
            while not follower.seen["pong"]:
                for message in await messages(ws):
                    follower.receive(message)
    assert followers[0].books == followers[1].books
    assert followers[0].trades == followers[1].trades
    assert followers[0].deltas > 500


async def same_bytes(gateway: Gateway, journal: JetStreamJournal, market: Market) -> None:
    """Two who agreed to it get the same bytes, and what a frame says needs no other frame."""
    raw = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(handshake(gateway.port, "permessage-deflate", "/v1/stream?symbols=*&channels=trade"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert "permessage-deflate; server_no_context_takeover; client_no_context_takeover" in head
        raw.append((reader, writer))
    await asyncio.sleep(0.2)
    await write(journal, market, 400)
    sent = []
    for reader, writer in raw:
        frames: list[bytes] = []
        while not any(b'"trade"' in frame for frame in frames) or len(frames) < 3:
            first, size = await reader.readexactly(2)
            size = int.from_bytes(await reader.readexactly({126: 2, 127: 8}[size])) if size > 125 else size
            data = await reader.readexactly(size)
            frames.append(inflated(data) if first & 0x40 else data)
            if first & 0x40:
                sent.append((writer, data))
        writer.close()
    one, two = ({data for writer, data in sent if writer is mine} for _, mine in raw)
    assert one & two


async def narrow_windows(gateway: Gateway, journal: JetStreamJournal, market: Market) -> None:
    """Who cannot inflate what all others get is sent plain frames."""
    del journal, market
    factory = ClientPerMessageDeflateFactory(server_max_window_bits=9)
    async with connect(stream_url(gateway.port), extensions=[factory], compression=None) as ws:
        assert ws.protocol.extensions == []
        assert (await next_of(ws, "welcome"))["env"] == "local"


async def bombs(gateway: Gateway, journal: JetStreamJournal, market: Market) -> None:
    """50 MB in 49 KB: inflated up to the size of a message, then the connection is closed; also in fragments."""
    del journal, market
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(packed) < 60_000
    masked = bytes(4)
    frames = {
        "whole": bytes((0xC1, 0xFE)) + len(packed).to_bytes(2) + masked + packed,
        "fragments": bytes((0x41, 0xFE)) + (1_000).to_bytes(2) + masked + packed[:1_000]
        + bytes((0x80, 0xFE)) + (1_000).to_bytes(2) + masked + packed[1_000:2_000],
        "noise": bytes((0xC1, 0xFE)) + (300).to_bytes(2) + masked + b"\xff" * 300,
    }  # fmt: skip
    for name, frame in frames.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(handshake(gateway.port, "permessage-deflate"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame)
        rest = await asyncio.wait_for(reader.read(), 20)
        assert (1002 if name == "noise" else 1009).to_bytes(2) in rest, name
        writer.close()
    async with connect(stream_url(gateway.port)) as ws:
        await ws.send(json.dumps({"op": "ping", "id": "x" * 2_000_000}))
        with pytest.raises(ConnectionClosed) as closed:
            await drained(ws)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1009
    async with connect(stream_url(gateway.port)) as ws:
        await send(ws, op="ping", id="deflated")
        assert (await next_of(ws, "pong"))["id"] == "deflated"


async def floods(gateway: Gateway, journal: JetStreamJournal, market: Market) -> None:
    """What is cheap to send and large when inflated, again and again, whole and in fragments without end: cut off as plain floods are."""
    del journal, market

    def packed(text: bytes) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def frame(first: int, data: bytes) -> bytes:
        size = bytes((0x80 | len(data),)) if len(data) < 126 else bytes((0xFE,)) + len(data).to_bytes(2)
        return bytes((first,)) + size + bytes(4) + data

    ping, large = packed(b'{"op":"ping"}'), packed(b'{"op":"ping","id":"' + b"x" * 64_000 + b'"}')
    assert len(large) < 200
    attacks = {
        "small": frame(0xC1, ping) * 30_000,
        "large": frame(0xC1, large) * 30_000,
        "fragments": frame(0x41, ping[:3]) + frame(0x00, b"") * 30_000,
        "one after the other": frame(0x41, large[:90]) + frame(0x00, bytes(90)) * 3_000,
    }
    async with connect(stream_url(gateway.port)) as honest:
        for name, flood in attacks.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(handshake(gateway.port, "permessage-deflate"))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(flood)
            await send(honest, op="ping", id=name)
            while (await next_of(honest, "pong"))["id"] != name:
                pass
            said = b""
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(reader.read(1 << 20), 30):
                    said += data
            assert said.count(b'"pong"') <= 200, name
            writer.close()


async def drained(ws: ClientConnection) -> None:
    while True:
        await ws.recv()


@pytest.mark.parametrize("body", [same_as_plain, same_bytes, narrow_windows, bombs, floods], ids=lambda body: body.__name__)
def test_deflated(tmp_path: Path, body: Body) -> None:
    deflating(tmp_path, body)


def test_a_deflated_frame_is_smaller_and_says_the_same() -> None:
    said = [json.dumps({"type": "book", "symbol": "KXA-1", "position": f"local_md_0:{n}"}).encode() for n in range(200)]
    [plain], [packed] = text_frames(said), text_frames(said, deflated=True)
    assert len(packed) * 4 < len(plain)
    assert inflated(packed[4:]) == plain[4:]
    assert text_frames([b"{}"], deflated=True) == text_frames([b"{}"]), "what is short is left as it is"
