"""Every command in the README and under docs/ is run as it stands (``sh`` blocks), or checked against ``--help`` (other blocks)."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *, run: bool) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if (kind == "sh") == run]


def test_the_readme_names_the_two_commands_and_ci_runs_the_second() -> None:
    assert [b.strip() for b in blocks(ROOT / "README.md", run=True)][:2] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    # A folder of its own, so that nothing a reader has in theirs is touched; `make test` is what is running now.
    script = "\n".join(b for b in blocks(page, run=True) if b.strip() != "make test")
    if not script:
        return
    for name in (".venv", "Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SSMD_", "PYTEST"))}
    # Set-up is not done again from here: it would point the installation at this folder.
    shell = ["bash", "-euxo", "pipefail", "-c", f'make() {{ command make -o .venv/.installed "$@"; }}\n{script}']
    done = subprocess.run(shell, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def commands() -> list[str]:
    lines = [line for page in PAGES for b in blocks(page, run=False) for line in b.splitlines()]
    return sorted({line.split(" #")[0].strip() for line in lines if ".venv/bin/ssmd " in line or line.startswith("ssmd ")})


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_only_shown_has_the_options_it_is_shown_with(line: str) -> None:
    words = shlex.split(line[line.index("ssmd ") :])[1:]
    nouns = [w for w in words if re.fullmatch(r"[a-z][a-z-]*", w)][:3]
    for depth in range(len(nouns), 0, -1):
        argv = [sys.executable, "-m", "ssmd.cli", *nouns[:depth], "--help"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    for option in (w.split("=")[0] for w in words if w.startswith("-")):
        known = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", done.stdout)
        assert known, f"{option} is not an option of ssmd {' '.join(nouns[:depth])}"


VARIABLE = re.compile(r"(?<![A-Z0-9_$])((?:SSMD|VAULT)_[A-Z0-9_]*[A-Z0-9])(?![A-Z0-9_])")


def variables(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in VARIABLE.findall(text)}


def test_the_page_lists_every_variable_that_is_read_and_no_other() -> None:
    packages = ("journal", "exchanges", "projections", "replay", "ssmd")
    read = variables(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    page = (ROOT / "docs" / "operations.md").read_text()
    listed = variables(re.findall(r"^\| (`.*?) \|", page[page.index("## Variables") :], re.MULTILINE))
    assert len(read) > 15
    assert read == listed


def test_what_the_architecture_names_is_in_the_tree() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([a-z_/]+(?:/|\.py))`", page)
    assert {"ssmd/gateway/", "journal/block.py", "room.py", "ssmd/wiring.py"} <= set(named)
    folders = [ROOT, *(path for package in ("ssmd", "journal") for path in (ROOT / package).rglob("*") if path.is_dir())]
    missing = [name for name in named if not any((folder / name).exists() for folder in (folders if "/" not in name else [ROOT]))]
    assert not missing
    rows = page[page.index("## The tree") :]
    assert set(re.findall(r"^\| `(\w+)/` \|", rows, re.MULTILINE)) == {
        path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()
    }
