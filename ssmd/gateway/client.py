"""One client of the stream: its subscriptions, its buffer, and what is written when. It writes to an `Output` and never waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import msgspec

from ssmd.gateway import message as m
from ssmd.gateway.buffer import Buffer, Policy, State
from ssmd.gateway.message import Topic, Update, text_frames
from ssmd.gateway.request import Selector, matches

if TYPE_CHECKING:
    from ssmd.gateway.hub import Hub
    from ssmd.gateway.resume import Resume

_BUDGET = 64 << 10  # bytes of one `take`
_TAKES = 4  # of one pump: then others have their turn

Key = tuple[str, int, frozenset[Selector]]  # mode, interval in ms, what is chosen


class Output(Protocol):
    """A connection, as a client sees it."""

    @property
    def paused(self) -> bool:
        """Whether what is written now waits in memory."""
        ...

    @property
    def deflates(self) -> bool:
        """Whether deflated frames may be written."""
        ...

    def write(self, frame: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Close, at once if nothing waits, else within seconds."""
        ...


class Batch:
    """Updates of one moment, framed once for every client that gets just these."""

    def __init__(self, updates: list[Update]) -> None:
        self.updates = updates

    @cached_property
    def frames(self) -> list[bytes]:
        return text_frames(u.data for u in self.updates)

    @cached_property
    def deflated(self) -> list[bytes]:
        return text_frames((u.data for u in self.updates), deflated=True)


class Subscription(msgspec.Struct):
    id: str
    channels: tuple[str, ...]
    selectors: frozenset[Selector]
    mode: str
    interval_ms: int
    attached: bool = False  # else what was missed is being sent
    missed: frozenset[Selector] = frozenset()  # what of it is replayed before it is attached, whatever its mode is by now
    resume: Resume | None = None  # that sends them


class Client:
    """`who` and `peer` are for people; what it asks is counted by its `seat`. Call its methods from the event loop only."""

    def __init__(self, hub: Hub, output: Output, name: str, *, who: str, peer: str, policy: Policy, now_ns: int, seat: str = "") -> None:
        self.id = name
        self.seat = seat or name
        self.who, self.peer = who, peer
        self.connected_ns = now_ns
        self.subscriptions: dict[str, Subscription] = {}
        self.closed = False
        self.sent_messages = 0
        self.sent_bytes = 0
        self.sent_mono_ns = hub.clock.mono_ns()
        self.stuck_mono_ns = 0  # since when it takes nothing, 0 if it does
        self._hub = hub
        self._output = output
        self._buffer = Buffer(policy, hub.limits, self._holds)
        self._missed: frozenset[Selector] = frozenset()  # what is being replayed, of all subscriptions,
        self._behind: frozenset[Selector] = frozenset()  # and all that those have chosen;
        self._live: frozenset[Selector] = frozenset()  # what the others have
        self._numbered = 0

    # --- what it is sent ----------------------------------------------------------------------------------------------------

    @property
    def buffer(self) -> Buffer:
        return self._buffer

    @property
    def paused(self) -> bool:
        return self._output.paused

    def tell(self, *messages: m.Message) -> None:
        """Something about the connection, before all that waits."""
        for message in messages:
            self._buffer.notify(message)
        self._hub.wake(self)

    def deliver(self, batch: Batch) -> None:
        """What came for it: written at once if nothing waits, as the same bytes as for others."""
        if self._missed:  # what is being resumed comes in its order, also where another subscription has it too
            batch = Batch([u for u in batch.updates if not self._matches(self._missed, u.topic)])
        self._deliver(batch, self._buffer.offer)

    def deliver_missed(self, batch: Batch) -> None:
        """The same of what it missed, whatever the policy: the caller waits for room before he makes it."""
        self._deliver(batch, self._buffer.offer_missed)

    def _deliver(self, batch: Batch, keep: Callable[[Sequence[Update]], None]) -> None:
        if self.closed or not batch.updates:
            return
        if self._buffer.idle and not self._output.paused:
            frames = batch.deflated if self._output.deflates else batch.frames
            if len(frames) == 1:  # else it may stop in between: then the rest is kept by message
                self._write(frames[0], len(batch.updates))
                return
        keep(batch.updates)
        self._hub.wake(self)

    def owe(self, topics: Iterable[Topic]) -> None:
        if not self.closed:
            self._buffer.owe(topics)
            self._hub.wake(self)

    def pump(self) -> None:
        """Write what can be written. The hub has distributed all that was folded."""
        for _ in range(_TAKES):
            if self.closed or self._output.paused or self._buffer.empty:
                break
            messages = self._buffer.take(_BUDGET, self._hub.snapshot)
            if messages:
                frames = text_frames(messages, deflated=self._output.deflates)
                for frame in frames:
                    self._write(frame, 0)
                self.sent_messages += len(messages)
        if self._buffer.state == State.disconnecting and not self.closed:
            self._give_up()
        elif not self._buffer.empty and not self._output.paused and not self.closed:
            self._hub.wake(self)

    def _give_up(self) -> None:
        # Beyond what the transport holds already: a last word, and the end.
        for frame in text_frames(self._buffer.take(_BUDGET, self._hub.snapshot)):
            self._write(frame, 1)
        self.close(1008, "too slow")

    def say_last(self, message: m.Message) -> None:
        """Why it is closed, before `close`, whatever waits."""
        if not self.closed:
            self._write(text_frames([m.encode(message)])[0], 1)

    def _write(self, frame: bytes, messages: int) -> None:
        self._output.write(frame)
        self.sent_messages += messages
        self.sent_bytes += len(frame)
        self.sent_mono_ns = self._hub.clock.mono_ns()

    def close(self, code: int, reason: str) -> None:
        """Send nothing more and close the connection; `reason` is told to it, at most 100 bytes."""
        if not self.closed:
            self.closed = True
            self._hub.remove(self)
            self._output.close(code, reason.encode()[:100].decode(errors="ignore"))

    # --- what it has subscribed to ------------------------------------------------------------------------------------------

    def add(self, channels: tuple[str, ...], chosen: frozenset[Selector], mode: str, interval_ms: int) -> Subscription:
        self._numbered += 1
        found = Subscription(f"s{self._numbered}", channels, chosen, mode, interval_ms if mode == "conflated" else 0)
        self.subscriptions[found.id] = found
        return found

    def regroup(self) -> None:
        """After its subscriptions have changed. The hub has distributed all that was collected."""
        held = self._behind
        resuming = [s for s in self.subscriptions.values() if not s.attached]
        self._missed = frozenset[Selector]().union(*(s.missed for s in resuming))
        self._behind = frozenset[Selector]().union(*(s.selectors for s in resuming))
        self._live = frozenset[Selector]().union(*(s.selectors for s in self.subscriptions.values() if s.attached))
        if held or self._behind:
            self._buffer.hold()
        self._hub.regroup(self)

    def remove(self, subscription: Subscription) -> None:
        """Send no more of it, but for what others have too."""
        del self.subscriptions[subscription.id]
        if subscription.resume:
            subscription.resume.leave(subscription)
        self.regroup()
        others = frozenset[Selector]().union(*(s.selectors for s in self.subscriptions.values()))
        self._buffer.forget(lambda topic: self._matches(subscription.selectors, topic) and not self._matches(others, topic))

    def _holds(self, topic: Topic) -> bool:
        """Whether older messages are still to come first: who has a newer one would not resume from before them."""
        return bool(self._behind) and (self._matches(self._behind, topic) or not self._matches(self._live, topic))

    def _matches(self, chosen: frozenset[Selector], topic: Topic) -> bool:
        return matches(chosen, topic, self._hub.state.kinds)

    def groups(self) -> list[Key]:
        """The groups it belongs to: one for each mode and interval."""
        groups: dict[tuple[str, int], set[Selector]] = {}
        for s in self.subscriptions.values():
            if s.attached:
                groups.setdefault((s.mode, s.interval_ms), set()).update(s.selectors)
        return [(mode, interval_ms, frozenset(chosen)) for (mode, interval_ms), chosen in groups.items()]

    @property
    def resuming(self) -> bool:
        """Whether something of what it missed is still to be sent."""
        return any(not s.attached for s in self.subscriptions.values())

    @property
    def chosen(self) -> int:
        """How much its subscriptions name."""
        return sum(len(s.selectors) for s in self.subscriptions.values())
