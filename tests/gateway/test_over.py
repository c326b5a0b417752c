"""Markets that are over leave the gateway's memory, and are as they were when something is said of them after all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from journal.entry import Body, Book, Change, Control, Delta, Entry, Lifecycle, Record, Ticker, Trade
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from ssmd.gateway.message import Update
from ssmd.gateway.over import CLOSED_NS, LOOK_NS, MANY, SETTLED_NS, Forgotten, over
from ssmd.gateway.view import MarketView, block_of
from tests.gateway.rig import until

ROOT = Path(__file__).resolve().parents[2]
STREAM = Stream("local", shard="0")
EPOCH = bytes(range(16))
CEILING_MIB = 60  # above what the same view takes with the markets of five hours: 19 measured; 100,000 that are kept take 280


class Day:
    """Entries of markets that begin, trade and end."""

    def __init__(self) -> None:
        self.at_ns = 1_795_000_000 * 10**9
        self._frame = 0

    def entry(self, symbol: str, body: Body, *, subscription: int = 7) -> Entry:
        self._frame += 1
        self.at_ns += 1_000_000
        now = self.at_ns
        return Entry(body, "kalshi", symbol, EPOCH, self._frame, now, 0, now, 20261122, now, subscription, 1, 0, 1, -6, -2)

    def begin(self, symbol: str) -> list[Entry]:
        levels = tuple(Change((10 + i) * 10_000, 100 + i, i // 5, 1) for i in range(10))
        bodies = (Lifecycle("activated", "active"), Book(levels), Ticker(last=10_000), Trade(110_000, 5, 1, 0, symbol))
        return [self.entry(symbol, body) for body in bodies]

    def end(self, symbol: str) -> list[Entry]:
        settled = Lifecycle("settled", "settled", settled_ns=self.at_ns, settlement_value=10_000, result="yes")
        return [self.entry(symbol, Control("unsubscribed")), self.entry(symbol, settled)]


def told(updates: Sequence[Update]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(update.data) for update in updates]


def records_of(entries: Sequence[Entry], first: int) -> list[Record]:
    return [Record(first + n, entry) for n, entry in enumerate(entries)]


def test_what_is_over() -> None:
    day, view = Day(), MarketView(STREAM, "kalshi")
    entries = [e for s in ("LIVE", "DONE", "OPEN-BOOK", "SHUT") for e in day.begin(s)]
    entries += day.end("DONE")
    entries += [day.entry("OPEN-BOOK", Lifecycle("settled", "settled", settled_ns=day.at_ns))]
    entries += [day.entry("SHUT", Control("unsubscribed")), day.entry("SHUT", Lifecycle("closed", "closed", close_ns=day.at_ns))]
    view.changes(block_of(records_of(entries, 1)))
    for after_ns, expected in ((0, set()), (SETTLED_NS + 10**9, {"DONE"}), (CLOSED_NS + 10**9, {"DONE", "SHUT"})):
        later = Day()
        later.at_ns = day.at_ns + after_ns
        view.changes(block_of([Record(view.position + 1, later.entry("LIVE", Ticker(last=1)))]))
        assert over(view) == expected


def test_what_was_forgotten_comes_alive_as_it_was() -> None:
    """What is told of it, and of all others, is what a view tells that has forgotten nothing."""

    async def run() -> None:
        day, journal, storage = Day(), MemoryJournal(), MemoryStorage()
        await journal.ensure(STREAM, "kalshi")
        symbols = [f"M{n:04d}" for n in range(MANY + 5)]
        for symbol in symbols:
            await journal.append(STREAM, day.begin(symbol))
            if symbol not in symbols[:3]:
                await journal.append(STREAM, day.end(symbol))
        day.at_ns += SETTLED_NS + LOOK_NS
        whole, view, heard = MarketView(STREAM, "kalshi"), MarketView(STREAM, "kalshi"), list[Update]()
        await view.start(journal, storage)
        await whole.start(journal, storage)
        following = asyncio.create_task(view.follow(journal, storage, heard.extend))

        async def both(entries: list[Entry]) -> None:
            first = whole.position + 1
            await journal.append(STREAM, entries)
            expected = told(whole.changes(block_of(records_of(entries, first))))
            await until(lambda: following.done() or view.position == whole.position, "it has come there")
            assert told(heard) == expected
            heard.clear()

        alive, dead = symbols[0], symbols[50]
        await both([day.entry(alive, Delta((Change(500_000, 5, 0, 1),)))])
        await until(lambda: len(view.forgotten) == MANY + 2, "what is over is forgotten")
        assert view.symbols() == symbols[:3]
        assert view.snapshot("book", dead) is view.snapshot("ticker", dead) is view.snapshot("market", dead) is None
        await both([day.entry(alive, Ticker(volume=5)), day.entry(alive, Trade(100_000, 1, 1, 0, "one")), *day.begin("NEW")])
        assert not view.knows(dead)
        await both([day.entry(dead, Lifecycle("settled", result="no")), day.entry(dead, Ticker(volume=1))])
        assert view.symbols() == whole.symbols()
        for symbol in (alive, dead, symbols[51], "NEW"):
            for channel in ("book", "bbo", "ticker", "market"):
                one, other = (found.snapshot(channel, symbol) for found in (view, whole))
                assert one
                assert other
                assert one.data == other.data, (channel, symbol)
        await both([*day.begin(symbols[52]), day.entry(alive, Control("closed"), subscription=0)])
        following.cancel()

    asyncio.run(run())


def test_names_of_what_was_forgotten_are_bounded() -> None:
    forgotten = Forgotten(3)
    forgotten.add(["a", "b"])
    forgotten.add(["c", "d"])
    entry = Day().entry
    assert forgotten.among([Record(n, entry(name, Ticker())) for n, name in enumerate("abcde", 1)]) == {"b", "c", "d"}
    assert forgotten.times == 2
    forgotten.drop(["b", "z"])
    assert len(forgotten) == 2


CHILD = """
import gc, sys
from ssmd.gateway.over import MANY, over
from ssmd.gateway.view import MarketView, block_of
from tests.gateway.test_over import STREAM, Day, records_of

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

day, view, hours = Day(), MarketView(STREAM, "kalshi", recent=1_000), int(sys.argv[1])
before = most = 0
for hour in range(hours):
    symbols = [f"KXMARKET{n % 97:02d}-26NOV22-B{hour:03d}-{n:07d}" for n in range(1_000)]
    for change in (day.begin, day.end):
        for at in range(0, 1_000, 100):
            entries = [e for symbol in symbols[at : at + 100] for e in change(symbol)]
            block = block_of(records_of(entries, view.position + 1))
            if hour % 10:
                view._fold(block)
            else:
                view.recent.add(view.changes(block))
        if hour % 10:
            view._begin()
        for symbol in symbols[:: 1 if hour % 10 == 0 else 20]:
            for channel in ("book", "bbo", "ticker", "market"):
                assert view.snapshot(channel, symbol).data
    day.at_ns += 3_600 * 10**9
    if sys.argv[2] == "forget" and len(found := over(view)) >= MANY:
        view.forget(found)
    if hour == 4:
        gc.collect()
        before = resident()
gc.collect()
print(len(view.symbols()), len(view.forgotten), resident() - before)
"""


def test_100_000_markets_that_come_and_go_take_what_few_take(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CHILD, "100", "forget"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    symbols, forgotten, mib = map(int, run.stdout.split())
    assert symbols < 2 * MANY
    assert symbols + forgotten == 100_000
    assert mib < CEILING_MIB, mib
