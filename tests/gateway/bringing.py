"""A gateway without its server, in memory: clients resume by lines that can be stopped. What they are to be told is known."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from journal.clock import WallClock
from journal.entry import Record, Trade
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from ssmd.gateway.buffer import Limits, Policy
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.recent import Recent
from ssmd.gateway.replays import Archives
from ssmd.gateway.request import Channel, Subscribe
from ssmd.gateway.session import Sessions
from ssmd.gateway.view import MarketView, block_of
from ssmd.gateway.views import Views
from tests.gateway.follower import sequence
from tests.gateway.rig import Market, until

RECENT = 300  # messages in memory
LIMITS = Limits(messages=4_000, bytes=8 << 20)

SOME: tuple[Channel, ...] = ("trade", "book", "bbo")
DATA = {"trade", "book", "bbo", "stale"}


SHARDS = ("0", "b")


class Quick(WallClock):
    """Waits a twentieth as long."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


class Counting(MemoryJournal):
    """How much was read, but for what the views follow. Reads fail with `error` where they come to `at`."""

    entries = reads = at = 0
    error: Exception | None = None

    async def read(self, stream: Stream, **which: Any) -> AsyncIterator[Any]:
        counted = stream.is_market and not which.get("follow")
        self.reads += counted
        async for records in super().read(stream, **which):
            self.entries += len(records) if counted else 0
            if counted and self.error and records[-1].sequence >= self.at:
                raise self.error
            yield records

    def records(self, stream: Stream) -> list[Record]:
        return self._logs[stream].records

    def follows(self, stream: Stream) -> int:
        return self._logs[stream].followers

    def trades(self, stream: Stream) -> list[int]:
        return [r.sequence for r in self.records(stream) if isinstance(r.entry.body, Trade)]


class Line:
    """A connection: it takes what is written, or has stopped."""

    deflates = False

    def __init__(self) -> None:
        self.paused = False
        self.closed: tuple[int, str] | None = None
        self.told: list[dict[str, Any]] = []

    def write(self, frame: bytes) -> None:
        self.told += json.loads(frame[frame.index(b"[{") :])

    def close(self, code: int, reason: str) -> None:
        self.closed = code, reason

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["type"] == kind]


class Gateway:
    """All but its server."""

    def __init__(self, journal: Counting, seed: int, shards: Sequence[str]) -> None:
        self.journal = journal
        self.storage = MemoryStorage()
        self.views = Views("local", "kalshi", shards, Quick())
        self.hub = Hub(self.views, Quick(), limits=LIMITS)
        self.sessions = Sessions(self.hub, self.views, Archives(journal, self.storage), Quick(), feed="kalshi")
        self.markets = [Market(random.Random(f"{seed} {at}"), 3) for at, _ in enumerate(self.views.shards)]
        for market, shard in zip(self.markets, shards, strict=True):
            market.symbols = [f"{symbol}-{shard}" for symbol in market.symbols]
        self._numbered = 0

    async def write(self, count: int, shard: int = 0) -> None:
        await self.journal.append(self.views.shards[shard].stream, self.markets[shard].run(count))

    def client(self, line: Line | None = None) -> tuple[Client, Line]:
        self._numbered += 1
        line = line or Line()
        client = Client(self.hub, line, f"c{self._numbered}", who="", peer="", policy=Policy.drop_oldest, now_ns=0)
        self.hub.add(client)
        return client, line

    def resume(self, client: Client, *positions: str, channels: tuple[Channel, ...] = SOME, symbols: tuple[str, ...] = ("*",)) -> None:
        self.sessions.serve(client, Subscribe(channels=channels, symbols=symbols, resume=positions))

    def go_on(self, client: Client, line: Line) -> None:
        if line.paused:
            line.paused = False
            self.hub.drain(client)

    async def quiet(self) -> None:
        """All have what they asked for, and nothing works for them any more."""
        await until(lambda: not any(c.resuming or not c.buffer.idle for c in self.hub.clients.values()), "all have all", 30)
        await until(lambda: not [t for t in asyncio.all_tasks() if t.get_name().startswith(("replay", "resume"))], "no run is left", 5)

    def expected(self, shard: int, after: int) -> list[dict[str, Any]]:
        """Every message behind an entry."""
        stream = self.views.shards[shard].stream
        updates = MarketView(stream, "kalshi", recent=0).changes(block_of(self.journal.records(stream)))
        return [json.loads(update.data) for update in updates if update.sequence > after]


@asynccontextmanager
async def gateway_of(seed: int, entries: int, shards: Sequence[str] = ("0",)) -> AsyncIterator[Gateway]:
    gateway = Gateway(Counting(), seed, shards)
    for shard, view in enumerate(gateway.views.shards):
        await gateway.journal.ensure(view.stream)
        for _ in range(0, entries, 500):
            await gateway.write(500, shard)
    await gateway.views.start(gateway.journal, gateway.storage)
    for view in gateway.views.shards:  # memory has no room for more
        view.recent = Recent(RECENT)
        view.recent.since = view.position
    gateway.journal.entries = gateway.journal.reads = 0
    following = asyncio.create_task(gateway.views.run(gateway.journal, gateway.storage, gateway.hub.publish, pytest.fail))
    await until(lambda: all(gateway.journal.follows(view.stream) for view in gateway.views.shards), "all are followed")
    try:
        yield gateway
    finally:
        for client in tuple(gateway.hub.clients.values()):
            client.close(1000, "")
        following.cancel()
        await asyncio.wait({following})


def without_before(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A fold that began later does not know where the first best price was before."""
    return [{name: value for name, value in message.items() if name != "prev_position"} for message in messages]


@dataclass
class Rides:
    """A client, and what it is to be told."""

    client: Client
    line: Line
    after: int
    symbols: tuple[str, ...]
    channels: tuple[Channel, ...]
    ended: int | None = None  # messages that it had been told when it was cancelled

    def chooses(self, message: dict[str, Any]) -> bool:
        channel = "book" if message["type"] == "stale" else message["type"]
        return channel in self.channels and (self.symbols == ("*",) or message["symbol"] in self.symbols)

    def check(self, every: list[dict[str, Any]]) -> None:
        told = [message for message in self.line.told if message["type"] in DATA]
        wanted = [m for m in every if sequence(m["position"]) > self.after and self.chooses(m)]
        if self.ended is not None:
            assert len(told) <= self.ended, "none after its end"
            wanted = wanted[: len(told)]
        assert without_before(told) == without_before(wanted)
