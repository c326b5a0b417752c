"""Processes of the gateway's benchmark: ``python -m tests.bench.gateway_parts source|plain|load JSON``.

`source` writes prepared entries into the journal, `plain` is a broadcast as one would write it with websockets, `load` is clients on raw
sockets: most count frames and bytes, some parse all that they get and tell how old it is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection, broadcast, serve

from journal.clock import WallClock
from journal.codec import decode
from journal.entry import Book, Change, Delta, Entry, Trade
from journal.jetstream import JetStreamJournal
from journal.subjects import Stream
from ssmd.gateway.hub import FLUSH_S
from ssmd.gateway.message import BookData, amount, encode, when
from tests.journal.servers import TOKEN

STREAM = Stream("local", shard="0")
SYMBOLS = 1_000
DAY = 20261122
LEVELS = 20
_TICK_S = 0.005
_BATCH = 500
_PREPARED = 50_000
_QUIET_S = 0.5
_ACK = struct.Struct("<qq")
_FIRST = 1_000_000  # number of the first of them: those of books are before


def name(number: int) -> str:
    return f"KXMARKET{number % 40:02d}-26NOV22-B{number:05d}"


def entry(body: Any, symbol: str, number: int, epoch: bytes) -> Entry:
    now = time.time_ns()
    return Entry(body, "kalshi", symbol, epoch, number, now, 0, now, DAY, now - 5_000_000, 0, 1, 0, 1, -6, -2)


def opened(count: int, epoch: bytes) -> Iterator[Entry]:
    """Books so large that no delta of `prepared` empties a level."""
    levels = tuple(Change((40 + n) * 10_000, 10**9, int(n >= LEVELS // 2), 1) for n in range(LEVELS))
    for number in range(count):
        yield entry(Book(levels), name(number), number, epoch)


def prepared(symbols: int) -> list[tuple[Any, str]]:
    """Nine changes of a level to one trade."""
    rng, found = random.Random(1), list[tuple[Any, str]]()
    for number in range(_PREPARED):
        at, size = rng.randrange(LEVELS), rng.choice((-1, 1)) * rng.randrange(1, 9_000)
        body: Any = Delta((Change((40 + at) * 10_000, size, int(at >= LEVELS // 2), 0),))
        if number % 10 == 0:
            body = Trade((40 + at) * 10_000, abs(size), 0, 2, "")
        found.append((body, name(rng.randrange(symbols))))
    return found


def run_of(ready: list[tuple[Any, str]], start: int, count: int, epoch: bytes) -> list[Entry]:
    """The next entries, made now; every trade has an id of its own."""
    found = []
    for number in range(start, start + count):
        body, symbol = ready[number % len(ready)]
        if isinstance(body, Trade):
            body = Trade(body.price, body.size, body.aggressor, body.block, f"t{number}")
        found.append(entry(body, symbol, _FIRST + number, epoch))
    return found


async def connect(url: str) -> JetStreamJournal:
    return await JetStreamJournal.connect(url, WallClock(), token=TOKEN)


async def source(*, url: str, acks: str) -> None:
    """Each line on stdin is a rate from then on, answered by the number of entries written so far. `acks`: a file for the last sequence
    of each append and when it was known to be durable.
    """
    durable = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    journal, epoch, ready = await connect(url), os.urandom(16), prepared(SYMBOLS)
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    written, rate, due, asked = 0, 0.0, 0.0, asyncio.create_task(lines.readline())
    begun = list(opened(SYMBOLS, epoch))
    for at in range(0, SYMBOLS, _BATCH):
        await journal.append(STREAM, begun[at : at + _BATCH])
    before = loop.time()
    while True:
        if asked.done():
            if not (line := asked.result()):
                break
            rate, due, asked = float(line), 0.0, asyncio.create_task(lines.readline())
            print(written, flush=True)
        now = loop.time()
        due, before = min(due + (now - before) * rate, rate / 10), now  # what could not be written in 0.1 s is left out
        if count := min(int(due), _BATCH):
            sequences = await journal.append(STREAM, run_of(ready, written, count, epoch))
            os.write(durable, _ACK.pack(sequences[-1], time.time_ns()))
            written, due = written + count, due - count
        if due < 1:
            await asyncio.sleep(_TICK_S)
        else:
            await asyncio.sleep(0)
    await journal.close()
    os.close(durable)


# --- the plain way ----------------------------------------------------------------------------------------------------------


async def plain(*, url: str) -> None:
    """Entries of the journal as JSON like the gateway's, to who chose the symbol, each 5 ms. Nothing is folded, kept or bounded."""
    journal = await connect(url)
    everyone: set[ServerConnection] = set()
    chosen: dict[str, set[ServerConnection]] = {}

    async def accept(connection: ServerConnection) -> None:
        assert connection.request is not None
        [symbols] = parse_qs(urlsplit(connection.request.path).query)["symbols"]
        of = [everyone] if symbols == "*" else [chosen.setdefault(symbol, set()) for symbol in symbols.split(",")]
        for group in of:
            group.add(connection)
        await connection.wait_closed()
        for group in of:
            group.discard(connection)

    waiting: list[tuple[str, str]] = []

    async def flush() -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            taken = waiting.copy()
            waiting.clear()
            if taken and everyone:
                broadcast(everyone, "[" + ",".join(text for _, text in taken) + "]")
            each: dict[ServerConnection, list[str]] = {}
            for symbol, text in taken:
                for connection in chosen.get(symbol, ()):
                    each.setdefault(connection, []).append(text)
            for connection, texts in each.items():
                broadcast((connection,), "[" + ",".join(texts) + "]")

    async with serve(accept, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(f"serving http://127.0.0.1:{server.sockets[0].getsockname()[1]}, ready", file=sys.stderr, flush=True)
        flushing = asyncio.create_task(flush())
        info = await journal.info(STREAM)
        async for records in journal.read(STREAM, start=(info.last if info else 0) + 1, follow=True):
            for record in records:
                e, body = record.entry, record.entry.body
                changes: Any = body.changes if isinstance(body, Delta) else [body]
                levels = [(amount(c.price, -6, 2), amount(c.size, -2, 2)) for c in changes]
                said = BookData(
                    kind="delta", symbol=e.symbol, position=f"{STREAM.name}:{record.sequence}", prev_position=f"{STREAM.name}:{e.frame}",
                    state="VALID", bids=levels, asks=[], recv_time=when(e.recv_ns), recv_ns=e.recv_ns, venue_time=when(e.venue_ns),
                    venue_ns=e.venue_ns,
                )  # fmt: skip
                waiting.append((e.symbol, encode(said).decode()))
        flushing.cancel()


# --- clients ----------------------------------------------------------------------------------------------------------------


class _Message(msgspec.Struct):
    kind: str = ""
    recv_ns: int = 0
    position: str = ""


_messages = msgspec.json.Decoder(list[_Message])


class Reader:
    """Takes a server's frames apart. `take` is given each payload, where there is one; else payloads are skipped."""

    def __init__(self, sock: socket.socket, take: Callable[[bytes], None] | None) -> None:
        self.sock = sock
        self._take = take
        self._left = 0
        self._rest = b""
        self.frames = 0
        self.bytes = 0

    def feed(self, data: memoryview) -> None:
        self.bytes += len(data)
        if self._take:
            self._whole(self._rest + bytes(data))
            return
        at = self._left
        if self._rest:
            data = memoryview(self._rest + bytes(data))
            self._rest = b""
        size = len(data)
        while at < size:
            head = _head(data, at)
            if head is None:
                self._rest = bytes(data[at:])
                at = size
                break
            self.frames += 1
            at += sum(head)
        self._left = at - size

    def _whole(self, data: bytes) -> None:
        at = 0
        while (head := _head(data, at)) and at + sum(head) <= len(data):
            begin, size = head
            self.frames += 1
            if data[at] & 15 < 8 and self._take:
                self._take(data[at + begin : at + begin + size])
            at += begin + size
        self._rest = data[at:]


def _head(data: bytes | memoryview, at: int) -> tuple[int, int] | None:
    """Sizes of the header and the payload of the frame at `at`."""
    left = len(data) - at
    if left < 2:
        return None
    size = data[at + 1]
    if size < 126:
        return 2, size
    if size == 126:
        return (4, data[at + 2] << 8 | data[at + 3]) if left >= 4 else None
    return (10, int.from_bytes(data[at + 2 : at + 10], "big")) if left >= 10 else None


def masked(data: bytes) -> bytes:
    """A client's binary frame; its mask is zero."""
    size = len(data)
    return struct.pack("!BBH", 0x82, 0x80 | 126, size) + bytes(4) + data


class Ages:
    """How old messages are when they are parsed."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []  # when, when it was made, its sequence (0: not told)
        self._nats = b""

    def json(self, payload: bytes) -> None:
        now = time.time_ns()
        for message in _messages.decode(payload):
            if message.recv_ns and message.kind != "snapshot":
                self.seen.append((now, message.recv_ns, int(message.position.rpartition(":")[2])))

    def nats(self, payload: bytes) -> None:
        """Entries in nats-server's protocol: ``HMSG subject sid header total``."""
        now, data, at = time.time_ns(), self._nats + payload, 0
        while (end := data.find(b"\r\n", at)) >= 0:
            words = data[at:end].split()
            if words and words[0] in {b"HMSG", b"MSG"}:
                head, total = int(words[-2]) if words[0] == b"HMSG" else 0, int(words[-1])
                if len(data) < end + 4 + total:
                    break
                self.seen.append((now, decode(data[end + 2 + head : end + 2 + total]).recv_ns, 0))
                end += 2 + total
            at = end + 2
        self._nats = data[at:]

    def quantiles(self, acks: Path) -> dict[str, float]:
        """In ms, since they were made and (``durable``) since the journal had said that they are durable; it may be read before."""
        pairs = list(_ACK.iter_unpack(acks.read_bytes()))
        lasts = [last for last, _ in pairs]
        durable = [now - pairs[bisect_left(lasts, at)][1] for now, _, at in self.seen if 0 < at <= lasts[-1]]
        found = {}
        for prefix, ages in (("", [now - made for now, made, _ in self.seen]), ("durable ", durable)):
            ages.sort()
            for q in (0.5, 0.99, 0.999) if ages else ():
                found[f"{prefix}p{q * 100:g}"] = ages[min(int(q * len(ages)), len(ages) - 1)] / 1e6
        return found


def dial(kind: str, port: int, symbols: list[str]) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    path = "/" if kind == "nats" else f"/v1/stream?symbols={','.join(symbols)}&channels=book,trade"
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        got = sock.recv(1)
        answer += got
        if not got:
            break
    if not answer.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(answer + sock.recv(1_000))
    if kind == "nats":
        options = {"auth_token": TOKEN, "verbose": False, "pedantic": False, "headers": True, "protocol": 1, "lang": "raw", "version": "0"}
        chosen = ["local.kalshi.>"] if symbols == ["*"] else [f"local.kalshi.*.{symbol}" for symbol in symbols]
        lines = [f"CONNECT {json.dumps(options)}", *(f"SUB {subject} {n}" for n, subject in enumerate(chosen))]
        sock.sendall(masked("".join(f"{line}\r\n" for line in lines).encode()))
    sock.setblocking(False)
    return sock


def load(*, kind: str, port: int, clients: int, each: int, parsing: int, stopped: int, warm_s: float, seconds: float, acks: str) -> None:
    """`each`: symbols of one client, 0 for all. Says when all have what there is, when the window begins, and what was seen in it."""
    rng, ages, found = random.Random(2), Ages(), list[Reader]()
    poll = selectors.DefaultSelector()
    still = [dial(kind, port, ["*"]) for _ in range(stopped)]
    for number in range(clients):
        sock = dial(kind, port, [name(n) for n in rng.sample(range(SYMBOLS), each)] if each else ["*"])
        own = Ages() if kind == "nats" else ages
        own.seen = ages.seen  # each has bytes of its own that are not whole yet
        take = None if number >= parsing else own.nats if kind == "nats" else own.json
        found.append(Reader(sock, take))
        poll.register(sock, selectors.EVENT_READ, found[-1])
    room = memoryview(bytearray(1 << 20))
    ended = 0

    def read(until: float, quiet_s: float = 1e9) -> None:
        nonlocal ended
        while (left := until - time.monotonic()) > 0:
            if not (some := poll.select(min(left, quiet_s))) and quiet_s < left:
                break
            for ready, _ in some:
                reader: Reader = ready.data
                if count := reader.sock.recv_into(room):
                    reader.feed(room[:count])
                else:
                    poll.unregister(reader.sock)
                    ended += 1

    read(time.monotonic() + 30, _QUIET_S)
    print("ready", flush=True)
    read(time.monotonic() + warm_s)
    print("begin", flush=True)
    ages.seen.clear()
    counts = [(r.frames, r.bytes) for r in found]
    began, cpu = time.monotonic(), time.process_time()
    read(began + seconds)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    frames, size = (sum(now) for now in zip(*((r.frames - f, r.bytes - b) for r, (f, b) in zip(found, counts, strict=True)), strict=True))
    parsed = sum(r.bytes - b for r, (_, b) in list(zip(found, counts, strict=True))[:parsing])
    deliveries = len(ages.seen) * size / parsed if parsed else 0.0  # the others get messages of the same size
    result = {"frames": frames / took, "bytes": size / took, "deliveries": deliveries / took, "load_cpu": cpu / took}
    print(json.dumps({**result, **ages.quantiles(Path(acks)), "ended": ended, "stopped": len(still)}), flush=True)


if __name__ == "__main__":
    stage, given = sys.argv[1], json.loads(sys.argv[2])
    if stage == "load":
        load(**given)
    else:
        asyncio.run(source(**given) if stage == "source" else plain(**given))
