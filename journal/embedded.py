"""The embedded NATS server, as its users see it: there while any process uses the data directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from journal import guard
from journal.clock import Clock
from journal.errors import JournalRefused, JournalUnavailable, NotFound
from journal.guard import ServerState

_POLL_S = 0.02
_WATCH_S = 0.5
# The guard answers when the server has recovered its streams; large stores take a while.
_START_S = 120.0
# Where the guard's interpreter finds this package.
_ROOT = str(Path(guard.__file__).resolve().parent.parent)
# Variables that a process gets which needs no key. What else we were given may be secrets.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONHOME", "LD_LIBRARY_PATH", "GOMAXPROCS", "GOMEMLIMIT")
_log = logging.getLogger("journal")


class EmbeddedServer:
    """A running server; where it is may change if its port was taken while it was down."""

    def __init__(self, data_dir: Path, state: ServerState) -> None:
        self.data_dir = data_dir
        self.state = state

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.state.port}"

    @property
    def token(self) -> str:
        return self.state.token


def server_status(data_dir: Path) -> ServerState | None:
    """The directory's server if it runs now."""
    state = guard.read_state(data_dir)
    return state if state and state.alive else None


def has_data(data_dir: Path) -> bool:
    """Whether a server has ever stored anything there."""
    return (data_dir / "nats" / "store").is_dir()


@contextlib.asynccontextmanager
async def embedded_server(data_dir: Path, clock: Clock, *, read_only: bool = False) -> AsyncIterator[EmbeddedServer]:
    """Use the directory's server, started if need be; it goes when its last user has been gone for two seconds.

    With `read_only` a directory without data is left alone. A forked child (not a spawned one) counts as a user while it lives. Raises
    `NotFound`, `JournalRefused` (the directory cannot be used), `JournalUnavailable`.
    """
    data_dir = Path(os.path.abspath(data_dir))  # noqa: ASYNC240, PTH100 the watcher must find it after a chdir
    if read_only and not has_data(data_dir):
        raise NotFound("journal in", str(data_dir), hint="make one with `ssmd up --sim` or `ssmd data import`, or name another --data-dir")
    users = await _use(data_dir, clock)
    watcher = None
    try:
        server = EmbeddedServer(data_dir, await _ensure(data_dir, clock))
        watcher = asyncio.create_task(_watch(server, clock), name="embedded server watch")
        yield server
    finally:
        if watcher:
            watcher.cancel()
            await asyncio.wait([watcher])
        os.close(users)


async def _use(data_dir: Path, clock: Clock) -> int:
    """Hold the shared lock: from here on no guard stops the server. A guard that is stopping one is waited for."""
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)  # noqa: PTH103 microseconds, in an async function
        users = os.open(data_dir / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    try:
        while True:
            try:
                fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                await clock.sleep(_POLL_S)
            else:
                return users
    except BaseException:
        os.close(users)
        raise


def _unusable(data_dir: Path, error: OSError) -> JournalRefused:
    hint = {
        errno.EROFS: "it is read-only",
        errno.EACCES: "it is not ours to write",
        errno.ENOSPC: "its disk is full: free some",
        errno.ENOTDIR: "it is not a directory",
        errno.EEXIST: "it is not a directory",
    }.get(error.errno or 0, str(error))
    return JournalRefused(f"cannot keep a journal in {data_dir}: {hint}; or name another --data-dir")


async def _ensure(data_dir: Path, clock: Clock) -> ServerState:
    """A live server. Start a guard when there is none; guards see to it that only one of them stays."""
    deadline = clock.mono_ns() + int(_START_S * 1e9)
    while True:
        state = guard.read_state(data_dir)
        if state and state.alive:
            return state
        if not (state and state.guard.alive):
            await _start_guard(data_dir)
        elif clock.mono_ns() > deadline:
            raise JournalUnavailable(f"the embedded NATS server in {data_dir} does not come up; see {data_dir / 'nats' / 'nats.log'}")
        await clock.sleep(_POLL_S)


async def _start_guard(data_dir: Path) -> None:
    """Returns when a guard serves, ours or another that was faster (whose server may still be starting)."""
    path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
    environment = {**{name: os.environ[name] for name in PASSED if name in os.environ}, "PYTHONPATH": path}
    command = [sys.executable, "-m", "journal.guard", str(data_dir)]

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603 ourselves

    try:
        # In a thread: it takes a quarter of a second, and leaves nothing to be ended when the caller is cancelled.
        done = await asyncio.to_thread(start)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise JournalRefused(f"cannot keep a journal in {data_dir}: {words[-1]}; or name another --data-dir")


async def _watch(server: EmbeddedServer, clock: Clock) -> None:
    """A killed guard takes its server with it: be the one who starts another, or find the one that somebody else started."""
    full = False
    while True:
        await clock.sleep(_WATCH_S)
        if (low := guard.free_bytes(server.data_dir) < guard.LOW_BYTES) and not full:
            _log.error("the disk of %s is full: nothing can be stored until %d MB are free", server.data_dir, guard.ROOM_BYTES >> 20)
        full = low
        if server.state.guard.alive:
            state = guard.read_state(server.data_dir)
            if state and state.alive:
                server.state = state
            continue
        try:
            server.state = await _ensure(server.data_dir, clock)
        except (JournalRefused, JournalUnavailable) as error:
            _log.warning("%s", error)
