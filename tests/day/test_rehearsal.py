"""`ssmd day rehearse`: a day in a few seconds, by real processes, and what it refuses."""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path

import pytest

from journal.clock import RateClock
from journal.errors import CallerError
from ssmd.day.rehearsal import Plan, Rehearsal, prepare, silenced
from ssmd.metadata.environment import Environment
from ssmd.settings import Settings
from tests.rehearsals import rehearsed


def plan(first: date, **more: int) -> Plan:
    chosen = {"days": 2, "speed": 1_440, "listed": 10, "frames": 10, "kills": 0, "seed": 1} | more
    return Plan(first, **chosen)


def prepared(tmp_path: Path, environment: dict[str, object], first: date) -> Rehearsal:
    fields = {"name": "desk", "feed": "kalshi", **environment}
    settings = Settings(env="desk", data_dir=tmp_path / "mine", environment=Environment.model_validate(fields))
    return prepare(settings, plan(first), tmp_path / "kept", time.time_ns())


def test_a_day_at_speed_is_whole(tmp_path: Path) -> None:
    report = rehearsed(tmp_path, "--days", "1", "--speed", "4320", "--listed", "100", "--seed", "1", timeout_s=250)
    (day,) = report["days"]
    assert (day["state"], day["verified"], day["different"]) == ("COMPLETE", True, [])
    assert day["entries"] > 500
    assert report["frames"]["journalled"] == report["frames"]["sent"] > 300
    assert report["markets"]["first_message"] > 20
    assert (tmp_path / "kept" / "data" / "objects").is_dir()
    assert not (tmp_path / ".ssmd").exists()


def test_it_begins_when_its_first_day_opens_and_touches_nothing_of_the_environment(tmp_path: Path) -> None:
    begins = date(2026, 10, 31)
    journal = {"type": "jetstream", "url": "nats://nats.example:4222"}
    schedule = {"timezone": "America/New_York", "day_start": "17:00", "auto_roll": False}
    found = prepared(tmp_path, {"journal": journal, "schedule": schedule, "shards": {"hot": {}}}, begins)
    own = found.settings
    assert (own.embedded, own.local_objects, own.environment.venue.type) == (True, tmp_path / "kept" / "data" / "objects", "simulated")
    assert (own.environment.shards, own.environment.schedule.auto_roll, own.environment.schedule.day_start) == ({}, True, "17:00")
    assert isinstance(found.clock, RateClock)
    assert 0 <= found.clock.wall_ns() - found.begins_ns < 60 * 1_440 * 10**9
    assert found.over_ns - found.begins_ns == 49 * 3_600 * 10**9, "clocks go back on 1 November"
    assert found.seconds == pytest.approx(49 * 3_600 / 1_440)


def test_it_makes_its_own_data_or_none(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "server.json").touch()
    with pytest.raises(CallerError, match="not empty"):
        prepared(tmp_path, {}, date(2026, 11, 22))
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["server.json"]


def test_our_variables_are_not_for_a_rehearsal() -> None:
    assert silenced({"SSMD_NATS": "nats://prod", "HOME": "/", "SSMD_DATA": "x"}) == {"SSMD_NATS": "", "SSMD_DATA": ""}


def test_the_days_are_those_from_the_first() -> None:
    first = date(2026, 12, 30)
    assert plan(first, days=3).dates == [first + timedelta(days=n) for n in range(3)]
