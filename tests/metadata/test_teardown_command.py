"""`ssmd env teardown` as a person meets it: what it shows, asks, refuses, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.clock import WallClock
from journal.storage import LocalStorage
from journal.subjects import Stream
from ssmd.settings import Settings
from ssmd.wiring import open_journal
from tests.cli import schema
from tests.cli.conftest import Ssmd, here
from tests.journal.contract import entries, opener
from tests.metadata.backends import project, write

CLOCK = WallClock()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ssmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ssmd:
    """Run one command line in this process, in a project with two environments that have data."""
    for name in [n for n in os.environ if n.startswith("SSMD_") and n != "SSMD_TEST"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    project(tmp_path, kalshi="", kalshi_dev="")
    (tmp_path / "exchanges/environments/kalshi.nats.sealed.yaml").write_text("kind: SealedSecret\n")

    return here(capsys)


def fill(root: Path, env: str, objects: int = 5) -> None:
    async def streams() -> None:
        async with open_journal(Settings.read({"env": env}, {}, root), CLOCK) as journal:
            for stream in (Stream(env, shard="0"), Stream(env, domain="system"), Stream(env, shard="import")):
                await journal.ensure(stream, "kalshi")
            await journal.append(Stream(env, shard="0"), [opener(), *entries(1, 9)])

    asyncio.run(streams())
    storage = LocalStorage(root / ".ssmd/data/objects")
    for n in range(objects):
        storage.put(f"{env}/kalshi/2026-08-10/norm/{n}", b"%d" % n)


def state(ssmd: Ssmd, root: Path, env: str) -> Any:
    ran = ssmd("journal", "streams", "--env", env, "-o", "json")
    objects = LocalStorage(root / ".ssmd/data/objects").list(f"{env}/")
    return ran.document if ran.code == 0 else [], objects


def files(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in (root / "exchanges").rglob("*") if p.is_file()}


def test_shown_then_deleted_and_nothing_else(ssmd: Ssmd, tmp_path: Path) -> None:
    for env in ("kalshi", "kalshi-dev"):
        fill(tmp_path, env)
    before, theirs = files(tmp_path), state(ssmd, tmp_path, "kalshi-dev")
    mine = state(ssmd, tmp_path, "kalshi")
    dry = ssmd("env", "teardown", "kalshi", "--dry-run", "-o", "json")
    assert dry.code == 0, dry.err
    schema.check("env-teardown", dry.document)
    assert [(d["kind"], d["name"], d["count"]) for d in dry.document["deleted"]] == [
        ("objects", "kalshi/", 5), ("stream", "kalshi_md_0", 10), ("stream", "kalshi_md_import", 0), ("stream", "kalshi_system", 0),
    ]  # fmt: skip
    assert state(ssmd, tmp_path, "kalshi") == mine
    silent = ssmd("env", "teardown", "kalshi", "-o", "json")
    assert (silent.code, silent.out) == (2, "")
    assert "nothing was deleted: say --yes" in silent.err
    assert state(ssmd, tmp_path, "kalshi") == mine

    ran = ssmd("env", "teardown", "kalshi", "--yes", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.document == {**dry.document, "done": True}
    assert state(ssmd, tmp_path, "kalshi")[1] == []
    assert state(ssmd, tmp_path, "kalshi-dev") == theirs
    assert files(tmp_path) == before
    again = ssmd("env", "teardown", "kalshi", "--yes", "-o", "json")
    assert (again.code, again.document["deleted"], again.document["done"]) == (0, [], False)
    assert "nothing to delete" in again.err


def test_a_day_that_is_not_there_and_what_stays(ssmd: Ssmd, tmp_path: Path) -> None:
    fill(tmp_path, "kalshi")
    ran = ssmd("env", "teardown", "kalshi", "--date", "2026-08-10", "--yes", "-o", "json")
    assert ran.code == 0, ran.err
    schema.check("env-teardown", ran.document)
    assert [(d["kind"], d["name"]) for d in ran.document["deleted"]] == [("objects", "kalshi/kalshi/2026-08-10/")]
    assert "domain history of kalshi stays" in ran.err
    assert ssmd("env", "teardown", "kalshi", "--date", "today", "--yes").code == 2
    assert ssmd("env", "teardown", "kalshi", "--date", "tomorrow", "--yes").code == 2


def test_protected(ssmd: Ssmd, tmp_path: Path) -> None:
    fill(tmp_path, "kalshi")
    mine = state(ssmd, tmp_path, "kalshi")
    write(tmp_path, "kalshi", "protected: true\n")
    for more in ([], ["--date", "2026-08-10"], ["--dry-run"]):
        ran = ssmd("env", "teardown", "kalshi", "--yes", *more)
        assert ran.code == 2
        assert "kalshi is protected: nothing was deleted; take `protected: true` out of exchanges/environments/kalshi.yaml" in ran.err
    assert state(ssmd, tmp_path, "kalshi") == mine


def test_an_environment_that_nobody_named(ssmd: Ssmd, tmp_path: Path) -> None:
    fill(tmp_path, "kalshi")
    (tmp_path / "exchanges/environments/kalshi-dev.yaml").unlink()
    ran = ssmd("env", "teardown", "--yes")
    assert ran.code == 2
    assert "name the environment" in ran.err
    assert state(ssmd, tmp_path, "kalshi")[1]


def test_nothing_was_ever_recorded(ssmd: Ssmd, tmp_path: Path) -> None:
    ran = ssmd("env", "teardown", "kalshi", "--yes")
    assert ran.code == 0, ran.err
    assert not (tmp_path / ".ssmd/data/nats").exists()


@contextlib.contextmanager
def process(root: Path, *args: str, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, "-m", "ssmd.cli", *args], env=environ, cwd=root, **how)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def test_refused_while_an_archiver_or_projector_runs(ssmd: Ssmd, tmp_path: Path) -> None:
    fill(tmp_path, "kalshi")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for service, word in (("archiver", "at work"), ("projector", "connected reader")):
        with process(tmp_path, "run", service, "--env", "kalshi", **quiet) as running:
            deadline = time.monotonic() + 30
            while not _refused(ssmd, word):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            running.kill()
            running.wait()
        fill(tmp_path, "kalshi")
    deadline = time.monotonic() + 30
    while (ran := ssmd("env", "teardown", "kalshi", "--yes")).code:  # a killed reader is forgotten by the server
        assert time.monotonic() < deadline, ran.err
        time.sleep(0.2)


def _refused(ssmd: Ssmd, word: str) -> bool:
    ran = ssmd("env", "teardown", "kalshi")  # asks, if it is allowed: then there is nobody to ask
    assert ran.code == 2
    return word in ran.err and "stop it first" in ran.err


@pytest.mark.parametrize(("typed", "deleted"), [("kalshi-dev", False), ("", False), ("kalshi", True)])
def test_on_a_terminal_it_asks_for_the_name(ssmd: Ssmd, tmp_path: Path, typed: str, deleted: bool) -> None:
    fill(tmp_path, "kalshi")
    ours, theirs = pty.openpty()
    with process(tmp_path, "env", "teardown", "kalshi", "-o", "table", stdin=theirs, stdout=theirs, stderr=theirs) as asked:
        os.close(theirs)
        seen, answered = b"", False
        with contextlib.suppress(OSError):  # a terminal whose other side has closed
            while chunk := os.read(ours, 4096):
                seen += chunk
                if b"Type kalshi" in seen and not answered:
                    answered = bool(os.write(ours, f"{typed}\n".encode()))
        os.close(ours)
        code = asked.wait(30)
    assert b"kalshi_md_0" in seen.partition(b"Type kalshi")[0], "shown first"
    assert code == (0 if deleted else 2)
    assert (b"nothing was deleted" in seen) is not deleted
    assert (state(ssmd, tmp_path, "kalshi")[1] == []) is deleted


def test_one_interrupt_leaves_the_question_and_deletes_nothing(ssmd: Ssmd, tmp_path: Path) -> None:
    fill(tmp_path, "kalshi")
    before = state(ssmd, tmp_path, "kalshi")
    ours, theirs = pty.openpty()
    with process(tmp_path, "env", "teardown", "kalshi", "-o", "table", stdin=theirs, stdout=theirs, stderr=theirs) as asked:
        os.close(theirs)
        seen = b""
        while b"to delete it" not in seen:
            seen += os.read(ours, 4096)
        time.sleep(0.3)  # the question is printed just before it is waited on
        asked.send_signal(signal.SIGINT)
        assert asked.wait(30) == 130
        os.close(ours)
    assert state(ssmd, tmp_path, "kalshi") == before


def test_killed_at_any_moment_it_is_finished_by_running_again(ssmd: Ssmd, tmp_path: Path) -> None:
    rng = random.Random(7)
    fill(tmp_path, "kalshi-dev")
    theirs = state(ssmd, tmp_path, "kalshi-dev")
    partly = 0
    for _ in range(4):
        fill(tmp_path, "kalshi", objects=120)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with process(tmp_path, "env", "teardown", "kalshi", "--yes", **quiet) as running:
            storage = LocalStorage(tmp_path / ".ssmd/data/objects")
            while running.poll() is None and len(storage.list("kalshi/")) > rng.randrange(1, 115):
                time.sleep(0.002)
            running.send_signal(signal.SIGKILL)
            running.wait()
        partly += 0 < len(storage.list("kalshi/")) < 120
        assert ssmd("env", "teardown", "kalshi", "--yes").code == 0
        assert state(ssmd, tmp_path, "kalshi") == ([], [])
        assert state(ssmd, tmp_path, "kalshi-dev") == theirs
    assert partly >= 1, "some were killed in the middle"
