"""The days of an environment in its journal: read, and changed by one of several writers at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.persistence import IntegrityError

from journal.application import application
from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Event, Record
from journal.errors import JournalUnavailable
from journal.protocols import Journal, JournalReader
from journal.recorder import JournalRecorder, our_errors
from journal.subjects import Stream
from ssmd.day.aggregate import OPEN, State, TradingDay, moment

_TRIES = 16  # each lost one is somebody else's event


class TradingDays(Application[UUID]):
    name = "days"


class Fact(NamedTuple):
    """An event as `ssmd day show` shows it: `what` is moved, step_started, step_ended or noted; `detail` is the event's own fields."""

    position: str
    at_ns: int
    day: str
    what: str
    who: str
    detail: dict[str, Any]


class Register:
    """Made on the journal's loop. Every method raises `StoreError`."""

    def __init__(self, journal: Journal, clock: Clock, env: str, days: DayRule) -> None:
        self.journal = journal
        self._clock = clock
        self.env = env
        self.stream = Stream(env, domain="day")
        recorder = JournalRecorder(journal, asyncio.get_running_loop(), self.stream, clock, random.SystemRandom(), days=days)
        self._app = application(TradingDays, recorder)

    async def get(self, day: date) -> TradingDay:
        """As the journal has it now; PENDING when nothing ever happened to it."""
        if await self.journal.info(self.stream) is None:
            return self._new(day)
        with our_errors():
            return await asyncio.to_thread(self._load, day)

    async def change(self, day: date, decide: Callable[[TradingDay], object], *, who: str, why: str = "") -> TradingDay:
        """Apply `decide` to the newest state and journal what it triggered; decide anew whenever somebody else was first.

        What `decide` raises is raised: it has then seen what the others did.
        """

        def work() -> TradingDay:
            for _ in range(_TRIES):
                found = self._load(day)
                decide(found)
                try:
                    self._app.save(found, who=who, why=why)
                except IntegrityError:
                    continue
                return found
            raise JournalUnavailable(f"others changed day {day} of {self.env} {_TRIES} times meanwhile; try again")

        with our_errors():
            return await asyncio.to_thread(work)

    async def move(self, day: date, to: State, *, who: str, why: str = "", **more: Any) -> TradingDay:
        """`TradingDay.move`, now. Of two callers at once one succeeds and the other's `CallerError` names the first."""
        return await self.change(day, lambda d: d.move(to, self._clock.wall_ns(), who, why, **more), who=who, why=why)

    async def dates(self) -> list[date]:
        """Days that something happened to, ascending."""
        return await dates(self.journal, self.env)

    async def open(self, *, mode: str = "live") -> list[TradingDay]:
        """Days of a `mode` ("" is any) that are STARTING, ACTIVE or ENDING, ascending."""
        days = [await self.get(day) for day in await self.dates()]
        return [d for d in days if d.state in OPEN and mode in {"", d.mode}]

    def _load(self, day: date) -> TradingDay:
        try:
            found: TradingDay = self._app.repository.get(TradingDay.create_id(self.env, day.isoformat()))
        except AggregateNotFoundError:
            return self._new(day)
        return found

    def _new(self, day: date) -> TradingDay:
        now = moment(self._clock.wall_ns())
        return TradingDay._create(TradingDay.Created, timestamp=now, env=self.env, day=day.isoformat())  # noqa: SLF001


async def dates(journal: JournalReader, env: str) -> list[date]:
    """Days that something happened to, ascending; by the first event of each."""
    stream = Stream(env, domain="day")
    found = {f.day async for f in _facts(journal, stream, f"{env}.day.events.*.1")}
    return sorted(date.fromisoformat(day) for day in found)


async def facts(journal: JournalReader, env: str, day: date | None = None) -> list[Fact]:
    """What happened to `day`, or to all, in order."""
    which = TradingDay.create_id(env, day.isoformat()) if day else "*"
    return [f async for f in _facts(journal, Stream(env, domain="day"), f"{env}.day.events.{which}.*") if f.what != "created"]


async def _facts(journal: JournalReader, stream: Stream, subject: str) -> Any:
    if await journal.info(stream) is None:
        return
    async for records in journal.read(stream, subjects=[subject]):
        for record in records:
            if fact := fact_of(stream, record):
                yield fact


def fact_of(stream: Stream, record: Record) -> Fact | None:
    """What an event of a day says; None for another entry."""
    event = record.entry.body
    if not isinstance(event, Event):
        return None
    data = msgspec.json.decode(event.data)
    state = data.get("state", {})
    hidden = {"timestamp", "day", "at_ns", "who", "env", "originator_topic"}
    detail = {name: value for name, value in state.items() if name not in hidden}
    what = str(data.get("topic", "")).removeprefix("day.")
    return Fact(f"{stream.name}:{record.sequence}", state.get("at_ns", 0), state.get("day", ""), what, event.who, detail)
