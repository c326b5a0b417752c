"""What a view takes: of 100,000 symbols, and of snapshots that were asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ssmd.gateway.kept import Kept
from ssmd.gateway.message import Heartbeat, Topic, Update

ROOT = Path(__file__).resolve().parents[2]
CEILING_MIB = 450  # of books of 20 levels, tickers and statuses of 100,000 symbols, and every snapshot asked for: 280 measured
CHILD = """
import gc, sys
from journal.entry import Book, Change, Entry, Lifecycle, Record, Ticker
from journal.subjects import Stream
from ssmd.gateway.view import MarketView, block_of

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

count, sequence = int(sys.argv[1]), 0
view = MarketView(Stream("local", shard="0"), "kalshi")
gc.collect()
before = resident()
levels = tuple(Change((10 + i) * 10_000, 100 + i, i // 10, 1) for i in range(20))
for first in range(0, count, 500):
    records = []
    for n in range(first, first + 500):
        for body in (Book(levels), Ticker(last=10_000, volume=n), Lifecycle("activated", "active")):
            sequence += 1
            symbol = f"KXMARKET{n % 97:02d}-26NOV22-B{n:07d}"
            entry = Entry(body, "kalshi", symbol, bytes(16), sequence, sequence, 0, sequence, 20261122, sequence, 0, 1, 0, 1, -6, -2)
            records.append(Record(sequence, entry))
    block = block_of(records)
    if first < count - 5_000:
        view._fold(block)
    else:
        if view.recent.since == 0:
            view._begin()
        view.recent.add(view.changes(block))
for symbol in view.symbols():
    for channel in ("book", "bbo", "ticker", "market"):
        assert view.snapshot(channel, symbol).data
gc.collect()
print(len(view.symbols()), resident() - before)
"""


def test_100_000_symbols_take_what_they_are_said_to(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CHILD, "100000"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    symbols, mib = map(int, run.stdout.split())
    assert symbols == 100_000
    assert mib < CEILING_MIB


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9), st.sampled_from(["put", "get", "forget"]))))
def test_what_was_asked_for_last_is_kept_within_bounds(steps: list[tuple[int, int, str]]) -> None:
    kept, model = Kept(5, 20), dict[Topic, int]()  # the newest last
    for name, weight, step in steps:
        topic = "book", str(name)
        if step == "put":
            kept.put(topic, Update(("book", str(name)), "s", 1, lambda _: Heartbeat(positions=[], time="", time_ns=0), weight=weight))
            model.pop(topic, None)
            model[topic] = weight
            while len(model) > 1 and (len(model) > 5 or sum(model.values()) > 20):
                del model[next(iter(model))]
        elif step == "forget":
            kept.forget(topic)
            model.pop(topic, None)
        else:
            assert (kept.get(topic) is not None) == (topic in model)
            if topic in model:
                model[topic] = model.pop(topic)
        assert len(kept) == len(model)
        assert kept._weight == sum(model.values())
