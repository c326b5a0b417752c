"""A WebSocket client that costs little: it trusts the server's frames, and what many are sent alike is decoded once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import msgspec

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_WINDOW = 8_192  # bytes that the kernel and the reader take each before the client has asked for them


class Refused(ConnectionError):
    """The handshake was answered by something else, or the server has closed the stream: by what it said."""


@lru_cache(4_096)
def _decoded(data: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(data)
    return found


class Bare:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""

    async def send(self, message: dict[str, Any]) -> None:
        self._write(_TEXT, msgspec.json.encode(message))
        await self._writer.drain()

    def _write(self, opcode: int, data: bytes) -> None:
        length = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        self._writer.write(bytes((0x80 | opcode,)) + length + bytes(4) + data)

    async def receive(self) -> list[dict[str, Any]]:
        """The messages of the frames that have come; waits for one. They are shared: leave them as they are."""
        messages: list[dict[str, Any]] = []
        while not messages:
            data = await self._reader.read(1 << 18)
            if not data:
                raise Refused("cut off")
            messages = self._take(self._rest + data)
        return messages

    def _take(self, data: bytes) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        at = 0
        while at + 2 <= len(data):
            begin, length = at + 2, data[at + 1]
            if length >= 126:
                begin += 2 if length == 126 else 8
                length = int.from_bytes(data[at + 2 : begin], "big")
            if begin + length > len(data):
                break
            assert data[at] & 0x80, "a fragment"
            opcode, payload, at = data[at] & 15, data[begin : begin + length], begin + length
            if opcode == _TEXT:
                messages += _decoded(payload)
            elif opcode == _PING:
                self._write(_PONG, payload)
            elif opcode == _CLOSE:
                raise Refused(f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}")
        self._rest = data[at:]
        return messages


@asynccontextmanager
async def bare(port: int, query: str) -> AsyncIterator[Bare]:
    """A stream of the gateway on this machine. Raises `OSError`, and `Refused`, which is one."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=_WINDOW)
        try:
            writer.write(
                f"GET /v1/stream?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                raise Refused("cut off in the handshake") from None
            if not head.startswith(b"HTTP/1.1 101"):
                raise Refused(head.partition(b"\r\n")[0].decode())
            yield Bare(reader, writer)
        finally:
            writer.transport.abort()
