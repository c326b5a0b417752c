"""The embedded server: shared by processes that start, stop and die in any order, leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal.clock import WallClock
from journal.embedded import embedded_server, has_data, server_status
from journal.errors import JournalFull, JournalRefused, JournalUnavailable, NotFound
from journal.guard import Process, ServerState, _started, read_state
from journal.jetstream import JetStreamJournal
from tests.journal.contract import FEED, entries, new_stream, read_all, sequences

ROOT = str(Path(__file__).parents[2])
USER = """
import asyncio, sys
from pathlib import Path
from journal.clock import WallClock
from journal.embedded import embedded_server

async def main():
    async with embedded_server(Path(sys.argv[1]), WallClock()) as server:
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


class User:
    """Another process that uses a data directory, until it is told to leave or killed."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)], env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def url(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self, *, kill: bool = False, may_have_said: str = "nothing") -> None:
        if kill:
            self.process.kill()
        _, err = self.process.communicate(timeout=20)
        assert kill or (self.process.returncode, [line for line in err.splitlines() if may_have_said not in line]) == (0, [])


def processes_of(data_dir: Path) -> list[str]:
    """Command lines of live processes that name the directory: guards and servers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if str(data_dir) in line and ("journal.guard" in line or "nats-server" in line):
                    found.append(line)
    return found


async def until(true: Callable[[], Any], seconds: float = 15) -> Any:
    async with asyncio.timeout(seconds):
        while not (value := true()):  # noqa: ASYNC110 another process does it
            await asyncio.sleep(0.02)
    return value


async def nothing_left(data_dir: Path) -> None:
    await until(lambda: not processes_of(data_dir))
    assert read_state(data_dir) is None
    assert server_status(data_dir) is None


@contextlib.asynccontextmanager
async def used(data_dir: Path) -> AsyncIterator[tuple[Any, JetStreamJournal]]:
    async with embedded_server(data_dir, WallClock()) as server:
        journal = await JetStreamJournal.connect(server.url, WallClock(), token=server.token)
        try:
            yield server, journal
        finally:
            await journal.close()


async def eventually(work: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while True:
            try:
                return await work()
            except JournalUnavailable:
                await asyncio.sleep(0.02)


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def alive(data_dir: Path) -> ServerState:
    state = server_status(data_dir)
    assert state
    return state


NOBODY = Process(1, "long ago")


def leave_state(data_dir: Path, state: ServerState) -> None:
    """As a guard that was killed leaves it."""
    (data_dir / "server.json").write_bytes(msgspec.json.encode(state))


def test_it_starts_serves_and_goes_with_its_last_user(tmp_path: Path) -> None:
    async def body() -> None:
        stream = new_stream()
        assert not has_data(tmp_path)
        async with used(tmp_path) as (server, journal):
            await journal.ensure(stream, FEED)
            await journal.append(stream, entries(1, 10))
            state = alive(tmp_path)
            assert server.url == f"nats://127.0.0.1:{state.port}"
            for secret in ("server.json", "nats/nats.conf"):
                assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
                assert server.token in (tmp_path / secret).read_text()
            lines = processes_of(tmp_path)
            assert len(lines) == 2
            assert not any(server.token in line for line in lines)
            with pytest.raises(JournalRefused):
                await JetStreamJournal.connect(server.url, WallClock())
            assert "sync_interval: always" in (tmp_path / "nats" / "nats.conf").read_text()
        assert alive(tmp_path) == state  # it stays for a moment, for the next command
        async with used(tmp_path) as (server, journal):
            assert server.state == state
        await nothing_left(tmp_path)
        async with embedded_server(tmp_path, WallClock(), read_only=True) as server:
            journal = await JetStreamJournal.connect(server.url, WallClock(), token=server.token)
            assert await sequences(journal, stream) == list(range(1, 11))
            await journal.close()

    asyncio.run(body())


def test_many_processes_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    async def body() -> None:
        users = [User(tmp_path) for _ in range(5)]
        urls = {user.url() for user in users}
        assert len(urls) == 1
        await until(lambda: len(processes_of(tmp_path)) == 2)
        for user in users[:4]:
            user.end()
        await asyncio.sleep(2.5)  # more than the grace
        assert f"nats://127.0.0.1:{alive(tmp_path).port}" in urls
        async with used(tmp_path) as (server, _):
            users[4].end(kill=True)
            await asyncio.sleep(2.5)
            assert alive(tmp_path) == server.state
        await nothing_left(tmp_path)

    asyncio.run(body())


def test_a_killed_user_leaves_no_server_behind(tmp_path: Path) -> None:
    async def body() -> None:
        user = User(tmp_path)
        assert user.url()
        user.end(kill=True)
        assert alive(tmp_path)
        await nothing_left(tmp_path)

    asyncio.run(body())


def test_a_killed_server_comes_back_where_it_was(tmp_path: Path) -> None:
    async def body() -> None:
        stream = new_stream()
        async with used(tmp_path) as (server, journal):
            await journal.ensure(stream, FEED)
            for n in range(0, 30, 10):
                await eventually(partial(journal.append, stream, entries(n, n + 9)))
                before = await until(partial(server_status, tmp_path))  # the server answers before its guard says so
                kill(before.server)
            await eventually(lambda: journal.append(stream, entries(30, 39)))
            after = await until(partial(server_status, tmp_path))
            assert (after.port, after.token, after.guard) == (before.port, before.token, before.guard)
            assert await sequences(journal, stream) == list(range(1, 41))
            await until(lambda: server.state == after)

    asyncio.run(body())


def test_a_killed_guard_takes_the_server_along_and_a_user_starts_both_again(tmp_path: Path) -> None:
    async def body() -> None:
        stream = new_stream()
        users = [User(tmp_path) for _ in range(2)]
        assert len({u.url() for u in users}) == 1
        async with used(tmp_path) as (_, journal):
            await journal.ensure(stream, FEED)
            for n in range(0, 30, 10):
                await eventually(partial(journal.append, stream, entries(n, n + 9)))
                before = await until(partial(server_status, tmp_path))
                kill(before.guard)
                await until(lambda state=before: not state.server.alive)  # type: ignore[misc]
            await eventually(lambda: journal.append(stream, entries(30, 39)))
            after = await until(partial(server_status, tmp_path))
            assert (after.port, after.token) == (before.port, before.token)
            # Users that were slower than another find a guard; theirs leave.
            await until(lambda: len(processes_of(tmp_path)) == 2)
            assert await sequences(journal, stream) == list(range(1, 41))
        for user in users:
            user.end(may_have_said="the guard died at its start")  # where the kill came before it had told who started it
        await nothing_left(tmp_path)

    asyncio.run(body())


def test_everything_killed_at_once_is_started_by_the_next_user(tmp_path: Path) -> None:
    async def body() -> None:
        user = User(tmp_path)
        assert user.url()
        state = alive(tmp_path)
        for process in (state.guard, state.server):
            with contextlib.suppress(ProcessLookupError):
                kill(process)
        user.end(kill=True)
        await until(lambda: not processes_of(tmp_path))
        assert read_state(tmp_path) is not None  # it says what was
        async with used(tmp_path) as (server, journal):
            assert await journal.streams("local") == []
            assert server.state != state
        await nothing_left(tmp_path)

    asyncio.run(body())


def test_a_server_that_outlived_its_guard_is_ended_before_another_starts(tmp_path: Path) -> None:
    """As where a server is not told of its guard's death: two servers on one store would destroy it."""

    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    async def body() -> None:
        async with used(tmp_path):
            state = alive(tmp_path)
        await nothing_left(tmp_path)
        leave_state(tmp_path, ServerState(state.port, "t", Process(orphan.pid, _started(orphan.pid)), NOBODY))
        async with used(tmp_path) as (server, _):
            assert orphan.wait(5) == -signal.SIGKILL
            assert (server.state.port, server.token) == (state.port, "t")

    asyncio.run(body())


def test_a_port_that_was_taken_meanwhile_is_given_up(tmp_path: Path) -> None:
    async def body() -> None:
        async with await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0) as taken:
            port = taken.sockets[0].getsockname()[1]
            leave_state(tmp_path, ServerState(port, "t", NOBODY, NOBODY))
            async with used(tmp_path) as (server, _):
                assert server.state.port != port

    asyncio.run(body())


def test_an_open_journal_follows_a_server_that_had_to_move(tmp_path: Path) -> None:
    async def body() -> None:
        stream = new_stream()
        async with embedded_server(tmp_path, WallClock()) as server:
            journal = await JetStreamJournal.connect(lambda: server.url, WallClock(), token=server.token, timeout_s=1)
            await journal.ensure(stream, FEED)
            await journal.append(stream, entries(0, 2))
            before = server.state
            kill(before.guard)

            async def take_its_port() -> asyncio.Server:
                return await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", before.port)

            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(OSError):
                        taken = await take_its_port()
                        break
                    await asyncio.sleep(0)
            assert await eventually(partial(journal.append, stream, entries(3, 4))) == [4, 5]
            assert server.state.port != before.port
            taken.close()
            await journal.close()

    asyncio.run(body())


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@pytest.mark.chaos
def test_a_full_disk_stops_writing_until_there_is_room(tmp_path: Path) -> None:
    """On a disk of its own (root only): what was acknowledged is there, what was not is stored once there is room."""
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(tmp_path))

    async def body() -> None:
        stream = new_stream()
        data_dir = tmp_path / "data"
        async with embedded_server(data_dir, WallClock()) as server:
            journal = await JetStreamJournal.connect(server.url, WallClock(), token=server.token, timeout_s=1)
            await journal.ensure(stream, FEED)
            stored = 0
            with contextlib.suppress(JournalUnavailable, JournalFull):
                for n in range(0, 60_000, 500):
                    await journal.append(stream, entries(n, n + 499))
                    stored = n + 500
            assert 0 < stored < 60_000
            mount("-o", "remount,size=100m", str(tmp_path))
            batch = entries(stored, stored + 499)
            assert await eventually(partial(journal.append, stream, batch)) == list(range(stored + 1, stored + 501))
            assert [r.entry.frame for r in await read_all(journal, stream)] == list(range(stored + 500))
            await journal.close()
        await nothing_left(data_dir)

    try:
        asyncio.run(body())
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_readers_do_not_start_a_server_for_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        missing = tmp_path / "nowhere"
        with pytest.raises(NotFound, match="make one with `ssmd up"):
            async with embedded_server(missing, WallClock(), read_only=True):
                pass
        assert not missing.exists()

    asyncio.run(body())


def test_directories_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    async def body() -> None:
        file = tmp_path / "file"
        file.write_text("")
        for path in (file, file / "below", Path("/proc/nowhere")):
            with pytest.raises(JournalRefused, match=rf"cannot keep a journal in {path}: .*; or name another --data-dir"):
                async with embedded_server(path, WallClock()):
                    pass
        # A store that is no directory: the server says so and the words arrive.
        broken = tmp_path / "broken"
        (broken / "nats").mkdir(parents=True)
        (broken / "nats" / "store").write_text("")
        with pytest.raises(JournalRefused, match=r"cannot keep a journal in .*broken: the embedded NATS server does not start"):
            async with embedded_server(broken, WallClock()):
                pass
        await until(lambda: not processes_of(broken))

    asyncio.run(body())


def test_what_outlives_us_gets_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMD_KALSHI_PRIVATE_KEY", "hush")

    async def main() -> None:
        async with embedded_server(tmp_path, WallClock()):
            state = read_state(tmp_path)
            assert state
            for process in (state.guard, state.server):
                given = Path(f"/proc/{process.pid}/environ").read_bytes()  # noqa: ASYNC240
                assert b"PATH=" in given
                assert b"hush" not in given

    asyncio.run(main())
