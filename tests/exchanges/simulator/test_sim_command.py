"""`ssmd sim kalshi` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from exchanges.kalshi.signing import Signer
from exchanges.simulator.oracle import read_log
from exchanges.simulator.server import WS_PATH
from journal.clock import WallClock
from tests.cli import schema

SIM = (sys.executable, "-m", "ssmd.cli", "sim", "kalshi", "-o", "json")


@contextmanager
def simulator(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    with subprocess.Popen([*SIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            if process.poll() is None:
                process.terminate()


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SIM, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_it_ends_with_the_supervisor_that_started_it() -> None:
    supervisor = """if True:
        import os, subprocess, sys
        child = subprocess.Popen(sys.argv[1:], env={**os.environ, "SSMD_PARENT": str(os.getpid())}, stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        child.wait()
    """
    with subprocess.Popen([sys.executable, "-c", supervisor, *SIM, "--no-auth"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        parent.kill()
    deadline = time.monotonic() + 10
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_serves_until_a_signal_and_logs_what_it_sent(tmp_path: Path, number: signal.Signals, code: int) -> None:
    log = tmp_path / "sent.jsonl"
    with simulator("--seed", "4", "--rate", "2000", "--log", str(log)) as (process, ready):
        with urllib.request.urlopen(f"{ready['rest_url']}/markets?limit=1000") as answer:  # noqa: S310 - our own server
            tickers = [market["ticker"] for market in json.load(answer)["markets"]]
        with connect(ready["ws_url"], close_timeout=0.1) as ws:
            ws.send(json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": ["orderbook_delta"], "market_tickers": tickers}}))
            heard = [str(ws.recv(timeout=5)) for _ in range(200)]
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
        assert process.returncode == code, said
    assert ready["ws_url"] in said
    schema.check("sim", ready)
    assert "frames sent" in said
    assert "Traceback" not in said
    sent = [entry.data.decode() for entry in read_log(log) if entry.conn == 1]
    assert sent[:200] == heard


def test_it_stops_after_a_while() -> None:
    done = ended("--for", "300ms", "--markets", "1")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)


def test_a_registered_key_is_asked_for(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = tmp_path / "public.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    key_id = "11111111-2222-3333-4444-555555555555"
    with simulator("--key-file", str(public), "--key-id", key_id) as (_, ready):
        with pytest.raises(InvalidStatus):
            connect(ready["ws_url"])
        signed = Signer(key_id, key).headers("GET", WS_PATH, WallClock().wall_ns())
        with connect(ready["ws_url"], additional_headers=signed) as ws:
            ws.send('{"id":1,"cmd":"list_subscriptions"}')
            assert json.loads(ws.recv(timeout=5)) == {"type": "ok", "id": 1, "msg": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--recording", "nowhere.ndjson"), "nowhere.ndjson: no such file or folder"),
        (("--key-file", "x.pem"), "belong together"),
        (("--key-file", __file__, "--key-id", "x"), "not a PEM public key"),
        (("--keep-times",), "--recording"),
        (("--speed", "0"), "neither max nor a number above 0"),
        (("--speed", "fast"), "neither max nor a number above 0"),
        (("--log", "/nonexistent/log"), "/nonexistent/log"),
        (("--begun", "2026-11-22T00:00:00Z", "--speed", "2"), "--speed 1"),
        (("--begun", "2026-11-22T00:00:00Z", "--hold"), "waits for nobody"),
    ],
)
def test_what_cannot_be_run_exits_2_and_says_why(arguments: tuple[str, ...], said: str) -> None:
    done = ended(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_that_breaks_half_way_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    snapshot = b'{"recv_ms":1,"event":{"type":"orderbook_snapshot","msg":{"market_ticker":"KXSIM-1"}}}\n'
    path.write_bytes(snapshot * 3 + b'{"recv_ms":1,"ev')
    done = ended("--recording", str(path), "--speed", "max")
    assert done.returncode == 2
    assert f"{path}:4: not a recorded frame" in done.stderr


def test_more_markets_are_listed_than_trade() -> None:
    with simulator("--markets", "3", "--listed", "120") as (_, ready):
        with urllib.request.urlopen(f"{ready['rest_url']}/markets?limit=1000") as answer:  # noqa: S310 - our own server
            tickers = [market["ticker"] for market in json.load(answer)["markets"]]
        assert sum(ticker.startswith("KXL") for ticker in tickers) == 120
        assert sum(ticker.startswith("KXSIM") for ticker in tickers) >= 3
