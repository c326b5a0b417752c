"""The Temporal driver, by the contract of drivers, on a real server, with a worker in the test's process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import uuid4

import pytest

from ssmd.day.activity import Step
from ssmd.day.aggregate import TradingDay
from ssmd.day.calendar import Calendar
from ssmd.day.register import Register
from ssmd.metadata.environment import Schedule
from ssmd.temporal.activities import Activities
from ssmd.temporal.driver import Queue, TemporalDriver
from ssmd.temporal.link import Target, connected
from ssmd.temporal.service import worker_of
from tests.day.driver_contract import CLOCK, DriverContract, MakeDriver
from tests.temporal.servers import DevServer


class Whole:
    """The driver and a worker that has the plan."""

    def __init__(self, server: DevServer, register: Register) -> None:
        self._target = Target(server.address, server.address)
        self._register = register

    async def run(self, day: date, plan: Sequence[Step]) -> TradingDay:
        queue = uuid4().hex  # nothing that an earlier test left is done here
        activities = Activities(self._register, Calendar(Schedule()), CLOCK, "worker@test:1", lambda _: plan)
        async with connected(self._target) as client, worker_of(client, queue, activities):
            return await TemporalDriver(Queue(client, self._target, queue), self._register, CLOCK).run(day, plan)


class TestTemporalDriver(DriverContract):
    @pytest.fixture
    def driver(self, temporal: DevServer) -> MakeDriver:
        return lambda register: Whole(temporal, register)
