"""Brings updates to clients. Clients that chose the same are a group: what comes for it is collected, encoded and framed once.

At most every `FLUSH_S` what was collected is written, so that one frame carries what came meanwhile; where writing takes more than half
of that (each frame is a system call), twice what it took, so that frames grow and not the lag. No client is waited for: who cannot take
more has a buffer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from journal.clock import Clock
from ssmd.gateway import message as m
from ssmd.gateway.buffer import Limits
from ssmd.gateway.client import Batch, Client, Key
from ssmd.gateway.message import MAX_FRAME, STATE_CHANNELS, Topic, Update
from ssmd.gateway.request import Selector

FLUSH_S = 0.005
_LONGEST_S = 0.1
_ROUTES = 1 << 18  # topics: about 50 MB
_TURN_S = 0.02  # of clients that have something waiting: then the loop's other work has its turn
_log = logging.getLogger("ssmd.gateway")
_LOOK_S = 0.5  # between looks at idle and stuck clients


class State(Protocol):
    """What is known just now: the views."""

    def snapshot(self, channel: str, symbol: str) -> Update | None: ...

    def positions(self) -> list[str]: ...

    def mark(self) -> str:
        """Of the entries at `positions`."""
        ...

    def kinds(self, symbol: str) -> tuple[str, str]:
        """Series and category of a symbol, "" where not known."""
        ...

    def symbols(self) -> Iterable[str]:
        """Every symbol of which anything is known."""
        ...

    def members(self, kind: str, name: str) -> Collection[str]:
        """Those of a group; `kind` is of `message.GROUPS`."""
        ...


class Group:
    """Clients that chose the same. Mode realtime and latest go out at each flush, conflated when its interval is over."""

    def __init__(self, key: Key) -> None:
        mode, self.interval_ms, self.selectors = key
        self.realtime = mode == "realtime"
        self.key = key
        self.clients: dict[Client, None] = {}
        self.pending: list[Update] = []
        self.dirty: dict[Topic, None] = {}
        self.due_s = 0.0  # of the loop's time: not before


class Hub:
    def __init__(
        self, state: State, clock: Clock, *, limits: Limits | None = None, heartbeat_s: float = 5.0, stuck_s: float = 60.0
    ) -> None:
        self.state = state
        self.clock = clock
        self.limits = limits or Limits()
        self.heartbeat_s = heartbeat_s
        self.clients: dict[str, Client] = {}
        self.published = 0
        self._gone: Counter[str] = Counter()  # what clients that have left were sent
        self._stuck_s = stuck_s
        self._groups: dict[Key, Group] = {}
        self._of: dict[Client, list[Group]] = {}
        self._index: dict[Selector, dict[Group, None]] = {}
        self._broad = 0  # selectors by series and category in the index
        self._routes: dict[Topic, Collection[Group]] = {}
        self._waiting: dict[Group, None] = {}
        self._awake: dict[Client, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._flushed_s = 0.0
        self._pause_s = FLUSH_S

    # --- from the views -----------------------------------------------------------------------------------------------------

    def publish(self, updates: Sequence[Update]) -> None:
        """Collect what groups get of `updates`, and see that it goes out soon."""
        self.published += len(updates)
        if not self._index:
            return
        routes, waiting = self._routes, self._waiting
        for update in updates:
            if (groups := routes.get(update.topic)) is None:
                groups = self._route(update.topic)
            for group in groups:
                if group.realtime or update.channel not in STATE_CHANNELS:
                    group.pending.append(update)
                else:
                    group.dirty[update.topic] = None
                waiting[group] = None
        if waiting:
            self._schedule()

    def _route(self, topic: Topic) -> Collection[Group]:
        """Who gets what comes of a topic, each once. Kept until groups change, where it depends on nothing else."""
        found = dict.fromkeys(self._groups_of(*topic)).keys()
        if not self._broad:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes[topic] = found
        return found

    def _groups_of(self, channel: str, symbol: str) -> Iterable[Group]:
        index = self._index
        yield from index.get((channel, "symbol", symbol), ())
        yield from index.get((channel, "all", ""), ())
        if self._broad and symbol:
            series, category = self.state.kinds(symbol)
            yield from index.get((channel, "series", series), ())
            yield from index.get((channel, "category", category), ())

    # --- to the clients -----------------------------------------------------------------------------------------------------

    def wake(self, client: Client) -> None:
        """See that the client is written to soon."""
        self._awake[client] = None
        self._schedule()

    def _schedule(self, at_s: float = 0.0) -> None:
        """Flush at `at_s` of the loop's time, or as soon as may be, or when it is to be done anyway, whichever is first."""
        loop = asyncio.get_running_loop()
        at_s = max(self._flushed_s + self._pause_s, loop.time(), at_s)
        if self._timer is not None:
            if self._timer_s <= at_s:
                return
            self._timer.cancel()
        self._timer, self._timer_s = loop.call_at(at_s, self._flush), at_s

    def _flush(self) -> None:
        clock = asyncio.get_running_loop().time
        self._timer = None
        self._flushed_s = clock()
        self.distribute()
        awake, self._awake = self._awake, {}
        until_s = self._flushed_s + _TURN_S
        while awake and clock() < until_s:
            client = next(iter(awake))
            del awake[client]
            self._pump(client)
        self._pause_s = min(max(FLUSH_S, 2 * (clock() - self._flushed_s)), _LONGEST_S)
        if awake:  # they are the first of the next turn
            self._awake = {**awake, **self._awake}
            self._schedule()

    def drain(self, client: Client) -> None:
        """The client can take more."""
        if not client.buffer.empty:
            self.distribute()
            self._pump(client)

    def _pump(self, client: Client) -> None:
        """What was taken from its buffer and cannot be sent is lost: then it has to begin anew, and the others have their turn."""
        try:
            client.pump()
        except Exception as error:  # noqa: BLE001  (others are not to wait for ever for a defect that shows with one)
            failed(client, f"a frame of {client.id}", error)

    def distribute(self) -> None:
        """Give clients all that was collected: a snapshot taken after this is newer than what they have."""
        now_s = asyncio.get_running_loop().time()
        waiting, self._waiting = self._waiting, {}
        for group in waiting:
            if group.pending:
                pending, group.pending = group.pending, []
                for batch in _batches(pending):
                    for client in tuple(group.clients):
                        client.deliver(batch)
            if group.dirty:
                if now_s < group.due_s:
                    self._waiting[group] = None
                    continue
                group.due_s = now_s + group.interval_ms / 1_000
                dirty, group.dirty = group.dirty, {}
                for client in tuple(group.clients):
                    client.owe(dirty)
        if self._waiting:
            self._schedule(min(group.due_s for group in self._waiting))

    def snapshot(self, topic: Topic) -> Update | None:
        return self.state.snapshot(*topic)

    # --- clients ------------------------------------------------------------------------------------------------------------

    def add(self, client: Client) -> None:
        self.clients[client.id] = client

    def remove(self, client: Client) -> None:
        """Forget it."""
        if self.clients.pop(client.id, None):
            self._gone.update(_counts(client))
        self._awake.pop(client, None)
        for subscription in client.subscriptions.values():
            if subscription.resume:
                subscription.resume.leave(subscription)
        self._leave(client)

    def totals(self) -> dict[str, int]:
        """What was sent and not sent to all clients since the start; from any thread."""
        found = Counter(dict.fromkeys(("sent_messages", "sent_bytes", "dropped_messages", "conflated_messages"), 0))
        for counts in (self._gone.copy(), *(_counts(client) for client in tuple(self.clients.values()))):
            found.update(counts)
        return dict(found)

    def regroup(self, client: Client) -> None:
        """After its subscriptions have changed. All that was collected has been distributed."""
        self._leave(client)
        groups = []
        for key in client.groups():
            if (group := self._groups.get(key)) is None:
                group = self._groups[key] = Group(key)
                for selector in group.selectors:
                    self._index.setdefault(selector, {})[group] = None
                    self._broad += selector[1] in {"series", "category"}
            group.clients[client] = None
            groups.append(group)
        if groups:
            self._of[client] = groups

    def _leave(self, client: Client) -> None:
        self._routes.clear()
        for group in self._of.pop(client, ()):
            del group.clients[client]
            if not group.clients:
                del self._groups[group.key]
                self._waiting.pop(group, None)
                for selector in group.selectors:
                    of = self._index[selector]
                    del of[group]
                    self._broad -= selector[1] in {"series", "category"}
                    if not of:
                        del self._index[selector]

    def topics(self, chosen: Iterable[Selector]) -> list[Topic]:
        """The state-like topics that selectors choose just now."""
        found: dict[Topic, None] = {}
        for channel, kind, name in sorted(s for s in chosen if s[0] in STATE_CHANNELS):
            if kind == "symbol":
                found[channel, name] = None
            else:
                symbols = self.state.symbols() if kind == "all" else self.state.members(kind, name)
                found.update(dict.fromkeys((channel, symbol) for symbol in symbols))
        return list(found)

    def set_mode(self, client: Client, mode: str, interval_ms: int, reason: str = "") -> None:
        """Of all its subscriptions."""
        self.distribute()
        for subscription in client.subscriptions.values():
            subscription.mode, subscription.interval_ms = mode, interval_ms if mode == "conflated" else 0
        client.tell(m.Mode(mode=mode, interval_ms=interval_ms if mode == "conflated" else 0, reason=reason))
        self.regroup(client)
        client.owe(self.topics({s for sub in client.subscriptions.values() for s in sub.selectors}))

    async def watch(self) -> None:
        """Heartbeats for those who were sent nothing for a while, an end for those who took nothing for long; until cancelled."""
        while True:
            await self.clock.sleep(_LOOK_S)
            now_ns, wall_ns = self.clock.mono_ns(), self.clock.wall_ns()
            beat = m.Heartbeat(positions=self.state.positions(), mark=self.state.mark(), time=m.when(wall_ns), time_ns=wall_ns)
            behind = msgspec.structs.replace(beat, positions=[], mark="")
            for client in tuple(self.clients.values()):
                if client.paused:
                    client.stuck_mono_ns = client.stuck_mono_ns or now_ns
                    if now_ns - client.stuck_mono_ns > self._stuck_s * 1e9:
                        client.close(1008, f"took nothing for {self._stuck_s:.0f} s")
                    continue
                client.stuck_mono_ns = 0
                if now_ns - client.sent_mono_ns >= self.heartbeat_s * 1e9 and client.buffer.empty:
                    client.tell(behind if client.resuming else beat)


def _batches(updates: list[Update]) -> Iterator[Batch]:
    """Of one frame each, unless what comes of one entry is more: a client that stops between two of them keeps the rest by message."""
    start = entry = size = of_entry = 0
    for at, update in enumerate(updates):
        if at and (update.sequence, update.stream) != (updates[at - 1].sequence, updates[at - 1].stream):
            entry, of_entry = at, 0
        length = len(update.data)
        if entry > start and size + length > MAX_FRAME:
            yield Batch(updates[start:entry])
            start, size = entry, of_entry
        size += length + 1
        of_entry += length + 1
    yield Batch(updates[start:])


def failed(client: Client, what: str, error: BaseException) -> None:
    """A defect of the gateway: who would wait for what it has ended is disconnected."""
    _log.error("%s failed; the client was disconnected", what, exc_info=error)
    client.say_last(m.Failed(code="unavailable", message=f"the gateway failed: {type(error).__name__}, see its log"))
    client.close(1011, "the gateway failed; connect again")


def _counts(client: Client) -> dict[str, int]:
    buffer = client.buffer
    return {
        "sent_messages": client.sent_messages, "sent_bytes": client.sent_bytes, "dropped_messages": buffer.dropped,
        "conflated_messages": buffer.conflated,
    }  # fmt: skip
