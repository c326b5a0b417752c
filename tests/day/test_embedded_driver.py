"""The embedded driver, by the contract of drivers, and dying at each of its appends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from journal.day import DayRule
from journal.memory import MemoryJournal
from ssmd.day.aggregate import State
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.register import Register
from tests.day.driver_contract import CLOCK, DAY, DriverContract, Effects, Killed, MakeDriver


class TestEmbeddedDriver(DriverContract):
    @pytest.fixture
    def driver(self) -> MakeDriver:
        return lambda register: EmbeddedDriver(register, CLOCK, "runner@test:1")


class DyingJournal(MemoryJournal):
    """Dies at its append number `left`, before it is stored or, with `after`, before anybody is told that it was."""

    left, after = -1, False

    async def append_if(self, *args: Any, **kwargs: Any) -> list[int]:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        found = await super().append_if(*args, **kwargs)
        if self.left == 0:
            raise Killed
        return found


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_append_the_next_one_brings_the_day_to_its_end(after: bool) -> None:
    async def run() -> int:
        for dies_at in range(1, 40):
            journal, effects = DyingJournal(), Effects()
            register = Register(journal, CLOCK, "local", DayRule())
            for to, steps in ((State.STARTING, "ab"), (State.ENDING, "cd")):
                await register.move(DAY, to, who="ana")
                journal.left, journal.after = (dies_at if to is State.ENDING else -1), after
                plan = [effects.step(name) for name in steps]
                try:
                    found = await EmbeddedDriver(register, CLOCK, "first").run(DAY, plan)
                except Killed:
                    journal.left = -1
                    register = Register(journal, CLOCK, "local", DayRule())
                    found = await register.get(DAY)
                    if found.state == "ENDING":
                        found = await EmbeddedDriver(register, CLOCK, "second").run(DAY, plan)
            assert found.state == "COMPLETE"
            assert effects.marks == {f"local/2026-08-10/{k}" for k in ("start-1/a", "start-1/b", "end-2/c", "end-2/d")}
            if journal.left > 0:  # it did not die any more
                return dies_at
        raise AssertionError

    assert asyncio.run(run()) == 6
