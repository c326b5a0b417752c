"""The gateway's second process, which answers questions about the past: what is read and folded there takes no turn of the stream's.

A handler that needs it asks `desk.past`, which in the gateway's own process raises `Elsewhere`: then the whole call is answered by
`ssmd.gateway.reader`. Questions that are the same are asked once while they are under way. A reader that died is started again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, NoReturn

import msgspec

from journal.clock import Clock
from ssmd.gateway.inheritance import environ_of
from ssmd.gateway.operation import Call, Operation
from ssmd.gateway.problem import Flaw, Problem
from ssmd.gateway.room import Shelf
from ssmd.settings import Settings

_AGAIN_NS = 10**9  # between two starts
_STOP_S = 5.0
_SLACK_S = 10.0  # beyond a question's own limit: then the reader is not what it must be
_READER = "ssmd.gateway.reader"


class Question(msgspec.Struct, array_like=True):
    """`seen`: effective times up to which streams are folded."""

    number: int
    operation: str
    path: Mapping[str, str]
    query: dict[str, Any]
    now_ns: int
    seen: dict[str, int]


class Said(msgspec.Struct, array_like=True):
    """A `Problem`."""

    kind: str
    detail: str
    nearest: tuple[str, ...]
    errors: tuple[Flaw, ...]
    headers: dict[str, str]


class Reply(msgspec.Struct, array_like=True):
    number: int
    data: bytes = b""
    tag: str = ""
    problem: Said | None = None


class Elsewhere(Exception):
    """The call is to be answered in the annex."""


class Past:
    """`desk.past` in the gateway's own process."""

    async def ask(self, work: Callable[[Shelf], Awaitable[Any]]) -> NoReturn:
        raise Elsewhere(work)


class Annex:
    """`ask` while `opened`, from one event loop. `at_once` questions are answered at a time, four times as many wait, each `limit_s`."""

    def __init__(self, settings: Settings, clock: Clock, *, at_once: int, limit_s: float) -> None:
        self._settings, self._clock = settings, clock
        self._most, self._limit_s = 5 * at_once, limit_s
        self._numbers = count(1)
        self._asked: dict[bytes, asyncio.Future[Reply]] = {}
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._started_ns = 0
        self._process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Annex]:
        """The reader is started when it is needed, and ended with the block."""
        try:
            yield self
        finally:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # the listener ends the process
            self._lose()

    async def ask(self, operation: Operation, call: Call, seen: dict[str, int]) -> Reply:
        """Its answer as JSON, and its tag. Raises `Problem`."""
        query = msgspec.to_builtins(call.query)
        key = msgspec.msgpack.encode([operation.name, sorted(call.path.items()), query])
        shared = self._asked.get(key)
        if shared is None:
            if len(self._waiting) >= self._most:
                why = "too many questions of this kind are waiting; ask again a little later"
                raise Problem("busy", why, headers={"Retry-After": "2"})
            question = Question(next(self._numbers), operation.name, call.path, query, call.now_ns, seen)
            shared = self._asked[key] = self._waiting[question.number] = asyncio.get_running_loop().create_future()
            overdue = asyncio.get_running_loop().call_later(self._limit_s + _SLACK_S, self._give_up)
            shared.add_done_callback(lambda _: self._forget(key, question.number, overdue))
            self._keep(self._send(question, shared))  # whoever asked may go, others wait for it too
        reply = await asyncio.shield(shared)
        if said := reply.problem:
            raise Problem(said.kind, said.detail, nearest=said.nearest, errors=said.errors, headers=said.headers)
        return reply

    def _forget(self, key: bytes, number: int, overdue: asyncio.TimerHandle) -> None:
        overdue.cancel()
        self._asked.pop(key, None)
        self._waiting.pop(number, None)

    async def _send(self, question: Question, reply: asyncio.Future[Reply]) -> None:
        """What goes wrong becomes the reply."""
        try:
            process = await self._running()
            assert process.stdin is not None  # noqa: S101  we asked for pipes
            process.stdin.write(framed(question))
        except (OSError, Problem) as error:
            if not reply.done():
                said = error if isinstance(error, Problem) else _away()
                reply.set_result(Reply(question.number, problem=told(said)))

    async def _running(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                if self._started_ns and self._clock.mono_ns() - self._started_ns < _AGAIN_NS:
                    raise _away()
                self._started_ns = self._clock.mono_ns()
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", _READER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    env=environ_of(self._settings),
                )  # fmt: skip
                self._keep(self._listen(self._process))
            return self._process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  we asked for pipes
        try:
            async for data in frames(process.stdout):
                reply = msgspec.msgpack.decode(data, type=Reply)
                waiting = self._waiting.get(reply.number)
                if waiting and not waiting.done():
                    waiting.set_result(reply)
        finally:
            if self._process is process:
                self._process = None  # what is asked from here on is for the next one
            self._lose()
            await _ended(process)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _give_up(self) -> None:
        """It does not even refuse: the next question starts another."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process = None
        self._lose()

    def _lose(self) -> None:
        """Whoever waits is told."""
        for number, waiting in tuple(self._waiting.items()):
            if not waiting.done():
                waiting.set_result(Reply(number, problem=told(_away())))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """It ends when its input does, and takes its files with it."""
    if process.stdin:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _away() -> Problem:
    return Problem("unavailable", "what answers about the past has stopped, and is started again; try again", headers={"Retry-After": "2"})


def told(problem: Problem) -> Said:
    """As it travels."""
    return Said(problem.kind, problem.detail, problem.nearest, problem.errors, problem.headers)


def framed(message: msgspec.Struct) -> bytes:
    """With its length."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4, "big") + data


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Until the other side ends."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            yield await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
