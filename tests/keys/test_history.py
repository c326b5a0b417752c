"""What happened to keys, on a journal in memory: once each, in order, without values."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from journal.clock import WallClock
from journal.day import DayRule
from journal.errors import BadFile, KeyRefused
from journal.memory import MemoryJournal
from ssmd.keys.change import Change
from ssmd.keys.history import flush_outcomes, read_history, record
from ssmd.keys.pending import MAX_CHANGES, Pending, append_pending
from ssmd.keys.resolve import Outcome, Resolver
from ssmd.keys.source import Place
from ssmd.metadata.project import Project

CLOCK, DAYS = WallClock(), DayRule()
HOUR_NS = 3_600 * 10**9


def change(key: str = "kalshi", **fields: object) -> Change:
    return Change(**{"kind": "set", "key": key, "at_ns": 10**18, "who": "ana@desk", "written": True, **fields})  # type: ignore[arg-type]


def test_a_history_says_who_did_what_when_and_why() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        await record(journal, CLOCK, "local", [
            change(why="first", source="age", fields=("key_id", "private_key")),
            change(kind="rotated", at_ns=10**18 + 1, previous_until_ns=10**18 + 5, fields=("key_id",)),
            change("nats", kind="deleted", written=False),
        ], days=DAYS)  # fmt: skip
        facts = await read_history(journal, "local")
        assert [(f.key, f.what, f.who, f.why) for f in facts] == [
            ("kalshi", "set", "ana@desk", "first"), ("kalshi", "rotated", "ana@desk", ""), ("nats", "deleted", "ana@desk", ""),
        ]  # fmt: skip
        assert facts[0].detail == {"source": "age", "fields": ["key_id", "private_key"]}
        assert facts[1].detail == {"fields": ["key_id"], "previous_until_ns": 10**18 + 5}
        assert facts[2].detail == {"interrupted": True}
        assert [f.what for f in await read_history(journal, "local", "kalshi")] == ["set", "rotated"]
        assert [f.what for f in await read_history(journal, "local", since_ns=10**18 + 1)] == ["rotated"]
        assert [f.what for f in await read_history(journal, "local", "kalshi", until_ns=10**18)] == ["set"]
        assert [f.what for f in await read_history(journal, "local", limit=1)] == ["deleted"]
        assert await read_history(journal, "other") == []

    asyncio.run(run())


def test_a_change_is_there_once_however_often_it_is_recorded() -> None:
    async def run() -> None:
        journal, same = MemoryJournal(), [change(), change()]
        await asyncio.gather(*(record(journal, CLOCK, "local", same, days=DAYS) for _ in range(8)))
        assert len(await read_history(journal, "local")) == 2

    asyncio.run(run())


def test_racing_commands_are_all_recorded() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        await asyncio.gather(*(record(journal, CLOCK, "local", [change(who=f"{n}@desk")], days=DAYS) for n in range(12)))
        assert {f.who for f in await read_history(journal, "local")} == {f"{n}@desk" for n in range(12)}

    asyncio.run(run())


def resolver(*outcomes: Outcome) -> Resolver:
    made = Resolver("local", {}, Place(Path(), {}, CLOCK, Path()))
    made.outcomes += outcomes
    return made


def test_outcomes_are_coalesced_by_key_process_outcome_and_hour() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        at = 5 * HOUR_NS
        buffered = resolver(
            Outcome("a", "resolved", at), Outcome("a", "resolved", at + 1), Outcome("a", "missing", at + 2),
            Outcome("b", "resolved", at), Outcome("a", "resolved", at + HOUR_NS),
        )  # fmt: skip
        await flush_outcomes(journal, CLOCK, "local", buffered, "connector@h:1", days=DAYS)
        assert buffered.outcomes == []
        await flush_outcomes(journal, CLOCK, "local", resolver(Outcome("b", "resolved", at + 7)), "connector@h:1", days=DAYS)
        await flush_outcomes(journal, CLOCK, "local", resolver(Outcome("b", "resolved", at + 8)), "connector@h:2", days=DAYS)
        facts = await read_history(journal, "local")
        assert [(f.key, f.detail["outcome"], f.at_ns - at, f.who) for f in facts] == [
            ("a", "resolved", 0, "connector@h:1"), ("a", "missing", 2, "connector@h:1"), ("a", "resolved", HOUR_NS, "connector@h:1"),
            ("b", "resolved", 0, "connector@h:1"), ("b", "resolved", 8, "connector@h:2"),
        ]  # fmt: skip

    asyncio.run(run())


def project(root: Path) -> Project:
    (root / "exchanges" / "environments").mkdir(parents=True)
    return Project(root)


def test_what_waits_is_journalled_once_also_after_a_crash_between_append_and_delete(tmp_path: Path) -> None:
    async def run() -> None:
        made, journal = project(tmp_path), MemoryJournal()
        pending = Pending(made.environments.directory, "local")
        with pending.carried_out(change(why='offline: it\'s "quoted"\n- so', written=False)):
            assert [c.written for c in pending.read("kalshi")] == [False]
        kept = pending.path("kalshi").read_bytes()
        assert await append_pending(journal, CLOCK, made, "local", days=DAYS) == 1
        assert not pending.path("kalshi").exists()
        pending.path("kalshi").write_bytes(kept)  # as a crash, or a checkout of an old commit, leaves it
        assert await append_pending(journal, CLOCK, made, "local", days=DAYS) == 1
        assert [f.why for f in await read_history(journal, "local")] == ['offline: it\'s "quoted"\n- so']
        assert await append_pending(journal, CLOCK, made, "local", days=DAYS) == 0

    asyncio.run(run())


def test_a_crash_in_the_middle_leaves_a_change_that_says_so(tmp_path: Path) -> None:
    made = project(tmp_path)
    pending = Pending(made.environments.directory, "local")
    with pytest.raises(SystemExit), pending.carried_out(change(written=False)):
        raise SystemExit
    assert [c.written for c in pending.waiting()] == [False]

    async def run() -> None:
        journal = MemoryJournal()
        await append_pending(journal, CLOCK, made, "local", days=DAYS)
        assert [f.detail for f in await read_history(journal, "local")] == [{"interrupted": True}]

    asyncio.run(run())


def test_a_value_that_is_refused_leaves_no_change(tmp_path: Path) -> None:
    pending = Pending(project(tmp_path).environments.directory, "local")
    with pytest.raises(KeyRefused), pending.carried_out(change()):
        raise KeyRefused("no")
    assert pending.waiting() == []
    assert list(tmp_path.rglob("*.yaml")) == []


def test_pending_files_are_bounded_and_checked(tmp_path: Path) -> None:
    pending = Pending(project(tmp_path).environments.directory, "local")
    pending._write("kalshi", [change() for _ in range(MAX_CHANGES)])
    with pytest.raises(KeyRefused, match="connect to the journal"), pending.carried_out(change()):
        pass
    assert len(pending.waiting()) == MAX_CHANGES
    for bad in ("events: 1", "events:\n- {kind: stolen}", "[", "events:\n- " + msgspec.json.encode(change("other")).decode()):
        pending.path("kalshi").write_text(bad)
        with pytest.raises(BadFile, match=r"kalshi\.pending\.yaml"):
            pending.waiting()
