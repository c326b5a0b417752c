"""What schedules ask for: thirty days of them, clock changes and jumping clocks included."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ssmd.day.aggregate import State
from ssmd.day.calendar import Calendar
from ssmd.day.schedule import Due, due, upcoming
from ssmd.metadata.environment import Schedule

MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS
DAY = date(2026, 8, 10)


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def live(calendar: Calendar, first_ns: int, hours: int, step_ns: int = 10 * MINUTE_NS) -> tuple[dict[date, State], dict[date, list[int]]]:
    """A runner that carries out at once what is due; when each day was begun, and ended."""
    states: dict[date, State] = {}
    times: dict[date, list[int]] = {}
    for now_ns in range(first_ns, first_ns + hours * HOUR_NS, step_ns):
        for _ in range(3):  # a start, the end that it allows, and nothing more
            found = due(calendar, states, now_ns, first=now_ns == first_ns)
            for move in found:
                states[move.day] = State.ACTIVE if move.to is State.STARTING else State.COMPLETE
                times.setdefault(move.day, []).append(now_ns)
            live_days = [d for d, s in states.items() if s is State.ACTIVE]
            if calendar.continuous and calendar.auto_roll and not any(m.to is State.STARTING for m in found):
                assert len(live_days) == 1, "no instant without a day"
        assert not due(calendar, states, now_ns)
    return states, times


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("first", ["2026-03-01T12:00", "2026-10-20T12:00"])
def test_thirty_days_roll_by_themselves_over_clock_changes(zone: str, first: str) -> None:
    calendar = Calendar(Schedule(timezone=zone))
    states, times = live(calendar, ns(first), 30 * 24)
    days = sorted(states)
    assert days == [days[0] + timedelta(days=n) for n in range(len(days))]
    assert len(days) in {30, 31}
    assert [s for s in states.values() if s is State.ACTIVE] == [State.ACTIVE]
    for day in days[1:-1]:
        begun, ended = times[day]
        assert 0 <= begun - calendar.opens_ns(day) < 10 * MINUTE_NS
        assert begun < ended
        assert ended == times[day + timedelta(days=1)][0], "the next day is begun before this one ends"


def test_a_day_with_an_end_of_its_own_ends_then_and_the_next_begins_later() -> None:
    calendar = Calendar(Schedule(timezone="America/New_York", day_start="18:00", day_end="17:00"))
    _, times = live(calendar, ns("2026-08-10T22:00"), 72)
    assert times[DAY] == [ns("2026-08-10T22:00"), ns("2026-08-11T21:00")]
    assert times[DAY + timedelta(days=1)][0] == ns("2026-08-11T22:00")


def test_without_auto_roll_a_day_ends_when_it_is_over_and_none_begins() -> None:
    states, times = live(Calendar(Schedule(auto_roll=False, day_end="23:00")), ns("2026-08-10T12:00"), 72)
    assert states == {DAY: State.COMPLETE}
    assert times[DAY] == [ns("2026-08-10T12:00"), ns("2026-08-10T23:00")]


def test_without_auto_roll_a_day_that_the_next_one_follows_is_live_until_an_operator_rolls() -> None:
    calendar, following = Calendar(Schedule(auto_roll=False)), DAY + timedelta(days=1)
    states, _ = live(calendar, ns("2026-08-10T12:00"), 72)
    assert states == {DAY: State.ACTIVE}, "capture does not end at midnight because nobody was there"
    now_ns = ns("2026-08-11T09:00")
    assert due(calendar, {DAY: State.ACTIVE, following: State.STARTING}, now_ns) == []
    assert due(calendar, {DAY: State.ACTIVE, following: State.ACTIVE}, now_ns) == [Due(DAY, State.ENDING, f"rolled into {following}")]
    assert {row["by"] for row in upcoming(calendar, now_ns, 4)} == {"operator"}


def test_a_clock_that_is_set_back_begins_nothing() -> None:
    calendar = Calendar(Schedule())
    states = {DAY: State.COMPLETE, DAY + timedelta(days=1): State.ACTIVE}
    assert due(calendar, states, ns("2026-08-10T12:00"), first=True) == []


def test_a_clock_that_jumps_days_ahead_rolls_once() -> None:
    found = due(Calendar(Schedule()), {DAY: State.ACTIVE}, ns("2026-08-15T12:00"))
    assert [(m.day.day, m.to) for m in found] == [(15, State.STARTING)]
    assert found[0].why == "it began at 2026-08-15T00:00:00Z"


@pytest.mark.parametrize(
    ("later", "ends"),
    [(State.STARTING, False), (State.ERROR, False), (State.ACTIVE, True), (State.COMPLETE, True), (State.FAILED, True)],
)
def test_the_old_day_goes_on_until_the_new_one_is_live(later: State, ends: bool) -> None:
    states = {DAY: State.ACTIVE, DAY + timedelta(days=1): later}
    found = due(Calendar(Schedule()), states, ns("2026-08-11T00:05"))
    assert [(m.day, m.to) for m in found] == ([(DAY, State.ENDING)] if ends else [])


def test_a_day_with_an_error_keeps_nobody_from_the_next() -> None:
    found = due(Calendar(Schedule()), {DAY: State.ERROR}, ns("2026-08-11T00:05"))
    assert [(m.day, m.to) for m in found] == [(DAY + timedelta(days=1), State.STARTING)]


def test_what_comes_next_has_the_hours_of_its_day() -> None:
    calendar = Calendar(Schedule(timezone="Europe/Berlin"))
    rows = upcoming(calendar, ns("2026-10-24T12:00"), 6)
    assert [(r["date"], r["what"], r["hours"]) for r in rows] == [
        ("2026-10-24", "end", 24), ("2026-10-25", "start", 25), ("2026-10-25", "end", 25), ("2026-10-26", "start", 24),
        ("2026-10-26", "end", 24), ("2026-10-27", "start", 24),
    ]  # fmt: skip
    by_hand = upcoming(Calendar(Schedule(auto_roll=False)), ns("2026-10-24T12:00"), 2)
    assert [(r["what"], r["by"]) for r in by_hand] == [("end", "operator"), ("start", "operator")]


# --- cron ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("first", ["2026-03-01T12:00", "2026-10-20T12:00", "2026-03-25T12:00"])
def test_thirty_days_by_cron_are_the_weekdays_at_their_own_times_over_clock_changes(zone: str, first: str) -> None:
    calendar = Calendar(Schedule(timezone=zone, start_cron="30 9 * * MON-FRI", end_cron="0 16 * * MON-FRI"))
    _, times = live(calendar, ns(first), 30 * 24)
    days = sorted(times)[1:-1]
    assert len(days) >= 18
    for day in days:
        begun, ended = times[day]
        here = [datetime.fromtimestamp(t / 1e9, UTC).astimezone(ZoneInfo(zone)) for t in (begun, ended)]
        assert day.weekday() < 5
        assert [(h.date(), h.hour, h.minute) for h in here] == [(day, 9, 30), (day, 16, 0)]
    every = [days[0] + timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)]
    assert days == [d for d in every if d.weekday() < 5]


def test_a_start_in_the_hour_that_clocks_skip_is_the_first_instant_after_it() -> None:
    calendar = Calendar(Schedule(timezone="America/New_York", start_cron="30 2 * * *"))
    assert calendar.begins_ns(date(2026, 3, 8)) == ns("2026-03-08T07:00")  # 03:00 EDT
    assert calendar.begins_ns(date(2026, 11, 1)) == ns("2026-11-01T07:30")  # once: 02:30 EST
    doubled = Calendar(Schedule(timezone="America/New_York", start_cron="30 1 * * *"))
    assert doubled.begins_ns(date(2026, 11, 1)) == ns("2026-11-01T05:30"), "the first of two"


def test_a_day_by_cron_is_a_date_and_over_when_the_next_one_opens() -> None:
    calendar = Calendar(Schedule(start_cron="0 9 * * MON-FRI"))
    friday = date(2026, 8, 14)
    assert calendar.begins_ns(friday + timedelta(days=1)) == 0
    assert calendar.over_ns(friday) == ns("2026-08-15T00:00")
    assert not calendar.rolls(friday), "Saturday does not begin: nothing is waited for"
    assert due(calendar, {friday: State.ACTIVE}, ns("2026-08-15T00:00")) == [(friday, State.ENDING, "it is over")]
    assert due(calendar, {friday: State.COMPLETE}, ns("2026-08-15T12:00")) == []
    assert due(calendar, {}, ns("2026-08-17T08:59"), first=True) == []
    assert [m.day for m in due(calendar, {}, ns("2026-08-17T09:00"))] == [date(2026, 8, 17)]


def test_a_cron_at_day_start_rolls_as_day_times_do() -> None:
    calendar = Calendar(Schedule(timezone="America/New_York", start_cron="0 0 * * *"))
    states, _ = live(calendar, ns("2026-03-06T12:00"), 5 * 24)
    assert list(states.values()).count(State.ACTIVE) == 1
    assert calendar.rolls(date(2026, 3, 8))


def test_an_end_by_cron_counts_from_the_start_and_a_clock_set_back_begins_nothing() -> None:
    calendar = Calendar(Schedule(start_cron="0 9 * * *", end_cron="0 8,17 * * *"))
    assert calendar.over_ns(DAY) == ns("2026-08-10T17:00"), "not the 08:00 before it began"
    following = DAY + timedelta(days=1)
    assert due(calendar, {following: State.ACTIVE}, ns("2026-08-10T12:00")) == []


def test_synchronisations_by_cron() -> None:
    calendar = Calendar(Schedule(timezone="America/New_York", sync_cron="*/30 * * * *"))
    assert calendar.synced_ns(ns("2026-08-10T10:00"), ns("2026-08-10T10:29")) == 0
    assert calendar.synced_ns(ns("2026-08-10T10:00"), ns("2026-08-10T11:40")) == ns("2026-08-10T11:30"), "the last of three"
    # The hour that there is twice has its four, the one that there is not has none.
    fall = [t for t in calendar.syncs_ns(ns("2026-11-01T04:45"), 8) if t < ns("2026-11-01T07:00")]
    assert fall == [ns(f"2026-11-01T{t}") for t in ("05:00", "05:30", "06:00", "06:30")]
    assert Calendar(Schedule()).synced_ns(0, ns("2026-08-10T11:40")) == 0


def test_what_comes_next_has_synchronisations_and_no_day_that_does_not_begin() -> None:
    calendar = Calendar(Schedule(start_cron="0 9 * * MON-FRI", end_cron="0 17 * * *", sync_cron="0 12 * * *"))
    rows = upcoming(calendar, ns("2026-08-14T18:00"), 5)  # a Friday
    assert [(r["what"], r["date"]) for r in rows] == [
        ("sync", "2026-08-15"), ("sync", "2026-08-16"), ("start", "2026-08-17"), ("sync", "2026-08-17"), ("end", "2026-08-17"),
    ]  # fmt: skip
    assert rows[2]["hours"] == 8
    leap = upcoming(Calendar(Schedule(start_cron="0 0 29 2 *")), ns("2026-08-14T18:00"), 2)
    assert [r["date"] for r in leap] == ["2028-02-29", "2028-02-29"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"start_cron": "30 9 * *"}, "write five fields"),
        ({"start_cron": "61 9 * * *"}, "Bad minute"),
        ({"end_cron": "0 9 31 2 *"}, "Bad day-of-month"),
        ({"sync_cron": "@daily"}, "write five fields"),
    ],
)
def test_what_is_no_cron_is_said(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schedule.model_validate(fields)
