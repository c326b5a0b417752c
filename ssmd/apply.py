"""`ssmd env apply`: what an environment needs, compared with what there is, and made.

Each step is safe to repeat and none depends on one that a kill may have left undone: killed anywhere and run again, it converges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple

from journal.clock import Clock
from journal.day import to_date
from journal.entry import canonical_json
from journal.errors import BadFile, JournalRefused, KeyRefused
from journal.protocols import Cache, Keeper, Storage
from journal.subjects import Stream
from ssmd.configuration import Configuration, document, journal_configuration, name_of, newest
from ssmd.settings import IMPORT, Settings
from ssmd.wiring import day_rule

# Every domain stream that any part of ssmd writes: made beforehand, they can be looked at before the first entry.
DOMAINS = ("secmaster", "day", "key", "system", "dlq", "signals", "feedback", "shard")


class Step(NamedTuple):
    """One thing that the environment needs. `present` and `wanted` are for people."""

    resource: str
    present: str
    wanted: str
    action: Literal["create", "update", "keep", "refuse"]


def streams_of(settings: Settings) -> list[Stream]:
    """The streams the environment needs."""
    env = settings.env
    shards = list(settings.environment.shards) or ["0"]
    return [Stream(env, shard=s) for s in dict.fromkeys([*shards, IMPORT])] + [Stream(env, domain=d) for d in DOMAINS]


def check(settings: Settings, clock: Clock) -> None:
    """Raise `BadFile` for files that do not validate, `KeyRefused` for required keys that are not there, `KeyUnavailable`."""
    from ssmd.metadata import validation

    project, environment = settings.project, settings.environment
    paths = [project.environments.path(settings.env), project.feeds.path(environment.feed), project.schemas.path(environment.schema_)]
    today = to_date(day_rule(settings).day_of(clock.wall_ns()))
    if errors := [str(f) for f in validation.check(project, paths, today=today) if f.severity == "error"]:
        raise BadFile(errors)
    missing = {name: found for name, key in environment.keys.items() if key.required and (found := settings.resolver.missing(name))}
    if missing:
        said = "; ".join(f"{name} has no {', '.join(fields)}" for name, fields in missing.items())
        raise KeyRefused(
            f"required keys of environment {settings.env} are missing: {said}; set them with `ssmd key set {settings.env} KEY`"
        )


async def plan(settings: Settings, clock: Clock, journal: Keeper | None, storage: Storage, cache: Cache) -> list[Step]:
    """Every resource, with what would be done. `journal` is None where there is none yet: an embedded one is made.

    Raises `StoreError` when one of them does not answer.
    """
    steps = [await _stream_step(settings, journal, stream) for stream in streams_of(settings)]
    steps.append(Step("consumers", "", "none: readers are ordered and make their own, which go with them", "keep"))
    there = await asyncio.to_thread(storage.exists)
    steps.append(Step(f"objects in {settings.storage}", "there" if there else "", "there", "keep" if there else "create"))
    await cache.ping()
    steps.append(Step(f"cache {settings.environment.cache.type}", "answers", "answers", "keep"))
    day = day_rule(settings).day_of(clock.wall_ns())
    wanted = name_of(canonical_json(await asyncio.to_thread(document, settings, day)))
    found = await newest(journal, settings.env) if journal else None
    present = found.sha256 if found else ""
    action: Literal["keep", "update", "create"] = "keep" if present == wanted else "update" if present else "create"
    steps.append(Step("configuration in the journal", present[:12], wanted[:12], action))
    return steps


async def _stream_step(settings: Settings, journal: Keeper | None, stream: Stream) -> Step:
    name = f"stream {stream.name}"
    wanted = ", ".join(stream.subjects(settings.feed))
    changes = await journal.changes(stream, settings.feed, max_bytes=_size(settings, stream)) if journal else None
    if changes is None:
        return Step(name, "", wanted, "create")
    if not changes:
        return Step(name, wanted, wanted, "keep")
    present = ", ".join(f"{c.setting} {c.present}" for c in changes)
    after = ", ".join(f"{c.setting} {c.wanted}{f' ({c.refused})' if c.refused else ''}" for c in changes)
    return Step(name, present, after, "refuse" if any(c.refused for c in changes) else "update")


def _size(settings: Settings, stream: Stream) -> int | None:
    """Bytes that the environment says for a market stream; None leaves it as it is."""
    gib = settings.environment.journal.max_stream_gib
    return gib << 30 if gib and stream.is_market else None


def refuse(steps: Sequence[Step]) -> None:
    """Raise `JournalRefused` when something is not as wanted and cannot be changed: nothing has been done yet."""
    if refused := [f"{s.resource} has {s.present}, wanted {s.wanted}" for s in steps if s.action == "refuse"]:
        raise JournalRefused("; ".join(refused))


def due(steps: Sequence[Step]) -> list[Step]:
    """What is not as wanted yet."""
    return [s for s in steps if s.action != "keep"]


async def carry_out(settings: Settings, clock: Clock, journal: Keeper, storage: Storage, *, who: str) -> Configuration:
    """Make what is missing, change what differs, and journal the configuration last, when it is in force. Safe to repeat."""
    for stream in streams_of(settings):
        await journal.ensure(stream, settings.feed)
        await journal.update(stream, settings.feed, max_bytes=_size(settings, stream))
    await asyncio.to_thread(storage.create)
    return await journal_configuration(journal, settings, clock, who=who, why="env apply")
