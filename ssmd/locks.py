"""Locks on files of the data directory: one import, one archiver. The kernel frees them when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from journal.clock import Clock
from journal.errors import StoreError

_POLL_S = 0.2


def archiver_lock(data_dir: Path, env: str) -> Path:
    """Held by the one process that archives the environment from this data directory."""
    return data_dir / f"archiver-{env}.lock"


def capture_lock(data_dir: Path) -> Path:
    """Held by the one `ssmd up` or `ssmd demo` of this data directory."""
    return data_dir / "up.lock"


def import_lock(data_dir: Path) -> Path:
    """Held by the one import into this data directory."""
    return data_dir / "import.lock"


@asynccontextmanager
async def held(path: Path, clock: Clock, *, waiting: Callable[[], object] | None) -> AsyncIterator[bool]:
    """Hold the lock: True. When another process has it, call `waiting` once and wait; with None for `waiting`, go on without: False.

    Raises `StoreError` when the directory cannot be used.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot use {path.parent}: {error.strerror}; or name another --data-dir") from None
    try:
        told = False
        while not (mine := _take(lock)) and waiting:
            if not told:
                waiting()
                told = True
            await clock.sleep(_POLL_S)
        yield mine
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
