"""Each import contract is seen failing on a violation planted for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ssmd", "journal", "projections", "exchanges", "replay")

VIOLATIONS = {
    "floors": ("journal/clock.py", "import replay"),
    "projections and exchanges are neighbours": ("projections/projection.py", "import exchanges.adapter"),
    "ssmd/__init__ imports nothing of ours": ("ssmd/__init__.py", "import journal.clock"),
    "adapters are sans-io": ("exchanges/adapter.py", "import socket"),
    "folds are pure": ("projections/projection.py", "import time"),
    "metadata and keys know nothing of the application": ("ssmd/keys/secret.py", "import ssmd.settings"),
    "commands are leaves": ("ssmd/services/lag.py", "import ssmd.commands.version"),
    "commands are leaves: the gateway": ("ssmd/gateway/rates.py", "import ssmd.commands.version"),
    "commands are leaves: Temporal": ("ssmd/temporal/orders.py", "import ssmd.commands.version"),
    "Temporal's library is known to its driver and the composition root": ("ssmd/day/calendar.py", "import temporalio.client"),
    "Temporal's library: modules of no package too": ("ssmd/teardown.py", "import temporalio.client"),
    "what the gateway's clients are sent is made without I/O": ("ssmd/gateway/message.py", "import asyncio"),
    "keys are resolved in the composition root": ("ssmd/services/lag.py", "import ssmd.keys.resolve"),
    "keys are resolved in the composition root: the gateway": ("ssmd/gateway/access.py", "import ssmd.keys.resolve"),
}


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports_command; sys.path.insert(0, '.'); lint_imports_command()"
    return subprocess.run([sys.executable, "-c", program, "--no-cache"], cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_tree_keeps_its_contracts(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_breaks_the_contract(tree: Path, contract: str) -> None:
    path, line = VIOLATIONS[contract]
    with (tree / path).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
