"""Group commit: order, bounds, failures and what callers are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Control, Entry
from journal.errors import Fenced, IdConflict, JournalFull, JournalUnavailable
from journal.memory import MemoryJournal
from journal.protocols import Fence
from journal.subjects import Stream
from journal.writer import EpochWriter, GroupCommit, Stamper
from tests.journal.contract import EPOCH, FEED, entries, entry, new_stream, read_all


class Moody(MemoryJournal):
    """A memory journal that can be made to fail, to wait, and that writes down what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[int] = []
        self.stored_then_failed = False

    async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
        self.batches.append(len(entries))
        await self.open.wait()
        if self.errors:
            error = self.errors.pop(0)
            if self.stored_then_failed:
                await super().append(stream, entries, fence)
            raise error
        return await super().append(stream, entries, fence)


def commit(journal: MemoryJournal, stream: Stream, **more: Any) -> GroupCommit:
    group = GroupCommit(journal, stream, WallClock(), random.Random(1), **{"linger_s": 0.002, **more})
    group.start()
    return group


def run(body: Any, journal: MemoryJournal | None = None) -> None:
    async def main() -> None:
        stream, moody = new_stream(), journal or Moody()
        await moody.ensure(stream, FEED)
        async with asyncio.timeout(20):
            await body(moody, stream)

    asyncio.run(main())


async def frames(journal: MemoryJournal, stream: Stream) -> list[int]:
    return [r.entry.frame for r in await read_all(journal, stream)]


def test_what_comes_within_the_linger_is_one_batch_in_order() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream)
        for e in entries(1, 50):
            group.post(e)
        places = await asyncio.gather(group.append(entry(51)), group.append(entry(52), entry(53)), group.append(entry(54)))
        assert list(places) == [[51], [52, 53], [54]]
        assert journal.batches == [54]
        await group.close()
        assert await frames(journal, stream) == list(range(1, 55))

    run(body)


def test_large_bursts_are_cut_to_batches() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        seen: list[int] = []
        group = commit(journal, stream, max_batch=100, on_durable=lambda batch, places: seen.extend(zip_equal(batch, places)))
        for e in entries(1, 950):
            group.post(e)
        await group.flush()
        assert max(journal.batches) == 100
        assert seen == list(range(1, 951))
        assert group.durable == 950
        assert group.pending_bytes == 0
        await group.close()
        assert await frames(journal, stream) == list(range(1, 951))

    run(body)


def zip_equal(batch: list[Entry], places: list[int]) -> list[int]:
    assert [e.frame for e in batch] == places
    return places


def test_a_batch_is_bounded_in_bytes() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream)
        big = [Entry(Control("x"), FEED, "s", EPOCH, n, 1, 0, 0, 20261122, raw=bytes(900_000)) for n in range(1, 31)]
        places = await group.append(*big)
        assert places == list(range(1, 31))
        assert max(journal.batches) <= 10
        await group.close()

    run(body)


def test_posting_beyond_the_bound_closes_the_room_until_it_is_durable() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream, max_pending_bytes=100_000)
        journal.open.clear()
        posted = 0
        for e in entries(1, 10_000):
            try:
                async with asyncio.timeout(0.05):
                    await group.room()
            except TimeoutError:
                break
            group.post(e)
            posted += 1
        assert 100 < posted < 200  # about 700 bytes each
        assert group.pending_bytes <= 100_000 + 1_000
        waiting = asyncio.create_task(group.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        journal.open.set()
        await waiting
        await group.close()
        assert await frames(journal, stream) == list(range(1, posted + 1))

    run(body)


@pytest.mark.parametrize("stored", [False, True])
def test_a_journal_that_is_away_for_a_while_loses_and_doubles_nothing(*, stored: bool) -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        journal.errors = [JournalUnavailable("away"), JournalFull("full"), JournalUnavailable("away")]
        journal.stored_then_failed = stored
        group = commit(journal, stream)
        first = asyncio.create_task(group.append(*entries(1, 5)))
        await asyncio.sleep(0.03)
        for e in entries(6, 20):
            group.post(e)
        assert not first.done()
        assert await first == [1, 2, 3, 4, 5]
        await group.close()
        assert journal.errors == []
        assert await frames(journal, stream) == list(range(1, 21))

    run(body)


@pytest.mark.parametrize("error", [Fenced("lost", "somebody"), IdConflict("two contents")])
def test_a_final_error_reaches_everyone_and_stops_the_writer(error: Exception) -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        journal.errors = [error]
        group = commit(journal, stream, max_batch=2)
        appends = [asyncio.create_task(group.append(e)) for e in entries(1, 6)]
        flushed = asyncio.create_task(group.flush())
        found = await asyncio.gather(*appends, flushed, return_exceptions=True)
        assert found == [error] * 7
        assert group.failed
        with pytest.raises(type(error)):
            group.post(entry(9))
        with pytest.raises(type(error)):
            await group.append(entry(9))
        for ask in (group.room, group.flush, group.close):
            with pytest.raises(type(error)):
                await ask()
        assert await frames(journal, stream) == []

    run(body)


def test_a_cancelled_append_is_still_stored_in_its_place() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream)
        journal.open.clear()
        tasks = [asyncio.create_task(group.append(e)) for e in entries(1, 5)]
        await asyncio.sleep(0.02)
        tasks[2].cancel()
        tasks.append(asyncio.create_task(group.append(entry(6))))
        await asyncio.sleep(0)
        journal.open.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(f, asyncio.CancelledError) or f for f in found] == [[1], [2], True, [4], [5], [6]]
        await group.close()
        assert await frames(journal, stream) == [1, 2, 3, 4, 5, 6]

    run(body)


def test_closing_stores_what_was_posted_and_takes_no_more() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream, linger_s=5.0)
        for e in entries(1, 3):
            group.post(e)
        await group.close()
        assert await frames(journal, stream) == [1, 2, 3]
        with pytest.raises(Exception, match="closed"):
            group.post(entry(4))

    run(body)


def test_overlapping_appends_do_not_pile_up_positions() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream, linger_s=0)
        pending: set[asyncio.Task[list[int]]] = set()
        most = 0
        for n in range(1, 2_001):
            pending.add(asyncio.create_task(group.append(entry(n))))
            if len(pending) > 20:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            most = max(most, len(group._recent))
        assert [await t for t in sorted(pending, key=lambda t: t.get_name())]
        assert most <= 40
        await group.close()
        assert await frames(journal, stream) == list(range(1, 2_001))

    run(body)


def test_giving_up_a_close_ends_the_writer() -> None:
    async def body(journal: Moody, stream: Stream) -> None:
        group = commit(journal, stream)
        journal.open.clear()
        append = asyncio.create_task(group.append(entry(1)))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await group.close()
        with pytest.raises(asyncio.CancelledError):
            await append
        assert group.failed
        assert group._task is not None
        await asyncio.sleep(0)
        assert group._task.done()

    run(body)


def test_a_fence_goes_with_every_batch() -> None:
    async def body(journal: MemoryJournal, stream: Stream) -> None:
        def lease(n: int) -> Coroutine[Any, Any, Fence]:
            return journal.lease(stream, Entry(Control("lease", detail=f"i{n}"), FEED, "writer-w", bytes([n]) * 16, 0, 1, 0, 0, 20261122))

        group = commit(journal, stream, fence=await lease(1))
        assert await group.append(entry(1)) == [2]
        await lease(2)
        with pytest.raises(Fenced, match="i2"):
            await group.append(entry(2))
        with pytest.raises(Fenced):
            await group.close()

    run(body, MemoryJournal())


def test_entries_are_numbered_and_stamped_in_the_order_they_are_stored() -> None:
    stamper = Stamper(DayRule())
    one, two = EpochWriter(FEED, EPOCH, stamper), EpochWriter(FEED, EPOCH[::-1], stamper)
    made = [w.entry(Control("x"), recv_ns=t) for w, t in ((one, 10), (two, 7), (one, 12), (two, 11))]
    assert [e.frame for e in made] == [0, 0, 1, 1]
    assert [e.effective_ns for e in made] == [10, 10, 12, 12]
    assert [e.recv_ns for e in made] == [10, 7, 12, 11]
