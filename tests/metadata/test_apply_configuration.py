"""The configuration in force: journalled when it changes, once, and known afterwards from journal and archive."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.entry import Control, Entry, canonical_json
from journal.errors import BadObject
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from replay.source import ArchiveSource, JoinedSource, JournalSource
from ssmd.cli import main
from ssmd.configuration import document, in_force, journal_configuration
from ssmd.metadata.project import file_hash
from ssmd.services.archiver import Archiver
from ssmd.settings import Settings
from ssmd.wiring import day_rule, open_journal
from tests.journal.servers import TOKEN, nats_server
from tests.metadata.backends import project, write

SYSTEM = Stream("kalshi", domain="system")
SECOND = 10**9


class SetClock(WallClock):
    """Tells the time it was set to."""

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns

    def wall_ns(self) -> int:
        return self.at_ns


def read(root: Path, **environ: str) -> Settings:
    return Settings.read({"env": "kalshi"}, environ, root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    project(tmp_path, kalshi="description: first\n")
    return tmp_path


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_it_says_what_was_in_force_and_of_which_files(root: Path) -> None:
    found = document(read(root, SSMD_NATS="nats://me:hunter2@nats.example:4222"), 20261122)
    assert found["environment"]["description"] == "first"
    assert found["environment"]["schedule"] == {"timezone": "UTC", "day_start": "00:00", "auto_roll": True}, "defaults are said too"
    assert found["said"] == {"nats": "nats://nats.example:4222"}
    assert (found["feed"]["name"], found["feed"]["version"]["version"]) == ("kalshi", "2")
    assert found["schema"]["version"]["version"]
    exchanges = root / "exchanges"
    assert found["files"] == {
        f"exchanges/{name}": file_hash(exchanges / name)
        for name in ("environments/kalshi.yaml", "feeds/kalshi.yaml", "schemas/entry.yaml", "schemas/entry.capnp")
    }
    assert found["software"]["ssmd"]
    assert found["git"] is None
    assert document(read(root), 20200101)["feed"]["version"] is None, "before the first version"


def test_a_schema_that_is_not_there_stops_nothing(root: Path) -> None:
    write(root, "kalshi", "schema: nothing\n")
    found = document(read(root), 20261122)
    assert found["schema"] == {"name": "nothing", "version": None}
    assert list(found["files"]) == ["exchanges/environments/kalshi.yaml", "exchanges/feeds/kalshi.yaml"]


def test_the_commit_and_whether_files_differ_from_it(root: Path) -> None:
    git(root, "init")
    assert document(read(root), 20260810)["git"] is None, "no commit yet"
    (root / "notes.txt").write_text("not ours")
    git(root, "add", "exchanges")
    git(root, "commit", "-m", "x")
    clean = {"commit": git(root, "rev-parse", "HEAD"), "dirty": False}
    assert document(read(root), 20260810)["git"] == clean
    write(root, "kalshi", "description: second\n")
    assert document(read(root), 20260810)["git"] == {**clean, "dirty": True}
    # A capture runs no program that the repository's configuration names.
    monitor = root / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch {root}/ran\n")
    monitor.chmod(0o755)
    git(root, "config", "core.fsmonitor", str(monitor))
    assert document(read(root), 20260810)["git"] == {**clean, "dirty": True}
    assert not (root / "ran").exists()


def test_references_stay_references(root: Path) -> None:
    keys = "keys: {nats: {type: transport, fields: [token]}}\n"
    write(root, "kalshi", f"{keys}journal: {{type: jetstream, url: 'nats://n:1', token: $key:nats.token}}\n")
    settings = read(root, SSMD_NATS_TOKEN="canary-17")  # noqa: S106
    settings.resolver.values("nats")
    text = canonical_json(document(settings, 20260810)).decode()
    assert "$key:nats.token" in text
    assert "canary-17" not in text


def test_it_is_appended_when_it_changes(root: Path) -> None:
    async def check() -> None:
        journal, storage, clock = MemoryJournal(), MemoryStorage(), SetClock(1_000 * SECOND)

        async def say() -> Any:
            clock.at_ns += 10 * SECOND
            return await journal_configuration(journal, read(root), clock, who="me", why="because")

        assert await in_force(JournalSource(journal), "kalshi", 2**63 - 1) is None
        first = await say()
        assert await say() == first
        write(root, "kalshi", "description: second\n")
        second = await say()
        assert await say() == second
        write(root, "kalshi", "description: first\n")
        third = await say()
        assert (first.position, second.position, third.position) == ("kalshi_system:1", "kalshi_system:2", "kalshi_system:3")
        assert first.sha256 == third.sha256 != second.sha256, "its name is its content's"
        assert (first.who, first.why, first.effective_ns) == ("me", "because", 1_010 * SECOND)
        assert second.document["environment"]["description"] == "second"

        await Archiver(journal, storage, "kalshi", clock).catch_up()
        archive = ArchiveReader(storage, "kalshi")
        for reader in (JournalSource(journal), ArchiveSource(archive), JoinedSource(archive, journal)):
            for at_s, expected in ((1_009, None), (1_010, first), (1_029, first), (1_030, second), (1_049, second), (1_050, third)):
                assert await in_force(reader, "kalshi", at_s * SECOND) == expected
            assert await in_force(reader, "kalshi-dev", 2**63 - 1) is None

    asyncio.run(check())


def test_a_clock_set_back_takes_nothing_back(root: Path) -> None:
    async def check() -> None:
        journal, clock = MemoryJournal(), SetClock(1_000 * SECOND)
        await journal_configuration(journal, read(root), clock, who="", why="")
        clock.at_ns = 500 * SECOND
        write(root, "kalshi", "description: second\n")
        second = await journal_configuration(journal, read(root), clock, who="", why="")
        assert second.effective_ns == 1_000 * SECOND
        assert await in_force(JournalSource(journal), "kalshi", 1_000 * SECOND) == second

    asyncio.run(check())


def test_of_racing_processes_one_appends_it(root: Path, tmp_path: Path) -> None:
    async def check(url: str) -> None:
        clock = WallClock()
        async with AsyncExitStack() as opened:
            journals = [await JetStreamJournal.connect(url, clock, token=TOKEN) for _ in range(8)]
            for journal in journals:
                opened.push_async_callback(journal.close)
            for text in ("description: a\n", "description: b\n"):
                write(root, "kalshi", text)
                settings = read(root)
                found = await asyncio.gather(*(journal_configuration(j, settings, clock, who="", why="") for j in journals))
                assert len({f.position for f in found}) == 1
            info = await journals[0].info(SYSTEM)
            assert info is not None
            assert info.last == 2

    with nats_server(tmp_path) as server:
        asyncio.run(check(server.url))


def test_very_many_symbols_fit(root: Path) -> None:
    symbols = "".join(f'  "KXBTC15M-26AUG1018{n:05}": {{tier: 1, category: crypto}}\n' for n in range(2_500))
    write(root, "kalshi", f"symbols:\n{symbols}")

    async def check() -> None:
        found = await journal_configuration(MemoryJournal(), read(root), WallClock(), who="", why="")
        assert found.document["environment"]["symbols"] == 2_500
        assert found.document["files"]["exchanges/environments/kalshi.yaml"] == file_hash(root / "exchanges/environments/kalshi.yaml")

    asyncio.run(check())


def test_what_is_no_configuration_is_told(root: Path) -> None:
    async def check() -> None:
        journal = MemoryJournal()
        await journal_configuration(journal, read(root), WallClock(), who="", why="")
        entry = journal._logs[SYSTEM].records[0].entry
        bad = msgspec.structs.replace(entry, frame=2, body=msgspec.structs.replace(entry.body, data=b"[]"))
        await journal.append(SYSTEM, [bad])
        with pytest.raises(BadObject, match="kalshi_system:2 is no configuration"):
            await in_force(JournalSource(journal), "kalshi", 2**63 - 1)

    asyncio.run(check())


def test_a_replay_names_it(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    settings, clock = read(root), WallClock()

    async def record() -> tuple[int, Any]:
        now_ns = clock.wall_ns()
        stream, day = Stream("kalshi", shard="0"), day_rule(settings).day_of(now_ns)
        async with open_journal(settings, clock) as journal:
            await journal.ensure(stream, "kalshi")
            entry = Entry(Control("opened", detail="{}"), "kalshi", "epoch-00", bytes(16), 0, now_ns, 0, now_ns, day)
            await journal.append(stream, [entry])
            return now_ns, await journal_configuration(journal, settings, clock, who="", why="")

    began_ns, said = asyncio.run(record())

    def replayed(*more: str) -> Any:
        capsys.readouterr()
        assert main(["replay", "--env", "kalshi", "--date", "today", "-o", "json", *more]) == 0
        return json.loads(capsys.readouterr().out)["configuration"]

    assert replayed() == {"sha256": said.sha256, "position": "kalshi_system:1"}
    assert replayed("--until", str(said.effective_ns)) == {"sha256": said.sha256, "position": "kalshi_system:1"}
    assert replayed("--until", str(began_ns)) is None
