"""Teardown of one day: what is left is read, archived, folded, replayed and verified as before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal.archive import ArchiveReader, rebuild
from journal.cache import MemoryCache
from journal.clock import WallClock
from journal.day import iso
from journal.entry import Entry, Event
from journal.errors import CallerError, NotFound
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryJournal, MemoryStorage
from journal.protocols import Storage
from journal.subjects import Stream
from projections.registry import create
from replay.engine import ReplayResult, replay
from replay.source import ArchiveSource, JoinedSource, JournalSource
from ssmd import teardown
from ssmd.services.archiver import Archiver
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from ssmd.teardown import Backends, Doomed
from ssmd.wiring import day_rule
from tests.journal.servers import TOKEN, nats_server
from tests.metadata.backends import contents, settings
from tests.metadata.test_teardown import Dying, DyingJournal, DyingStorage, Killed
from tests.projections.streams import DAY
from tests.replay.test_replay import market

CLOCK = WallClock()
LIVE = Stream("local", shard="0")
IMPORT = Stream("local", shard="import")
SYSTEM = Stream("local", domain="system")
SETTINGS = settings("local", Path("/nowhere"))


async def append(journal: Any, entries: list[Entry], stream: Stream = LIVE) -> None:
    await journal.ensure(stream, "kalshi")
    for at in range(0, len(entries), 200):
        await journal.append(stream, entries[at : at + 200])


async def caught_up(journal: Any, storage: Storage) -> None:
    """Folded and archived to the end, by processes that have just started."""
    await Projector(journal, storage, LIVE, CLOCK, digest_every=40, checkpoint_every=80).catch_up()
    await Archiver(journal, storage, "local", CLOCK).catch_up()


async def torn_down(journal: Any, storage: Storage, day: int, of_it: Settings = SETTINGS) -> list[Doomed]:
    backends = Backends(journal, storage, MemoryCache())
    doomed = await teardown.find_day(of_it, backends, CLOCK, day)
    if doomed:
        await teardown.note_day(of_it, CLOCK, journal, day=day, doomed=doomed, who="me")
    await teardown.delete(of_it, backends, doomed, lambda _: None)
    return doomed


async def verified(journal: Any, storage: Storage, day: int, stream: Stream = LIVE) -> list[ReplayResult]:
    """Of the day from everywhere; each came to every live digest."""
    archive = ArchiveReader(storage, "local", CLOCK)
    results = []
    for source in (JournalSource(journal), ArchiveSource(archive), JoinedSource(archive, journal)):
        result = await replay(source, create(), day=day, stream=stream, clock=CLOCK, storage=storage, verify=True)
        assert result.verify
        assert result.verify.mismatched == 0, result.verify.differences
        results.append(result)
    assert len({(r.entries, r.symbols, tuple(r.digests.items())) for r in results}) == 1
    return results


async def check_the_rest(journal: Any, storage: Storage) -> None:
    """Three days were live; the first is torn down; a fourth begins."""
    days = market(600, days=4)
    await append(journal, [e for e in days if e.day < DAY + 3])
    await caught_up(journal, storage)
    before = await verified(journal, storage, DAY + 1)
    history = [r.entry for rs in [rs async for rs in journal.read(SYSTEM)] for r in rs]
    objects = {o.key for o in storage.list("")}

    doomed = await torn_down(journal, storage, DAY)
    assert [(d.kind, d.name) for d in doomed] == [("entries", "local_md_0"), ("objects", f"local/kalshi/{iso(DAY)}/")]
    assert (doomed[0].total, doomed[0].first) == (151, 152)
    info = await journal.info(LIVE)
    assert info is not None
    assert (info.first, info.last) == (152, 453)
    gone = objects - {o.key for o in storage.list("")}
    assert gone
    assert all(key.startswith(f"local/kalshi/{iso(DAY)}/") for key in gone)
    after = [r.entry for rs in [rs async for rs in journal.read(SYSTEM)] for r in rs]
    assert after[:-1] == history, "domain history stays"
    assert isinstance(after[-1].body, Event)
    told = msgspec.json.decode(after[-1].body.data)
    assert (after[-1].body.type, after[-1].body.who, told["date"]) == ("teardown", "me", iso(DAY))

    assert [r.digests for r in await verified(journal, storage, DAY + 1)] == [r.digests for r in before]
    for source in (JournalSource(journal), ArchiveSource(ArchiveReader(storage, "local"))):
        assert await source.days(LIVE) == [DAY + 1, DAY + 2]
        with pytest.raises(NotFound, match=iso(DAY + 1)):
            await replay(source, create(), day=DAY, stream=LIVE, clock=CLOCK, storage=storage)
    assert await torn_down(journal, storage, DAY) == []

    await append(journal, [e for e in days if e.day == DAY + 3])
    await caught_up(journal, storage)
    for day in (DAY + 1, DAY + 2, DAY + 3):
        await verified(journal, storage, day)
    # All that is left may be read, and a journal made anew of it.
    archive = ArchiveReader(storage, "local")
    assert [r.sequence for rs in [rs async for rs in archive.read(LIVE)] for r in rs] == list(range(152, 605))
    anew = MemoryJournal()
    for stream in await archive.streams("local"):
        await anew.ensure(stream, "kalshi")  # as `env apply` makes them
        for _ in range(2):
            await rebuild(archive, anew, stream, "kalshi")
    again = await anew.info(LIVE)
    assert again is not None
    assert (again.first, again.last) == (152, 604)
    await caught_up(anew, storage)
    await verified(anew, storage, DAY + 2)
    # The next oldest can go too.
    assert len(await torn_down(journal, storage, DAY + 1)) == 2
    await verified(journal, storage, DAY + 2)


def test_the_days_after_it_are_what_they_were() -> None:
    asyncio.run(check_the_rest(MemoryJournal(), MemoryStorage()))


def test_the_days_after_it_are_what_they_were_on_a_real_server(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        journal = await JetStreamJournal.connect(url, CLOCK, token=TOKEN)
        try:
            await check_the_rest(journal, MemoryStorage())
        finally:
            await journal.close()

    with nats_server(tmp_path) as server:
        asyncio.run(check(server.url))


def test_killed_at_any_deletion_it_is_finished_by_running_again() -> None:
    async def check(after: bool) -> None:
        for allowed in range(100):
            journal, storage = DyingJournal(), DyingStorage()
            await append(journal, market(300, days=3))
            await append(journal, [msgspec.structs.replace(e, epoch=b"i" * 16) for e in market(90, days=3)], IMPORT)
            await caught_up(journal, storage)
            journal.dying = storage.dying = Dying(allowed, after=after)
            ended = True
            try:
                await torn_down(journal, storage, DAY)
            except Killed:
                ended = False
            journal.dying = storage.dying = None
            if not ended:
                await torn_down(journal, storage, DAY)
            await verified(journal, storage, DAY + 1)
            assert not storage.list(f"local/kalshi/{iso(DAY)}/")
            for stream, first in ((LIVE, 102), (IMPORT, 32)):
                info = await journal.info(stream)
                assert info is not None
                assert info.first == first
            await append(journal, [e for e in market(404, days=4) if e.day == DAY + 3])
            await caught_up(journal, storage)
            if ended:
                assert allowed == 5, "two purges, a manifest, two objects"
                return

    asyncio.run(check(after=False))
    asyncio.run(check(after=True))


def untouched(journal: MemoryJournal, storage: MemoryStorage, day: int, match: str, of_it: Settings = SETTINGS) -> None:
    async def check() -> None:
        before = await contents(journal, storage, MemoryCache())
        with pytest.raises(CallerError, match=match) as told:
            await torn_down(journal, storage, day, of_it)
        assert "nothing was deleted" in str(told.value)
        assert await contents(journal, storage, MemoryCache()) == before

    asyncio.run(check())


def test_a_day_in_the_middle_is_refused_and_the_older_ones_named() -> None:
    journal, storage = MemoryJournal(), MemoryStorage()

    async def fill() -> None:
        await append(journal, market(300, days=3))
        await caught_up(journal, storage)

    asyncio.run(fill())
    for day in (DAY + 1, DAY + 2):
        untouched(journal, storage, day, rf"(?s)has {iso(DAY)}.* before entries of {iso(day)}.*tear down {iso(DAY)} first")
    # Also where only the archive, or only the journal, has them.
    untouched(MemoryJournal(), storage, DAY + 1, f"the archive of local_md_0 has {iso(DAY)} before")
    untouched(journal, MemoryStorage(), DAY + 1, f"local_md_0 has {iso(DAY)} before")


def test_a_day_that_is_not_over_or_not_folded_is_refused() -> None:
    journal, storage = MemoryJournal(), MemoryStorage()
    asyncio.run(append(journal, market(100, days=2)))
    untouched(journal, storage, DAY, r"was not folded up to 51, .*ssmd run projector --shard 0")
    today = day_rule(SETTINGS).day_of(CLOCK.wall_ns())
    untouched(journal, storage, today, "is not over in UTC")


def test_the_only_day_of_a_stream_and_capture_goes_on() -> None:
    async def check() -> None:
        journal, storage = MemoryJournal(), MemoryStorage()
        days = market(200, days=2)
        await append(journal, [e for e in days if e.day == DAY])
        await caught_up(journal, storage)
        await torn_down(journal, storage, DAY)
        info = await journal.info(LIVE)
        assert info is not None
        assert (info.first, info.last) == (102, 101)
        assert await JournalSource(journal).days(LIVE) == []
        assert await ArchiveReader(storage, "local").streams("local") == [SYSTEM]
        await append(journal, [e for e in days if e.day == DAY + 1])
        await caught_up(journal, storage)
        await verified(journal, storage, DAY + 1)

    asyncio.run(check())


def test_imports_interleave_and_may_come_again() -> None:
    async def check() -> None:
        journal, storage = MemoryJournal(), MemoryStorage()
        first, second = ([e for e in market(120, days=2) if e.day == day] for day in (DAY, DAY + 1))
        await append(journal, first[:20], IMPORT)
        await append(journal, second[:20], IMPORT)
        await append(journal, first[20:], IMPORT)
        await append(journal, second[20:], IMPORT)
        archive = ArchiveReader(storage, "local")
        await Archiver(journal, storage, "local", CLOCK).catch_up()
        projector = Projector(journal, storage, IMPORT, CLOCK, digest_every=20)
        await projector.run_days(JoinedSource(archive, journal))
        for day, other in ((DAY, DAY + 1), (DAY + 1, DAY)):
            with pytest.raises(CallerError, match=f"has {iso(other)} before entries of {iso(day)}"):
                await torn_down(journal, storage, day)

        # A stream whose days are in order, of which the first is imported again.
        journal, storage = MemoryJournal(), MemoryStorage()
        archive = ArchiveReader(storage, "local")
        await append(journal, first + second, IMPORT)
        projector = Projector(journal, storage, IMPORT, CLOCK, digest_every=20)
        await projector.run_days(JournalSource(journal))
        await Archiver(journal, storage, "local", CLOCK).catch_up()
        await torn_down(journal, storage, DAY)
        await verified(journal, storage, DAY + 1, IMPORT)
        await append(journal, first, IMPORT)
        await Archiver(journal, storage, "local", CLOCK).catch_up()
        await Projector(journal, storage, IMPORT, CLOCK, digest_every=20).run_days(JoinedSource(archive, journal), {DAY})
        await Archiver(journal, storage, "local", CLOCK).catch_up()
        for day in (DAY, DAY + 1):
            await verified(journal, storage, day, IMPORT)

    asyncio.run(check())
