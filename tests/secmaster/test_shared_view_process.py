"""`ssmd run secmaster` of an environment whose cache is Redis: a process, a server, both killed on the way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from projections.secmaster import Known
from ssmd.secmaster.export import row
from ssmd.secmaster.query import Found
from tests import valkey
from tests.metadata.starter import copy_starter
from tests.secmaster.listing import market

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey.Valkey]:
    with valkey.running(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, server: valkey.Valkey) -> Path:
    copy_starter(tmp_path)
    environment = tmp_path / "exchanges" / "environments" / "local.yaml"
    environment.write_text(f"{environment.read_text()}cache:\n  type: redis\n  url: {server.url}\n")
    return tmp_path


def ssmd(project: Path, *args: str, said: str = "said") -> subprocess.Popen[str]:
    """What it says is in the file `said`."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")} | {"SSMD_DATA": str(project / "data")}
    command = [sys.executable, "-m", "ssmd.cli", "--project", str(project), *args]
    environ["PYTHONPATH"] = str(ROOT)
    with (project / said).open("w") as stderr:
        return subprocess.Popen(command, cwd=project, env=environ, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def given(project: Path, *numbers: int, title: str = "") -> None:
    """Markets with these numbers are imported, as another program would."""
    markets = [market(n, title=f"{title} {n}") for n in numbers]
    (project / "markets.jsonl").write_text("".join(json.dumps(row(Found(m.symbol, Known(m, 1, 1, 1), m))) + "\n" for m in markets))
    with ssmd(project, "secmaster", "import", "local", "markets.jsonl", "-o", "json") as process:
        assert process.wait(60) == 0


@contextmanager
def serving(project: Path) -> Iterator[subprocess.Popen[str]]:
    with ssmd(project, "run", "secmaster", said="served") as process:
        try:
            yield process
        finally:
            process.kill()


def asked(server: valkey.Valkey, *words: str) -> str:
    """The answer's first line, as a person at a terminal reads it."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(f"{' '.join(words)}\r\n".encode())
        return connection.recv(1 << 16).split(b"\r\n")[0].decode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_redis_follows_through_kills_of_the_service_and_of_redis(project: Path, server: valkey.Valkey) -> None:
    def count(of: str) -> Callable[[str], bool]:
        return lambda number: asked(server, *of.split()) == f":{number}"

    markets, sports = count("HLEN local:secmaster:markets"), count("SCARD local:secmaster:by_category:Sports")
    told = project / "served"
    given(project, *range(30), title="One")
    with serving(project):
        until(lambda: markets("30"))
        assert sports("10")
        given(project, *range(30, 33))
        until(lambda: markets("33"))  # while it serves
    given(project, *range(33, 36))  # nobody serves
    assert markets("33")
    asked(server, "FLUSHALL")
    with serving(project) as process:
        until(lambda: markets("36"))
        server.kill()
        until(lambda: "local:secmaster is not up to date" in told.read_text())
        given(project, *range(36, 39))
        server.start()
        until(lambda: markets("39"))
        assert sports("13")
        process.terminate()
        assert process.wait(60) == 0
    assert asked(server, "EXISTS local:secmaster:position") == ":1"
    assert asked(server, "EXISTS local:day:position") == ":1"
