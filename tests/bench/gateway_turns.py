"""What one turn of the gateway costs its processor: no sockets, no journal, and no other process's time in it.

A turn is what 5 ms bring at 5,000 entries a second, folded, encoded and given to clients. Client by client this is what others wait for.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator

from journal.clock import WallClock
from journal.entry import Entry, Record
from ssmd.gateway.buffer import Limits, Policy, State
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.message import Update
from ssmd.gateway.view import block_of
from ssmd.gateway.views import Views
from tests.bench.gateway_parts import SYMBOLS, name, opened, prepared, run_of

_ENTRIES = 25
_TURNS = 600
_JOINING = 20
_LIMITS = Limits(messages=1_000)  # of who reads nothing: it drops soon


class _Output:
    """A connection that takes all that is written, or none of it."""

    deflates = False

    def __init__(self, *, paused: bool = False) -> None:
        self.paused = paused

    def write(self, frame: bytes) -> None:
        del frame

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"{code} {reason}")


class _Turns:
    """Views, and hubs that get what they publish."""

    def __init__(self) -> None:
        self._epoch, self._ready, self._sequence = os.urandom(16), prepared(SYMBOLS), 0
        self.views = Views("local", "kalshi", ["0"], WallClock())
        [self._view] = self.views.shards
        self._view.changes(block_of([self._record(entry) for entry in opened(SYMBOLS, self._epoch)]))

    def _record(self, entry: Entry) -> Record:
        self._sequence += 1
        return Record(self._sequence, entry)

    def hub(self, limits: Limits | None = None) -> Hub:
        return Hub(self.views, WallClock(), limits=limits)

    def connect(self, hub: Hub, number: int, symbols: list[str], *, paused: bool = False) -> Client:
        client = Client(hub, _Output(paused=paused), f"c{number}", who="", peer="", policy=Policy.drop_oldest, now_ns=0)
        hub.add(client)
        chosen = frozenset((channel, "symbol" if symbol else "all", symbol) for channel in ("book", "trade") for symbol in symbols)
        client.add(("book", "trade"), chosen, "realtime", 0).attached = True
        hub.distribute()
        hub.regroup(client)
        client.owe(hub.topics(chosen))
        return client

    def run(self, count: int, entries: int = _ENTRIES) -> Iterator[list[Update]]:
        """Updates of each turn."""
        for _ in range(count):
            run = run_of(self._ready, self._sequence, entries, self._epoch)
            yield self._view.changes(block_of([self._record(entry) for entry in run]))


def _took(work: Callable[[], object]) -> float:
    """Processor microseconds."""
    began = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - began) / 1e3


async def _beside_stopped(out: Callable[[str], None]) -> None:
    turns, rng = _Turns(), random.Random(3)
    hubs = [turns.hub(_LIMITS), turns.hub(_LIMITS)]
    for number in range(100):
        symbols = [name(n) for n in rng.sample(range(SYMBOLS), 10)]
        for hub in hubs:
            turns.connect(hub, number, symbols)
    still = turns.connect(hubs[1], 100, [""], paused=True)
    took: list[list[float]] = [[], []]
    for number, updates in enumerate(turns.run(_TURNS)):
        for at in (0, 1) if number % 2 else (1, 0):  # whoever comes second finds the messages in the processor's caches

            def turn(hub: Hub = hubs[at], updates: list[Update] = updates) -> None:
                hub.publish(updates)
                hub._flush()

            took[at].append(_took(turn))
        if still.buffer.state != State.dropping:
            for of in took:
                of.clear()
    without, beside = map(statistics.median, took)
    out(
        f"a turn of {_ENTRIES} entries to 100 clients with ten symbols each: {without:.0f} us of processor; beside one more that chose all "
        f"and reads nothing {beside:.0f} us, {(beside - without) / _ENTRIES:.1f} us a message (medians of {len(took[0])} turns of each)"
    )


async def _all(out: Callable[[str], None]) -> None:
    """What comes in 0.1 s, the longest pause between two turns, is several frames."""
    turns, took, entries = _Turns(), list[float](), 3_000
    hub = turns.hub()
    clients = [turns.connect(hub, number, [""]) for number in range(100)]
    for updates in turns.run(20, entries):
        while not all(client.buffer.idle for client in clients):
            hub._flush()

        def turn(updates: list[Update] = updates) -> None:
            hub.publish(updates)
            while hub._waiting or hub._awake:
                hub._flush()

        took.append(_took(turn))
    out(f"a turn of {entries:,} entries, all of them to 100 clients: {statistics.median(took) / 1e3:.1f} ms of processor")


async def _joining(out: Callable[[str], None]) -> None:
    """One after the other, each after so much has come that every book is another one."""
    turns, took = _Turns(), list[float]()
    hub = turns.hub()
    for number in range(_JOINING):
        for updates in turns.run(SYMBOLS // _ENTRIES * 4):
            hub.publish(updates)
        client = turns.connect(hub, number, [""])

        def join(client: Client = client) -> None:
            while not client.buffer.empty:
                client.pump()

        took.append(_took(join) / 1e3)
    out(f"a client joins {SYMBOLS:,} books of 20 levels, each changed since: {statistics.median(took):.1f} ms of processor")


def run(out: Callable[[str], None]) -> None:
    asyncio.run(_beside_stopped(out))
    asyncio.run(_all(out))
    asyncio.run(_joining(out))
