"""The schedules that an environment asks for, and Temporal brought up to date with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from journal.day import DayRule
from ssmd.day.calendar import Calendar
from ssmd.metadata.cron import fires
from ssmd.metadata.environment import Environment
from ssmd.temporal.orders import Asked, default_queue

_KINDS = ("start", "end", "roll", "secmaster")
_AHEAD_DAYS = 800  # of times that clocks skip: written out, and anew whenever the worker starts
# A server that was down does what it missed of the last day; what is due is decided by the journal, so once is enough.
_CATCHUP = timedelta(days=1)
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Wanted:
    """One schedule, as people read it: `workflow` whenever `cron` fires in `timezone`; that is daily at `clock` where there is one."""

    kind: str
    workflow: str
    cron: str
    timezone: str
    clock: str = ""

    @property
    def shown(self) -> str:
        return f"{self.workflow} at {self.cron} {self.timezone}"


def wanted_of(environment: Environment) -> list[Wanted]:
    """What the environment's schedule asks for. A day that goes on till the next one begins ends by a roll."""
    schedule, calendar = environment.schedule, Calendar(environment.schedule)
    start = _times(schedule.start_cron, schedule.day_start)
    end = _times(schedule.end_cron, schedule.day_end or schedule.day_start)
    found = []
    if start == end:  # without auto_roll an operator rolls
        found += [("roll", "RollTradingDay", start)] if calendar.auto_roll else []
    else:
        if calendar.auto_roll:
            found.append(("start", "StartTradingDay", start))
        found.append(("end", "EndTradingDay", end))
    if schedule.sync_cron:
        found.append(("secmaster", "SyncSecmaster", (schedule.sync_cron, "")))
    return [Wanted(kind, workflow, cron, schedule.timezone, clock) for kind, workflow, (cron, clock) in found]


def _times(cron: str | None, clock: str) -> tuple[str, str]:
    hour, minute = clock.split(":")
    return (cron, "") if cron else (f"{int(minute)} {int(hour)} * * *", clock)


def spec_of(wanted: Wanted, today: date) -> ScheduleSpec:
    """A time that a change of clocks skips is taken at the first instant after it, as days do; Temporal alone would skip it."""
    zone = ZoneInfo(wanted.timezone)
    skipped = [datetime.fromtimestamp(at_ns // _SECOND_NS, zone) for at_ns in _moved(wanted, today)]
    return ScheduleSpec(cron_expressions=[wanted.cron], calendars=[_once(at) for at in skipped], time_zone_name=wanted.timezone)


def _moved(wanted: Wanted, today: date) -> list[int]:
    """The times at which it fires where clocks have just skipped what the expression says."""
    zone, found = ZoneInfo(wanted.timezone), list[int]()
    for day in (today + timedelta(days=n) for n in range(_AHEAD_DAYS)):
        opens, closes = (datetime.combine(day + timedelta(days=n), time(), zone) for n in (0, 1))
        if opens.utcoffset() >= closes.utcoffset():  # type: ignore[operator]  # a zone has an offset
            continue
        first_ns, last_ns = (int(at.timestamp()) * _SECOND_NS for at in (opens, closes))
        said = {at_ns // _SECOND_NS for at_ns in _within(wanted.cron, "UTC", *(_naive_ns(at) for at in (opens, closes)))}
        real = _within(wanted.cron, wanted.timezone, first_ns, last_ns)
        if wanted.clock:
            real = [DayRule(wanted.timezone, time.fromisoformat(wanted.clock)).opens_ns(day)]
        found += [at_ns for at_ns in real if _naive_ns(datetime.fromtimestamp(at_ns // _SECOND_NS, zone)) // _SECOND_NS not in said]
    return found


def _naive_ns(at: datetime) -> int:
    """What its clock shows, as if that were UTC."""
    return int(at.replace(tzinfo=UTC).timestamp()) * _SECOND_NS


def _within(cron: str, timezone: str, first_ns: int, last_ns: int) -> list[int]:
    return list(takewhile(lambda at_ns: at_ns < last_ns, fires(cron, timezone, first_ns - 1)))


def _once(at: datetime) -> ScheduleCalendarSpec:
    return ScheduleCalendarSpec(
        minute=[ScheduleRange(at.minute)], hour=[ScheduleRange(at.hour)], day_of_month=[ScheduleRange(at.day)],
        month=[ScheduleRange(at.month)], year=[ScheduleRange(at.year)], comment="clocks skip the time",
    )  # fmt: skip


def schedule_id(env: str, kind: str) -> str:
    return f"ssmd-{env}-{kind}"


async def bring_up_to_date(client: Client, environment: Environment, today: date) -> Sequence[Wanted]:
    """Make, change and delete the environment's schedules; one that somebody has paused stays so. Raises `RPCError`."""
    env, found = environment.name, wanted_of(environment)
    queue = environment.scheduler.task_queue or default_queue(env)
    for wanted in found:
        schedule = Schedule(
            action=ScheduleActionStartWorkflow(wanted.workflow, Asked(env), id=f"ssmd/{env}/{wanted.kind}", task_queue=queue),
            spec=spec_of(wanted, today),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.BUFFER_ONE, catchup_window=_CATCHUP),
        )

        def change(known: ScheduleUpdateInput, schedule: Schedule = schedule) -> ScheduleUpdate:
            schedule.state = known.description.schedule.state
            return ScheduleUpdate(schedule=schedule)

        try:
            await client.create_schedule(schedule_id(env, wanted.kind), schedule)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(schedule_id(env, wanted.kind)).update(change)
    await remove(client, env, [kind for kind in _KINDS if kind not in {w.kind for w in found}])
    return found


async def existing(client: Client, env: str) -> list[str]:
    """The ids of an environment's schedules. Raises `RPCError`."""
    found = []
    for kind in _KINDS:
        try:
            await client.get_schedule_handle(schedule_id(env, kind)).describe()
            found.append(schedule_id(env, kind))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    return found


async def remove(client: Client, env: str, kinds: Sequence[str] = _KINDS) -> list[str]:
    """Delete schedules of an environment; the ids of those that were there. Raises `RPCError`."""
    gone = []
    for kind in kinds:
        try:
            await client.get_schedule_handle(schedule_id(env, kind)).delete()
            gone.append(schedule_id(env, kind))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    return gone
