"""The security master in a real Redis is what the fold makes of the same entries, whatever happens on the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

import journal.cache
from journal.block import Block
from journal.cache import RedisCache
from journal.clock import WallClock
from journal.entry import Entry, Event
from journal.errors import CacheError, CorruptionError
from journal.market import Change, Market, compare
from journal.memory import MemoryJournal
from journal.protocols import CacheChange
from journal.subjects import escape
from projections.projection import Digester
from projections.secmaster import Known, SecmasterProjection, expires_ns
from ssmd import sharing
from ssmd.secmaster.reading import History
from ssmd.secmaster.shared import SharedMarkets
from ssmd.secmaster.stream import change_entry, secmaster
from ssmd.settings import Settings
from ssmd.sharing import SharedView
from ssmd.wiring import open_views
from tests import valkey
from tests.secmaster.listing import HOUR_NS, NOON_NS, SetClock, market

SYMBOLS = ("A", "B-1", "Ω. *")
_serial = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey.Valkey]:
    with valkey.running(tmp_path_factory.mktemp("valkey")) as running:
        yield running


class Killed(Exception):
    """The process is gone."""


class DyingCache(RedisCache):
    """Dies at call number `dies_at` of those that a sink makes: before it, or after it was made."""

    def __init__(self, url: str, dies_at: int = -1, *, after: bool = False) -> None:
        super().__init__(url)
        self.left = dies_at
        self.after = after

    async def _step(self, call: Any) -> Any:
        self.left -= 1
        if self.left == -1 and not self.after:
            call.close()
            raise Killed
        found = await call
        if self.left == -1:
            raise Killed
        return found

    async def get(self, key: str) -> bytes | None:
        return await self._step(super().get(key))  # type: ignore[no-any-return]

    async def fields(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        return await self._step(super().fields(key, names))  # type: ignore[no-any-return]

    async def commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        return await self._step(super().commit(change, guard, expected))  # type: ignore[no-any-return]

    async def flush(self) -> None:
        await self._redis.flushall()

    async def limit(self, size: int) -> None:
        await self._redis.config_set("maxmemory", size)

    async def contents(self) -> dict[str, Any]:
        """Everything there is, by key."""
        found: dict[str, Any] = {}
        async for run in self.keys(""):
            for key in run:
                match (await self._redis.type(key)).decode():
                    case "hash":
                        found[key] = {k.decode(): json.loads(v) for k, v in (await self._redis.hgetall(key)).items()}
                    case "set":
                        found[key] = {m.decode() for m in await self._redis.smembers(key)}
                    case "zset":
                        found[key] = {m.decode(): score for m, score in await self._redis.zrange(key, 0, -1, withscores=True)}
                    case _:
                        found[key] = await self._redis.get(key)
        return found


class Writer:
    """A journal of changes of markets, each following on the last."""

    def __init__(self, env: str) -> None:
        self.env = env
        self.journal = MemoryJournal()
        self.markets: dict[str, Market | None] = {}
        self.frames: dict[str, int] = {}
        self.at = 0
        self.start_ns = NOON_NS + next(_serial) * HOUR_NS

    async def write(self, *markets: Market | str) -> None:
        """Markets as they are now; a name is one that is gone."""
        await self.journal.ensure(secmaster(self.env))
        for new in markets:
            symbol = new if isinstance(new, str) else new.symbol
            for change in compare(self.markets.get(symbol), None if isinstance(new, str) else new, "rest", 0):
                await self.append(change)
            self.markets[symbol] = None if isinstance(new, str) else new

    async def append(self, change: Change) -> None:
        self.at += 1
        frame = self.frames[change.symbol] = self.frames.get(change.symbol, -1) + 1
        ns = self.start_ns + self.at
        entry = change_entry(change, frame, effective_ns=ns, recv_ns=ns, mono_ns=ns, day=20260810, raw=b"{}", who="tests")
        await self.journal.append(secmaster(self.env), [entry])

    def sink(self, cache: RedisCache) -> SharedView:
        history = History(secmaster(self.env), self.journal)
        return SharedView(cache, self.env, SharedMarkets(self.env), history, SetClock(), draw=lambda: f"build-{next(_serial)}")

    async def fold(self) -> SecmasterProjection:
        projection = SecmasterProjection()
        async with aclosing(self.journal.read(secmaster(self.env))) as reads:  # type: ignore[type-var]
            async for records in reads:
                projection.apply(Block.of(records))
        return projection


def expected(env: str, fold: SecmasterProjection) -> dict[str, Any]:
    """The keys that the fold's markets make, each found by looking at all of them."""
    symbols = fold.keys()
    known = {symbol: k for symbol in symbols if (k := fold.known(symbol))}
    there = fold.markets()
    keys: dict[str, Any] = {
        "markets": {s: _shown(k) for s, k in known.items() if k.market},
        "removed": {s: _shown(k) for s, k in known.items() if not k.market},
        "expiring": {s: expires_ns(m) / 1e9 for s, m in there.items() if expires_ns(m) and m.status not in {"settled", "determined"}},
    }
    for index, field in (("by_category", "category"), ("by_series", "series")):
        for value in {getattr(m, field) for m in there.values()} - {""}:
            keys[f"{index}:{escape(value)}"] = {s for s, m in there.items() if getattr(m, field) == value}
    return {f"{env}:secmaster:{name}": parts for name, parts in keys.items() if parts}


def _shown(known: Known) -> dict[str, Any]:
    shown = {"first_ns": known.first_ns, "changed_ns": known.changed_ns, "changes": known.changes}
    return shown if known.market is None else {**shown, "market": json.loads(msgspec.json.encode(known.market))}


async def assert_same(cache: DyingCache, writer: Writer) -> None:
    """Redis has exactly what the fold makes, and its position is the journal's end; so has the digest of what it holds."""
    held = await cache.contents()
    mine = {key: parts for key, parts in held.items() if key.startswith(f"{writer.env}:")}
    position = json.loads(mine.pop(f"{writer.env}:secmaster:position"))
    fold = await writer.fold()
    assert position["sequence"] == writer.at
    assert mine == expected(writer.env, fold)
    again = SecmasterProjection()
    again._known = await SharedMarkets(writer.env).known(cache, fold.keys())
    assert Digester(again).digest() == Digester(fold).digest()


MARKETS = st.builds(
    Market,
    symbol=st.sampled_from(SYMBOLS),
    category=st.sampled_from(("", "Sports", "Climate & Weather:*")),
    series=st.sampled_from(("", "KX", "KX.1")),
    status=st.sampled_from(("active", "determined", "settled")),
    close_ns=st.sampled_from((0, NOON_NS, NOON_NS + HOUR_NS)),
)
STEPS = st.one_of(
    st.tuples(st.just("write"), st.lists(st.one_of(MARKETS, st.sampled_from(SYMBOLS)), min_size=1, max_size=8)),
    st.tuples(st.just("kill"), st.tuples(st.integers(0, 12), st.booleans())),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("fold"), st.none()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=14), run=st.integers(1, 4))
def test_redis_is_the_fold_whatever_is_killed_and_flushed(
    server: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, Any]], run: int
) -> None:
    monkeypatch.setattr(sharing, "RUN", run)

    async def check() -> None:
        writer = Writer(f"e{next(_serial)}")
        cache = DyingCache(server.url)
        for what, how in steps:
            if what == "write":
                await writer.write(*how)
            elif what == "kill":
                dying = DyingCache(server.url, how[0], after=how[1])
                with suppress(Killed):
                    await writer.sink(dying).catch_up()
                await dying.close()
            elif what == "flush":
                await cache.flush()
            else:
                await writer.sink(cache).catch_up()
                await assert_same(cache, writer)
        await writer.sink(cache).catch_up()
        await assert_same(cache, writer)
        await cache.close()

    asyncio.run(check())


def test_two_sinks_and_a_flush_at_once(server: valkey.Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "RUN", 7)

    async def check() -> None:
        writer, caches = Writer("two"), [DyingCache(server.url) for _ in range(3)]
        await writer.write(*(market(n) for n in range(150)), *(market(n, status="settled") for n in range(0, 150, 3)), market(7).symbol)

        async def sink(cache: DyingCache, seed: int) -> int:
            view, rng = writer.sink(cache), random.Random(seed)
            for _ in range(6):
                await view.catch_up()
                await asyncio.sleep(rng.random() / 50)
            return view.folded

        async def flush() -> None:
            for _ in range(4):
                await asyncio.sleep(0.02)
                await caches[2].flush()

        first, second, _ = await asyncio.gather(sink(caches[0], 1), sink(caches[1], 2), flush())
        assert first + second > writer.at  # it was made again
        await writer.sink(caches[0]).catch_up()
        await assert_same(caches[0], writer)
        for cache in caches:
            await cache.close()

    asyncio.run(check())


def test_what_is_of_another_journal_ahead_or_damaged_is_made_again(server: valkey.Valkey) -> None:
    async def check() -> None:
        cache, older, writer = DyingCache(server.url), Writer("again"), Writer("again")
        await older.write(*(market(n) for n in range(30)))
        await older.sink(cache).catch_up()
        await writer.write(market(0, title="Another"), market(1))
        await writer.sink(cache).catch_up()  # it was ahead
        await assert_same(cache, writer)
        longer = Writer("again")
        await longer.write(*(market(n, category="Other") for n in range(5)))
        await longer.sink(cache).catch_up()  # shorter, but with other entries
        await assert_same(cache, longer)
        key, markets = "again:secmaster:position", "again:secmaster:markets"
        for damage in (
            CacheChange(put={key: b"no position"}),
            CacheChange(put={markets: b"no hash"}),
            CacheChange(gone=[markets]),
            CacheChange(fields={markets: {market(2).symbol: b"{}"}}),
            CacheChange(gone=["again:secmaster:expiring"], members={"again:secmaster:expiring": {"x": True}}),
            CacheChange(gone=[key], members={key: {"x": True}}),
        ):
            assert await cache.commit(damage, key, await cache.get(key))
            await longer.write(market(2, category="Other", close_ns=NOON_NS + longer.at * HOUR_NS))
            await longer.sink(cache).catch_up()
            await assert_same(cache, longer)
        await cache.close()

    asyncio.run(check())


def test_a_flushed_server_and_a_journal_without_its_beginning(server: valkey.Valkey) -> None:
    async def check() -> None:
        cache, writer = DyingCache(server.url), Writer("begun")
        await writer.write(*(market(n) for n in range(6)))
        view = writer.sink(cache)
        await view.catch_up()
        await writer.journal.purge(secmaster("begun"), 4)
        await writer.write(market(0, status="settled"))
        await view.catch_up()  # it needs no beginning
        assert json.loads(await cache.get("begun:secmaster:position") or b"")["sequence"] == 7
        await cache.flush()
        await asyncio.wait_for(view.run(), 30)
        assert "there is no archive" in view.status
        await cache.close()

    asyncio.run(check())


def test_a_damaged_journal_is_told_and_not_folded_for_ever(server: valkey.Valkey) -> None:
    async def check() -> None:
        cache, writer = DyingCache(server.url), Writer("damaged")
        await writer.write(market(0))
        await writer.append(Change(change="market_updated", symbol="KXNOBODY", source="rest", fields={"title": ("", "x")}))
        view = writer.sink(cache)
        with pytest.raises(CorruptionError, match="never added"):
            await view.catch_up()
        await asyncio.wait_for(view.run(), 30)
        assert "damaged:secmaster is not kept any more" in view.status
        await cache.close()

    asyncio.run(check())


def test_a_server_that_is_away_is_told_and_caught_up_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "EVERY_S", 0.02)
    monkeypatch.setattr(sharing, "_AGAIN_S", 0.02)

    async def check(server: valkey.Valkey) -> None:
        cache, writer = DyingCache(server.url), Writer("away")
        await writer.write(market(0))
        view = SharedView(
            cache, "away", SharedMarkets("away"), History(secmaster("away"), writer.journal), WallClock(), draw=lambda: f"b{next(_serial)}"
        )
        running = asyncio.create_task(view.run())
        await until(lambda: view.folded == 1)
        server.kill()
        await until(lambda: view.status)
        assert "away:secmaster is not up to date" in view.status
        assert "is it running" in view.status
        await writer.write(market(1), market(0, status="settled"))
        server.start()
        await until(lambda: view.folded == 3 and not view.status)
        await assert_same(cache, writer)
        await cache.flush()  # nothing new is written, and it is made again all the same
        await until(lambda: view.folded == 6)
        await assert_same(cache, writer)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await cache.close()

    with valkey.running(tmp_path) as server:
        asyncio.run(check(server))


def test_a_server_that_is_full_is_told_and_keeps_what_it_has(server: valkey.Valkey) -> None:
    async def check() -> None:
        cache, writer = DyingCache(server.url), Writer("full")
        await writer.write(market(0))
        view = writer.sink(cache)
        await view.catch_up()
        held = await cache.contents()
        await cache.limit(1)
        try:
            await writer.write(market(1), market(0, status="settled"))
            with pytest.raises(CacheError, match="maxmemory"):
                await view.catch_up()
            assert await cache.contents() == held
        finally:
            await cache.limit(0)
        await view.catch_up()
        await assert_same(cache, writer)
        assert view.folded == 3  # it was not begun anew
        await cache.close()

    asyncio.run(check())


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_a_server_that_throws_keys_away_is_told_and_made_again_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "EVERY_S", 0.02)

    async def check(server: valkey.Valkey) -> None:
        cache, writer = DyingCache(server.url), Writer("evicting")
        view = writer.sink(cache)
        view._clock = WallClock()
        await writer.write(*(market(n) for n in range(20)))
        running = asyncio.create_task(view.run())
        await until(lambda: view.folded)
        assert view.status == ""
        await cache._redis.config_set("maxmemory-policy", "volatile-random")
        await cache._redis.expire("evicting:secmaster:markets", 10_000)  # the one key that it may throw away
        await cache.limit(1)
        with suppress(ResponseError):  # it is still too full
            await cache._redis.set("other", "x")
        await cache.limit(0)
        await cache._redis.config_set("maxmemory-policy", "noeviction")
        await until(lambda: view.status)
        assert "evicted" in view.status
        assert "noeviction, then delete evicting:secmaster:position" in view.status
        await cache._redis.delete("evicting:secmaster:position")
        await until(lambda: not view.status)
        await writer.write(market(0, status="settled"))
        folded = view.folded
        await until(lambda: view.folded > folded)
        await assert_same(cache, writer)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await cache.close()

    with valkey.running(tmp_path) as server:
        asyncio.run(check(server))


def test_a_server_that_does_not_answer_for_a_while_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "EVERY_S", 0.02)
    monkeypatch.setattr(sharing, "_AGAIN_S", 0.02)
    monkeypatch.setattr(journal.cache, "_TIMEOUT_S", 0.2)

    async def check(server: valkey.Valkey) -> None:
        cache, writer = DyingCache(server.url), Writer("slow")
        view = writer.sink(cache)
        view._clock = WallClock()
        await writer.write(market(0))
        running = asyncio.create_task(view.run())
        await until(lambda: view.folded == 1)
        await cache._redis.execute_command("CLIENT", "PAUSE", "4000", "ALL")
        await writer.write(market(1))
        await until(lambda: "not up to date" in view.status)
        await until(lambda: not view.status and view.folded == 2)
        await assert_same(cache, writer)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await cache.close()

    with valkey.running(tmp_path) as server:
        asyncio.run(check(server))


def test_without_redis_nothing_is_kept() -> None:
    async def check() -> None:
        async with open_views(Settings(), WallClock(), MemoryJournal()) as views:
            assert views == []

    asyncio.run(check())


def test_other_events_move_the_position_only(server: valkey.Valkey) -> None:
    async def check() -> None:
        cache, writer = DyingCache(server.url), Writer("others")
        await writer.sink(cache).catch_up()  # of a stream that is not there yet
        await assert_same(cache, writer)
        await writer.write(market(0))
        now_ns = writer.start_ns + 9
        entry = Entry(Event("syncs", b"{}", "tests"), "secmaster", "kalshi", b"s" * 16, 0, now_ns, 1, now_ns, 20260810)
        await writer.journal.append(secmaster("others"), [entry])
        writer.at += 1
        await writer.sink(cache).catch_up()
        await assert_same(cache, writer)
        await cache.close()

    asyncio.run(check())
