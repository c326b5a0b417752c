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
from dataclasses import dataclass, field
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
ALL = 1 << 62  # behind every sequence
_log = logging.getLogger("ssmd.gateway")
_AT_ONCE = 20  # who get a chunk before the loop's other work has its turn


Kinds = Callable[[str], tuple[str, str]]  # series and category of a symbol


class Archives(NamedTuple):
    """Where what was missed is read."""

    journal: JournalReader
    storage: Storage


class Part(NamedTuple):
    """What a subscription chose, and others `too`, behind an entry, up to another."""

    chosen: frozenset[Selector]
    after: int
    upto: int = ALL
    too: tuple[frozenset[Selector], ...] = ()

    def has(self, update: Update, kinds: Kinds) -> bool:
        return self.after < update.sequence <= self.upto and all(matches(s, update.topic, kinds) for s in (self.chosen, *self.too))


@dataclass(eq=False)
class Rider:
    """A client that had all it wants up to `sequence`. Each part that it wants is of a subscription."""

    client: Client
    sequence: int
    wants: dict[str, Part] = field(default_factory=dict)
    told: list[Part] = field(default_factory=list)  # what is behind `sequence` already

    def join(self, name: str, chosen: frozenset[Selector], after: int) -> None:
        if after < self.sequence:
            self.told += [part._replace(upto=self.sequence) for part in self.wants.values() if part.after < self.sequence]
            self.sequence = after
        self.wants[name] = Part(chosen, after)

    def leave(self, name: str) -> None:
        self.wants.pop(name, None)
        self.sequence = max(self.sequence, min((part.after for part in self.wants.values()), default=ALL))
        # What nobody else wanted was not sent for good: the buffer forgets it.
        others = frozenset[Selector]().union(*(part.chosen for part in self.wants.values()))
        self.told = [part._replace(too=(*part.too, others)) for part in self.told]

    @property
    def chosen(self) -> frozenset[Selector] | None:
        """What it wants of all that comes next; None where that depends on the place."""
        self.told = [part for part in self.told if part.upto > self.sequence]
        if self.told or any(part.after > self.sequence for part in self.wants.values()):
            return None
        return frozenset[Selector]().union(*(part.chosen for part in self.wants.values()))

    def choose(self, updates: Sequence[Update], kinds: Kinds) -> list[Update]:
        if (chosen := self.chosen) is not None:
            return [u for u in updates if matches(chosen, u.topic, kinds)]
        wants = self.wants.values()
        return [u for u in updates if any(part.has(u, kinds) for part in wants) and not any(part.has(u, kinds) for part in self.told)]

    @property
    def is_full(self) -> bool:
        return _is_full(self.client)


Waiting = dict[Rider, asyncio.Future[SsmdError | None]]  # those who wait longest first; what ended their wait too early


class Replays:
    """Of all streams: one run of each at a time."""

    def __init__(self, archives: Archives, clock: Clock, *, feed: str, kinds: Kinds) -> None:
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
        while True:
            await self._clock.sleep(0)
            await self.has_room(rider.client)
            if rider.sequence < view.recent.since or not (some := view.recent.behind(rider.sequence, CHUNK)):
                return
            self.offer(rider, some)
            rider.sequence = some[-1].sequence

    async def has_room(self, client: Client) -> None:
        """Return when its buffer has some."""
        while _is_full(client):
            await self._clock.sleep(_WAIT_S)

    def offer(self, rider: Rider, updates: Sequence[Update]) -> None:
        rider.client.deliver_missed(Batch(rider.choose(updates, self._kinds)))

    # --- a run --------------------------------------------------------------------------------------------------------------

    async def _serve(self, view: MarketView, riders: Waiting) -> None:
        while _let_off(view, riders):
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

    async def _run(self, view: MarketView, riders: Waiting, past: MarketView, begin: int) -> None:
        """End where nobody is on board. Raises `SsmdError`."""
        left_s, end = _PATIENCE_S, view.position
        async with aclosing(self._archives.journal.read(view.stream, start=past.position + 1, end=end)) as reads:  # type: ignore[type-var]
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
            if rider not in riders or not before <= rider.sequence < upto:  # it left, or was joined by one from further back
                continue
            chosen = rider.chosen
            if rider.sequence > before or chosen is None:  # it got on within
                batch = Batch(rider.choose([u for u in updates if u.sequence > rider.sequence], self._kinds))
            elif (found := same.get(chosen)) is not None:
                batch = found
            else:
                batch = same[chosen] = Batch(rider.choose(updates, self._kinds))
            rider.client.deliver_missed(batch)
            rider.sequence = upto


def _is_full(client: Client) -> bool:
    return client.buffer.fill > _FULL


def _let_off(view: MarketView, riders: Waiting) -> Waiting:
    """Those for whom memory has the rest; the others."""
    for rider in [rider for rider in riders if rider.sequence >= view.recent.since]:
        _end(riders, rider)
    return riders


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
