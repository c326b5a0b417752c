"""Questions about the past: answered by a process of its own, from what they need alone, and the stream does not notice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.sync.client import connect

from journal.clock import WallClock
from journal.memory import MemoryJournal
from journal.subjects import Stream
from projections.book import BookProjection
from projections.projection import Projection
from projections.runner import Runner
from projections.ticker import TickerProjection
from replay.source import JournalSource
from ssmd.gateway.access import OPEN
from ssmd.gateway.annex import _SLACK_S, Annex
from ssmd.gateway.operation import Call
from ssmd.gateway.problem import Problem
from ssmd.gateway.routes import OPERATIONS
from ssmd.settings import Settings
from tests.gateway.rig import DAY, Market
from tests.gateway.served import GOLD, Served, gateway, seeded

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked at in /proc")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("past"))
    with gateway(data, told) as found:
        yield found
        reader = found.reader
        assert reader
    assert not Path(f"/proc/{reader}").exists(), "it ends with the gateway"
    assert "Traceback" not in found.log


def book_then(served: Served) -> str:
    return f"/v1/markets/{GOLD}/book?as_of={served.told.times['delta']}"


def test_the_same_question_is_asked_once(served: Served) -> None:
    """More than may wait ask the same at the same time: all are answered alike."""
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda _: served.ask(book_then(served)), range(60)))
    assert {a.status for a in answers} == {200}
    assert len({a.data for a in answers}) == 1


def test_a_reader_that_dies_is_started_again(served: Served) -> None:
    expected = served.good(book_then(served))
    dead = served.reader
    os.kill(dead, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (answer := served.ask(book_then(served))).status != 200:
        assert (answer.kind, answer.headers["retry-after"]) == ("unavailable", "2")
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer.json == expected
    assert served.reader not in {0, dead}


def test_a_reader_that_hangs_is_ended_and_its_questions_do_not_count_for_ever(tmp_path: Path) -> None:
    """Six questions that nobody answered made the gateway busy until it was started again."""
    data, _ = seeded(tmp_path)
    operation = next(o for o in OPERATIONS if o.path == "/v1/coverage")

    async def run() -> None:
        clock = WallClock()

        def asked(number: int) -> Call:
            return Call(OPEN, {}, operation.query(as_of=str(clock.wall_ns() - number)), None, clock.wall_ns())

        async with Annex(Settings.read({"data": str(data)}, {}), clock, at_once=1, limit_s=60).opened() as annex:
            assert (await annex.ask(operation, asked(0), {})).data
            assert annex._process
            hung = annex._process.pid
            os.kill(hung, signal.SIGSTOP)
            annex._limit_s = 1 - _SLACK_S
            lost = await asyncio.gather(*(annex.ask(operation, asked(n), {}) for n in range(5)), return_exceptions=True)
            assert [getattr(problem, "kind", problem) for problem in lost] == ["unavailable"] * 5
            annex._limit_s = 60
            async with asyncio.timeout(60):
                while True:
                    with suppress(Problem):
                        assert (await annex.ask(operation, asked(0), {})).data
                        break
                    await asyncio.sleep(0.2)
            gone.append(hung)

    gone = list[int]()
    asyncio.run(run())
    assert not Path(f"/proc/{gone[0]}").exists()


def test_the_stream_goes_on_while_many_ask_about_the_past(served: Served) -> None:
    served.good(book_then(served))  # the reader is there
    ended, took = threading.Event(), list[float]()

    def storm(number: int) -> None:
        while not ended.is_set():
            for what in ("coverage?", f"markets/{GOLD}?", f"markets/{GOLD}/book?depth={number}&", f"markets/{GOLD}/candles?"):
                served.ask(f"/v1/{what}as_of={served.told.times['delta'] + number}")

    with ThreadPoolExecutor(8) as pool, connect(f"ws://127.0.0.1:{served.port}/v1/stream") as ws:
        for number in range(8):
            pool.submit(storm, number)
        for number in range(40):
            time.sleep(0.06)
            started = time.monotonic()
            ws.send(json.dumps({"op": "ping", "id": str(number)}))
            while f'"id":"{number}"' not in str(ws.recv(60)):
                pass
            took.append(time.monotonic() - started)
        ended.set()
    # Threads of one process made it wait 0.3 to 0.8 s.
    assert sorted(took)[len(took) * 3 // 4] < 0.1, took


def test_what_is_read_for_one_symbol_is_all_that_it_needs() -> None:
    """Books and tickers folded from its own messages are those that all messages make."""

    async def run() -> None:
        journal, stream = MemoryJournal(), Stream("local", shard="0")
        await journal.ensure(stream, "kalshi")
        market = Market(random.Random(11), 12)
        for _ in range(20):
            await journal.append(stream, market.run(300))
        whole: list[Projection] = [BookProjection(), TickerProjection()]
        await fold(JournalSource(journal), stream, whole, None)
        for symbol in market.symbols:
            own: list[Projection] = [BookProjection(), TickerProjection()]
            read = await fold(JournalSource(journal, chosen=True), stream, own, symbol)
            assert read < 2_000
            for one, other in zip(own, whole, strict=True):
                assert one.canonical(symbol) == other.canonical(symbol)

    asyncio.run(run())


async def fold(source: JournalSource, stream: Stream, projections: list[Projection], symbol: str | None) -> int:
    runner = Runner(projections, stream.name, mark=lambda _: 1 << 63)
    async for block in source.blocks(stream, day=DAY, symbols=None if symbol is None else [symbol]):
        for _ in runner.apply(block):
            pass
    return runner.entries
