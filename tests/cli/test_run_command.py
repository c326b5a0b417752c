from __future__ import annotations

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
