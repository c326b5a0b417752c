"""The starter set: what `ssmd init` puts into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ssmd.metadata.project import FOLDERS, packaged

DATA = ".ssmd"
_IGNORED = {f"{before}{DATA}{after}" for before in ("", "/") for after in ("", "/", "/*")}
_SUFFIXES = {".yaml", ".capnp"}


class Planted(NamedTuple):
    """`file` from the directory; `change`: created, replaced, kept (other content is there) or unchanged."""

    file: str
    change: str


def plant(directory: Path, *, force: bool) -> list[Planted]:
    """Make the folders, the starter set, the data directory and its line in .gitignore. Existing files are kept but with `force`."""
    source = packaged().exchanges
    found = []
    for folder in FOLDERS:
        (directory / "exchanges" / folder).mkdir(parents=True, exist_ok=True)
        files = sorted(p for p in (source / folder).iterdir() if p.suffix in _SUFFIXES and p.is_file())
        found += [_copied(file, directory, force=force) for file in files]
    (directory / DATA).mkdir(mode=0o700, exist_ok=True)
    found.append(_ignored(directory))
    return found


def repository(directory: Path) -> Path | None:
    """The root of the git repository that `directory` is in."""
    here = directory.resolve()
    return next((d for d in (here, *here.parents) if (d / ".git").exists()), None)


def _copied(file: Path, directory: Path, *, force: bool) -> Planted:
    relative = f"exchanges/{file.parent.name}/{file.name}"
    target, content = directory / relative, file.read_bytes()
    before = target.read_bytes() if target.exists() else None
    if before == content:
        return Planted(relative, "unchanged")
    if before is not None and not force:
        return Planted(relative, "kept")
    target.write_bytes(content)
    return Planted(relative, "created" if before is None else "replaced")


def _ignored(directory: Path) -> Planted:
    """Add the line once, at the end."""
    path = directory / ".gitignore"
    before = path.read_bytes() if path.exists() else None
    text = before or b""
    if any(line.strip().decode(errors="replace") in _IGNORED for line in text.splitlines()):
        return Planted(path.name, "unchanged")
    path.write_bytes(text + (b"\n" if text and not text.endswith(b"\n") else b"") + f"{DATA}/\n".encode())
    return Planted(path.name, "created" if before is None else "extended")
