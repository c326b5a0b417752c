"""What the recorder promises beyond the library's cases: what an event's entry looks like, conflicts, lost replies, errors, threads."""

from __future__ import annotations

import asyncio
import json
import random
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from hypothesis import given
from hypothesis import strategies as st

from journal import recorder as recorder_module
from journal.application import application
from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.entry import Entry, Event
from journal.memory import MemoryJournal, MemoryStorage
from journal.recorder import JournalRecorder
from journal.subjects import Stream
from ssmd.cli import main as ssmd_main
from tests.archive.test_archive_reader import archive
from tests.journal.backends import Backend, backend
from tests.journal.contract import read_all
from tests.journal.servers import TOKEN, NatsServer, Proxy, nats_server
from tests.journal.test_conditional_append import acknowledges

STREAM = Stream("local", domain="key")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def memory() -> Iterator[Backend]:
    with backend() as place:
        yield place


def event(name: UUID | str, version: int, state: bytes = b'{"a":1}', topic: str = "t") -> StoredEvent:
    return StoredEvent(name, version, topic, state)


def test_the_example_of_the_documentation_runs(memory: Backend) -> None:
    text = recorder_module.__doc__ or ""
    code = textwrap.dedent(text[text.index("    async def main") : text.index("One event is one entry")])
    names: dict[str, Any] = {
        "asyncio": asyncio, "random": random, "Stream": Stream, "JournalRecorder": JournalRecorder, "WallClock": WallClock,
        "application": application, "Application": Application, "Aggregate": Aggregate, "Journal": object,
    }  # fmt: skip
    exec(code, names)  # noqa: S102 our own documentation
    memory.run(names["main"](memory.journal))
    records = memory.run(read_all(memory.journal, STREAM))
    assert [r.entry.body.who for r in records] == ["ana", "ana"]
    assert [(r.entry.body.why, r.entry.body.correlation) for r in records] == [("the first key", "ticket-7"), ("", "")]


def test_an_event_is_an_entry_that_says_who_when_and_why(memory: Backend) -> None:
    recorder, name, before = memory.recorder(STREAM), uuid4(), time.time_ns()
    said: dict[str, Any] = {"who": "ana", "why": "rotated", "causation": "c", "correlation": "d"}
    assert recorder.insert_events([event(name, 1, b'{"z": 1,\n "a": [2]}')], **said) == [1]
    (record,) = memory.run(read_all(memory.journal, STREAM, subjects=[f"local.key.events.{name}.1"]))
    e = record.entry
    assert (e.feed, e.symbol, e.epoch, e.frame, e.part) == ("key", f"{name}.1", name.bytes, 1, 0)
    assert before <= e.recv_ns <= e.effective_ns <= time.time_ns()
    assert isinstance(e.body, Event)
    assert {f: getattr(e.body, f) for f in said} == said
    assert e.body.type == "events"
    assert b'"state":{"z": 1,\n "a": [2]}' in e.body.data  # byte for byte, readable with any tool
    data = json.loads(e.body.data)
    assert len(data.pop("insert")) == 32
    assert data == {"id": str(name), "state": {"z": 1, "a": [2]}, "topic": "t", "uuid": True, "version": 1}


def test_a_word_it_does_not_know_is_refused(memory: Backend) -> None:
    with pytest.raises(ProgrammingError, match="not whom"):
        memory.recorder().insert_events([event("a", 1)], whom="ana")
    with pytest.raises(ProgrammingError, match="no kind 'tracking'"):
        memory.recorder().insert_events([event("a", 1)], kind="tracking")


names = st.one_of(st.uuids(), st.uuids().map(str), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
states = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b" ", b"{}", b" {}", b"{}\n", b"null", b'""', b"1e999", b"[" * 5_000, b'{"a":1,"a":2}', b"NaN", b"\xff"]),
    st.recursive(st.none() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5).map(
        lambda v: json.dumps(v, indent=1).encode()
    ),
)


def test_any_event_comes_back_as_it_was(memory: Backend) -> None:
    """Ids keep their type, states their bytes, whatever they are."""

    @given(
        st.lists(st.tuples(names, st.integers(0, 1 << 62), st.text(max_size=9), states), max_size=6, unique_by=lambda e: (str(e[0]), e[1]))
    )
    def check(some: list[tuple[Any, ...]]) -> None:
        recorder, events = memory.recorder(), [StoredEvent(*e) for e in some]
        assert recorder.insert_events(events) == list(range(1, len(events) + 1))
        assert [
            StoredEvent(*(getattr(n, f) for f in StoredEvent.__dataclass_fields__)) for n in recorder.select_notifications(None, 99)
        ] == events
        for e in events:
            assert recorder.select_events(e.originator_id, gt=e.originator_version - 1, lte=e.originator_version) == [e]
            assert set(recorder.select_events(e.originator_id)) == {o for o in events if str(o.originator_id) == str(e.originator_id)}

    check()


def test_events_are_selected_by_version_in_whatever_order_they_came(memory: Backend) -> None:
    recorder = memory.recorder()
    for version in (3, 1, 10, 2, 9):
        recorder.insert_events([event("a", version), event("a.1", version), event("b", version)])

    def versions(**how: Any) -> list[int]:
        return [e.originator_version for e in recorder.select_events("a", **how)]

    assert versions() == [1, 2, 3, 9, 10]
    assert versions(desc=True, limit=2) == [10, 9]
    assert versions(limit=2) == [1, 2]
    assert versions(gt=2, lte=9) == [3, 9]
    assert versions(gt=2, lte=9, desc=True, limit=1) == [9]


@pytest.mark.parametrize("tracked", [False, True])
def test_two_inserts_of_the_same_events_conflict(memory: Backend, shared_server: NatsServer, *, tracked: bool) -> None:
    """Byte-identical, by two recorders with one clock: only the nonce tells them apart."""

    class Stopped:
        rate = 1.0

        def wall_ns(self) -> int:
            return 10**18

        mono_ns = wall_ns

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    with backend(shared_server.url) as server:
        for place in (memory, server):
            stream = Stream(f"t{uuid4().hex[:12]}", domain="key")
            one, two = (JournalRecorder(place.journal, place.loop, stream, Stopped(), random.Random(n)) for n in (1, 2))
            tracking = Tracking("up", 7) if tracked else None
            results = run_together([partial(r.insert_events, [event("a", 1), event("a", 2)], tracking=tracking) for r in (one, two)])
            assert [1, 2] in results
            assert [type(r) for r in results].count(IntegrityError) == 1
            with pytest.raises(IntegrityError):
                one.insert_events([event("a", 2)])


def run_together(work: list[Any]) -> list[Any]:
    """Results or errors of functions that run in a thread each, begun at once."""
    gate = threading.Barrier(len(work))
    results: list[Any] = [None] * len(work)

    def do(n: int) -> None:
        gate.wait()
        try:
            results[n] = work[n]()
        except Exception as error:  # noqa: BLE001 it is looked at by the caller
            results[n] = error

    threads = [threading.Thread(target=do, args=(n,)) for n in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("loss", ["lose", "swallow"])
def test_an_insert_whose_reply_is_lost_is_no_conflict(shared_server: NatsServer, loss: str, *, tracked: bool) -> None:
    with backend(shared_server.url) as direct:
        proxy = Proxy(shared_server.port)
        direct.run(proxy.__aenter__())
        with backend(f"nats://127.0.0.1:{proxy.port}", timeout_s=0.3) as place:
            recorder = place.recorder()
            assert recorder.insert_events([event("a", 1)], tracking=Tracking("up", 1)) == [1]
            setattr(proxy, loss, acknowledges)
            tracking = Tracking("up", 2) if tracked else None
            assert recorder.insert_events([event("a", 2), event("a", 3)], tracking=tracking) == [3, 4]
            assert proxy.cuts == 1
            assert recorder.select_events("a") == [event("a", n) for n in (1, 2, 3)]
            assert recorder.max_tracking_id("up") == 1 + tracked
            assert recorder.max_notification_id() == 4
        direct.run(proxy.__aexit__())


def test_an_insert_waits_for_a_server_that_starts_again(tmp_path: Path) -> None:
    """Reads and subscriptions too; none of them for longer than it was told."""
    with nats_server(tmp_path) as server, backend(server.url, timeout_s=0.5) as place:
        recorder = place.recorder(timeout_s=20)
        recorder.insert_events([event("a", 1)])
        with recorder.subscribe(gt=0) as subscription:
            assert next(subscription).id == 1
            server.stop()
            back = threading.Timer(1.0, server.start)
            back.start()
            try:
                results = run_together(
                    [
                        lambda: recorder.insert_events([event("a", 2)]),
                        lambda: recorder.select_events("a", lte=1),
                        recorder.max_notification_id,
                    ]
                )
            finally:
                back.join()
            assert results[:2] == [[2], [event("a", 1)]]
            assert results[2] in {1, 2}
            assert next(subscription).id == 2
        server.stop()
        hasty = place.recorder(timeout_s=0.4)
        for call in (lambda: hasty.insert_events([event("a", 3)]), lambda: hasty.select_events("a"), hasty.max_notification_id):
            began = time.monotonic()
            with pytest.raises(OperationalError, match=r"within 0\.4 s"):
                call()
            assert time.monotonic() - began < 5


def test_it_says_so_when_it_is_called_from_the_journals_loop(memory: Backend) -> None:
    recorder = memory.recorder()

    async def wrong() -> None:
        with pytest.raises(ProgrammingError, match="to_thread"):
            recorder.insert_events([event("a", 1)])
        with pytest.raises(ProgrammingError, match="to_thread"):
            next(recorder.subscribe())

    memory.run(wrong())

    async def another_loop() -> None:
        assert recorder.insert_events([event("a", 1)]) == [1]  # only that one would wait for itself

    asyncio.run(another_loop())


def test_it_says_so_when_the_loop_is_over() -> None:
    with backend() as place:
        recorder = place.recorder()
        recorder.insert_events([event("a", 1)])
    with pytest.raises(OperationalError, match="not running"):
        recorder.select_events("a")


def test_what_cannot_be_an_event_is_refused_before_anything_is_stored(memory: Backend) -> None:
    recorder = memory.recorder()
    many = [event("a", n) for n in range(1_001)]
    large = event("a", 2, bytes(2 << 20))
    for bad in (many, [event("", 1)], [event("a" * 257, 1)], [event("a", -1)], [event("a", 1 << 63)], [event("a", 1), large]):
        with pytest.raises(DataError):
            recorder.insert_events(bad)
    with pytest.raises(DataError, match="at most 1000 with their tracking"):
        recorder.insert_events(many[:1_000], tracking=Tracking("up", 1))
    with pytest.raises(IntegrityError, match="twice"):
        recorder.insert_events([event("a", 1), event("a", 1, b"{}")])
    assert recorder.max_notification_id() is None
    assert recorder.max_tracking_id("up") is None
    assert recorder.insert_events(many[:1_000]) == list(range(1, 1_001))


def test_a_damaged_event_is_said_to_be_one(memory: Backend) -> None:
    recorder = memory.recorder(STREAM)
    recorder.insert_events([event("a", 1)])
    damaged = Entry(Event("events", b'{"id":"a","state64":"?"}'), "key", "a.2", bytes(16), 2, 1, 1, 1, 20261122)
    memory.run(memory.journal.append(STREAM, [damaged]))
    for call in (
        lambda: recorder.select_events("a"),
        lambda: recorder.select_notifications(None, 9),
        lambda: list(recorder.subscribe(gt=1)),
    ):
        with pytest.raises(DataError, match="sequence 2 is no event"):
            call()
    assert recorder.select_events("a", lte=1) == [event("a", 1)]


def test_an_id_that_is_somewhere_else_is_damage(memory: Backend) -> None:
    recorder, name = memory.recorder(STREAM), uuid4()
    stray = Entry(Event("changes"), "key", "s", name.bytes, 1, 1, 1, 1, 20261122)
    memory.run(memory.journal.ensure(STREAM))
    memory.run(memory.journal.append(STREAM, [stray]))
    with pytest.raises(InternalError):
        recorder.insert_events([event(name, 1)])


def test_processes_that_track_together_lose_nothing(shared_server: NatsServer) -> None:
    """Higher tracking ids win, lower ones come too late; the events of those that came too late are not stored."""
    with backend(shared_server.url) as one, backend(shared_server.url) as two:
        first = one.recorder()
        second = two.recorder(first._stream)
        work = [
            lambda r=r, n=n: r.insert_events([event(f"e{n}", 1)], tracking=Tracking("up", n)) for n, r in enumerate([first, second] * 8, 1)
        ]
        results = run_together(work)
        stored = {n for n, r in enumerate(results, 1) if isinstance(r, list)}
        assert all(isinstance(r, list | IntegrityError) for r in results)
        assert 16 in stored
        assert {int(e.originator_id[1:]) for e in first.select_notifications(None, 99)} == stored  # type: ignore[index]
        tracked = [r.entry.frame for r in one.run(read_all(one.journal, first._stream, subjects=[f"{first._stream.env}.key.tracking.up"]))]
        assert tracked == sorted(stored)


def test_a_subscription_is_woken_by_a_stop_from_another_thread(memory: Backend) -> None:
    recorder = memory.recorder()
    seen: list[int] = []
    subscription = recorder.subscribe()
    thread = threading.Thread(target=lambda: seen.extend(n.id for n in subscription))
    thread.start()
    recorder.insert_events([event("a", 1), event("a", 2)])
    deadline = time.monotonic() + 5
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    subscription.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert seen == [1, 2]
    with pytest.raises(StopIteration):
        next(subscription)


def test_its_subjects_can_be_tailed(
    shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with backend(shared_server.url) as place:
        recorder, name = place.recorder(STREAM), uuid4()
        recorder.insert_events([event(name, 1), event("other", 1)], tracking=Tracking("up", 1), who="ana")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SSMD_DATA", str(tmp_path / "data"))
        monkeypatch.setenv("SSMD_NATS", shared_server.url)
        monkeypatch.setenv("SSMD_NATS_TOKEN", TOKEN)
        for subject, expected in (
            ("local.key.events", [f"local.key.events.{name}.1", "local.key.events.other.1"]),
            (f"local.key.events.{name}", [f"local.key.events.{name}.1"]),
            ("local.key.events.*.1", [f"local.key.events.{name}.1", "local.key.events.other.1"]),
        ):
            capsys.readouterr()
            assert ssmd_main(["journal", "tail", subject, "-o", "jsonl"]) == 0
            lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            assert [f"local.key.events.{line['symbol']}" for line in lines] == expected


def test_an_archive_of_them_answers_by_subject(memory: Backend) -> None:
    recorder, name = memory.recorder(STREAM), uuid4()
    for version in range(1, 5):
        recorder.insert_events([event(name, version), event("a.b", version)])
    stored = [r.entry for r in memory.run(read_all(memory.journal, STREAM))]

    async def check() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, stored)
        reader = ArchiveReader(storage, "local")
        for subject, sequence in ((f"local.key.events.{name}.3", 5), ("local.key.events.a%2Eb.*", 8), (f"local.key.events.{name}.>", 7)):
            assert await reader.last(STREAM, subject) == (sequence, stored[sequence - 1])
            found = await read_all(reader, STREAM, subjects=[subject])
            assert found[-1].sequence == sequence
        assert len(await read_all(reader, STREAM, subjects=["local.key.events.a%2Eb.*"])) == 4
        again = MemoryJournal()
        await again.ensure(STREAM)
        assert await again.append(STREAM, [r.entry for r in await read_all(reader, STREAM)]) == list(range(1, 9))

    asyncio.run(check())
