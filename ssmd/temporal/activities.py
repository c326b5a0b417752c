"""What workflows have done, in the process that owns a day's children. Each may be called again after it was done in part or whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from journal.clock import Clock
from journal.errors import CallerError, SsmdError
from ssmd.day.activity import Result, Step, Work
from ssmd.day.aggregate import State, TradingDay, date_of
from ssmd.day.calendar import Calendar
from ssmd.day.phase import Overtaken, Phase, Tell, alive, check_open, worth_a_retry
from ssmd.day.register import Register
from ssmd.day.schedule import WHO, due
from ssmd.temporal.orders import GIVEN_UP, INTERRUPTED, LOST, OVERTAKEN, REFUSED, Asked, Beat, Due, Noted, Plan, Planned, StepAsked

_MOST_BROUGHT = 1_000  # some days' of steps
_AWAY = "Away"  # type of a failure that is worth a retry for ever: the journal does not answer, or the worker stops


class Activities:
    """`plans` has the steps of the phase a day is in; `sync` asks the venue for its markets. `who` is this process."""

    def __init__(
        self, register: Register, calendar: Calendar, clock: Clock, who: str, plans: Callable[[TradingDay], Sequence[Step]], *,
        sync: Step | None = None, tell: Tell = lambda _: None,
    ) -> None:  # fmt: skip
        self._register = register
        self._calendar = calendar
        self._clock = clock
        self._who = who
        self._plans = plans
        self._sync = sync
        self._tell = tell
        # Volatile steps that this process has done, by their idempotency keys: what others brought about ended with them.
        self._brought: dict[str, None] = {}

    @property
    def all(self) -> list[Callable[..., object]]:
        return [self.open_phase, self.do_step, self.settle, self.note, self.due, self.sync_secmaster]

    @activity.defn
    async def open_phase(self, asked: Asked) -> Plan:
        """The steps of the phase, and which are done."""
        with _failures():
            found = await self._found(asked)
            return Plan([Planned(s.name, s.name in found.done, s.volatile) for s in self._plans(found)])

    @activity.defn
    async def do_step(self, wanted: StepAsked) -> None:
        """One attempt. The one that gives up moves the day to ERROR or FAILED before it fails for good."""
        asked, info = wanted.asked, activity.info()
        failures = _failures_before(info.heartbeat_details)
        with _failures():
            found = await self._found(asked)
            step = next((s for s in self._plans(found) if s.name == wanted.step), None)
            if step is None:
                raise CallerError(f"this version of ssmd knows no step {wanted.step}; cancel the workflow, then `ssmd day recover`")
            self._check_brought(found, step)
            phase = Phase(self._register, self._clock, self._who, date.fromisoformat(asked.day), asked.number, self._tell)
            label = f"{asked.day} {asked.phase} {wanted.count}/{wanted.of} {wanted.step}"
            if step.name in found.done and info.attempt > 1 and not step.volatile:
                return  # the worker died after it was journalled, and before Temporal was told
            activity.heartbeat(Beat(failures))
            made = await phase.attempt(step, info.attempt, label, lambda w: activity.heartbeat(Beat(failures, w.beats, w.text)))
            if made.error is None:
                self._bring(found, step)
                return
            if worth_a_retry(made.error) and failures + 1 < step.tries:
                activity.heartbeat(Beat(failures + 1, 0, str(made.error)[:500]))
                raise ApplicationError(str(made.error), type=type(made.error).__name__, category=ApplicationErrorCategory.BENIGN)
            found = await phase.give_up(step.name, made.error)
        raise _final(GIVEN_UP, f"day {asked.day} of {asked.env} is {found.state}: {found.why}")

    @activity.defn
    async def settle(self, asked: Asked) -> str:
        """Every step is done: the day's state."""
        with _failures():
            found = await self._register.get(date.fromisoformat(asked.day))
            reached = State.ACTIVE if asked.phase == "start" else State.COMPLETE
            if found.round == asked.number and found.state == reached:
                return found.state  # done by an attempt that Temporal was not told of
            self._check_brought(await self._found(asked), None)
            phase = Phase(self._register, self._clock, self._who, date.fromisoformat(asked.day), asked.number, self._tell)
            return (await phase.settle()).state

    @activity.defn
    async def note(self, noted: Noted) -> None:
        """In the day's history."""
        asked, detail = noted.asked, {"workflow": noted.workflow, "run": noted.run, "phase": noted.asked.phase}

        def add(newest: TradingDay) -> None:
            newest.note(noted.what, self._clock.wall_ns(), self._who, detail)

        with _failures():
            await self._register.change(date.fromisoformat(asked.day), add, who=self._who)
        self._tell(f"{asked.day}: {noted.workflow} was {noted.what}; `ssmd day recover` goes on from the last step that was done")

    @activity.defn
    async def due(self, wanted: Due) -> list[Asked]:
        """Move the days that are due, and name all that are to be carried out then, one that starts before one that ends."""
        # A schedule is on time by the server's clock: ours may be a little behind it.
        now_ns = max(wanted.now_ns, self._clock.wall_ns())
        with _failures():
            days = [await self._register.get(d) for d in await self._register.dates()]
            states = {date_of(d): State(d.state) for d in days if d.mode == "live"}  # others are made by who asked for them
            for move in due(self._calendar, states, now_ns):
                if wanted.phase in {"", "start" if move.to is State.STARTING else "end"}:
                    with suppress(CallerError):  # an operator was first
                        await self._register.move(move.day, move.to, who=WHO, why=move.why)
            found = [d for d in await self._register.open() if d.state != State.ACTIVE and d.mode == "live"]
            found = [d for d in found if wanted.phase in {"", d.phase}]
        found.sort(key=lambda d: (d.state != State.STARTING, d.day))
        return [asked_of(d) for d in found]

    @activity.defn
    async def sync_secmaster(self, asked: Asked) -> str:
        """What changed, for people."""
        with _failures():
            if self._sync is None:
                raise CallerError(f"the security master of {asked.env} is not synced by this worker")
            today = self._calendar.today(self._clock.wall_ns())
            key = f"{asked.env}/{activity.info().workflow_id}"
            look = lambda w: activity.heartbeat(Beat(0, w.beats, w.text))  # noqa: E731  (the one line it is)
            result = await alive(self._sync, Work(today, key, WHO, forced=False), self._clock, look)
        return shown(result)

    def _bring(self, found: TradingDay, step: Step) -> None:
        if step.volatile:
            self._brought[found.key(step.name)] = None
            while len(self._brought) > _MOST_BROUGHT:
                del self._brought[next(iter(self._brought))]

    def _check_brought(self, found: TradingDay, until: Step | None) -> None:
        """That what the volatile steps before `until` brought about is there."""
        for step in self._plans(found):
            if until and step.name == until.name:
                return
            if step.volatile and found.key(step.name) not in self._brought:
                raise _final(LOST, f"{found.day}: what {step.name} had brought about has ended with the worker that did it")

    async def _found(self, asked: Asked) -> TradingDay:
        """The day, which is in the phase and round that was asked."""
        found = await self._register.get(date.fromisoformat(asked.day))
        check_open(found)
        if (found.phase, found.round) != (asked.phase, asked.number):
            raise Overtaken(f"day {asked.day} of {asked.env} was made {found.state} by {found.who} meanwhile: another workflow is at work")
        return found


def asked_of(found: TradingDay) -> Asked:
    """The phase that a day is in."""
    return Asked(found.env, found.day, found.phase, found.round)


def shown(result: Result) -> str:
    return ", ".join(f"{name} {value}" for name, value in result.items())


class _failures:  # noqa: N801  (reads as a verb where it is used)
    """Our errors as Temporal's: final where a retry does not help. A worker that stops is no cancellation: another one goes on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Overtaken):
            raise _final(OVERTAKEN, str(error)) from error
        if isinstance(error, asyncio.CancelledError):
            if activity.is_worker_shutdown():
                raise ApplicationError("the worker stops", type=_AWAY, category=ApplicationErrorCategory.BENIGN) from error
            if not activity.is_cancelled():
                raise _final(INTERRUPTED, "the step was interrupted") from error
        if isinstance(error, SsmdError | OSError):
            if isinstance(error, OSError) or worth_a_retry(error):
                raise ApplicationError(str(error), type=_AWAY, category=ApplicationErrorCategory.BENIGN) from error
            raise _final(REFUSED, str(error)) from error


def _final(kind: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True, category=ApplicationErrorCategory.BENIGN)


def _failures_before(details: Sequence[object]) -> int:
    """Failures of the step in earlier attempts, as the last heartbeat had them."""
    found = details[0] if details else None
    return int(found.get("failures", 0)) if isinstance(found, dict) else 0
