"""A simulated week with SIGKILLs in between, as users rehearse it. A failure prints its seed; SSMD_SEED runs it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.rehearsals import rehearsed

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
SPEED = 2_016  # a day in 43 s, the week in five minutes
KILLS = 20


def test_a_week_with_kills_is_whole_or_says_what_is_not(tmp_path: Path) -> None:
    seed = ["--seed", os.environ["SSMD_SEED"]] if os.environ.get("SSMD_SEED") else []
    report = rehearsed(tmp_path, "--days", "7", "--speed", str(SPEED), "--kills", str(KILLS), *seed, timeout_s=800)
    assert [row["state"] for row in report["days"]].count("COMPLETE") >= 4, report["days"]
    assert len(report["kills"]) >= KILLS * 3 // 4
    assert report["frames"]["in_gaps"] + report["frames"]["unheard_in_gaps"] > 0
    assert report["markets"]["first_message"] > 300
