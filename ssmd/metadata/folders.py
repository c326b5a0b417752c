"""What the files in a project's folders are, told by their names: ours, those beside environments, and strangers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from journal.errors import CallerError
from ssmd.metadata.project import FOLDERS, Project
from ssmd.metadata.schema import SUFFIX

# A desk with a thousand environments of three keys each has half of it.
MAX_FILES = 10_000
RECIPIENTS = "recipients.txt"
# Beside an environment, after ENV.KEY.
BESIDE = {".age": "age", ".sealed.yaml": "sealed", ".pending.yaml": "pending"}

Role = Literal["metadata", "text", "age", "sealed", "pending", "recipients", "ignored", "stranger"]


class File(NamedTuple):
    """`text` is a schema's own language; `env` and `key` are of files that belong to a key; a `stranger` is none of ours."""

    path: Path
    folder: str
    role: Role
    env: str = ""
    key: str = ""


def role_of(relative: PurePosixPath) -> tuple[Role, str, str]:
    """Role, environment and key of a file by its path below ``exchanges``."""
    folder, name = relative.parts[0], relative.name
    if "__pycache__" in relative.parts or name == "__init__.py" or name.startswith("README") or any(p[0] == "." for p in relative.parts):
        return "ignored", "", ""
    if folder == "schemas" and name.endswith(tuple(SUFFIX.values())):
        return "text", "", ""
    if len(relative.parts) != 2:
        return "stranger", "", ""
    if relative.suffix == ".yaml" and "." not in relative.stem:
        return "metadata", "", ""
    if folder == "environments":
        if name == RECIPIENTS:
            return "recipients", "", ""
        for suffix, role in BESIDE.items():
            env, dot, key = name.removesuffix(suffix).partition(".")
            if name.endswith(suffix) and env and dot and key and "." not in key:
                return role, env, key  # type: ignore[return-value]  # a value of BESIDE
    return "stranger", "", ""


def is_ours(relative: PurePosixPath) -> bool:
    """Whether the file is committed with the metadata; a path below ``exchanges``."""
    return relative.parts[:1] != () and relative.parts[0] in FOLDERS and role_of(relative)[0] not in {"ignored", "stranger"}


def list_files(project: Project) -> list[File]:
    """Every file in the folders that is not ignored, sorted. Raises `CallerError` when there are too many."""
    found: list[File] = []
    for folder in FOLDERS:
        for path in _walk(project.exchanges / folder):
            role, env, key = role_of(PurePosixPath(path.relative_to(project.exchanges).as_posix()))
            if role != "ignored":
                found.append(File(path, folder, role, env, key))
            if len(found) > MAX_FILES:
                raise CallerError(f"{project.shown(project.exchanges)} has more than {MAX_FILES} files: is it the right folder?")
    return sorted(found)


def _walk(directory: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(directory):
        folders[:] = [f for f in folders if f != "__pycache__" and not f.startswith(".")]
        for name in names:
            yield Path(root, name)
