"""What a day's schedule asks for at an instant: pure, so that thirty days of it are a test."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

from ssmd.day.aggregate import State
from ssmd.day.calendar import Calendar

WHO = "schedule"
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
    ends; with ``auto_roll`` and without a ``day_end`` of its own, only when the next one is ACTIVE, so that capture goes on between them.
    """
    found, today = [], calendar.today(now_ns)
    newest = max(states, default=None)
    if (calendar.auto_roll or first) and calendar.open(now_ns) and (newest is None or today > newest):
        found.append(Due(today, State.STARTING, f"it began at {_clock(calendar, today)}"))
    for day in sorted(states):
        if states[day] is not State.ACTIVE:
            continue
        later = [d for d in states if d > day]
        if any(states[d] in _TAKEN_OVER for d in later):
            found.append(Due(day, State.ENDING, f"rolled into {max(later)}"))
        elif now_ns >= calendar.over_ns(day) and not (calendar.continuous and (calendar.auto_roll or later)):
            found.append(Due(day, State.ENDING, "it is over"))
    return found


def upcoming(calendar: Calendar, now_ns: int, count: int) -> list[dict[str, Any]]:
    """The next `count` times at which something happens by itself."""
    day, rows = calendar.today(now_ns), list[dict[str, Any]]()
    while len(rows) < count:
        following = day + timedelta(days=1)
        events = [(calendar.opens_ns(day), day, "start", calendar.auto_roll)]
        if calendar.continuous and calendar.auto_roll:
            events.append((calendar.opens_ns(following), day, "end", True))
        else:
            events.append((calendar.over_ns(day), day, "end", True))
        hours = (calendar.over_ns(day) - calendar.opens_ns(day)) / 3_600e9
        rows += [
            {"at_ns": at, "date": which.isoformat(), "what": what, "by": WHO if itself else "operator", "hours": hours}
            for at, which, what, itself in events
            if at > now_ns
        ]
        day = following
    return sorted(rows, key=lambda r: (r["at_ns"], r["date"]))[:count]


def _clock(calendar: Calendar, day: date) -> str:
    from ssmd.moments import rfc3339

    return rfc3339(calendar.opens_ns(day)).replace(".000000000", "")
