"""Cron expressions of an environment's schedule: five fields, in its timezone.

Where clocks change, what runs at fixed times of day runs once a day all the same, at the first instant after a time that is skipped; what
runs every so many minutes does so in the minutes that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator

_FIELDS = 5  # cronsim knows seconds, too, and does not then do as cron does where clocks change
_SECOND_NS = 1_000_000_000


def _cron(text: str) -> str:
    from cronsim import CronSim, CronSimError

    if len(text.split()) != _FIELDS:
        raise ValueError('write five fields: minute, hour, day of month, month, day of week, such as "30 9 * * MON-FRI"')
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f'{error} in cron expression {text!r}; such as "30 9 * * MON-FRI"') from None
    return text


Cron = Annotated[str, AfterValidator(_cron)]


def fires(text: str, timezone: str, after_ns: int) -> Iterator[int]:
    """The times (nanoseconds since 1970) strictly after `after_ns`, ascending, for fifty years."""
    from cronsim import CronSim

    after = datetime.fromtimestamp(after_ns // _SECOND_NS, UTC).astimezone(ZoneInfo(timezone))
    for moment in CronSim(text, after):
        if (at_ns := int(moment.timestamp()) * _SECOND_NS) > after_ns:
            yield at_ns
