"""The clock of every process of ours: the machine's, or one that runs at another rate for a rehearsal of days.

``SSMD_CLOCK=RATE@ANCHOR`` makes RATE seconds of every second since ANCHOR, a time in nanoseconds since 1970. All processes of one run are
given the same, so that they agree on what time it is, whenever each of them was started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from journal.clock import Clock, RateClock, WallClock
from journal.errors import CallerError

VARIABLE = "SSMD_CLOCK"  # supervised processes inherit it
_FORM = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?)@([0-9]{1,19})", re.ASCII)


def machine_clock(variables: Mapping[str, str] | None = None) -> Clock:
    """What `variables` (this process's by default) ask for. Raises `CallerError` for a value that cannot be."""
    text = (os.environ if variables is None else variables).get(VARIABLE, "")
    if not text:
        return WallClock()
    form = _FORM.fullmatch(text)
    if form is None or not float(form[1]):
        raise CallerError(f"{VARIABLE}={text}: write RATE@ANCHOR, a number above 0 and a time in ns since 1970, or leave it out")
    return RateClock(int(form[2]), float(form[1]))


def clock_setting(clock: RateClock) -> str:
    """The value of the variable that makes the same clock in another process."""
    return f"{clock.rate:.6f}@{clock.anchor_ns}"
