"""What clients missed, folded again for all who wait: no sockets, and a journal in memory."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from journal.clock import WallClock
from journal.entry import Trade
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from ssmd.gateway.buffer import Limits, Policy
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.recent import Recent
from ssmd.gateway.replays import Archives, Replays, Rider
from ssmd.gateway.request import Subscribe
from ssmd.gateway.session import Sessions
from ssmd.gateway.views import Views
from tests.gateway.follower import sequence
from tests.gateway.rig import Market, until

RECENT = 300  # messages in memory
LIMITS = Limits(messages=1_000, bytes=1 << 20)


class Quick(WallClock):
    """Waits a twentieth as long."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


class Counting(MemoryJournal):
    """How much was read, but for what the views follow."""

    entries = reads = 0

    async def read(self, stream: Stream, **which: Any) -> AsyncIterator[Any]:
        counted = stream.domain == "md" and not which.get("follow")
        self.reads += counted
        async for records in super().read(stream, **which):
            self.entries += len(records) if counted else 0
            yield records

    def end(self, stream: Stream) -> int:
        return len(self._logs[stream].records)

    def trades(self, stream: Stream) -> list[int]:
        return [r.sequence for r in self._logs[stream].records if isinstance(r.entry.body, Trade)]


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

    def __init__(self, journal: Counting, seed: int, *, symbols: int = 3) -> None:
        self.journal = journal
        self.views = Views("local", "kalshi", ["0"], Quick())
        self.hub = Hub(self.views, Quick(), limits=LIMITS)
        self.sessions = Sessions(self.hub, self.views, Archives(journal, MemoryStorage()), Quick(), feed="kalshi")
        self.markets = [Market(random.Random(seed + at), symbols) for at, _ in enumerate(self.views.shards)]
        self._numbered = 0

    async def write(self, count: int, shard: int = 0) -> None:
        await self.journal.append(self.views.shards[shard].stream, self.markets[shard].run(count))

    def client(self) -> tuple[Client, Line]:
        self._numbered += 1
        line = Line()
        client = Client(self.hub, line, f"c{self._numbered}", who="", peer="", policy=Policy.drop_oldest, now_ns=0)
        self.hub.add(client)
        return client, line

    def resume(self, client: Client, *positions: str, channels: Any = ("trade", "book", "bbo"), symbols: tuple[str, ...] = ("*",)) -> None:
        self.sessions.serve(client, Subscribe(channels=channels, symbols=symbols, resume=positions))

    def stop(self, client: Client, line: Line) -> None:
        line.paused = True

    def go_on(self, client: Client, line: Line) -> None:
        line.paused = False
        self.hub.drain(client)


@asynccontextmanager
async def gateway_of(journal: Counting, seed: int, entries: int) -> AsyncIterator[Gateway]:
    gateway = Gateway(journal, seed)
    for shard, view in enumerate(gateway.views.shards):
        await journal.ensure(view.stream)
        for _ in range(0, entries, 500):
            await gateway.write(500, shard)
    await journal.ensure(gateway.views.days.stream)
    await gateway.views.start(journal, MemoryStorage())
    for view in gateway.views.shards:  # memory has no room for more
        view.recent = Recent(RECENT)
        view.recent.since = view.position
    following = asyncio.create_task(gateway.views.run(journal, MemoryStorage(), gateway.hub.publish, lambda why: None))
    try:
        yield gateway
    finally:
        for client in tuple(gateway.hub.clients.values()):
            client.close(1000, "")
        following.cancel()
        await asyncio.wait({following})


def test_who_falls_behind_memory_again_is_brought_again() -> None:
    async def run() -> None:
        async with gateway_of(Counting(), 1, 1_000) as gateway:
            [view] = gateway.views.shards
            client, line = gateway.client()
            archives = Archives(gateway.journal, MemoryStorage())
            replays = Replays(archives, Quick(), feed="kalshi", kinds=gateway.views.kinds)
            rider = Rider(client, frozenset({("trade", "all", "")}), 0)
            for _ in range(3):
                await gateway.write(1_000)
                await until(lambda: view.position == gateway.journal.end(view.stream), "memory has moved on")
                assert rider.sequence < view.recent.since
                await asyncio.wait_for(replays.bring(view, rider), 20)
                assert rider.sequence >= view.recent.since
            told = [sequence(message["position"]) for message in line.of("trade")]
            assert told == [at for at in gateway.journal.trades(view.stream) if at <= rider.sequence]

    asyncio.run(run())
