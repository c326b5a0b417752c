"""Streams as wanted and as they are: what is changed, what is refused, what deleting and purging leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from journal import streams
from journal.clock import WallClock
from journal.errors import HoleInStream, JournalRefused, NotFound
from journal.jetstream import JetStreamJournal
from journal.link import ApiError
from journal.memory import MemoryJournal
from journal.protocols import Keeper
from journal.subjects import Stream
from tests.journal.contract import entries, new_stream, opener, read_all, sequences
from tests.journal.servers import TOKEN, NatsServer, nats_server

FEED = "kalshi"
MIB = 1 << 20
WINDOW_S = 0.1  # the least JetStream takes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@asynccontextmanager
async def connected(server: NatsServer, **how: Any) -> AsyncIterator[JetStreamJournal]:
    journal = await JetStreamJournal.connect(server.url, WallClock(), token=TOKEN, **how)
    try:
        yield journal
    finally:
        await journal.close()


@asynccontextmanager
async def keeper(kind: str, server: NatsServer) -> AsyncIterator[Keeper]:
    if kind == "memory":
        yield MemoryJournal()
    else:
        async with connected(server, duplicate_window_s=WINDOW_S) as journal:
            yield journal


@pytest.fixture(params=["memory", "jetstream"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_new_stream_is_as_wanted(kind: str, server: NatsServer) -> None:
    async def check() -> None:
        async with keeper(kind, server) as journal:
            for stream in (new_stream(), Stream(new_stream().env, shard="import"), Stream(new_stream().env, domain="system")):
                assert await journal.changes(stream, FEED) is None
                with pytest.raises(NotFound):
                    await journal.update(stream, FEED)
                await journal.ensure(stream, FEED)
                assert await journal.changes(stream, FEED) == []
                await journal.update(stream, FEED)

    asyncio.run(check())


def test_settings_that_can_be_changed_are(server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with connected(server, max_stream_bytes=64 * MIB, duplicate_window_s=60) as before:
            await before.ensure(stream, FEED)
            await before.append(stream, [opener(), *entries(1, 20)])
            await before._link.api(
                f"STREAM.UPDATE.{stream.name}",
                {
                    **streams.wanted(stream, FEED, replicas=1, max_bytes=64 * MIB), "max_age": 3600 * 10**9, "discard": "old",
                    "allow_atomic": False, "description": "theirs",
                },
            )  # fmt: skip
        async with connected(server) as journal:
            changes = await journal.changes(stream, "kraken", max_bytes=128 * MIB)
            assert changes is not None
            assert {c.setting for c in changes} == {"max_age", "discard", "allow_atomic", "max_bytes", "subjects"}
            assert not any(c.refused for c in changes)
            await journal.update(stream, "kraken", max_bytes=128 * MIB)
            assert await journal.changes(stream, "kraken", max_bytes=128 * MIB) == []
            found = await journal._link.api(f"STREAM.INFO.{stream.name}")
            assert found["config"]["description"] == "theirs", "what we have no opinion of stays"
            assert len(await read_all(journal, stream)) == 21

    asyncio.run(check())


def test_what_cannot_be_changed_is_refused_by_name(server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with connected(server) as journal:
            config = streams.wanted(stream, FEED, replicas=1, max_bytes=MIB)
            await journal._link.api(f"STREAM.CREATE.{stream.name}", {**config, "storage": "memory", "retention": "workqueue"})
            changes = await journal.changes(stream, FEED)
            assert changes is not None
            assert {c.setting: bool(c.refused) for c in changes} == {"storage": True, "retention": True}
            with pytest.raises(JournalRefused, match=r"retention is workqueue, not limits: .*; storage is memory, not file"):
                await journal.update(stream, FEED)
            assert await journal.changes(stream, FEED) == changes
            # As it says, so it is.
            present = (await journal._link.api(f"STREAM.INFO.{stream.name}"))["config"]
            for change in changes:
                with pytest.raises(ApiError, match="10052"):
                    await journal._link.api(f"STREAM.UPDATE.{stream.name}", streams.merged(present, [change]))

    asyncio.run(check())


def test_a_stream_that_forgets_what_nobody_waits_for_becomes_one_that_keeps(server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with connected(server) as journal:
            config = streams.wanted(stream, FEED, replicas=1, max_bytes=MIB)
            await journal._link.api(f"STREAM.CREATE.{stream.name}", {**config, "retention": "interest", "discard": "old"})
            await journal.update(stream, FEED)
            await journal.append(stream, [opener(), *entries(1, 3)])
            assert await sequences(journal, stream) == [1, 2, 3, 4]

    asyncio.run(check())


def test_never_smaller_than_what_is_stored(server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with connected(server) as journal:
            await journal.ensure(stream, FEED)
            await journal.append(stream, [opener(), *entries(1, 500)])
            info = await journal.info(stream)
            assert info is not None
            with pytest.raises(JournalRefused, match="bytes are stored"):
                await journal.update(stream, FEED, max_bytes=info.bytes - 1)
            assert [r.sequence for r in await read_all(journal, stream)] == list(range(1, 502))
            await journal.update(stream, FEED, max_bytes=info.bytes + MIB)
            assert len(await read_all(journal, stream)) == 501

    asyncio.run(check())


def test_a_deleted_stream_is_gone_and_can_be_made_anew(kind: str, server: NatsServer) -> None:
    async def check() -> None:
        stream, other = new_stream(), new_stream()
        async with keeper(kind, server) as journal:
            for one in (stream, other):
                await journal.ensure(one, FEED)
                await journal.append(one, [opener(), *entries(1, 5)])
            await journal.delete(stream)
            await journal.delete(stream)
            assert await journal.info(stream) is None
            assert await journal.streams(stream.env) == []
            await journal.ensure(stream, FEED)
            assert await journal.append(stream, [opener(), *entries(1, 3)]) == [1, 2, 3, 4]
            assert await sequences(journal, other) == [1, 2, 3, 4, 5, 6]

    asyncio.run(check())


def test_purging_keeps_the_sequences_of_the_rest(kind: str, server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with keeper(kind, server) as journal:
            await journal.ensure(stream, FEED)
            await journal.append(stream, [opener(), *entries(1, 9)])
            before = await journal.info(stream)
            await journal.purge(stream, 1)
            assert await journal.info(stream) == before
            await journal.purge(stream, 5)
            await journal.purge(stream, 3)
            info = await journal.info(stream)
            assert info is not None
            assert before is not None
            assert (info.first, info.last) == (5, 10)
            assert 0 < info.bytes < before.bytes
            with pytest.raises(HoleInStream, match="begins at 5"):
                await read_all(journal, stream)
            assert await sequences(journal, stream, start=5) == [5, 6, 7, 8, 9, 10]
            assert await sequences(journal, stream, subjects=[stream.subject("*", "*", "KXGOLD-26.5").replace("%2A", "*")]) == list(
                range(5, 11)
            )
            assert await journal.last(stream, stream.subject(FEED, "control", f"epoch-{opener().epoch.hex()}")) is None
            assert await journal.seek(stream, 0) == 5
            assert await journal.append(stream, entries(10, 11)) == [11, 12]

    asyncio.run(check())


def test_purging_everything_goes_on_behind_it(kind: str, server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with keeper(kind, server) as journal:
            await journal.ensure(stream, FEED)
            await journal.append(stream, [opener(), *entries(1, 3)])
            await journal.purge(stream, 5)
            info = await journal.info(stream)
            assert info is not None
            assert (info.first, info.last) == (5, 4)
            assert await journal.append(stream, entries(4, 5)) == [5, 6]
            # What was purged may come again, as another fact, once the server's dedupe window has passed.
            await asyncio.sleep(2 * WINDOW_S)
            assert await journal.append(stream, entries(2, 3)) == [7, 8]

    asyncio.run(check())


def test_an_empty_stream_can_begin_anywhere(kind: str, server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with keeper(kind, server) as journal:
            await journal.ensure(stream, FEED)
            await journal.purge(stream, 152)
            info = await journal.info(stream)
            assert info is not None
            assert (info.first, info.last) == (152, 151)
            assert await journal.append(stream, [opener(), *entries(1, 3)]) == [152, 153, 154, 155]
            assert await sequences(journal, stream, start=152) == [152, 153, 154, 155]
            assert await journal.seek(stream, 2_000) == 155
            with pytest.raises(HoleInStream):
                await read_all(journal, stream)

    asyncio.run(check())


def test_followers_are_counted_while_they_wait(kind: str, server: NatsServer) -> None:
    async def check() -> None:
        stream = new_stream()
        async with keeper(kind, server) as journal:
            assert await journal.followers(stream) == 0
            await journal.ensure(stream, FEED)
            assert await journal.followers(stream) == 0
            following = asyncio.create_task(_follow(journal, stream))
            async with asyncio.timeout(10):
                while not await journal.followers(stream):  # noqa: ASYNC110  (a server tells nobody)
                    await asyncio.sleep(0.02)
            following.cancel()
            await asyncio.wait([following])
            async with asyncio.timeout(10):
                while await journal.followers(stream):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    asyncio.run(check())


async def _follow(journal: Keeper, stream: Stream) -> None:
    async for _ in journal.read(stream, follow=True):
        pass
