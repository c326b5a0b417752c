"""What happened to each key of an environment: an aggregate in stream ``{env}_key``, entries on ``{env}.key.events.{id}.{version}``.

Set, rotated, deleted, and resolved by whom with what outcome; never a value, nor anything made from one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, NamedTuple
from uuid import UUID, uuid5

import msgspec
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import IntegrityError

from journal.application import application
from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Event
from journal.errors import JournalUnavailable
from journal.protocols import Journal, JournalReader
from journal.recorder import JournalRecorder, our_errors
from journal.subjects import Stream
from ssmd.keys.change import Change
from ssmd.keys.resolve import Outcome, Resolver

_NAMESPACE = UUID("6f1f3f0e-2f55-5c0a-9d2b-6a2f6b1f7a10")  # drawn once; another one would begin all histories anew
_HOUR_NS = 3_600 * 10**9
# A process has a pid: only the newest hour of each (process, outcome) is looked at, and old ones are of processes that are gone.
_MAX_RESOLVED = 256
_TRIES = 32  # each lost one is somebody else's success


class KeyHistory(Aggregate):
    """One key. What it remembers is what tells a change that it has from one that it has not."""

    TOPIC: ClassVar[str] = "key"

    def __init__(self, env: str, key: str) -> None:
        self.env = env
        self.key = key
        self.changes: set[str] = set()  # ids; one for each thing a person ever did to this key
        self.resolved: dict[str, int] = {}  # process and outcome -> hour since 1970

    class Created(Aggregate.Created):
        TOPIC: ClassVar[str] = "key.created"
        env: str
        key: str

    class Changed(Aggregate.Event):
        TOPIC: ClassVar[str] = "key.changed"
        key: str
        change: str
        at_ns: int
        source: str
        fields: list[str]
        previous_until_ns: int
        interrupted: bool

        def apply(self, aggregate: Any) -> None:
            aggregate.changes.add(self.change)

    class Set(Changed):
        TOPIC: ClassVar[str] = "key.set"

    class Rotated(Changed):
        TOPIC: ClassVar[str] = "key.rotated"

    class Deleted(Changed):
        TOPIC: ClassVar[str] = "key.deleted"

    class Resolved(Aggregate.Event):
        TOPIC: ClassVar[str] = "key.resolved"
        key: str
        at_ns: int
        process: str
        outcome: str

        def apply(self, aggregate: Any) -> None:
            aggregate.resolved[f"{self.process} {self.outcome}"] = self.at_ns // _HOUR_NS
            while len(aggregate.resolved) > _MAX_RESOLVED:
                del aggregate.resolved[min(aggregate.resolved, key=aggregate.resolved.get)]

    @staticmethod
    def create_id(env: str, key: str) -> UUID:
        return uuid5(_NAMESPACE, f"{env}/{key}")

    def apply_change(self, change: Change) -> bool:
        """Whether it is new."""
        if change.id in self.changes:
            return False
        self.trigger_event(
            {"set": self.Set, "rotated": self.Rotated, "deleted": self.Deleted}[change.kind],
            timestamp=_moment(change.at_ns),
            key=self.key,
            change=change.id,
            at_ns=change.at_ns,
            source=change.source,
            fields=list(change.fields),
            previous_until_ns=change.previous_until_ns,
            interrupted=not change.written,
        )
        return True

    def apply_outcomes(self, outcomes: Sequence[Outcome], process: str) -> bool:
        """Whether one of them is the first of its (process, outcome, hour)."""
        before = self.version
        for outcome in outcomes:
            if self.resolved.get(f"{process} {outcome.result}", -1) < outcome.at_ns // _HOUR_NS:
                said = {"key": self.key, "at_ns": outcome.at_ns, "process": process, "outcome": outcome.result}
                self.trigger_event(self.Resolved, timestamp=_moment(outcome.at_ns), **said)
        return self.version > before


class Keys(Application[UUID]):
    name = "keys"


class Fact(NamedTuple):
    """An event as `ssmd key audit` shows it. `detail` is what the event has besides."""

    position: str
    at_ns: int
    key: str
    what: str
    who: str
    why: str
    detail: dict[str, Any]


async def record(journal: Journal, clock: Clock, env: str, changes: Sequence[Change], *, days: DayRule) -> None:
    """Journal `changes`, in order, each once however often this is called; `days` are the environment's. Raises `StoreError`."""
    histories = _Histories(journal, clock, env, days)

    def work() -> None:
        for change in changes:
            histories.save(change.key, partial(KeyHistory.apply_change, change=change), change.who, change.why)

    with our_errors():
        await asyncio.to_thread(work)


async def flush_outcomes(journal: Journal, clock: Clock, env: str, resolver: Resolver, process: str, *, days: DayRule) -> None:
    """Journal how resolving went, once for each (key, `process`, outcome, hour), and forget what is journalled. Raises `StoreError`."""
    outcomes = list(resolver.outcomes)
    if not outcomes:
        return
    histories = _Histories(journal, clock, env, days)

    def work() -> None:
        for key in dict.fromkeys(outcome.key for outcome in outcomes):
            mine = [outcome for outcome in outcomes if outcome.key == key]
            histories.save(key, partial(KeyHistory.apply_outcomes, outcomes=mine, process=process), process)

    with our_errors():
        await asyncio.to_thread(work)
    del resolver.outcomes[: len(outcomes)]


async def read_history(
    journal: JournalReader, env: str, key: str = "", *, since_ns: int = 0, until_ns: int = 0, limit: int = 100
) -> list[Fact]:
    """The newest `limit` facts of `key`, or of all keys, oldest first; bounds include their ends, 0 is none."""
    stream = Stream(env, domain="key")
    if await journal.info(stream) is None:
        return []
    subject = f"{env}.key.events.{KeyHistory.create_id(env, key)}.*" if key else f"{env}.key.events.>"
    found: deque[Fact] = deque(maxlen=limit)
    async for records in journal.read(stream, subjects=[subject]):
        for number, entry in records:
            fact = _fact(f"{stream.name}:{number}", entry.body) if isinstance(entry.body, Event) else None
            if fact and since_ns <= fact.at_ns and (not until_ns or fact.at_ns <= until_ns):
                found.append(fact)
    return list(found)


def _fact(position: str, event: Event) -> Fact | None:
    data = msgspec.json.decode(event.data)
    topic, state = str(data.get("topic", "")), data.get("state", {})
    what = topic.removeprefix("key.")
    if what in {"created", topic}:  # the latter: of the gateway's clients
        return None
    detail = {n: v for n, v in state.items() if n not in {"timestamp", "key", "at_ns", "change"} and v not in ("", 0, False, [])}
    return Fact(position, state.get("at_ns", 0), state.get("key", ""), what, event.who, event.why, detail)


class _Histories:
    """All histories of an environment. Made on the journal's loop, used in a thread."""

    def __init__(self, journal: Journal, clock: Clock, env: str, days: DayRule) -> None:
        loop = asyncio.get_running_loop()
        recorder = JournalRecorder(journal, loop, Stream(env, domain="key"), clock, random.SystemRandom(), days=days)
        self._app = application(Keys, recorder)
        self._clock = clock
        self._env = env

    def save(self, key: str, decide: Callable[[KeyHistory], bool], who: str, why: str = "") -> None:
        """Load, decide, append; again when somebody else was first."""
        for _ in range(_TRIES):
            history = self._load(key)
            if not decide(history):
                return
            try:
                self._app.save(history, who=who, why=why)
            except IntegrityError:
                continue
            return
        raise JournalUnavailable(f"others changed key {key} of {self._env} {_TRIES} times meanwhile; try again")

    def _load(self, key: str) -> KeyHistory:
        try:
            found: KeyHistory = self._app.repository.get(KeyHistory.create_id(self._env, key))
        except AggregateNotFoundError:
            now = _moment(self._clock.wall_ns())
            return KeyHistory._create(KeyHistory.Created, timestamp=now, env=self._env, key=key)  # noqa: SLF001
        return found


def _moment(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)
