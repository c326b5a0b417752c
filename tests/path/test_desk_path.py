"""The whole path as a desk runs it: a process for each service, a NATS server of its own, an S3 for the archive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import ministack
from tests.cli import schema
from tests.journal.servers import TOKEN, free_port, nats_server

ROOT = Path(__file__).resolve().parents[2]
SSMD = (sys.executable, "-m", "ssmd.cli")
SECONDS = 60


@contextmanager
def service(environ: Mapping[str, str], *args: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*SSMD, *args], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(environ: Mapping[str, str], *args: str) -> tuple[int, str]:
    done = subprocess.run([*SSMD, *args], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=SECONDS)
    return done.returncode, done.stdout or done.stderr


def last(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The newest market entry; None while there is no stream."""
    code, said = ask(environ, "journal", "tail", "--limit", "1", "-o", "jsonl")
    return json.loads(said) if code == 0 and said else None


def test_services_on_a_nats_and_an_s3(tmp_path: Path) -> None:
    with nats_server(tmp_path) as nats, ministack.running(tmp_path / "s3") as s3:
        s3.make_bucket("market-data")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("SSMD_", "AWS_"))} | {
            "SSMD_DATA": str(tmp_path / "data"), "SSMD_NATS": nats.url, "SSMD_NATS_TOKEN": TOKEN,
            "SSMD_STORAGE": f"s3://market-data/ssmd?endpoint={s3.endpoint}&region=us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip
        port = free_port()
        venue = ("--ws-url", f"ws://127.0.0.1:{port}/trade-api/ws/v2", "--rest-url", f"http://127.0.0.1:{port}/trade-api/v2")
        deadline = time.monotonic() + SECONDS
        with (
            service(environ, "sim", "kalshi", "--port", str(port), "--rate", "500", "--markets", "5"),
            service(environ, "run", "archiver") as archiver,
            service(environ, "run", "projector") as projector,
            service(environ, "run", "connector", *venue, "-o", "json") as connector,
        ):
            while (newest := last(environ)) is None or int(newest["position"].partition(":")[2]) < 1_000:
                assert time.monotonic() < deadline, newest
                assert connector.poll() is None
                time.sleep(0.2)
            for process in (connector, projector, archiver):  # a clean stop flushes, folds to the end and archives it
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=SECONDS)
                assert process.returncode == 0, said
                if process is connector:
                    schema.check("connector", json.loads(said))
                    assert json.loads(said)["entries"] >= 1_000
        newest = last(environ)
        assert newest
        code, said = ask(environ, "replay", "--date", newest["day"], "--from", "archive", "--verify", "-o", "json")
        assert code == 0, said
        result = json.loads(said)
        assert result["verify"]["compared"] > 0
        assert result["verify"]["mismatched"] == 0
        assert not (tmp_path / "data" / "nats").exists()
        assert not (tmp_path / "data" / "objects").exists()
