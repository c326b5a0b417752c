"""A folder that holds JSON and no recording is said to hold none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Ran


def test_the_manifest_of_the_recordings_is_not_taken_for_one(tmp_path: Path, ssmd: Callable[..., Ran]) -> None:
    (tmp_path / "event.json").write_text(json.dumps({"event": {}}))
    ran = ssmd("data", "import", "--feed", "kalshi", tmp_path)
    assert ran.code == 2
    assert "no recordings" in ran.err
