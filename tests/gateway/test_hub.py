"""When the hub writes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Collection, Iterable

import pytest

from journal.clock import WallClock
from ssmd.gateway.buffer import Policy
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.message import MAX_FRAME, Topic, TradeData, Update
from tests.gateway.rig import until

WRITE_S = 0.02


class Nothing:
    """A state without a market."""

    def snapshot(self, channel: str, symbol: str) -> Update | None:
        del channel, symbol
        return None

    def positions(self) -> list[str]:
        return ["s:5"]

    def mark(self) -> str:
        return "s:5:digest"

    def kinds(self, symbol: str) -> tuple[str, str]:
        del symbol
        return "", ""

    def symbols(self) -> Iterable[str]:
        return ()

    def members(self, kind: str, name: str) -> Collection[str]:
        raise AssertionError((kind, name))


class Line:
    """A connection whose every frame takes the loop `write_s`."""

    paused = deflates = False

    def __init__(self, write_s: float = 0) -> None:
        self.frames: list[bytes] = []
        self._write_s = write_s

    def write(self, frame: bytes) -> None:
        time.sleep(self._write_s)
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError((code, reason))


def trade(topic: Topic, sequence: int) -> Update:
    channel, symbol = topic
    data = TradeData(symbol=symbol, position=f"s:{sequence}", price="1", size="1", aggressor="buy")
    return Update((channel, symbol), "s", sequence, lambda _: data)


def client_of(hub: Hub, output: Line, name: str = "c1") -> Client:
    client = Client(hub, output, name, who="", peer="", policy=Policy.drop_oldest, now_ns=0)
    hub.add(client)
    return client


class Still(asyncio.SelectorEventLoop):
    """Its time is what the test says."""

    now_s = 1_000.0

    def time(self) -> float:
        return self.now_s


def test_what_comes_goes_out_at_once_and_then_in_one_frame_every_five_milliseconds() -> None:
    loop = Still()

    async def body() -> None:
        hub, output, number = Hub(Nothing(), WallClock()), Line(), itertools.count(1)
        client_of(hub, output).add(("trade",), frozenset({("trade", "all", "")}), "realtime", 0).attached = True
        hub.regroup(*hub.clients.values())

        async def publish(at_ms: float, count: int = 1) -> list[int]:
            """Messages of each frame that is written by then."""
            loop.now_s = 1_000 + at_ms / 1_000
            hub.publish([trade(("trade", "A"), next(number)) for _ in range(count)])
            for _ in range(5):  # for what is due by now
                await asyncio.sleep(0)
            return [frame.count(b'"type":"trade"') for frame in output.frames]

        assert await publish(0) == [1]
        assert await publish(0.1) == [1]
        assert await publish(4.9, 3) == [1]
        assert await publish(5.01, 2) == [1, 6]
        assert await publish(7) == [1, 6]
        assert await publish(10.1) == [1, 6, 2]
        assert await publish(60) == [1, 6, 2, 1]

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body())


def test_where_writing_takes_long_frames_grow_and_the_loop_is_left_half_of_its_time() -> None:
    async def body() -> None:
        hub, output = Hub(Nothing(), WallClock()), Line(WRITE_S)
        client = client_of(hub, output)
        client.add(("trade",), frozenset({("trade", "all", "")}), "realtime", 0).attached = True
        hub.regroup(client)
        number = 0
        began = time.monotonic()
        while time.monotonic() - began < 1:
            hub.publish([trade(("trade", "A"), number)])
            number += 1
            await asyncio.sleep(0.001)
        writing_s, took_s = len(output.frames) * WRITE_S, time.monotonic() - began
        assert len(output.frames) > 2
        assert writing_s < 0.6 * took_s  # one after the other it would be nearly all of it
        await asyncio.sleep(0.3)
        assert sum(frame.count(b'"type":"trade"') for frame in output.frames) == number
        hub.remove(client)

    asyncio.run(body())


def test_what_fills_many_frames_is_framed_once_for_all_and_who_stops_in_between_keeps_the_rest_by_message() -> None:
    class Stopping(Line):
        """Takes two frames."""

        left = 2

        @property
        def paused(self) -> bool:  # type: ignore[override]
            return len(self.frames) >= self.left

    async def body() -> None:
        hub, first, second, stopped = Hub(Nothing(), WallClock()), Line(), Line(), Stopping()
        clients = [client_of(hub, output, f"c{number}") for number, output in enumerate((first, second, stopped))]
        for client in clients:
            client.add(("trade",), frozenset({("trade", "all", "")}), "realtime", 0).attached = True
            hub.regroup(client)
        updates = [trade(("trade", symbol * 100), number) for number in range(4_000) for symbol in "AB"]  # two of each entry
        hub.publish(updates)
        hub.distribute()
        assert len(first.frames) > 4
        assert all(one is other for one, other in zip(first.frames, second.frames, strict=True)), "encoded once for both"
        assert all(client.buffer.idle for client in clients[:2])
        assert max(map(len, first.frames)) <= MAX_FRAME + 20
        told = [json.loads(frame[frame.index(b'[{"') :]) for frame in first.frames]
        assert [m["position"] for frame in told for m in frame] == [u.position for u in updates]
        for one, other in itertools.pairwise(told):
            assert one[-1]["position"] != other[0]["position"], "what comes of one entry stays in one frame"
        assert stopped.frames == first.frames[:2]
        assert clients[2].buffer.pending[0] == sum(map(len, told[2:]))
        stopped.left = 1_000
        hub.drain(clients[2])
        await until(lambda: clients[2].buffer.idle, "all is sent")
        rest = [json.loads(frame[frame.index(b'[{"') :]) for frame in stopped.frames]
        assert [m["position"] for frame in rest for m in frame] == [u.position for u in updates]
        for client in clients:
            hub.remove(client)

    asyncio.run(body())


def test_who_is_still_being_told_what_it_missed_is_told_no_position_that_it_has_not_had() -> None:
    async def heartbeat(*, attached: bool) -> tuple[list[str], str | None]:
        hub, output = Hub(Nothing(), WallClock(), heartbeat_s=0.01), Line()
        client_of(hub, output).add(("trade",), frozenset({("trade", "all", "")}), "realtime", 0).attached = attached
        watching = asyncio.create_task(hub.watch())
        await until(lambda: output.frames, "a heartbeat")
        watching.cancel()
        frame = output.frames[0]
        [told] = json.loads(frame[frame.index(b'[{"') :])
        assert told["type"] == "heartbeat"
        return told["positions"], told.get("mark")

    assert asyncio.run(heartbeat(attached=True)) == (["s:5"], "s:5:digest")
    assert asyncio.run(heartbeat(attached=False)) == ([], None)


def test_what_cannot_be_made_for_one_client_ends_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Nothing):
        def snapshot(self, channel: str, symbol: str) -> Update | None:
            if symbol == "BAD":
                raise RuntimeError("a defect")
            return trade((channel, symbol), 7)

    class Closing(Line):
        said = ""

        def close(self, code: int, reason: str) -> None:
            self.said = f"{code} {reason}"

    async def body() -> None:
        hub, bad, good = Hub(Odd(), WallClock()), Closing(), [Line() for _ in range(3)]
        client_of(hub, bad, "bad").owe([("book", "BAD")])
        for number, output in enumerate(good):
            client_of(hub, output, f"c{number}").owe([("book", "GOOD")])
        await until(lambda: all(output.frames for output in good), "the others are served", 20)
        assert bad.said == "1011 the gateway failed; connect again"
        assert json.loads(bad.frames[-1][2:])[0]["code"] == "unavailable"
        assert list(hub.clients) == ["c0", "c1", "c2"]

    asyncio.run(body())
    assert "a frame of bad" in caplog.text


class Many(Nothing):
    """A thousand markets of ten series. A look at all of them, or at one of another series, fails."""

    def members(self, kind: str, name: str) -> Collection[str]:
        return [f"S{n % 10}-{n}" for n in range(1_000) if (name == f"S{n % 10}" if kind == "series" else name == "crypto")]

    def symbols(self) -> Iterable[str]:
        raise AssertionError


def test_only_the_markets_of_what_is_chosen_are_looked_at() -> None:
    """A request of 2,000 series of 100,000 markets held everybody up for more than 20 s, and one of a single series for 0.1 s."""
    state = Many()
    chosen = {(channel, "series", f"S{n}") for n in range(5, 2_000) for channel in ("book", "bbo", "trade")}
    found = Hub(state, WallClock()).topics({*chosen, ("ticker", "category", "crypto"), ("market", "symbol", "S0-0")})
    assert len(found) == len(set(found)) == 2 * 500 + 1_000 + 1
    assert ("book", "S7-7") in found
    assert ("bbo", "S1-1") not in found
