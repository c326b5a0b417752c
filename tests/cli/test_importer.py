from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchanges.kalshi.adapter import KalshiAdapter
from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Book, Control, Delta, Entry, Record, Trade, Unparsed
from journal.errors import JournalUnavailable
from journal.memory import MemoryJournal
from journal.protocols import MAX_BATCH, Fence
from journal.subjects import Stream
from ssmd.importer import Importer, Report
from ssmd.recordings import examine
from tests.cli.recorded import MIDNIGHT_MS, START_MS, delta, market, snapshot, write

IMPORT = Stream("local", shard="import")
_SEEDS = count()  # each import is another writer


class Dying(MemoryJournal):
    """Dies for good once it has stored so many entries."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1 << 60

    async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
        if self.left < len(entries):
            raise KeyboardInterrupt
        self.left -= len(entries)
        return await super().append(stream, entries, fence)


def run(journal: MemoryJournal, *paths: Path, max_batch: int = MAX_BATCH) -> Report:
    async def go() -> Report:
        importer = Importer(
            journal,
            WallClock(),
            random.Random(next(_SEEDS)),
            env="local",
            feed="kalshi",
            days=DayRule(),
            adapters=lambda: KalshiAdapter(filtered=True),
        )
        return await importer.run([examine(path, lambda _: None) for path in paths])

    return asyncio.run(go())


def stored(journal: MemoryJournal) -> list[Record]:
    async def go() -> list[Record]:
        return [record async for records in journal.read(IMPORT) for record in records]

    return asyncio.run(go())


def actions(records: Sequence[Record]) -> list[tuple[str, str]]:
    return [(r.entry.body.action, r.entry.symbol) for r in records if isinstance(r.entry.body, Control)]


def facts(records: Sequence[Record]) -> list[Entry]:
    return [r.entry for r in records if not (isinstance(r.entry.body, Control) and r.entry.body.action == "lease")]


def test_each_line_is_one_entry_with_its_bytes_and_its_number(tmp_path: Path) -> None:
    journal = MemoryJournal()
    path = write(tmp_path / "a.ndjson.gz", market("A"))
    report = run(journal, path)
    recording = examine(path, lambda _: None)
    entries = [r.entry for r in stored(journal) if not isinstance(r.entry.body, Control)]
    assert [e.frame for e in entries] == list(range(1, 26))
    assert {e.epoch for e in entries} == {recording.sha256[:16]}
    assert [type(e.body) for e in entries[:7]] == [Book, Delta, Delta, Delta, Delta, Delta, Trade]
    assert all(e.raw.startswith(b'{"type":') for e in entries)
    assert report.document() == {
        "frames": 25, "entries": len(stored(journal)), "unparsed": 0, "duplicates": 0, "symbols": 1, "days": ["2026-08-10"],
    }  # fmt: skip


def test_importing_again_adds_nothing(tmp_path: Path) -> None:
    journal = MemoryJournal()
    paths = [write(tmp_path / f"{s}.ndjson", market(s)) for s in "AB"]
    first = run(journal, *paths)
    before = stored(journal)
    again = run(journal, *paths)
    assert stored(journal) == before
    assert again.document() == first.document() | {"entries": 0, "duplicates": 50}
    renamed = paths[0].rename(tmp_path / "other-name.ndjson")
    assert run(journal, renamed).entries == 0


def test_the_same_recording_twice_in_one_import_counts_once(tmp_path: Path) -> None:
    journal = MemoryJournal()
    paths = [write(tmp_path / "a.ndjson", market("A")), write(tmp_path / "copy.ndjson.gz", market("A"))]
    report = run(journal, *paths)
    assert (report.frames, report.duplicates) == (50, 25)
    assert sum(isinstance(r.entry.body, Book) for r in stored(journal)) == 1


@given(cut=st.integers(0, 80))
@settings(max_examples=40)
def test_a_killed_import_goes_on_where_it_stopped(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("killed")
    records = [market("A", start_ms=MIDNIGHT_MS - 700), market("B", start_ms=MIDNIGHT_MS - 1_000)]
    paths = [write(folder / f"{n}.ndjson", r) for n, r in enumerate(records)]
    whole, killed = MemoryJournal(), Dying()
    run(whole, *paths)
    killed.left = cut % len(stored(whole))
    with pytest.raises(KeyboardInterrupt):
        run(killed, *paths, max_batch=5)
    already = sum(1 for r in stored(killed) if not isinstance(r.entry.body, Control))
    killed.left = 1 << 60
    report = run(killed, *paths)
    assert facts(stored(killed)) == facts(stored(whole))
    assert (report.frames, report.duplicates) == (50, already)


def test_unknown_lines_become_unparsed_entries_with_their_bytes(tmp_path: Path) -> None:
    journal = MemoryJournal()
    data = write(tmp_path / "a", market("A")).read_bytes() + b'{"hello":"world"}\n# note\n{"recv_ms":1786405579251,"event":{"type":1}}\n'
    report = run(journal, write(tmp_path / "a.ndjson", data))
    unparsed = [r.entry for r in stored(journal) if isinstance(r.entry.body, Unparsed)]
    assert [e.raw for e in unparsed] == [b'{"hello":"world"}', b"# note", b'{"type":1}']
    assert (report.unparsed, report.frames) == (3, 28)
    assert run(journal, tmp_path / "a.ndjson").document() == report.document() | {"entries": 0, "duplicates": 28}


def test_a_day_is_opened_once_before_its_first_line(tmp_path: Path) -> None:
    journal = MemoryJournal()
    run(journal, write(tmp_path / "a.ndjson", market("A", start_ms=MIDNIGHT_MS - 500)))
    run(journal, write(tmp_path / "b.ndjson", market("B", start_ms=MIDNIGHT_MS - 400)))
    records = stored(journal)
    assert [s for a, s in actions(records) if a == "day_opened"] == ["day-2026-08-10", "day-2026-08-11"]
    for day in (20260810, 20260811):
        of_day = [r.entry for r in records if r.entry.day == day]
        opened = next(i for i, e in enumerate(of_day) if e.symbol.startswith("day-"))
        assert all(isinstance(e.body, Control) for e in of_day[:opened])
    of_import = [r.entry.effective_ns for r in records if r.entry.symbol != "writer-import"]
    assert of_import[: len(of_import) // 2] == sorted(of_import[: len(of_import) // 2])


@pytest.mark.parametrize("together", [True, False])
def test_a_recording_cut_at_midnight_goes_on(tmp_path: Path, *, together: bool) -> None:
    journal = MemoryJournal()
    before = [
        snapshot(MIDNIGHT_MS - 900, "A", 10, [["0.4000", "5.00"]], []),
        delta(MIDNIGHT_MS - 100, "A", 12, "yes", "0.4000", size="1.00"),
    ]
    after = [delta(MIDNIGHT_MS + 50, "A", 15, "yes", "0.4000", size="2.00")]
    paths = [write(tmp_path / "1.ndjson", before), write(tmp_path / "2.ndjson", after)]
    if together:
        run(journal, *paths)
    else:
        run(journal, paths[0])
        run(journal, paths[1])
    records = stored(journal)
    switched = [r for r in records if isinstance(r.entry.body, Control) and r.entry.body.action == "switched"]
    assert len(switched) == 2
    deltas = [r for r in records if isinstance(r.entry.body, Delta)]
    assert switched[1].sequence < deltas[1].sequence
    assert (switched[1].entry.epoch, switched[1].entry.subscription) == (deltas[1].entry.epoch, 1)


@pytest.mark.parametrize(
    "after",
    [
        delta(MIDNIGHT_MS + 50, "A", 9, "yes", "0.4000", size="2.00"),  # an earlier sequence: another session
        delta(MIDNIGHT_MS + 50, "A", 15, "yes", "0.4000", size="2.00", sid=3),
        delta(MIDNIGHT_MS + 3_600_000, "A", 15, "yes", "0.4000", size="2.00"),  # an hour later
        delta(MIDNIGHT_MS + 50, "B", 15, "yes", "0.4000", size="2.00"),
    ],
)
def test_what_does_not_continue_a_recording_waits_for_a_snapshot(tmp_path: Path, after: dict[str, object]) -> None:
    journal = MemoryJournal()
    before = [snapshot(MIDNIGHT_MS - 900, "A", 10, [["0.4000", "5.00"]], [])]
    run(journal, write(tmp_path / "1.ndjson", before), write(tmp_path / "2.ndjson", [after]))
    assert [a for a, _ in actions(stored(journal))].count("switched") == 1


def test_connections_of_an_archive_are_epochs_of_their_own(tmp_path: Path) -> None:
    journal = MemoryJournal()
    one = [
        {"recv_ns": n, "mono_ns": n, "epoch": e, "frame": n, "pos": "x:1", "text": '{"type":"x","sid":1,"seq":1}'}
        for n, e in ((5, "a"), (6, "b"))
    ]
    run(journal, write(tmp_path / "a.jsonl", one))
    records = stored(journal)
    assert len({r.entry.epoch for r in records if not isinstance(r.entry.body, Control)}) == 2
    assert [a for a, _ in actions(records)].count("opened") == 2
    assert [a for a, _ in actions(records)].count("imported") == 2
    assert run(journal, tmp_path / "a.jsonl").document()["entries"] == 0


def test_a_journal_that_is_away_is_waited_for(tmp_path: Path) -> None:
    class Flaky(MemoryJournal):
        failures = 2

        async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
            if self.failures:
                self.failures -= 1
                raise JournalUnavailable("no leader")
            return await super().append(stream, entries, fence)

    class Still(WallClock):
        slept = 0.0

        async def sleep(self, seconds: float) -> None:
            self.slept += seconds

    journal, clock = Flaky(), Still()
    path = write(tmp_path / "a.ndjson", market("A", start_ms=START_MS))

    async def go() -> Report:
        importer = Importer(
            journal,
            clock,
            random.Random(next(_SEEDS)),
            env="local",
            feed="kalshi",
            days=DayRule(),
            adapters=lambda: KalshiAdapter(filtered=True),
        )
        return await importer.run([examine(path, lambda _: None)])

    assert asyncio.run(go()).duplicates == 0
    assert clock.slept > 0
    assert len([r for r in stored(journal) if isinstance(r.entry.body, Book)]) == 1
