"""`ssmd data import` as a whole: check, append, archive, fold."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from exchanges.kalshi.adapter import KalshiAdapter
from journal.clock import Clock
from journal.errors import CallerError, StoreError
from journal.protocols import Journal
from journal.subjects import Stream
from ssmd.importer import Importer, Report
from ssmd.recordings import Recording, examine, find
from ssmd.render import Meter
from ssmd.services.archiver import Archiver
from ssmd.settings import Settings
from ssmd.wiring import day_rule, open_journal, open_objects

ADAPTERS = {"kalshi": lambda: KalshiAdapter(filtered=True)}
_LOCK_POLL_S = 0.2


async def import_recordings(settings: Settings, clock: Clock, rng: random.Random, feed: str, paths: Sequence[Path], meter: Meter) -> Report:
    """Raises `CallerError` before anything is appended when a file is damaged; `StoreError` where it stopped: run it again."""
    recordings = check(paths, meter)
    async with _alone(settings.data_dir, clock), open_journal(settings, clock) as journal:
        meter.stage("import", sum(r.lines for r in recordings))
        importer = Importer(
            journal, clock, rng, env=settings.env, feed=feed, days=day_rule(settings), adapters=ADAPTERS[feed], advance=meter.advance
        )
        report = await importer.run(recordings)
        await _finish(settings, clock, journal, importer.stream, meter)
    return report


def check(paths: Sequence[Path], meter: Meter) -> list[Recording]:
    """Every file read to its end."""
    files = find(paths)
    meter.stage("check", sum(f.stat().st_size for f in files))
    recordings = [examine(f, meter.advance) for f in files]
    if not any(r.lines for r in recordings):
        raise CallerError(f"{', '.join(map(str, paths[:3]))}: nothing to import, no file has a line")
    return recordings


async def _finish(settings: Settings, clock: Clock, journal: Journal, stream: Stream, meter: Meter) -> None:
    meter.stage("archive", 0)
    storage = open_objects(settings)
    info = await journal.info(stream)
    archiver = Archiver(journal, storage, settings.env, clock)
    await archiver.catch_up({stream: info.last if info else 0})


@asynccontextmanager
async def _alone(data_dir: Path, clock: Clock) -> AsyncIterator[None]:
    """One import at a time in a data directory: they share an archive. The kernel frees the lock of one that was killed."""
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)  # noqa: PTH103  microseconds, in an async function
        lock = os.open(data_dir / "import.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"cannot import into {data_dir}: {error.strerror}; or name another --data-dir") from None
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await clock.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(lock)
