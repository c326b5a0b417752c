"""A gateway as a process of its own, over a journal with a few markets whose books and trades are known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from journal.clock import WallClock
from journal.day import to_date
from journal.entry import Aggressor, Book, Change, Delta, Entry, Gap, Op, Side, Ticker, Trade, control
from journal.market import Change as Happened
from journal.market import Market
from journal.subjects import Stream
from ssmd.secmaster.stream import change_entry, secmaster
from ssmd.settings import Settings
from ssmd.wiring import day_rule, open_journal

STREAM = Stream("local", shard="0")
GOLD, DOTTED, SLASHED, HIDDEN = "KXGOLD-26NOV22-B2600", "KXGOLD-26NOV22-T26.50", "BTC/USD", "KXSILVER-26NOV22-T31"
PREFIX = 1_000  # of the journal, before what is asked for


def bid(price: int, size: int, op: Op = Op.set) -> Change:
    return Change(price, size, Side.bid, op)


def ask(price: int, size: int, op: Op = Op.set) -> Change:
    return Change(price, size, Side.ask, op)


@dataclass(frozen=True)
class Told:
    """What was journalled, by name: positions and times."""

    times: dict[str, int]
    positions: dict[str, int]


async def seed(data: Path, variables: Mapping[str, str] | None = None) -> Told:
    """Three markets with messages, and one without, all known to the security master but the one with a slash."""
    settings = Settings.read({"data": str(data)}, variables or {})
    clock, times, positions = WallClock(), dict[str, int](), dict[str, int]()
    start_ns = clock.wall_ns() - 600 * 10**9
    rule = day_rule(settings)
    day = rule.day_of(clock.wall_ns())
    opened_ns = rule.opens_ns(to_date(day))
    start_ns = max(start_ns, opened_ns)
    second_ns = min(10**9, (clock.wall_ns() - start_ns) // 200)  # shorter just after midnight: nothing is still to come
    said: list[tuple[str, str, Any, int]] = [
        ("connected", "", control("connected", {}), 0),
        ("snapshot", GOLD, Book((bid(400_000, 1_000), bid(390_000, 2_500), ask(420_000, 500))), 1),
        ("dotted", DOTTED, Book((bid(100_000, 700), ask(120_000, 800))), 2),
        ("slashed", SLASHED, Book((bid(500_000, 100), ask(510_000, 200))), 3),
        ("trade 1", GOLD, Trade(410_000, 300, Aggressor.buy, 0, "t1"), 10),
        ("trade 2", GOLD, Trade(420_000, 200, Aggressor.sell, 0, "t2"), 20),
        ("delta", GOLD, Delta((bid(410_000, 1_500, Op.add), ask(420_000, -500, Op.add), ask(430_000, 250, Op.add))), 30),
        ("ticker", GOLD, Ticker(last=420_000, volume=123_456), 31),
        ("trade 3", GOLD, Trade(400_000, 100, Aggressor.unknown, 0, "t3"), 80),
        ("gap", "", Gap("lost", "orderbook_delta", 5, 7), 90),
        ("trade 4", GOLD, Trade(405_000, 100, Aggressor.buy, 0, "t4"), 150),
    ]
    async with open_journal(settings, clock) as journal:
        await journal.ensure(STREAM, "kalshi")
        await journal.ensure(secmaster("local"))
        entries = []
        for number, (_, symbol, body, after_s) in enumerate(said):
            at_ns = start_ns + after_s * second_ns
            place: dict[str, Any] = {
                "epoch": bytes(16),
                "frame": number,
                "recv_ns": at_ns,
                "mono_ns": number,
                "effective_ns": at_ns,
                "day": day,
            }
            of = 9 if isinstance(body, Gap) else 1  # a gap of another subscription leaves the books as they are
            entries.append(Entry(body, "kalshi", symbol, subscription=of, price_exponent=-6, size_exponent=-2, **place))
        for (name, *_), entry, sequence in zip(said, entries, await journal.append(STREAM, entries), strict=True):
            times[name], positions[name] = entry.effective_ns, sequence
        added = []
        for number, symbol in enumerate((GOLD, DOTTED, HIDDEN)):
            found = Market(
                symbol=symbol, series=symbol.partition("-")[0], event=symbol.rpartition("-")[0], title=f"Market {number}",
                category="Commodities", status="active", venue_status="active", price_exponent=-6, size_exponent=-2,
                close_ns=start_ns + 3_600 * 10**9,
            )  # fmt: skip
            change = Happened(change="market_added", symbol=symbol, source="rest", at_ns=start_ns, market=found)
            added.append(change_entry(change, 0, effective_ns=start_ns, recv_ns=start_ns, mono_ns=0, day=day, raw=b"{}", who="tests"))
        closed = Happened(change="market_status_changed", symbol=DOTTED, source="rest", fields={"status": ("active", "closed")})
        later_ns = start_ns + 60 * second_ns
        added.append(change_entry(closed, 1, effective_ns=later_ns, recv_ns=later_ns, mono_ns=0, day=day, raw=b"{}", who="tests"))
        times["closed"] = later_ns
        await journal.append(secmaster("local"), added)
    return Told(times, positions)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def kind(self) -> str:
        """Of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.json["status"] == self.status
        return str(self.json["type"]).removeprefix("urn:ssmd:problem:")


@dataclass
class Served:
    data: Path
    port: int
    process: subprocess.Popen[str]
    told: Told
    said: list[str]
    key: str = field(default="", repr=False)  # used where a request names none

    def ask(self, path: str, method: str = "GET", *, key: str = "", body: Any = None, **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key or self.key:
            sent.setdefault("Authorization", f"Bearer {key or self.key}")
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def good(self, path: str, **more: Any) -> Any:
        answer = self.ask(path, **more)
        assert answer.status == 200, answer
        return answer.json

    @property
    def reader(self) -> int:
        """The process that answers about the past; 0 before it was asked. Where there is no /proc, 0."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        found = [int(child) for path in children for child in path.read_text().split()]
        return next((n for n in found if b"ssmd.gateway.reader" in Path(f"/proc/{n}/cmdline").read_bytes()), 0)

    @property
    def log(self) -> str:
        return "".join(self.said)


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "ssmd.cli", *args]


def environ(data: Path, **more: str) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith("SSMD_")}
    return {**kept, "SSMD_DATA": str(data), **more}


def stop(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def gateway(
    data: Path, told: Told, *options: str, directory: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Started, ready, and stopped in the end."""
    args = command("run", "gateway", "--port", "0", *options)
    process = subprocess.Popen(args, env=environ(data, **(variables or {})), cwd=directory or data, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")), daemon=True)  # type: ignore[union-attr]
    reader.start()
    try:
        deadline = time.monotonic() + 120
        while not (ready := next((line for line in said if "serving http" in line), "")):
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        port = int(ready.partition("serving ")[2].partition(",")[0].rpartition(":")[2])
        yield Served(data, port, process, told, said)
    finally:
        stop(process)
        reader.join(10)
        process.stderr.close()


def seeded(directory: Path) -> tuple[Path, Told]:
    data = directory / "data"
    data.mkdir()
    return data, asyncio.run(seed(data))
