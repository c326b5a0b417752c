"""The archiver: the same objects whatever happens on the way, nothing lost, nothing that grows."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.codec import encode
from journal.entry import Change, Control, Delta, Entry, Event, Gap, Record, Trade
from journal.errors import CorruptionError, HoleInStream, NotFound, StorageError
from journal.manifest import Manifest, decode, json_schema, schema_hashes
from journal.memory import MemoryJournal, MemoryStorage
from journal.protocols import StreamInfo
from journal.segment import Limits
from journal.subjects import Stream
from projections.digests import Checkpoint, Digest, checkpoint_entry, store
from replay.source import JoinedSource
from ssmd.services.archiver import Archiver
from ssmd.services.closings import Closings

MARKET, SYSTEM, IMPORT = Stream("local", shard="0"), Stream("local", domain="system"), Stream("local", shard="import")
SMALL = Limits(entries=16, raw_bytes=400, block_rows=5, raw_frame_bytes=100)
DAY = 20260810


class FastClock(WallClock):
    """A hundred times as fast."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 100)


def entry(n: int, *, day: int = DAY, feed: str = "kalshi", raw: bytes = b"{}") -> Entry:
    body = (Delta((Change(n, 1, 0, 0),)), Trade(n, 1, 0, 0, f"t{n}"), Gap("lost"), Control("ok"))[n % 4]
    return Entry(body, feed, f"S{n % 3}", bytes(16), n, 10 * n, 5, 10 * n, day, raw=raw if n % 5 else b"")


def event(n: int, day: int = DAY) -> Entry:
    return Entry(Event("note", b"{}"), "system", f"k{n}", bytes(16), n, n, 0, n, day)


async def journal_of(stream: Stream, entries: list[Entry]) -> MemoryJournal:
    journal = MemoryJournal()
    await journal.ensure(stream)
    for at in range(0, len(entries), 100):
        await journal.append(stream, entries[at : at + 100])
    return journal


def archiver(journal: MemoryJournal, storage: Any, **options: Any) -> Archiver:
    return Archiver(journal, storage, "local", FastClock(), limits=SMALL, software="test", **options)


async def everything(reader: Any, stream: Stream, **how: Any) -> list[Record]:
    return [r async for records in reader.read(stream, **how) for r in records]


def manifest(storage: MemoryStorage, folder: str) -> Manifest:
    return decode(storage.get(f"{folder}/manifest.json"), folder)


def objects(storage: MemoryStorage) -> dict[str, bytes]:
    return {key: storage.get(key) for key, _ in storage.list("")}


def named(storage: MemoryStorage) -> set[str]:
    """Every key that is a manifest or that one names."""
    keys = {key for key, _ in storage.list("") if key.endswith("manifest.json")}
    return keys | {o.key for key in keys for s in decode(storage.get(key), key).segments for o in s.objects}


# --- the steps of a life, with a crash before any operation of the storage ---------------------------------------------------


class Crash(Exception):
    """The process is gone."""


class CrashingStorage(MemoryStorage):
    """Raises `Crash` in place of the operation `fatal` (from 0) and of every later one."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self.fatal = fatal
        self.operations = 0

    def _count(self) -> None:
        self.operations += 1
        if self.operations > self.fatal:
            raise Crash

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self._count()
        return super().put(key, data, if_absent=if_absent)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


async def live(storage: CrashingStorage) -> None:
    """Three days of two streams in eleven steps; the archiver runs on unless it crashes, then a new one starts."""
    journal = MemoryJournal()
    await journal.ensure(MARKET)
    await journal.ensure(SYSTEM)
    at = archiver(journal, storage)
    n = 0
    for step in range(11):
        await journal.append(MARKET, [entry(n + i, day=DAY + (n + i) // 40, raw=b"x" * (i * 9)) for i in range(9)])
        await journal.append(SYSTEM, [event(step, DAY + step // 4)])
        n += 9
        try:
            await at.catch_up()
        except Crash:
            storage.fatal = 1 << 30
            at = archiver(journal, storage)
            await at.catch_up()
            assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)


def test_a_crash_at_any_operation_leads_to_the_same_objects() -> None:
    undisturbed = CrashingStorage(1 << 30)
    asyncio.run(live(undisturbed))
    expected = objects(undisturbed)
    assert set(expected) == named(undisturbed)
    assert undisturbed.operations > 100
    for fatal in range(undisturbed.operations):
        storage = CrashingStorage(fatal)
        asyncio.run(live(storage))
        assert storage.operations > fatal
        assert objects(storage) == expected, f"after a crash at operation {fatal}"


def test_closed_objects_are_those_of_one_run_however_often_it_stopped() -> None:
    async def main() -> None:
        entries = [entry(n, day=DAY + n // 70) for n in range(200)]
        whole = MemoryStorage()
        await archiver(await journal_of(MARKET, entries), whole).catch_up()
        pieces, journal, rng = MemoryStorage(), MemoryJournal(), random.Random(3)
        await journal.ensure(MARKET)
        while entries:
            count = rng.randrange(1, 30)
            await journal.append(MARKET, entries[:count])
            entries = entries[count:]
            await archiver(journal, pieces).catch_up()
        assert objects(pieces) == objects(whole)

    asyncio.run(main())


# --- cuts --------------------------------------------------------------------------------------------------------------------


def cuts(storage: MemoryStorage, folder: str, stream: Stream = MARKET) -> list[tuple[int, int, str]]:
    return [(s.first, s.last, s.cut) for s in manifest(storage, folder).of_stream(stream.name)]


def archived(entries: list[Entry], stream: Stream = MARKET) -> MemoryStorage:
    storage = MemoryStorage()

    async def main() -> None:
        await archiver(await journal_of(stream, entries), storage).catch_up()

    asyncio.run(main())
    return storage


def test_a_segment_ends_at_the_first_of_entries_bytes_and_day() -> None:
    storage = archived([entry(n, day=DAY + (n > 25), raw=b"x") for n in range(1, 31)])
    assert cuts(storage, "local/kalshi/2026-08-10") == [(1, 16, "entries"), (17, 25, "day")]
    assert cuts(storage, "local/kalshi/2026-08-11") == [(26, 30, "")]
    storage = archived([entry(n, raw=b"x" * 100) for n in (1, 2, 3, 4, 6, 7)])
    assert cuts(storage, "local/kalshi/2026-08-10") == [(1, 4, "bytes"), (5, 6, "")]


def test_days_that_interleave_are_filed_each_in_its_own_folder() -> None:
    days = [DAY] * 5 + [DAY + 1] * 5 + [DAY] * 5 + [DAY + 1] * 20 + [DAY] * 2
    storage = archived([entry(n, day=d) for n, d in enumerate(days)], IMPORT)
    assert cuts(storage, "local/kalshi/2026-08-10", IMPORT) == [(1, 5, "day"), (11, 15, "day"), (36, 37, "")]
    assert [(r.first, r.last) for r in manifest(storage, "local/kalshi/2026-08-10").ranges] == [(1, 5), (11, 15), (36, 37)]
    assert [(r.first, r.last) for r in manifest(storage, "local/kalshi/2026-08-11").ranges] == [(6, 10), (16, 35)]
    assert manifest(storage, "local/kalshi/2026-08-11").status == "closed"
    assert manifest(storage, "local/kalshi/2026-08-10").status == "open"

    async def main() -> None:
        reader = ArchiveReader(storage, "local")
        assert await reader.days(IMPORT) == [DAY, DAY + 1]
        found = [int(s) async for b in reader.blocks(IMPORT, day=DAY) for s in b.rows["sequence"]]
        assert found == [n for n, d in enumerate(days, 1) if d == DAY]
        assert [r.sequence for r in await everything(reader, IMPORT)] == list(range(1, len(days) + 1))

    asyncio.run(main())


def test_feeds_of_one_stream_are_filed_apart() -> None:
    storage = archived([entry(n, feed="kalshi" if n < 5 else "other") for n in range(10)])
    assert cuts(storage, "local/kalshi/2026-08-10") == [(1, 5, "feed")]
    assert cuts(storage, "local/other/2026-08-10") == [(6, 10, "")]


def test_domain_streams_are_filed_under_their_name_without_empty_raw_objects() -> None:
    storage = archived([event(n) for n in range(20)], SYSTEM)
    keys = [o.key for o in storage.list("")]
    head = "local/_domain/local_system/2026-08-10"
    assert keys == [
        f"{head}/manifest.json",
        f"{head}/norm/local_system-{1:020}-{16:020}.capnp.zst",
        f"{head}/norm/local_system-{17:020}-{20:020}.capnp.zst",
    ]
    assert manifest(storage, head).data_type == "system"


# --- the manifest ------------------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_is_there() -> None:
    entries = [entry(n) for n in range(40)]
    storage = archived(entries)
    m = manifest(storage, "local/kalshi/2026-08-10")
    assert (m.env, m.feed, m.date, m.data_type, m.status, m.software) == ("local", "kalshi", "2026-08-10", "market", "open", "test")
    assert m.counts == {"control": 10, "delta": 10, "gap": 10, "trade": 10}
    assert (m.entries, m.first_recv_ns, m.last_recv_ns) == (40, 0, 390)
    assert m.raw_bytes == sum(len(e.raw) for e in entries)
    assert m.object_bytes == sum(size for key, size in storage.list("") if not key.endswith("manifest.json"))
    assert [g.position for g in m.gaps] == [f"local_md_0:{n + 1}" for n in range(2, 40, 4)]
    assert m.schemas == schema_hashes()
    assert set(m.schemas) == {"entry.capnp", "block.capnp"}
    assert m.encode() == storage.get("local/kalshi/2026-08-10/manifest.json")
    assert set(json_schema()["$defs"]["Manifest"]["properties"]) == set(Manifest.__struct_fields__)


def test_closing_checkpoints_are_copied_even_when_they_are_archived_first() -> None:
    from projections.coverage import CoverageProjection

    async def main() -> None:
        storage = MemoryStorage()
        journal = await journal_of(SYSTEM, [])
        snapshot = store(storage, "local", "coverage", CoverageProjection().snapshot())

        def closing(day: int, sequence: int, opening: str) -> Entry:
            digest = Digest("coverage", 1, MARKET.name, day, sequence, f"{day:x}", sequence, opening)
            return checkpoint_entry(Checkpoint(digest, snapshot, closing=True))

        await journal.append(SYSTEM, [closing(DAY, 20, ""), event(1, DAY + 1)])
        await archiver(journal, storage).catch_up()  # the system stream's day is closed, the market's is not begun
        await journal.ensure(MARKET)
        await journal.append(MARKET, [entry(n, day=DAY + n // 20) for n in range(45)])
        await archiver(journal, storage).catch_up()
        await journal.append(SYSTEM, [closing(DAY + 1, 40, f"{DAY:x}"), event(2, DAY + 1)])
        await archiver(journal, storage).catch_up()
        first, second = (manifest(storage, f"local/kalshi/2026-08-{d}").snapshots[0] for d in (10, 11))
        assert (first.projection, first.opening, first.closing.sequence, first.closing.object) == ("coverage", None, 20, snapshot)
        assert second.opening == first.closing
        assert second.closing.digest == f"{DAY + 1:x}"
        with pytest.raises(NotFound):
            await ArchiveReader(storage, "local").manifest(MARKET, DAY + 5)

    asyncio.run(main())


# --- following ---------------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (the condition is of many things)
            await asyncio.sleep(0.005)


def archived_to(at: Archiver) -> dict[str, int]:
    return {s.stream: s.archived for s in at.status()}


def test_follows_every_stream_and_writes_tails_when_stopped() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), await journal_of(MARKET, [entry(n) for n in range(10)])
        at = archiver(journal, storage)
        running = asyncio.create_task(at.run())
        await until(lambda: {s.stream: s.position for s in at.status()} == {MARKET.name: 10})
        await journal.ensure(SYSTEM)
        await journal.append(SYSTEM, [event(n) for n in range(3)])
        await journal.append(MARKET, [entry(n) for n in range(10, 25)])
        await until(lambda: {s.stream: s.position for s in at.status()} == {MARKET.name: 25, SYSTEM.name: 3})
        await until(lambda: {s.stream: s.last for s in at.status()} == {MARKET.name: 25, SYSTEM.name: 3})
        assert archived_to(at) == {MARKET.name: 16, SYSTEM.name: 0}
        assert [s.lag for s in at.status()] == [9, 3]
        at.stop()
        await running
        assert archived_to(at) == {MARKET.name: 25, SYSTEM.name: 3}
        assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)
        assert {key for key, _ in storage.list("")} == named(storage)

    asyncio.run(main())


def test_tails_are_flushed_while_following_and_at_cancellation() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), await journal_of(MARKET, [entry(n) for n in range(10)])
        at = archiver(journal, storage, flush_s=0.0)
        running = asyncio.create_task(at.run())
        await until(lambda: archived_to(at) == {MARKET.name: 10})
        await journal.append(MARKET, [entry(10)])
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert manifest(storage, "local/kalshi/2026-08-10").entries == at.status()[0].position

    asyncio.run(main())


class SlowStorage(MemoryStorage):
    """Puts wait until `free` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self.free.wait(20)
        return super().put(key, data, if_absent=if_absent)


def test_a_slow_storage_stops_the_reading() -> None:
    async def main() -> None:
        storage, journal = SlowStorage(), await journal_of(MARKET, [entry(n) for n in range(2_000)])
        at = archiver(journal, storage)
        running = asyncio.create_task(at.run())
        await until(lambda: bool(at.status()))
        await asyncio.sleep(0.1)
        assert [s.position for s in at.status()] == [SMALL.entries]  # one segment, and not an entry more
        storage.free.set()
        await until(lambda: archived_to(at)[MARKET.name] >= 2_000 - SMALL.entries)
        at.stop()
        await running
        assert manifest(storage, "local/kalshi/2026-08-10").entries == 2_000

    asyncio.run(main())


class FullStorage(MemoryStorage):
    """Refuses puts while `full`."""

    full = True

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if self.full:
            raise StorageError("the disk is full")
        return super().put(key, data, if_absent=if_absent)


def test_a_full_storage_is_tried_again_and_said_in_the_status() -> None:
    async def main() -> None:
        storage, journal = FullStorage(), await journal_of(MARKET, [entry(n) for n in range(100)])
        at = archiver(journal, storage)
        running = asyncio.create_task(at.run())
        await until(lambda: any("disk is full" in s.error for s in at.status()))
        storage.full = False
        await until(lambda: archived_to(at)[MARKET.name] >= 96)
        assert not at.status()[0].error
        at.stop()
        await running
        assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)

    asyncio.run(main())


def test_catching_up_raises_and_goes_on_when_called_again() -> None:
    async def main() -> None:
        storage, journal = FullStorage(), await journal_of(MARKET, [entry(n) for n in range(100)])
        at = archiver(journal, storage)
        with pytest.raises(StorageError, match="full"):
            await at.catch_up()
        storage.full = False
        await at.catch_up()
        assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)
        healthy = MemoryStorage()
        await archiver(journal, healthy).catch_up()
        assert objects(storage) == objects(healthy)

    asyncio.run(main())


def test_stopping_while_the_storage_is_away_says_so() -> None:
    async def main() -> None:
        at = archiver(await journal_of(MARKET, [entry(n) for n in range(100)]), FullStorage())
        running = asyncio.create_task(at.run())
        await until(lambda: any(s.error for s in at.status()))
        at.stop()
        with pytest.raises(StorageError, match="full"):
            await running

    asyncio.run(main())


def test_catches_up_to_a_position() -> None:
    async def main() -> None:
        storage = MemoryStorage()
        at = archiver(await journal_of(MARKET, [entry(n) for n in range(100)]), storage)
        await at.catch_up({MARKET: 50})
        assert manifest(storage, "local/kalshi/2026-08-10").entries == 50
        await at.catch_up()
        assert manifest(storage, "local/kalshi/2026-08-10").entries == 100

    asyncio.run(main())


# --- refusals ----------------------------------------------------------------------------------------------------------------


class ForgetfulStorage(MemoryStorage):
    """Loses the last byte of what it stores."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        return super().put(key, data[:-1], if_absent=if_absent)


def test_what_reads_back_otherwise_is_not_archived() -> None:
    async def main() -> None:
        storage = ForgetfulStorage()
        with pytest.raises(StorageError, match="reads back other"):
            await archiver(await journal_of(MARKET, [entry(0)]), storage).catch_up()
        assert not [o for o in storage.list("") if o.key.endswith("manifest.json")]

    asyncio.run(main())


def test_a_second_archiver_is_refused() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), await journal_of(MARKET, [entry(n) for n in range(10)])
        first, second = archiver(journal, storage), archiver(journal, storage)
        await first.catch_up()
        await journal.append(MARKET, [entry(n) for n in range(10, 30)])
        await second.catch_up()
        await journal.append(MARKET, [entry(30)])
        with pytest.raises(StorageError, match="another archiver"):
            await first.catch_up()
        await second.catch_up()
        assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)

    asyncio.run(main())


def test_a_manifest_that_another_archiver_overwrote_is_noticed_and_healed_by_a_restart() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), await journal_of(MARKET, [entry(n) for n in range(10)])
        key = "local/kalshi/2026-08-10/manifest.json"
        at = archiver(journal, storage)
        await at.catch_up()
        older = storage.get(key)
        await journal.append(MARKET, [entry(n) for n in range(10, 40)])
        await at.catch_up()
        assert at.status()[0].closed == 32
        storage.put(key, older)
        await journal.append(MARKET, [entry(n) for n in range(40, 60)])
        with pytest.raises(StorageError, match="another archiver"):
            await at.catch_up()
        await archiver(journal, storage).catch_up()
        assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)
        assert {key for key, _ in storage.list("")} == named(storage)

    asyncio.run(main())


@pytest.mark.parametrize("tail", [10, 32], ids=["open", "closed"])  # 32 is two whole segments
@pytest.mark.parametrize("length", [0, 5, 200])
def test_a_journal_that_is_not_the_archived_one_replaces_nothing(tail: int, length: int) -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archiver(await journal_of(MARKET, [entry(n) for n in range(tail)]), storage).catch_up()
        before = objects(storage)
        other = await journal_of(MARKET, [entry(n + 1_000) for n in range(length)])
        with pytest.raises(CorruptionError, match=r"journal was (lost|replaced)"):
            await archiver(other, storage).catch_up()
        assert objects(storage) == before
        if length < tail:
            joined = JoinedSource(ArchiveReader(storage, "local"), other)
            with pytest.raises(CorruptionError, match="read one of them"):
                assert [block async for block in joined.blocks(MARKET, day=DAY)]

    asyncio.run(main())


def test_a_damaged_tail_is_written_again() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), await journal_of(MARKET, [entry(n) for n in range(10)])
        await archiver(journal, storage).catch_up()
        before = objects(storage)
        storage.put(next(key for key in before if "/norm/" in key), b"damage")
        await journal.append(MARKET, [entry(10)])
        await archiver(journal, storage).catch_up()
        assert await everything(ArchiveReader(storage, "local"), MARKET) == await everything(journal, MARKET)

    asyncio.run(main())


class Interrupting(MemoryStorage):
    """Calls `meanwhile` once, in the middle of a put."""

    meanwhile: Callable[[], None] | None = None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        return super().put(key, data, if_absent=if_absent)


def test_a_checkpoint_seen_while_an_older_one_is_copied_is_copied_next() -> None:
    async def main() -> None:
        storage, journal = Interrupting(), await journal_of(MARKET, [entry(n) for n in range(40)])
        await archiver(journal, storage).catch_up()
        older, newer = (
            checkpoint_entry(Checkpoint(Digest("book", 1, MARKET.name, DAY, 40, digest, 40, ""), "local/_snapshots/s", closing=True))
            for digest in ("older", "newer")
        )
        closings = Closings(storage)
        closings.saw(older)
        storage.meanwhile = lambda: closings.saw(newer)
        for digest in ("older", "newer"):
            closings.copy()
            assert manifest(storage, "local/kalshi/2026-08-10").snapshots[0].closing.digest == digest

    asyncio.run(main())


class PurgedJournal(MemoryJournal):
    """Says that its streams begin at `first`."""

    first = 1

    async def info(self, stream: Stream) -> StreamInfo | None:
        info = await super().info(stream)
        return info._replace(first=self.first) if info else None


def test_entries_purged_before_they_were_archived_are_a_hole() -> None:
    async def main() -> None:
        journal, storage = PurgedJournal(), MemoryStorage()
        await journal.ensure(MARKET)
        await journal.append(MARKET, [entry(n) for n in range(50)])
        await archiver(journal, storage).catch_up({MARKET: 20})
        journal.first = 30
        with pytest.raises(HoleInStream, match="13 entries were purged"):
            await archiver(journal, storage).catch_up()
        fresh = MemoryStorage()
        await archiver(journal, fresh).catch_up()
        assert manifest(fresh, "local/kalshi/2026-08-10").ranges[0].first == 30

    asyncio.run(main())


def test_archived_bytes_are_what_the_journal_would_send() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), await journal_of(MARKET, [entry(n) for n in range(60)])
        await archiver(journal, storage).catch_up()
        ours = [encode(r.entry) for r in await everything(ArchiveReader(storage, "local"), MARKET)]
        assert ours == [encode(r.entry) for r in await everything(journal, MARKET)]

    asyncio.run(main())


def test_manifests_are_canonical_json() -> None:
    storage = archived([entry(n) for n in range(40)])
    data = storage.get("local/kalshi/2026-08-10/manifest.json")
    assert msgspec.json.encode(msgspec.json.decode(data), order="sorted") == data
