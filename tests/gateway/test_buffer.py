"""The buffer's state machine against what a client can know: bounds, announcements before what follows, nothing lost silently."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd.gateway import message as m
from ssmd.gateway.buffer import Buffer, Limits, Owed, Policy, State
from ssmd.gateway.message import STATE_CHANNELS, Topic, Update

LIMITS = Limits(messages=8, bytes=1_200)
TOPICS: list[Topic] = [("book", "A"), ("book", "B"), ("bbo", "A"), ("trade", "A"), ("trade", "B"), ("gap", "")]


def update(topic: Topic, sequence: int, before: int | None, *, snapshot: bool = False, filler: str = "") -> Update:
    """A message of which only the topic, positions and size count here."""

    def make(position: str) -> m.Message:
        return m.GapData(
            symbol=topic[1], position=position, prev_position=None if before is None else f"x_md_0:{before}", reason=filler,
            channel=topic[0], healed_by="snapshot" if snapshot else "",
        )  # fmt: skip

    return Update(*topic, "x_md_0", sequence, make)


class World:
    """A market that moves on, a buffer, and a client that believes only what it is sent."""

    def __init__(self, policy: Policy) -> None:
        self.buffer = Buffer(policy, LIMITS)
        self.policy = policy
        self.sequence = 0
        self.newest: dict[Topic, int] = {}
        self.offered: dict[Topic, list[int]] = defaultdict(list)
        self.got: dict[Topic, int] = {}
        self.received: dict[Topic, list[int]] = defaultdict(list)
        self.told: dict[Topic, int] = defaultdict(int)  # dropped or conflated, as announced
        self.excused: set[Topic] = set()  # announced since the last message of the topic
        self.states: list[str] = ["healthy"]
        self.asked: set[Topic] = set()

    def move(self, topic: Topic, filler: int) -> None:
        self.sequence += 1
        before, self.newest[topic] = self.newest.get(topic), self.sequence
        self.offered[topic].append(self.sequence)
        self.buffer.offer([update(topic, self.sequence, before, filler="x" * filler)])
        messages, size, _ = self.buffer.pending
        assert messages <= LIMITS.messages + (self.policy == Policy.conflate)
        assert size <= LIMITS.bytes + 400

    def ask(self, topic: Topic) -> None:
        self.buffer.owe([topic])
        self.asked.add(topic)

    def take(self, budget: int) -> None:
        for data in self.buffer.take(budget, self.render):
            self.receive(msgspec.json.decode(data))

    def render(self, topic: Topic) -> Update | None:
        return update(topic, self.newest[topic], None, snapshot=True) if topic in self.newest else None

    def receive(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "state":
                self.states.append(message["state"])
            case "dropped" | "conflated":
                assert sum(t["count"] for t in message["topics"]) == message["count"]
                for t in message["topics"]:
                    topic = (t["channel"], t["symbol"])
                    assert message["type"] == "dropped" or topic[0] in STATE_CHANNELS, "a trade was conflated away"
                    self.told[topic] += t["count"]
                    self.excused.add(topic)
            case "gap":
                topic = (message["channel"], message["symbol"])
                at = int(message["position"].rpartition(":")[2])
                snapshot = message.get("healed_by") == "snapshot"
                before = message.get("prev_position")
                last = self.got.get(topic)
                assert last is None or at > last or snapshot, f"{topic} went back"
                if not snapshot:
                    expected = None if before is None else int(before.rpartition(":")[2])
                    announced = topic in self.excused and topic[0] not in STATE_CHANNELS
                    assert expected == last or announced, f"{topic}: {last} is not what {at} follows ({expected}), and nothing was said"
                    self.received[topic].append(at)
                self.got[topic] = at
                self.excused.discard(topic)


_step = st.one_of(
    st.tuples(st.just("move"), st.sampled_from(TOPICS), st.sampled_from([0, 0, 0, 120, 300])),
    st.tuples(st.just("move"), st.sampled_from(TOPICS), st.just(0)),
    st.tuples(st.just("take"), st.sampled_from([1, 300, 10_000]), st.none()),
    st.tuples(st.just("ask"), st.sampled_from([t for t in TOPICS if t[0] in STATE_CHANNELS]), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([Policy.drop_oldest, Policy.drop_newest, Policy.conflate]), st.lists(_step, max_size=120))
def test_a_client_knows_all_or_is_told_what_it_misses(policy: Policy, steps: list[Any]) -> None:
    world = World(policy)
    for what, first, second in steps:
        if what == "move":
            world.move(first, second)
        elif what == "take":
            world.take(first)
        else:
            world.ask(first)
    for _ in range(500):
        if world.buffer.empty:
            break
        world.take(10_000)
    assert world.buffer.empty
    assert world.buffer.state == State.healthy
    for topic, sent in world.offered.items():
        if topic[0] in STATE_CHANNELS:
            assert world.got[topic] == sent[-1], f"{topic} did not converge"
        else:
            assert len(world.received[topic]) + world.told[topic] == len(sent), f"{topic}: a message is neither sent nor told"
        assert len(world.received[topic]) + world.told[topic] <= len(sent)
        if topic not in world.asked:
            assert len(world.received[topic]) + world.told[topic] == len(sent)
    order = ["healthy", "lagging", "dropping"]
    for before, after in zip(world.states, world.states[1:], strict=False):
        assert after == "healthy" or order.index(after) == order.index(before) + 1, world.states


@settings(max_examples=100, deadline=None)
@given(st.lists(_step, max_size=120))
def test_who_wants_to_be_disconnected_gets_all_until_then(steps: list[Any]) -> None:
    world = World(Policy.disconnect)
    for what, first, second in steps:
        if world.buffer.state == State.disconnecting:
            break
        if what == "move":
            world.move(first, second)
        elif what == "take":
            world.take(first)
    ended = world.buffer.state == State.disconnecting
    for _ in range(500):
        world.take(10_000)
    for topic, sent in world.offered.items():
        assert len(world.received[topic]) + world.told[topic] == len(sent)
        assert ended or not world.told[topic]
    assert not ended or world.states[-1] == "disconnecting"


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
    buffer.owe([("book", "A")], Owed.asked)
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
