"""`ssmd env teardown`: what an environment has, found by name alone, and deleted; or one day of it.

Everything of an environment begins with its name and a character that no name has: streams ``ENV_``, objects ``ENV/``, cache keys
``ENV:``. What is found is deleted, so a teardown that was killed is finished by running it again. The journal goes last: until then all
else can be made again from it.

A day is deleted from the beginning of its streams only: a hole in the middle would rightly be called corruption by every reader. Domain
streams keep their history, the closing state of the day among it, which the next day opens with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from journal.archive import segments_of
from journal.cache import prefix_of
from journal.clock import Clock
from journal.day import iso
from journal.entry import Control, Event, canonical_json
from journal.errors import BadFile, CallerError
from journal.manifest import date_name
from journal.protocols import Cache, Keeper, ObjectInfo, Storage
from journal.subjects import Stream
from projections.registry import create
from replay.ledger import Ledger
from replay.source import INTERLEAVED, JournalSource
from ssmd.locks import archiver_lock, held, import_lock
from ssmd.settings import Settings
from ssmd.system import say
from ssmd.wiring import day_rule

if TYPE_CHECKING:
    from ssmd.metadata.environment import Environment
    from ssmd.temporal.driver import Queue

EVENT = "teardown"
# A market that is captured seldom says nothing for so long. Where it does, its archiver or projector tells on it: they wait for more.
_QUIET_NS = 60 * 10**9
_DELETERS = 8  # one by one, a year of objects in S3 would take an hour


class Doomed(NamedTuple):
    """One thing that would be deleted: a stream whole, or its entries before `first`; the objects or keys below a prefix."""

    kind: str  # schedule, stream, entries, objects, cache
    name: str
    total: int
    bytes: int | None
    first: int = 0


class Backends(NamedTuple):
    """`journal` is None where there is none yet, `temporal` where none drives the environment's days, or it does not answer."""

    journal: Keeper | None
    storage: Storage
    cache: Cache
    temporal: Queue | None = None


def allow(settings: Settings) -> None:
    """Raise `CallerError` for a protected environment, and for one whose objects are not told from another's."""
    if settings.environment.protected:
        where = settings.project.shown(settings.project.environments.path(settings.env))
        raise CallerError(f"{settings.env} is protected: nothing was deleted; take `protected: true` out of {where} first, and commit that")
    _check_links(settings)
    ours = _place(settings.environment, settings)
    for name in settings.project.environments.names():
        if name == settings.env:
            continue
        try:
            theirs = _place(settings.project.environments.read(name), settings)
        except BadFile as error:
            raise CallerError(
                f"{error}: so it is not known where objects of {name} are; nothing was deleted; correct that file first"
            ) from None
        if theirs[: len(ours)] == ours:
            raise CallerError(
                f"objects of {name} are in {'/'.join(theirs)}, among those of {settings.env}: nothing was deleted; move one of them first"
            )


def _place(environment: Environment, settings: Settings) -> tuple[str, ...]:
    """Where objects of an environment are, links followed: bucket or nothing, then folder below folder."""
    spec = environment.storage
    if settings.storage_url:  # instead of every environment's
        parts = urlsplit(settings.storage_url)
        if parts.scheme == "s3":
            return parts.netloc, *PurePosixPath(parts.path.strip("/"), environment.name).parts
        root = Path(unquote(parts.path))
    elif spec.type == "s3":
        return spec.bucket or "", *PurePosixPath(spec.prefix.strip("/"), environment.name).parts
    else:
        root = Path(spec.path or settings.data_dir / "objects")
    return "", *(root / environment.name).resolve().parts[1:]


def _check_links(settings: Settings) -> None:
    """Raise `CallerError` for a folder of the environment's, a feed's or a day's, that is in truth somewhere else."""
    if settings.local_objects is None:
        return
    own = (settings.local_objects / settings.env).resolve()
    for path in (*own.glob("*"), *own.glob("*/*")):
        if path.is_symlink() and not path.resolve().is_relative_to(own):
            raise CallerError(f"{path} is a link to {path.resolve()}, which may be another's: nothing was deleted; remove the link first")


@asynccontextmanager
async def quiet(settings: Settings, clock: Clock, journal: Keeper | None) -> AsyncIterator[None]:
    """Raise `CallerError` while somebody captures, archives or imports; within the block no archiver or import of this directory begins."""
    async with AsyncExitStack() as locks:
        if settings.data_dir.is_dir():
            for path, who in (
                (archiver_lock(settings.data_dir, settings.env), f"an archiver, import or `ssmd up` of {settings.env}"),
                (import_lock(settings.data_dir), "an import"),
            ):
                if not await locks.enter_async_context(held(path, clock, waiting=None)):
                    raise CallerError(f"{who} is at work in {settings.data_dir}: nothing was deleted; stop it first")
        if journal:
            for stream in await journal.streams(settings.env):
                if why := await _busy(journal, stream, clock):
                    raise CallerError(f"{stream.name} is in use: {why}; nothing was deleted; stop it first")
        yield


async def _busy(journal: Keeper, stream: Stream, clock: Clock) -> str:
    if followers := await journal.followers(stream):
        return f"{followers} connected reader(s) wait for more of it (an archiver, a projector, a tail)"
    info = await journal.info(stream)
    if not stream.is_market or stream.shard == INTERLEAVED or not info or info.last < info.first:
        return ""
    async for records in journal.read(stream, start=info.last, end=info.last):
        entry = records[-1].entry
        # A connector's last word is that it closed.
        ended = isinstance(entry.body, Control) and entry.body.action == "closed"
        if not ended and 0 <= (age_ns := clock.wall_ns() - entry.recv_ns) < _QUIET_NS:
            return f"its last entry is {age_ns // 10**9} s old and no end of a capture (of a killed connector, wait a minute)"
    return ""


# --- the whole environment ------------------------------------------------------------------------------------------------------


async def find(settings: Settings, backends: Backends) -> list[Doomed]:
    """All that the environment has, in the order in which it is deleted."""
    env = settings.env
    found = [
        *await _schedules(env, backends.temporal),
        Doomed("cache", prefix_of(env), await _keys(backends.cache, env), None),
        _objects(f"{env}/", await asyncio.to_thread(backends.storage.list, f"{env}/")),
    ]
    if journal := backends.journal:
        streams = sorted(await journal.streams(env), key=lambda s: (s.domain == "system", s.name))
        infos = [info for stream in streams if (info := await journal.info(stream))]
        found += [Doomed("stream", i.stream.name, i.last - i.first + 1, i.bytes) for i in infos]
    return [d for d in found if d.total or d.kind == "stream"]


async def _schedules(env: str, temporal: Queue | None) -> list[Doomed]:
    """First of all: what they begin would be begun anew."""
    if temporal is None:
        return []
    from ssmd.temporal.schedules import existing

    return [Doomed("schedule", name, 1, None) for name in await existing(temporal.client, env)]


async def _keys(cache: Cache, env: str) -> int:
    return sum([len(run) async for run in cache.keys(prefix_of(env))])  # a server that grows meanwhile may name one twice


def _objects(prefix: str, objects: list[ObjectInfo]) -> Doomed:
    return Doomed("objects", prefix, len(objects), sum(o.size for o in objects))


async def delete(settings: Settings, backends: Backends, doomed: Iterable[Doomed], advance: Callable[[int], object]) -> None:
    """Delete what `find` or `find_day` found; `advance` is told of each thing. Run again after a failure it finishes."""
    for each in doomed:
        match each.kind:
            case "schedule" if backends.temporal:
                from ssmd.temporal.schedules import remove

                await remove(backends.temporal.client, settings.env)
            case "cache":
                await backends.cache.delete_prefix(each.name)
            case "objects":
                await asyncio.to_thread(_delete_objects, backends.storage, each.name, advance)
            case "stream" if backends.journal:
                await backends.journal.delete(_ours(settings, each.name))
            case "entries" if backends.journal:
                await backends.journal.purge(_ours(settings, each.name), each.first)
        advance(1)


def _ours(settings: Settings, name: str) -> Stream:
    stream = Stream.parse(name)
    if stream.env != settings.env:
        raise CallerError(f"{name} is not a stream of {settings.env}")
    return stream


def _delete_objects(storage: Storage, prefix: str, advance: Callable[[int], object]) -> None:
    """Manifests first, the oldest day first: what no manifest names does not count, and what is left has no hole."""
    manifests: list[str] = []
    others: list[str] = []
    for found in storage.list(prefix):
        (manifests if found.key.endswith("/manifest.json") else others).append(found.key)
    for key in manifests:
        storage.delete(key)
        advance(1)
    with ThreadPoolExecutor(_DELETERS) as pool:
        for _ in pool.map(storage.delete, others):
            advance(1)


# --- one day --------------------------------------------------------------------------------------------------------------------


async def find_day(settings: Settings, backends: Backends, clock: Clock, day: int) -> list[Doomed]:
    """What `day` has of archive and market entries, in the order in which it is deleted.

    Raises `CallerError` where that would leave a hole, or a state that nothing can be folded from.
    """
    if day >= day_rule(settings).day_of(clock.wall_ns()):
        raise CallerError(f"{iso(day)} is not over in {settings.environment.schedule.timezone}: nothing was deleted; name a past day")
    env, storage = settings.env, backends.storage
    found: list[Doomed] = []
    for stream in [s for s in await _streams(settings, backends) if s.is_market]:
        await asyncio.to_thread(_check_archive, storage, stream, day)
        if backends.journal and (entries := await _entries(backends.journal, stream, day)):
            found.append(entries)
    for feed in await asyncio.to_thread(storage.folders, env):
        if not feed.startswith("_"):
            prefix = f"{env}/{feed}/{date_name(day)}/"
            if objects := await asyncio.to_thread(storage.list, prefix):
                found.append(_objects(prefix, objects))
    return found


async def _streams(settings: Settings, backends: Backends) -> list[Stream]:
    from journal.archive import streams_of

    archived = await asyncio.to_thread(streams_of, backends.storage, settings.env)
    journalled = await backends.journal.streams(settings.env) if backends.journal else []
    return sorted({*archived, *journalled}, key=lambda s: s.name)


def _check_archive(storage: Storage, stream: Stream, day: int) -> None:
    """Raise `CallerError` unless the day's segments are the archive's first ones of the stream."""
    dates = [s.folder.rpartition("/")[2] for s in segments_of(storage, stream, whole=False)]
    wanted = date_name(day)
    if wanted not in dates:
        return
    last = len(dates) - 1 - dates[::-1].index(wanted)
    if before := sorted(set(dates[:last]) - {wanted}):
        raise _in_the_way(f"the archive of {stream.name}", day, before)


def _in_the_way(where: str, day: int, days: list[str]) -> CallerError:
    shown = ", ".join(days[:10]) + (f" and {len(days) - 10} more" if len(days) > 10 else "")
    return CallerError(
        f"{where} has {shown} before entries of {iso(day)}: without it there would be a hole, which readers call corruption; nothing was "
        f"deleted; tear down {days[0]} first, or the whole environment"
    )


async def _entries(journal: Keeper, stream: Stream, day: int) -> Doomed | None:
    """The day's entries, which must be the stream's first ones."""
    info = await journal.info(stream)
    if info is None or info.last < info.first:
        return None
    if stream.shard == INTERLEAVED:
        last, before = await _scan(journal, stream, info.first, day)
    else:
        last, before = await _search(journal, stream, info.first, info.last, day)
    if not last:
        return None
    if before:
        raise _in_the_way(stream.name, day, [date_name(d) for d in sorted(before)])
    if stream.shard != INTERLEAVED and not await _folded(journal, stream, last):
        raise CallerError(
            f"{stream.name} was not folded up to {last}, the last entry of {iso(day)}, so what follows could not be folded without it; "
            f"nothing was deleted; let `ssmd run projector --shard {stream.shard}` catch up first"
        )
    size = info.bytes if last == info.last else None
    return Doomed("entries", stream.name, last - info.first + 1, size, last + 1)


async def _scan(journal: Keeper, stream: Stream, first: int, day: int) -> tuple[int, set[int]]:
    """Last sequence of `day`, and the other days with entries before that one; reads all of the stream."""
    last, others, before = 0, set[int](), set[int]()
    async for records in journal.read(stream, start=first):
        for sequence, entry in records:
            if entry.day == day:
                last, before = sequence, set(others)
            else:
                others.add(entry.day)
    return last, before


async def _search(journal: Keeper, stream: Stream, first: int, last: int, day: int) -> tuple[int, set[int]]:
    """As `_scan`, where days ascend: 40 entries are read."""
    low, high = first, last + 1
    while low < high:
        middle = (low + high) // 2
        if await _day_of(journal, stream, middle) > day:
            high = middle
        else:
            low = middle + 1
    end = low - 1
    if end < first or await _day_of(journal, stream, end) != day:
        return 0, set()
    if await _day_of(journal, stream, first) == day:
        return end, set()
    return end, {d for d in await JournalSource(journal).days(stream) if d < day}


async def _day_of(journal: Keeper, stream: Stream, sequence: int) -> int:
    async for records in journal.read(stream, start=sequence, end=sequence):
        return records[0].entry.day
    raise CallerError(f"{stream.name}:{sequence} is gone: somebody else tears down; run again")


async def _folded(journal: Keeper, stream: Stream, sequence: int) -> bool:
    """Whether a projector could go on behind `sequence`."""
    ledger = await Ledger.read(JournalSource(journal), stream)
    return any(next(iter(c.values())).digest.sequence >= sequence for c in ledger.resumable(create()))


async def note_day(settings: Settings, clock: Clock, journal: Keeper, *, day: int, doomed: list[Doomed], who: str) -> None:
    """Journal that the day was torn down, before it is: the same words are not said twice."""
    data = canonical_json({"date": iso(day), "deleted": [{"kind": d.kind, "name": d.name, "count": d.total} for d in doomed]})
    await say(journal, settings.env, iso(day), Event(EVENT, data, who, "env teardown"), clock=clock, days=day_rule(settings))
