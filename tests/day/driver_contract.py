"""What every driver of a day must do, whatever runs its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import pytest

from journal.clock import WallClock
from journal.day import DayRule
from journal.errors import CallerError, StorageError
from journal.memory import MemoryJournal
from ssmd.day.activity import Driver, Finding, Result, Step, Work
from ssmd.day.aggregate import State
from ssmd.day.phase import MOST_BEGUN
from ssmd.day.register import Register, facts

DAY = date(2026, 8, 10)
CLOCK = WallClock()
MakeDriver = Callable[[Register], Driver]


class Killed(BaseException):
    """As a SIGKILL: nothing that follows is run."""


class Effects:
    """Steps that leave a mark, as real ones leave objects: by their idempotency key."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.marks: set[str] = set()

    def step(self, name: str, before: Callable[[], Awaitable[Any]] | None = None, **more: Any) -> Step:
        async def run(work: Work) -> Result:
            self.calls.append(name)
            if before:
                await before()
            self.marks.add(work.key)
            return {"mark": len(self.marks)}

        return Step(name, run, **more)


class DriverContract:
    """Subclass it with a `driver` fixture."""

    @pytest.fixture
    def driver(self) -> MakeDriver:
        raise NotImplementedError

    def test_a_start_and_an_end_are_carried_out_in_order_and_journalled(self, driver: MakeDriver) -> None:
        async def run() -> None:
            journal, effects = MemoryJournal(), Effects()
            register = Register(journal, CLOCK, "local", DayRule())
            await register.move(DAY, State.STARTING, who="ana")
            started = await driver(register).run(DAY, [effects.step("a"), effects.step("b")])
            assert (started.state, list(started.done)) == ("ACTIVE", ["a", "b"])
            await register.move(DAY, State.ENDING, who="ana")
            ended = await driver(register).run(DAY, [effects.step("c"), effects.step("record")])
            assert (ended.state, effects.calls) == ("COMPLETE", ["a", "b", "c", "record"])
            assert effects.marks == {f"local/2026-08-10/{k}" for k in ("start-1/a", "start-1/b", "end-2/c", "end-2/record")}
            told = [(f.what, f.detail.get("step"), f.detail.get("outcome")) for f in await facts(journal, "local", DAY)]
            steps = [entry for entry in told if entry[0] != "moved"]
            assert steps[:4] == [
                ("step_started", "a", None), ("step_ended", "a", "done"), ("step_started", "b", None), ("step_ended", "b", "done"),
            ]  # fmt: skip

        asyncio.run(run())

    @pytest.mark.parametrize("at", range(3))
    def test_killed_in_a_step_it_goes_on_with_that_step_and_the_volatile_ones(self, driver: MakeDriver, at: int) -> None:
        async def run() -> None:
            register, effects = Register(MemoryJournal(), CLOCK, "local", DayRule()), Effects()
            await register.move(DAY, State.STARTING, who="ana")
            dying = True

            async def die() -> None:
                if dying:
                    raise asyncio.CancelledError  # what a process that ends does to its tasks; a real SIGKILL is in test_day_killed

            def plan() -> list[Step]:
                return [effects.step(n, die if i == at else None, volatile=n == "processes") for i, n in enumerate(("a", "processes", "b"))]

            with pytest.raises(asyncio.CancelledError):
                await driver(register).run(DAY, plan())
            assert (await register.get(DAY)).state == "STARTING"
            dying, before = False, list(effects.calls)
            assert (await driver(register).run(DAY, plan())).state == "ACTIVE"
            expected = {0: ["a", "processes", "b"], 1: ["processes", "b"], 2: ["processes", "b"]}[at]
            assert effects.calls[len(before) :] == expected
            assert effects.marks == {f"local/2026-08-10/start-1/{n}" for n in ("a", "processes", "b")}

        asyncio.run(run())

    def test_a_step_that_ends_its_process_every_time_is_an_error_in_the_end(self, driver: MakeDriver) -> None:
        async def run() -> None:
            register, effects = Register(MemoryJournal(), CLOCK, "local", DayRule()), Effects()
            await register.move(DAY, State.STARTING, who="ana")
            for _ in range(MOST_BEGUN - 1):  # whose processes died before they could say anything
                await register.change(DAY, lambda d: d.begin_step("b", CLOCK.wall_ns(), "runner@host:7", 1), who="runner@host:7")
            killing = True

            async def die() -> None:
                if killing:
                    raise asyncio.CancelledError

            plan = [effects.step("a"), effects.step("b", die)]
            with pytest.raises(asyncio.CancelledError):
                await driver(register).run(DAY, plan)
            found = await driver(register).run(DAY, plan)
            assert (found.state, found.step, effects.calls) == ("ERROR", "b", ["a", "b"])
            assert "b: it was begun 10 times and its process ended every time" in found.why
            killing = False
            await register.move(DAY, State.STARTING, who="ana", kept=True)
            assert (await driver(register).run(DAY, plan)).state == "ACTIVE"

        asyncio.run(run())

    def test_what_is_worth_a_retry_is_tried_again_and_the_rest_is_an_error(self, driver: MakeDriver) -> None:
        async def run() -> None:
            register, effects, left = Register(MemoryJournal(), CLOCK, "local", DayRule()), Effects(), [2]

            async def twice() -> None:
                left[0] -= 1
                if left[0] >= 0:
                    raise StorageError("the bucket is away")

            async def never() -> None:
                raise CallerError("no feed of that name")

            await register.move(DAY, State.STARTING, who="ana")
            found = await driver(register).run(DAY, [effects.step("a", twice), effects.step("b", never), effects.step("c")])
            assert effects.calls == ["a", "a", "a", "b"]
            assert (found.state, found.step, found.why) == ("ERROR", "b", "b: no feed of that name")
            await register.move(DAY, State.STARTING, who="bob", kept=True)
            found = await driver(register).run(DAY, [effects.step("a"), effects.step("b"), effects.step("c")])
            assert (found.state, effects.calls[4:]) == ("ACTIVE", ["b", "c"])

        asyncio.run(run())

    def test_a_finding_fails_the_day(self, driver: MakeDriver) -> None:
        async def run() -> None:
            journal, effects = MemoryJournal(), Effects()
            register = Register(journal, CLOCK, "local", DayRule())

            async def differs() -> None:
                raise Finding(["book: live 1, archive 2", "trades: live 3, archive 4"])

            for to in (State.STARTING, State.ACTIVE, State.ENDING):
                await register.move(DAY, to, who="ana")
            found = await driver(register).run(DAY, [effects.step("verify", differs), effects.step("record")])
            assert (found.state, effects.calls) == ("FAILED", ["verify"])
            assert (await facts(journal, "local", DAY))[-1].detail["result"]["findings"][1] == "trades: live 3, archive 4"

        asyncio.run(run())

    def test_a_step_that_does_not_tell_that_it_lives_is_given_up(self, driver: MakeDriver) -> None:
        async def run() -> None:
            register, stopped = Register(MemoryJournal(), CLOCK, "local", DayRule()), asyncio.Event()

            async def hang(work: Work) -> Result:
                work.beat("at 3 of 9")
                try:
                    await asyncio.Event().wait()
                finally:
                    stopped.set()
                raise AssertionError

            async def slow(work: Work) -> Result:
                for _ in range(6):
                    await CLOCK.sleep(0.1)
                    work.beat()
                return {}

            await register.move(DAY, State.STARTING, who="ana")
            found = await driver(register).run(DAY, [Step("slow", slow, quiet_s=0.4), Step("hang", hang, quiet_s=0.3, tries=1)])
            assert (found.state, list(found.done)) == ("ERROR", ["slow"])
            assert "hang did nothing for 0.3 s and was given up; the last it told was: at 3 of 9" in found.why
            assert stopped.is_set()

        asyncio.run(run())

    def test_a_day_that_somebody_else_moved_is_left_alone(self, driver: MakeDriver) -> None:
        async def run() -> None:
            register, effects = Register(MemoryJournal(), CLOCK, "local", DayRule()), Effects()

            async def meanwhile() -> None:
                await register.move(DAY, State.ERROR, who="another")
                await register.move(DAY, State.STARTING, who="another")

            await register.move(DAY, State.STARTING, who="ana")
            with pytest.raises(CallerError, match="by another meanwhile"):
                await driver(register).run(DAY, [effects.step("a", meanwhile), effects.step("b")])
            assert effects.calls == ["a"]
            with pytest.raises(CallerError, match="nothing to carry out"):
                await driver(register).run(date(2026, 8, 11), [])

        asyncio.run(run())
