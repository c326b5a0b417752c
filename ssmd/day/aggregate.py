"""One trading day: an aggregate in stream ``{env}_day``, entries on ``{env}.day.events.{id}.{version}``.

Its state is also what people ask for: a day in STARTING or ENDING is there to be carried out, by whichever runner lives or comes next::

    PENDING --> STARTING --> ACTIVE --> ENDING --> COMPLETE
                   |  ^        |        |  ^  |
                   v  |        v        v  |  v
                    ERROR <------------- ERROR FAILED --> ENDING

ERROR: a step could not be done; it may be tried again, from the last checkpoint. FAILED: the day was verified and is not what it must be.
COMPLETE is final.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID, uuid5

from eventsourcing.domain import Aggregate

from journal.errors import CallerError

_NAMESPACE = UUID("3b1c6a52-7c0e-5f0b-9a43-0d7c1e3f9b21")  # drawn once; another one would begin all histories anew


RESUMED = "resumed"  # noted by a runner that found the day ACTIVE and has made its processes run again


class State(StrEnum):
    PENDING = "PENDING"
    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    ENDING = "ENDING"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    FAILED = "FAILED"


LEGAL: dict[State, tuple[State, ...]] = {
    State.PENDING: (State.STARTING,),
    State.STARTING: (State.ACTIVE, State.ERROR),
    State.ACTIVE: (State.ENDING, State.ERROR),
    State.ENDING: (State.COMPLETE, State.ERROR, State.FAILED),
    State.ERROR: (State.STARTING, State.ENDING),  # once it was ENDING: only ENDING
    State.FAILED: (State.ENDING,),
    State.COMPLETE: (),
}
# States in which something of the day runs or waits to be carried out.
OPEN = frozenset({State.STARTING, State.ACTIVE, State.ENDING})


class TradingDay(Aggregate):
    """`done` has the results of the steps that the present phase (start or end) has finished, in order."""

    TOPIC: ClassVar[str] = "day"

    def __init__(self, env: str, day: str) -> None:
        self.env = env
        self.day = day
        self.state = State.PENDING.value
        self.since_ns = 0
        self.who = ""
        self.why = ""
        self.phase = ""  # start or end, from the first time that it was begun
        self.round = 0  # times a phase was begun
        self.forced = False  # for ever
        self.mode = "live"  # or replay: made from `source`, after the fact
        self.source: dict[str, str] = {}
        self.step = ""  # under way, or the one that could not be done
        self.step_ns = 0
        self.runner = ""  # the process that last began a step, or made an ACTIVE day's processes run again
        self.begun: dict[str, int] = {}  # times that a step of this round was begun since it last ended
        self.done: dict[str, dict[str, Any]] = {}
        self.record = ""  # the object of the day's record
        self.error = ""  # the kind of what it is ERROR or FAILED for

    class Created(Aggregate.Created):
        TOPIC: ClassVar[str] = "day.created"
        env: str
        day: str

    class Moved(Aggregate.Event):
        """`duration_ns` is how long the day was what it `was`. `kept`: the steps that were done before stay done."""

        TOPIC: ClassVar[str] = "day.moved"
        day: str
        at_ns: int
        was: str
        to: str
        who: str
        why: str
        step: str
        duration_ns: int
        forced: bool
        kept: bool
        result: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            aggregate.state, aggregate.since_ns, aggregate.who, aggregate.why = self.to, self.at_ns, self.who, self.why
            aggregate.forced = aggregate.forced or self.forced
            aggregate.error = str(self.result.get("error", "")) if self.to in {State.ERROR, State.FAILED} else ""
            if self.to in {State.STARTING, State.ENDING}:
                aggregate.phase = "start" if self.to == State.STARTING else "end"
                aggregate.round += 1
                aggregate.begun = {}
                aggregate.step = ""
                if not self.kept:
                    aggregate.done = {}
            if self.to == State.STARTING and "mode" in self.result:
                aggregate.mode, aggregate.source = self.result["mode"], self.result["source"]
            if self.to == State.COMPLETE:
                aggregate.record = str(self.result.get("record", ""))

    class StepStarted(Aggregate.Event):
        TOPIC: ClassVar[str] = "day.step_started"
        day: str
        at_ns: int
        phase: str
        step: str
        key: str
        attempt: int
        who: str

        def apply(self, aggregate: Any) -> None:
            aggregate.step, aggregate.step_ns = self.step, self.at_ns
            aggregate.runner = self.who
            aggregate.begun[self.step] = aggregate.begun.get(self.step, 0) + 1

    class StepEnded(Aggregate.Event):
        """`outcome` is done, skipped, failed (may be tried again) or finding (verified, and not what it must be)."""

        TOPIC: ClassVar[str] = "day.step_ended"
        day: str
        at_ns: int
        phase: str
        step: str
        key: str
        attempt: int
        who: str
        duration_ns: int
        outcome: str
        result: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            aggregate.begun.pop(self.step, None)
            if self.outcome in {"done", "skipped"}:
                aggregate.done[self.step] = self.result
                aggregate.step = ""

    class Noted(Aggregate.Event):
        """What happened to the day without a change of state: its runner came back, the clock jumped."""

        TOPIC: ClassVar[str] = "day.noted"
        day: str
        at_ns: int
        what: str
        who: str
        detail: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            if self.what == RESUMED:
                aggregate.runner = self.who

    @staticmethod
    def create_id(env: str, day: str) -> UUID:
        return uuid5(_NAMESPACE, f"{env}/{day}")

    @property
    def legal(self) -> tuple[State, ...]:
        if self.state == State.ERROR and self.phase == "end":
            return (State.ENDING,)
        return LEGAL[State(self.state)]

    def key(self, step: str) -> str:
        """The idempotency key of a step of the present phase: the same after a crash, another one when the phase is begun anew."""
        return f"{self.env}/{self.day}/{self.phase}-{self.round}/{step}"

    def move(
        self, to: State, at_ns: int, who: str, why: str = "", *, step: str = "", forced: bool = False, kept: bool = False,
        result: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Raises `CallerError` naming the state, who brought it about, and what may follow."""
        if to not in self.legal:
            by = f" since {_shown(self.since_ns)}, by {self.who}{f' ({self.why})' if self.why else ''}" if self.who else ""
            raise CallerError(
                f"day {self.day} of {self.env} is {self.state}{by}: it cannot become {to}, only {_listed(self.legal)}{self._hint(to)}"
            )
        self.trigger_event(
            self.Moved, timestamp=moment(at_ns), day=self.day, at_ns=at_ns, was=self.state, to=to.value, who=who, why=why, step=step,
            duration_ns=max(0, at_ns - self.since_ns) if self.since_ns else 0, forced=forced, kept=kept, result=result or {},
        )  # fmt: skip

    def _hint(self, to: State) -> str:
        if self.state == State.PENDING:
            return "; it was never started: ssmd day start"
        if self.state in {State.STARTING, State.ENDING} and to == self.state:
            return "; a runner carries it out: ssmd day status, or ssmd day recover where none lives"
        return ""

    def begin_step(self, step: str, at_ns: int, who: str, attempt: int) -> None:
        self.trigger_event(
            self.StepStarted, timestamp=moment(at_ns), day=self.day, at_ns=at_ns, phase=self.phase, step=step, key=self.key(step),
            attempt=attempt, who=who,
        )  # fmt: skip

    def end_step(self, step: str, at_ns: int, who: str, attempt: int, outcome: str, result: dict[str, Any]) -> None:  # noqa: PLR0917
        self.trigger_event(
            self.StepEnded, timestamp=moment(at_ns), day=self.day, at_ns=at_ns, phase=self.phase, step=step, key=self.key(step),
            attempt=attempt, who=who, duration_ns=max(0, at_ns - self.step_ns), outcome=outcome, result=result,
        )  # fmt: skip

    def note(self, what: str, at_ns: int, who: str, detail: dict[str, Any]) -> None:
        self.trigger_event(self.Noted, timestamp=moment(at_ns), day=self.day, at_ns=at_ns, what=what, who=who, detail=detail)


def moment(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)


def date_of(day: TradingDay) -> date:
    return date.fromisoformat(day.day)


def _listed(states: Iterable[State]) -> str:
    return " or ".join(states) or "nothing: that is final"


def _shown(ns: int) -> str:
    return f"{moment(ns):%Y-%m-%dT%H:%M:%SZ}"
