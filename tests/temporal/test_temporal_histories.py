"""Histories that earlier versions of the workflows wrote are replayed by this one.

A replay that fails says that a change breaks workflows that are open: put it behind ``workflow.patched``. ``python -m
tests.temporal.test_temporal_histories VERSION`` stores what this version writes; the files of older ones stay.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from journal.day import DayRule
from journal.errors import CallerError, StorageError
from journal.memory import MemoryJournal
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register
from ssmd.metadata.environment import Schedule
from ssmd.temporal import workflows
from ssmd.temporal.activities import Activities, asked_of
from ssmd.temporal.driver import Cancelled, Queue, TemporalDriver, going
from ssmd.temporal.link import Target, connected
from ssmd.temporal.orders import Asked, roll_id
from ssmd.temporal.service import worker_of
from tests.day.driver_contract import CLOCK, DAY, Effects
from tests.temporal.servers import dev_server

HERE = Path(__file__).parent / "histories"
STORED = sorted(HERE.glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_this_version_replays_what_earlier_ones_wrote(path: Path) -> None:
    asyncio.run(Replayer(workflows=workflows.ALL).replay_workflow(history(path)))


def test_every_workflow_has_a_history() -> None:
    kinds = {path.stem.partition("-")[2].partition("-")[0] for path in STORED}
    assert kinds == {"start", "end", "roll", "sync"}


@workflow.defn(name="StartTradingDay")
class Changed(workflows.StartTradingDay):
    """As by somebody who did not think of open workflows."""

    @workflow.run
    async def run(self, asked: Asked) -> str:
        await workflow.sleep(1)
        return await super().run(asked)


def test_a_change_that_would_break_open_workflows_is_noticed() -> None:
    path = next(p for p in STORED if p.stem.endswith("-start-retried"))
    replayer = Replayer(workflows=[Changed], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(workflow.NondeterminismError):
        asyncio.run(replayer.replay_workflow(history(path)))


async def _store(address: str, version: str) -> None:
    effects, left, hangs = Effects(), [2], [True]
    register = Register(MemoryJournal(), CLOCK, "local", DayRule())

    async def twice() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise StorageError("the bucket is away")

    async def hang() -> None:
        while hangs[0]:
            await CLOCK.sleep(0.05)

    async def never() -> None:
        raise CallerError("no such thing")

    rounds = {
        "start-retried": [effects.step("a", twice), effects.step("b", volatile=True), effects.step("c")],
        "end-cancelled": [effects.step("stop"), effects.step("verify", hang)],
        "end-failed": [effects.step("stop"), effects.step("verify", never)],
        "end": [effects.step("stop"), effects.step("record")],
    }
    plan = rounds["start-retried"]

    def plans(found: TradingDay) -> list[object]:
        return list(plan)

    async def save(client: Client, workflow_id: str, name: str) -> None:
        found = await client.get_workflow_handle(workflow_id).fetch_history()
        HERE.mkdir(exist_ok=True)
        (HERE / f"{version}-{name}.json").write_text(found.to_json())

    target = Target(address, address)
    activities = Activities(register, Calendar(Schedule()), CLOCK, "worker@test:1", plans, sync=effects.step("secmaster"))  # type: ignore[arg-type]
    async with connected(target) as client, worker_of(client, "q", activities):
        driver = TemporalDriver(Queue(client, target, "q"), register, CLOCK)
        for name, steps in rounds.items():
            plan = steps
            await register.move(DAY, State.STARTING if name.startswith("start") else State.ENDING, who="ana", kept=name == "end")
            asked = asked_of(await register.get(DAY))
            running = asyncio.create_task(driver.carry_out(DAY))
            if name == "end-cancelled":
                while not ((found := await going(client, asked)) and found.where and found.where.step == "verify" and found.beat):
                    await CLOCK.sleep(0.1)
                await client.get_workflow_handle(asked.id).cancel()
                with pytest.raises(Cancelled):
                    await running
                await register.move(DAY, State.ERROR, who="ana")
                hangs[0] = False
            else:
                await running
            await save(client, asked.id, name)
        plan = rounds["end"]
        await driver.roll([])
        await save(client, roll_id("local"), "roll")
        await client.execute_workflow("SyncSecmaster", Asked("local"), id="sync", task_queue="q")
        await save(client, "sync", "sync")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, dev_server(Path(folder)) as server:
        asyncio.run(_store(server.address, sys.argv[1]))
