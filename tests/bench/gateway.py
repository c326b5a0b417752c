"""The gateway from journal to client, beside a plain broadcast with websockets that coalesces in the same way, and nats-server's WebSocket.

``python -m tests.bench gateway``. Everything is on this machine: a real nats-server that syncs every commit, a process that appends entries
of 1,000 symbols at a rate, the server that is measured, and one process with all clients on raw sockets. Latency is until a client has
parsed the message, from the moment an entry was made, just before it is appended, and from when the journal had said that it is durable.
``SSMD_BENCH_SECONDS`` is what one measurement takes, ``SSMD_BENCH_CLIENTS`` and ``SSMD_BENCH_RATES`` which there are,
``SSMD_BENCH_OFFERED`` what is offered to find the highest rate, ``SSMD_BENCH_ROUNDS`` how often that is tried, ``SSMD_BENCH_BEHIND`` the
entries behind the checkpoint of a start, ``SSMD_BENCH_PAIRS`` how often a client that reads nothing comes and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal.clock import WallClock
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from ssmd.wiring import open_objects
from tests.bench import gateway_turns
from tests.bench.gateway_clients import cpu_s
from tests.bench.gateway_parts import STREAM, connect, opened, prepared, run_of
from tests.gateway.served import command, environ, stop
from tests.journal.servers import TOKEN, NatsServer, free_port, nats_server

Serve = Callable[[str], contextlib.AbstractContextManager["_Served"]]

_ROOT = Path(__file__).resolve().parents[2]
_WARM_S = 1.0
_PARSING = 40  # of the clients that choose ten symbols
_LIMITS = "name: local\nfeed: kalshi\ngateway:\n  limits: {{connections: 2000, connections_per_key: 2000, buffer_messages: {waiting}}}\n"
_START_SYMBOLS = 10_000
_LATE_MS = 500
_WAITING = 1_000  # messages kept for a client that reads nothing: it drops after half a second


def _numbers(variable: str, default: str) -> list[int]:
    return [int(word) for word in os.environ.get(f"SSMD_BENCH_{variable}", default).split(",")]


def _part(stage: str, **given: Any) -> list[str]:
    module = "gateway_clients" if stage in {"load", "beside"} else "gateway_parts"
    return [sys.executable, "-m", f"tests.bench.{module}", stage, json.dumps(given)]


def _peak_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


@contextlib.contextmanager
def _serving(args: list[str], env: dict[str, str], cwd: Path) -> Iterator[tuple[int, int, float]]:
    """A server as a process: its id, its port, and the seconds until it was ready."""
    began = time.monotonic()
    process = subprocess.Popen(args, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = []
    try:
        while "serving http" not in (line := process.stderr.readline()):
            said.append(line)
            if not line:
                raise RuntimeError("".join(said))
        took = time.monotonic() - began
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process.pid, int(line.partition("serving ")[2].partition(",")[0].rpartition(":")[2]), took
    finally:
        stop(process)


@contextlib.contextmanager
def _gateway(server: NatsServer, folder: Path, waiting: int = 20_000) -> Iterator[tuple[int, int, float]]:
    project = folder / "project"
    for part in ("environments", "feeds", "schemas"):
        (project / "exchanges" / part).mkdir(parents=True, exist_ok=True)
    (project / "exchanges" / "environments" / "local.yaml").write_text(_LIMITS.format(waiting=waiting))
    env = environ(folder / "data", SSMD_NATS=server.url, SSMD_NATS_TOKEN=TOKEN, PYTHONPATH=str(_ROOT))
    with _serving(command("run", "gateway", "--port", "0"), env, project) as found:
        yield found


@contextlib.contextmanager
def _plain(server: NatsServer, _folder: Path) -> Iterator[tuple[int, int, float]]:
    with _serving(_part("plain", url=server.url), dict(os.environ), _ROOT) as found:
        yield found


class _Served(NamedTuple):
    kind: str
    pid: int
    port: int


class _Source:
    """Writes entries at the rate it was last told."""

    def __init__(self, server: NatsServer, acks: Path) -> None:
        self.acks = str(acks)
        args = _part("source", url=server.url, acks=self.acks)
        self._process = subprocess.Popen(args, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run_at(self, rate: float) -> int:
        """Returns what was written so far."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{rate}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        stop(self._process)


def _measure(source: _Source, at: _Served, rate: int, clients: int, each: int) -> dict[str, Any]:
    """One window."""
    kind, pid, port = at
    seconds = float(os.environ.get("SSMD_BENCH_SECONDS", "2"))
    parsing = min(clients, _PARSING if each else 1)
    given = {"kind": kind, "port": port, "clients": clients, "each": each, "parsing": parsing, "acks": source.acks}
    process = subprocess.Popen(_part("load", of=given, warm_s=_WARM_S, seconds=seconds), cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the clients of {kind} failed")
        source.run_at(rate)
        process.stdout.readline()
        written, cpu, began = source.run_at(rate), cpu_s(pid), time.monotonic()
        found: dict[str, Any] = json.loads(process.stdout.readline())
        took = time.monotonic() - began
        written = source.run_at(0) - written
        return {**found, "rate": written / took, "cpu": (cpu_s(pid) - cpu) / took, "peak": _peak_mib(pid)}
    finally:
        stop(process)
        time.sleep(0.3)  # what is still on its way


_QUANTILES = ("p50", "p99", "p99.9", "durable p50", "durable p99", "durable p99.9")
_HEAD = (
    f"{'':10}{'clients':>8}{'symbols':>8}{'source/s':>10}{'deliv./s':>11}{'frames/s':>10}{'MB/s':>7}"
    f"{'p50 ms':>8}{'p99':>8}{'p99.9':>8}{'d. p50':>8}{'d. p99':>8}{'d. p99.9':>9}{'CPU':>6}{'MiB':>6}"
)


def _line(name: str, clients: int, each: int, r: dict[str, Any]) -> str:
    ages = "".join(f"{r[q]:8.1f}" if q in r else f"{'-':>8}" for q in _QUANTILES) + " "
    lost = f"  {r['ended']} ended" if r["ended"] else ""
    return (
        f"{name:10}{clients:8,}{each or 'all':>8}{r['rate']:10,.0f}{r['deliveries']:11,.0f}{r['frames']:10,.0f}{r['bytes'] / 1e6:7.1f}"
        f"{ages}{r['cpu']:6.2f}{r['peak']:6.0f}{lost}"
    )


def run(out: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        (folder / "data").mkdir()
        ws = free_port()
        server = stack.enter_context(nats_server(folder, extra=f'websocket {{ listen: "127.0.0.1:{ws}", no_tls: true }}'))
        asyncio.run(_ensure(server))
        source = _Source(server, folder / "acks")
        stack.callback(source.close)
        source.run_at(0)

        @contextlib.contextmanager
        def serve(kind: str) -> Iterator[_Served]:
            """One at a time, so that none is measured beside another."""
            if kind == "nats":
                yield _Served(kind, server.pid, ws)
                return
            with (_gateway if kind == "gateway" else _plain)(server, folder) as (pid, port, _):
                yield _Served(kind, pid, port)

        out("p50 to p99.9: since the entry was made; d.: since the journal had said that it is durable, which takes its fsyncs")
        out("CPU: processor seconds of the server a second; MiB: its peak so far")
        out("nats: its server is the journal, too, and sends entries as they are stored, before they are durable")
        _matrix(out, source, serve)
        _beside_stopped(out, source, server, folder)
        _highest(out, source, serve)
    _starts(out)
    out("")
    gateway_turns.run(out)


def _matrix(out: Callable[[str], None], source: _Source, serve: Serve) -> None:
    cells = [(clients, rate) for clients in _numbers("CLIENTS", "1,100,1000") for rate in _numbers("RATES", "1000,5000,10000")]
    results: dict[tuple[int, int], dict[str, dict[str, Any]]] = {cell: {} for cell in cells}
    out(_HEAD)
    for kind in ("gateway", "plain", "nats"):
        with serve(kind) as at:
            for clients, rate in cells:
                each = 0 if clients == 1 else 10
                found = results[clients, rate][kind] = _measure(source, at, rate, clients, each)
                out(_line(kind, clients, each, found))
    for (clients, rate), found in results.items():
        out(f"{clients:,} clients, {rate:,} a second: {_ratios(found)}")


def _ratios(results: dict[str, dict[str, Any]]) -> str:
    ours = results["gateway"]
    ratios = [
        f"{kind} p99 {ours['p99'] / r['p99']:.2f}x, CPU {ours['cpu'] / max(r['cpu'], 0.001):.2f}x"
        for kind, r in results.items()
        if kind != "gateway" and "p99" in r and "p99" in ours
    ]
    return f"gateway to {'; to '.join(ratios)}"


def _beside_stopped(out: Callable[[str], None], source: _Source, server: NatsServer, folder: Path) -> None:
    """In turns, so that what else the machine does falls on both: each window with it is compared with those before and behind it, and
    these with one another.
    """
    [pairs] = _numbers("PAIRS", "8")
    out(f"\n100 clients at 5,000 a second, with one more that chose all and reads nothing in every second of {2 * pairs + 1} windows")
    with _gateway(server, folder, waiting=_WAITING) as (pid, port, _):
        given = {"kind": "gateway", "port": port, "clients": 100, "each": 10, "parsing": _PARSING, "acks": source.acks}
        args = _part("beside", of=given, pid=pid, pairs=pairs, warm_s=_WARM_S, seconds=1.0)
        process = subprocess.Popen(args, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the clients failed")
            source.run_at(5_000)
            found: list[dict[str, float]] = [json.loads(line) for line in process.stdout]
            source.run_at(0)
        finally:
            stop(process)
    for what, of in (("p50", "p50"), ("p99", "p99"), ("CPU", "cpu")):
        without, beside = [r[of] for r in found[::2]], [r[of] for r in found[1::2]]
        ratios = [b / statistics.geometric_mean(around) for b, around in zip(beside, itertools.pairwise(without), strict=True)]
        noise = [b / a for a, b in itertools.pairwise(without)]
        out(
            f"{what:4} without {statistics.median(without):7.2f}, with it {statistics.median(beside):7.2f}; with to without "
            f"{_spread(ratios)}; without to without {_spread(noise)}"
        )
    kept = [max(r[name] for r in found[1::2]) for name in ("waiting", "waiting_bytes", "dropped")]
    out("kept for it at most {:,} messages, {:,} bytes; {:,} dropped".format(*kept))


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f}x (half of them {low:.2f} to {high:.2f})"


def _highest(out: Callable[[str], None], source: _Source, serve: Serve) -> None:
    """More is offered than can be written and delivered here: what comes is the highest rate, and it is sustained where it is not late."""
    [offered], [rounds] = _numbers("OFFERED", "45000"), _numbers("ROUNDS", "2")
    out(f"\nall symbols to 100 clients, {offered:,} a second offered")
    out(_HEAD)
    found: dict[str, list[dict[str, Any]]] = {"gateway": [], "plain": []}
    for _ in range(rounds):
        for kind, each in found.items():
            with serve(kind) as at:
                each.append(result := _measure(source, at, offered, 100, 0))
            late = "" if result["durable p99"] < _LATE_MS else "  it does not keep up"
            out(f"{_line(kind, 100, 0, result)}  clients' CPU {result['load_cpu']:.2f}{late}")
    for what, of in (("deliveries", lambda r: r["deliveries"]), ("CPU of a delivery", lambda r: r["cpu"] / r["deliveries"])):
        ours, other = (statistics.median(map(of, each)) for each in found.values())
        out(f"gateway to plain, medians: {what} {ours / other:.2f}x")


async def _ensure(server: NatsServer) -> None:
    journal = await connect(server.url)
    await journal.ensure(STREAM, "kalshi")
    await journal.close()


def _starts(out: Callable[[str], None]) -> None:
    """Of a process, until it is ready: from a checkpoint of 10,000 books with entries behind it."""
    [behind] = _numbers("BEHIND", "60000")
    with tempfile.TemporaryDirectory() as scratch, nats_server(Path(scratch)) as server:
        folder = Path(scratch)
        (folder / "data").mkdir()
        asyncio.run(_checkpointed(server, folder, behind))
        took = []
        for _ in range(3):
            with _gateway(server, folder) as (pid, _, seconds):
                took.append((seconds, cpu_s(pid), _peak_mib(pid)))
        seconds, cpu, peak = sorted(took)[1]
        out(
            f"\nstart to ready, a checkpoint of {_START_SYMBOLS:,} symbols and {behind:,} entries behind it: {seconds:.2f} s "
            f"({', '.join(f'{t[0]:.2f}' for t in took)}), {cpu:.2f} s of CPU, {peak:.0f} MiB"
        )


async def _checkpointed(server: NatsServer, folder: Path, behind: int) -> None:
    """A checkpoint of ten minutes ago, and what came since."""
    settings = Settings.read({"data": str(folder / "data")}, {})
    journal, epoch = await connect(server.url), bytes(16)
    await journal.ensure(STREAM, "kalshi")
    now_ns = time.time_ns()
    began_ns = now_ns - 600 * 10**9
    first = [msgspec.structs.replace(e, effective_ns=began_ns) for e in opened(_START_SYMBOLS, epoch)]
    for at in range(0, len(first), 500):
        await journal.append(STREAM, first[at : at + 500])
    await Projector(journal, open_objects(settings), STREAM, WallClock()).catch_up()
    ready = prepared(_START_SYMBOLS)
    for at in range(0, behind, 500):
        run = run_of(ready, at, min(500, behind - at), epoch)
        at_ns = began_ns + (now_ns - began_ns) * at // behind
        await journal.append(STREAM, [msgspec.structs.replace(e, effective_ns=at_ns) for e in run])
    await journal.close()
