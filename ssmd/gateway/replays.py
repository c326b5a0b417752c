"""What clients missed and memory no longer has: the journal is folded again once for all who wait, not once for each.

A run begins where somebody waits. Whoever waits where the fold comes by gets on, is given the same messages as the others on board, encoded
once, and gets off where memory has the rest. Those that do not take what they are given keep the others for `_PATIENCE_S` of a run; then
they are left behind, and a later run goes on from there. A run that fails fails all who wait; one that meets a hole in the stream, those
who are before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from journal.clock import Clock
from journal.errors import HoleInStream, SsmdError
from journal.protocols import JournalReader, Storage
from ssmd.gateway.client import Batch, Client
from ssmd.gateway.message import Update
from ssmd.gateway.request import Selector, matches
from ssmd.gateway.view import MarketView, block_of

CHUNK = 100  # messages that are offered, and entries that are folded, at a time: about 5 ms
_FULL = 0.25  # of a buffer: who has more gets nothing just now
_WAIT_S = 0.02
_PATIENCE_S = 2.0  # of a run, for all who are full
_SPAN = 50_000  # entries of a run, where others wait for the next: seconds
_log = logging.getLogger("ssmd.gateway")
_AT_ONCE = 20  # who get a chunk before the loop's other work has its turn


class Archives(NamedTuple):
    """Where what was missed is read."""

    journal: JournalReader
    storage: Storage


@dataclass(eq=False)
class Rider:
    """Who had all up to `sequence`, and wants the messages behind it that `chosen` chooses."""

    client: Client
    chosen: frozenset[Selector]
    sequence: int

    @property
    def is_full(self) -> bool:
        return _is_full(self.client)


Waiting = dict[Rider, asyncio.Future[SsmdError | None]]  # those who wait longest first; what ended their wait too early


class Replays:
    """Of all streams: one run of each at a time. `kinds`: series and category of a symbol."""

    def __init__(self, archives: Archives, clock: Clock, *, feed: str, kinds: Callable[[str], tuple[str, str]]) -> None:
        self._archives, self._clock, self._feed, self._kinds = archives, clock, feed, kinds
        self._riders: dict[MarketView, Waiting] = {}
        self._runs: dict[MarketView, asyncio.Task[None]] = {}

    async def bring(self, view: MarketView, rider: Rider) -> None:
        """Give it what is not in memory any more, as fast as it takes it: its `sequence` is where memory goes on. Raises `SsmdError`."""
        riders = self._riders.setdefault(view, {})
        riders[rider] = done = asyncio.get_running_loop().create_future()
        if (run := self._runs.get(view)) is None or run.done():
            run = self._runs[view] = asyncio.create_task(self._serve(view, riders), name=f"replay {view.stream.name}")
        try:
            if error := await done:
                raise error
        finally:
            riders.pop(rider, None)
            if not riders and self._runs.get(view) is run:
                del self._runs[view]
                run.cancel()

    async def remember(self, view: MarketView, rider: Rider) -> None:
        """Give it what is in memory, until that is all, or memory has moved on without it."""
        while rider.sequence >= view.recent.since and (some := view.recent.behind(rider.sequence, CHUNK)):
            await self._clock.sleep(0)
            await self.has_room(rider.client)
            self.offer(rider, some)
            rider.sequence = some[-1].sequence

    async def has_room(self, client: Client) -> None:
        """Return when its buffer has some."""
        while _is_full(client):
            await self._clock.sleep(_WAIT_S)

    def offer(self, rider: Rider, updates: Sequence[Update]) -> None:
        rider.client.deliver_missed(Batch(self._chosen(rider, updates)))

    def _chosen(self, rider: Rider, updates: Sequence[Update]) -> list[Update]:
        wanted, kinds = rider.chosen, self._kinds
        return [u for u in updates if matches(wanted, u.topic, kinds)]

    # --- a run --------------------------------------------------------------------------------------------------------------

    async def _serve(self, view: MarketView, riders: Waiting) -> None:
        while riders:
            if ready := [rider for rider in riders if not rider.is_full]:
                # Begin where the one that waits longest is, or somebody shortly before.
                begin = min(r.sequence for r in ready if ready[0].sequence - _SPAN <= r.sequence <= ready[0].sequence)
                past = MarketView(view.stream, self._feed, recent=0)
                try:
                    await past.start(self._archives.journal, self._archives.storage, upto=begin)
                    await self._run(view, riders, past, begin)
                except HoleInStream as error:
                    _fail(riders, error, upto=max(past.position, begin))
                except SsmdError as error:
                    _fail(riders, error)
                except Exception as error:  # noqa: BLE001 - nobody is to wait for ever
                    _log.exception("what clients missed of %s was not folded", view.stream.name)
                    _fail(riders, SsmdError(f"the gateway cannot fold {view.stream.name} again ({type(error).__name__}; its log has more)"))
            else:
                await self._clock.sleep(_WAIT_S)
            _let_off(view, riders)

    async def _run(self, view: MarketView, riders: Waiting, past: MarketView, begin: int) -> None:
        """End where nobody is on board. Raises `SsmdError`."""
        left_s, end = _PATIENCE_S, view.position
        _check(past, begin)
        async with aclosing(self._archives.journal.read(view.stream, start=begin + 1, end=end)) as reads:  # type: ignore[type-var]
            async for records in reads:
                for at in range(0, len(records), CHUNK):
                    some = records[at : at + CHUNK]
                    await self._clock.sleep(0)
                    while True:
                        _let_off(view, riders)
                        ahead = [rider for rider in riders if rider.sequence >= past.position]
                        reached = [rider for rider in ahead if rider.sequence < some[-1].sequence]
                        full = {rider for rider in reached if rider.is_full}
                        if not full or (left_s <= 0 and len(full) < len(riders)):
                            break
                        await self._clock.sleep(_WAIT_S)
                        left_s -= _WAIT_S
                    if not ahead:
                        return
                    if past.position - begin > _SPAN and len(ahead) < len(riders):
                        for rider in ahead:  # others have the next run
                            riders[rider] = riders.pop(rider)
                        return
                    before, updates = past.position, past.changes(block_of(some))
                    await self._give(riders, [rider for rider in reached if rider not in full], before, updates, past.position)
        _check(past, end)

    async def _give(self, riders: Waiting, reached: list[Rider], before: int, updates: list[Update], upto: int) -> None:
        same: dict[frozenset[Selector], Batch] = {}
        for number, rider in enumerate(reached):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await self._clock.sleep(0)
            if rider not in riders or riders[rider].done():
                continue
            if rider.sequence > before:  # it got on within
                batch = Batch(self._chosen(rider, [u for u in updates if u.sequence > rider.sequence]))
            elif (found := same.get(rider.chosen)) is not None:
                batch = found
            else:
                batch = same[rider.chosen] = Batch(self._chosen(rider, updates))
            rider.client.deliver_missed(batch)
            rider.sequence = upto


def _is_full(client: Client) -> bool:
    return client.buffer.fill > _FULL


def _let_off(view: MarketView, riders: Waiting) -> None:
    """Those for whom memory has the rest, or that wait no more."""
    for rider in [rider for rider, done in riders.items() if done.done() or rider.sequence >= view.recent.since]:
        _end(riders, rider)


def _check(past: MarketView, end: int) -> None:
    """Raises `HoleInStream`, where the stream is shorter than it was: nobody would get on, again and again."""
    if past.position < end:
        raise HoleInStream(f"{past.stream.name} ends at {past.position}, but {end} was folded: it was made anew or restored")


def _fail(riders: Waiting, error: SsmdError, *, upto: int | None = None) -> None:
    """Those that are no further than `upto`, or all."""
    for rider in [rider for rider in riders if upto is None or rider.sequence <= upto]:
        _end(riders, rider, error)


def _end(riders: Waiting, rider: Rider, error: SsmdError | None = None) -> None:
    done = riders.pop(rider)
    if not done.done():
        done.set_result(error)
