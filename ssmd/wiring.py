"""The composition root's verbs: open what the settings name. Each is closed when its block ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from journal.clock import Clock
from journal.day import DayRule
from journal.protocols import Journal, Storage
from ssmd.settings import Settings


@asynccontextmanager
async def open_journal(settings: Settings, clock: Clock, *, read_only: bool = False) -> AsyncIterator[Journal]:
    """The server the settings name, else the embedded one of the data directory, started if need be.

    With `read_only` an embedded server is never started for a directory without data. Raises `StoreError`, `CallerError`.
    """
    from journal.jetstream import JetStreamJournal

    if settings.nats_url:
        journal = await JetStreamJournal.connect(settings.nats_url, clock, token=settings.nats_token or None)
        try:
            yield journal
        finally:
            await journal.close()
        return
    from journal.embedded import embedded_server

    async with embedded_server(settings.data_dir, clock, read_only=read_only) as server:
        journal = await JetStreamJournal.connect(server.url, clock, token=server.token)
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
