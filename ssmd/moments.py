"""Times as people write and read them; nanosecond integers inside. No float touches a time."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from journal.day import DayRule, to_date
from journal.errors import CallerError

SECOND_NS = 1_000_000_000
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS, "d": 86_400 * SECOND_NS}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d))+")
_PART = re.compile(r"(\d+)(?:\.(\d+))?(ns|us|ms|s|m|h|d)")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|z|[+-]\d\d:\d\d)?)?")
_MOST_NS = 2**63 - 1


def parse_duration(text: str) -> int:
    """``90s``, ``1h30m``, ``1.5s`` or ``250ms`` in nanoseconds. Raises `CallerError`."""
    if not _DURATION.fullmatch(text):
        raise CallerError(f"{text!r} is not a duration; write for example 90s, 5m, 1h30m or 250ms")
    total = 0
    for whole, fraction, unit in _PART.findall(text):
        total += int(whole) * _UNITS[unit] + (int(fraction) * _UNITS[unit] // 10 ** len(fraction) if fraction else 0)
    if total > _MOST_NS:
        raise CallerError(f"{text!r} is longer than 292 years")
    return total


def parse_moment(text: str, now_ns: int) -> int:
    """RFC 3339 (UTC without an offset), a date, ``now``, nanoseconds since 1970, or a duration before now. Raises `CallerError`."""
    if text == "now":
        return now_ns
    if _DURATION.fullmatch(text):
        return now_ns - parse_duration(text)
    if text.isascii() and text.isdigit() and len(text) == 19:
        return min(int(text), _MOST_NS)
    match = _RFC3339.fullmatch(text)
    day, minute, second, fraction, offset = match.groups() if match else ("", None, None, None, None)
    try:
        zone = "+00:00" if offset is None or offset in "Zz" else offset
        moment = datetime.fromisoformat(f"{day}T{minute or '00:00'}:{second or '00'}{zone}")
    except ValueError:
        raise CallerError(f"{text!r} is not a time; write 2026-08-10T21:50:00Z, 2026-08-10, now, or a duration such as 5m") from None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * SECOND_NS + int((fraction or "0").ljust(9, "0"))


def parse_date(text: str, days: DayRule, now_ns: int) -> int:
    """``2026-08-10``, ``20260810``, ``today`` or ``yesterday`` as yyyymmdd. Raises `CallerError`."""
    if text in {"today", "yesterday"}:
        today = to_date(days.day_of(now_ns))
        day = today if text == "today" else today - timedelta(days=1)
    else:
        try:
            day = date.fromisoformat(text if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}", text) else "")
        except ValueError:
            raise CallerError(f"{text!r} is not a date; write 2026-08-10, today or yesterday") from None
    return day.year * 10_000 + day.month * 100 + day.day


def rfc3339(ns: int) -> str:
    """``2026-08-10T21:50:00.123456789Z``; empty for 0, which means that there is no time."""
    if not ns:
        return ""
    seconds, rest = divmod(ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
