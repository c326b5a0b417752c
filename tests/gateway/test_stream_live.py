"""The stream as clients see it: a real NATS, real WebSockets, a market that moves meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed

from ssmd.gateway.server import Gateway
from tests.gateway.follower import Follower, sequence
from tests.gateway.rig import Checked, History, Market, client_of, gateway_of, journal_of, messages, next_of, send, until, write
from tests.journal.servers import nats_server


def test_a_subscription_is_acknowledged_then_snapshots_then_what_comes(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(1), 4)
                await write(journal, market, 200)
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port) as ws:
                    assert (await next_of(ws, "welcome"))["env"] == "local"
                    await send(ws, op="subscribe", id="mine", channels=["book", "trade"], symbols=["KXA-1", "KXA-99"])
                    first = await messages(ws)
                    assert [m["type"] for m in first] == ["subscribed", "book"]
                    assert first[0]["id"] == "mine"
                    assert first[0]["unknown"] == [{"name": "KXA-99", "near": ["KXA-3", "KXA-1", "KXB-2", "KXB-0"]}]
                    assert first[1]["kind"] == "snapshot"
                    position = first[1]["position"]
                    await write(journal, market, 400)
                    seen: list[dict[str, Any]] = []
                    while len(seen) < 20:
                        seen += [m for m in await messages(ws) if m["type"] in {"book", "trade"}]
                    assert {m["symbol"] for m in seen} == {"KXA-1"}
                    assert next(m for m in seen if m["type"] == "book")["prev_position"] == position
                    await send(ws, op="unsubscribe", id="off", subscription=first[0]["subscription"])
                    assert (await next_of(ws, "unsubscribed"))["id"] == "off"
                    await write(journal, market, 100)
                    await send(ws, op="ping", id="p")
                    rest = await messages(ws)
                    assert [m["type"] for m in rest] == ["pong"]

    asyncio.run(run())


async def follow(gateway: Gateway, follower: Follower, subscriptions: list[dict[str, Any]], rng: random.Random, policy: str) -> None:
    """A client that reads at its own pace, and now and then loses its connection and resumes, until it is cancelled."""
    realtime = subscriptions[0]["mode"] == "realtime"
    while True:
        async with client_of(gateway.port, f"policy={policy}") as ws:
            for subscription in subscriptions:
                resume = {"resume": follower.last} if follower.last and realtime else {}
                await send(ws, op="subscribe", **subscription, **resume)
                if not resume:
                    follower.excused |= dict.fromkeys(follower.at, 1 << 62)
            for _ in range(rng.randrange(60, 400)):
                for message in await messages(ws):
                    follower.receive(message)
                await asyncio.sleep(rng.choice([0, 0, 0, 0.002, 0.02]))


@pytest.mark.parametrize("seed", [11, 12])
def test_every_client_has_the_books_of_the_fold(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(rng, 12)
                await write(journal, market, 300)
                async with gateway_of(server, tmp_path) as gateway:
                    followers: list[tuple[Checked, dict[str, Any]]] = []
                    tasks = []
                    for _ in range(16):
                        mode = rng.choice(["realtime", "realtime", "conflated", "latest"])
                        chosen = rng.choice([{"symbols": ["*"]}, {"series": ["KXA"]}, {"symbols": rng.sample(market.symbols, 3)}])
                        asked: dict[str, Any] = {"channels": ["book", "bbo", "trade", "ticker", "market", "gap"], "mode": mode, **chosen}
                        if mode == "conflated":
                            asked["interval_ms"] = 50
                        follower = Checked(strict=mode == "realtime")
                        followers.append((follower, asked))
                        policy = rng.choice(["drop_oldest", "drop_newest", "conflate"])
                        tasks.append(asyncio.create_task(follow(gateway, follower, [asked], random.Random(rng.random()), policy)))
                    await write(journal, market, 5_000, per_s=1_500)
                    history = await History.read(journal)
                    await until(lambda: gateway.views.positions() == [f"local_md_0:{history.end}"], "the gateway has folded all")
                    wanted = [(f, [s for s in history.last if chooses(asked, s)]) for f, asked in followers]
                    # A stale book keeps the levels it had; who comes later has none.
                    await until(lambda: all(same(f, history, symbols) for f, symbols in wanted) or any(t.done() for t in tasks), "same")
                    for task in tasks:
                        task.cancel()
                    for result in await asyncio.gather(*tasks, return_exceptions=True):
                        assert isinstance(result, asyncio.CancelledError), result
                    for follower, asked in followers:
                        follower.check(history)
                        if asked["mode"] == "realtime":
                            assert follower.deltas
                            check_trades(follower, history)

    asyncio.run(run())


def chooses(asked: dict[str, Any], symbol: str) -> bool:
    names = asked.get("symbols", [])
    return "*" in names or symbol in names or symbol.partition("-")[0] in asked.get("series", [])


def same(follower: Follower, history: History, symbols: list[str]) -> bool:
    def one(symbol: str) -> bool:
        state, *sides = history.last[symbol]
        mine = follower.books.get(symbol)
        return mine is not None and mine[0] == state and (state != "VALID" or list(mine[1:]) == sides)

    return all(one(symbol) for symbol in symbols)


def check_trades(follower: Follower, history: History) -> None:
    """From its first one on it has every trade once, whatever happened to its connections, unless it was told of drops."""
    if follower.seen["dropped"]:
        return
    for symbol, trades in follower.trades.items():
        numbers = [n for n, _, _ in trades]
        assert numbers == [n for n in history.trades[symbol] if n >= numbers[0] and n <= numbers[-1]]


def test_a_stopped_client_costs_bounded_memory_and_delays_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(3), 8)
                await write(journal, market, 200)
                async with gateway_of(server, tmp_path) as gateway:
                    gateway.hub.limits = gateway.hub.limits._replace(messages=400, bytes=100_000)
                    query = "symbols=*&channels=book,trade"
                    async with client_of(gateway.port, query) as stopped, client_of(gateway.port, query) as well:
                        follower, late = Follower(), Follower()
                        slow = gateway.hub.clients["c1"]
                        stopped.transport.pause_reading()
                        reading = asyncio.create_task(read(well, follower))
                        written = 0
                        while slow.buffer.state.value != "dropping" and written < 60_000:
                            await write(journal, market, 500)
                            written += 500
                            assert slow.buffer.pending[0] <= 400
                            assert slow.buffer.pending[1] <= 100_000
                        assert slow.buffer.state.value == "dropping", written
                        history = await History.read(journal)
                        await until(lambda: same(follower, history, market.symbols), "the one that reads has all")
                        assert not follower.seen["dropped"]
                        stopped.transport.resume_reading()
                        catching = asyncio.create_task(read(stopped, late))
                        await until(lambda: same(late, history, market.symbols) or catching.done(), "the slow one comes back")
                        assert not catching.done(), catching.exception()
                        assert late.seen["dropped"]
                        kinds = [m.get("state") for m in late.others if m["type"] == "state"]
                        assert kinds[:2] == ["lagging", "dropping"]
                        assert kinds[-1] == "healthy"
                        told = sum(m["count"] for m in late.others if m["type"] == "dropped")
                        metrics = await asyncio.to_thread(scraped, gateway.port)
                        assert metrics["ssmd_gateway_dropped_messages_total"] == slow.buffer.dropped
                        assert metrics['ssmd_gateway_clients{state="healthy"}'] == 2
                        assert metrics["ssmd_gateway_published_messages_total"] == gateway.hub.published
                        assert metrics["ssmd_gateway_sent_messages_total"] >= 2 * follower.seen["trade"] - slow.buffer.dropped
                        assert told == slow.buffer.dropped
                        reading.cancel()
                        catching.cancel()

    asyncio.run(run())


def scraped(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


async def read(ws: Any, follower: Follower) -> None:
    while True:
        for message in await messages(ws, 120):
            follower.receive(message)


def test_who_asks_for_it_is_disconnected_when_slow(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(4), 8)
                await write(journal, market, 200)
                async with gateway_of(server, tmp_path) as gateway:
                    gateway.hub.limits = gateway.hub.limits._replace(messages=300, bytes=60_000)
                    async with client_of(gateway.port, "symbols=*&policy=disconnect") as ws:
                        ws.transport.pause_reading()
                        for _ in range(200):
                            if not gateway.hub.clients:
                                break
                            await write(journal, market, 500)
                        assert not gateway.hub.clients
                        ws.transport.resume_reading()
                        with pytest.raises(ConnectionClosed):
                            await asyncio.wait_for(read(ws, Follower()), 30)

    asyncio.run(run())


def test_resuming_is_exact_or_said_to_be_impossible(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(5), 4)
                await write(journal, market, 3_000)
                async with gateway_of(server, tmp_path) as gateway:
                    view = gateway.views.shards[0]
                    view.recent.since = 2_000  # as if memory had no room for more: before this the journal is read
                    for start in (1, 700, 1_999, 2_000, 2_500, 3_000):
                        async with client_of(gateway.port, f"symbols=*&channels=trade,book,gap&resume=local_md_0:{start}") as ws:
                            ack = await next_of(ws, "subscribed")
                            assert ack["resumed"] is True
                            await write(journal, market, 20)
                            history = await History.read(journal)
                            wanted = sorted(n for ns in history.trades.values() for n in ns if n > start)
                            got: list[int] = []
                            while len(got) < len(wanted):
                                got += [sequence(m["position"]) for m in await messages(ws) if m["type"] == "trade"]
                            assert got == wanted
                    async with client_of(gateway.port, "symbols=*&resume=local_md_0:999999") as ws:
                        ack = await next_of(ws, "subscribed")
                        assert ack["resumed"] is False
                        assert ack["resume_from"] == ["local_md_0:2000"]
                        assert (await next_of(ws, "book"))["kind"] == "snapshot"
                    async with client_of(gateway.port, "symbols=*&resume=other_md_0:1") as ws:
                        assert "local_md_0" in (await next_of(ws, "error"))["message"]

    asyncio.run(run())


def test_heartbeats_and_days(tmp_path: Path) -> None:
    async def run() -> None:
        from datetime import date

        from journal.clock import WallClock
        from ssmd.day.aggregate import State
        from ssmd.day.register import Register
        from ssmd.wiring import day_rule

        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port) as ws:
                    gateway.hub.heartbeat_s = 0.2
                    await send(ws, op="subscribe", channels=["day"])
                    await next_of(ws, "subscribed")
                    beat = await next_of(ws, "heartbeat")
                    assert beat["positions"] == ["local_md_0:0"]
                    days = Register(journal, WallClock(), "local", day_rule(gateway.settings))
                    await days.move(date(2026, 11, 22), State.STARTING, who="test", why="to see it")
                    day = await next_of(ws, "day")
                    while day["happened"] != "moved":
                        day = await next_of(ws, "day")
                    assert (day["date"], day["state"], day["who"], day["why"]) == ("2026-11-22", "STARTING", "test", "to see it")
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port, "channels=day") as ws:
                    day = await next_of(ws, "day")
                    assert day["state"] == "STARTING"

    asyncio.run(run())


def test_frames_are_arrays(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await write(journal, Market(random.Random(6), 40), 2_000)
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port, "symbols=*&channels=book,bbo,ticker") as ws:
                    frame = await ws.recv()
                    assert isinstance(frame, str)
                    assert isinstance(json.loads(frame), list)

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["realtime", "latest"])
def test_while_it_resumes_a_client_gets_nothing_of_the_present(tmp_path: Path, mode: str) -> None:
    """Else it would resume behind that after the next break, and miss what had not come yet."""

    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(33), 3)
                await write(journal, market, 6_000)
                async with gateway_of(server, tmp_path) as gateway:
                    gateway.hub.limits = gateway.hub.limits._replace(messages=150)  # so that it takes a while
                    asks = f"symbols=*&channels=trade,bbo&mode={mode}&resume=local_md_0:0"
                    async with client_of(gateway.port, asks) as ws:
                        await send(ws, op="snapshot", channels=["book"], symbols=["*"])
                        await next_of(ws, "snapshots")
                        (client,) = gateway.hub.clients.values()
                        gateway.hub.set_mode(client, "latest" if mode == "realtime" else "realtime", 0)
                        assert client.resuming
                        at, books = 0, set[str]()
                        await until(lambda: not client.resuming, "it has what it missed")
                        await send(ws, op="ping", id="last")
                        told: list[str] = []
                        while "pong" not in told:
                            for message in await messages(ws):
                                told.append(message["type"])
                                if message["type"] == "trade":
                                    assert sequence(message["position"]) > at, "a trade of what was missed comes behind the present"
                                if message["type"] == "book":
                                    books.add(message["symbol"])
                                if "position" in message:
                                    at = max(at, sequence(message["position"]))
                        assert books == set(market.symbols)

    asyncio.run(run())
