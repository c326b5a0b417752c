"""What `ssmd day` refuses, by name, before anything is started; and what operators may ask for."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from journal.errors import CallerError
from ssmd.cli import main
from ssmd.commands.day import day as commands
from ssmd.commands.day_desk import Desk, taken
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.documents import failing, line, readable
from ssmd.day.operations import Operator
from ssmd.day.processes import ChildProcesses
from ssmd.day.runner import runner_held, runner_lives
from ssmd.day.starting import plan_start
from ssmd.local_run import Venue
from ssmd.metadata.environment import Schedule
from tests.cli.schema import check
from tests.day.captures import Capture


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SSMD_ENV", "SSMD_NATS", "SSMD_NATS_TOKEN", "SSMD_STORAGE", "SSMD_PROJECT", "SSMD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSMD_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_what_cannot_be_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    for args, said in (
        (["status", "nope"], "no environment 'nope'"),
        (["start", "--mode", "replay", "--from", "."], "name it with --date"),
        (["start", "--mode", "replay", "--date", "2020-01-01"], "needs --from PATH, or --from-env NAME"),
        (["start", "--mode", "replay", "--date", "2020-01-01", "--from", ".", "--from-env", "x"], "needs --from PATH, or --from-env NAME"),
        (["start", "--mode", "replay", "--date", "2020-01-01", "--from-env", "nope"], "no environment 'nope'"),
        (["start", "--mode", "replay", "--date", "2020-01-01", "--from-env", "local"], "this environment's own archive"),
        (["start", "--mode", "replay", "--date", "today", "--from", "."], "is not over before"),
        (["start", "--mode", "replay", "--date", tomorrow, "--from", "."], f"{tomorrow} is in the future"),
        (["start", "--mode", "replay", "--date", "2020-01-02", "--from", "/nowhere"], "no such file or folder"),
        (["show", "local", "2020-01-02"], "no day of local '2020-01-02'"),  # what is refused was never asked
        (["start", "--from", "."], "are for --mode replay"),
        (["start", "--date", tomorrow], f"{tomorrow} is in the future"),
        (["start", "--date", "2020-01-01"], "2020-01-01 has gone by, and live frames are of "),
        (["start", "--date", "2020-13-01"], "is not a date"),
        (["end"], "is PENDING: it cannot become ENDING, only STARTING; it was never started: ssmd day start"),
        (["roll"], "no day is ACTIVE"),
        (["show", "local", "2020-01-01"], "no day of local '2020-01-01'"),
        (["run", "--sim", "/nowhere"], "no such file or folder"),
    ):
        assert main(["day", *args]) == 2, args
        assert said in capsys.readouterr().err, args
    assert not (data / "logs").exists(), "no process was started"


def test_a_schedule_needs_no_journal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["day", "schedule", "--limit", "3", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    check("day_schedule", rows)
    assert [r["what"] for r in rows] == ["end", "start", "end"]
    assert not data.exists()


def test_every_command_has_examples() -> None:
    for name, command in commands.commands.items():
        assert command.epilog, name
        assert f"ssmd day {name}" in command.epilog


def operator(c: Capture, who: str = "ana") -> Operator:
    return Operator(c.register(), c.calendar, c.clock, who)


def test_start_twice_and_start_beside_an_older_day(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        c.midnight_in(3600)
        today = await operator(c).start(None)
        with pytest.raises(CallerError, match=r"is STARTING since .* by ana.*; a runner carries it out"):
            await operator(c, "bob").start(today)
        await c.register().move(today, State.ACTIVE, who="runner")
        with pytest.raises(CallerError, match="it cannot become STARTING, only ENDING or ERROR"):
            await operator(c, "bob").start(None)
        with pytest.raises(CallerError, match=r"is today's day; .* begins at .*Z. `ssmd day end` ends it early"):
            await operator(c).roll()
        c.clock.ahead_ns += 2 * 3600 * 10**9
        with pytest.raises(CallerError, match=r"is ACTIVE since .*`ssmd day roll` goes on to"):
            await operator(c).start(None)
        assert await operator(c).roll() == (today, today + timedelta(days=1))
        # The clock is set back: the day that has begun stays, and its past is no day to start.
        c.clock.ahead_ns -= 2 * 3600 * 10**9
        with pytest.raises(CallerError, match="is in the future"):
            await operator(c).start(today + timedelta(days=1))

    asyncio.run(run())


def test_between_two_days_none_is_started(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path, Schedule(day_start="10:00", day_end="09:00"))
        c.midnight_in(1800)  # to the start of the next: half an hour after the end
        with pytest.raises(CallerError, match=r"is over since .*T09:00:00Z; the next day begins at .*T10:00:00Z"):
            await operator(c).start(None)

    asyncio.run(run())


def test_an_end_is_of_the_oldest_active_day_and_a_second_operator_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        register = c.register()
        today = c.calendar.today(c.clock.wall_ns())
        for day in (today, today - timedelta(days=1)):
            await register.move(day, State.STARTING, who="x")
            await register.move(day, State.ACTIVE, who="x")
        assert await operator(c).end(None, force=False) == today - timedelta(days=1)
        both: list[Any] = await asyncio.gather(
            *(operator(c, who).end(today, force=False) for who in ("ana", "bob")), return_exceptions=True
        )
        (refused,) = [b for b in both if isinstance(b, CallerError)]
        assert "by ana" in str(refused) or "by bob" in str(refused)

    asyncio.run(run())


def test_a_recovery_explains_itself_and_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        register, today = c.register(), c.calendar.today(c.clock.wall_ns())
        await register.move(today, State.STARTING, who="ana")
        for step in ("configuration", "secmaster", "storage"):
            await register.change(today, partial(TradingDay.begin_step, step=step, at_ns=1, who="r", attempt=1), who="r")
            done = partial(TradingDay.end_step, step=step, at_ns=2, who="r", attempt=1, outcome="done", result={})
            await register.change(today, done, who="r")
        await register.move(today, State.ERROR, who="r", why="health: no frame within 30 s")
        (found,) = await operator(c).recoveries({"start": plan_start(c.parts()), "end": []})
        assert (found.state, found.move, found.why) == ("ERROR", "STARTING", "health: no frame within 30 s")
        assert found.done == ["configuration", "secmaster", "storage"]
        assert found.next == ["connector", "archiver", "projector", "gateway", "health"]
        assert (await register.get(today)).state == "ERROR", "asking changes nothing"
        await operator(c).recover(found)
        again = await register.get(today)
        assert (again.state, list(again.done)) == ("STARTING", ["configuration", "secmaster", "storage"])

    asyncio.run(run())


def test_one_runner_lives(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        assert not await runner_lives(c.settings, c.clock)
        async with runner_held(c.settings, c.clock) as mine:
            assert mine
            assert await runner_lives(c.settings, c.clock)
            async with runner_held(c.settings, c.clock) as second:
                assert not second
        assert not await runner_lives(c.settings, c.clock)

    asyncio.run(run())


def test_of_two_who_ask_at_once_the_runner_carries_out_what_the_other_asked(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        today = c.calendar.today(c.clock.wall_ns())
        other = operator(c, "bob")
        await other.start(None)

        def desk(*, mine: bool) -> Desk:
            return Desk(c.settings, c.clock, c.journal, c.register(), c.calendar, operator(c), mine)

        assert await taken(desk(mine=True), operator(c).start(None), None, "STARTING") == today
        with pytest.raises(CallerError, match="by bob"):
            await taken(desk(mine=False), operator(c).start(None), None, "STARTING")
        with pytest.raises(CallerError, match="has gone by"):
            await taken(desk(mine=True), operator(c).start(today - timedelta(days=1)), today - timedelta(days=1), "STARTING")

    asyncio.run(run())


def test_status_tells_processes_that_crash(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        today = await operator(c).start(None)
        processes = ChildProcesses(c.settings, c.clock, c.journal, Venue(None), "runner@test")
        for name, what in (("connector", "started"), ("connector", "crashed"), ("archiver", "crashed"), ("archiver", "started")):
            processes._note(name, what, 7, 1 if what == "crashed" else None)
        await processes.close()
        ill = await failing(c.journal, "local", c.clock.wall_ns())
        assert ill == ["connector crashed 1 times in 10 minutes, see logs/connector.log"], "the archiver runs again"
        day = await c.register().get(today)
        row = line(day, c.clock.wall_ns(), runner=True, failing=ill)
        check("day_status", [row])
        assert row["failing"] == ill[0]
        assert readable([row])[0]["failing"] == ill[0]
        assert "forced" not in readable([row])[0]  # a column that says nothing
        assert await failing(c.journal, "local", c.clock.wall_ns() + 11 * 60 * 10**9) == []

    asyncio.run(run())
