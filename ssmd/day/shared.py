"""The trading days in a cache, under ``ENV:day:…``::

current        string   the date of the newest day that became ACTIVE, until that day is COMPLETE
{date}:state   string   JSON: `DayState`
{date}:stats   string   JSON: `DayStats`
position       string   `ssmd.sharing.Position`
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, TypeVar

import msgspec

from journal.cache import NOT_OURS, cache_key
from journal.entry import Record, canonical_json
from journal.errors import BadObject
from journal.protocols import Cache, CacheChange
from journal.subjects import Stream
from ssmd.day.aggregate import State
from ssmd.day.register import Fact, fact_of

_T = TypeVar("_T")


class DayState(msgspec.Struct):
    """As the aggregate has it; `done` names the steps that the present phase has finished, in order."""

    date: str
    state: str = State.PENDING.value
    since_ns: int = 0
    who: str = ""
    why: str = ""
    phase: str = ""
    round: int = 0
    forced: bool = False
    step: str = ""
    done: list[str] = []
    record: str = ""


class DayStats(msgspec.Struct):
    """`steps` counts outcomes; `step_ns` is what ``PHASE/STEP`` took the last time, `state_ns` how long the day was in each state."""

    date: str
    transitions: int = 0
    notes: int = 0
    steps: dict[str, int] = {}
    step_ns: dict[str, int] = {}
    state_ns: dict[str, int] = {}


class SharedDays:
    """What a `SharedView` folds ``{env}_day`` with."""

    name = "day"
    version = 1

    def __init__(self, env: str) -> None:
        self._env = env
        self._stream = Stream(env, domain="day")
        self._current = self._key("current")

    async def change(self, cache: Cache, records: Sequence[Record]) -> CacheChange:
        """Raises `CacheError`, `BadObject`."""
        held: dict[str, tuple[DayState, DayStats]] = {}
        current = was = (await cache.get(self._current) or b"").decode(errors="replace")
        for record in records:
            fact = fact_of(self._stream, record)
            if fact is None or not _is_date(fact.day):
                continue
            if fact.day not in held:
                held[fact.day] = (
                    await self._read(cache, fact.day, "state", DayState),
                    await self._read(cache, fact.day, "stats", DayStats),
                )
            state, stats = held[fact.day]
            _fold(state, fact)
            _count(stats, fact)
            if fact.what == "moved" and state.state == State.ACTIVE:
                current = max(current, fact.day)
            elif state.state == State.COMPLETE and current == fact.day:
                current = ""
        put = {
            self._key(day, name): canonical_json(value)
            for day, of in held.items()
            for name, value in zip(("state", "stats"), of, strict=True)
        }
        if current:
            put[self._current] = current.encode()
        return CacheChange(gone=[self._current] if was and not current else (), put=put)

    async def _read(self, cache: Cache, day: str, name: str, kind: type[_T]) -> _T:
        key = self._key(day, name)
        value = await cache.get(key)
        try:
            return msgspec.json.decode(value, type=kind) if value else kind(day)  # type: ignore[call-arg]  # both have a date first
        except NOT_OURS as error:
            raise BadObject(f"{key} is no {name} of a day: {error}") from error

    def _key(self, *parts: str) -> str:
        return cache_key(self._env, self.name, *parts)


def _is_date(day: str) -> bool:
    try:
        return date.fromisoformat(day).isoformat() == day
    except ValueError:
        return False


def _fold(state: DayState, fact: Fact) -> None:
    """As the events of `ssmd.day.aggregate` change the aggregate."""
    detail: dict[str, Any] = fact.detail
    match fact.what:
        case "moved":
            state.state, state.since_ns, state.who, state.why = detail["to"], fact.at_ns, fact.who, detail["why"]
            state.forced = state.forced or detail["forced"]
            if state.state in {State.STARTING, State.ENDING}:
                state.phase = "start" if state.state == State.STARTING else "end"
                state.round += 1
                state.step = ""
                state.done = state.done if detail["kept"] else []
            if state.state == State.COMPLETE:
                state.record = str(detail["result"].get("record", ""))
        case "step_started":
            state.step = detail["step"]
        case "step_ended" if detail["outcome"] in {"done", "skipped"}:
            if detail["step"] not in state.done:
                state.done.append(detail["step"])
            state.step = ""


def _count(stats: DayStats, fact: Fact) -> None:
    detail = fact.detail
    match fact.what:
        case "moved":
            stats.transitions += 1
            stats.state_ns[detail["was"]] = stats.state_ns.get(detail["was"], 0) + detail["duration_ns"]
        case "step_ended":
            stats.steps[detail["outcome"]] = stats.steps.get(detail["outcome"], 0) + 1
            stats.step_ns[f"{detail['phase']}/{detail['step']}"] = detail["duration_ns"]
        case "noted":
            stats.notes += 1
