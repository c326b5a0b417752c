"""Simulated days with SIGKILLs in between, as users rehearse them. A failure prints its seed; SSMD_SEED runs it again.

A whole week is the same command with other numbers (`--days 7 --speed 1440 --kills 20`) and takes eight minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.rehearsals import rehearsed

pytestmark = [pytest.mark.rehearsal, pytest.mark.timeout(900)]
DAYS = 2
SPEED = 1_440  # a day in a minute
KILLS = 10


def test_days_with_kills_are_whole_or_say_what_is_not(tmp_path: Path) -> None:
    seed = ["--seed", os.environ["SSMD_SEED"]] if os.environ.get("SSMD_SEED") else []
    report = rehearsed(tmp_path, "--days", str(DAYS), "--speed", str(SPEED), "--kills", str(KILLS), *seed, timeout_s=800)
    assert [row["state"] for row in report["days"]].count("COMPLETE") >= 1, report["days"]
    assert len(report["kills"]) >= KILLS * 3 // 4
    assert report["frames"]["in_gaps"] + report["frames"]["unheard_in_gaps"] > 0
    assert report["markets"]["first_message"] > 60
