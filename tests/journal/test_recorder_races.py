"""Eight processes change the same aggregates while their server is killed: each version has one writer, and everybody knows who.

A failure prints its seed; SSMD_SEED runs it again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest

from journal.entry import Entry, Event
from journal.subjects import Stream
from tests.journal.backends import backend
from tests.journal.contract import read_all
from tests.journal.recorder_writer import AGGREGATES
from tests.journal.servers import nats_server

ROOT = Path(__file__).parents[2]


def new_seed() -> int:
    seed = int(os.environ.get("SSMD_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SSMD_SEED={seed}")
    return seed


class Writers:
    """Processes of one mode, all ended when the test is over."""

    def __init__(self, mode: str, *last: str) -> None:
        self._mode, self._last = mode, last
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def start(self, url: str, stream: Stream, name: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.journal.recorder_writer", self._mode, url, stream.name, name, *self._last]
        pipe = subprocess.PIPE
        self._processes.append(subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return self._processes[-1]

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def begin(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Once all of them are connected."""
    for process in processes:
        assert process.stdout
        assert json.loads(process.stdout.readline()) == {"connected": True}
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()


def told(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """All that it reports until it ends."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def said(entry: Entry) -> str:
    assert isinstance(entry.body, Event)
    return entry.body.why


@pytest.mark.parametrize("killed", [False, True])
def test_of_eight_racing_writers_one_wins_each_version(tmp_path: Path, *, killed: bool) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    stream, upto = Stream.parse(f"t{uuid4().hex[:12]}_key"), 60 if killed else 30
    with nats_server(tmp_path) as server, backend(server.url) as place, Writers("race", str(seed), str(upto)) as start:
        recorder = place.recorder(stream)
        writers = {f"w{n}": start.start(server.url, stream, f"w{n}") for n in range(8)}
        begin(writers.values())
        if killed:
            deadline, begun = time.monotonic() + 60, rng.randint(10, 100)
            while (recorder.max_notification_id() or 0) < begun and time.monotonic() < deadline:
                time.sleep(0.01)
            server.stop()
            time.sleep(rng.uniform(0, 0.5))
            server.start()
        reports = {name: told(process) for name, process in writers.items()}
        stored = place.run(read_all(place.journal, stream))
    wins = [
        ((a, v), f"{name}/{line['won']}") for name, lines in reports.items() for line in lines if "won" in line for a, v in line["events"]
    ]
    losses = sum("lost" in line for lines in reports.values() for line in lines)
    winners = dict(wins)
    assert len(wins) == len(winners), "two writers were told that they wrote one version"
    assert Counter(r.entry.symbol for r in stored) == Counter(f"{a}.{v}" for a, v in winners), "lost or doubled"
    for record in stored:
        name, _, version = record.entry.symbol.rpartition(".")
        assert said(record.entry) == winners[name, int(version)]
    for aggregate in AGGREGATES:
        versions = [r.entry.frame for r in stored if r.entry.symbol.startswith(f"{aggregate}.")]
        assert versions == list(range(1, len(versions) + 1)), "not contiguous, or not in order"
        assert len(versions) >= upto
    assert len({n.partition("/")[0] for n in winners.values()}) > 1, "nobody raced"
    assert losses > 0
    print(f"{len(stored)} events, {losses} losers")


def test_a_policys_events_and_its_tracking_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    """Two processes of one policy are killed at random instants and started again; so is the server."""
    seed = new_seed()
    rng = random.Random(seed)
    stream, upto = Stream.parse(f"t{uuid4().hex[:12]}_key"), 600
    with nats_server(tmp_path) as server, backend(server.url) as place, Writers("follow", str(seed), str(upto)) as start:
        running = [start.start(server.url, stream, f"p{n}") for n in range(2)]
        begin(running)
        for life in range(2, 8):
            time.sleep(rng.uniform(0, 0.3))
            victim = rng.randrange(2)
            running[victim].kill()
            running[victim].communicate()
            running[victim] = start.start(server.url, stream, f"p{life}")
            begin([running[victim]])
            if life == 4:
                server.stop()
                server.start()
        at_last_kill = place.recorder(stream).max_tracking_id("upstream") or 0
        assert 0 < at_last_kill < upto, "they were killed while they wrote"
        for process in running:
            told(process)
        stored = [r.entry for r in place.run(read_all(place.journal, stream))]
    waiting: list[str] = []
    tracked: list[int] = []
    for entry in stored:
        if entry.body.type == "events":
            waiting.append(entry.symbol)
            continue
        number, count = entry.frame, int(said(entry).partition("/")[2])
        assert waiting == [f"policy-{number}-{n}.1" for n in range(count)]
        tracked.append(number)
        waiting = []
    assert not waiting
    assert tracked == list(range(1, upto + 1))
    print(f"{at_last_kill} of {upto} at the last kill")
