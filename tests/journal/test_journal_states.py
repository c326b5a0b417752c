"""JetStream and memory are told the same things in any order and must agree on every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import hypothesis.stateful as hs
from hypothesis import Phase, settings
from hypothesis import strategies as st

from journal.clock import WallClock
from journal.entry import Entry
from journal.errors import SsmdError
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryJournal
from journal.protocols import Fence, Journal
from tests.journal.contract import FEED, entry, lease, new_stream, opener, read_all
from tests.journal.servers import TOKEN, nats_server

WINDOW_S = 0.1
# A failure takes seconds to run again, so it is shown as found: shrinking one would take minutes.
NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)
EPOCHS = [bytes([n]) * 16 for n in (1, 2, 3)]
CONDITIONAL = b"\4" * 16
OPENED = EPOCHS[:2]  # an opener is its epoch's first entry; the third epoch has none

handle = st.integers(0, 1)
epoch = st.sampled_from(EPOCHS)
# Mostly ascending runs, as writers make them; now and then anything.
runs = st.builds(
    lambda e, first, count, size: [entry(n, epoch=e, size=size) for n in range(first, first + count)],
    epoch, st.integers(0, 40), st.integers(1, 12), st.sampled_from([1, 1, 1, 1, 2]),
)  # fmt: skip
jumbles = st.lists(
    st.builds(lambda e, n, s: entry(n, epoch=e, size=s), epoch, st.integers(0, 40), st.sampled_from([1, 1, 1, 2])), max_size=6
)
batches = st.one_of(runs, runs, jumbles)


async def answer(work: Coroutine[Any, Any, Any]) -> Any:
    """The result, or the type of the error: what a caller acts on."""
    try:
        return await work
    except SsmdError as error:
        return type(error)


def states(url: str) -> type[hs.RuleBasedStateMachine]:
    class Journals(hs.RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.loop = asyncio.new_event_loop()
            self.stream = new_stream()
            self.memory = MemoryJournal()
            self.handles = [self.run(self._connect()) for _ in range(2)]
            self.run(self.handles[0].ensure(self.stream, FEED))
            self.run(self.memory.ensure(self.stream, FEED))
            self.fences: list[Fence] = []
            self.leases = 0
            self.begun: set[bytes] = set()
            self.conditions = 0
            self.conditional: list[tuple[list[Entry], list[int]]] = []

        async def _connect(self) -> JetStreamJournal:
            return await JetStreamJournal.connect(url, WallClock(), token=TOKEN, duplicate_window_s=WINDOW_S)

        def run(self, work: Coroutine[Any, Any, Any]) -> Any:
            return self.loop.run_until_complete(work)

        def both(self, which: int, method: str, *args: Any) -> Any:
            real = self.run(answer(getattr(self.handles[which], method)(self.stream, *args)))
            model = self.run(answer(getattr(self.memory, method)(self.stream, *args)))
            assert real == model
            return model

        @hs.rule(which=handle, batch=batches)
        def append(self, which: int, batch: list[Entry]) -> None:
            self.append_opened(which, batch)

        def append_opened(self, which: int, batch: list[Entry], *fence: Fence) -> None:
            new = [e for e in OPENED if e not in self.begun and any(b.epoch == e for b in batch)]
            if isinstance(self.both(which, "append", [*map(opener, new), *batch], *fence), list):
                self.begun.update(new)

        @hs.rule(which=handle, names=st.sets(st.sampled_from("ABCD"), min_size=1), stale=st.integers(0, 3), size=st.sampled_from([1, 2]))
        def append_if(self, which: int, names: set[str], stale: int, size: int) -> None:
            """On some subjects; now and then one of them is not what was expected."""
            self.conditions += 1
            newest = [getattr(self.run(self.memory.last(self.stream, self._subject(n))), "sequence", 0) for n in sorted(names)]
            if stale in (1, 2):
                newest[stale % len(newest)] += 1 if stale == 1 else -min(1, newest[stale % len(newest)])
            batch = [
                entry(1_000 + 5 * self.conditions, epoch=CONDITIONAL, part=p, symbol=n, size=size) for p, n in enumerate(sorted(names))
            ]
            self.conditional.append((batch, newest))
            self.both(which, "append_if", batch, newest)

        @hs.rule(which=handle, back=st.integers(0, 5))
        def append_if_again(self, which: int, back: int) -> None:
            if self.conditional:
                self.both(which, "append_if", *self.conditional[-1 - back % len(self.conditional)])

        @hs.rule(which=handle, back=st.integers(0, 5))
        def append_what_was_conditional(self, which: int, back: int) -> None:
            if self.conditional:
                batch, newest = self.conditional[-1 - back % len(self.conditional)]
                self.both(which, "append", batch)
                # Appended so, it may follow on what it never was expected to follow; it is not appended conditionally again.
                self.conditional.remove((batch, newest))

        def _subject(self, name: str) -> str:
            return self.stream.subject(FEED, "delta", name)

        @hs.rule(which=handle, e=st.sampled_from(OPENED))
        def open_again(self, which: int, e: bytes) -> None:
            if isinstance(self.both(which, "append", [opener(e)]), list):
                self.begun.add(e)

        @hs.rule(which=handle, batch=batches, back=st.integers(0, 2))
        def append_with_a_lease(self, which: int, batch: list[Entry], back: int) -> None:
            if self.fences:
                self.append_opened(which, batch, self.fences[-1 - back % len(self.fences)])

        @hs.rule(which=handle, writer=st.sampled_from("ab"), again=st.booleans())
        def lease(self, which: int, writer: str, *, again: bool) -> None:
            self.leases += not again
            fence = self.both(which, "lease", lease(writer, f"{writer}{self.leases:015}".encode()))
            if isinstance(fence, Fence):
                self.fences.append(fence)

        @hs.rule()
        def the_window_passes(self) -> None:
            time.sleep(1.5 * WINDOW_S)

        @hs.rule(which=handle)
        def a_process_starts_again(self, which: int) -> None:
            self.run(self.handles[which].close())
            self.handles[which] = self.run(self._connect())

        @hs.rule(which=handle, start=st.integers(0, 60), width=st.integers(-2, 60))
        def read(self, which: int, start: int, width: int) -> None:
            async def some(journal: Journal) -> Any:
                return await read_all(journal, self.stream, start=start, end=start + width)

            assert self.run(some(self.handles[which])) == self.run(some(self.memory))

        @hs.rule(which=handle, kind=st.sampled_from(["trade", "delta", "*"]))
        def read_some(self, which: int, kind: str) -> None:
            subjects = [f"{self.stream.env}.{FEED}.{kind}.>"]

            async def some(journal: Journal) -> Any:
                return await read_all(journal, self.stream, subjects=subjects)

            assert self.run(some(self.handles[which])) == self.run(some(self.memory))

        @hs.rule(which=handle)
        def bounds(self, which: int) -> None:
            real, model = self.run(self.handles[which].info(self.stream)), self.run(self.memory.info(self.stream))
            assert real[:3] == model[:3]

        def teardown(self) -> None:
            try:
                everything = [self.run(read_all(j, self.stream)) for j in (*self.handles, self.memory)]
                assert everything[0] == everything[1] == everything[2]
                ids = [r.entry.id for r in everything[0]]
                assert len(ids) == len(set(ids))
            finally:
                for journal in self.handles:
                    self.run(journal.close())
                self.loop.close()

    return Journals


def test_jetstream_and_memory_agree(tmp_path: Path) -> None:
    some = settings(max_examples=15, stateful_step_count=20, deadline=None, phases=NO_SHRINK)
    with nats_server(tmp_path) as server:
        hs.run_state_machine_as_test(states(server.url), settings=some)
