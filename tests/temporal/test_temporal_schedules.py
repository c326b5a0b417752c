"""Schedules of an environment in a real Temporal: when its days begin and end, DST included, and as its file says now."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import Client

from ssmd.cli import main
from ssmd.day.calendar import Calendar
from ssmd.metadata.environment import Environment
from ssmd.temporal.link import Target, connected
from ssmd.temporal.schedules import bring_up_to_date, existing, remove, schedule_id, wanted_of
from tests.journal.servers import free_port
from tests.temporal.servers import DevServer

TODAY = date(2026, 11, 22)
# Fifteen days on both sides of each of the next two changes of New York's clocks.
WINDOWS = (date(2027, 2, 27), date(2027, 10, 23))
DAYS = 30


def environment(**schedule: Any) -> Environment:
    fields = {"name": f"e{uuid4().hex[:8]}", "feed": "kalshi", "schedule": {"timezone": "America/New_York", **schedule}}
    return Environment.model_validate({**fields, "scheduler": {"type": "temporal", "address": "127.0.0.1:7233"}})


async def times(client: Client, name: str, first: date) -> list[int]:
    """When a schedule fires in the window of `first`, in nanoseconds."""
    request = ListScheduleMatchingTimesRequest(namespace="default", schedule_id=name)
    midnight = datetime(first.year, first.month, first.day, tzinfo=UTC)
    request.start_time.FromDatetime(midnight)
    request.end_time.FromDatetime(midnight + timedelta(days=DAYS))
    found = await client.workflow_service.list_schedule_matching_times(request)
    return [int(at.ToDatetime(UTC).timestamp()) * 10**9 for at in found.start_time]


@pytest.mark.parametrize(
    ("schedule", "kinds"),
    [
        ({}, {"roll": "begins"}),
        ({"day_start": "02:30"}, {"roll": "begins"}),  # a time that clocks skip in March
        ({"day_start": "01:30"}, {"roll": "begins"}),  # and one that there is twice in November
        ({"day_start": "18:00", "day_end": "02:15"}, {"start": "begins", "end": "over"}),
        ({"start_cron": "30 2 * * *", "end_cron": "0 17 * * *"}, {"start": "begins", "end": "over"}),
        ({"day_end": "23:00", "auto_roll": False}, {"end": "over"}),
        ({"auto_roll": False}, {}),
    ],
)
def test_for_thirty_days_around_each_change_of_clocks_they_fire_when_days_begin_and_end(
    temporal: DevServer, schedule: dict[str, Any], kinds: dict[str, str]
) -> None:
    spec = environment(**schedule)
    calendar = Calendar(spec.schedule)

    async def run() -> None:
        async with connected(Target(temporal.address, temporal.address)) as client:
            found = await bring_up_to_date(client, spec, TODAY)
            assert {w.kind for w in found} == kinds.keys()
            for kind, what in kinds.items():
                for first in WINDOWS:
                    fires = await times(client, schedule_id(spec.name, kind), first)
                    days = [first + timedelta(days=n) for n in range(2, DAYS - 2)]
                    wanted = [calendar.begins_ns(d) if what == "begins" else calendar.over_ns(d) for d in days]
                    assert set(wanted) <= set(fires), kind
                    # More fire than days begin only where a time is skipped: then nothing is due, and nothing happens.
                    assert len([at for at in fires if wanted[0] <= at <= wanted[-1]]) in {len(wanted), len(wanted) + 1}

    asyncio.run(run())


def test_what_the_file_says_now_is_what_is_scheduled_and_a_pause_stays(temporal: DevServer) -> None:
    spec = environment(sync_cron="*/30 * * * *")
    changed = spec.model_copy(update={"schedule": environment(day_start="09:00", day_end="17:00").schedule})

    async def run() -> None:
        async with connected(Target(temporal.address, temporal.address)) as client:

            async def there() -> dict[str, str]:
                names = {}
                for kind in ("start", "end", "roll", "secmaster"):
                    try:
                        known = await client.get_schedule_handle(schedule_id(spec.name, kind)).describe()
                    except Exception:  # noqa: BLE001, S112  (whatever: it is not there)
                        continue
                    names[kind] = str(getattr(known.schedule.action, "workflow"))  # noqa: B009  (of the one kind of action there is)
                return names

            await bring_up_to_date(client, spec, TODAY)
            assert await there() == {"roll": "RollTradingDay", "secmaster": "SyncSecmaster"}
            await client.get_schedule_handle(schedule_id(spec.name, "roll")).pause(note="ana: the venue is closed")
            await bring_up_to_date(client, spec, TODAY)
            state = (await client.get_schedule_handle(schedule_id(spec.name, "roll")).describe()).schedule.state
            assert (state.paused, state.note) == (True, "ana: the venue is closed")
            await bring_up_to_date(client, changed, TODAY)
            assert await there() == {"start": "StartTradingDay", "end": "EndTradingDay"}
            assert await remove(client, spec.name) == [schedule_id(spec.name, k) for k in ("start", "end")]
            assert await there() == {}

    asyncio.run(run())


def test_a_teardown_takes_the_schedules_and_says_what_it_could_not_take(
    temporal: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = environment(sync_cron="*/30 * * * *")
    folder = tmp_path / "exchanges" / "environments"
    folder.mkdir(parents=True)

    def write(address: str) -> None:
        (folder / f"{spec.name}.yaml").write_text(f"name: {spec.name}\nfeed: kalshi\nscheduler:\n  type: temporal\n  address: {address}\n")

    def torn(*args: str, code: int = 0) -> tuple[list[str], str]:
        assert main(["env", "teardown", spec.name, "-o", "json", *args]) == code
        out, err = capsys.readouterr()
        return [d["name"] for d in json.loads(out)["deleted"] if d["kind"] == "schedule"], err

    async def there() -> list[str]:
        async with connected(Target(temporal.address, temporal.address)) as client:
            return await existing(client, spec.name)

    async def make() -> None:
        async with connected(Target(temporal.address, temporal.address)) as client:
            await bring_up_to_date(client, spec, TODAY)

    for name in ("SSMD_ENV", "SSMD_NATS", "SSMD_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSMD_PROJECT", str(tmp_path))
    monkeypatch.setenv("SSMD_DATA", str(tmp_path / "data"))
    asyncio.run(make())
    ours = [schedule_id(spec.name, kind) for kind in ("roll", "secmaster")]
    write(f"127.0.0.1:{free_port()}")
    found, err = torn("--yes", code=1)
    assert found == []
    assert f"ssmd-{spec.name}-* that it has stay; run `ssmd env teardown {spec.name}` again" in err
    write(temporal.address)
    assert torn("--dry-run")[0] == ours == asyncio.run(there())
    assert torn("--yes")[0] == ours
    assert asyncio.run(there()) == []
    assert torn("--yes")[0] == []


def test_schedules_are_told_in_words() -> None:
    assert [w.shown for w in wanted_of(environment(day_end="17:00"))] == [
        "StartTradingDay at 0 0 * * * America/New_York",
        "EndTradingDay at 0 17 * * * America/New_York",
    ]
