"""A project of its own for a test: the starter set, copied."""

from __future__ import annotations

import shutil
from pathlib import Path

from ssmd.metadata.project import FOLDERS, Project, packaged


def copy_starter(root: Path) -> Project:
    for folder in FOLDERS:
        shutil.copytree(
            packaged().exchanges / folder,
            root / "exchanges" / folder,
            ignore=shutil.ignore_patterns("__init__.py", "__pycache__"),
            dirs_exist_ok=True,
        )
    return Project(root)


def edit(path: Path, old: str, new: str) -> None:
    """Replace `old`, which must be there exactly once."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))
