"""What programs find in the cache is what the view is at the position there, whoever wrote it and however often it was killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.cache import RedisCache
from journal.clock import WallClock
from journal.memory import MemoryJournal, MemoryStorage
from journal.protocols import CacheChange
from ssmd.gateway.shared import TYPES, SharedQuotes
from ssmd.gateway.view import MarketView
from tests import valkey
from tests.gateway.rig import STREAM, Market

FEED = "kalshi"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey.Valkey]:
    with valkey.running(tmp_path_factory.mktemp("valkey")) as running:
        yield running


class Killed(Exception):
    """The process is gone."""


class DyingCache(RedisCache):
    """Dies at commit number `dies_at`, before it or after it was made."""

    def __init__(self, url: str, dies_at: int = -1, *, after: bool = False) -> None:
        super().__init__(url)
        self.left, self.after = dies_at, after

    async def commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        self.left -= 1
        if self.left == -1 and not self.after:
            raise Killed
        done = await super().commit(change, guard, expected)
        if self.left == -1:
            raise Killed
        return done

    async def flush(self) -> None:
        await self._redis.flushall()


class Rig:
    """A journal, and gateways' views of it as they come."""

    def __init__(self, symbols: int = 12) -> None:
        self.journal, self.market = MemoryJournal(), Market(random.Random(7), symbols)
        self._builds = itertools.count()

    async def write(self, count: int) -> None:
        await self.journal.append(STREAM, self.market.run(count))

    async def view(self, upto: int | None = None, recent: int = 50_000) -> MarketView:
        view = MarketView(STREAM, FEED, recent=recent)
        await view.start(self.journal, MemoryStorage(), upto=upto)
        return view

    async def advance(self, view: MarketView) -> None:
        """As `follow` does."""
        from ssmd.gateway.view import block_of

        async for records in self.journal.read(STREAM, start=view.position + 1):
            view.recent.add(view.changes(block_of(records)))
            view._newest = records[-1]

    async def follow(self, sink: SharedQuotes, cache: RedisCache, view: MarketView) -> None:
        for _ in range(20):
            await sink.catch_up()
            await self.assert_whole(cache)
            await self.write(20)
            await self.advance(view)

    def sink(self, cache: RedisCache, view: MarketView) -> SharedQuotes:
        return SharedQuotes(cache, FEED, [view], self.journal, WallClock(), at=0, draw=lambda: str(next(self._builds)))

    async def assert_whole(self, cache: RedisCache) -> int:
        """The cache has what a view has that was folded to the position there; that position."""
        found = {}
        async for run in cache.keys(f"local:{FEED}:"):
            for key in run:
                found[key] = json.loads(await cache.get(key) or b"null")
        position = found.pop(f"local:{FEED}:position:0")["sequence"]
        assert position
        view = await self.view(upto=position)
        sink = self.sink(cache, view)
        want = {sink.key(*t): json.loads(v) for t in itertools.product(TYPES, view.symbols()) if (v := sink._value(t))}
        assert _plain(found) == _plain(want)
        return int(position)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without the positions of messages, which say when a gateway saw a topic change first."""
    return {key: {k: v for k, v in value.items() if not k.endswith("position")} for key, value in values.items()}


def test_it_follows_conflated_and_other_gateways_go_on(server: valkey.Valkey) -> None:
    async def check() -> None:
        rig, cache = Rig(), DyingCache(server.url)
        await cache.flush()
        await rig.journal.ensure(STREAM, FEED)
        await rig.write(300)
        first = await rig.view()
        one = rig.sink(cache, first)
        assert await one.catch_up() == ""
        assert await rig.assert_whole(cache) == 300
        second = await rig.view()
        two = rig.sink(cache, second)
        for turn in range(12):
            await rig.write(random.Random(turn).randrange(1, 40))
            for view, sink in ((first, one), (second, two))[:: 1 if turn % 3 else -1]:
                if turn % 4 or view is first:
                    await rig.advance(view)
                assert await sink.catch_up() == ""
                await rig.assert_whole(cache)
        built = one.written
        assert two.written, "the second one wrote, too"
        await rig.write(1)
        await rig.advance(first)
        assert await one.catch_up() == ""
        assert one.written - built <= 4, "only what changed is written"
        await cache.close()

    asyncio.run(check())


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_it_is_whole_as_of_its_position_or_says_that_it_is_not(server: valkey.Valkey, after: bool) -> None:
    async def check() -> None:
        rig = Rig()
        await rig.journal.ensure(STREAM, FEED)
        await rig.write(200)
        for dies_at in range(5):
            cache = DyingCache(server.url, dies_at, after=after)
            await cache.flush()
            view = await rig.view()
            sink = rig.sink(cache, view)
            with pytest.raises(Killed):
                await rig.follow(sink, cache, view)
            held = json.loads(await cache.get(sink.key("position", "0")) or b"{}")
            if held.get("sequence"):
                await rig.assert_whole(cache)
            heir = rig.sink(cache, await rig.view())
            if held and not held["sequence"]:
                assert await heir.catch_up() == "another gateway is making it"
                heir._foreign = heir._foreign[0], heir._foreign[1] - 11 * 10**9
            assert await heir.catch_up() == ""
            assert await rig.assert_whole(cache) == heir._view.position
            await cache.close()

    asyncio.run(check())


def test_flushed_or_of_another_journal_or_too_far_behind_it_is_made_again(server: valkey.Valkey) -> None:
    async def check() -> None:
        rig, cache = Rig(), DyingCache(server.url)
        await cache.flush()
        await rig.journal.ensure(STREAM, FEED)
        await rig.write(300)
        view = await rig.view(recent=50)
        sink = rig.sink(cache, view)
        await sink.catch_up()
        await cache.flush()
        assert await sink.catch_up() == ""
        await rig.assert_whole(cache)
        await rig.write(200)  # more than the view remembers
        await rig.advance(view)
        assert view.recent.since > 300
        assert await sink.catch_up() == ""
        assert await rig.assert_whole(cache) == 500
        other = Rig(symbols=3)
        other.market = Market(random.Random(8), 3)
        await other.journal.ensure(STREAM, FEED)
        await other.write(600)
        assert await other.sink(cache, await other.view()).catch_up() == ""
        assert await other.assert_whole(cache) == 600  # no symbol of the first journal is left
        await cache.close()

    asyncio.run(check())


@pytest.mark.parametrize("value", [b'{"stream":"\xff","version":1,"build":"x"}', b'{"x":' + b"[" * 200_000, b"9" * 5_000, b'{"stream":1}'])
def test_whatever_another_program_writes_there_is_replaced(server: valkey.Valkey, value: bytes) -> None:
    """None of it ends the gateway, which it did."""

    async def check() -> None:
        rig, cache = Rig(symbols=3), DyingCache(server.url)
        await cache.flush()
        await rig.journal.ensure(STREAM, FEED)
        await rig.write(50)
        sink = rig.sink(cache, await rig.view())
        for _ in range(2):
            await cache.commit(CacheChange(put={sink.key("position", STREAM.shard): value}), "none", None)
            assert await sink.catch_up() == ""
            assert await rig.assert_whole(cache) == 50
        await cache.close()

    asyncio.run(check())


def test_what_changes_while_it_is_written_is_in_it(server: valkey.Valkey) -> None:
    """A view that moves whenever others have their turn."""

    class Busy(WallClock):
        async def sleep(self, seconds: float) -> None:
            del seconds
            if rig.market is not None and (await rig.journal.info(STREAM)).last < 4_000:  # type: ignore[union-attr]
                await rig.write(7)
                await rig.advance(view)

    rig = Rig(symbols=60)

    async def start() -> MarketView:
        await rig.journal.ensure(STREAM, FEED)
        await rig.write(1_000)
        return await rig.view()

    async def check() -> None:
        cache = DyingCache(server.url)
        await cache.flush()
        sink = SharedQuotes(cache, FEED, [view], rig.journal, Busy(), at=0, draw=lambda: "busy")
        for _ in range(5):
            assert await sink.catch_up() == ""
            assert await rig.assert_whole(cache) == view.position
            await rig.write(300)
            await rig.advance(view)
        await cache.close()

    view = asyncio.run(start())
    asyncio.run(check())


def test_a_server_that_is_away_is_told_and_caught_up_with(tmp_path: Path) -> None:
    async def check(server: valkey.Valkey) -> None:
        rig, cache = Rig(), DyingCache(server.url)
        await rig.journal.ensure(STREAM, FEED)
        await rig.write(100)
        view = await rig.view()
        sink = rig.sink(cache, view)
        running = asyncio.create_task(sink.run())
        await until(lambda: sink.check().good)
        server.kill()
        await until(lambda: not sink.check().good)
        assert not sink.check().needed
        assert "the cache does not answer" in sink.check().reason
        await rig.write(50)
        await rig.advance(view)
        server.start()
        await until(lambda: sink.check().good)
        assert await rig.assert_whole(cache) == 150
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await cache.close()

    with valkey.running(tmp_path) as server:
        asyncio.run(check(server))


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
