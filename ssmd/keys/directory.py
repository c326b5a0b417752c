"""Source ``file:DIRECTORY``: one file a field, as Kubernetes, Docker and systemd mount secrets."""

from __future__ import annotations

import os
from pathlib import Path

from journal.errors import KeyRefused
from ssmd.keys.files import check_directory, read_private
from ssmd.keys.source import Found, Place, Wanted
from ssmd.keys.values import LIMIT_BYTES, assemble, decode, drop_newline, list_names


class DirectorySource:
    """Reads ``DIRECTORY/KEY/FIELD`` if ``DIRECTORY/KEY`` is a directory, else ``DIRECTORY/FIELD``.

    ``~`` is the home; a relative path begins at the environment files.
    """

    def __init__(self, rest: str, place: Place) -> None:
        if "\0" in rest:
            raise KeyRefused("key source file: names no directory")
        home = place.home / rest[2:] if rest.startswith("~/") else Path(rest)
        self._directory = place.directory / home
        self._clock = place.clock

    def fetch(self, wanted: Wanted) -> Found:
        own = self._directory / wanted.name
        directory = own if os.path.isdir(own) else self._directory  # noqa: PTH112  (Path.is_dir raises where we may not look)
        texts, set_ns = read_directory(directory, wanted)
        return assemble(texts, wanted, f"key {wanted.name}: {directory}", self._clock, set_ns=set_ns)


def read_directory(directory: Path, wanted: Wanted) -> tuple[dict[str, str], int]:
    """Text by name, and when the newest was written. One trailing newline is not part of a text.

    In a Kubernetes volume the time is 0: its files are as old as the pod, not as the key. Raises `KeyRefused`.
    """
    texts: dict[str, str] = {}
    set_ns = 0
    if not check_directory(directory):
        return texts, set_ns
    # Kubernetes: FIELD -> ..data/FIELD, ..data -> the newest of directories that are replaced as a whole.
    mounted = (directory / "..data").is_symlink()
    if mounted:
        check_directory(directory / "..data")
    for name in list_names(wanted):
        # Room for the newline, of which a value at the limit has one too.
        read = read_private(directory / name, limit_bytes=LIMIT_BYTES + 2)
        if read:
            texts[name] = drop_newline(decode(read.data, f"{directory / name}"))
            set_ns = max(set_ns, read.modified_ns if name in wanted.fields else 0)
    return texts, 0 if mounted else set_ns
