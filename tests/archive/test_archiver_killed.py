"""The archiver as a process of its own, killed while a writer goes on appending to a real server."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.entry import Change, Control, Delta, Entry
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryStorage
from journal.segment import Limits
from journal.storage import LocalStorage
from journal.subjects import Stream
from ssmd.services.archiver import Archiver
from tests.journal.servers import TOKEN, NatsServer

STREAM = Stream("local", shard="0")
LIMITS = Limits(entries=3_000, block_rows=500, raw_frame_bytes=20_000)
KILLS = 6
BATCH, BATCHES = 250, 120

_ARCHIVER = """
import asyncio, signal, sys
from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.storage import LocalStorage
from ssmd.services.archiver import Archiver
from tests.archive.test_archiver_killed import LIMITS, TOKEN

async def main():
    journal = await JetStreamJournal.connect(sys.argv[1], WallClock(), token=TOKEN)
    archiver = Archiver(journal, LocalStorage(sys.argv[2]), "local", WallClock(), limits=LIMITS, flush_s=0.05)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, archiver.stop)
    print("ready", flush=True)
    await archiver.run()
    await journal.close()

asyncio.run(main())
"""


def entry(n: int) -> Entry:
    body = Control("opened", detail="{}") if n == 0 else Delta((Change(n, 1, 0, 0),))
    symbol = f"epoch-{bytes(16).hex()}" if n == 0 else f"S{n % 7}"
    return Entry(body, "kalshi", symbol, bytes(16), n, n, n, n, 20260810 + n // 20_000, raw=b'{"n":%d}' % n)


@contextmanager
def archiver(url: str, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", _ARCHIVER, url, str(root)], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def kill_and_restart(url: str, root: Path, done: Path) -> None:
    rng = random.Random(4)
    for _ in range(KILLS):
        with archiver(url, root) as process:
            time.sleep(rng.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
    with archiver(url, root) as process:
        while not done.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        process.terminate()
        assert process.wait(20) == 0


def test_kills_while_a_writer_appends_change_nothing(tmp_path: Path) -> None:
    server, root, done = NatsServer(tmp_path), tmp_path / "objects", tmp_path / "done"
    server.start()

    async def main() -> None:
        journal = await JetStreamJournal.connect(server.url, WallClock(), token=TOKEN)
        await journal.ensure(STREAM, "kalshi")
        killing = asyncio.create_task(asyncio.to_thread(kill_and_restart, server.url, root, done))
        for at in range(0, BATCH * BATCHES, BATCH):
            await journal.append(STREAM, [entry(n) for n in range(at, at + BATCH)])
            await asyncio.sleep(0.03)
        done.touch()
        await killing
        undisturbed, storage = MemoryStorage(), LocalStorage(root)
        await Archiver(journal, undisturbed, "local", WallClock(), limits=LIMITS).catch_up()
        # The last archiver may have been stopped before it read the end: bring it there, as the next start would.
        await Archiver(journal, storage, "local", WallClock(), limits=LIMITS).catch_up()
        assert {k: storage.get(k) for k, _ in storage.list("")} == {k: undisturbed.get(k) for k, _ in undisturbed.list("")}
        count = 0
        async for records in ArchiveReader(storage, "local").read(STREAM):
            for record in records:
                assert record == (record.sequence, entry(record.sequence - 1))
                count += 1
        assert count == BATCH * BATCHES
        await journal.close()

    try:
        asyncio.run(main())
    finally:
        server.stop()
