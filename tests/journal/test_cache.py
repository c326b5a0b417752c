"""One contract for every cache: memory, Redis on a real server, and the one that keeps nothing, which is a cache that forgets at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.cache import BATCH, CACHES, MAX_VALUE_BYTES, MemoryCache, RedisCache, cache_key, open_cache, prefix_of
from journal.errors import BadObject, BadSubject, CacheError, CallerError
from journal.protocols import Cache, CacheChange
from tests import valkey

PASSWORD = "a-password-of-the-tests"
_serial = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey.Valkey]:
    with valkey.running(tmp_path_factory.mktemp("valkey"), password=PASSWORD) as running:
        yield running


@asynccontextmanager
async def opened(kind: str, server: valkey.Valkey) -> AsyncIterator[Cache]:
    cache = open_cache(kind, server.url if kind == "redis" else "", PASSWORD if kind == "redis" else None)
    try:
        yield cache
    finally:
        await cache.close()


KEEPS = {"memory", "redis"}


@pytest.fixture(params=list(CACHES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def listed(cache: Cache, prefix: str) -> set[str]:
    return {key async for run in cache.keys(prefix) for key in run}


def fresh() -> str:
    """An environment nobody else uses: tests share the server."""
    return f"e{next(_serial)}"


def test_what_was_put_is_there_and_replaced(kind: str, server: valkey.Valkey) -> None:
    async def check() -> None:
        async with opened(kind, server) as cache:
            key, other = (cache_key(fresh(), "book", "KX/GOLD.5 *?[x]\\") for _ in range(2))
            await cache.put({key: b"one", other: b"\x00\xff"})
            await cache.put({key: b""})
            expected = (b"", b"\x00\xff", None) if kind in KEEPS else (None, None, None)
            assert (await cache.get(key), await cache.get(other), await cache.get(f"{key}x")) == expected
            assert await cache.evicted() == 0
            await cache.ping()

    asyncio.run(check())


def test_more_than_a_batch(kind: str, server: valkey.Valkey) -> None:
    async def check() -> None:
        async with opened(kind, server) as cache:
            env = fresh()
            values = {cache_key(env, "book", str(n)): b"%d" % n for n in range(3 * BATCH + 7)}
            await cache.put(values)
            kept = set(values) if kind in KEEPS else set()
            assert await listed(cache, prefix_of(env)) == kept
            assert await cache.delete_prefix(prefix_of(env)) == len(kept)
            assert await cache.delete_prefix(prefix_of(env)) == 0

    asyncio.run(check())


NAMES = st.sampled_from(["kalshi", "kalshi-dev", "kalshi-d", "a", "a-b", "a-", "ab"])
SYMBOLS = st.text(st.sampled_from("aA*?[]\\^-:%._ é"), max_size=4)


@settings(max_examples=40)
@given(keys=st.sets(st.tuples(NAMES, SYMBOLS), max_size=20), gone=NAMES)
def test_deleting_an_environment_leaves_the_others(server: valkey.Valkey, keys: set[tuple[str, str]], gone: str) -> None:
    async def check(kind: str) -> None:
        async with opened(kind, server) as cache:
            for env in {env for env, _ in keys} | {gone}:
                await cache.delete_prefix(prefix_of(env))
            values = {cache_key(env, "book", symbol): symbol.encode() for env, symbol in keys}
            assert len(values) == len(keys)
            await cache.put(values)
            mine = {cache_key(env, "book", symbol) for env, symbol in keys if env == gone}
            kept = mine if kind in KEEPS else set()
            assert await listed(cache, prefix_of(gone)) == kept
            assert await cache.delete_prefix(prefix_of(gone)) == len(kept)
            for key, value in values.items():
                assert await cache.get(key) == (None if key in mine or kind not in KEEPS else value)

    for kind in CACHES:
        asyncio.run(check(kind))


def test_a_prefix_is_no_pattern(kind: str, server: valkey.Valkey) -> None:
    async def check() -> None:
        async with opened(kind, server) as cache:
            env = fresh()
            await cache.put({cache_key(env, "book"): b"x"})
            for pattern in ("*", f"{env[0]}*", f"{env}?", f"[{env[0]}]{env[1:]}:", f"{env}\\"):
                assert await cache.delete_prefix(pattern) == 0
            assert await cache.get(cache_key(env, "book")) == (b"x" if kind in KEEPS else None)

    asyncio.run(check())


KEYS, PARTS = ("a", "b", "c"), ("x", "é *", "")
Held = dict[str, tuple[str, dict[str, object]]]


def after(held: Held, change: CacheChange) -> Held | None:
    """What a cache that held `held` holds then; None if a key has parts of another kind."""
    held = {key: of for key, of in held.items() if key not in change.gone}
    for kind in ("fields", "members", "scores"):
        for key, named in getattr(change, kind).items():
            what, parts = held.pop(key, (kind, {}))
            if what != kind:
                return None
            parts = {name: part for name, part in {**parts, **named}.items() if part is not None and part is not False}
            if parts:
                held[key] = (kind, parts)
    return held


def changes(env: str) -> st.SearchStrategy[CacheChange]:
    keys = st.sampled_from([cache_key(env, key) for key in KEYS])

    def of(parts: st.SearchStrategy[Any]) -> Any:
        return st.dictionaries(keys, st.dictionaries(st.sampled_from(PARTS), parts, min_size=1), max_size=2)

    return st.builds(
        CacheChange,
        gone=st.lists(keys, max_size=2),
        fields=of(st.none() | st.binary(max_size=3)),
        members=of(st.booleans()),
        scores=of(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changes_are_whole_or_not_at_all(server: valkey.Valkey, data: st.DataObject) -> None:
    env = fresh()
    steps = data.draw(st.lists(st.tuples(changes(env), st.booleans()), max_size=8))
    guard = cache_key(env, "position")

    async def check(kind: str) -> None:
        held: Held = {}
        value: bytes | None = None
        async with opened(kind, server) as cache:
            await cache.delete_prefix(prefix_of(env))
            for n, (change, expected) in enumerate(steps):
                whole, then = change._replace(put={guard: b"%d" % n}), after(held, change)
                if not expected:
                    assert not await cache.commit(whole, guard, b"another")
                elif kind not in KEEPS:
                    assert await cache.commit(whole, guard, None)
                elif then is None:
                    with pytest.raises(BadObject):
                        await cache.commit(whole, guard, value)
                    assert await cache.get(guard) in {None, value}
                    return
                else:
                    assert await cache.commit(whole, guard, value)
                    held, value = then, b"%d" % n
                assert await cache.get(guard) == value
                assert await listed(cache, prefix_of(env)) - {guard} == set(held)
                for key, (what, parts) in {"e:-": ("members", {}), "e:+": ("scores", {}), **held}.items():
                    found = await getattr(cache, what)(key, PARTS)
                    assert found == [parts.get(name, False if what == "members" else None) for name in PARTS]

    for kind in CACHES:
        asyncio.run(check(kind))


def test_a_change_of_many_parts(kind: str, server: valkey.Valkey) -> None:
    async def check() -> None:
        async with opened(kind, server) as cache:
            env = fresh()
            keys = [cache_key(env, part) for part in ("hash", "set", "sorted", "guard")]
            names = [str(n) for n in range(2 * BATCH + 3)]
            change = CacheChange(
                fields={keys[0]: {n: n.encode() for n in names}},
                members={keys[1]: dict.fromkeys(names, True)},
                scores={keys[2]: {n: float(n) for n in names}},
            )
            assert await cache.commit(change, keys[3], None)
            kept = kind in KEEPS
            assert await cache.fields(keys[0], [*names, "-"]) == [*(n.encode() if kept else None for n in names), None]
            assert await cache.members(keys[1], [*names, "-"]) == [*(kept for _ in names), False]
            assert await cache.scores(keys[2], [*names, "-"]) == [*(float(n) if kept else None for n in names), None]
            assert await listed(cache, prefix_of(env)) == (set(keys[:3]) if kept else set())
            assert await cache.commit(CacheChange(gone=keys), keys[3], None)
            assert await listed(cache, prefix_of(env)) == set()
            with pytest.raises(CallerError, match="at most 100000"):
                await cache.commit(CacheChange(members={keys[1]: dict.fromkeys(map(str, range(100_001)), True)}), keys[3], None)

    asyncio.run(check())


def test_of_two_changes_at_once_one_is_made(server: valkey.Valkey) -> None:
    async def check() -> None:
        async with opened("redis", server) as one, opened("redis", server) as other:
            guard = cache_key(fresh(), "guard")
            value: bytes | None = None
            for n in range(50):
                change = [CacheChange(put={guard: b"%d-%d" % (n, who)}) for who in range(2)]
                done = await asyncio.gather(one.commit(change[0], guard, value), other.commit(change[1], guard, value))
                assert sorted(done) == [False, True]
                value = await one.get(guard)
                assert value == b"%d-%d" % (n, done.index(True))

    asyncio.run(check())


def test_keys_and_values_that_cannot_be(kind: str, server: valkey.Valkey) -> None:
    async def check() -> None:
        async with opened(kind, server) as cache:
            for key in ("", "a", "a:", ":a", "a:b c", "A:b", "a:*", "a:b:"):
                with pytest.raises(BadSubject, match="cache_key"):
                    await cache.put({key: b""})
                with pytest.raises(BadSubject, match="cache_key"):
                    await cache.commit(CacheChange(fields={key: {"x": b""}}), "a:b", None)
            with pytest.raises(CallerError, match="too large"):
                await cache.put({"a:b": bytes(MAX_VALUE_BYTES + 1)})

    asyncio.run(check())


def test_a_full_memory_fails() -> None:
    async def check() -> None:
        cache = MemoryCache(max_bytes=20)
        await cache.put({"a:b": bytes(10)})
        await cache.put({"a:b": bytes(17)})
        with pytest.raises(CacheError, match="full"):
            await cache.put({"a:c": b"1"})
        assert await cache.delete_prefix("a:") == 1
        await cache.put({"a:c": bytes(17)})

    asyncio.run(check())


def test_a_server_that_is_not_there_or_refuses(server: valkey.Valkey, tmp_path: Path) -> None:
    async def check(cache: Cache, match: str) -> None:
        try:
            with pytest.raises(CacheError, match=match) as told:
                await cache.ping()
            assert PASSWORD not in f"{told.value}{told.value.__cause__}{cache!r}{vars(cache)}"
        finally:
            await cache.close()

    asyncio.run(check(RedisCache(server.url, f"{PASSWORD}-wrong"), "refused the password"))
    asyncio.run(check(RedisCache(server.url), "refused the password"))
    gone = valkey.Valkey(tmp_path)
    asyncio.run(check(RedisCache(gone.url, PASSWORD), "is it running"))


def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    async def check(server: valkey.Valkey) -> None:
        cache = RedisCache(server.url)
        await cache.put({"a:b": b"kept"})
        server.kill()
        server.start()
        assert await cache.get("a:b") == b"kept"
        await cache.close()

    with valkey.running(tmp_path) as server:
        asyncio.run(check(server))


def test_an_unknown_type() -> None:
    with pytest.raises(CallerError, match="known: memory, none, redis"):
        open_cache("memcached")
    with pytest.raises(CallerError, match="redis://HOST:PORT/DB"):
        open_cache("redis", "http://x")
