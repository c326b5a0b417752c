"""A day that nobody captured, made from another environment's archive or from recordings; what is refused; killed anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal.day import to_int
from journal.entry import Control, Entry, control
from journal.errors import CallerError, NotFound
from journal.memory import MemoryJournal
from journal.storage import open_storage
from journal.subjects import Stream
from ssmd.day.activity import Work
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.backfill import backfilling, captured, carry_out
from ssmd.day.documents import brief, line, summary, whole
from ssmd.day.operations import Operator
from ssmd.day.record import read_record
from ssmd.day.register import facts
from ssmd.day.runner import Runner
from ssmd.day.supply import Archive, Recordings, open_supply
from ssmd.metadata.environment import Schedule
from ssmd.services.archiver import Archiver
from tests.cli.recorded import market as recorded
from tests.cli.recorded import write
from tests.cli.schema import check
from tests.day.captures import Capture
from tests.day.driver_contract import Killed
from tests.replay.test_replay import market

DAY = date(2026, 8, 10)
IMPORT = Stream("local", shard="import")
STEPS = ["configuration", "storage", "source", "entries", "archive", "fold", "flush", "verify", "record"]


async def archived(directory: Path, entries: list[Entry], env: str = "prod", shards: int = 1) -> str:
    """An archive on disk of an environment that captured `entries`, dealt out to its shards by symbol; its URL."""
    journal, storage = MemoryJournal(), open_storage(str(directory))
    for number in range(shards):
        stream = Stream(env, shard=str(number) if not number else f"s{number}")
        await journal.ensure(stream, "kalshi")
        theirs = [e for e in entries if not e.symbol or isinstance(e.body, Control) or ord(e.symbol[0]) % shards == number]
        lease = Entry(control("lease", {}), "kalshi", "writer-connector", b"l" * 16, number, 1, 1, entries[0].effective_ns, entries[0].day)
        own = [msgspec.structs.replace(e, epoch=bytes([number]) * 16) if isinstance(e.body, Control) else e for e in theirs]
        for at in range(0, len(own), 900):
            await journal.append(stream, [*([] if at else [lease]), *own[at : at + 900]])
    await Archiver(journal, storage, env, Capture(directory).clock).catch_up()
    return str(directory)


def operator(c: Capture, who: str = "ana") -> Operator:
    return Operator(c.register(), c.calendar, c.clock, who)


async def asked(c: Capture, source: dict[str, str], day: date = DAY) -> None:
    supply = open_supply(c.settings, c.clock, source)
    await operator(c).replay(day, supply.facts, lambda: captured(c.parts(), day))


async def made(c: Capture, source: dict[str, str], day: date = DAY, tell: Callable[[str], object] = lambda _: None) -> TradingDay:
    await asked(c, source, day)
    return await carry_out(c.parts(), c.register(), day, "backfill@test", tell, asker="ana")


def work_of(day: date) -> Work:
    return Work(day, "key", "ana", forced=False)


async def entries_of(c: Capture) -> list[Entry]:
    return [e async for records in c.journal.read(IMPORT) for _, e in records]


def facts_of(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.id,
        entry.body,
        entry.symbol,
        entry.raw,
        entry.recv_ns,
        entry.effective_ns,
        entry.day,
        entry.venue_seq,
        entry.subscription,
    )


def not_ours(entries: list[Entry]) -> list[Entry]:
    return [e for e in entries if not (isinstance(e.body, Control) and e.body.action == "lease")]


def test_a_missed_day_is_made_from_another_environments_archive(tmp_path: Path) -> None:
    async def run() -> None:
        c, entries = Capture(tmp_path), market(600, days=2)
        url = await archived(tmp_path / "prod", entries)
        source = {"environment": "prod", "storage": url}
        found = await made(c, source)
        assert (found.state, found.mode, found.source) == ("COMPLETE", "replay", source)
        ours = [e for e in entries if e.day == to_int(DAY)]
        assert [e.id for e in not_ours(await entries_of(c)) if not isinstance(e.body, Control)] == [
            e.id for e in ours if not isinstance(e.body, Control)
        ]
        assert {facts_of(e)[1:] for e in not_ours(await entries_of(c))} == {facts_of(e)[1:] for e in ours}
        body = read_record(c.storage.get(found.record), found.record)["body"]
        assert (body["mode"], body["source"], body["verified"]) == ("replay", source, True)
        (stream,) = body["streams"]
        assert stream["stream"] == "local_md_import"
        assert stream["states"].keys() == {"book", "coverage", "status", "ticker", "trades"}
        document = await whole(found, await facts(c.journal, "local", DAY), c.calendar, c.journal, c.storage)
        check("day_show", document)
        assert (document["mode"], document["late_entries"], summary(document)["source"]) == ("replay", 0, f"prod, {url}")
        check("day_status", [line(found, c.clock.wall_ns(), runner=False)])
        assert brief(found, await facts(c.journal, "local", DAY))["started_by"] == "ana"
        # The next day opens with what this one closes with, and nothing of the first is made again.
        second = await made(c, source, DAY + timedelta(days=1))
        assert second.state == "COMPLETE"
        assert len(not_ours(await entries_of(c))) == len(entries)
        with pytest.raises(CallerError, match=r"is COMPLETE .* cannot become STARTING"):
            await asked(c, source)

    asyncio.run(run())


def test_shards_of_the_source_come_together_as_one_day(tmp_path: Path) -> None:
    async def run() -> None:
        one, two = Capture(tmp_path / "one"), Capture(tmp_path / "two")
        entries = market(400, days=1)
        states = []
        for c, shards in ((one, 1), (two, 2)):
            url = await archived(tmp_path / f"prod{shards}", entries, shards=shards)
            found = await made(c, {"environment": "prod", "storage": url})
            assert found.state == "COMPLETE"
            body = read_record(c.storage.get(found.record), found.record)["body"]
            states.append({k: v for k, v in body["streams"][0]["states"].items() if k != "coverage"})
            opened = [e for e in await entries_of(c) if isinstance(e.body, Control) and e.body.action == "day_opened"]
            assert len(opened) == 1
        assert states[0] == states[1]

    asyncio.run(run())


def test_killed_at_every_step_it_comes_to_the_same_states(tmp_path: Path) -> None:
    async def run() -> None:
        entries = market(900, days=1)
        url = await archived(tmp_path / "prod", entries)
        source = {"environment": "prod", "storage": url}
        whole_one = await made(Capture(tmp_path / "a"), source)
        c, left = Capture(tmp_path / "b"), list(STEPS)

        def tell(text: str) -> None:
            if left and text.endswith(f" {left[0]}: …"):
                left.pop(0)
                raise Killed

        while left:
            with pytest.raises(Killed):
                await made(c, source, tell=tell)
            assert (await c.register().get(DAY)).state in {"STARTING", "ENDING"}
        found = await made(c, source)
        assert found.state == "COMPLETE"
        ids = [e.id for e in not_ours(await entries_of(c))]
        assert len(ids) == len(set(ids)) == len(entries)
        assert found.done["verify"]["states"] == whole_one.done["verify"]["states"]

    asyncio.run(run())


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_killed_between_two_appends_it_goes_on(tmp_path: Path, after: int) -> None:
    class Dying(MemoryJournal):
        left = after

        async def append(self, stream: Stream, entries: Any, fence: Any = None) -> list[int]:
            if stream == IMPORT:
                self.left -= 1
                if self.left < 0:
                    raise Killed
            return await super().append(stream, entries, fence)

    async def run() -> None:
        entries = market(2_500, days=1)
        source = {"environment": "prod", "storage": await archived(tmp_path / "prod", entries)}
        c = Capture(tmp_path / "c")
        c.journal = dying = Dying()
        with pytest.raises(Killed):
            await made(c, source)
        dying.left = 1 << 30
        assert len(not_ours(await entries_of(c))) == 1_000 * max(0, after - 1), "the first is the lease"
        assert (await made(c, source)).state == "COMPLETE"
        assert [facts_of(e)[1:] for e in not_ours(await entries_of(c))] == [facts_of(e)[1:] for e in entries]

    asyncio.run(run())


def test_a_missed_day_is_made_from_recordings_and_twice_is_once(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        path = write(tmp_path / "events" / "day.ndjson", recorded("A"))
        supply = Recordings(c.settings, c.clock, path)
        found = await made(c, supply.facts)
        assert (found.state, found.source) == ("COMPLETE", {"recording": str(path.absolute())})
        count = len(await entries_of(c))
        assert count > 20
        work = work_of(DAY)
        report = await supply.bring(c.journal, work)
        assert report["already_there"] == report["frames"]
        with pytest.raises(NotFound, match="nearest: 2026-08-10"):
            await supply.check(work_of(date(2026, 8, 1)))

    asyncio.run(run())


def test_what_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        c, entries = Capture(tmp_path), market(60, days=1)
        source = {"environment": "prod", "storage": await archived(tmp_path / "prod", entries)}
        today = c.calendar.today(c.clock.wall_ns())
        for day, what in ((today + timedelta(days=2), "is in the future"), (today, "is not over before")):
            with pytest.raises(CallerError, match=what):
                await asked(c, source, day)
        with pytest.raises(CallerError, match="no environment 'nobody'; known: "):
            Archive(c.settings, c.clock, "nobody", "")
        with pytest.raises(CallerError, match="this environment's own archive"):
            Archive(c.settings, c.clock, "local", "")
        with pytest.raises(CallerError, match="no user or password"):
            Archive(c.settings, c.clock, "prod", "s3://me:secret@bucket")
        # The source has no such day: an error of the step, which names near ones, and another source may be named.
        lacking = await made(c, source, DAY - timedelta(days=2))
        assert lacking.state == "ERROR"
        assert "2026-08-10" in lacking.why
        # While it is under way, it is of that source.
        await asked(c, source)
        other = {"environment": "prod", "storage": str(tmp_path / "elsewhere")}
        with pytest.raises(CallerError, match=r"2026-08-10 is STARTING from prod, .*/prod, by ana; go on with that"):
            await asked(c, other)
        with pytest.raises(CallerError, match="ends by itself"):
            await operator(c).end(DAY, force=False)
        with pytest.raises(CallerError, match="ssmd day recover"):
            await Runner(c.parts(), c.register(), "runner", lambda _: None).carry_out(DAY)
        async with backfilling(c.settings, c.clock):
            with pytest.raises(CallerError, match="another process makes a day"):
                async with backfilling(c.settings, c.clock):
                    pass

    asyncio.run(run())


def test_a_day_that_was_captured_is_not_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        c, entries = Capture(tmp_path), market(60, days=1)
        source = {"environment": "prod", "storage": await archived(tmp_path / "prod", entries)}
        zero = Stream("local", shard="0")
        await c.journal.ensure(zero, "kalshi")
        await c.journal.append(zero, [e for e in entries if isinstance(e.body, Control)])
        assert await captured(c.parts(), DAY) == "", "a connector that captured no frame"
        frames = [msgspec.structs.replace(e, raw=b"{}") for e in entries[1:]]
        await c.journal.append(zero, frames)
        with pytest.raises(CallerError, match=r"2026-08-10 was captured live: local_md_0 has 61 entries of it"):
            await asked(c, source)

    asyncio.run(run())


def test_a_schedule_or_a_feed_that_is_another_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        entries = market(60, days=1)
        source = {"environment": "prod", "storage": await archived(tmp_path / "prod", entries)}
        c = Capture(tmp_path / "a", Schedule(timezone="America/New_York"))
        found = await made(c, source)
        assert (found.state, found.step) == ("ERROR", "source")
        assert "give both the same timezone and day_start" in found.why
        # From recordings of the same day it can be made all the same: they say when, and not which day.
        c = Capture(tmp_path / "b")
        object.__setattr__(c.settings.environment, "feed", "other")
        with pytest.raises(CallerError, match="prod captured kalshi that day, and local is of other"):
            await Archive(c.settings, c.clock, "prod", source["storage"]).check(work_of(DAY))

    asyncio.run(run())


def test_two_sources_of_one_day_are_not_mixed(tmp_path: Path) -> None:
    async def run() -> None:
        c, entries = Capture(tmp_path), market(60, days=1)
        path = write(tmp_path / "events" / "day.ndjson", recorded("A"))
        work = work_of(DAY)
        await Recordings(c.settings, c.clock, path).bring(c.journal, work)
        found = await made(c, {"environment": "prod", "storage": await archived(tmp_path / "prod", entries)})
        assert found.state == "ERROR"
        assert "from another source already" in found.why
        found = await made(c, {"recording": str(path.absolute())})
        assert found.state == "COMPLETE"

    asyncio.run(run())


def test_a_runner_leaves_it_alone_and_a_live_day_is_started_beside_it(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        source = {"environment": "prod", "storage": await archived(tmp_path / "prod", market(60, days=1))}
        await asked(c, source)
        register, today = c.register(), c.calendar.today(c.clock.wall_ns())
        assert await register.open() == []
        assert [d.day for d in await register.open(mode="")] == ["2026-08-10"]
        assert await operator(c).start(None) == today
        runner = Runner(c.parts(), register, "runner", lambda _: None)
        await runner._look()
        assert runner._states == {today: State.STARTING}

    asyncio.run(run())


@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_a_corrupt_source_is_an_error_by_name_until_it_is_restored(tmp_path: Path, harm: str) -> None:
    async def run() -> None:
        c, source = Capture(tmp_path), {"environment": "prod", "storage": await archived(tmp_path / "prod", market(600, days=1))}
        (path,) = (tmp_path / "prod").rglob("norm/*")
        whole = path.read_bytes()
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        found = await made(c, source)
        assert (found.state, found.step) == ("ERROR", "entries")
        assert path.name in found.why
        path.write_bytes(whole)
        await c.register().move(DAY, State.STARTING, who="ana", kept=True)
        found = await carry_out(c.parts(), c.register(), DAY, "backfill@test", lambda _: None, asker="ana")
        assert (found.state, found.done["verify"]["verified"]) == ("COMPLETE", True)

    asyncio.run(run())
