r"""What one client has not been sent yet: bounded in messages and bytes, with a policy for when that is not enough. No I/O.

States, by how full it is, with hysteresis::

    healthy --half full--> lagging --full--> dropping --a quarter full, all told and made good--> healthy
                                   \-full, policy disconnect--> disconnecting

A change of state, and what was dropped, is told before anything that comes after it. Of a state-like topic (`STATE_CHANNELS`) nothing is
lost for good: once a message of it was dropped or conflated, the topic is *owed*: what else comes of it is left out, and when its turn
comes a snapshot of that moment is sent instead. A trade is never conflated away: it is sent, or dropped and told.

Where older messages of a topic are still to come (`holds`: its subscription resumes), a snapshot of the present waits until they have come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

from ssmd.gateway import message as m
from ssmd.gateway.message import STATE_CHANNELS, Topic, Update

_sequence = attrgetter("sequence")
_MOST_TOLD = 100  # topics named in one message about drops


class Policy(StrEnum):
    drop_oldest = "drop_oldest"
    drop_newest = "drop_newest"
    conflate = "conflate"
    disconnect = "disconnect"


class State(StrEnum):
    healthy = "healthy"
    lagging = "lagging"
    dropping = "dropping"
    disconnecting = "disconnecting"


class Owed(StrEnum):
    """Why a snapshot of a topic is owed. Of two reasons the greater counts."""

    asked = "asked"  # by the client, or by the pace of its mode
    conflated = "conflated"
    dropped = "dropped"


class Limits(NamedTuple):
    """Of what waits for one client; the shares of it at which it lags, and at which it is healthy again."""

    messages: int = 20_000
    bytes: int = 8 << 20
    high: float = 0.5
    low: float = 0.25


class _Missed:
    """What of one topic was left out: how many, and the first and last of them."""

    __slots__ = ("count", "first", "last")

    def __init__(self, update: Update) -> None:
        self.count = 0
        self.first = self.last = update

    def add(self, update: Update) -> None:
        self.count += 1
        self.first = min(self.first, update, key=_sequence)
        self.last = max(self.last, update, key=_sequence)


Render = Callable[[Topic], Update | None]


class Buffer:
    """`offer` what comes, `take` what can be sent."""

    def __init__(
        self, policy: Policy = Policy.drop_oldest, limits: Limits | None = None, holds: Callable[[Topic], bool] = lambda _: False
    ) -> None:
        self.policy = policy
        self.limits = limits or Limits()
        self.state = State.healthy
        self.dropped = 0  # in all
        self.conflated = 0
        self._queue: deque[Update] = deque()
        self._bytes = 0
        self._owed: dict[Topic, Owed] = {}
        self._later: dict[Topic, Owed] = {}  # the same of topics that are held
        self._holds = holds
        self._missed: dict[Owed, dict[Topic, _Missed]] = {Owed.dropped: {}, Owed.conflated: {}}
        self._notices: list[bytes] = []

    @property
    def idle(self) -> bool:
        """Nothing waits: what comes may be sent at once."""
        return not (self._queue or self._owed or self._notices) and self.state == State.healthy

    @property
    def empty(self) -> bool:
        """There is nothing to take."""
        return not (self._queue or self._owed or self._notices or any(self._missed.values()))

    @property
    def owes(self) -> bool:
        """Whether `take` may ask for snapshots: everything folded so far must have been offered then."""
        return bool(self._owed)

    @property
    def pending(self) -> tuple[int, int, int]:
        """Messages, their bytes, and topics of which a snapshot is owed."""
        return len(self._queue), self._bytes, len(self._owed) + len(self._later)

    # --- in -----------------------------------------------------------------------------------------------------------------

    def notify(self, message: m.Message) -> None:
        """Something about the connection: it is sent before all that waits. The caller bounds how many there are."""
        self._notices.append(m.encode(message))

    def owe(self, topics: Iterable[Topic]) -> None:
        """Send a snapshot of each topic when its turn comes."""
        if self.state != State.disconnecting:
            for topic in topics:
                self._owe(topic, Owed.asked)

    def _owe(self, topic: Topic, why: Owed) -> None:
        owed = self._later if self._holds(topic) else self._owed
        owed[topic] = max(why, owed.get(topic, why))

    def hold(self) -> None:
        """What is held is another now."""
        both, self._owed, self._later = {**self._later, **self._owed}, {}, {}
        for topic, why in both.items():
            self._owe(topic, why)

    def offer(self, updates: Sequence[Update]) -> None:
        """Keep them, or do what the policy says."""
        for update in updates:
            if self._left_out(update):
                continue
            if self.state == State.dropping and self.policy == Policy.drop_newest:
                self._drop(update)
                continue
            self._keep(update)
            if self.fill > 1:
                self._overflow()

    def offer_missed(self, updates: Sequence[Update]) -> None:
        """Keep them, whatever the policy: for older messages, which the caller has read because there is room."""
        for update in updates:
            if not self._left_out(update):
                self._keep(update)

    def _left_out(self, update: Update) -> bool:
        """Whether it is not to be sent, because a snapshot will say it too, or because nothing is sent any more."""
        if self.state == State.disconnecting:
            self._miss(Owed.dropped, update)
            return True
        if update.channel not in STATE_CHANNELS:
            return False
        why = self._owed.get(update.topic)
        if why is None and (why := self._later.get(update.topic)) == Owed.asked:
            return False  # it is not to be missed
        if why in {Owed.dropped, Owed.conflated}:  # the snapshot that is asked for is the first that the client knows of the topic
            self._miss(why, update)
        return why is not None

    def _keep(self, update: Update) -> None:
        self._queue.append(update)
        self._bytes += len(update.data)
        if self.state == State.healthy and self.fill >= self.limits.high:
            self._enter(State.lagging)

    def _overflow(self) -> None:
        match self.policy:
            case Policy.disconnect:
                self._enter(State.disconnecting)
                for update in self._clear():
                    self._miss(Owed.dropped, update)
                self._owed.clear()
                self._later.clear()
            case Policy.drop_newest:
                self._enter(State.dropping)
                self._drop(self._pop(newest=True))
            case Policy.drop_oldest:
                self._enter(State.dropping)
                while self.fill > 1:
                    self._drop(self._pop())
            case Policy.conflate:
                for update in self._clear():
                    if update.channel in STATE_CHANNELS:
                        self._miss(Owed.conflated, update)
                        self._owe(update.topic, Owed.conflated)
                    else:
                        self._queue.append(update)
                        self._bytes += len(update.data)
                while self._queue and self.fill > 1:  # trades alone are too much
                    self._enter(State.dropping)
                    self._drop(self._pop())

    def _drop(self, update: Update) -> None:
        self._miss(Owed.dropped, update)
        if update.channel in STATE_CHANNELS:
            self._owe(update.topic, Owed.dropped)

    def _miss(self, why: Owed, update: Update) -> None:
        missed = self._missed[why]
        if update.topic not in missed:
            missed[update.topic] = _Missed(update)
        missed[update.topic].add(update)
        if why == Owed.dropped:
            self.dropped += 1
        else:
            self.conflated += 1

    def _pop(self, *, newest: bool = False) -> Update:
        update = self._queue.pop() if newest else self._queue.popleft()
        self._bytes -= len(update.data)
        return update

    def forget(self, goes: Callable[[Topic], bool]) -> None:
        """Nothing of such topics is wanted any more."""
        found = {topic: goes(topic) for topic in {update.topic for update in self._queue}.union(self._owed, self._later)}
        for update in self._clear():
            if not found[update.topic]:
                self._queue.append(update)
                self._bytes += len(update.data)
        for owed in (self._owed, self._later):
            for topic in [topic for topic in owed if found[topic]]:
                del owed[topic]

    def _clear(self) -> list[Update]:
        gone, self._bytes = list(self._queue), 0
        self._queue.clear()
        return gone

    @property
    def fill(self) -> float:
        """Share of the limits that is used. What is owed costs a name each and is written when it can be sent: it does not count."""
        return max(len(self._queue) / self.limits.messages, self._bytes / self.limits.bytes)

    def _enter(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        told = m.Pace(state=state.value, policy=self.policy.value, pending_messages=len(self._queue), pending_bytes=self._bytes)
        self._notices.append(m.encode(told))

    # --- out ----------------------------------------------------------------------------------------------------------------

    def take(self, budget: int, render: Render) -> list[bytes]:
        """Messages of about `budget` bytes, at least one if there is any; snapshots of what is owed are made by `render`, now."""
        data: list[bytes] = []
        size = last = 0
        # What comes of one entry stays in one frame: who resumes from its position has had all of it.
        while self._queue and (size < budget or self._queue[0].sequence == last):
            update = self._pop()
            last = update.sequence
            if self._left_out(update):
                continue
            data.append(update.data)
            size += len(update.data)
        told = self._tell()
        while self._owed and size < budget:
            topic = next(iter(self._owed))
            del self._owed[topic]
            if (found := render(topic)) is not None:
                data.append(found.data)
                size += len(found.data)
        if self.state in {State.lagging, State.dropping} and not self._owed and self.fill <= self.limits.low:
            self._enter(State.healthy)
            return [*told, *data, *self._tell()]
        return told + data

    def _tell(self) -> list[bytes]:
        """What must be known before what comes after it."""
        told, self._notices = self._notices, []
        for why, kind in ((Owed.conflated, m.Conflated), (Owed.dropped, m.Dropped)):
            if missed := self._missed[why]:
                topics = [m.Lost(*topic, x.count, x.first.position, x.last.position) for topic, x in list(missed.items())[:_MOST_TOLD]]
                count = sum(x.count for x in missed.values())
                told.append(m.encode(kind(count=count, topics=topics, more_topics=len(missed) - len(topics))))
                self._missed[why] = {}
        return told
