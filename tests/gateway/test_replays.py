"""What clients missed, folded again for all who wait: no sockets, and a journal in memory."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from journal.clock import WallClock
from journal.entry import Record, Trade
from journal.errors import BadObject, HoleInStream, JournalUnavailable, SsmdError
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from ssmd.gateway.buffer import Limits, Policy
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.marks import mark_of
from ssmd.gateway.recent import Recent
from ssmd.gateway.replays import Archives, Replays, Rider
from ssmd.gateway.request import Channel, Subscribe, Unsubscribe
from ssmd.gateway.session import Sessions
from ssmd.gateway.view import MarketView, block_of
from ssmd.gateway.views import Views
from ssmd.services.projector import Projector
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

    def client(self) -> tuple[Client, Line]:
        self._numbered += 1
        line = Line()
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


def test_who_falls_behind_memory_again_is_brought_again() -> None:
    async def run() -> None:
        async with gateway_of(1, 1_000) as gateway:
            [view] = gateway.views.shards
            client, line = gateway.client()
            replays = Replays(Archives(gateway.journal, gateway.storage), Quick(), feed="kalshi", kinds=gateway.views.kinds)
            rider = Rider(client, 0)
            rider.join("s1", frozenset({("trade", "all", "")}), 0)
            for _ in range(3):
                await gateway.write(1_000)
                await until(lambda: view.position == len(gateway.journal.records(view.stream)), "memory has moved on")
                assert rider.sequence < view.recent.since
                await asyncio.wait_for(replays.bring(view, rider), 20)
                assert rider.sequence >= view.recent.since
            told = [sequence(message["position"]) for message in line.of("trade")]
            assert told == [at for at in gateway.journal.trades(view.stream) if at <= rider.sequence]

    asyncio.run(run())


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


@pytest.mark.parametrize("seed", range(6))
def test_what_several_subscriptions_of_a_client_missed_comes_once(seed: int) -> None:
    """They are at different places, some end, and the client stops now and then; all of them resume at the same time."""

    async def run() -> None:
        rng = random.Random(seed)
        async with gateway_of(20 + seed, 3_000) as gateway:
            [market] = gateway.markets
            client, line = gateway.client()
            asked: dict[str, Rides] = {}
            gone: list[Rides] = []
            line.paused = True
            for number in range(1, 9):
                symbols: tuple[str, ...] = rng.choice((("*",), tuple(rng.sample(market.symbols, rng.randrange(1, 3)))))
                channels: tuple[Channel, ...] = rng.choice((SOME, ("trade",), ("book", "trade"), ("bbo",)))
                if number == 1:  # more than the client takes at once
                    symbols, channels = ("*",), ("book",)
                ride = Rides(client, line, rng.randrange(1_000) if rng.random() < 0.7 else 500, symbols, channels)
                gateway.resume(client, f"local_md_0:{ride.after}", channels=channels, symbols=symbols)
                asked[f"s{number}"] = ride
                if rng.random() < 0.3 and len(asked) > 1:
                    name = rng.choice(list(asked)[1:])
                    gone.append(asked.pop(name))
                    gateway.sessions.serve(client, Unsubscribe(subscription=name))
                await asyncio.sleep(rng.random() / 20)
                if rng.random() < 0.3 and len(line.told) < 500:
                    gateway.go_on(client, line)
                    line.paused = True
                assert client.resuming
            await gateway.write(200)
            gateway.go_on(client, line)
            await gateway.quiet()
            told = Counter((m["type"], m["symbol"], m["position"]) for m in line.told if m["type"] in DATA)
            for message in gateway.expected(0, 0):
                at, count = sequence(message["position"]), told.pop((message["type"], message["symbol"], message["position"]), 0)
                if any(ride.chooses(message) and at > ride.after for ride in asked.values()):
                    assert count == 1 or (count > 1 and any(ride.chooses(message) for ride in gone)), (message, count)
                elif not any(ride.chooses(message) for ride in gone):
                    assert not count, message
            assert not told
            assert not line.of("error")

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(5))
def test_whoever_comes_stops_leaves_or_falls_behind_is_told_everything_once(seed: int) -> None:
    async def run() -> None:
        rng = random.Random(seed)
        async with gateway_of(seed, 2_500) as gateway:
            [view], [market] = gateway.views.shards, gateway.markets
            riders: list[Rides] = []
            for _ in range(120):
                match rng.choice(("come", "come", "stop", "stop", "go on", "leave", "write", "write", "wait")):
                    case "come" if len(riders) < 25:
                        symbols = rng.choice((("*",), tuple(rng.sample(market.symbols, 2))))
                        channels = rng.choice((SOME, ("trade",), ("book", "trade")))
                        rider = Rides(*gateway.client(), rng.randrange(view.position + 1), symbols, channels)
                        rider.line.paused = rng.random() < 0.2
                        gateway.resume(rider.client, f"local_md_0:{rider.after}", channels=channels, symbols=symbols)
                        riders.append(rider)
                    case "stop" if found := [r for r in riders if r.client.resuming]:
                        rng.choice(found).line.paused = True
                    case "go on" if riders:
                        rider = rng.choice(riders)
                        gateway.go_on(rider.client, rider.line)
                    case "leave" if found := [r for r in riders if r.client.resuming and rng.random() < 0.5]:
                        rider = rng.choice(found)
                        if rng.random() < 0.5:
                            gateway.sessions.serve(rider.client, Unsubscribe(subscription="s1"))
                        else:
                            rider.client.close(1000, "")
                        rider.ended = sum(message["type"] in DATA for message in rider.line.told)
                    case "write":
                        for live in riders:  # who is past what it missed and does not read is dropped messages: not to be seen here
                            if not live.client.resuming:
                                gateway.go_on(live.client, live.line)
                        await gateway.write(rng.randrange(1, 300))
                    case _:
                        await asyncio.sleep(rng.random() / 50)
                await asyncio.sleep(0)
                assert all(r.client.buffer.fill < 0.7 for r in riders), (
                    "a stopped one is given a quarter of its buffer, and what comes live"
                )
            for rider in riders:
                gateway.go_on(rider.client, rider.line)
            await gateway.quiet()
            every = gateway.expected(0, 0)
            for rider in riders:
                rider.check(every)
            assert not any(rider.line.of("dropped") or rider.line.of("conflated") for rider in riders)
            assert sum(rider.ended is None for rider in riders) > 5

    asyncio.run(run())


def test_many_who_come_back_have_the_journal_read_a_few_times() -> None:
    async def run() -> None:
        rng = random.Random(5)
        async with gateway_of(5, 4_000) as gateway:
            riders = [gateway.client() for _ in range(60)]
            missed = 0
            for client, _ in riders:
                after = rng.randrange(3_000)
                missed += 4_000 - after
                gateway.resume(client, f"local_md_0:{after}", channels=("trade",))
                await asyncio.sleep(rng.random() / 100)
            await gateway.quiet()
            assert 4_000 < gateway.journal.entries < missed / 3

    asyncio.run(run())


ERRORS = [JournalUnavailable("it is away"), HoleInStream("a hole"), BadObject("not what it was"), MemoryError(), KeyError("a defect")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [0, 1_500])
def test_a_run_that_fails_is_told_to_all_who_wait_and_snapshots_follow(error: Exception, at: int, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with gateway_of(6, 2_000) as gateway:
            gateway.journal.error, gateway.journal.at = error, at
            riders = [gateway.client() for _ in range(8)]
            for number, (client, _) in enumerate(riders):
                gateway.resume(client, f"local_md_0:{200 * number}")
            await gateway.quiet()
            assert gateway.journal.reads < 30, "it does not go on and on"
            for _, line in riders:
                [failed] = line.of("error")
                assert failed["code"] == "resume_failed"
                assert {m["symbol"] for m in line.of("book") if m["kind"] == "snapshot"} == set(gateway.markets[0].symbols)
            gateway.journal.error = None
            before = [len(line.of("trade")) for _, line in riders]
            await gateway.write(200)
            await until(lambda: all(len(line.of("trade")) > n for n, (_, line) in zip(before, riders, strict=True)), "they are live")

    caplog.set_level("ERROR")
    asyncio.run(run())
    assert [r.levelname for r in caplog.records] == ([] if isinstance(error, SsmdError) else ["ERROR"] * len(caplog.records))
    assert bool(caplog.records) == (not isinstance(error, SsmdError))


def test_who_is_before_a_hole_is_told_and_others_go_on_from_a_checkpoint_behind_it() -> None:
    async def run() -> None:
        async with gateway_of(7, 1_000) as gateway:
            [view] = gateway.views.shards
            await Projector(gateway.journal, gateway.storage, view.stream, Quick()).catch_up()
            for _ in range(3):
                await gateway.write(500)
            await until(lambda: view.position == len(gateway.journal.records(view.stream)), "memory has moved on")
            (before, before_line), (behind, behind_line) = gateway.client(), gateway.client()
            gateway.resume(before, "local_md_0:10")
            gateway.resume(behind, f"local_md_0:{view.position - 1_000}")
            await gateway.journal.purge(view.stream, 900)
            gateway.journal.entries = 0
            await gateway.quiet()
            [failed] = before_line.of("error")
            assert failed["code"] == "resume_failed"
            assert "is not there any more" in failed["message"]
            assert before_line.of("book")
            assert not behind_line.of("error")
            Rides(behind, behind_line, view.position - 1_000, ("*",), SOME).check(gateway.expected(0, 0))
            assert gateway.journal.entries < 2_000, "what is behind a hole is not looked at for one that is before it"

    asyncio.run(run())


@pytest.mark.parametrize("at", [0, 700])
def test_a_stream_that_is_shorter_than_it_was_ends_a_resume(at: int) -> None:
    async def run() -> None:
        async with gateway_of(8, 1_500) as gateway:
            [view] = gateway.views.shards
            client, line = gateway.client()
            gateway.resume(client, f"local_md_0:{at}")
            await gateway.journal.delete(view.stream)
            await gateway.journal.ensure(view.stream)
            await gateway.write(500)
            await gateway.quiet()
            [failed] = line.of("error")
            assert failed["code"] == "resume_failed"
            assert "made anew or restored" in failed["message"]
            assert gateway.journal.reads < 10

    asyncio.run(run())


def of_shard(rider: Rides, gateway: Gateway, shard: int, after: int) -> Rides:
    """As if the client had asked for that shard only."""
    found = Line()
    found.told = [m for m in rider.line.told if m["type"] in DATA and m["position"].startswith(f"local_md_{SHARDS[shard]}:")]
    return Rides(rider.client, found, after, ("*",), SOME)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("hole", [None, 0, 1])
def test_two_shards_are_resumed_each_from_its_place(order: tuple[int, int], hole: int | None) -> None:
    async def run() -> None:
        async with gateway_of(9, 1_500, SHARDS) as gateway:
            after = {0: 100, 1: 1_400}
            for shard, view in enumerate(gateway.views.shards):
                await gateway.write(500, shard)
                await until(lambda view=view: view.position == 2_000, "memory has moved on")
            rider = Rides(*gateway.client(), 0, ("*",), SOME)
            gateway.resume(rider.client, *(f"local_md_{SHARDS[shard]}:{after[shard]}" for shard in order))
            if hole is not None:
                await gateway.journal.purge(gateway.views.shards[hole].stream, 1_450)
            await gateway.quiet()
            for shard in (0, 1):
                await gateway.write(100, shard)
            await until(lambda: all(v.position == 2_100 for v in gateway.views.shards), "all is folded")
            await gateway.quiet()
            assert len(rider.line.of("error")) == (hole is not None)
            for shard in {0, 1} - {hole}:
                found = of_shard(rider, gateway, shard, after[shard])
                if hole is not None:  # snapshots of this one come too: what is told of it is as of them already
                    found.line.told = [m for m in found.line.told if m.get("kind") != "snapshot"]
                every = [m for m in gateway.expected(shard, 0) if hole is None or m.get("kind") != "snapshot"]
                found.check(every)
            if hole is not None:
                [failed] = rider.line.of("error")
                assert f"local_md_{SHARDS[hole]}" in failed["message"]
                told = of_shard(rider, gateway, hole, 0).line.told
                assert {m["symbol"] for m in told if m.get("kind") == "snapshot"} == set(gateway.markets[hole].symbols)
                assert sequence(told[-1]["position"]) > 2_000, "it goes on live"

    asyncio.run(run())


def test_a_defect_while_memory_is_told_ends_the_connection_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    def kinds(symbol: str) -> tuple[str, str]:
        raise RuntimeError(f"a defect at {symbol}")

    async def run() -> None:
        async with gateway_of(10, 500) as gateway:
            gateway.sessions._replays._kinds = kinds
            [view] = gateway.views.shards
            await gateway.write(100)
            await until(lambda: view.position == 600, "they are in memory")
            client, line = gateway.client()
            gateway.sessions.serve(client, Subscribe(channels=("trade",), series=("KXA",), resume="local_md_0:500"))
            await until(lambda: client.closed, "it is closed", 20)
            assert line.closed == (1011, "the gateway failed; connect again")
            [failed] = line.of("error")
            assert failed["code"] == "unavailable"
            assert "RuntimeError" in failed["message"]
            await gateway.quiet()

    caplog.set_level("ERROR")
    asyncio.run(run())
    [record] = caplog.records
    assert "resume c1" in record.getMessage()
    assert record.exc_info


def test_a_mark_that_goes_on_and_on_is_not_looked_up() -> None:
    async def run() -> None:
        async with gateway_of(11, 500) as gateway:
            client, line = gateway.client()
            mark = mark_of(gateway.views.shards)
            for given in (mark, f"{mark},{mark}"):
                gateway.sessions.serve(client, Subscribe(symbols=("*",), resume="local_md_0:500", mark=given))
            await until(lambda: len(line.of("subscribed")) == 2, "it is answered", 20)
            whole, long = sorted(line.of("subscribed"), key=lambda m: not m["resumed"])
            assert (whole["resumed"], long["resumed"]) == (True, False)
            assert long["reason"] == "the mark is of 2 streams; this gateway has 1"
            assert gateway.journal.reads == 1

    asyncio.run(run())
