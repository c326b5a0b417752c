"""The buffer's state machine against what a client can know: bounds, announcements before what follows, nothing lost silently."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmd.gateway import message as m
from ssmd.gateway.buffer import Buffer, Limits, Policy, State
from ssmd.gateway.message import STATE_CHANNELS, Topic, Update

LIMITS = Limits(messages=8, bytes=1_200)
TOPICS: list[Topic] = [("book", "A"), ("book", "B"), ("bbo", "A"), ("trade", "A"), ("trade", "B"), ("gap", "")]
STATES = [t for t in TOPICS if t[0] in STATE_CHANNELS]
ENTRIES = [[t] for t in TOPICS] + [[("book", "A"), ("bbo", "A")], [("gap", ""), ("book", "A"), ("book", "B"), ("bbo", "A")]]
SUBSCRIPTIONS = [[("book", "A"), ("bbo", "A"), ("trade", "A")], [("book", "B"), ("gap", "")], TOPICS]


def update(topic: Topic, sequence: int, before: int | None, *, snapshot: bool = False, filler: int = 0) -> Update:
    """A message of which only the topic, positions and size count here."""

    def make(position: str) -> m.Message:
        return m.GapData(
            symbol=topic[1], position=position, prev_position=None if before is None else f"x_md_0:{before}", reason="x" * filler,
            channel=topic[0], healed_by="snapshot" if snapshot else "",
        )  # fmt: skip

    return Update(topic, "x_md_0", sequence, make)


class BufferMachine(RuleBasedStateMachine):
    """A market that moves on, a client that believes only what it is sent, and a buffer between them. One subscription may be left and
    resumed from the client's last position of it, which the market's history is offered for while the others go on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: list[list[Update]] = []  # by sequence, from 1
        self.newest: dict[Topic, int] = {}

    # --- the connection -----------------------------------------------------------------------------------------------------

    @initialize(policy=st.sampled_from(Policy))
    def connect(self, policy: Policy) -> None:
        self.buffer = Buffer(policy, LIMITS, lambda topic: self.resuming and topic in self.away)
        self.away: list[Topic] = []  # that are not subscribed to, or are being resumed
        self.resuming = False
        self.left = 0  # where, as the client knows
        self.done = 0  # how far it is resumed
        self.got: dict[Topic, int | None] = dict(self.newest)
        self.offered: dict[Topic, list[int]] = defaultdict(list)
        self.received: dict[Topic, list[int]] = defaultdict(list)
        self.told: dict[Topic, int] = defaultdict(int)  # dropped or conflated, as announced
        self.told_to = 0
        self.excused: dict[Topic, int] = {}  # up to where it was told that some are missing
        self.silent: set[Topic] = set()  # a snapshot that was asked for stood for some
        self.later: set[Topic] = set()  # asked for, but older ones are still to come
        self.wanted: set[Topic] = set()  # asked for, and not had
        self.states = ["healthy"]
        self.numbers = count()
        self.of: dict[tuple[Topic, int], int] = {}  # what was offered at once
        self.closed: set[int] = set()  # what came of it was taken
        self.pings = 0
        self.replayed = False  # by then what was dropped is left out, whatever the state
        self.most_bytes = LIMITS.bytes

    @precondition(lambda self: self.buffer.state == State.disconnecting)
    @rule(policy=st.sampled_from(Policy))
    def connect_again(self, policy: Policy) -> None:
        self.drain()
        assert self.states[-1] == "disconnecting"
        for topic in TOPICS:
            self.all_told(topic)
        self.counted()
        self.connect(policy)
        self.ask(*STATES)

    @rule(policy=st.sampled_from(Policy), pings=st.integers(0, 1))
    def configure(self, policy: Policy, pings: int) -> None:
        self.buffer.policy = policy
        for _ in range(pings):
            self.pings += 1
            self.buffer.notify(m.Pong(id=str(self.pings), time="", time_ns=0))

    # --- in -----------------------------------------------------------------------------------------------------------------

    @rule(
        entries=st.lists(st.tuples(st.sampled_from(ENTRIES), st.sampled_from([0, 0, 0, 120, 300])), min_size=1, max_size=8),
        budgets=st.lists(st.sampled_from([1, 1, 300, 10_000]), max_size=5),
    )
    def move(self, entries: list[tuple[list[Topic], int]], budgets: list[int]) -> None:
        for topics, filler in entries:
            self.add(topics, filler)
        for budget in budgets:
            self.take(budget)

    def add(self, topics: list[Topic], filler: int) -> None:
        sequence = len(self.history) + 1
        entry = [update(topic, sequence, self.newest.get(topic), filler=filler) for topic in topics]
        self.history.append(entry)
        self.newest.update(dict.fromkeys(topics, sequence))
        wanted = [u for u in entry if u.topic not in self.away]
        buffer = self.buffer
        messages, size, owed = buffer.pending
        fits = messages + len(wanted) <= LIMITS.messages and size + sum(len(u.data) for u in wanted) <= LIMITS.bytes
        calm = not owed and buffer.state in {State.healthy, State.lagging}
        dropping = buffer.state == State.dropping
        lost = buffer.dropped, buffer.conflated
        self.note(wanted)
        buffer.offer(wanted)
        if fits and calm:
            assert (buffer.dropped, buffer.conflated) == lost, "there was room"
        if buffer.policy == Policy.drop_newest:
            assert buffer.pending[0] >= messages, "what was there stays"
            assert buffer.pending[0] == messages or not dropping, "not by turns: until it is healthy"
        if buffer.policy == Policy.disconnect and calm:
            assert buffer.state == State.disconnecting or buffer.dropped == lost[0]
        if buffer.policy in {Policy.drop_oldest, Policy.conflate} and calm and buffer.dropped != lost[0]:
            assert buffer.fill > 0.55, "no more than is needed"
        if buffer.policy == Policy.conflate and calm and all(u.channel in STATE_CHANNELS for u in wanted):
            assert buffer.dropped == lost[0], "state-like messages are conflated, and that makes room"
        if buffer.policy != Policy.conflate and calm:
            assert buffer.conflated == lost[1]

    def note(self, updates: list[Update]) -> None:
        number = next(self.numbers)
        for u in updates:
            self.offered[u.topic].append(u.sequence)
            self.of[u.topic, u.sequence] = number

    @rule(topic=st.sampled_from(STATES))
    def ask_one(self, topic: Topic) -> None:
        if topic not in self.away or self.resuming:
            self.ask(topic)

    def ask(self, *topics: Topic) -> None:
        self.buffer.owe(topics)
        for topic in topics:
            (self.later if topic in self.away else self.silent).add(topic)
            self.wanted |= {topic} & set(self.newest)

    # --- leaving and resuming -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.buffer.state != State.disconnecting)
    @rule(topics=st.sampled_from(SUBSCRIPTIONS), again=st.booleans())
    def leave(self, topics: list[Topic], *, again: bool) -> None:
        """Only when the client knows what it has: nothing is owed, or to be told, or told of what it has not come to."""
        if self.away:
            topics = self.away
        at = max(self.left if self.away else 0, *(self.got.get(topic) or 0 for topic in topics))
        told = sum(self.told.values())
        unclean = self.buffer.pending[2] or self.buffer.dropped + self.buffer.conflated != told or self.told_to > at
        if (unclean and self.away) or (self.away and not self.resuming):
            return
        if unclean:
            self.drain()
            at = max(*(self.got.get(topic) or 0 for topic in topics), self.told_to)
        self.buffer.owe(topic for topic in topics if topic in STATES)
        self.away, self.left, self.done, self.resuming = topics, at, at, False
        self.buffer.hold()
        self.buffer.forget(lambda topic: topic in topics)
        assert not self.buffer.pending[2]
        self.wanted -= set(topics)
        for topic in topics:
            for n in [n for n in self.offered[topic] if n > at]:
                del self.of[topic, n]  # it must not come
            self.offered[topic] = [n for n in self.offered[topic] if n <= at]
        if again:
            self.resume()

    @precondition(lambda self: self.away and not self.resuming and self.buffer.state != State.disconnecting)
    @rule()
    def resume(self) -> None:
        self.resuming = True
        self.buffer.hold()

    @precondition(lambda self: self.resuming and self.buffer.state != State.disconnecting and self.buffer.fill <= 0.25)
    @rule(entries=st.integers(1, 3), budgets=st.lists(st.sampled_from([1, 300]), max_size=3))
    def replay(self, entries: int, budgets: list[int]) -> None:
        """As a resume does: while there is room, whatever the policy."""
        messages = self.buffer.pending[0]
        for entry in self.history[self.done : self.done + entries]:
            if self.buffer.fill > 0.25:
                break
            wanted = [u for u in entry if u.topic in self.away]
            self.note(wanted)
            self.buffer.offer_missed(wanted)
            self.done += 1
        assert self.buffer.pending[0] >= messages, "the policy is for what comes, not for what was missed"
        assert self.buffer.state != State.disconnecting
        self.most_bytes = max(LIMITS.bytes, self.buffer.pending[1])
        self.replayed = True
        if self.done >= len(self.history):
            self.silent |= self.later
            self.later, self.away, self.resuming = set(), [], False
            self.buffer.hold()
        for budget in budgets:
            self.take(budget)

    # --- out ----------------------------------------------------------------------------------------------------------------

    @rule(budget=st.sampled_from([1, 300, 10_000]))
    def take_some(self, budget: int) -> None:
        self.take(budget)

    def take(self, budget: int) -> None:
        messages, taken = self.buffer.pending[0], set[int]()
        empty = self.buffer.empty
        found = [msgspec.json.decode(data) for data in self.buffer.take(budget, self.render)]
        assert bool(found) <= (not empty)
        kinds = [message["type"] for message in found]
        assert kinds[: kinds.index("gap") if "gap" in kinds else None].count("pong") == kinds.count("pong"), "notices come first"
        for message in found:
            self.receive(message, taken)
        self.replayed = False
        assert not taken & self.closed, "what comes of one entry was torn apart"
        self.closed |= taken
        assert sum(len(str(message)) for message in found if message["type"] == "gap") <= budget + 2_000
        assert not messages or any(message["type"] in {"gap", "dropped", "conflated"} for message in found) or self.silent
        left, _, owed = self.buffer.pending
        if not (left or owed) and self.buffer.state != State.disconnecting:
            assert self.buffer.state == State.healthy
        if self.resuming and not left:
            for topic in set(self.away) - self.silent:
                self.all_told(topic)

    def render(self, topic: Topic) -> Update | None:
        assert topic in STATES
        assert topic not in self.away, "older messages are still to come"
        return update(topic, self.newest[topic], None, snapshot=True) if topic in self.newest else None

    def receive(self, message: dict[str, Any], taken: set[int]) -> None:
        match message["type"]:
            case "state":
                self.receive_state(message["state"])
            case "pong":
                self.pings -= 1
            case "dropped" | "conflated":
                assert sum(t["count"] for t in message["topics"]) == message["count"]
                for t in message["topics"]:
                    topic = (t["channel"], t["symbol"])
                    assert self.replayed or message["type"] == "conflated" or self.states[-1] in {"dropping", "disconnecting"}
                    assert message["type"] == "dropped" or topic[0] in STATE_CHANNELS, "a trade was conflated away"
                    first, last = (int(t[f"{end}_position"].rpartition(":")[2]) for end in ("first", "last"))
                    assert t["count"] <= len([n for n in self.offered[topic] if first <= n <= last])
                    assert {first, last} <= set(self.offered[topic])
                    self.told[topic] += t["count"]
                    self.told_to = max(self.told_to, last)
                    self.excused[topic] = max(last, self.excused.get(topic, 0))
            case "gap":
                self.receive_data(message, taken)

    def receive_state(self, state: str) -> None:
        order = ["healthy", "lagging", "dropping"]
        before = self.states[-1]
        if state == "healthy":
            assert before != state
            assert self.buffer.fill <= LIMITS.low
        elif state != "disconnecting":
            assert order.index(state) == order.index(before) + 1, (before, state)
        self.states.append(state)

    def receive_data(self, message: dict[str, Any], taken: set[int]) -> None:
        topic = (message["channel"], message["symbol"])
        at = int(message["position"].rpartition(":")[2])
        last = self.got.get(topic)
        if message.get("healed_by") == "snapshot":
            assert at >= (last or 0), f"{topic} went back"
            self.wanted.discard(topic)
            if topic not in self.silent:
                self.all_told(topic)
        else:
            before = message.get("prev_position")
            expected = None if before is None else int(before.rpartition(":")[2])
            assert at > (last or 0), f"{topic} went back, or is doubled"
            announced = (expected or 0) <= self.excused.get(topic, 0) and topic[0] not in STATE_CHANNELS
            assert expected == last or announced, f"{topic}: {last} is not what {at} follows ({expected}), and nothing was said"
            self.received[topic].append(at)
            if topic[0] not in STATE_CHANNELS:
                before_it = sum(n <= at for n in self.offered[topic])
                assert len(self.received[topic]) + self.told[topic] >= before_it, f"{topic}: not all that came before {at} was told"
            taken.add(self.of[topic, at])
        self.got[topic] = at

    def all_told(self, topic: Topic) -> None:
        """All that was offered was received or announced."""
        found = len(self.received[topic]) + self.told[topic]
        assert found == len(self.offered[topic]) or (topic in self.silent and found < len(self.offered[topic])), topic

    def counted(self) -> None:
        assert self.buffer.dropped + self.buffer.conflated == sum(self.told.values())

    @invariant()
    def bounds(self) -> None:
        messages, size, owed = self.buffer.pending
        assert messages <= LIMITS.messages
        assert size <= self.most_bytes
        assert owed <= len(STATES)
        assert self.buffer.state != State.healthy or self.buffer.fill < LIMITS.high
        assert self.buffer.state != State.disconnecting or self.buffer.pending == (0, 0, 0)
        assert not self.buffer.idle or (self.buffer.state == State.healthy and not messages)
        if size <= LIMITS.bytes:
            self.most_bytes = LIMITS.bytes

    # --- the end ------------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        for _ in range(100):
            if self.buffer.empty:
                return
            self.take(10_000)
        raise AssertionError("it is never empty")

    def teardown(self) -> None:
        if self.buffer.state == State.disconnecting:
            self.drain()
            return
        if self.away and not self.resuming:
            self.resume()
        self.drain()
        while self.resuming:
            self.replay(1, [])
            self.drain()
        assert self.buffer.empty
        assert self.buffer.idle
        assert self.buffer.pending == (0, 0, 0)
        assert self.pings == 0
        assert not self.wanted
        self.counted()
        for topic in TOPICS:
            self.all_told(topic)
            if topic in STATES:
                assert self.got.get(topic) == self.newest.get(topic), f"{topic} did not converge"


BufferMachine.TestCase.settings = settings(max_examples=250, stateful_step_count=30, deadline=None)
test_a_client_knows_all_or_is_told_what_it_misses = BufferMachine.TestCase


@pytest.mark.parametrize(("policy", "stays"), [(Policy.drop_oldest, [3, 4, 5]), (Policy.drop_newest, [1, 2, 3])])
def test_which_end_is_dropped(policy: Policy, stays: list[int]) -> None:
    buffer = Buffer(policy, Limits(messages=3))
    buffer.offer([update(("trade", "A"), n, n - 1) for n in range(1, 6)])
    sent = [msgspec.json.decode(data) for data in buffer.take(10_000, lambda _: None)]
    assert [s["position"] for s in sent if s["type"] == "gap"] == [f"x_md_0:{n}" for n in stays]


def test_hysteresis() -> None:
    buffer = Buffer(Policy.drop_oldest, Limits(messages=8))
    states = []
    for n in range(1, 8):
        buffer.offer([update(("trade", "A"), n, n - 1)])
        states.append(buffer.state.value)
    assert states == ["healthy"] * 3 + ["lagging"] * 4
    while buffer.state == State.lagging:
        before = buffer.pending[0]
        buffer.take(1, lambda _: None)
    assert before == 3
    assert buffer.pending[0] == 2, "healthy again at a quarter, not at a half"


def test_what_is_owed_is_not_sent_before_the_drop_is_told() -> None:
    buffer = Buffer(Policy.drop_oldest, Limits(messages=2))
    buffer.offer([update(("book", "A"), n, n - 1) for n in range(1, 6)])
    sent = [msgspec.json.decode(data) for data in buffer.take(10_000, lambda _: update(("book", "A"), 5, None, snapshot=True))]
    kinds = [s["type"] for s in sent]
    assert kinds == ["state", "state", "dropped", "gap", "state"]
    assert sent[2]["topics"] == [{"channel": "book", "symbol": "A", "count": 5, "first_position": "x_md_0:1", "last_position": "x_md_0:5"}]
    assert sent[3]["healed_by"] == "snapshot"


def test_a_snapshot_that_is_asked_for_stands_for_what_waits() -> None:
    buffer = Buffer(Policy.conflate, Limits(messages=10))
    buffer.owe([("book", "A")])
    buffer.offer([update(("book", "A"), 1, None), update(("trade", "A"), 2, None)])
    sent = [msgspec.json.decode(d)["position"] for d in buffer.take(10_000, lambda _: update(("book", "A"), 1, None, snapshot=True))]
    assert sent == ["x_md_0:2", "x_md_0:1"]
    assert buffer.idle


def test_what_comes_of_one_entry_is_taken_at_once() -> None:
    buffer = Buffer(Policy.drop_oldest)
    buffer.offer([update(topic, 7, None) for topic in TOPICS[:4]])
    buffer.offer([update(("trade", "A"), 8, 7)])
    taken = buffer.take(1, lambda _: None)
    assert [msgspec.json.decode(data)["position"] for data in taken] == ["x_md_0:7"] * 4
    assert len(buffer.take(1, lambda _: None)) == 1


def test_what_was_dropped_while_it_is_resumed_is_left_out_until_a_snapshot_behind_it() -> None:
    held = {("book", "A")}
    buffer = Buffer(Policy.drop_oldest, Limits(messages=2), lambda topic: topic in held)
    buffer.offer_missed([update(("book", "A"), 1, None)])
    buffer.owe([("book", "A")])
    buffer.offer([update(("trade", "A"), n, n - 1) for n in (7, 8, 9)])
    buffer.offer_missed([update(("book", "A"), n, n - 1) for n in (2, 3)])

    def taken() -> list[tuple[str, int]]:
        sent = [msgspec.json.decode(data) for data in buffer.take(10_000, lambda topic: update(topic, 9, None, snapshot=True))]
        return [(s.get("channel", s["type"]), s.get("count", 0)) for s in sent if s["type"] != "state"]

    assert taken() == [("dropped", 4), ("trade", 0), ("trade", 0)]
    held.clear()
    buffer.hold()
    assert taken() == [("book", 0)]
    assert buffer.idle
