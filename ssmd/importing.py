"""`ssmd data import` as a whole: check, append, archive, fold."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from exchanges.venues import load, venue
from journal.clock import Clock
from journal.errors import CallerError
from journal.protocols import Journal
from journal.subjects import Stream
from ssmd.importer import Importer, Report
from ssmd.locks import archiver_lock, held, import_lock
from ssmd.recordings import Recording, begins, examine, find, sound
from ssmd.render import Meter
from ssmd.services.archiver import Archiver
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from ssmd.software import software
from ssmd.wiring import day_rule, open_journal, open_objects, open_source

_LARGE = 100_000  # lines; below it starting a second process costs more than it saves


async def import_recordings(
    settings: Settings, clock: Clock, rng: random.Random, feed: str, *, paths: Sequence[Path], meter: Meter, tell: Callable[[str], object]
) -> Report:
    """Raises `CallerError` before anything is appended when a file is damaged; `StoreError` where it stopped: run it again."""
    adapter = load(venue(feed).adapter)
    recordings = check(paths, meter)
    wait = held(import_lock(settings.data_dir), clock, waiting=lambda: tell("another import is running here; waiting for it"))
    async with wait, open_journal(settings, clock) as journal:
        lines = sum(r.lines for r in recordings)
        meter.stage("import", lines)
        importer = Importer(
            journal, clock, rng, env=settings.env, feed=feed, days=day_rule(settings), adapters=lambda: adapter(filtered=True),
            advance=meter.advance,
        )  # fmt: skip
        async with _archiving(settings, worth_it=lines >= _LARGE):
            report = await importer.run(recordings)
        await _finish(settings, clock, journal, importer.stream, report, meter=meter, tell=tell)
    return report


def _elsewhere(paths: Sequence[Path], files: Sequence[Path]) -> str:
    """Where in the folders that were named there are recordings, if not everywhere."""
    known = {f: begins(f) for f in files}
    found = [f for path in paths if path.is_dir() for f in sound(path, known) if f != path]
    return f". Name what is a recording: {', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''}" if found else ""


@asynccontextmanager
async def _archiving(settings: Settings, *, worth_it: bool) -> AsyncIterator[None]:
    """An archiver beside us while we append: it needs a core of its own about as long. What it leaves is archived afterwards."""
    if not worth_it:
        yield
        return
    environ = {**os.environ, **settings.environ(), "SSMD_PARENT": str(os.getpid())}  # it ends with us, however we end
    helper = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ssmd.cli", "run", "archiver", env=environ, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            helper.terminate()
        await helper.wait()


def check(paths: Sequence[Path], meter: Meter) -> list[Recording]:
    """Every file read to its end."""
    files = find(paths)
    meter.stage("check", sum(f.stat().st_size for f in files))
    try:
        recordings = [examine(f, meter.advance) for f in files]
    except CallerError as error:
        raise CallerError(f"{error}{_elsewhere(paths, files)}") from None
    if not any(r.lines for r in recordings):
        raise CallerError(f"{', '.join(map(str, paths[:3]))}: nothing to import, no file has a line")
    return recordings


async def _finish(
    settings: Settings, clock: Clock, journal: Journal, stream: Stream, report: Report, *, meter: Meter, tell: Callable[[str], object]
) -> None:
    """Archive the import and fold its days; both go on where an interrupted import left them."""
    projector = Projector(journal, open_objects(settings), stream, clock)
    async with held(archiver_lock(settings.data_dir, settings.env), clock, waiting=None) as ours:
        archiver = Archiver(journal, open_objects(settings), settings.env, clock, software=software())
        if ours:
            await _archive(archiver, journal, stream, meter, "archive")
        else:
            tell("an archiver is running: it archives this import")
        meter.stage("fold", 0)
        async with open_source(settings, clock) as source:
            await projector.run_days(source, report.days)
        if ours:
            await _archive(archiver, journal, projector.system, meter, "archive digests")


async def _archive(archiver: Archiver, journal: Journal, stream: Stream, meter: Meter, stage: str) -> None:
    info = await journal.info(stream)
    meter.stage(stage, 0)
    await archiver.catch_up({stream: info.last if info else 0})
