"""SIGKILL at every step of a start and of an end, by real processes: whoever comes next brings the day to its end, whole and verified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.schema import check

pytestmark = pytest.mark.timeout(280)
START = ["configuration", "secmaster", "storage", "connector", "archiver", "projector", "gateway", "health"]
END = ["stop", "drain", "flush", "verify", "record"]
_PATIENCE_S = 60


class Rig:
    def __init__(self, directory: Path) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")}
        self.environ = {**clean, "SSMD_DATA": str(directory / "data")}
        self.directory = directory

    def start(self, *args: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "ssmd.cli", *args]
        return subprocess.Popen(argv, env=self.environ, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def killed_at(self, text: str, *args: str) -> None:
        """Run it until it tells `text`; then SIGKILL."""
        process = self.start(*args)
        assert process.stderr is not None
        told = []
        with process:
            for line in process.stderr:
                told.append(line)
                if text in line:
                    process.kill()
                    break
            else:
                raise AssertionError("".join(told))

    def run(self, *args: str, code: int = 0) -> str:
        out, err = (process := self.start(*args)).communicate(timeout=_PATIENCE_S)
        assert process.returncode == code, err
        return out

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "-o", "json"))

    def state(self) -> Any:
        return self.json("day", "status")[0]


def test_killed_at_every_step_a_day_comes_to_its_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first = ["day", "start", "--why", "first day", "--speed", "4"]
    for step in START:
        rig.killed_at(f" {step}: …", *(first if step == START[0] else ["day", "recover"]))
        assert rig.state()["state"] == "STARTING"
    # Killed while it is live, too: the next runner starts its processes again.
    rig.killed_at("is ACTIVE", "day", "recover")
    process = rig.start("day", "run", "--for", "3s")
    deadline = time.monotonic() + _PATIENCE_S
    while rig.state()["runner"] != "lives" and time.monotonic() < deadline:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rig.run("day", "run", "--for", "3s")
    assert rig.state()["state"] == "ACTIVE"
    for step in END:
        rig.killed_at(f" {step}: …", "day", "end" if step == END[0] else "recover")
        assert rig.state()["state"] == "ENDING"
    rows = rig.json("day", "recover", "--dry-run")
    check("day_recover", rows)
    assert (rows[0]["done"], rows[0]["next"]) == (END[:-1], ["record"])
    rig.run("day", "recover")
    found = rig.state()
    assert (found["state"], found["forced"], found["done"]) == ("COMPLETE", False, END)

    document = rig.json("day", "show", "local", found["date"])
    check("day_show", document)
    check("day_status", [found])
    check("day_history", rig.json("day", "history"))
    assert document["record"]["body"]["verified"]
    assert document["record"]["signed"] is False
    assert document["record"]["body"]["entries"] == document["archive"][0]["entries"] > 100
    assert document["late_entries"] == 0
    assert [f["what"] for f in document["timeline"]].count("resumed") == 2
    assert {(p["process"], p["happened"]) for p in document["processes"]} >= {("connector", "started"), ("archiver", "stopped")}
    assert next(f["why"] for f in document["timeline"] if f["what"] == "moved") == "first day"
    replayed = rig.json("replay", "--date", found["date"], "--from", "archive", "--verify")
    assert replayed["verify"]["mismatched"] == 0
    assert replayed["verify"]["compared"] >= 5
    rig.run("day", "end", code=2)  # it is COMPLETE
