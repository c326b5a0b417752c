"""Clients of all kinds at a recording that is played, while the gateway is killed. A failure prints its seed; SSMD_SEED repeats it."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest

from journal.clock import WallClock
from ssmd.settings import Settings
from ssmd.wiring import open_journal
from tests.chaos.rig import ROOT, Rig, rig
from tests.gateway.crowd import CHANNELS, MODES, PACES, POLICIES, Marks, Visitor
from tests.gateway.rig import STREAM
from tests.journal.servers import free_port
from tests.recordings import gold_files

pytestmark = [pytest.mark.chaos, pytest.mark.data, pytest.mark.timeout(600)]
CLIENTS, KILLS = 200, 2
EVENTS, SECONDS = 14_000, 35  # of a recording that are played, and in what time


def project(folder: Path) -> Path:
    """One whose gateway has small buffers, so that slow clients miss something, and lets in as many as come without a key."""
    for name in ("feeds", "schemas", "environments"):
        (folder / "exchanges" / name).mkdir(parents=True)
        for file in (ROOT / "exchanges" / name).glob("*.yaml"):
            shutil.copy(file, folder / "exchanges" / name)
    with (folder / "exchanges" / "environments" / "local.yaml").open("a") as spec:
        spec.write("gateway:\n  limits:\n    buffer_messages: 500\n    connections_per_key: 1000\n")
    return folder


def part(file: Path, rng: random.Random, into: Path) -> float:
    """Some of a recording, beginning anywhere with a snapshot of what was then; the speed at which it takes `SECONDS`."""
    lines = [msgspec.json.decode(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    start = rng.randrange(1, len(lines) - EVENTS)
    sides: dict[str, dict[str, Decimal]] = {}
    opening = None
    for line in lines[:start]:
        event = line["event"]
        body = event["msg"]
        if event["type"] == "orderbook_snapshot":
            opening = line
            sides = {side: {p: Decimal(size) for p, size in body.get(f"{side}_dollars_fp", ())} for side in ("yes", "no")}
        elif event["type"] == "orderbook_delta":
            levels, price = sides[body["side"]], body["price_dollars"]
            levels[price] = levels.get(price, Decimal()) + Decimal(body["delta_fp"])
    assert opening
    for side, levels in sides.items():
        opening["event"]["msg"][f"{side}_dollars_fp"] = [[price, str(levels[price])] for price in sorted(levels) if levels[price]]
    before, played = lines[start - 1], lines[start : start + EVENTS]
    opening["recv_ms"], opening["event"]["seq"] = before["recv_ms"], played[0]["event"]["seq"] - 1
    into.write_bytes(gzip.compress(b"".join(msgspec.json.encode(line) + b"\n" for line in (opening, *played)), 1))
    return float(max(1, (played[-1]["recv_ms"] - before["recv_ms"]) // 1_000 // SECONDS))


def gateway(folder: Path, data: Path, port: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "ssmd.cli", "run", "gateway", "--port", str(port)]
    environ = {**os.environ, "SSMD_DATA": str(data), "SSMD_PROJECT": str(folder)}
    with (data / "gateway.log").open("ab") as log:
        return subprocess.Popen(argv, env=environ, stderr=log, cwd=ROOT)


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=10) as answer:
            return bool(json.load(answer)["ready"])
    except OSError:
        return False


async def crowd(capture: Rig, folder: Path, chosen: int, symbols: list[str]) -> list[Visitor]:
    rng, port = random.Random(chosen), free_port()
    visitors = [Visitor(number, random.Random(rng.random()), symbols) for number in range(CLIENTS)]
    process = gateway(folder, capture.data, port)
    tasks = [asyncio.create_task(v.visit(port), name=repr(v)) for v in visitors]
    try:
        while not await asyncio.to_thread(is_ready, port):
            assert process.poll() is None, (capture.data / "gateway.log").read_text()
        await asyncio.to_thread(capture.start)
        kills = [rng.uniform(1, 6) for _ in range(KILLS)]  # seconds after half of them have subscribed (again)
        began = since = time.monotonic()
        while kills or not (await asyncio.to_thread(capture.status))["finished"]:
            check(tasks)
            if sum(v.connected for v in visitors) < CLIENTS / 2:
                since = time.monotonic()
            elif kills and time.monotonic() - since > kills[0]:
                print(f"killed after {time.monotonic() - began:.0f} s: {kills.pop(0):.1f} s after it had half of them")
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
            visitor.finishing.set()
        print(f"finishing after {time.monotonic() - began:.0f} s")
        await seen(visitors, tasks, truth.end, process)
        check(tasks)
        print(f"all was seen after {time.monotonic() - began:.0f} s")
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


async def seen(visitors: list[Visitor], tasks: list[asyncio.Task[None]], end: int, process: subprocess.Popen[bytes]) -> None:
    """Until all have seen all."""
    deadline = time.monotonic() + 150
    while late := [v for v in visitors if v.seen < end]:
        check(tasks)
        assert process.poll() is None, f"the gateway ended with {process.returncode}"
        if time.monotonic() > deadline:
            told = "\n".join(f"{v}: at {v.seen} of {end}, {v.visits} visits, then {v.away!r}" for v in late[:10])
            raise AssertionError(f"{len(late)} have not seen all:\n{told}")
        await asyncio.sleep(0.1)


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
    rng = random.Random(chosen)
    file = rng.choice([file for file in gold_files() if file.stat().st_size > 100_000])
    symbols = [file.parent.name]
    data = tmp_path / "data"
    data.mkdir()
    speed = part(file, rng, tmp_path / file.name)
    print(f"{file.parent.name} at {speed} times its speed")
    simulate = ["--recording", str(tmp_path / file.name), "--speed", str(speed)]
    with rig(data, simulate=simulate, connect=[word for s in symbols for word in ("--ticker", s)], capture=("projector",)) as capture:
        visitors = asyncio.run(crowd(capture, project(tmp_path), chosen, symbols))
        capture.stop()
    lives = [life for v in visitors for life in v.lives]
    figures = {
        "visits": sum(v.visits for v in visitors),
        "resumed": sum(v.resumed for v in visitors),
        "refused": sum(v.refused for v in visitors),
        "books": sum(len(x.had) for x in lives),
        "trades": sum(len(t) for x in lives for t in x.trades.values()),
        "dropped": sum(n for x in lives for *_, n in x.lost),
        "conflated": sum(m["count"] for x in lives for m in x.others if m["type"] == "conflated"),
    }
    print(figures)
    assert figures["visits"] > CLIENTS * 2
    assert figures["resumed"] > CLIENTS / 2
    assert figures["books"] > 100_000
    assert figures["trades"] > 1_000
    assert min(figures["refused"], figures["dropped"], figures["conflated"]) > 0
    had = [v for v in visitors if any(life.seen for life in v.lives)]
    assert len(had) == CLIENTS
    kinds = {kind for v in had for kind in (v.mode, v.pace, v.policy, *v.channels)}
    assert kinds == {*MODES, *PACES, *POLICIES, *CHANNELS}
