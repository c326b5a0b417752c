from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.recorded import market, write

ROOT = Path(__file__).resolve().parents[2]


def test_an_import_killed_half_way_is_finished_by_the_next(tmp_path: Path) -> None:
    """SIGKILL once a third is stored; then the stream holds each line once, in order, and the days verify."""
    recording = write(tmp_path / "a.ndjson.gz", market("A", deltas=40_000, step_ms=1))
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")} | {"SSMD_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "ssmd.cli"]

    def ask(*args: str) -> object:
        ran = subprocess.run(
            [*command, *args, "-o", "json"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=120
        )
        return json.loads(ran.stdout)

    importing = [*command, "data", "import", "--feed", "kalshi", str(recording)]
    with subprocess.Popen(importing, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        messages = tmp_path / "data" / "nats" / "store" / "jetstream" / "$G" / "streams" / "local_md_import" / "msgs"
        while process.poll() is None and sum(f.stat().st_size for f in messages.glob("*.blk")) < 8 << 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
    report = ask("data", "import", "--feed", "kalshi", str(recording))
    assert isinstance(report, dict)
    assert report["frames"] == 48_001
    assert 0 < report["duplicates"] < 48_001
    tail = subprocess.run(
        [*command, "journal", "tail", "-o", "jsonl"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=120
    )
    entries = [json.loads(line) for line in tail.stdout.splitlines()]
    assert [e["frame"] for e in entries if e["type"] != "control"] == list(range(1, 48_002))
    replayed = ask("replay", "--date", "2026-08-10", "--verify")
    assert isinstance(replayed, dict)
    assert replayed["verify"]["mismatched"] == 0
    assert replayed["entries"] == len(entries)
