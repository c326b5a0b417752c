"""The gauge of when keys end, as a scraper gets it over HTTP."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from journal.errors import CallerError
from ssmd.keys.check import KeyState, Status
from ssmd.metadata.environment import Key
from ssmd.metrics import EXPIRES, REFRESH_NS, KeyExpiry, serve_metrics
from tests.journal.servers import free_port

KEY = Key(type="webhook", fields=("url",))


@dataclass
class HandClock:
    rate = 1.0

    now_ns: int = 0

    def wall_ns(self) -> int:
        return self.now_ns

    def mono_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


def state(name: str, expires_ns: int, status: Status = "ok") -> KeyState:
    return KeyState(name, KEY, status, {}, expires_ns=expires_ns)


def scrape(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith(EXPIRES)]


def test_keys_are_looked_at_once_an_hour_and_a_silent_source_keeps_its_alarm() -> None:
    clock, looks = HandClock(), []
    keys = [state("a", 1_700_000_000 * 10**9), state("never", 0)]

    def look() -> list[KeyState]:
        looks.append(clock.now_ns)
        return keys

    registry = CollectorRegistry()
    registry.register(KeyExpiry("desk", look, clock))
    with serve_metrics("127.0.0.1:0", registry) as port:
        assert looks == []  # nobody asked yet
        assert scrape(port) == [f'{EXPIRES}{{env="desk",key="a"}} 1.7e+09']
        keys[:] = [state("a", 0, "unavailable"), state("b", 10**9)]
        clock.now_ns += REFRESH_NS - 1
        assert len(scrape(port)) == 1
        clock.now_ns += 1
        assert scrape(port) == [f'{EXPIRES}{{env="desk",key="a"}} 1.7e+09', f'{EXPIRES}{{env="desk",key="b"}} 1.0']
        keys[:] = [state("b", 0)]
        clock.now_ns += REFRESH_NS
        assert scrape(port) == []
    assert looks == [0, REFRESH_NS, 2 * REFRESH_NS]


def test_a_port_in_use_and_nonsense_are_refused() -> None:
    registry = CollectorRegistry()
    with (
        serve_metrics(":0", registry) as port,
        pytest.raises(CallerError, match="name another port"),
        serve_metrics(f"127.0.0.1:{port}", registry),
    ):
        pass
    for bad in ("", "host", "host:x", "host:70000"):
        with pytest.raises(CallerError), serve_metrics(bad, registry):
            pass


def test_a_service_serves_them(tmp_path: Path) -> None:
    (tmp_path / "exchanges" / "environments").mkdir(parents=True)
    (tmp_path / "exchanges" / "environments" / "desk.yaml").write_text(
        "name: desk\nfeed: kalshi\nkeys:\n  hook: {type: webhook, fields: [url], source: env, rotation_days: 1, required: false}\n"
    )
    port = free_port()
    argv = [sys.executable, "-m", "ssmd.cli", "run", "archiver", "--metrics", f"127.0.0.1:{port}"]
    environ = {
        "PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "SSMD_HOOK_URL": "canary-url",
        "SSMD_HOOK_SET_AT": "2026-11-01T00:00:00Z",
    }  # fmt: skip
    with subprocess.Popen(argv, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            next(line for line in process.stderr if "archiving" in line)
            assert scrape(port) == [f'{EXPIRES}{{env="desk",key="hook"}} 1.7935776e+09']
        finally:
            process.terminate()
