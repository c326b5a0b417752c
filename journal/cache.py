"""Caches: views kept for other programs, by key. Each may be deleted at any time; a projection makes it again.

Keys are ``ENV:PART:PART…`` with escaped parts (`cache_key`), so that everything of an environment begins with ``ENV:`` and nothing of
another one does.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from journal.errors import BadObject, BadSubject, CacheError, CallerError
from journal.protocols import Cache, CacheChange
from journal.subjects import escape

# Of one command: a server is busy with it for about a millisecond, and holds its answer in memory.
BATCH = 1_000
MAX_VALUE_BYTES = 16 << 20  # a book of 100,000 levels takes 5 MB as JSON
MAX_PARTS = 100_000  # of one transaction: the server does nothing else for about 100 ms
MAX_MEMORY_BYTES = 256 << 20  # of the cache in memory: 100,000 books; a fuller one fails
NOT_OURS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # how decoding fails of a value that anybody wrote
_KEY = re.compile(r"[a-z][a-z0-9-]*(:[A-Za-z0-9_%-]+)+")
_TIMEOUT_S = 5.0
_T = TypeVar("_T")


def cache_key(env: str, *parts: str) -> str:
    """``ENV:PART:PART…``, each part escaped."""
    return ":".join((env, *map(escape, parts)))


def prefix_of(env: str) -> str:
    """What all keys of the environment begin with, and no others."""
    return f"{env}:"


def _check(values: Mapping[str, bytes]) -> None:
    for key, value in values.items():
        if not _KEY.fullmatch(key):
            raise BadSubject(f"cache key {key!r}: make it with cache_key(env, part, ...)")
        if len(value) > MAX_VALUE_BYTES:
            raise CallerError(f"{key}: {len(value)} bytes are too large for a cache, which takes {MAX_VALUE_BYTES}")


def _check_change(change: CacheChange) -> None:
    parts = {"fields": change.fields, "members": change.members, "scores": change.scores}
    for of in parts.values():
        for key, named in of.items():
            _check({key: max((v for v in named.values() if isinstance(v, bytes)), key=len, default=b"")})
    _check(change.put)
    if (count := len(change.put) + sum(len(named) for of in parts.values() for named in of.values())) > MAX_PARTS:
        raise CallerError(f"{count} parts in one change of a cache; at most {MAX_PARTS}")


class _Parts(NamedTuple):
    """What a key has that is no value."""

    kind: str
    named: dict[str, Any]


class MemoryCache:
    """A dict: gone with the process. A transaction copies the keys that it changes."""

    def __init__(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._values: dict[str, bytes | _Parts] = {}
        self._bytes = 0
        self._max_bytes = max_bytes

    async def ping(self) -> None:
        return None

    async def get(self, key: str) -> bytes | None:
        found = self._values.get(key)
        if isinstance(found, _Parts):
            raise BadObject(f"the cache in memory has {found.kind} at {key}, no value")
        return found

    async def put(self, values: Mapping[str, bytes]) -> None:
        _check(values)
        self._replace({k: bytes(v) for k, v in values.items()})

    def _replace(self, after: Mapping[str, bytes | _Parts | None]) -> None:
        """Each key has this from now on, or is gone; or, if it does not fit, nothing happens."""
        grown = self._bytes + sum(_size(k, v) - _size(k, self._values.get(k)) for k, v in after.items())
        if grown > self._max_bytes:
            raise CacheError(f"the cache in memory is full: {grown} bytes, it takes {self._max_bytes}; use cache type redis")
        self._bytes = grown
        for key, value in after.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    async def fields(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        named = _named(key, self._values.get(key), "fields")
        return [named.get(name) for name in names]

    async def members(self, key: str, names: Sequence[str]) -> list[bool]:
        named = _named(key, self._values.get(key), "members")
        return [name in named for name in names]

    async def scores(self, key: str, names: Sequence[str]) -> list[float | None]:
        named = _named(key, self._values.get(key), "scores")
        return [named.get(name) for name in names]

    async def commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        _check_change(change)
        if self._values.get(guard) != expected:
            return False
        after: dict[str, bytes | _Parts | None] = dict.fromkeys(change.gone)
        after.update(change.put)
        for kind, of in (("fields", change.fields), ("members", change.members), ("scores", change.scores)):
            for key, named in of.items():
                held = dict(_named(key, after[key] if key in after else self._values.get(key), kind))
                for name, part in named.items():
                    if part is None or part is False:
                        held.pop(name, None)
                    else:
                        held[name] = part
                after[key] = _Parts(kind, held) if held else None
        self._replace(after)
        return True

    async def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        found = [k for k in self._values if k.startswith(prefix)]
        for at in range(0, len(found), BATCH):
            yield found[at : at + BATCH]

    async def delete_prefix(self, prefix: str) -> int:
        found = [k for k in self._values if k.startswith(prefix)]
        for key in found:
            self._bytes -= _size(key, self._values.pop(key))
        return len(found)

    async def evicted(self) -> int:
        return 0

    async def close(self) -> None:
        return None


def _size(key: str, value: bytes | _Parts | None) -> int:
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(key) + len(value)
    return len(key) + sum(len(name) + (len(part) if isinstance(part, bytes) else 8) for name, part in value.named.items())


def _named(key: str, held: bytes | _Parts | None, kind: str) -> dict[str, Any]:
    if held is None:
        return {}
    if isinstance(held, bytes) or held.kind != kind:
        raise BadObject(f"the cache in memory has no {kind} at {key} but something else")
    return held.named


class NoCache:
    """Keeps nothing."""

    async def ping(self) -> None:
        return None

    async def get(self, key: str) -> bytes | None:
        del key
        return None

    async def put(self, values: Mapping[str, bytes]) -> None:
        _check(values)

    async def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        del prefix
        nothing: tuple[list[str], ...] = ()
        for run in nothing:
            yield run

    async def delete_prefix(self, prefix: str) -> int:
        del prefix
        return 0

    async def fields(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        del key
        return [None] * len(names)

    async def members(self, key: str, names: Sequence[str]) -> list[bool]:
        del key
        return [False] * len(names)

    async def scores(self, key: str, names: Sequence[str]) -> list[float | None]:
        del key
        return [None] * len(names)

    async def commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        _check_change(change)
        del guard
        return expected is None

    async def evicted(self) -> int:
        return 0

    async def close(self) -> None:
        return None


class RedisCache:
    """Redis, Valkey, or what speaks their protocol. One event loop; connects when it is first used.

    Nothing here blocks the server: SCAN instead of KEYS, UNLINK instead of DEL, at most `BATCH` keys a command.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialBackoff

        parts = urlsplit(url)
        self._where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            self._redis: Any = Redis.from_url(  # its types know no `execute_command`
                url, password=password, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
            )  # fmt: skip
        except ValueError:
            raise CallerError(f"cache {self._where}: write redis://HOST:PORT/DB, or rediss:// for TLS") from None

    def __repr__(self) -> str:
        return f"RedisCache({self._where})"

    async def ping(self) -> None:
        await self._explained(self._redis.execute_command("PING"))

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._explained(self._redis.execute_command("GET", key))
        return found

    async def put(self, values: Mapping[str, bytes]) -> None:
        _check(values)
        items = list(values.items())
        for at in range(0, len(items), BATCH):
            await self._explained(self._redis.execute_command("MSET", *(word for item in items[at : at + BATCH] for word in item)))

    async def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        cursor = b"0"
        while True:
            command = self._redis.execute_command("SCAN", cursor, "MATCH", f"{_literal(prefix)}*", "COUNT", BATCH, NEVER_DECODE=True)
            cursor, found = await self._explained(command)
            if found:
                yield [k.decode(errors="surrogateescape") for k in found]
            if int(cursor) == 0:
                return

    async def delete_prefix(self, prefix: str) -> int:
        deleted = 0
        async for found in self.keys(prefix):
            for at in range(0, len(found), BATCH):  # a scan's answer may be longer than asked for
                some = [k.encode(errors="surrogateescape") for k in found[at : at + BATCH]]
                deleted += int(await self._explained(self._redis.execute_command("UNLINK", *some)))
        return deleted

    async def fields(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        return await self._parts("HMGET", key, names)

    async def members(self, key: str, names: Sequence[str]) -> list[bool]:
        return [bool(there) for there in await self._parts("SMISMEMBER", key, names)]

    async def scores(self, key: str, names: Sequence[str]) -> list[float | None]:
        return [None if score is None else float(score) for score in await self._parts("ZMSCORE", key, names)]

    async def _parts(self, command: str, key: str, names: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for at in range(0, len(names), BATCH):
            found += await self._explained(self._redis.execute_command(command, key, *names[at : at + BATCH]))
        return found

    async def commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        _check_change(change)
        return await self._explained(self._commit(change, guard, expected))

    async def _commit(self, change: CacheChange, guard: str, expected: bytes | None) -> bool:
        from redis.exceptions import ResponseError, WatchError

        async with self._redis.pipeline(transaction=True) as pipeline:
            try:
                await pipeline.watch(guard)
                if await pipeline.get(guard) != expected:
                    return False
                pipeline.multi()
                for words in _commands(change):
                    pipeline.execute_command(*words)
                results = await pipeline.execute(raise_on_error=False)
            except WatchError:  # also for a connection that was lost meanwhile
                return False
        if failed := next((r for r in results if isinstance(r, ResponseError)), None):
            # The server has done the others: with the guard gone, nobody takes what there is for the whole.
            await self._redis.execute_command("UNLINK", guard)
            raise failed
        return True

    async def evicted(self) -> int:
        from redis.exceptions import NoPermissionError

        async def asked() -> int:
            try:
                return int((await self._redis.info("stats")).get("evicted_keys", 0))
            except NoPermissionError:  # then nobody knows
                return 0

        return await self._explained(asked())

    async def close(self) -> None:
        await self._redis.aclose()

    async def _explained(self, command: Awaitable[_T]) -> _T:
        from redis.exceptions import AuthenticationError, RedisError

        try:
            return await command
        except AuthenticationError as error:
            raise CacheError(f"the cache at {self._where} refused the password: {error}; correct cache.password's key") from None
        except (RedisError, OSError) as error:
            if str(error).startswith("WRONGTYPE"):
                raise BadObject(f"the cache at {self._where} has something else at a key: {error}") from None
            raise CacheError(f"the cache at {self._where} failed: {error}; is it running, and is cache.url right?") from None


def _commands(change: CacheChange) -> Iterator[tuple[Any, ...]]:
    """Each with at most `BATCH` keys or parts."""
    yield from _command("UNLINK", (), ((key,) for key in change.gone))
    yield from _command("MSET", (), change.put.items())
    for key, fields in change.fields.items():
        yield from _command("HDEL", (key,), ((name,) for name, value in fields.items() if value is None))
        yield from _command("HSET", (key,), ((name, value) for name, value in fields.items() if value is not None))
    for key, members in change.members.items():
        yield from _command("SREM", (key,), ((name,) for name, there in members.items() if not there))
        yield from _command("SADD", (key,), ((name,) for name, there in members.items() if there))
    for key, scores in change.scores.items():
        yield from _command("ZREM", (key,), ((name,) for name, score in scores.items() if score is None))
        yield from _command("ZADD", (key,), ((score, name) for name, score in scores.items() if score is not None))


def _command(name: str, key: tuple[str, ...], parts: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    source = iter(parts)
    while some := list(islice(source, BATCH)):
        yield (name, *key, *chain.from_iterable(some))


def _literal(prefix: str) -> str:
    """`prefix` as a glob that matches it and nothing else."""
    return re.sub(r"([\\*?\[\]^-])", r"\\\1", prefix)


# As an environment's `cache.type` names them.
CACHES: dict[str, Callable[[str, str | None], Cache]] = {
    "memory": lambda url, password: MemoryCache(),  # noqa: ARG005
    "none": lambda url, password: NoCache(),  # noqa: ARG005
    "redis": RedisCache,
}


def open_cache(kind: str, url: str = "", password: str | None = None) -> Cache:
    """The cache of that type; `password` is revealed. Raises `CallerError`."""
    if kind not in CACHES:
        raise CallerError(f"no cache of type {kind!r}; known: {', '.join(CACHES)}")
    return CACHES[kind](url, password)
