"""The composition root's verbs: open what the settings name. Each is closed when its block ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import time
from typing import TYPE_CHECKING

import click

from journal.clock import Clock
from journal.day import DayRule, iso, to_date
from journal.errors import CallerError, JournalUnavailable, NotFound
from journal.protocols import Cache, Journal, JournalReader, Keeper, Storage
from journal.subjects import Stream
from ssmd.settings import IMPORT, Settings

if TYPE_CHECKING:
    import ssl

    from journal.archive import ArchiveReader
    from journal.link import Access
    from replay.source import Source
    from ssmd.gateway.shared import SharedQuotes
    from ssmd.gateway.view import MarketView
    from ssmd.metadata.environment import Tls
    from ssmd.sharing import SharedView
    from ssmd.temporal.driver import Queue
    from ssmd.temporal.link import Target

_log = logging.getLogger("ssmd")

_TRIES, _RETRY_S = 60, 0.25  # a restarted server reads its streams first
SHARDS = ("0", IMPORT)  # where a symbol or day is looked for when no shard is named


def journal_access(settings: Settings) -> Access:
    """Where the user's NATS is and how to be let in, its keys resolved. Raises `KeyRefused`, `KeyUnavailable`, `CallerError`."""
    from journal.link import Access

    if settings.nats_url:
        url = settings.nats_url
        return Access(lambda: url, token=settings.nats_token.reveal() or None)
    spec, resolver = settings.environment.journal, settings.resolver

    def value(text: str | None) -> str | None:
        return resolver.value(text).reveal() if text else None

    url = value(spec.url) or ""
    tls = _tls(spec.tls) if spec.tls else None
    return Access(
        lambda: url, value(spec.token) or settings.nats_token.reveal() or None, value(spec.user), value(spec.password),
        value(spec.credentials), value(spec.nkey_seed), tls,
    )  # fmt: skip


def _tls(spec: Tls) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=spec.ca)
        if spec.certificate and spec.key:
            context.load_cert_chain(spec.certificate, spec.key)
    except (OSError, ssl.SSLError) as error:
        raise CallerError(f"journal.tls: {spec.ca or ''} {spec.certificate or ''}: {error}; name readable PEM files") from None
    return context


@asynccontextmanager
async def open_journal(settings: Settings, clock: Clock, *, read_only: bool = False) -> AsyncIterator[Keeper]:
    """The server the settings name, else the embedded one of the data directory, started if need be.

    With `read_only` an embedded server is never started for a directory without data; else what happened to keys before there was a journal
    is appended first. Raises `StoreError`, `CallerError`.
    """
    async with _connected(settings, clock, read_only=read_only) as journal:
        if not read_only:
            await _tell_keys(settings, clock, journal)
        yield journal


@asynccontextmanager
async def _connected(settings: Settings, clock: Clock, *, read_only: bool) -> AsyncIterator[Keeper]:
    from journal.jetstream import MAX_STREAM_BYTES, JetStreamJournal

    if not settings.embedded:
        spec = settings.environment.journal
        journal = await JetStreamJournal.connect(
            journal_access(settings), clock, replicas=settings.replicas or spec.replicas,
            max_stream_bytes=spec.max_stream_gib << 30 if spec.max_stream_gib else MAX_STREAM_BYTES,
        )  # fmt: skip
        try:
            yield journal
        finally:
            await journal.close()
        return
    from journal.embedded import embedded_server
    from journal.link import Access

    async with embedded_server(settings.data_dir, clock, read_only=read_only) as server:
        tries = 0
        while True:
            try:
                journal = await JetStreamJournal.connect(Access(lambda: server.url, server.token), clock)
                break
            except JournalUnavailable:
                # It was killed since: its guard, or the next one, starts it again.
                tries += 1
                if tries == _TRIES:
                    raise
                await clock.sleep(_RETRY_S)
        try:
            yield journal
        finally:
            await journal.close()


async def _tell_keys(settings: Settings, clock: Clock, journal: Journal) -> None:
    """Pending key events of this environment, and the keys this process has resolved."""
    if not settings.environment.keys:
        return
    from ssmd.keys.history import flush_outcomes
    from ssmd.keys.pending import append_pending

    days = day_rule(settings)
    try:
        await append_pending(journal, clock, settings.project, settings.env, days=days)
    except (CallerError, OSError) as error:
        # A file that only a person can mend keeps no capture from starting.
        _log.warning("changes of keys are not in the journal yet: %s", error)
    # Without the pid: a process that is started again every minute resolves its keys once an hour.
    await flush_outcomes(journal, clock, settings.env, settings.resolver, process().rpartition(":")[0], days=days)


def process() -> str:
    """This process as histories name it: ``run connector@host:pid``."""
    import os
    import socket

    context = click.get_current_context(silent=True)
    name = context.command_path.removeprefix("ssmd ") if context else "ssmd"
    return f"{name}@{socket.gethostname()}:{os.getpid()}"


def open_objects(settings: Settings) -> Storage:
    """The object storage the settings name, else `objects` in the data directory. Raises `StorageError`, `CallerError`, `KeyRefused`."""
    from journal.storage import open_storage

    spec = settings.environment.storage
    if settings.storage_url or spec.type == "local":
        return open_storage(settings.storage_url or str(settings.local_objects))
    from journal.s3 import S3Storage

    credentials = {}
    if spec.access_key_id and spec.secret_access_key:
        credentials["aws_access_key_id"] = settings.resolver.value(spec.access_key_id).reveal()
        credentials["aws_secret_access_key"] = settings.resolver.value(spec.secret_access_key).reveal()
    endpoint = settings.resolver.value(spec.endpoint).reveal() if spec.endpoint else None
    region = settings.resolver.value(spec.region).reveal() if spec.region else None
    return S3Storage(spec.bucket or "", spec.prefix, endpoint=endpoint, region=region, **credentials)


def open_cache(settings: Settings) -> Cache:
    """The cache the environment names; it connects when it is used. Raises `CallerError`, `KeyRefused`, `KeyUnavailable`."""
    from journal import cache

    spec, resolver = settings.environment.cache, settings.resolver
    url = resolver.value(spec.url).reveal() if spec.url else ""
    return cache.open_cache(spec.type, url, resolver.value(spec.password).reveal() if spec.password else None)


@asynccontextmanager
async def open_views(settings: Settings, clock: Clock, journal: Journal) -> AsyncIterator[list[SharedView]]:
    """The views that are kept for other programs: of markets and of days where the environment's cache is Redis, else none."""
    if settings.environment.cache.type != "redis":
        yield []
        return
    from journal.archive import ArchiveReader
    from ssmd.day.shared import SharedDays
    from ssmd.secmaster.reading import History
    from ssmd.secmaster.shared import SharedMarkets
    from ssmd.sharing import Folding, SharedView

    archive = ArchiveReader(open_objects(settings), settings.env, clock) if settings.archived else None
    foldings: list[Folding] = [SharedMarkets(settings.env), SharedDays(settings.env)]
    cache = open_cache(settings)
    try:
        yield [
            SharedView(cache, settings.env, f, History(Stream(settings.env, domain=f.name), journal, archive), clock, draw=_draw)
            for f in foldings
        ]
    finally:
        await cache.close()


def _draw() -> str:
    import random

    return random.SystemRandom().randbytes(8).hex()


@asynccontextmanager
async def open_quotes(settings: Settings, clock: Clock, journal: Journal, views: Sequence[MarketView]) -> AsyncIterator[list[SharedQuotes]]:
    """The gateway's views for other programs, one a shard, where the environment's cache is Redis, else none."""
    if settings.environment.cache.type != "redis":
        yield []
        return
    from ssmd.gateway.shared import SharedQuotes

    cache = open_cache(settings)
    try:
        yield [SharedQuotes(cache, settings.feed, views, journal, clock, at=at, draw=_draw) for at in range(len(views))]
    finally:
        await cache.close()


@asynccontextmanager
async def open_temporal(settings: Settings) -> AsyncIterator[Queue]:
    """The task queue of the Temporal that drives the environment's days. Raises `TemporalUnavailable` within seconds, and `CallerError`."""
    target = _temporal_target(settings)
    from ssmd.temporal.driver import Queue
    from ssmd.temporal.link import connected
    from ssmd.temporal.orders import default_queue

    async with connected(target) as client:
        yield Queue(client, target, settings.environment.scheduler.task_queue or default_queue(settings.env))


def _temporal_target(settings: Settings) -> Target:
    """Raises `CallerError` without its client, `KeyRefused`, `KeyUnavailable`."""
    try:
        from temporalio.service import TLSConfig
    except ImportError:
        raise CallerError(
            f"scheduler.type of {settings.env} is temporal, and its client is not installed: pip install 'ssmd-stream[temporal]'"
        ) from None
    from pathlib import Path

    from ssmd.keys.secret import Secret
    from ssmd.temporal.link import Target

    spec, resolver = settings.environment.scheduler, settings.resolver

    def file(path: str | None) -> bytes | None:
        try:
            return Path(path).read_bytes() if path else None
        except OSError as error:
            raise CallerError(f"scheduler.tls: {path}: {error.strerror}; name readable PEM files") from None

    tls = TLSConfig() if spec.api_key else None
    if spec.tls:
        tls = TLSConfig(
            server_root_ca_cert=file(spec.tls.ca), client_cert=file(spec.tls.certificate), client_private_key=file(spec.tls.key)
        )
    address = resolver.value(spec.address or "").reveal()
    return Target(address, spec.address or "", spec.namespace, tls, resolver.value(spec.api_key) if spec.api_key else Secret(""))


def day_rule(settings: Settings) -> DayRule:
    """When the environment's trading days begin."""
    schedule = settings.environment.schedule
    return DayRule(schedule.timezone, time.fromisoformat(schedule.day_start))


@asynccontextmanager
async def open_readers(settings: Settings, clock: Clock, kind: str = "auto") -> AsyncIterator[tuple[Keeper | None, ArchiveReader | None]]:
    """What whole days are read from: the ``archive`` alone, the ``journal`` alone, or (``auto``) both.

    A data directory that has an archive and no journal is read from its archive. Raises `NotFound` when it has neither.
    """
    from journal.archive import ArchiveReader
    from journal.embedded import has_data

    archive = ArchiveReader(open_objects(settings), settings.env, clock) if settings.archived else None
    if kind == "archive" or (kind == "auto" and archive and settings.embedded and not has_data(settings.data_dir)):
        if not archive:
            raise NotFound("archive in", settings.storage)
        yield None, archive
        return
    async with open_journal(settings, clock, read_only=True) as journal:
        yield journal, archive if kind == "auto" else None


@asynccontextmanager
async def open_source(settings: Settings, clock: Clock, kind: str = "auto") -> AsyncIterator[Source]:
    """Whole days from what `open_readers` opens: the archive as far as it goes, then the journal. Raises `NotFound`."""
    async with open_readers(settings, clock, kind) as (journal, archive):
        yield source_of(journal, archive)


def source_of(journal: JournalReader | None, archive: ArchiveReader | None, *, chosen: bool = False) -> Source:
    """One of them may be None. `chosen`: as of `JournalSource`."""
    from replay.source import ArchiveSource, JoinedSource, JournalSource

    if journal is None:
        assert archive is not None  # noqa: S101  one of them may be None
        return ArchiveSource(archive)
    return JoinedSource(archive, journal, chosen=chosen) if archive else JournalSource(journal, chosen=chosen)


async def choose_stream(source: Source, settings: Settings, shard: str | None, day: int) -> Stream:
    """The stream of `shard`; without one, of the first of shards 0 and import that has the day. Raises `NotFound`, with near days."""
    return (await _having(source, settings, [shard] if shard else SHARDS, day))[0]


async def choose_streams(source: Source, settings: Settings, shard: str | None, day: int) -> list[Stream]:
    """Those of the environment's shards that have the day, else the import. As `choose_stream`."""
    shards = list(dict.fromkeys([*settings.environment.shards, *SHARDS]))
    found = await _having(source, settings, [shard] if shard else shards, day)
    return [s for s in found if s.shard != IMPORT] or found


async def _having(source: Source, settings: Settings, shards: Sequence[str], day: int) -> list[Stream]:
    streams = [Stream(settings.env, shard=shard) for shard in shards]
    days = {stream: await source.days(stream) for stream in streams}
    if found := [stream for stream in streams if day in days[stream]]:
        return found
    known = sorted({d for found in days.values() for d in found}, key=lambda d: abs((to_date(d) - to_date(day)).days))[:5]
    raise NotFound(f"day of {' or '.join(s.name for s in streams)}:", iso(day), [iso(d) for d in sorted(known)])
