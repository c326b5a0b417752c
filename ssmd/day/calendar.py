"""When trading days begin and end.

A day is a date in the environment's timezone. It begins at ``day_start`` and is *over* at ``day_end``: then capture stops, or the next day
has begun. Without ``day_end``, or where it equals ``day_start``, that is when the next day begins; a ``day_end`` before ``day_start`` is on
the next calendar date. Where clocks change a day has 23 or 25 hours.

Being over is not the same as what belongs to a day: the day of an entry is decided once, when it is appended, by `DayRule`, whose days
leave nothing out between one start and the next. So what is appended between ``day_end`` and the next ``day_start`` belongs to the day that
is over, and what is appended after the day's record was written is late: it is kept, archived and counted as late, and the record stays.
"""

from __future__ import annotations

from datetime import date, time, timedelta

from journal.day import DayRule, to_date
from ssmd.metadata.environment import Schedule


class Calendar:
    """The days of one schedule. Times are nanoseconds since 1970."""

    def __init__(self, schedule: Schedule) -> None:
        self.rule = DayRule(schedule.timezone, time.fromisoformat(schedule.day_start))
        self.auto_roll = schedule.auto_roll
        self._end: DayRule | None = None
        if schedule.day_end not in {None, schedule.day_start}:
            self._end = DayRule(schedule.timezone, time.fromisoformat(schedule.day_end or ""))
            self._next_date = time.fromisoformat(schedule.day_end or "") < time.fromisoformat(schedule.day_start)

    @property
    def continuous(self) -> bool:
        """Whether a day is over when the next one begins."""
        return self._end is None

    def today(self, now_ns: int) -> date:
        return to_date(self.rule.day_of(now_ns))

    def opens_ns(self, day: date) -> int:
        return self.rule.opens_ns(day)

    def over_ns(self, day: date) -> int:
        """When `day` is over: at most when the next one begins."""
        following = self.rule.opens_ns(day + timedelta(days=1))
        if self._end is None:
            return following
        return min(following, self._end.opens_ns(day + timedelta(days=1) if self._next_date else day))

    def open(self, now_ns: int) -> bool:
        """Whether a day is on just now, and not only the time between two."""
        return now_ns < self.over_ns(self.today(now_ns))
