from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.block import Block
from journal.entry import Book, Change, Entry, Record
from journal.errors import BadObject, CorruptionError, NotFound
from journal.memory import MemoryStorage
from projections.digests import Checkpoint, Digest, checkpoint_entry, digest_entry, load, parse, store
from projections.registry import PROJECTIONS, create
from projections.runner import Runner, Stop, listed, multiples
from tests.projections.streams import DAY, records

STREAM = "local_md_0"


def run(runner: Runner, stream: list[Record], cuts: list[int] | None = None) -> list[tuple[Stop, list[Digest]]]:
    stops = []
    for start, stop in pairwise([0, *sorted(c % (len(stream) + 1) for c in cuts or []), len(stream)]):
        stops += [(s, runner.digests()) for s in runner.apply(Block.of(stream[start:stop]))]
    return stops


@given(stream=records(), cuts=st.lists(st.integers(0, 100), max_size=6), n=st.integers(1, 9))
@settings(max_examples=40)
def test_stops_are_at_marks_and_day_ends_however_the_stream_is_cut(stream: list[Record], cuts: list[int], n: int) -> None:
    runner = Runner(create(), STREAM, mark=multiples(n))
    stops = run(runner, stream, cuts)
    assert stops == run(Runner(create(), STREAM, mark=multiples(n)), stream)
    at_marks = [r.sequence for r in stream if r.sequence % n == 0]
    assert [s.sequence for s, _ in stops if not s.closing] == at_marks
    ends = [(a.entry.day, a.sequence, a.entry.effective_ns) for a, b in pairwise(stream) if a.entry.day != b.entry.day]
    assert [(s.day, s.sequence, s.effective_ns) for s, _ in stops if s.closing] == ends
    for s, digests in stops:
        whole = Runner(create(), STREAM, mark=listed([]))
        run(whole, [r for r in stream if r.sequence <= s.sequence])
        assert [d.digest for d in digests] == [d.digest for d in whole.digests()]


@given(stream=records(), cut=st.integers(0, 100))
@settings(max_examples=25)
def test_restored_at_any_point_it_goes_on_to_the_same_digests(stream: list[Record], cut: int) -> None:
    cut = 1 + cut % len(stream)
    first = Runner(create(), STREAM, mark=multiples(5))
    run(first, stream[:cut])
    states = {d.projection: (d, s) for d, s in zip(first.digests(), first.snapshots().values(), strict=True)}
    second = Runner(create(), STREAM, mark=multiples(5))
    second.restore(states)
    assert second.here == first.here
    assert run(second, stream[max(0, cut - 7) :]) == run(first, stream[cut:])
    assert second.digests() == first.digests()


def test_live_marks_are_multiples_of_65536() -> None:
    assert [multiples()(s) for s in (0, 1, 65_535, 65_536, 131_071)] == [65_536, 65_536, 65_536, 131_072, 131_072]
    assert [listed([7, 3])(s) for s in (0, 3, 6)] == [3, 7, 7]
    assert listed([7])(7) > 1 << 60


@given(stream=records())
@settings(max_examples=20)
def test_a_day_opens_with_the_closing_state_of_the_day_before(stream: list[Record]) -> None:
    through = Runner(create(), STREAM, mark=listed([]))
    closings = {s.day: (digests, through.snapshots()) for s, digests in _closings(through, stream)}
    last = stream[-1].entry.day
    if last - 1 not in closings:
        return
    digests, states = closings[last - 1]
    day = Runner(create(), STREAM, mark=listed([]))
    day.restore({d.projection: (d, states[d.projection]) for d in digests}, day=last)
    run(day, [r for r in stream if r.entry.day == last])
    assert day.digests() == through.digests()
    assert day.openings == {d.projection: d.digest for d in digests}


def _closings(runner: Runner, stream: list[Record]) -> Iterator[tuple[Stop, list[Digest]]]:
    for stop in runner.apply(Block.of(stream)):
        yield stop, runner.digests()


def test_interleaved_days_are_folded_day_by_day() -> None:
    stream = [r for r in _plain(20) if r.sequence]
    mixed = [Record(r.sequence, _on_day(r, DAY + r.sequence % 2)) for r in stream]
    by_day = sorted(mixed, key=lambda r: (r.entry.day, r.sequence))
    runner = Runner(create(["book"]), STREAM, mark=multiples(5))
    stops = []
    for day in (DAY, DAY + 1):
        stops += run(runner, [r for r in by_day if r.entry.day == day])
    assert [(s.day, s.sequence, s.closing) for s, _ in stops] == [
        (DAY, 10, False), (DAY, 20, False), (DAY, 20, True), (DAY + 1, 5, False), (DAY + 1, 15, False),
    ]  # fmt: skip
    assert runner.entries == 20


def test_a_live_stream_whose_days_go_back_is_refused() -> None:
    stream = [Record(r.sequence, _on_day(r, DAY + (r.sequence == 7))) for r in _plain(9)]
    runner = Runner(create(["book"]), STREAM)
    run(runner, stream[:7])
    run(runner, stream[3:7])  # a redelivery
    with pytest.raises(CorruptionError, match=f"{STREAM}:8 is of 2026-08-10, after 2026-08-11 had begun"):
        run(runner, stream[3:])


def test_crossing_reports_marks_that_have_no_entry() -> None:
    stream = [r for r in _plain(20) if r.sequence % 3 == 0]
    runner = Runner(create(["book"]), STREAM, mark=listed([4, 6, 7, 8, 19, 25]), crossing=True)
    assert [s.sequence for s, _ in run(runner, stream, [1, 2, 3])] == [4, 6, 7, 8]
    assert [s.sequence for s in runner.finish(25)] == [19, 25]


def _plain(n: int) -> list[Record]:
    return [
        Record(i, Entry(Book((Change(i, 1, 0, 1),)), "f", "A", b"e" * 16, i, i, 0, i, DAY, 0, i, 1, 0, 1, -6, -2)) for i in range(1, n + 1)
    ]


def _on_day(record: Record, day: int) -> Entry:
    return msgspec.structs.replace(record.entry, day=day)


def test_digest_and_checkpoint_entries_say_the_same_in_every_fold_and_parse_back() -> None:
    digest = Digest("book", 1, STREAM, DAY, 65_536, "ab" * 32, 123, "cd" * 32)
    checkpoint = Checkpoint(digest, "local/_snapshots/book/ef", closing=True)
    assert digest_entry(digest) == digest_entry(digest)
    assert parse(digest_entry(digest)) == digest
    assert parse(checkpoint_entry(checkpoint)) == checkpoint
    entries = [
        digest_entry(digest), checkpoint_entry(checkpoint), checkpoint_entry(checkpoint._replace(closing=False)),
        digest_entry(digest._replace(opening="")), digest_entry(digest._replace(day=DAY + 1)), digest_entry(digest._replace(sequence=1)),
    ]  # fmt: skip
    assert len({e.id for e in entries}) == len(entries)
    assert digest_entry(digest._replace(digest="00" * 32)).id == digest_entry(digest).id


def test_snapshots_are_stored_by_content_and_checked() -> None:
    storage = MemoryStorage()
    key = store(storage, "local", "book", b"state")
    assert store(storage, "local", "book", b"state") == key
    assert load(storage, key) == b"state"
    other = store(storage, "local", "book", b"other")
    storage.put(key, storage.get(other))
    with pytest.raises(BadObject, match="does not match its name"):
        load(storage, key)
    storage.put(key, b"\x00" * 20)
    with pytest.raises(BadObject, match="decompressed"):
        load(storage, key)
    storage.delete(key)
    with pytest.raises(BadObject, match="missing"):
        load(storage, key)


def test_a_snapshot_with_another_digest_is_refused() -> None:
    runner = Runner(create(["book"]), STREAM)
    run(runner, _plain(3))
    (digest,) = runner.digests()
    with pytest.raises(BadObject, match="another digest"):
        Runner(create(["book"]), STREAM).restore({"book": (digest._replace(digest="0" * 64), runner.snapshots()["book"])})


def test_an_unknown_projection_lists_the_known() -> None:
    with pytest.raises(NotFound, match="book"):
        create(["boks"])
    assert [p.name for p in create()] == list(PROJECTIONS)
