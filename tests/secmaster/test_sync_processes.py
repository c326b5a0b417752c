"""Processes that synchronise at once, and that are killed, on a real server."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from exchanges.markets import DefinitionPage
from journal.block import Block
from journal.clock import WallClock
from journal.entry import Record
from journal.jetstream import JetStreamJournal
from projections.projection import Digester
from projections.secmaster import SecmasterProjection, change_of
from ssmd.secmaster.stream import secmaster
from tests.journal.servers import TOKEN, NatsServer, nats_server
from tests.secmaster.listing import ENV, Listing, ledger_of, synchronise
from tests.secmaster.syncer import listed

STREAM = secmaster(ENV)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    directory = tmp_path / "nats"
    directory.mkdir()
    with nats_server(directory) as started:
        yield started


def syncer(server: NatsServer, view: Path, who: str, count: int, version: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.secmaster.syncer", server.url, str(view), who, str(count), str(version)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Let them begin together; what each says in the end."""
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [p.returncode for p in processes] == [0] * len(processes)
    return said


def journalled(server: NatsServer) -> list[Record]:
    async def body() -> list[Record]:
        journal = await JetStreamJournal.connect(server.url, WallClock(), token=TOKEN)
        records = [r async for found in journal.read(STREAM) for r in found]
        await journal.close()
        return records

    return asyncio.run(body())


def kinds(records: list[Record]) -> Counter[tuple[str, str]]:
    return Counter((c.symbol, c.change) for r in records if (c := change_of(r.entry)))


def fold(records: list[Record]) -> SecmasterProjection:
    projection = SecmasterProjection()
    projection.apply(Block.of(records))
    return projection


@pytest.mark.parametrize("views", [("one", "one", "one"), ("one", "two", "three")], ids=["one file", "three files"])
def test_three_at_once_journal_each_change_once(server: NatsServer, tmp_path: Path, views: tuple[str, ...]) -> None:
    count = 1_000
    for version, expected in ((1, {"market_added": count}), (2, {"market_updated": 143, "market_status_changed": 143})):
        before = len(journalled(server))
        said = go(*(syncer(server, tmp_path / f"{view}.sqlite", f"p{n}", count, version) for n, view in enumerate(views)))
        total: Counter[str] = Counter()
        for summary in said:
            total.update(summary["counts"])
        assert total == expected
        records = journalled(server)
        assert set(kinds(records[before:]).values()) == {1}
        assert kinds(records[before:]).total() == sum(expected.values())
        projection = fold(records)
        assert projection.markets() == {m.symbol: m for m in listed(count, version)}
        assert Digester(projection).digest() in {s["digest"] for s in said}
    writers = Counter(r.entry.body.who for r in journalled(server) if change_of(r.entry))  # type: ignore[union-attr]
    assert writers.total() == count + 286


def test_killed_anywhere_the_next_one_ends_it(server: NatsServer, tmp_path: Path) -> None:
    """Killed after a random time, again and again; then what was journalled is what one undisturbed run journals."""
    count, rng, view = 2_000, random.Random(7), tmp_path / "view.sqlite"
    resumed = 0
    for version in (1, 2, 3):
        for _ in range(8):
            process = syncer(server, view, "killed", count, version)
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(rng.uniform(0.0, 0.08))
            process.kill()
            process.communicate()
        (said,) = go(syncer(server, view, "ends", count, version))
        resumed += said["resumed"]
        projection = fold(journalled(server))
        assert projection.markets() == {m.symbol: m for m in listed(count, version)}
        assert said["digest"] == Digester(projection).digest()
    assert set(kinds(journalled(server)).values()) == {1}
    assert resumed  # at least one was killed between its first and its last page


def test_a_server_that_is_killed_meanwhile_costs_time_and_nothing_else(server: NatsServer, tmp_path: Path) -> None:
    class Slow(Listing):
        async def definitions(self, **asked: Any) -> AsyncIterator[DefinitionPage]:
            async for page in super().definitions(**asked):
                yield page
                await asyncio.sleep(0.05)

    async def body() -> None:
        clock = WallClock()
        journal = await JetStreamJournal.connect(server.url, clock, token=TOKEN, timeout_s=0.5)
        ledger = ledger_of(tmp_path, journal, clock)
        running = asyncio.create_task(synchronise(ledger, Slow(listed(1_000, 1), page=50), clock))
        for _ in range(3):
            await asyncio.sleep(0.25)
            server.stop()
            await asyncio.sleep(0.25)
            server.start()
        summary = await running
        assert summary.synced.counts == {"market_added": 1_000}
        assert ledger.view.digest() == Digester(fold(await asyncio.to_thread(journalled, server))).digest()
        await journal.close()

    asyncio.run(body())
    assert kinds(journalled(server)) == Counter({(m.symbol, "market_added"): 1 for m in listed(1_000, 1)})
