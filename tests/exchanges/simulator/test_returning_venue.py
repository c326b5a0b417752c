"""A venue whose time is a rated clock's, and one that comes back after an outage as what it was."""

from __future__ import annotations

import asyncio
import time

from exchanges.simulator.oracle import Oracle, Sent
from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.clock import RateClock

RATE = 1440
LATE_MS = 3_600_000  # an hour of venue time: 2.5 s of a busy machine's


def feed() -> SyntheticFeed:
    return SyntheticFeed(5, markets=1, rate=0.2)


def served(clock: RateClock, seconds: float, begun_ms: int | None = None) -> list[Sent]:
    async def run() -> list[Sent]:
        async with SimulatorServer(feed(), clock, oracle=Oracle(keep_bytes=1 << 24), begun_ms=begun_ms) as sim:
            await clock.sleep(seconds)
            return sim.oracle.sent()

    return asyncio.run(run())


def bodies(sent: list[Sent]) -> list[bytes]:
    return [s.data.partition(b'"msg":')[2].removesuffix(b"}") for s in sent]


def test_it_comes_back_as_what_it_was_and_keeps_the_time_of_its_clock() -> None:
    clock = RateClock(time.time_ns(), RATE)
    begun_ms = clock.wall_ns() // 1_000_000
    first = served(clock, 0.4, begun_ms)
    second = served(clock, 0.4, begun_ms)
    truth = feed()
    truth.catalogue(begun_ms)
    happened = []
    for happening in truth.play():
        if happening.at_ms > clock.wall_ns() // 1_000_000:
            break
        if happening.body:
            happened.append((happening.at_ms, happening.body))
    assert len(first) > 20
    assert len(second) > 20
    for sent in (first, second):
        start = next(n for n, (_, body) in enumerate(happened) if body == bodies(sent)[0])
        slice_ = happened[start : start + len(sent)]
        assert bodies(sent) == [body for _, body in slice_], "what happens does not depend on who is there"
        late = [s.when_ns / 1e6 - at_ms for s, (at_ms, _) in zip(sent, slice_, strict=True)]
        assert min(late) >= -1, "nothing is sent before its time"
        assert max(late) < LATE_MS
    assert first[-1].when_ns < second[0].when_ns


def test_a_rated_venue_that_has_just_begun_is_not_behind_its_clock() -> None:
    sent = served(RateClock(time.time_ns(), RATE), 0.4)
    times = [int(s.data.rpartition(b'"ts_ms":')[2].partition(b"}")[0].partition(b",")[0]) for s in sent if b'"ts_ms":' in s.data]
    assert len(times) > 20
    assert all(0 <= s.when_ns / 1e6 - at < LATE_MS for s, at in zip([s for s in sent if b'"ts_ms":' in s.data], times, strict=True))
