"""What clients missed, folded again for all who wait: no sockets, and a journal in memory."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ssmd.gateway import replays
from ssmd.gateway.replays import Archives, Replays, Rider
from ssmd.gateway.request import Channel, Unsubscribe
from tests.gateway.bringing import DATA, SOME, Line, Quick, Rides, gateway_of
from tests.gateway.follower import sequence
from tests.gateway.rig import until


def test_who_falls_behind_memory_again_is_brought_again() -> None:
    async def run() -> None:
        async with gateway_of(1, 1_000) as gateway:
            [view] = gateway.views.shards
            client, line = gateway.client()
            bringing = Replays(Archives(gateway.journal, gateway.storage), Quick(), feed="kalshi", kinds=gateway.views.kinds)
            rider = Rider(client, 0)
            rider.join("s1", frozenset({("trade", "all", "")}), 0)
            for _ in range(3):
                await gateway.write(1_000)
                await until(lambda: view.position == len(gateway.journal.records(view.stream)), "memory has moved on")
                assert rider.sequence < view.recent.since
                await asyncio.wait_for(bringing.bring(view, rider), 20)
                assert rider.sequence >= view.recent.since
            told = [sequence(message["position"]) for message in line.of("trade")]
            assert told == [at for at in gateway.journal.trades(view.stream) if at <= rider.sequence]

    asyncio.run(run())


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


@pytest.mark.parametrize("leaves", [False, True])
def test_what_happens_while_many_are_given_the_same_counts(leaves: bool) -> None:
    """The last of many leaves, or is joined by a subscription from further back, while the first ones are given something."""

    class Starting(Line):
        begin: Callable[[], object] | None = None

        def write(self, frame: bytes) -> None:
            super().write(frame)
            if self.begin and self.of("trade"):
                asyncio.get_running_loop().call_soon(self.begin)
                self.begin = None

    async def run() -> None:
        async with gateway_of(12, 2_000) as gateway:
            starting = Starting()
            first, _ = gateway.client(starting)
            riders = [
                Rides(first, starting, 500, ("*",), ("trade",)),
                *(Rides(*gateway.client(), 500, ("*",), ("trade",)) for _ in range(59)),
            ]
            last = riders[-1]

            def begin() -> None:
                assert last.client.resuming
                assert not last.line.of("trade")
                if leaves:
                    gateway.sessions.serve(last.client, Unsubscribe(subscription="s1"))
                    last.ended = 0
                else:
                    gateway.resume(last.client, "local_md_0:200", channels=("trade", "bbo"))

            starting.begin = begin
            for rider in riders:
                gateway.resume(rider.client, "local_md_0:500", channels=("trade",))
            await gateway.quiet()
            assert starting.begin is None
            if not leaves:
                last.after, last.channels = 200, ("trade", "bbo")
            for rider in riders:
                rider.check(gateway.expected(0, 0))

    asyncio.run(run())


def test_who_has_stopped_keeps_the_others_for_a_while_only() -> None:
    async def run() -> None:
        async with gateway_of(13, 4_000) as gateway:
            stopped, other = (Rides(*gateway.client(), 0, ("*",), SOME) for _ in range(2))
            stopped.line.paused = True
            for rider in (stopped, other):
                gateway.resume(rider.client, "local_md_0:0")
            await until(lambda: not other.client.resuming, "it has all", 20)
            assert stopped.client.resuming
            gateway.go_on(stopped.client, stopped.line)
            await gateway.quiet()
            for rider in (stopped, other):
                rider.check(gateway.expected(0, 0))

    asyncio.run(run())


def test_who_comes_later_from_further_back_does_not_wait_for_the_end_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "_SPAN", 300)

    async def run() -> None:
        async with gateway_of(14, 4_000) as gateway:
            first, later = Rides(*gateway.client(), 1_000, ("*",), SOME), Rides(*gateway.client(), 100, ("*",), SOME)
            gateway.resume(first.client, "local_md_0:1000")
            await until(lambda: first.line.of("trade"), "the run has begun", 20)
            gateway.resume(later.client, "local_md_0:100")
            await until(lambda: later.line.of("trade"), "it has its turn", 20)
            assert first.client.resuming
            await gateway.quiet()
            for rider in (first, later):
                rider.check(gateway.expected(0, 0))

    asyncio.run(run())


def test_a_rider_that_nobody_is_on_any_more_is_not_carried_on() -> None:
    client: Any = None
    rider = Rider(client, 100)
    rider.join("s1", frozenset({("trade", "all", "")}), 100)
    rider.join("s2", frozenset({("book", "all", "")}), 900)
    assert (rider.sequence, rider.chosen) == (100, None)
    rider.leave("s1")
    assert (rider.sequence, rider.chosen) == (900, frozenset({("book", "all", "")}))
    rider.leave("s2")
    assert rider.sequence > 10**15
