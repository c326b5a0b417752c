"""The states of a day on a journal in memory, and when days begin and end."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.clock import WallClock
from journal.day import DayRule
from journal.errors import CallerError
from journal.memory import MemoryJournal
from ssmd.day.aggregate import LEGAL, State, TradingDay
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register, facts
from ssmd.metadata.environment import Schedule

DAY = date(2026, 8, 10)
HOUR_NS = 3_600 * 10**9


def register(journal: MemoryJournal) -> Register:
    return Register(journal, WallClock(), "local", DayRule())


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) * 10**9


def test_a_day_goes_through_its_states_and_says_who_why_and_how_long() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        days = register(journal)
        assert (await days.get(DAY)).state == "PENDING"
        assert await days.dates() == []
        await days.move(DAY, State.STARTING, who="ana", why="first day")
        await days.change(DAY, lambda d: d.begin_step("storage", d.since_ns + 5, "runner", 1), who="runner")
        await days.change(DAY, lambda d: d.end_step("storage", d.since_ns + 9, "runner", 1, "done", {"objects": 3}), who="runner")
        await days.move(DAY, State.ACTIVE, who="runner", result={"steps": 1})
        found = await register(journal).get(DAY)  # by another process
        assert (found.state, found.phase, found.round, found.done) == ("ACTIVE", "start", 1, {"storage": {"objects": 3}})
        assert [(f.what, f.who) for f in await facts(journal, "local", DAY)] == [
            ("moved", "ana"), ("step_started", "runner"), ("step_ended", "runner"), ("moved", "runner"),
        ]  # fmt: skip
        ended = (await facts(journal, "local", DAY))[2].detail
        assert (ended["key"], ended["duration_ns"]) == ("local/2026-08-10/start-1/storage", 4)
        assert await days.dates() == [DAY]
        assert [d.day for d in await days.open()] == ["2026-08-10"]

    asyncio.run(run())


def test_what_is_not_legal_is_refused_by_name_and_journals_nothing() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        days = register(journal)
        with pytest.raises(CallerError, match=r"is PENDING: it cannot become ENDING, only STARTING; it was never started"):
            await days.move(DAY, State.ENDING, who="bob")
        assert await days.dates() == []
        await days.move(DAY, State.STARTING, who="ana", why="early")
        with pytest.raises(CallerError, match=r"is STARTING since 20.*Z, by ana \(early\): it cannot become STARTING, only ACT"):
            await days.move(DAY, State.STARTING, who="bob")
        for to in (State.ACTIVE, State.ENDING, State.COMPLETE):
            await days.move(DAY, to, who="ana")
        for to in State:
            with pytest.raises(CallerError, match="only nothing: that is final"):
                await days.move(DAY, to, who="bob")
        assert {f.who for f in await facts(journal, "local")} == {"ana"}

    asyncio.run(run())


def test_of_operators_at_once_one_wins_and_the_others_are_told_who() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        everybody = [register(journal) for _ in range(6)]
        results = await asyncio.gather(
            *(d.move(DAY, State.STARTING, who=f"op{n}@desk") for n, d in enumerate(everybody)), return_exceptions=True
        )
        won = [r for r in results if isinstance(r, TradingDay)]
        assert len(won) == 1
        assert all(f"by {won[0].who}" in str(r) for r in results if r is not won[0])
        assert Counter(f.what for f in await facts(journal, "local")) == {"moved": 1}

    asyncio.run(run())


def test_a_phase_begun_again_keeps_or_forgets_what_was_done_and_force_is_for_ever() -> None:
    day = TradingDay._create(TradingDay.Created, env="local", day="2026-08-10")
    for to in (State.STARTING, State.ACTIVE, State.ENDING):
        day.move(to, 1, "ana", forced=to is State.ENDING)
    day.begin_step("flush", 2, "r", 1)
    day.end_step("flush", 3, "r", 1, "done", {})
    day.begin_step("verify", 4, "r", 1)
    day.end_step("verify", 5, "r", 1, "failed", {})
    key = day.key("verify")
    assert (list(day.done), day.step) == (["flush"], "verify")
    day.move(State.ERROR, 6, "r")
    assert day.legal == (State.ENDING,), "what was ending is not started again"
    day.move(State.ENDING, 7, "ana", kept=True)
    assert (list(day.done), day.forced) == (["flush"], True)
    assert day.key("verify") != key
    day.move(State.FAILED, 8, "r")
    day.move(State.ENDING, 9, "ana")
    assert (day.done, day.forced) == ({}, True)


@given(st.lists(st.sampled_from(State), max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_path_leaves_the_graph(path: list[State]) -> None:
    day, ended = TradingDay._create(TradingDay.Created, env="local", day="2026-08-10"), False
    for to in path:
        before = State(day.state)
        legal = to in LEGAL[before] and not (before is State.ERROR and ended and to is State.STARTING)
        try:
            day.move(to, 1, "x")
        except CallerError:
            assert not legal
        else:
            assert legal
            ended = ended or to is State.ENDING


@pytest.mark.parametrize(
    ("zone", "start", "end", "day", "opens", "over", "hours"),
    [
        ("UTC", "00:00", None, "2026-08-10", "2026-08-10T00:00+00:00", "2026-08-11T00:00+00:00", 24),
        ("UTC", "09:30", "16:00", "2026-08-10", "2026-08-10T09:30+00:00", "2026-08-10T16:00+00:00", 6.5),
        # Over on the next calendar date.
        ("UTC", "18:00", "17:00", "2026-08-10", "2026-08-10T18:00+00:00", "2026-08-11T17:00+00:00", 23),
        ("UTC", "18:00", "18:00", "2026-08-10", "2026-08-10T18:00+00:00", "2026-08-11T18:00+00:00", 24),
        # Clocks change: 23 hours in spring, 25 in autumn.
        ("America/New_York", "00:00", None, "2026-03-08", "2026-03-08T05:00+00:00", "2026-03-09T04:00+00:00", 23),
        ("America/New_York", "00:00", None, "2026-11-01", "2026-11-01T04:00+00:00", "2026-11-02T05:00+00:00", 25),
        ("America/New_York", "18:00", "17:00", "2026-10-31", "2026-10-31T22:00+00:00", "2026-11-01T22:00+00:00", 24),
        ("Europe/Berlin", "00:00", "23:00", "2026-03-29", "2026-03-28T23:00+00:00", "2026-03-29T21:00+00:00", 22),
    ],
)
def test_days_of_a_schedule(  # noqa: PLR0917
    zone: str, start: str, end: str | None, day: str, opens: str, over: str, hours: float
) -> None:
    calendar = Calendar(Schedule(timezone=zone, day_start=start, day_end=end))
    when = date.fromisoformat(day)
    assert (calendar.opens_ns(when), calendar.over_ns(when)) == (ns(opens), ns(over))
    assert calendar.over_ns(when) - calendar.opens_ns(when) == hours * HOUR_NS
    assert calendar.today(ns(opens)) == when
    assert calendar.open(ns(over) - 1)


def test_what_comes_between_a_days_end_and_the_next_start_is_of_the_day_that_is_over() -> None:
    calendar = Calendar(Schedule(day_start="18:00", day_end="17:00"))
    between = ns("2026-08-11T17:30+00:00")
    assert calendar.today(between) == DAY
    assert not calendar.open(between)
    assert calendar.open(ns("2026-08-11T18:00+00:00"))
