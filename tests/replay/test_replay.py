"""The projector live on one side, replay from the journal on the other, all in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.block import Block
from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Book, Change, Control, Delta, Entry, Record, Trade, canonical_json
from journal.errors import IdConflict, NotFound, NothingToVerify
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from projections.digests import Checkpoint, Digest, digest_entry
from projections.registry import create
from projections.runner import Runner, listed
from replay.clock import SimulatedClock
from replay.engine import ReplayResult, replay
from replay.ledger import Ledger
from replay.pace import Step, Stride, Times
from replay.source import JournalSource
from ssmd.books import find_book
from ssmd.services.projector import Projector
from tests.projections.streams import DAY, records

STREAM = Stream("local", shard="0")
IMPORT = Stream("local", shard="import")
SYSTEM = Stream("local", domain="system")
CLOCK = WallClock()
SECOND = 1_000_000_000
DAY_NS = 1_786_320_000 * SECOND  # 2026-08-10 00:00 UTC


def market(n: int, *, days: int = 2, symbols: Sequence[str] = ("A", "B")) -> list[Entry]:
    """A live stream: one connection, books and trades of two symbols, a few days."""
    out: list[Entry] = []

    def add(body: object, symbol: str, day: int, sid: int = 0, seq: int = 0) -> None:
        i = len(out)
        at = DAY_NS + (day - DAY) * 86_400 * SECOND + i * SECOND
        out.append(Entry(body, "kalshi", symbol, b"e" * 16, i, at, at, at, day, at, seq, sid, 0, 1, -6, -2))  # type: ignore[arg-type]

    seq = 0
    for day in range(DAY, DAY + days):
        add(Control("day_opened", detail=canonical_json({"day": day}).decode()), f"day-{day}", day)
        for i in range(n // days):
            symbol = symbols[i % len(symbols)]
            seq += 1
            if day == DAY and i < len(symbols):
                add(Book((Change(400_000, 100, 0, 1), Change(600_000, 50, 1, 1))), symbol, day, 1, seq)
            elif i % 7 == 3:
                seq -= 1
                add(Trade(500_000 + i, 10 + i, 1 + i % 2, 0, f"t{day}{i}"), symbol, day, 2, 0)
            else:
                add(Delta((Change(400_000 + i % 50, 7 + i % 5, 0, i % 2),)), symbol, day, 1, seq)
    return out


async def journalled(entries: Sequence[Entry], stream: Stream = STREAM) -> MemoryJournal:
    journal = MemoryJournal()
    await journal.ensure(stream)
    for at in range(0, len(entries), 500):
        await journal.append(stream, entries[at : at + 500])
    return journal


async def projected(journal: MemoryJournal, storage: MemoryStorage, stream: Stream = STREAM, *, every: int = 40) -> Projector:
    """Run a projector until it has folded everything, then stop it cleanly."""
    projector = Projector(journal, storage, stream, CLOCK, digest_every=every, checkpoint_every=every)
    task = asyncio.create_task(projector.run())
    while not task.done() and (projector.position == 0 or await projector.lag()):  # noqa: ASYNC110  (in memory: no event)
        await asyncio.sleep(0)
    projector.stop()
    await task
    return projector


async def replayed(journal: MemoryJournal, storage: MemoryStorage, day: int, stream: Stream = STREAM, **options: object) -> ReplayResult:
    source = JournalSource(journal)
    return await replay(source, create(), day=day, stream=stream, clock=CLOCK, storage=storage, **options)  # type: ignore[arg-type]


def test_replay_comes_to_every_live_digest_and_opens_with_the_day_before() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(400)), MemoryStorage()
        live = await projected(journal, storage)
        first = await replayed(journal, storage, DAY, verify=True)
        second = await replayed(journal, storage, DAY + 1, verify=True)
        for result in (first, second):
            assert result.verify
            assert result.verify.mismatched == 0, result.verify.differences
            assert result.verify.compared >= 5 * 5
            assert result.symbols == 2
            assert result.entries == 201
        assert second.digests == {d.projection: d.digest for d in live.runner.digests()}
        assert (second.date, second.first_recv_ns, second.last_recv_ns) == (
            "2026-08-11", DAY_NS + (86_400 + 201) * SECOND, DAY_NS + (86_400 + 401) * SECOND,
        )  # fmt: skip

    asyncio.run(main())


def test_a_changed_entry_is_found_by_every_digest_after_it() -> None:
    async def main() -> None:
        entries, storage = market(400), MemoryStorage()
        live = await journalled(entries)
        await projected(live, storage)
        changed = list(entries)
        body = changed[250].body
        assert isinstance(body, Delta)
        changed[250] = msgspec.structs.replace(changed[250], body=Delta((body.changes[0]._replace(size=999, op=1),)))
        other = await journalled(changed)
        await other.ensure(SYSTEM)
        async for records_ in live.read(SYSTEM):
            await other.append(SYSTEM, [r.entry for r in records_])
        result = await replayed(other, storage, DAY + 1, verify=True)
        assert result.verify
        assert result.verify.mismatched >= 2
        assert all(line.startswith("book at") for line in result.verify.differences)
        some = await replayed(other, storage, DAY + 1, verify=True, symbols=[changed[250].symbol])
        assert some.verify
        assert some.verify.mismatched
        another = "B" if changed[250].symbol == "A" else "A"
        rest = await replayed(other, storage, DAY + 1, verify=True, symbols=[another])
        assert rest.verify
        assert rest.verify.mismatched == 0

    asyncio.run(main())


def test_some_symbols_are_verified_against_snapshots() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(400)), MemoryStorage()
        await projected(journal, storage)
        result = await replayed(journal, storage, DAY + 1, verify=True, symbols=["B"])
        assert result.verify
        assert result.verify.mismatched == 0, result.verify.differences
        assert result.verify.compared >= 2 * 5
        assert "coverage" not in result.digests
        whole = await replayed(journal, storage, DAY + 1)
        assert result.digests != whole.digests
        with pytest.raises(NotFound, match="nearest: A, B"):
            await replayed(journal, storage, DAY, symbols=["C"])

    asyncio.run(main())


def test_an_opening_that_is_not_the_closing_of_the_day_before_is_a_mismatch() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(400)), MemoryStorage()
        await projected(journal, storage)
        ledger = await Ledger.read(JournalSource(journal), STREAM)
        newest = [d for d in ledger.digests if d.projection == "book"][-1]
        wrong = digest_entry(newest._replace(opening="ff" * 32))
        await journal.append(SYSTEM, [wrong])
        result = await replayed(journal, storage, DAY + 1, verify=True)
        assert result.verify
        assert result.verify.mismatched == 1
        assert "opened the day with ffff" in result.verify.differences[0]

    asyncio.run(main())


def test_an_archive_that_ends_before_the_live_run_is_compared_as_far_as_it_goes() -> None:
    async def main() -> None:
        entries, storage = market(400, days=1), MemoryStorage()
        live = await journalled(entries)
        await projected(live, storage)
        for count, compared in ((399, 9), (400, 10), (39, 0)):
            shorter = await journalled(entries[:count])
            await shorter.ensure(SYSTEM)
            async for system in live.read(SYSTEM):
                await shorter.append(SYSTEM, [r.entry for r in system])
            if not compared:
                with pytest.raises(NothingToVerify):
                    await replayed(shorter, storage, DAY, verify=True)
                continue
            result = await replayed(shorter, storage, DAY, verify=True)
            assert result.verify
            assert (result.verify.compared, result.verify.mismatched) == (compared * 5, 0)

    asyncio.run(main())


def test_nothing_to_verify_is_an_error_and_unknown_days_name_the_nearest() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(50)), MemoryStorage()
        with pytest.raises(NothingToVerify, match="projector"):
            await replayed(journal, storage, DAY, verify=True)
        with pytest.raises(NotFound, match="2026-08-10"):
            await replayed(journal, storage, 20260101)
        assert (await replayed(journal, storage, DAY)).verify is None

    asyncio.run(main())


@given(stream=records(), kills=st.lists(st.integers(0, 60), max_size=3))
@settings(max_examples=25)
def test_killed_at_any_entry_it_journals_what_an_undisturbed_run_does(stream: list[Record], kills: list[int]) -> None:
    entries = [msgspec.structs.replace(r.entry, frame=i) for i, r in enumerate(stream)]

    async def main() -> None:
        storage = MemoryStorage()
        journal = await journalled(entries)
        for kill in kills:
            projector = Projector(journal, storage, STREAM, CLOCK, digest_every=4, checkpoint_every=8)
            await projector.restore()
            killed = asyncio.create_task(projector._follow())
            for _ in range(kill):
                await asyncio.sleep(0)
            killed.cancel()  # no clean stop: no last checkpoint
            await asyncio.gather(killed, return_exceptions=True)
        await projected(journal, storage, every=4)
        undisturbed, other = await journalled(entries), MemoryStorage()
        await projected(undisturbed, other, every=4)
        assert await _journalled_digests(journal) >= await _journalled_digests(undisturbed)
        assert await _places(journal) == await _places(undisturbed)

    asyncio.run(main())


async def _journalled_digests(journal: MemoryJournal) -> set[Digest]:
    return set((await Ledger.read(JournalSource(journal), STREAM)).digests)


async def _places(journal: MemoryJournal) -> set[tuple[str, int]]:
    return {d.place for d in await _journalled_digests(journal)}


def test_a_damaged_snapshot_is_passed_over_for_an_earlier_one() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(200)), MemoryStorage()
        live = await projected(journal, storage)
        ledger = await Ledger.read(JournalSource(journal), STREAM)
        newest = max((c for c in ledger.checkpoints if c.digest.projection == "book"), key=lambda c: c.digest.sequence)
        storage.put(newest.object, b"junk")
        again = Projector(journal, storage, STREAM, CLOCK)
        await again.restore()
        assert "cannot be decompressed" in again.notes[0]
        assert again.position < newest.digest.sequence
        for checkpoint in ledger.checkpoints:
            storage.delete(checkpoint.object)
        rebuilt = await projected(journal, storage)
        assert rebuilt.runner.digests() == live.runner.digests()

    asyncio.run(main())


def test_a_fold_that_comes_out_differently_stops_loudly() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(200)), MemoryStorage()
        await projected(journal, storage)
        ledger = await Ledger.read(JournalSource(journal), STREAM)
        other = MemoryJournal()
        await other.ensure(STREAM)
        await other.ensure(SYSTEM)
        for entry in market(200)[:199]:
            await other.append(STREAM, [entry])
        await other.append(SYSTEM, [digest_entry(ledger.digests[0]._replace(digest="00" * 32))])
        with pytest.raises(IdConflict, match="came out differently"):
            await projected(other, MemoryStorage())

    asyncio.run(main())


def test_imported_days_chain_and_an_earlier_day_changes_the_later_ones() -> None:
    first = [msgspec.structs.replace(e, epoch=b"1" * 16) for e in market(200)]
    days = {day: [e for e in first if e.day == day] for day in (DAY, DAY + 1)}

    async def main() -> None:
        storage = MemoryStorage()
        journal = await journalled(days[DAY + 1], IMPORT)
        projector = Projector(journal, storage, IMPORT, CLOCK)
        assert await projector.run_days(JournalSource(journal)) == [DAY + 1]
        alone = await replayed(journal, storage, DAY + 1, IMPORT, verify=True)
        await journal.append(IMPORT, days[DAY])
        assert await projector.run_days(JournalSource(journal), [DAY]) == [DAY, DAY + 1]
        assert await projector.run_days(JournalSource(journal)) == []
        before = await journal.info(SYSTEM)
        assert await projector.run_days(JournalSource(journal), [DAY]) == [DAY, DAY + 1]
        assert await journal.info(SYSTEM) == before
        for day in (DAY, DAY + 1):
            result = await replayed(journal, storage, day, IMPORT, verify=True)
            assert result.verify
            assert (result.verify.compared, result.verify.mismatched) == (5, 0)
        assert result.digests["book"] != alone.digests["book"]
        through = Runner(create(), IMPORT.name, mark=listed([]))
        list(through.apply(Block.of([Record(i, e) for i, e in enumerate(first, 1)])))
        assert result.digests == {d.projection: d.digest for d in through.digests()}

    asyncio.run(main())


def test_as_of_is_a_filter_on_effective_time() -> None:
    entries = market(100, days=1)

    async def main() -> None:
        journal = await journalled(entries)
        source = JournalSource(journal)
        for count in (1, 2, 3, 50, 101):
            moment = entries[count - 1].effective_ns
            result = await replayed(journal, MemoryStorage(), DAY, until_ns=moment + SECOND // 2)
            assert result.entries == count
            whole = Runner(create(), STREAM.name, mark=listed([]))
            list(whole.apply(Block.of([Record(i, e) for i, e in enumerate(entries[:count], 1)])))
            assert result.digests == {d.projection: d.digest for d in whole.digests()}
            if count > 3:
                _, at = await find_book(source, MemoryStorage(), [STREAM], "A", as_of_ns=moment, days=DayRule())
                assert at == whole.projections[0].book("A")  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_book_at_a_moment_goes_on_from_checkpoints_and_crosses_days() -> None:
    entries = market(400)

    async def main() -> None:
        journal, storage = await journalled(entries), MemoryStorage()
        source = JournalSource(journal)
        await projected(journal, storage)
        for entry in (entries[30], entries[200], entries[201], entries[300], entries[-1]):
            folded = [Record(i, e) for i, e in enumerate(entries, 1) if e.effective_ns <= entry.effective_ns]
            whole = create(["book"])[0]
            whole.apply(Block.of(folded))
            _, at = await find_book(source, storage, [IMPORT, STREAM], "B", as_of_ns=entry.effective_ns, days=DayRule())
            assert at == whole.book("B")  # type: ignore[attr-defined]
        for symbol, moment_ns in (("nope", entries[-1].effective_ns), ("B", 5)):
            with pytest.raises(NotFound):
                await find_book(source, storage, [STREAM], symbol, as_of_ns=moment_ns, days=DayRule())

    asyncio.run(main())


def test_paces_give_every_entry_once_in_order_and_the_clock_follows() -> None:
    entries = market(60, days=1)

    async def main() -> None:
        journal, storage = await journalled(entries), MemoryStorage()
        whole = await replayed(journal, storage, DAY)
        steps: list[int] = []
        times: list[tuple[int, int]] = []

        async def step() -> Stride:
            steps.append(len(steps))
            return Stride(1)

        def watch(clock: SimulatedClock) -> Callable[[Block], None]:
            return lambda block: times.append((clock.wall_ns(), block.last))

        clock = SimulatedClock()
        stepped = await replayed(journal, storage, DAY, pace=Step(step), simulated=clock, on_block=watch(clock))
        assert stepped.digests == whole.digests
        assert len(steps) == len(entries)
        assert times == [(e.effective_ns, i) for i, e in enumerate(entries, 1)]
        slept = _Slept()
        timed = await replay(
            JournalSource(journal), create(), day=DAY, stream=STREAM, clock=slept, storage=storage, pace=Times(slept, 2.0)
        )  # fmt: skip
        assert timed.digests == whole.digests
        assert slept.slept_s == pytest.approx(30, abs=0.1)

    asyncio.run(main())


def test_a_step_is_so_many_entries_or_so_much_time_across_blocks() -> None:
    async def main() -> list[list[int]]:
        strides = [Stride(1), Stride(3), Stride(ns=20), Stride(ns=5), Stride(100)]
        released: list[list[int]] = []

        async def wait() -> Stride:
            released.append([])
            return strides.pop(0)

        pace = Step(wait)
        for times in (np.array([10, 20]), np.array([30, 35, 36, 56, 57]), np.array([70, 80, 90])):
            async for span in pace.spans(times):
                released[-1] += times[span].tolist()
        return released

    assert asyncio.run(main()) == [[10], [20, 30, 35], [36], [], [56, 57, 70, 80, 90]]


class _Slept:
    """A clock whose time passes by sleeping only."""

    rate = 1.0

    def __init__(self) -> None:
        self.slept_s = 0.0

    def wall_ns(self) -> int:
        return self.mono_ns()

    def mono_ns(self) -> int:
        return round(self.slept_s * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        await asyncio.sleep(0)


def test_a_simulated_sleeper_wakes_when_the_replay_has_come_that_far() -> None:
    async def main() -> None:
        clock = SimulatedClock(5 * SECOND)
        woken: list[tuple[float, int]] = []

        async def sleeper(seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((seconds, clock.wall_ns()))

        tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 0)]
        await asyncio.sleep(0)
        for seconds in (5.5, 6.5, 6.0, 9.0):
            clock.advance(int(seconds * SECOND))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert woken == [(0, int(5.5 * SECOND)), (1, int(6.5 * SECOND)), (3, 9 * SECOND)]

    asyncio.run(main())


def test_checkpoints_are_named_by_content() -> None:
    async def main() -> None:
        journal, storage = await journalled(market(100)), MemoryStorage()
        await projected(journal, storage)
        ledger = await Ledger.read(JournalSource(journal), STREAM)
        closing = [c for c in ledger.checkpoints if c.closing]
        assert {c.digest.projection for c in closing} == {p.name for p in create()}
        assert all(isinstance(c, Checkpoint) and c.object.startswith("local/_snapshots/") for c in ledger.checkpoints)
        assert {o.key for o in storage.list("local/_snapshots/")} == {c.object for c in ledger.checkpoints}

    asyncio.run(main())
