"""What a day is made of: steps, plain coroutines that any driver can run, and what a driver promises.

A step's work is idempotent: it may have been done, in part or whole, by a process that died before it could say so. It is given its
idempotency key, which is the same until the phase is begun anew, and tells that it lives by `Work.beat`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

from journal.errors import CorruptionError, SsmdError
from ssmd.day.aggregate import TradingDay

Result = dict[str, Any]  # of JSON values; small, for it is journalled. With the key "skipped" nothing was done, and why


class Finding(CorruptionError):
    """A day was verified and is not what it must be. `findings` are lines for people."""

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(findings))


@dataclass(slots=True)
class Work:
    """What a step's coroutine is given. Call `beat` whenever something went on: a step that does not within its `quiet_s` is given up."""

    day: date
    key: str
    who: str  # who asked for the phase
    forced: bool
    beats: int = 0
    text: str = ""
    done: dict[str, Result] = field(default_factory=dict)  # results of the phase's steps before this one

    def beat(self, text: str = "") -> None:
        self.beats += 1
        self.text = text or self.text


@dataclass(frozen=True, slots=True)
class Step:
    """`volatile`: what it brings about ends with the runner's process, so a resumed phase does it again though it was done."""

    name: str
    run: Callable[[Work], Awaitable[Result]]
    volatile: bool = False
    tries: int = 3
    quiet_s: float = 90.0


class Processes(Protocol):
    """The processes that a day needs. `ChildProcesses` are children of this one."""

    @property
    def failed(self) -> asyncio.Future[SsmdError]:
        """Completes when a process could not run at all."""
        ...

    def running(self, name: str) -> bool: ...

    async def ensure(self, name: str) -> Result:
        """connector, archiver or projector (``connector-NAME`` of a shard), running when it returns: its `pid`, and whether it
        `already_ran`.
        """
        ...

    async def rest_url(self) -> str:
        """REST of the venue, which answers when it returns; "" where it is the environment's own."""
        ...

    async def stop(self, *names: str) -> list[str]:
        """Stop those of them that run, in this order, each politely and whole; their names."""
        ...


class Driver(Protocol):
    """Drives phases. Every driver passes ``tests/day/driver_contract.py``."""

    async def run(self, day: date, plan: Sequence[Step]) -> TradingDay:
        """Carry out the phase that `day` is in (STARTING or ENDING), from its last checkpoint; the day as it is then: ACTIVE or COMPLETE,
        ERROR where a step could not be done, FAILED where it found that the day is not what it must be.

        Cancelled or killed at any instant it leaves a day that the next call carries on with. Raises `StoreError` when the journal is
        away, `CallerError` when the day is in no such state or somebody else has moved it.
        """
        ...
