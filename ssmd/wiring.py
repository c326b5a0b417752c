"""The composition root's verbs: open what the settings name. Each is closed when its block ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from journal.clock import Clock
from journal.day import DayRule, iso, to_date
from journal.errors import JournalUnavailable, NotFound
from journal.protocols import Journal, Storage
from journal.subjects import Stream
from ssmd.settings import IMPORT, Settings

if TYPE_CHECKING:
    from replay.source import Source

_TRIES, _RETRY_S = 60, 0.25  # a restarted server reads its streams first
SHARDS = ("0", IMPORT)  # where a symbol or day is looked for when no shard is named


@asynccontextmanager
async def open_journal(settings: Settings, clock: Clock, *, read_only: bool = False) -> AsyncIterator[Journal]:
    """The server the settings name, else the embedded one of the data directory, started if need be.

    With `read_only` an embedded server is never started for a directory without data. Raises `StoreError`, `CallerError`.
    """
    from journal.jetstream import JetStreamJournal

    if settings.nats_url:
        journal = await JetStreamJournal.connect(settings.nats_url, clock, token=settings.nats_token or None, replicas=settings.replicas)
        try:
            yield journal
        finally:
            await journal.close()
        return
    from journal.embedded import embedded_server

    async with embedded_server(settings.data_dir, clock, read_only=read_only) as server:
        tries = 0
        while True:
            try:
                journal = await JetStreamJournal.connect(lambda: server.url, clock, token=server.token)
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


def open_objects(settings: Settings) -> Storage:
    """The object storage the settings name, else `objects` in the data directory. Raises `StorageError`, `CallerError`."""
    from journal.storage import open_storage

    return open_storage(settings.storage)


def day_rule(settings: Settings) -> DayRule:
    """When the environment's trading days begin."""
    return DayRule(settings.timezone)


@asynccontextmanager
async def open_source(settings: Settings, clock: Clock, kind: str = "auto") -> AsyncIterator[Source]:
    """Whole days: from the ``archive`` alone, the ``journal`` alone, or (``auto``) the archive as far as it goes, then the journal.

    A data directory that has an archive and no journal is read from its archive. Raises `NotFound` when it has neither.
    """
    from journal.archive import ArchiveReader
    from journal.embedded import has_data
    from replay.source import ArchiveSource, JoinedSource, JournalSource

    archived = settings.archived
    if kind == "archive" or (kind == "auto" and archived and not settings.nats_url and not has_data(settings.data_dir)):
        if not archived:
            raise NotFound("archive in", settings.storage)
        yield ArchiveSource(ArchiveReader(open_objects(settings), settings.env, clock))
        return
    async with open_journal(settings, clock, read_only=True) as journal:
        if kind == "journal" or not archived:
            yield JournalSource(journal)
        else:
            yield JoinedSource(ArchiveReader(open_objects(settings), settings.env, clock), journal)


async def choose_stream(source: Source, settings: Settings, shard: str | None, day: int) -> Stream:
    """The stream of `shard`; without one, of the first of shards 0 and import that has the day. Raises `NotFound`, with near days."""
    streams = [Stream(settings.env, shard=s) for s in ([shard] if shard else SHARDS)]
    days = {stream: await source.days(stream) for stream in streams}
    for stream in streams:
        if day in days[stream]:
            return stream
    known = sorted({d for found in days.values() for d in found}, key=lambda d: abs((to_date(d) - to_date(day)).days))[:5]
    raise NotFound(f"day of {' or '.join(s.name for s in streams)}:", iso(day), [iso(d) for d in sorted(known)])
