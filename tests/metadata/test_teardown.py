"""Teardown of a whole environment: what is its, all of it; what is another's, nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from journal.cache import MemoryCache, RedisCache, cache_key
from journal.clock import WallClock
from journal.entry import Control, Entry, Event
from journal.errors import CallerError
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryJournal, MemoryStorage
from journal.protocols import Cache, Keeper, Storage
from journal.s3 import S3Storage
from journal.subjects import Stream, escape
from ssmd import teardown
from ssmd.locks import archiver_lock, held, import_lock
from ssmd.settings import Settings
from ssmd.teardown import Backends
from tests import ministack, valkey
from tests.journal.contract import entries, opener
from tests.journal.servers import TOKEN, NatsServer, nats_server
from tests.metadata.backends import belongs, contents, project, settings, write

CLOCK = WallClock()
# Names that begin alike, end alike, and look like what separates them.
ENVS = ["kalshi", "kalshi-dev", "kalshi-d", "kalshi-", "kalshi2", "a", "a-b", "a-b-c", "ab", "b", "md", "day-a"]
SYMBOLS = ["KX.GOLD-26.5", "", "XBT/USD", "a:b", "kalshi", "%", "*", ">", "../a", "ü"]
KINDS = ["md_0", "md_import", "md_a", "system", "day", "key", "dlq"]
PLACES = ["kalshi/2026-08-10/manifest.json", "kalshi/2026-08-10/norm/x", "_domain/x_system/2026-08-10/manifest.json", "_snapshots/book/00"]


def epoch_of(symbol: str) -> bytes:
    return blake2b(symbol.encode(), digest_size=16).digest()


def event(kind: str, symbol: str) -> Entry:
    return Entry(Event(kind), "system", symbol, epoch_of(symbol), 0, 1, 0, 1, 20260810)


async def fill(journal: Keeper, storage: Storage, cache: Cache, env: str, things: set[tuple[str, str]]) -> None:
    for kind, symbol in sorted(things):
        stream = Stream.parse(f"{env}_{kind}")
        await journal.ensure(stream, "kalshi")
        if stream.is_market:
            await journal.append(stream, [opener(epoch_of(symbol)), *entries(1, 3, epoch=epoch_of(symbol), symbol=symbol)])
        else:
            await journal.append(stream, [event("what", symbol)])
        for place in PLACES:
            await asyncio.to_thread(storage.put, f"{env}/{place}{escape(symbol)}", f"{env} {symbol}".encode())
        await cache.put({cache_key(env, "secmaster", symbol): symbol.encode(), cache_key(env, "kalshi", "book", symbol): b"\x00"})


things = st.dictionaries(
    st.sampled_from(ENVS), st.sets(st.tuples(st.sampled_from(KINDS), st.sampled_from(SYMBOLS)), max_size=4), min_size=1, max_size=6
)


async def torn_down(settings: Settings, backends: Backends) -> list[teardown.Doomed]:
    doomed = await teardown.find(settings, backends)
    await teardown.delete(settings, backends, doomed, lambda _: None)
    return doomed


async def check_teardown(journal: Any, storage: Storage, cache: Cache, gone: Settings) -> None:
    before = await contents(journal, storage, cache)
    backends = Backends(journal, storage, cache)
    doomed = await torn_down(gone, backends)
    kept = {name: value for name, value in before.items() if not belongs(name, gone.env)}
    assert await contents(journal, storage, cache) == kept
    of_it = {name: value for name, value in before.items() if belongs(name, gone.env)}
    for kind, word in (("objects", "object"), ("cache", "key")):
        assert sum(d.total for d in doomed if d.kind == kind) == sum(name.startswith(f"{word} ") for name in of_it)
    assert {f"stream {d.name}" for d in doomed if d.kind == "stream"} == {name for name in of_it if name.startswith("stream ")}
    assert await teardown.find(gone, backends) == []


@how(max_examples=150)
@given(there=things, gone=st.sampled_from(ENVS))
def test_nothing_but_the_environments_own(there: dict[str, set[tuple[str, str]]], gone: str) -> None:
    async def check() -> None:
        journal, storage, cache = MemoryJournal(), MemoryStorage(), MemoryCache()
        for env, of_it in there.items():
            await fill(journal, storage, cache, env, of_it)
        for key in (gone, f"{gone}.txt", f"{gone}%2Fx/a", f"x/{gone}/a", f"_{gone}/a"):  # nobody's
            storage.put(key, b"a stranger's")
        await check_teardown(journal, storage, cache, settings(gone, Path("/nowhere")))

    asyncio.run(check())


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NatsServer, ministack.Server, valkey.Valkey]]:
    place = tmp_path_factory.mktemp("servers")
    (place / "nats").mkdir()
    with nats_server(place / "nats") as nats, ministack.running(place / "s3") as s3, valkey.running(place / "valkey") as redis:
        s3.make_bucket("teardown")
        yield nats, s3, redis


@pytest.mark.parametrize("gone", ["kalshi", "kalshi-dev", "a"])
def test_nothing_but_its_own_on_real_servers(servers: tuple[NatsServer, ministack.Server, valkey.Valkey], gone: str) -> None:
    nats, s3, redis = servers

    async def check() -> None:
        prefix = uuid4().hex
        async with AsyncExitStack() as opened:
            journal = await JetStreamJournal.connect(nats.url, CLOCK, token=TOKEN, max_stream_bytes=64 << 20)
            opened.push_async_callback(journal.close)
            storage = S3Storage("teardown", prefix, endpoint=s3.endpoint, region="us-east-1", **ministack.CREDENTIALS)
            cache = RedisCache(redis.url)
            opened.push_async_callback(cache.close)
            await journal._link.api(f"STREAM.CREATE.{gone}_orders", {"name": f"{gone}_orders", "subjects": [f"orders.{gone}.>"]})
            await journal._link.api(f"STREAM.CREATE.{gone}", {"name": gone, "subjects": [f"{gone}-raw.>"]})
            for number, env in enumerate(["kalshi", "kalshi-dev", "a", "a-b", "ab"]):
                symbols = SYMBOLS[number:] + SYMBOLS[:number]
                await fill(journal, storage, cache, env, set(zip(KINDS, symbols, strict=False)))
            for key in (gone, f"{gone}-", gone.upper() + ":x", f"x:{gone}:y"):
                await cache._redis.execute_command("SET", key, "a stranger's")
            await check_teardown(journal, storage, cache, settings(gone, Path("/nowhere")))
            # The next example begins with nothing.
            for name in (await journal._link.api("STREAM.NAMES", {"offset": 0})).get("streams") or []:
                await journal._link.api(f"STREAM.DELETE.{name}")
            await cache._redis.execute_command("FLUSHALL")

    asyncio.run(check())


class Killed(Exception):
    pass


class Dying:
    """Counts what deletes, and raises instead of the last that is allowed: before it, or after it was carried out."""

    def __init__(self, allowed: int, *, after: bool) -> None:
        self._left = allowed
        self._after = after

    def before(self) -> bool:
        """Whether to raise once it is done."""
        self._left -= 1
        if self._left < 0 and not self._after:
            raise Killed
        return self._left < 0


class DyingStorage(MemoryStorage):
    dying: Dying | None = None

    def delete(self, key: str) -> None:
        last = self.dying.before() if self.dying else False
        super().delete(key)
        if last:
            raise Killed


class DyingJournal(MemoryJournal):
    dying: Dying | None = None

    async def delete(self, stream: Stream) -> None:
        last = self.dying.before() if self.dying else False
        await super().delete(stream)
        if last:
            raise Killed

    async def purge(self, stream: Stream, first: int) -> None:
        last = self.dying.before() if self.dying else False
        await super().purge(stream, first)
        if last:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_deletion_it_is_finished_by_running_again(after: bool) -> None:
    async def check() -> None:
        for allowed in range(100):
            journal, storage, cache = DyingJournal(), DyingStorage(), MemoryCache()
            for env in ("kalshi", "kalshi-dev"):
                await fill(journal, storage, cache, env, set(zip(KINDS, SYMBOLS, strict=False)))
            before = await contents(journal, storage, cache)
            journal.dying = storage.dying = Dying(allowed, after=after)
            of_it, backends = settings("kalshi", Path("/nowhere")), Backends(journal, storage, cache)
            try:
                await torn_down(of_it, backends)
            except Killed:
                journal.dying = storage.dying = None
                await torn_down(of_it, backends)
                ended = False
            else:
                ended = True
            assert await contents(journal, storage, cache) == {n: v for n, v in before.items() if not belongs(n, "kalshi")}
            if ended:
                assert allowed > 30, "there were deletions to be killed at"
                return
        raise AssertionError("it never ended")

    asyncio.run(check())


def test_refused_where_another_environments_objects_are_among_its_own(tmp_path: Path) -> None:
    def read(name: str, **said: str) -> Settings:
        return Settings.read({"env": name, "data": str(tmp_path / "data"), **said}, {}, tmp_path)

    s3 = "storage: {{type: s3, bucket: {}, prefix: {}}}\n"
    project(
        tmp_path, a=s3.format("all", "x"), b=s3.format("all", "x/a/y"), ab=s3.format("all", "x"), c=s3.format("other", "x/a"),
        d=f"storage: {{type: local, path: {tmp_path}/disk}}\n", e=f"storage: {{type: local, path: {tmp_path}/disk/d}}\n", f="", g="",
    )  # fmt: skip
    for name, other in (("a", "b"), ("d", "e")):
        with pytest.raises(CallerError, match=f"objects of {other} are in .* among those of {name}: nothing was deleted"):
            teardown.allow(read(name))
        teardown.allow(read(name, storage="s3://elsewhere/x"))
    for name in ("b", "ab", "c", "e", "f", "g"):
        teardown.allow(read(name))
    objects = tmp_path / "data" / "objects"
    (objects / "g" / "kalshi").mkdir(parents=True)
    (objects / "f").symlink_to("g")
    with pytest.raises(CallerError, match=r"objects of g are in .* among those of f"):
        teardown.allow(read("f"))
    (objects / "f").unlink()
    (objects / "f").mkdir()
    (objects / "f" / "kalshi").symlink_to("../g/kalshi")
    with pytest.raises(CallerError, match=r"is a link to .*/g/kalshi, which may be another's"):
        teardown.allow(read("f"))
    teardown.allow(read("g"))
    write(tmp_path, "b", "storage: {typo: s3}\n")
    with pytest.raises(CallerError, match="not known where objects of b are; nothing was deleted"):
        teardown.allow(read("g"))


@pytest.mark.parametrize(("path", "word"), [(lambda d: archiver_lock(d, "kalshi"), "archiver"), (import_lock, "import")])
def test_refused_while_an_archiver_or_import_is_at_work(tmp_path: Path, path: Any, word: str) -> None:
    async def check() -> None:
        of_it = settings("kalshi", tmp_path)
        async with held(path(tmp_path), CLOCK, waiting=None) as mine:
            assert mine
            with pytest.raises(CallerError, match=rf"{word}.* is at work .*: nothing was deleted"):
                async with teardown.quiet(of_it, CLOCK, None):
                    raise AssertionError
        async with teardown.quiet(of_it, CLOCK, None), held(path(tmp_path), CLOCK, waiting=None) as mine:
            assert not mine, "and none begins meanwhile"

    asyncio.run(check())


def test_another_environments_archiver_is_no_hindrance(tmp_path: Path) -> None:
    async def check() -> None:
        async with (
            held(archiver_lock(tmp_path, "kalshi-dev"), CLOCK, waiting=None),
            teardown.quiet(settings("kalshi", tmp_path), CLOCK, None),
        ):
            pass

    asyncio.run(check())


def test_refused_while_somebody_follows_or_captures(tmp_path: Path) -> None:
    async def check() -> None:
        journal, stream = MemoryJournal(), Stream("kalshi", shard="0")
        await journal.ensure(stream, "kalshi")

        async def follow() -> None:
            async for _ in journal.read(stream, follow=True):
                pass

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.01)
        with pytest.raises(CallerError, match=r"kalshi_md_0 is in use: 1 connected reader"):
            async with teardown.quiet(settings("kalshi", tmp_path), CLOCK, journal):
                raise AssertionError
        following.cancel()
        await asyncio.wait([following])

        def said(n: int, action: str, age_s: int) -> Entry:
            at = CLOCK.wall_ns() - age_s * 10**9
            return Entry(Control(action), "kalshi", f"s{n}", bytes(range(16)), n, at, 0, at, 20260810)

        for n, action, age_s, busy in ((0, "opened", 600, False), (1, "subscribed", 5, True), (2, "closed", 1, False)):
            await journal.append(stream, [said(n, action, age_s)])
            if busy:
                with pytest.raises(CallerError, match="its last entry is 5 s old"):
                    async with teardown.quiet(settings("kalshi", tmp_path), CLOCK, journal):
                        raise AssertionError
            else:
                async with teardown.quiet(settings("kalshi", tmp_path), CLOCK, journal):
                    pass

    asyncio.run(check())
