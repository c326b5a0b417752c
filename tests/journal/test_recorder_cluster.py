"""Eight racing writers on a cluster of three whose leader is killed. A failure prints its seed; SSMD_SEED runs it again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent

from journal.clock import WallClock
from journal.errors import SsmdError
from journal.guard import binary
from journal.jetstream import JetStreamJournal
from journal.recorder import JournalRecorder
from journal.subjects import Stream
from tests.journal.backends import backend
from tests.journal.servers import free_port
from tests.journal.test_recorder_races import new_seed

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
SECONDS = 20.0  # an election takes 5 to 7
KILL_AT_S, AWAY_S = 4.0, 1.0


class Cluster:
    """Three servers on this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = [free_port() for _ in range(6)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in self._ports[:3])

    def start(self, number: int) -> None:
        config, store = self._directory / f"{number}.conf", self._directory / f"store{number}"
        routes = json.dumps([f"nats://127.0.0.1:{port}" for port in self._ports[3:]])
        config.write_text(
            f'server_name: n{number}\nlisten: "127.0.0.1:{self._ports[number]}"\n'
            f'jetstream {{ store_dir: "{store}", sync_interval: always, max_file_store: {1 << 40} }}\n'
            f'cluster {{ name: c, listen: "127.0.0.1:{self._ports[3 + number]}", routes: {routes} }}\n'
        )
        with (self._directory / f"{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen([binary(), "-c", str(config)], stderr=log)

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        for number in range(3):
            made.start(number)
        yield made
    finally:
        for number in range(3):
            made.kill(number)


async def make(url: str, stream: Stream) -> None:
    """Once the cluster has found itself."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(SsmdError):
                journal = await JetStreamJournal.connect(url, WallClock(), replicas=3)
                try:
                    await journal.ensure(stream)
                    return
                finally:
                    await journal.close()
            await asyncio.sleep(0.3)


def write(recorder: JournalRecorder, name: str, rng: random.Random, won: list[tuple[str, int, str]]) -> None:
    """Until the time is over: change an aggregate or two, and note what we were told is ours."""
    end, attempt = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        events = []
        for aggregate in rng.sample("AB", rng.randint(1, 2)):
            newest = recorder.select_events(aggregate, desc=True, limit=1)
            events.append(StoredEvent(aggregate, newest[0].originator_version + 1 if newest else 1, "t", b"{}"))
        attempt += 1
        with contextlib.suppress(IntegrityError):
            recorder.insert_events(events, why=f"{name}/{attempt}")
            won += [(str(e.originator_id), e.originator_version, f"{name}/{attempt}") for e in events]


def test_one_wins_each_version_though_the_leader_is_killed(cluster: Cluster) -> None:
    seed, stream = new_seed(), Stream(f"t{uuid4().hex[:12]}", domain="key")
    asyncio.run(make(cluster.url, stream))
    won: list[tuple[str, int, str]] = []
    failed: list[OperationalError] = []
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(backend(cluster.url, timeout_s=2.0)) for _ in range(9)]

        def work(number: int) -> None:
            try:
                write(places[number].recorder(stream, timeout_s=60), f"w{number}", random.Random(f"{seed}/{number}"), won)
            except OperationalError as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(KILL_AT_S)
        journal = places[8].journal
        assert isinstance(journal, JetStreamJournal)
        leader = int(places[8].run(journal._ask(f"STREAM.INFO.{stream.name}"))["cluster"]["leader"][1:])
        cluster.kill(leader)
        before = len(won)
        time.sleep(AWAY_S)
        cluster.start(leader)
        for thread in threads:
            thread.join()
        assert not failed
        reader = places[8].recorder(stream, timeout_s=60)
        records = places[8].run(read_entries(journal, stream))
        assert len(reader.select_events("A")) + len(reader.select_events("B")) == len(records)
    assert 0 < before < len(won), "nothing was written before, or after, the kill"
    assert Counter(won) == Counter(records), "lost, doubled, or with two winners"
    for aggregate in "AB":
        versions = [version for name, version, _ in records if name == aggregate]
        assert versions == list(range(1, len(versions) + 1))
    print(f"{len(records)} events, {before} before the kill")


async def read_entries(journal: JetStreamJournal, stream: Stream) -> list[tuple[str, int, str]]:
    return [(r.entry.symbol.partition(".")[0], r.entry.frame, r.entry.body.why) async for rs in journal.read(stream) for r in rs]  # type: ignore[union-attr]
