"""A gateway on a real NATS, a market that is written into its journal, and real WebSocket clients."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from websockets.asyncio.client import ClientConnection, connect

from journal.clock import WallClock
from journal.entry import Body, Book, Change, Control, Delta, Entry, Gap, Lifecycle, Record, Ticker, Trade
from journal.jetstream import JetStreamJournal
from journal.link import Access
from journal.subjects import Stream
from projections.book import BookProjection
from ssmd.gateway.server import Gateway
from ssmd.settings import Settings
from tests.gateway.follower import Follower, exact, sequence
from tests.journal.servers import TOKEN, NatsServer

STREAM = Stream("local", shard="0")
DAY = 20261122


class Market:
    """Entries of a plausible market: books that follow one connection, losses that are made good, trades."""

    def __init__(self, rng: random.Random, symbols: int) -> None:
        self.rng = rng
        self.symbols = [f"KXA-{n}" if n % 2 else f"KXB-{n}" for n in range(symbols)]
        self._epoch = rng.randbytes(16)
        self._frame = 0
        self._sizes: dict[str, dict[tuple[int, int], int]] = {}

    def _entry(self, body: Body, symbol: str) -> Entry:
        self._frame += 1
        now = time.time_ns()
        return Entry(body, "kalshi", symbol, self._epoch, self._frame, now, 0, now, DAY, now - 5_000_000, 0, 1, 0, 1, -6, -2)

    def book(self, symbol: str) -> Entry:
        levels = {(self.rng.randrange(1, 99) * 10_000, side): self.rng.randrange(1, 50_000) for side in (0, 1) for _ in range(6)}
        self._sizes[symbol] = dict(levels)
        return self._entry(Book(tuple(Change(price, size, side, 1) for (price, side), size in levels.items())), symbol)

    def run(self, count: int) -> list[Entry]:
        """The next entries."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Entry:
        rng = self.rng
        symbol = rng.choice(self.symbols)
        if symbol not in self._sizes:
            return self.book(symbol)
        what = rng.random()
        if what < 0.72:
            sizes = self._sizes[symbol]
            at = rng.choice(list(sizes)) if sizes and rng.random() < 0.5 else (rng.randrange(1, 99) * 10_000, rng.randrange(2))
            change = -sizes[at] if at in sizes and rng.random() < 0.3 else rng.randrange(1, 9_000)
            sizes[at] = sizes.get(at, 0) + change
            if not sizes[at]:
                del sizes[at]
            return self._entry(Delta((Change(at[0], change, at[1], 0),)), symbol)
        if what < 0.9:
            return self._entry(Trade(rng.randrange(1, 99) * 10_000, rng.randrange(1, 9_000), rng.randrange(3), 2, f"{self._frame}"), symbol)
        if what < 0.96:
            return self._entry(Ticker(last=rng.randrange(1, 99) * 10_000, volume=self._frame), symbol)
        if what < 0.98:
            return self._entry(Lifecycle("activated", rng.choice(["active", "paused"])), symbol)
        if what < 0.99:
            del self._sizes[symbol]
            return self._entry(Gap("sequence", "orderbook_delta", 3, 5), symbol)
        return self.book(symbol) if what < 0.998 else self._entry(Control("ping"), "")


class History:
    """What the fold says of every book behind every entry, and the trades, from the journal alone."""

    def __init__(self) -> None:
        self.books: dict[tuple[str, int], Any] = {}
        self.last: dict[str, tuple[str, Any, Any]] = {}
        self.trades: dict[str, list[int]] = {}
        self.end = 0
        self._fold = BookProjection()

    @classmethod
    async def read(cls, journal: JetStreamJournal, before: History | None = None) -> History:
        """Of all, or of what came behind `before` and had not been read with it."""
        found = before or cls()
        async for records in journal.read(STREAM, start=found.end + 1):
            for record in records:
                found._add(record, found._fold)
        return found

    def _add(self, record: Record, fold: BookProjection) -> None:
        from journal.block import Block

        fold.apply(Block.of([record]))
        symbol = record.entry.symbol
        self.end = record.sequence
        if isinstance(record.entry.body, Trade):
            self.trades.setdefault(symbol, []).append(record.sequence)
        if isinstance(record.entry.body, Book | Delta | Gap) and fold.top(symbol):
            book = fold.book(symbol)
            units = book.price_exponent, book.size_exponent
            shown = book.state.name, exact(book.bids, *units), exact(book.asks, *units)
            self.last[symbol] = shown
            if book.sequence == record.sequence:
                self.books[symbol, record.sequence] = shown[1:]


@dataclass
class Checked(Follower):
    """A follower that remembers the books it had at each position, for `History` to check."""

    had: list[tuple[str, int, Any]] = field(default_factory=list)

    def _book(self, symbol: str, message: dict[str, Any]) -> None:
        super()._book(symbol, message)
        state, bids, asks = self.books[symbol]
        if state == "VALID":
            self.had.append((symbol, sequence(message["position"]), (dict(bids), dict(asks))))

    def check(self, history: History) -> None:
        for symbol, at, book in self.had:
            assert history.books[symbol, at] == book, f"{symbol} at {at}"


@asynccontextmanager
async def journal_of(server: NatsServer) -> AsyncIterator[JetStreamJournal]:
    journal = await JetStreamJournal.connect(Access(lambda: server.url, TOKEN), WallClock())
    try:
        await journal.ensure(STREAM, "kalshi")
        yield journal
    finally:
        await journal.close()


async def write(journal: JetStreamJournal, market: Market, count: int, *, per_s: float = 1e9, run: int = 20) -> None:
    for _ in range(0, count, run):
        await journal.append(STREAM, market.run(run))
        await asyncio.sleep(run / per_s)


def settings_of(server: NatsServer, folder: Path) -> Settings:
    flags = {"env": "local", "nats": f"nats://{TOKEN}@127.0.0.1:{server.port}", "data": str(folder / "data")}
    return Settings.read(flags, {}, folder)


@asynccontextmanager
async def gateway_of(server: NatsServer, folder: Path, *, port: int = 0) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings_of(server, folder), WallClock(), port=port)
    running = asyncio.create_task(gateway.run())
    try:
        await until(lambda: running.done() or gateway.status.startswith("serving"), "the gateway is ready")
        if running.done():
            running.result()
        yield gateway
    finally:
        gateway.stop()
        await asyncio.wait_for(running, 20)


async def until(holds: Any, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def stream_url(port: int, query: str = "") -> str:
    return f"ws://127.0.0.1:{port}/v1/stream{'?' if query else ''}{query}"


@asynccontextmanager
async def client_of(port: int, query: str = "", **more: Any) -> AsyncIterator[ClientConnection]:
    async with connect(stream_url(port, query), compression=None, max_size=4 << 20, **more) as ws:
        yield ws


_left: WeakKeyDictionary[ClientConnection, list[dict[str, Any]]] = WeakKeyDictionary()


async def messages(ws: ClientConnection, seconds: float = 30.0) -> list[dict[str, Any]]:
    """Those of the next frame, or what `next_of` left of one."""
    if found := _left.pop(ws, []):
        return found
    frame: list[dict[str, Any]] = json.loads(await asyncio.wait_for(ws.recv(), seconds))
    return frame


async def next_of(ws: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a type; what comes before it is left out."""
    while True:
        found = await messages(ws)
        for at, message in enumerate(found):
            if message["type"] == kind:
                _left[ws] = found[at + 1 :]
                return message


async def send(ws: ClientConnection, **request: Any) -> None:
    await ws.send(json.dumps(request))
