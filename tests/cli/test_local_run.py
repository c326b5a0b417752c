"""`ssmd up` and `ssmd demo`: what they refuse, and that they refuse it before anything is started or removed."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from journal.errors import CallerError
from journal.guard import Process, ServerState, _started
from ssmd.commands.demo import _clear
from ssmd.commands.up import up
from ssmd.locks import capture_lock


class Hurried:
    """A clock whose sleeps are short."""

    rate = 1.0

    def wall_ns(self) -> int:
        return 0

    def mono_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        del seconds
        await asyncio.sleep(0)


def refused(data: Path, *args: str) -> str:
    done = CliRunner().invoke(up, [*args, "--data-dir", str(data)])
    assert isinstance(done.exception, CallerError), done.output
    assert not (data / "server.json").exists()
    return str(done.exception)


def test_a_choice_of_markets_without_a_key_is_not_simulated(tmp_path: Path) -> None:
    assert "add --key-id and --key-file, or --sim" in refused(tmp_path, "--series", "KXBTC15M")


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path, "--sim", str(tmp_path / "nowhere"))


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(up, ["--key-id", "k", "--key-file", str(tmp_path / "nowhere.pem"), "--data-dir", str(tmp_path)])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "nowhere.pem' does not exist" in done.output


def test_one_capture_a_directory(tmp_path: Path) -> None:
    with capture_lock(tmp_path).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another `ssmd up` is capturing" in refused(tmp_path, "--for", "1s")


def test_a_demo_never_removes_a_directory_that_is_in_use(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    data.mkdir()
    ours = Process(os.getpid(), _started(os.getpid()))
    (data / "server.json").write_bytes(msgspec.json.encode(ServerState(1, "t", ours, ours)))
    with pytest.raises(CallerError, match="another ssmd is at work"):
        asyncio.run(_clear(data, Hurried()))
    assert (data / "server.json").exists()
    (data / "server.json").unlink()
    asyncio.run(_clear(data, Hurried()))
    assert not data.exists()
