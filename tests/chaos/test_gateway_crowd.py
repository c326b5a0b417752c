"""Clients of all kinds at a recording that is played, while the gateway is killed. A failure prints its seed; SSMD_SEED repeats it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journal.clock import WallClock
from ssmd.settings import Settings
from ssmd.wiring import open_journal
from tests.chaos.rig import ROOT, Rig, rig
from tests.gateway.crowd import Marks, Visitor
from tests.gateway.rig import STREAM, until
from tests.journal.servers import free_port
from tests.recordings import gold_files

pytestmark = [pytest.mark.rehearsal, pytest.mark.data, pytest.mark.timeout(400)]
CLIENTS, KILLS, SPEED = 60, 3, 45


def project(folder: Path) -> Path:
    """One whose gateway has small buffers, so that slow clients miss something."""
    for name in ("feeds", "schemas", "environments"):
        (folder / "exchanges" / name).mkdir(parents=True)
        for file in (ROOT / "exchanges" / name).glob("*.yaml"):
            shutil.copy(file, folder / "exchanges" / name)
    with (folder / "exchanges" / "environments" / "local.yaml").open("a") as spec:
        spec.write("gateway:\n  limits:\n    buffer_messages: 3000\n")
    return folder


def gateway(folder: Path, data: Path, port: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "ssmd.cli", "run", "gateway", "--port", str(port)]
    environ = {**os.environ, "SSMD_DATA": str(data), "SSMD_PROJECT": str(folder)}
    with (data / "gateway.log").open("ab") as log:
        return subprocess.Popen(argv, env=environ, stderr=log, cwd=ROOT)


async def crowd(capture: Rig, folder: Path, chosen: int, symbols: list[str]) -> list[Visitor]:
    rng, port = random.Random(chosen), free_port()
    visitors = [Visitor(number, random.Random(rng.random()), symbols) for number in range(CLIENTS)]
    process = gateway(folder, capture.data, port)
    tasks = [asyncio.create_task(v.visit(port), name=repr(v)) for v in visitors]
    try:
        kills = sorted(rng.uniform(5, 20) for _ in range(KILLS))
        began = time.monotonic()
        while not (await asyncio.to_thread(capture.status))["finished"]:
            check(tasks)
            if kills and time.monotonic() - began > kills[0]:
                kills.pop(0)
                process.send_signal(signal.SIGKILL)
                process.wait()
                await asyncio.sleep(rng.uniform(0, 2))
                process = gateway(folder, capture.data, port)
            assert process.poll() is None, (capture.data / "gateway.log").read_text()
            await asyncio.sleep(0.2)
        truth = Marks()
        async with open_journal(Settings.read({"data": str(capture.data)}, {}), WallClock()) as journal:
            await asyncio.sleep(3)  # for what is under way
            async for records in journal.read(STREAM):
                truth.add(records)
                await asyncio.sleep(0)
        for visitor in visitors:
            visitor.finishing = True
        await until(lambda: any(t.done() for t in tasks) or all(v.seen >= truth.end for v in visitors), "all have seen all", 90)
        check(tasks)
        for visitor in visitors:
            try:
                visitor.check(truth)
            except AssertionError as error:
                raise AssertionError(f"{visitor}: {error}") from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process.terminate()
        process.wait(30)
    return visitors


def check(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            try:
                task.result()
            except Exception as error:
                raise AssertionError(f"{task.get_name()}: {error}") from error


def test_what_clients_have_is_what_the_fold_has(tmp_path: Path) -> None:
    chosen = int(os.environ.get("SSMD_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {chosen}")
    files = gold_files()[10:11]
    symbols = [path.parent.name for path in files]
    data = tmp_path / "data"
    data.mkdir()
    simulate = ["--recording", *map(str, files), "--speed", str(SPEED)]
    with rig(data, simulate=simulate, connect=[word for s in symbols for word in ("--ticker", s)], capture=("projector",)) as capture:
        capture.start()
        visitors = asyncio.run(crowd(capture, project(tmp_path), chosen, symbols))
        capture.stop()
    lives = [life for v in visitors for life in v.lives]
    print({
        "visits": sum(v.visits for v in visitors), "refused": sum(v.refused for v in visitors), "books": sum(len(x.had) for x in lives),
        "trades": sum(len(t) for x in lives for t in x.trades.values()),
        "dropped": sum(n for x in lives for *_, n in x.lost), "conflated": sum(x.seen["conflated"] for x in lives),
    })  # fmt: skip
    assert sum(v.visits for v in visitors) > CLIENTS * 2
    assert sum(len(x.had) for x in lives) > 100_000
    assert any(x.lost for x in lives)
