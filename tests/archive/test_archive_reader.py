"""The archive is a journal that is only read: the same contract, and hashes that are believed by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.archive import ArchiveReader, rebuild
from journal.clock import WallClock
from journal.codec import encode
from journal.entry import Change, Control, Delta, Entry, Gap, Kind, Record
from journal.errors import BadObject, CallerError, HoleInStream, NotFound
from journal.memory import MemoryJournal, MemoryStorage
from journal.protocols import JournalReader, Storage
from journal.s3 import S3Storage
from journal.segment import Limits
from journal.storage import LocalStorage
from journal.subjects import Stream
from ssmd.services.archiver import Archiver
from tests import ministack
from tests.journal.contract import ReaderContract
from tests.strategies import entries

STREAM = Stream("local", shard="0")
SMALL = Limits(entries=16, raw_bytes=1_000, block_rows=5, raw_frame_bytes=100)
DAY = 20260810


async def archive(storage: Storage, stream: Stream, stored: Sequence[Entry]) -> MemoryJournal:
    journal = MemoryJournal()
    await journal.ensure(stream)
    for at in range(0, len(stored), 500):
        await journal.append(stream, stored[at : at + 500])
    await Archiver(journal, storage, stream.env, WallClock(), limits=SMALL).catch_up()
    return journal


def entry(n: int, *, day: int = DAY, symbol: str | None = None, raw: bytes = b"{}", **more: Any) -> Entry:
    name = f"S{n % 3}" if symbol is None else symbol
    return Entry(Delta((Change(n, 1, 0, 0),)), "kalshi", name, bytes(16), n, n, 0, 10 * n, day, raw=raw, **more)


async def everything(reader: Any, stream: Stream, **how: Any) -> list[Record]:
    return [r async for records in reader.read(stream, **how) for r in records]


class TestArchiveInMemory(ReaderContract):
    @asynccontextmanager
    async def reading(self, stream: Stream, stored: Sequence[Entry]) -> AsyncIterator[JournalReader]:
        storage = MemoryStorage()
        await archive(storage, stream, stored)
        yield ArchiveReader(storage, stream.env)


class TestArchiveOnDisk(ReaderContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._root = tmp_path

    @asynccontextmanager
    async def reading(self, stream: Stream, stored: Sequence[Entry]) -> AsyncIterator[JournalReader]:
        await archive(LocalStorage(self._root), stream, stored)
        yield ArchiveReader(LocalStorage(self._root), stream.env)


class TestArchiveInS3(ReaderContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with ministack.running(tmp_path_factory.mktemp("s3")) as server:
            server.make_bucket("archive")
            cls._endpoint = server.endpoint
            yield

    _endpoint = ""

    @asynccontextmanager
    async def reading(self, stream: Stream, stored: Sequence[Entry]) -> AsyncIterator[JournalReader]:
        storage = S3Storage("archive", stream.env, endpoint=self._endpoint, region="us-east-1", **ministack.CREDENTIALS)
        await archive(storage, stream, stored)
        yield ArchiveReader(storage, stream.env)


def by_id(items: list[Entry]) -> list[Entry]:
    """A journal keeps one entry an id."""
    return list({e.id: e for e in items}.values())


@given(st.lists(entries, min_size=1, max_size=25).map(by_id), st.sampled_from([0, DAY, 2**32 - 4]))
@settings(max_examples=60)
def test_any_entry_comes_back_byte_for_byte(stored: list[Entry], day: int) -> None:
    stored = [e for e in stored if e.day > 1_01_01] or [entry(1)]

    async def main() -> None:
        dated = [msgspec.structs.replace(e, day=day + n // 9) for n, e in enumerate(stored)]
        storage = MemoryStorage()
        journal = await archive(storage, STREAM, dated)
        reader = ArchiveReader(storage, "local")
        found = await everything(reader, STREAM)
        assert found == await everything(journal, STREAM)
        again = MemoryJournal()
        assert await rebuild(reader, again, STREAM) == len(dated)
        assert [encode(r.entry) for r in await everything(again, STREAM)] == [encode(e) for e in dated]
        assert await rebuild(reader, again, STREAM) == len(dated)  # a second time changes nothing
        assert len(await everything(again, STREAM)) == len(dated)

    asyncio.run(main())


def test_frames_of_many_parts_across_cuts() -> None:
    stored = []
    for frame in range(20):
        raw = b'{"frame":%d}' % frame
        hashed = blake2b(raw, digest_size=32).digest()
        for part in range(7):
            more: dict[str, Any] = {"raw": b"", "raw_hash": hashed} if part else {"raw": raw}
            stored.append(entry(frame, part=part, parts=7, **more))

    async def main() -> None:
        storage = MemoryStorage()
        journal = await archive(storage, STREAM, stored)
        reader = ArchiveReader(storage, "local")
        for start in range(1, 20):
            assert await everything(reader, STREAM, start=start, end=start + 40) == await everything(
                journal, STREAM, start=start, end=start + 40
            )

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["norm", "raw"])
@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_an_object_that_is_not_what_the_manifest_says_is_named(kind: str, damage: str) -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(n) for n in range(40)])
        keys = [o.key for o in storage.list("") if f"/{kind}/" in o.key]
        data = storage.get(keys[1])
        flipped = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        storage.put(keys[1], {"flip": flipped, "cut": data[:-1], "other": storage.get(keys[0])}[damage])
        reader = ArchiveReader(storage, "local")
        with pytest.raises(BadObject, match=keys[1].rpartition("/")[2].replace(".", r"\.")):
            await everything(reader, STREAM)
        assert len(await everything(reader, STREAM, end=16)) == 16
        if kind == "raw":  # folds need no raw bytes
            assert sum([len(b) async for b in reader.blocks(STREAM)]) == 40
            with pytest.raises(BadObject, match="not what its manifest says"):
                await reader.prove(STREAM, DAY)
            storage.delete(keys[1])
            with pytest.raises(BadObject, match="a manifest names it"):
                await reader.prove(STREAM, DAY)

    asyncio.run(main())


def test_an_object_that_is_missing_is_named() -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(n) for n in range(40)])
        key = next(o.key for o in storage.list("") if "/norm/" in o.key)
        storage.delete(key)
        with pytest.raises(BadObject, match="a manifest names it"):
            await everything(ArchiveReader(storage, "local"), STREAM)

    asyncio.run(main())


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format":1}', b"[]"])
def test_a_damaged_manifest_is_named(damage: bytes) -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(1)])
        storage.put("local/kalshi/2026-08-10/manifest.json", damage)
        with pytest.raises(BadObject, match=r"2026-08-10/manifest\.json is not a manifest"):
            await everything(ArchiveReader(storage, "local"), STREAM)

    asyncio.run(main())


@pytest.mark.parametrize(
    "lie",
    [{"last": 12}, {"first": 3}, {"entries": 15}, {"raw": None}, {"max_effective_ns": 1}, {"min_effective_ns": 1}],
    ids=lambda lie: next(iter(lie)),
)
def test_a_manifest_that_was_changed_is_named(lie: dict[str, Any]) -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(n) for n in range(16)])
        key = "local/kalshi/2026-08-10/manifest.json"
        told = msgspec.json.decode(storage.get(key))
        told["segments"][0] |= lie
        storage.put(key, msgspec.json.encode(told))
        with pytest.raises(BadObject, match="was changed"):
            assert [block async for block in ArchiveReader(storage, "local").blocks(STREAM, day=DAY)]

    asyncio.run(main())


@pytest.mark.parametrize("missing", ["segment", "day"])
def test_a_hole_between_segments_is_no_shorter_history(missing: str) -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(n, day=DAY + n // 40) for n in range(120)])
        key = "local/kalshi/2026-08-11/manifest.json"
        told = msgspec.json.decode(storage.get(key))
        assert len(told["segments"]) == 3
        del told["segments"][1]
        storage.put(key, msgspec.json.encode(told))
        if missing == "day":
            storage.delete(key)
        reader = ArchiveReader(storage, "local")
        for attempt in (reader.info(STREAM), reader.days(STREAM), everything(reader, STREAM)):
            with pytest.raises(HoleInStream, match="a manifest was changed or deleted"):
                await attempt
        journal = MemoryJournal()
        await journal.ensure(STREAM)
        with pytest.raises(HoleInStream, match="restore it"):  # nor does an archiver go on behind it
            await Archiver(journal, storage, "local", WallClock(), limits=SMALL).catch_up()

    asyncio.run(main())


def test_a_newer_format_asks_for_a_newer_program() -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(1)])
        key = "local/kalshi/2026-08-10/manifest.json"
        storage.put(key, storage.get(key).replace(b'"format":1', b'"format":2'))
        with pytest.raises(BadObject, match="newer ssmd"):
            await everything(ArchiveReader(storage, "local"), STREAM)

    asyncio.run(main())


def test_unknown_days_and_streams_list_the_nearest() -> None:
    async def main() -> None:
        storage = MemoryStorage()
        await archive(storage, STREAM, [entry(n, day=DAY + n) for n in range(9)])
        reader = ArchiveReader(storage, "local")
        with pytest.raises(NotFound) as missing:
            await reader.manifest(STREAM, 20260825)
        assert missing.value.nearest[0] in {f"2026-08-{d}" for d in (14, 15, 16, 17, 18)}
        with pytest.raises(NotFound, match="2026-08-10"):
            [b async for b in reader.blocks(STREAM, day=20260809)]
        with pytest.raises(NotFound, match="local_md_0"):
            await reader.manifest(Stream("local", shard="east"), DAY)

    asyncio.run(main())


class RacingStorage(MemoryStorage):
    """Calls `meanwhile` once, before the first norm object is read."""

    meanwhile: Any = None

    def get(self, key: str) -> bytes:
        if "/norm/" in key and self.meanwhile:
            act, self.meanwhile = self.meanwhile, None
            act()
        return super().get(key)


def test_a_tail_that_is_replaced_while_it_is_read() -> None:
    async def main() -> None:
        storage, journal = RacingStorage(), MemoryJournal()
        await journal.ensure(STREAM)
        archiver = Archiver(journal, storage, "local", WallClock(), limits=SMALL)
        await journal.append(STREAM, [entry(n) for n in range(20)])
        await archiver.catch_up()
        await journal.append(STREAM, [entry(n) for n in range(20, 50)])
        loop = asyncio.get_running_loop()
        storage.meanwhile = lambda: asyncio.run_coroutine_threadsafe(archiver.catch_up(), loop).result()
        assert [r.sequence for r in await everything(ArchiveReader(storage, "local"), STREAM)] == list(range(1, 51))

    asyncio.run(main())


def test_follows_what_is_archived_later() -> None:
    async def main() -> None:
        storage, journal = MemoryStorage(), MemoryJournal()
        await journal.ensure(STREAM)
        archiver = Archiver(journal, storage, "local", WallClock(), limits=SMALL)
        await journal.append(STREAM, [entry(n) for n in range(20)])
        await archiver.catch_up()
        with pytest.raises(CallerError, match="no clock"):
            await everything(ArchiveReader(storage, "local"), STREAM, follow=True)
        following = asyncio.create_task(everything(ArchiveReader(storage, "local", WallClock()), STREAM, end=30, follow=True))
        await asyncio.sleep(0.1)
        await journal.append(STREAM, [entry(n) for n in range(20, 40)])
        await archiver.catch_up()
        assert [r.sequence for r in await following] == list(range(1, 31))

    asyncio.run(main())


def test_blocks_of_some_symbols_keep_what_concerns_all() -> None:
    def body(n: int) -> Entry:
        e = entry(n)
        return e if n % 10 else Entry((Gap("x"), Control("closed"))[n % 20 == 0], e.feed, "", e.epoch, n, n, 0, 10 * n, DAY)

    async def main() -> None:
        storage = MemoryStorage()
        journal = await archive(storage, STREAM, [body(n) for n in range(100)])
        reader = ArchiveReader(storage, "local")
        found = [r async for b in reader.blocks(STREAM, day=DAY, start=12, end=80, symbols=["S1"]) for r in b.records()]
        assert [r.sequence for r in found] == [
            r.sequence
            for r in await everything(journal, STREAM, start=12, end=80)
            if r.entry.symbol == "S1" or r.entry.kind in (Kind.gap, Kind.control)
        ]

    asyncio.run(main())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(-1, 200))
@settings(max_examples=50)
def test_seeks_as_the_journal_does(steps: list[int], effective_ns: int) -> None:
    async def main() -> None:
        at, stored = 0, []
        for n, step in enumerate(steps):
            at += step
            stored.append(Entry(Control("x"), "kalshi", "", bytes(16), n, at, 0, at, DAY))
        storage = MemoryStorage()
        journal = await archive(storage, STREAM, stored)
        assert await ArchiveReader(storage, "local").seek(STREAM, effective_ns) == await journal.seek(STREAM, effective_ns)

    asyncio.run(main())
