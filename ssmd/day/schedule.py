"""What a day's schedule asks for at an instant: pure, so that thirty days of it are a test."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

from ssmd.day.aggregate import State
from ssmd.day.calendar import Calendar

WHO = "schedule"
_AHEAD_DAYS = 4_000  # looked at for what comes next: 29 February may be eight years away
# States in which a later day has taken over, or had its turn.
_TAKEN_OVER = frozenset({State.ACTIVE, State.ENDING, State.COMPLETE, State.FAILED})


class Due(NamedTuple):
    """Move `day` to `to`."""

    day: date
    to: State
    why: str


def due(calendar: Calendar, states: Mapping[date, State], now_ns: int, *, first: bool = False) -> list[Due]:
    """What is due at `now_ns`, with days in these states; `first` asks for today's without ``auto_roll`` too, as a runner does that starts.

    A day is begun once, in its time, and never one before the newest there is: a clock that was set back begins nothing. One that is over
    ends; where the next one begins at that moment, only when that is ACTIVE, so that capture goes on between them: without ``auto_roll`` it
    waits for an operator's roll.
    """
    found, today = [], calendar.today(now_ns)
    newest, begins_ns = max(states, default=None), calendar.begins_ns(today)
    if (calendar.auto_roll or first) and 0 < begins_ns <= now_ns and calendar.open(now_ns) and (newest is None or today > newest):
        found.append(Due(today, State.STARTING, f"it began at {_clock(begins_ns)}"))
    for day in sorted(states):
        if states[day] is not State.ACTIVE:
            continue
        later = [d for d in states if d > day]
        if any(states[d] in _TAKEN_OVER for d in later):
            found.append(Due(day, State.ENDING, f"rolled into {max(later)}"))
        elif now_ns >= calendar.over_ns(day) and not calendar.rolls(day):
            found.append(Due(day, State.ENDING, "it is over"))
    return found


def upcoming(calendar: Calendar, now_ns: int, count: int) -> list[dict[str, Any]]:
    """The next `count` times at which something happens by itself."""
    day, rows = calendar.today(now_ns), list[dict[str, Any]]()
    last = day + timedelta(days=_AHEAD_DAYS)
    while len(rows) < count and day < last:
        rows += [row for row in _of_day(calendar, day) if row["at_ns"] > now_ns]
        day += timedelta(days=1)
    for at_ns in calendar.syncs_ns(now_ns, count):
        today = calendar.today(at_ns)
        rows.append(_row(calendar, at_ns, today, "sync", itself=True))
    return sorted(rows, key=lambda r: (r["at_ns"], r["date"]))[:count]


def _of_day(calendar: Calendar, day: date) -> list[dict[str, Any]]:
    if (begins_ns := calendar.begins_ns(day)) == 0:
        return []
    return [
        _row(calendar, begins_ns, day, "start", itself=calendar.auto_roll),
        _row(calendar, calendar.over_ns(day), day, "end", itself=calendar.auto_roll or not calendar.rolls(day)),
    ]


def _row(calendar: Calendar, at_ns: int, day: date, what: str, *, itself: bool) -> dict[str, Any]:
    hours = (calendar.over_ns(day) - (calendar.begins_ns(day) or calendar.opens_ns(day))) / 3_600e9
    return {"at_ns": at_ns, "date": day.isoformat(), "what": what, "by": WHO if itself else "operator", "hours": hours}


def _clock(ns: int) -> str:
    from ssmd.moments import rfc3339

    return rfc3339(ns).replace(".000000000", "")
