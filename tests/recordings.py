"""Where the real recordings are. They are never part of the project; a test that asks for them fails when they are absent."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


def directory() -> Path:
    """Root of the recordings: ``SSMD_TEST_DATA``, else ``../shared/data`` beside the project."""
    root = Path(os.environ.get("SSMD_TEST_DATA", DEFAULT))
    if not (root / "kalshi").is_dir():
        raise FileNotFoundError(
            f"no recordings at {root}; set SSMD_TEST_DATA to the folder that holds kalshi/, or leave data out of SSMD_TEST"
        )
    return root


def gold_files() -> list[Path]:
    """The 32 files of 31 KXGOLD15M markets, by name."""
    return sorted((directory() / "kalshi" / "gold15m" / "events").glob("*/*.ndjson.gz"))
