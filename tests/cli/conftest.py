from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ssmd.cli import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Ssmd = Callable[..., Ran]


def here(capsys: pytest.CaptureFixture[str]) -> Ssmd:
    """Runs one command line in this process."""

    def run(*args: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(a) for a in args])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def ssmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ssmd:
    """Run one command line in this process, on data of its own."""
    for name in ("SSMD_ENV", "SSMD_NATS", "SSMD_NATS_TOKEN", "SSMD_STORAGE", "SSMD_PROJECT", "SSMD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSMD_DATA", str(tmp_path / "data"))

    return here(capsys)
