"""Temporal away, killed or asked twice, a worker killed, a workflow cancelled: the day comes to its end, or says why it does not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client

from journal.day import DayRule
from journal.errors import CallerError
from journal.memory import MemoryJournal
from ssmd.cli import main
from ssmd.day.activity import Step
from ssmd.day.aggregate import State
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register, facts
from ssmd.metadata.environment import Schedule
from ssmd.temporal.activities import Activities, asked_of
from ssmd.temporal.driver import Cancelled, Queue, TemporalDriver, going
from ssmd.temporal.link import Target, TemporalUnavailable, connected
from ssmd.temporal.pollers import check_alone, polled
from ssmd.temporal.service import worker_of
from tests.day.driver_contract import CLOCK, DAY, Effects
from tests.journal.servers import free_port
from tests.temporal.servers import DevServer, dev_server

_PATIENCE_S = 90


@asynccontextmanager
async def at_work(server: DevServer, register: Register, plan: Sequence[Step], who: str = "worker@test:1") -> AsyncIterator[Queue]:
    target = Target(server.address, server.address)
    activities = Activities(register, Calendar(Schedule()), CLOCK, who, lambda _: plan)
    async with connected(target) as client, worker_of(client, (queue := uuid4().hex), activities):
        yield Queue(client, target, queue)


def test_a_cancelled_workflow_leaves_the_day_to_go_on_from_its_last_step_and_its_history_says_so(temporal: DevServer) -> None:
    async def run() -> None:
        journal, effects, reached = MemoryJournal(), Effects(), asyncio.Event()
        register = Register(journal, CLOCK, f"e{uuid4().hex[:8]}", DayRule())
        waiting = True

        async def wait() -> None:
            reached.set()
            while waiting:
                await CLOCK.sleep(0.05)

        plan = [effects.step("a"), effects.step("b", wait), effects.step("c")]
        await register.move(DAY, State.STARTING, who="ana")
        async with at_work(temporal, register, plan) as queue:
            asked, driver = asked_of(await register.get(DAY)), TemporalDriver(queue, register, CLOCK)
            running = asyncio.create_task(driver.carry_out(DAY))
            await reached.wait()
            # Who asks a second time joins; nothing runs twice.
            second = asyncio.create_task(TemporalDriver(queue, register, CLOCK).carry_out(DAY))
            async with asyncio.timeout(_PATIENCE_S):
                while not ((found := await going(queue.client, asked)) and found.beat and found.where):
                    await CLOCK.sleep(0.1)
            assert (found.where.phase, found.where.step, found.where.count, found.where.done) == ("start", "b", 2, ["a"])
            assert await polled(queue.client, queue.name, CLOCK.wall_ns())
            assert not await polled(queue.client, queue.name, CLOCK.wall_ns() + 600 * 10**9), "Temporal remembers the dead for five minutes"
            await queue.client.get_workflow_handle(asked.id).cancel()
            for each in (running, second):
                with pytest.raises(Cancelled, match="`ssmd day recover` goes on"):
                    await each
            assert await going(queue.client, asked) is None
            assert (await register.get(DAY)).state == "STARTING"
            noted = (await facts(journal, register.env, DAY))[-1]
            assert (noted.what, noted.detail["what"], noted.detail["detail"]["workflow"]) == ("noted", "cancelled", asked.id)
            waiting = False
            assert (await driver.carry_out(DAY)).state == "ACTIVE"
            assert effects.calls == ["a", "b", "b", "c"]

    asyncio.run(run())


def test_a_server_that_is_killed_with_an_open_workflow_goes_on_when_it_is_back(tmp_path: Path) -> None:
    async def run() -> None:
        effects, reached, release = Effects(), asyncio.Event(), asyncio.Event()
        register = Register(MemoryJournal(), CLOCK, "local", DayRule())

        async def wait() -> None:
            reached.set()
            await release.wait()

        with dev_server(tmp_path) as server:
            await register.move(DAY, State.STARTING, who="ana")
            async with at_work(server, register, [effects.step("a"), effects.step("b", wait), effects.step("c")]) as queue:
                running = asyncio.create_task(TemporalDriver(queue, register, CLOCK).carry_out(DAY))
                await reached.wait()
                await asyncio.to_thread(server.kill)
                release.set()
                await CLOCK.sleep(1.0)
                with pytest.raises(TemporalUnavailable, match="does not answer"):
                    async with connected(queue.target, 2.0):
                        raise AssertionError
                await asyncio.to_thread(server.start)
                try:
                    found = await running
                except TemporalUnavailable:  # who watched gave up; the workflow did not
                    found = await TemporalDriver(queue, register, CLOCK).carry_out(DAY)
                assert found.state == "ACTIVE"
            assert effects.calls[0] == "a"
            assert set(effects.calls) == {"a", "b", "c"}
            assert effects.calls.count("a") == 1

    asyncio.run(run())


def test_a_worker_beside_one_that_lives_is_refused_and_beside_a_dead_one_is_not(temporal: DevServer) -> None:
    async def run() -> None:
        register = Register(MemoryJournal(), CLOCK, f"e{uuid4().hex[:8]}", DayRule())
        target = Target(temporal.address, temporal.address)
        async with connected(target) as client:
            async with at_work(temporal, register, []) as queue:
                # The two are one process here; on another machine it would have another name.
                client.service_client.config.identity = "1@elsewhere"

                async def busy() -> None:
                    driver = TemporalDriver(queue, register, CLOCK)
                    while True:  # a worker asks anew when it was given something, or after a minute
                        await driver.roll([])

                working, told = asyncio.create_task(busy()), list[str]()
                while not await polled(client, queue.name, CLOCK.wall_ns()):
                    await CLOCK.sleep(0.1)
                with pytest.raises(CallerError, match=r"works for task queue .* already, .* stop that one first"):
                    await check_alone(client, queue.name, CLOCK, told.append, patience_s=30)
                assert told[0].startswith("looking for up to 30 s whether ")
                working.cancel()
                await asyncio.wait([working])
            await check_alone(client, queue.name, CLOCK, told.append, patience_s=6)
            # One of this machine that has ended is not waited for.
            activities = Activities(register, Calendar(Schedule()), CLOCK, "x", lambda _: [])
            dead = await Client.connect(temporal.address, identity=f"{_ended()}@{socket.gethostname()}")
            async with worker_of(dead, other := uuid4().hex, activities):
                while not await polled(client, other, CLOCK.wall_ns()):
                    await CLOCK.sleep(0.1)
                told.clear()
                await check_alone(client, other, CLOCK, told.append, patience_s=5)
            assert told == []

    asyncio.run(run())


def _ended() -> int:
    (process := subprocess.Popen([sys.executable, "-c", ""])).wait()
    return process.pid


def test_a_refusal_of_temporal_is_told_with_what_to_do(temporal: DevServer) -> None:
    async def run() -> None:
        with pytest.raises(CallerError, match="no namespace 'nowhere': make it with `temporal operator namespace create"):
            async with connected(Target(temporal.address, temporal.address, "nowhere")):
                raise AssertionError

    asyncio.run(run())


class Rig:
    """A project whose environment `desk` is driven by a Temporal, and commands as processes of their own."""

    def __init__(self, directory: Path, address: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")}
        self.environ = {**clean, "SSMD_ENV": "desk", "SSMD_PROJECT": str(directory), "SSMD_DATA": str(directory / "data")}
        self.directory = directory
        folder = directory / "exchanges" / "environments"
        folder.mkdir(parents=True)
        (folder / "desk.yaml").write_text(f"name: desk\nfeed: kalshi\nscheduler:\n  type: temporal\n  address: {address}\n")
        for name in ("feeds", "schemas"):
            source = Path(__file__).parents[2] / "exchanges" / name
            (directory / "exchanges" / name).symlink_to(source)

    def start(self, *args: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "ssmd.cli", *args]
        return subprocess.Popen(argv, env=self.environ, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *args: str, code: int = 0) -> str:
        out, err = (process := self.start(*args)).communicate(timeout=_PATIENCE_S)
        assert process.returncode == code, err
        return out if "-o" in args else err


STEPS = {
    "start": ("configuration", "secmaster", "storage", "connector", "archiver", "projector", "gateway", "health"),
    "end": ("stop", "drain", "flush", "verify", "record"),
}


def killed_in(rig: Rig, phase: str, step: str) -> None:
    """A worker that is killed when it says that it begins a step; nothing where the step was done by then."""
    worker = rig.start("run", "worker", "--speed", "4")
    assert worker.stderr
    told = []
    for line in worker.stderr:
        told.append(line)
        if f" {phase} " in line and f" {step}: …" in line:
            break
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert told[-1].endswith(f" {step}: …\n"), "".join(told)


@pytest.mark.chaos
@pytest.mark.timeout(1_200)
def test_a_worker_killed_in_every_step_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    with dev_server(tmp_path / "server") as server:
        rig = Rig(tmp_path, server.address)
        for step in STEPS["start"]:
            killed_in(rig, "start", step)
        worker = rig.start("run", "worker", "--speed", "4")
        assert worker.stderr
        assert any("is ACTIVE" in line for line in worker.stderr)
        assert "cannot become STARTING" in rig.run("day", "start", code=2)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        ending = rig.start("day", "end", "--why", "the venue closes")
        for step in STEPS["end"]:
            killed_in(rig, "end", step)
        last = rig.start("run", "worker", "--speed", "4")
        try:
            _, err = ending.communicate(timeout=_PATIENCE_S)
            assert (ending.returncode, "is COMPLETE" in err) == (0, True), err
        finally:
            last.send_signal(signal.SIGTERM)
            _, err = last.communicate(timeout=_PATIENCE_S)
        assert last.returncode == 0, err
        server.kill()
        assert "Temporal does not answer" in rig.run("day", "status", code=2)
        document = json.loads(rig.run("day", "show", "desk", "today", "-o", "json"))
        assert document["record"]["body"]["verified"]
        begun = [f["step"] for f in document["timeline"] if f["what"] == "step_started"]
        assert min(begun.count(step) for steps in STEPS.values() for step in steps) >= 2


def test_without_temporal_nothing_is_asked_and_nobody_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(tmp_path, f"127.0.0.1:{free_port()}")
    for name in ("SSMD_NATS", "SSMD_NATS_TOKEN", "SSMD_STORAGE", "SSMD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSMD_ENV", "SSMD_PROJECT", "SSMD_DATA"):
        monkeypatch.setenv(name, rig.environ[name])
    today = datetime.now(UTC).date().isoformat()
    for args in (["start"], ["end"], ["roll"], ["recover"], ["start", "--date", today]):
        started = time.monotonic()
        assert main(["day", *args]) == 2, args
        assert "set scheduler.type: embedded" in capsys.readouterr().err, args
        assert time.monotonic() - started < 20
    assert main(["day", "start", "--speed", "9"]) == 2
    assert "are the worker's here" in capsys.readouterr().err
    assert main(["run", "worker"]) == 2
    assert "Temporal does not answer" in capsys.readouterr().err
    assert main(["day", "run"]) == 2
    assert "Temporal drives the days of desk" in capsys.readouterr().err
    assert not (tmp_path / "data" / "logs").exists(), "no process was started"


def test_help_does_not_import_temporal() -> None:
    code = "import sys, ssmd.cli; ssmd.cli.main(['run', '--help']); ssmd.cli.main(['day', '--help']); print('temporalio' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"
