"""When trading days begin and end.

A day is a date in the environment's timezone. It opens at ``day_start`` and is *over* at ``day_end``: then capture stops, or the next day
has begun. Without ``day_end``, or where it equals ``day_start``, that is when the next day opens; a ``day_end`` before ``day_start`` is on
the next calendar date. Where clocks change a day has 23 or 25 hours.

The schedule begins a day when it opens; with ``start_cron`` the first time that fires within it, and not at all where it does not. With
``end_cron`` it is over the first time that fires after it was begun, at the latest when the next one opens.

Being over is not the same as what belongs to a day: the day of an entry is decided once, when it is appended, by `DayRule`, whose days
leave nothing out between one ``day_start`` and the next. So what is appended between a day's end and the next ``day_start`` belongs to the
day that is over, and what is appended after the day's record was written is late: it is kept, archived and counted as late, and the
record stays.
"""

from __future__ import annotations

from datetime import date, time, timedelta

from journal.day import DayRule, to_date
from ssmd.metadata.cron import fires
from ssmd.metadata.environment import Schedule

_LOOK_BACK_NS = 86_400_000_000_000  # what was missed for longer is not made up for
_MOST_KNOWN = 64  # days whose times are remembered


class Calendar:
    """The days of one schedule. Times are nanoseconds since 1970."""

    def __init__(self, schedule: Schedule) -> None:
        self.rule = DayRule(schedule.timezone, time.fromisoformat(schedule.day_start))
        self.auto_roll = schedule.auto_roll
        self._schedule = schedule
        self._end: DayRule | None = None
        if schedule.day_end not in {None, schedule.day_start}:
            self._end = DayRule(schedule.timezone, time.fromisoformat(schedule.day_end or ""))
            self._next_date = time.fromisoformat(schedule.day_end or "") < time.fromisoformat(schedule.day_start)
        self._known: dict[tuple[str, date], int] = {}

    def today(self, now_ns: int) -> date:
        return to_date(self.rule.day_of(now_ns))

    def opens_ns(self, day: date) -> int:
        return self.rule.opens_ns(day)

    def begins_ns(self, day: date) -> int:
        """When the schedule begins `day`; 0 where it does not."""
        if self._schedule.start_cron is None:
            return self.opens_ns(day)
        return self._first(self._schedule.start_cron, day, self.opens_ns(day) - 1)

    def over_ns(self, day: date) -> int:
        """When `day` is over: at most when the next one opens."""
        following = self.opens_ns(day + timedelta(days=1))
        if self._schedule.end_cron is not None:
            return self._first(self._schedule.end_cron, day, self.begins_ns(day) or self.opens_ns(day)) or following
        if self._end is None:
            return following
        return min(following, self._end.opens_ns(day + timedelta(days=1) if self._next_date else day))

    @property
    def continuous(self) -> bool:
        """Whether every day is over when the next one begins."""
        return self._end is None and self._schedule.start_cron is None and self._schedule.end_cron is None

    def rolls(self, day: date) -> bool:
        """Whether the next day is begun the moment that `day` is over."""
        return self.continuous or self.over_ns(day) == self.begins_ns(day + timedelta(days=1))

    def open(self, now_ns: int) -> bool:
        """Whether a day is on just now, and not only the time between two."""
        return now_ns < self.over_ns(self.today(now_ns))

    def synced_ns(self, after_ns: int, until_ns: int) -> int:
        """The latest time after `after_ns` and up to `until_ns` at which ``sync_cron`` fires; 0 for none."""
        latest = 0
        after_ns = max(after_ns, until_ns - _LOOK_BACK_NS)
        for at_ns in fires(self._schedule.sync_cron, self._schedule.timezone, after_ns) if self._schedule.sync_cron else ():
            if at_ns > until_ns:
                break
            latest = at_ns
        return latest

    def syncs_ns(self, after_ns: int, count: int) -> list[int]:
        """The next `count` times at which ``sync_cron`` fires."""
        if not self._schedule.sync_cron:
            return []
        return [at for at, _ in zip(fires(self._schedule.sync_cron, self._schedule.timezone, after_ns), range(count), strict=False)]

    def _first(self, cron: str, day: date, after_ns: int) -> int:
        """When it first fires after `after_ns` and before the next day opens, else 0."""
        if (cron, day) not in self._known:
            at_ns = next(fires(cron, self._schedule.timezone, after_ns), 0)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[cron, day] = at_ns if at_ns < self.opens_ns(day + timedelta(days=1)) else 0
        return self._known[cron, day]
