from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.day import DayRule
from journal.errors import CallerError
from ssmd.moments import parse_date, parse_duration, parse_moment, rfc3339

NOW_NS = 1_786_398_600_123_456_789  # 2026-08-10T21:50:00.123456789Z


@pytest.mark.parametrize(
    ("text", "ns"),
    [("90s", 90 * 10**9), ("1h30m", 5400 * 10**9), ("1.5s", 1_500_000_000), ("250ms", 250_000_000), ("0s", 0), ("2d", 172_800 * 10**9)],
)
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "1e3s", "5y", "nan", "999999999999d"])
def test_bad_durations_say_what_to_write(text: str) -> None:
    with pytest.raises(CallerError, match=r"duration|292 years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("now", NOW_NS),
        ("5m", NOW_NS - 300 * 10**9),
        ("2026-08-10T21:50:00Z", 1_786_398_600_000_000_000),
        ("2026-08-10T21:50:00.123456789Z", NOW_NS),
        ("2026-08-10T21:50", 1_786_398_600_000_000_000),
        ("2026-08-10 21:50:00", 1_786_398_600_000_000_000),
        ("2026-08-10T23:50:00+02:00", 1_786_398_600_000_000_000),
        ("2026-08-10", 1_786_320_000_000_000_000),
        ("1786398600123456789", NOW_NS),
    ],
)
def test_moments(text: str, ns: int) -> None:
    assert parse_moment(text, NOW_NS) == ns


@pytest.mark.parametrize("text", ["yesterdayish", "2026-13-01", "2026-08-10T25:00", "12:00", "2026-08-10T21:50:00.1234567890Z", ""])
def test_bad_moments(text: str) -> None:
    with pytest.raises(CallerError, match="not a time"):
        parse_moment(text, NOW_NS)


@given(st.integers(1, 2**63 - 1))
def test_what_is_shown_reads_back(ns: int) -> None:
    assert parse_moment(rfc3339(ns), 0) == ns


def test_no_time_shows_as_nothing() -> None:
    assert rfc3339(0) == ""


def test_dates() -> None:
    days = DayRule()
    assert parse_date("2026-08-10", days, NOW_NS) == 20260810
    assert parse_date("20260810", days, NOW_NS) == 20260810
    assert parse_date("today", days, NOW_NS) == 20260810
    assert parse_date("yesterday", days, NOW_NS) == 20260809
    late = int(datetime(2026, 8, 10, 23, 30, tzinfo=UTC).timestamp()) * 10**9
    assert parse_date("today", DayRule("Europe/Berlin"), late) == 20260811


@pytest.mark.parametrize("text", ["2026-02-30", "2026-W33-1", "10.8.2026", "", "tomorrow"])
def test_bad_dates(text: str) -> None:
    with pytest.raises(CallerError, match="not a date"):
        parse_date(text, DayRule(), NOW_NS)
