"""Environments for the tests of apply and teardown: a project on disk, its settings, and everything a backend holds, as bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from journal import cursor
from journal.codec import encode
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryJournal
from journal.protocols import Cache, Storage
from ssmd.metadata.environment import Environment
from ssmd.metadata.project import Project, packaged
from ssmd.settings import Settings


def project(root: Path, **environments: str) -> Project:
    """With the installed feeds and schemas, and the given environments: their YAML without the name."""
    for folder in ("feeds", "schemas", "environments"):
        (root / "exchanges" / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("feeds", "schemas"):
        for path in (packaged().exchanges / folder).iterdir():
            if path.suffix in {".yaml", ".capnp"}:
                (root / "exchanges" / folder / path.name).write_bytes(path.read_bytes())
    for name, text in environments.items():
        write(root, name.replace("_", "-"), text)
    return Project(root)


def write(root: Path, name: str, text: str) -> Path:
    path = root / "exchanges" / "environments" / f"{name}.yaml"
    path.write_text(f"name: {name}\nfeed: kalshi\n{text}")
    return path


def settings(env: str, data_dir: Path, **more: Any) -> Settings:
    """Of an environment without a file."""
    return Settings(env=env, data_dir=data_dir, environment=Environment(name=env, feed="kalshi"), **more)


DOMAINS = ("secmaster", "day", "key", "dlq", "shard", "feedback", "signals", "system")


async def contents(journal: MemoryJournal | JetStreamJournal, storage: Storage, cache: Cache) -> dict[str, Any]:
    """All that is there, by a name that tells what it belongs to: streams with their configuration and messages, objects, keys."""
    found: dict[str, Any] = {}
    if isinstance(journal, MemoryJournal):
        for stream, log in journal._logs.items():
            found[f"stream {stream.name}"] = [(s, r.sequence, encode(r.entry)) for s, r in zip(log.subjects, log.records, strict=True)]
    else:
        names = (await journal._link.api("STREAM.NAMES", {"offset": 0})).get("streams") or []
        for name in names:
            info = await journal._link.api(f"STREAM.INFO.{name}")
            messages = [tuple(m) async for run in cursor.stored(journal._link, journal._clock, name, filters=[">"]) for m in run]
            found[f"stream {name}"] = (info["config"], info["created"], messages)
    for key, _ in await asyncio.to_thread(storage.list, ""):
        found[f"object {key}"] = await asyncio.to_thread(storage.get, key)
    async for run in cache.keys(""):
        for key in run:
            found[f"key {key}"] = await cache.get(key)
    return found


def belongs(name: str, env: str) -> bool:
    """Said once more and otherwise than the product says it: whose is it?"""
    kind, _, rest = name.partition(" ")
    if kind == "stream":
        owner, _, what = rest.partition("_")
        return owner == env and (
            what.startswith("md_") or what in {"system", "day", "key", "secmaster", "dlq", "signals", "feedback", "shard"}
        )
    separator = "/" if kind == "object" else ":"
    return separator in rest and rest.split(separator)[0] == env
