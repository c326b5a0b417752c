"""`ssmd day rehearse` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli.schema import check


def rehearsed(directory: Path, *args: str, timeout_s: float) -> dict[str, Any]:
    """Its report, of which every check holds; else what it said is the failure."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")}
    argv = [sys.executable, "-m", "ssmd.cli", "day", "rehearse", "local", *args, "--keep", str(directory / "kept"), "-o", "json"]
    with subprocess.Popen(argv, cwd=directory, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    assert process.returncode == 0, f"{out}\n{err}"
    report: dict[str, Any] = json.loads(out)
    check("day_rehearse", report)
    assert report["ok"]
    return report
