"""Caches: views kept for other programs, by key. Each may be deleted at any time; a projection makes it again.

Keys are ``ENV:PART:PART…`` with escaped parts (`cache_key`), so that everything of an environment begins with ``ENV:`` and nothing of
another one does.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from journal.errors import BadSubject, CacheError, CallerError
from journal.protocols import Cache
from journal.subjects import escape

# Of one command: a server is busy with it for about a millisecond, and holds its answer in memory.
BATCH = 1_000
MAX_VALUE_BYTES = 16 << 20  # a book of 100,000 levels takes 5 MB as JSON
MAX_MEMORY_BYTES = 256 << 20  # of the cache in memory: 100,000 books; a fuller one fails
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


class MemoryCache:
    """A dict: gone with the process."""

    def __init__(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._values: dict[str, bytes] = {}
        self._bytes = 0
        self._max_bytes = max_bytes

    async def ping(self) -> None:
        return None

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def put(self, values: Mapping[str, bytes]) -> None:
        _check(values)
        grown = self._bytes + sum(_size(k, v) - (_size(k, self._values[k]) if k in self._values else 0) for k, v in values.items())
        if grown > self._max_bytes:
            raise CacheError(f"the cache in memory is full: {grown} bytes, it takes {self._max_bytes}; use cache type redis")
        self._bytes = grown
        self._values.update({k: bytes(v) for k, v in values.items()})

    async def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        found = [k for k in self._values if k.startswith(prefix)]
        for at in range(0, len(found), BATCH):
            yield found[at : at + BATCH]

    async def delete_prefix(self, prefix: str) -> int:
        found = [k for k in self._values if k.startswith(prefix)]
        for key in found:
            self._bytes -= _size(key, self._values.pop(key))
        return len(found)

    async def close(self) -> None:
        return None


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value)


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

    async def close(self) -> None:
        await self._redis.aclose()

    async def _explained(self, command: Awaitable[_T]) -> _T:
        from redis.exceptions import AuthenticationError, RedisError

        try:
            return await command
        except AuthenticationError as error:
            raise CacheError(f"the cache at {self._where} refused the password: {error}; correct cache.password's key") from None
        except (RedisError, OSError) as error:
            raise CacheError(f"the cache at {self._where} failed: {error}; is it running, and is cache.url right?") from None


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
