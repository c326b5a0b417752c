"""Processes of the gateway's benchmark: ``python -m tests.bench.gateway_parts source|plain JSON``.

`source` writes prepared entries into the journal, `plain` is a broadcast as one would write it with websockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, broadcast, serve

from journal.clock import WallClock
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
ACK = struct.Struct("<qq")
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
            os.write(durable, ACK.pack(sequences[-1], time.time_ns()))
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


if __name__ == "__main__":
    stage, given = sys.argv[1], json.loads(sys.argv[2])
    asyncio.run(source(**given) if stage == "source" else plain(**given))
