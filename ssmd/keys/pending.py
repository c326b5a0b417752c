"""Changes that the journal does not have yet: ``ENV.KEY.pending.yaml`` beside the environment, safe to commit.

Every change is written here first, then the value, then the journal, then it is taken out. So a crash leaves a value that is journalled, or
a change that the next connected command appends; appended twice, it is in the journal once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from journal.clock import Clock
from journal.day import DayRule
from journal.errors import BadFile, CallerError, KeyRefused
from journal.protocols import Journal
from ssmd.keys.change import Change
from ssmd.keys.files import read_private, remove_file, write_whole

if TYPE_CHECKING:
    from ssmd.metadata.project import Project

MAX_CHANGES = 100  # of one key: so many without a journal is no longer an outage
_LIMIT_BYTES = 1 << 20
_HEAD = "# Changes of this key that are not in the journal yet; the next connected command puts them there. Commit it with the key.\n"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    events: list[Change]


class Pending:
    """The waiting changes of an environment's keys. `directory` is the environments'."""

    def __init__(self, directory: Path, env: str) -> None:
        self._directory = directory
        self._env = env

    def path(self, key: str) -> Path:
        return self._directory / f"{self._env}.{key}.pending.yaml"

    @contextmanager
    def carried_out(self, change: Change) -> Iterator[None]:
        """Around the writing of the value: `change` waits from before it, and is settled after it. Raises `KeyRefused`, `BadFile`.

        A value that was refused leaves no change. One process at a time.
        """
        with self._locked():
            waiting = self.read(change.key)
            if len(waiting) >= MAX_CHANGES:
                raise KeyRefused(f"{self.path(change.key)} has {len(waiting)} changes already: connect to the journal first")
            self._write(change.key, [*waiting, change])
            try:
                yield
            except (CallerError, OSError):
                self._write(change.key, waiting)  # nothing was written
                raise
            self._write(change.key, [*waiting, msgspec.structs.replace(change, written=True)])

    def waiting(self) -> list[Change]:
        """Of all keys, in the order of each. Raises `KeyRefused`, `BadFile`."""
        prefix, suffix = f"{self._env}.", ".pending.yaml"
        keys = sorted(p.name.removeprefix(prefix).removesuffix(suffix) for p in self._directory.glob(f"{prefix}*{suffix}"))
        with self._locked():
            return [change for key in keys for change in self.read(key)]

    def drop(self, changes: list[Change]) -> None:
        """Take out what is journalled."""
        done = {change.id for change in changes}
        with self._locked():
            for key in {change.key for change in changes}:
                self._write(key, [change for change in self.read(key) if change.id not in done])

    def read(self, key: str) -> list[Change]:
        """Raises `KeyRefused`, `BadFile`."""
        path = self.path(key)
        found = read_private(path, limit_bytes=_LIMIT_BYTES, others=0o002, mode="o-w")
        if found is None:
            return []
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            changes = msgspec.convert(YAML(typ="safe", pure=True).load(found.data), _File).events
        except (YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadFile([f"{path}: {text}; it is written by ssmd: restore it from git"]) from None
        if other := next((c.key for c in changes if c.key != key), None):
            raise BadFile([f"{path}: holds a change of key {other!r}; it is written by ssmd: restore it from git"])
        return changes

    def _write(self, key: str, changes: list[Change]) -> None:
        path = self.path(key)
        if changes:
            lines = "".join(f"  - {msgspec.json.encode(change).decode()}\n" for change in changes)  # YAML 1.2 reads JSON
            write_whole(path, f"{_HEAD}events:\n{lines}".encode(), mode=0o644)
        else:
            remove_file(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory, so that no file lies about in git; the kernel frees it however we end."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


async def append_pending(journal: Journal, clock: Clock, project: Project, env: str, *, days: DayRule) -> int:
    """Journal what waits, each change exactly once; how many waited. Raises `KeyRefused`, `BadFile`, `StoreError`."""
    pending = Pending(project.environments.directory, env)
    changes = pending.waiting()
    if not changes:
        return 0
    from ssmd.keys.history import record

    await record(journal, clock, env, changes, days=days)
    with suppress(KeyRefused):  # a project that is mounted read-only: they are found to be journalled every time
        pending.drop(changes)
    return len(changes)
