"""The Temporal driver: phases of days as workflows, for whoever asks; a worker of the environment carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.service import RPCError

from journal.clock import Clock
from journal.errors import CallerError, StoreError
from ssmd.day.activity import Step
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.phase import Overtaken, Tell, check_open
from ssmd.day.register import Register
from ssmd.temporal.activities import asked_of
from ssmd.temporal.link import Target, answered
from ssmd.temporal.orders import GIVEN_UP, INTERRUPTED, OVERTAKEN, REFUSED, Asked, Beat, Where, roll_id
from ssmd.temporal.pollers import polled
from ssmd.temporal.workflows import EndTradingDay, RollTradingDay, StartTradingDay

_LOOK_S = 0.5
_ASK_S = 2.0  # how long Temporal is given to say how a step goes
_SETTLED = frozenset({State.ACTIVE, State.COMPLETE, State.ERROR, State.FAILED})


class Cancelled(CallerError):
    """Somebody cancelled the workflow; the day can be carried on."""


class Queue(NamedTuple):
    """Task queue `name` of an environment, and who it is asked of."""

    client: Client
    target: Target
    name: str


@dataclass(frozen=True)
class Going:
    """How a workflow goes: the query's answer where a worker gives one, and what is known of the step under way."""

    where: Where | None
    attempt: int = 0
    beat: Beat | None = None
    trouble: str = ""


class TemporalDriver:
    """A `Driver`. `register` is this process's own view of the days; `tell` is given a line for people whenever something went on."""

    def __init__(self, at: Queue, register: Register, clock: Clock, tell: Tell = lambda _: None) -> None:
        self._client, self._target, self._queue = at
        self._register = register
        self._clock = clock
        self._tell = tell

    async def run(self, day: date, plan: Sequence[Step]) -> TradingDay:
        """As `Driver.run`; the steps are those that the worker has: `plan` names them."""
        del plan
        try:
            return await self.carry_out(day)
        except Cancelled as error:
            raise asyncio.CancelledError(str(error)) from error

    async def carry_out(self, day: date) -> TradingDay:
        """Ask for the phase that `day` is in, or join those who wait for it. Who asks may go away: the workflow stays.

        Raises `Cancelled`, `Overtaken`, `TemporalUnavailable`.
        """
        found = await self._register.get(day)
        check_open(found)
        handle = await self._begin(asked_of(found))
        await self._follow(handle, [day])
        return await self._register.get(day)

    async def roll(self, days: Sequence[date]) -> None:
        """Carry out what is due, `days` among it, until nothing is. Raises as `carry_out`."""
        await self._follow(await self.begin_roll(), days)

    async def begin_roll(self) -> WorkflowHandle[Any, str]:
        """As `roll`, for nobody who waits."""
        with answered(self._target):
            return await self._client.start_workflow(
                RollTradingDay.run, Asked(self._register.env), id=roll_id(self._register.env), task_queue=self._queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )  # fmt: skip

    async def _begin(self, asked: Asked) -> WorkflowHandle[Any, str]:
        workflow = StartTradingDay.run if asked.phase == "start" else EndTradingDay.run
        with answered(self._target):
            return await self._client.start_workflow(
                workflow, asked, id=asked.id, task_queue=self._queue, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            )  # fmt: skip

    async def _follow(self, handle: WorkflowHandle[Any, str], days: Sequence[date]) -> None:
        """Until it has ended, telling how it goes. Raises what it failed with, unless that is the day's own error."""
        result = asyncio.ensure_future(_result(handle))
        told = _Told(self._tell)
        try:
            while not result.done():
                pause = asyncio.ensure_future(self._clock.sleep(_LOOK_S))
                await asyncio.wait([result, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                if not result.done():
                    await self._say(days, told)
            with answered(self._target):
                result.result()
        except WorkflowFailureError as error:
            raise_known(error.cause, handle.id)
        finally:
            if not result.done():
                result.cancel()
                await asyncio.wait([result])
        for day in days:
            found = await self._register.get(day)
            why = f": {found.why}" if found.state in {State.ERROR, State.FAILED} else ""
            told(f"{day} is {found.state}{why}")

    async def _say(self, days: Sequence[date], told: _Told) -> None:
        for day in days:
            found = await self._register.get(day)
            if found.state in {State.STARTING, State.ENDING}:
                told(f"{day} {found.phase}: {found.step or 'next step'} (done: {', '.join(found.done) or 'nothing'})")
        try:
            if not await polled(self._client, self._queue, self._clock.wall_ns()):
                told(f"no worker asks for work of task queue {self._queue}: start `ssmd run worker {self._register.env}`")
        except RPCError:
            told(f"Temporal at {self._target.shown} does not answer; what was asked waits for it in the journal")


class _Told:
    """Tells each thing once."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(text)


async def _result(handle: WorkflowHandle[Any, str]) -> str:
    return await handle.result()


def raise_known(cause: BaseException, workflow: str) -> None:
    """What a workflow failed with, as ours; nothing where the day's own state says it."""
    if is_cancelled_exception(cause) or (isinstance(cause, ApplicationError) and cause.type == INTERRUPTED):
        raise Cancelled(f"{workflow} was cancelled in Temporal; `ssmd day recover` goes on from the last step that was done")
    if isinstance(cause, ApplicationError):
        if cause.type == OVERTAKEN:
            raise Overtaken(cause.message)
        if cause.type == REFUSED:
            raise CallerError(cause.message)
        if cause.type == GIVEN_UP:
            return
    raise StoreError(f"{workflow} failed: {cause}; see its history in Temporal, then `ssmd day recover`")


async def going(client: Client, asked: Asked) -> Going | None:
    """How the workflow of a phase goes; None when there is none, or it has ended. Raises `RPCError`."""
    from temporalio.client import RPCTimeoutOrCancelledError, WorkflowExecutionStatus, WorkflowQueryFailedError
    from temporalio.service import RPCStatusCode

    handle = client.get_workflow_handle(asked.id)
    try:
        described = await handle.describe(rpc_timeout=timedelta(seconds=_ASK_S))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    if described.status is not WorkflowExecutionStatus.RUNNING:
        return None
    where = None
    with suppress(RPCError, RPCTimeoutOrCancelledError, WorkflowQueryFailedError):  # where no worker answers
        where = await handle.query(StartTradingDay.where, rpc_timeout=timedelta(seconds=_ASK_S))
    for pending in described.raw_description.pending_activities:
        beats = (
            await client.data_converter.decode(pending.heartbeat_details.payloads, [Beat]) if pending.HasField("heartbeat_details") else []
        )
        return Going(where, pending.attempt, beats[0] if beats else None, pending.last_failure.message)
    return Going(where)


async def tell_going(at: Queue, days: Sequence[TradingDay], now_ns: int, tell: Tell) -> None:
    """A line for each workflow of `days` that goes on, and one where no worker asks for work. Raises `TemporalUnavailable`."""
    with answered(at.target):
        if not await polled(at.client, at.name, now_ns):
            tell(f"no worker asks for work of task queue {at.name} of Temporal at {at.target.shown}: start `ssmd run worker`")
        for day in days:
            if day.phase and (found := await going(at.client, asked_of(day))):
                step = f"{found.where.step}, {found.where.count} of {found.where.of}" if found.where else day.step or "waits for a worker"
                beat = f"; {found.beat.text}" if found.beat and found.beat.text else ""
                trouble = f"; attempt {found.attempt} after: {found.trouble}" if found.trouble else ""
                tell(f"{asked_of(day).id}: {step}{beat}{trouble}")
