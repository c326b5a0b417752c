"""Capture end to end: a simulator in its own process, the connector, the durable journal; then with projector and archiver too.

Each part is a process of its own, as deployed. The clock runs until the last frame the simulator sent is durable. At full speed, lost is
what it sent less what was journalled; at a fixed rate it is what the sequence numbers say (gaps).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from journal.clock import WallClock
from journal.subjects import Stream
from ssmd.settings import Settings
from ssmd.wiring import open_journal
from tests.recordings import gold_files

ROOT = Path(__file__).resolve().parents[2]
FULL_FRAMES = 200_000  # about ten seconds at the target
PACED_SECONDS = 12
ROUNDS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """One ssmd process and what it costs."""

    def __init__(self, *args: str, env: dict[str, str]) -> None:
        self.rest_url = ""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        argv = [sys.executable, "-m", "ssmd.cli", *args]
        self.popen = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=self.log, text=True)

    def stop(self) -> str:
        self.popen.send_signal(signal.SIGTERM)
        out, _ = self.popen.communicate(timeout=60)
        return out


def usage(pid: int) -> tuple[float, int]:
    """(CPU seconds so far, peak resident bytes) of a live process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(peak.split()[1]) * 1024


def server_pid(data: str) -> int:
    return int(json.loads((Path(data) / "server.json").read_text())["server"]["pid"])


@contextmanager
def running(data: str, *, everything: bool, simulate: list[str], connect: list[str]) -> Iterator[dict[str, Process]]:
    env = {"SSMD_DATA": data}
    parts: dict[str, Process] = {}
    try:
        if everything:
            parts["projector"] = Process("run", "projector", env=env)
            parts["archiver"] = Process("run", "archiver", env=env)
            time.sleep(4)  # loaded and following
        parts["sim"] = Process("sim", "kalshi", "--no-auth", "--hold", "-o", "json", *simulate, env=env)
        assert parts["sim"].popen.stdout is not None
        ports = json.loads(parts["sim"].popen.stdout.readline())
        urls = ["--ws-url", ports["ws_url"], "--rest-url", ports["rest_url"]]
        parts["connector"] = Process("run", "connector", "-o", "json", *urls, *connect, env=env)
        parts["sim"].rest_url = ports["rest_url"]
        yield parts
    finally:
        for part in parts.values():
            if part.popen.poll() is None:
                part.popen.kill()
                part.popen.wait()


def sent(sim: Process) -> dict[str, Any]:
    root = sim.rest_url.partition("/trade-api")[0]
    with urllib.request.urlopen(f"{root}/sim/status", timeout=5) as answer:  # noqa: S310  (our own server)
        status: dict[str, Any] = json.load(answer)
    return status


def measure(simulate: list[str], connect: list[str], *, everything: bool, seconds: float | None) -> dict[str, Any]:
    """One run, to the end of the feed or for `seconds`: frames a second, latency, and each process's CPU and memory."""
    with tempfile.TemporaryDirectory() as data, running(data, everything=everything, simulate=simulate, connect=connect) as parts:
        while not sent(parts["sim"])["frames"]:
            time.sleep(0.02)
        pids = {name: part.popen.pid for name, part in parts.items()} | {"nats": server_pid(data)}
        before = {name: usage(pid)[0] for name, pid in pids.items()}
        start = time.monotonic()
        asyncio.run(_durable(parts["sim"], Path(data), seconds))
        elapsed = time.monotonic() - start
        after = {name: usage(pid) for name, pid in pids.items()}
        status = sent(parts["sim"])
        captured = json.loads(parts["connector"].stop())
        for name in ("projector", "archiver"):
            if name in parts:
                parts[name].stop()
        return {
            "lost": status["frames"] - captured["frames"] if seconds is None else 0,
            "rate": captured["frames"] / elapsed,
            "latency": {q: ns / 1e6 for q, ns in captured["read_to_durable_ns"].items()},
            "cpu": {name: (after[name][0] - before[name]) / elapsed for name in pids},
            "peak_mb": {name: peak / 1e6 for name, (_, peak) in after.items()},
            "gaps": captured["gaps"],
        }


async def _durable(sim: Process, data: Path, seconds: float | None) -> None:
    """Until every frame the simulator sent is in the journal, or for `seconds`."""
    if seconds is not None:
        await asyncio.sleep(seconds)
        return
    async with open_journal(Settings(data_dir=data), WallClock(), read_only=True) as journal:
        while True:
            await asyncio.sleep(0.1)
            status = await asyncio.to_thread(sent, sim)
            info = await journal.info(Stream("local", shard="0"))
            if status["finished"] and info and info.last >= status["frames"]:
                return


def source(frames: int) -> tuple[list[str], list[str]]:
    """Options of the simulator and of the connector: recordings, all of their markets, where there are some; else synthetic."""
    try:
        files = gold_files()
    except FileNotFoundError:
        return ["--rate", "200", "--markets", "30", "--frames", str(frames), "--speed", "max"], []
    chosen = files[8 : 8 + frames // 40_000]  # about what a file holds
    tickers = sorted({path.parent.name for path in chosen})
    return ["--speed", "max", "--recording", *map(str, chosen)], [word for t in tickers for word in ("--ticker", t)]


def run(out: Callable[[str], None]) -> None:
    rounds = int(os.environ.get("SSMD_BENCH_ROUNDS", ROUNDS))
    recorded, tickers = source(FULL_FRAMES)
    paced = ["--rate", "5000", "--markets", "100"]
    cases: tuple[tuple[str, list[str], list[str], bool, float | None], ...] = (
        ("full speed, alone", recorded, tickers, False, None),
        ("full speed, projector and archiver on", recorded, tickers, True, None),
        ("5,000 a second, alone", paced, [], False, PACED_SECONDS),
        ("5,000 a second, all on", paced, [], True, PACED_SECONDS),
    )
    for title, simulate, connect, everything, seconds in cases:
        runs = [measure(simulate, connect, everything=everything, seconds=seconds) for _ in range(rounds)]
        lost, gaps = sum(r["lost"] for r in runs), sum(r["gaps"] for r in runs)
        out(f"{title}: {median(r['rate'] for r in runs):,.0f} frames/s (median of {rounds}), lost {lost}, gaps {gaps}")
        latency = {q: median(r["latency"][q] for r in runs) for q in ("p50", "p99", "worst")}
        out(f"  socket read to durable: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, worst {latency['worst']:.1f} ms")
        for name in runs[0]["cpu"]:
            cpu, peak = median(r["cpu"][name] for r in runs), max(r["peak_mb"][name] for r in runs)
            out(f"  {name:10} {cpu:5.0%} of a core, peak {peak:4.0f} MB")
