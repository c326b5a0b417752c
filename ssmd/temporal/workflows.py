"""The workflows. They decide the order of things and nothing else: what happens is activities, and what is true is the day's journal.

Each is deterministic and is replayed from its history, also by a worker of a later version. Whoever changes what a workflow does, or in
which order, puts the new way behind ``workflow.patched("what-changed")`` and keeps the old one beside it for as long as histories of it may
be open; tests/temporal replays a stored history of every version.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from ssmd.temporal.orders import FINAL, INTERRUPTED, LOST, REFUSED, Asked, Due, Noted, Plan, Planned, StepAsked, Where

# How soon it is seen that a worker has died in a step. A step that lives and does nothing is given up by the worker, after its own time.
_DEAD_S = 15.0
_SHORT_S = 60.0  # for what only asks or changes the journal
_WORKERS = 100  # that may die in one round of a phase
_AGAIN_S = 5.0  # between looks at a day that another workflow carries out
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=10), maximum_attempts=0, non_retryable_error_types=FINAL
)


_T = TypeVar("_T")


class _Phase:
    """What StartTradingDay and EndTradingDay share: the steps of one round of one day."""

    def __init__(self) -> None:
        self._where = Where()

    async def _carry_out(self, asked: Asked) -> str:
        """The day's state then. Fails with one of `FINAL`; cancelled, the history of the day says so."""
        try:
            for _ in range(_WORKERS):
                try:
                    return await self._once(asked)
                except ActivityError as error:
                    if not _is(error, LOST):
                        raise
        except (ActivityError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error) or _is(error, INTERRUPTED):
                await asyncio.shield(_note(asked, "cancelled"))
            raise _failure(error) from error
        raise ApplicationError(f"{_WORKERS} workers died in {asked.id}", type=REFUSED, non_retryable=True)

    async def _once(self, asked: Asked) -> str:
        """The steps that are not done, and those whose effects ended with the worker that did them."""
        plan = await _short("open_phase", asked, Plan)
        done: list[str] = []
        for count, step in enumerate(plan.steps, 1):
            self._where = Where(asked.day, asked.phase, step.name, count, len(plan.steps), workflow.time_ns(), list(done))
            if not step.done or step.again:
                await self._step(StepAsked(asked, step.name, count, len(plan.steps)), step)
            done.append(step.name)
        return await _short("settle", asked, str)

    async def _step(self, wanted: StepAsked, step: Planned) -> None:
        await workflow.execute_activity(
            "do_step", wanted, result_type=type(None), activity_id=f"{step.name}-{wanted.count}", summary=step.name, retry_policy=_RETRY,
            heartbeat_timeout=timedelta(seconds=_DEAD_S), start_to_close_timeout=timedelta(seconds=step.most_s),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )  # fmt: skip

    @workflow.query
    def where(self) -> Where:
        """Phase, step, and what is done; what goes on in the step is in its heartbeats."""
        return self._where


@workflow.defn
class StartTradingDay(_Phase):
    """Start a day, or, without one, those that are due."""

    @workflow.run
    async def run(self, asked: Asked) -> str:
        return await (self._carry_out(asked) if asked.day else _all_due(asked.env, "start"))


@workflow.defn
class EndTradingDay(_Phase):
    """End a day, or, without one, those that are due."""

    @workflow.run
    async def run(self, asked: Asked) -> str:
        return await (self._carry_out(asked) if asked.day else _all_due(asked.env, "end"))


@workflow.defn
class RollTradingDay:
    """What is due: the next day is live before the last one ends."""

    @workflow.run
    async def run(self, asked: Asked) -> str:
        return await _all_due(asked.env, "")


@workflow.defn
class SyncSecmaster:
    """Ask the venue for its markets, outside of a day's start."""

    @workflow.run
    async def run(self, asked: Asked) -> str:
        try:
            found: str = await workflow.execute_activity(
                "sync_secmaster", asked, result_type=str, retry_policy=_RETRY, heartbeat_timeout=timedelta(seconds=_DEAD_S),
                start_to_close_timeout=timedelta(hours=6),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )  # fmt: skip
        except ActivityError as error:
            raise _failure(error) from error
        return found


ALL = (StartTradingDay, EndTradingDay, RollTradingDay, SyncSecmaster)
_OF_PHASE = {"start": "StartTradingDay", "end": "EndTradingDay"}


async def _all_due(env: str, phase: str) -> str:
    """Until nothing is open that was not tried here: a day at a time, one that starts before one that ends. Names what became of each."""
    tried: dict[str, str] = {}
    while True:
        found = await _short("due", Due(env, workflow.time_ns(), phase), list[Asked])
        left = [asked for asked in found if asked.id not in tried]
        if not left:
            return "; ".join(f"{name} {state}" for name, state in tried.items()) or "nothing was due"
        wanted = left[0]
        try:
            tried[wanted.id] = await workflow.execute_child_workflow(
                _OF_PHASE[wanted.phase], wanted, id=wanted.id, result_type=str, id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            )  # fmt: skip
        except WorkflowAlreadyStartedError:  # an operator was first
            await workflow.sleep(_AGAIN_S)
        except ChildWorkflowError as error:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # a workflow runs in a task
                raise
            tried[wanted.id] = str(error.cause or error)
        if workflow.info().is_continue_as_new_suggested():
            workflow.continue_as_new(Asked(env))


async def _short(name: str, argument: object, kind: type[_T]) -> _T:
    found: _T = await workflow.execute_activity(
        name, argument, result_type=kind, retry_policy=_RETRY, start_to_close_timeout=timedelta(seconds=_SHORT_S)
    )
    return found


async def _note(asked: Asked, what: str) -> None:
    info = workflow.info()
    await _short("note", Noted(asked, what, info.workflow_id, info.run_id), type(None))


def _failure(error: BaseException) -> BaseException:
    """What the workflow fails with: the activity's own words."""
    if isinstance(error, ActivityError) and isinstance(error.cause, ApplicationError):
        return ApplicationError(error.cause.message, type=error.cause.type or REFUSED, non_retryable=True)
    return error


def _is(error: BaseException, kind: str) -> bool:
    return isinstance(error, ActivityError) and isinstance(error.cause, ApplicationError) and error.cause.type == kind
