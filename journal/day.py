"""Which trading day an instant belongs to."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_SECOND_NS = 1_000_000_000


class DayRule:
    """Days that begin at `start` in `timezone`; 23 and 25 hours long where clocks change.

    A start that a clock change skips is taken at the first instant after it.
    """

    def __init__(self, timezone: str = "UTC", start: time = time(0)) -> None:
        self._zone = ZoneInfo(timezone)
        self._start = start
        self._from_ns = 1
        self._to_ns = 0
        self._day = 0

    def day_of(self, ns: int) -> int:
        """Day of the instant `ns` as yyyymmdd."""
        if not self._from_ns <= ns < self._to_ns:
            moment = datetime.fromtimestamp(ns // _SECOND_NS, UTC).astimezone(self._zone)
            day = moment.date()
            if ns < self.opens_ns(day):
                day -= timedelta(days=1)
            elif ns >= self.opens_ns(day + timedelta(days=1)):
                day += timedelta(days=1)
            self._from_ns = self.opens_ns(day)
            self._to_ns = self.opens_ns(day + timedelta(days=1))
            self._day = to_int(day)
        return self._day

    def opens_ns(self, day: date) -> int:
        """First instant of `day`."""
        return int(datetime.combine(day, self._start, self._zone).timestamp()) * _SECOND_NS


def to_int(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def to_date(day: int) -> date:
    """Inverse of `to_int`. Raises ValueError for what is no date."""
    return date(day // 10_000, day // 100 % 100, day % 100)


def iso(day: int) -> str:
    """``20260810`` as ``2026-08-10``."""
    return to_date(day).isoformat()
