from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("service", "sent", "code"), [("projector", signal.SIGTERM, 0), ("archiver", signal.SIGINT, 130)])
def test_a_service_stops_in_order(tmp_path: Path, service: str, sent: signal.Signals, code: int) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")} | {"SSMD_DATA": str(tmp_path / "data")}
    with subprocess.Popen(
        [sys.executable, "-m", "ssmd.cli", "run", service], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("ssmd: ")  # it says what it does once it does it
        process.send_signal(sent)
        said = process.stderr.read()
        assert (process.wait(30), said) == (code, "")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_all_of_a_run_is_archived_when_it_is_stopped(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")} | {"SSMD_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "ssmd.cli"]
    # As a script begins it with &, which has interrupts ignored.
    begin = ["bash", "-c", 'trap "" INT; exec "$@"', "bash", *command, "up"]
    with subprocess.Popen(begin, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        while "entries" not in (line := process.stdout.readline()) or " 0 entries" in line:
            assert line, "it ended"
        process.send_signal(sent)
        said = process.stdout.read()
        assert process.wait(60) == code, said
    assert "stopped; local_md_0 holds" in said
    replay = [*command, "replay", "--date", "today", "--from", "archive", "--verify", "-o", "json"]
    found = json.loads(subprocess.run(replay, cwd=ROOT, env=environ, capture_output=True, check=True).stdout)
    held = int(said.partition("local_md_0 holds ")[2].split()[0].replace(",", ""))
    assert found["entries"] == held
