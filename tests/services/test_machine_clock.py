"""The clock of a process: the machine's, or that of a rehearsal, which all processes of it share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from journal.clock import RateClock, WallClock
from journal.errors import CallerError
from ssmd.clock import VARIABLE, clock_setting, machine_clock

ANCHOR_NS = 1_795_305_600_000_000_000


def test_without_the_variable_it_is_the_machine_s() -> None:
    clock = machine_clock({})
    assert type(clock) is WallClock
    assert clock.rate == 1
    assert abs(clock.wall_ns() - time.time_ns()) < 10**9


def test_calendar_time_runs_at_the_rate_and_sleeps_do_not() -> None:
    clock = RateClock(time.time_ns(), 1440)
    wall, mono = clock.wall_ns(), clock.mono_ns()
    asyncio.run(clock.sleep(0.05))
    real = clock.mono_ns() - mono
    assert real < 10 * 10**9  # and not 72 s
    assert clock.wall_ns() - wall == pytest.approx(real * 1440, rel=0.5)


def test_no_nanosecond_is_lost_however_far_from_the_anchor() -> None:
    one, two = RateClock(0, 1), RateClock(0, 2.5)
    before, found, after = time.time_ns(), one.wall_ns(), time.time_ns()
    assert before <= found <= after
    before, found, after = time.time_ns(), two.wall_ns(), time.time_ns()
    assert before * 5 // 2 <= found <= after * 5 // 2


def test_processes_that_are_given_the_same_setting_agree() -> None:
    mine = RateClock(time.time_ns(), 1440)
    setting = clock_setting(mine)
    code = "from ssmd.clock import machine_clock; print(machine_clock().wall_ns())"
    before = mine.wall_ns()
    done = subprocess.run([sys.executable, "-c", code], env={VARIABLE: setting}, capture_output=True, text=True, check=True)
    assert before < int(done.stdout) < mine.wall_ns()


def test_a_setting_makes_the_clock_that_it_was_made_of() -> None:
    made = machine_clock({VARIABLE: clock_setting(RateClock(ANCHOR_NS, 1440.25))})
    assert isinstance(made, RateClock)
    assert (made.rate, made.anchor_ns) == (1440.25, ANCHOR_NS)


@pytest.mark.parametrize("bad", ["1440", "@1", "1440@", "0@1", "-1@1", "1440@now", "nan@1", "1e3@1", "1440@1 ", "0.0@5", "99999999@1"])
def test_a_setting_that_cannot_be_is_refused_with_its_form(bad: str) -> None:
    with pytest.raises(CallerError, match=r"SSMD_CLOCK=.*RATE@ANCHOR"):
        machine_clock({VARIABLE: bad})


def test_a_command_with_a_bad_setting_could_not_run() -> None:
    command = [sys.executable, "-m", "ssmd.cli", "day", "schedule", "local"]
    done = subprocess.run(command, env={VARIABLE: "fast"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SSMD_CLOCK=fast" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_time_does_not_stand_still_or_go_back(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RateClock(ANCHOR_NS, rate)
