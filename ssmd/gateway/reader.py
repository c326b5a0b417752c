"""``python -m ssmd.gateway.reader``: the process behind `ssmd.gateway.annex`. Questions come on standard input, answers go
to standard output.

It has its own connections, gives way to the stream's process (a lower priority), and ends when its input does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

from journal.clock import Clock
from journal.subjects import Stream
from ssmd.clock import machine_clock
from ssmd.gateway.access import OPEN, Gatekeeper
from ssmd.gateway.annex import Question, Reply, framed, frames, told
from ssmd.gateway.desk import Desk
from ssmd.gateway.operation import Call
from ssmd.gateway.problem import encode, problem_of
from ssmd.gateway.rates import Rates
from ssmd.gateway.rest import tag_of
from ssmd.gateway.room import Shelf, open_shelf
from ssmd.gateway.routes import OPERATIONS
from ssmd.settings import Settings

_T = TypeVar("_T")
_PRIORITY = 10
_OPERATIONS = {operation.name: operation for operation in OPERATIONS}


class Here:
    """`desk.now` and `desk.past` of this process."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def ask(self, work: Callable[[Shelf], Awaitable[_T]]) -> _T:
        """At once: the question had its turn."""
        return await work(self._shelf)


class Folded(NamedTuple):
    """A live view of which only the time is known here."""

    stream: Stream
    effective_ns: int
    ready: bool = True

    def knows(self, symbol: str) -> bool:
        del symbol
        return False

    def symbols(self) -> Iterable[str]:
        return ()


class Reader:
    """Answers as many questions at a time as the environment says; each has its limit."""

    def __init__(self, settings: Settings, clock: Clock, shelf: Shelf) -> None:
        limits = settings.environment.gateway.limits
        self._settings, self._clock, self._shelf = settings, clock, shelf
        self._turns, self._limit_s = asyncio.Semaphore(limits.past_at_once), limits.past_s
        self._gatekeeper = Gatekeeper(settings.env, settings.feed, "", clock)  # who asks was admitted before
        self._rates = Rates(clock, 1, 1)

    async def answer(self, question: Question) -> Reply:
        """Every error is a problem."""
        try:
            async with asyncio.timeout(self._limit_s), self._turns:
                return await self._answer(question)
        except Exception as error:  # noqa: BLE001  (as `Rest` does)
            return Reply(question.number, problem=told(problem_of(error)))

    async def _answer(self, question: Question) -> Reply:
        here: Any = Here(self._shelf)
        views: list[Any] = [Folded(Stream.parse(name), at_ns) for name, at_ns in question.seen.items()]
        desk = Desk(self._settings, self._clock, self._shelf.journal, self._gatekeeper, here, here, self._rates, views=views)
        operation = _OPERATIONS[question.operation]
        call = Call(OPEN, question.path, msgspec.convert(question.query, operation.query), None, question.now_ns)
        answer = await operation.handler(desk, call)
        data = encode(answer)
        return Reply(question.number, data, tag_of(answer, data))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    input_ = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(input_), sys.stdin)
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no answer
    settings, clock = Settings.read({}, os.environ), machine_clock()
    async with AsyncExitStack() as stack:
        reader = Reader(settings, clock, await stack.enter_async_context(open_shelf(settings, clock)))
        tasks: set[asyncio.Task[None]] = set()

        async def answer(data: bytes) -> None:
            reply = await reader.answer(msgspec.msgpack.decode(data, type=Question))
            _write(output, framed(reply))

        async for data in frames(input_):
            task = asyncio.create_task(answer(data))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _write(output: Any, data: bytes) -> None:
    """All of it: the gateway reads as fast as it can."""
    view = memoryview(data)
    while view:
        view = view[output.write(view) :]


def main() -> None:
    """Until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are the gateway's, with which this ends
    with suppress(OSError):
        os.nice(_PRIORITY)
    asyncio.run(_main())


if __name__ == "__main__":
    main()
