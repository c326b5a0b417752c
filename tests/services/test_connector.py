"""The connector between a simulated venue and a journal in memory."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exchanges.adapter import Normalised, Output
from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.kalshi.signing import Signer
from exchanges.markets import Selection
from exchanges.session import Session, SessionConfig
from exchanges.simulator.authority import Authority
from exchanges.simulator.faults import Fate, Fault, ScriptedFaults
from exchanges.simulator.oracle import Oracle
from exchanges.simulator.server import WS_PATH, SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.block import Block
from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Body, Book, Control, Delta, Entry, Gap, Lifecycle, Record, Trade, Unparsed
from journal.errors import Fenced, JournalUnavailable, NotFound, VenueRefused
from journal.memory import MemoryJournal
from journal.protocols import Fence
from journal.subjects import Stream
from projections.book import BookProjection, BookState
from ssmd.services import predecessor
from ssmd.services.connector import Connector
from ssmd.services.lag import Lag
from tests.choices import choice_of

CLOCK = WallClock()
STREAM = Stream("local", shard="0")
EVERYTHING = Selection(everything=True)


class Desk:
    """A venue and a journal; connectors are made over them."""

    def __init__(self, sim: SimulatorServer, journal: MemoryJournal, directory: Path) -> None:
        self.sim = sim
        self.directory = directory
        self.journal = journal
        self.seeds = iter(range(100))
        self.settled = 0  # records when the venue had said all: a connector that stops makes every book stale

    def connector(self, **options: Any) -> Connector:
        rng = random.Random(next(self.seeds))
        clock = options.pop("clock", CLOCK)
        config = SessionConfig(options.pop("url", self.sim.ws_url), backoff_first_s=0.02, backoff_most_s=0.1, close_timeout_s=0.2)
        headers = options.pop("headers", lambda _: {})
        defaults: dict[str, Any] = {
            "feed": "kalshi",
            "days": DayRule(),
            "session": Session(config, clock, rng, headers),
            "adapters": lambda symbols, since_ns: KalshiAdapter(symbols, since_ns=since_ns),
            "choice": choice_of(self.journal, self.directory, self.sim.rest_url, CLOCK, options.pop("selection", EVERYTHING)),
        }
        return Connector(self.journal, STREAM, clock, rng, **defaults | options)

    @asynccontextmanager
    async def running(self, connector: Connector) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(connector.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def drained(self, connector: Connector) -> None:
        """The venue has said all, and the connector has stored it."""
        await self.sim.finished()
        quiet, frames = 0, -1
        while quiet < 2:
            quiet = quiet + 1 if frames == connector.status.frames and not connector._ledger.pending_bytes else 0
            frames = connector.status.frames
            await CLOCK.sleep(0.05)
        self.settled = len(self.records)

    async def capture(self, **options: Any) -> Connector:
        """One connector until the venue has said all."""
        connector = self.connector(**options)
        async with self.running(connector):
            await self.drained(connector)
        return connector

    @property
    def records(self) -> list[Record]:
        log = self.journal._logs.get(STREAM)
        return list(log.records) if log else []

    @property
    def entries(self) -> list[Entry]:
        return [record.entry for record in self.records]

    def bodies(self, kind: type) -> list[Any]:
        return [entry.body for entry in self.entries if isinstance(entry.body, kind)]

    def controls(self, action: str) -> list[Entry]:
        return [e for e in self.entries if isinstance(e.body, Control) and e.body.action == action]

    def raws(self) -> list[bytes]:
        return [entry.raw for entry in self.entries if entry.raw]

    def sent(self, connection: int) -> list[bytes]:
        return [sent.data for sent in self.sim.oracle.sent() if sent.conn == connection and sent.fate != "drop"]

    def check_books(self, *, of_open_markets: bool = False) -> None:
        """Every book is valid (or stale, if its market closed while nobody looked), and every valid one is the venue's own."""
        books = BookProjection()
        books.apply(Block.of(self.records[: self.settled]))
        truth = self.sim.oracle.books()
        valid = 0
        for symbol, (yes, no) in truth.items():
            book = books.book(symbol)
            if of_open_markets and book.state == BookState.STALE and not yes and not no:
                continue
            valid += 1
            assert book.state == BookState.VALID, symbol
            assert (dict(book.bids), {1_000_000 - at: size for at, size in book.asks}) == (yes, no), symbol
        assert valid

    def check_order(self) -> None:
        """Frames number each epoch from 0 without a hole, effective time never falls, and each epoch is opened by its frame 0."""
        frames: dict[bytes, int] = {}
        effective_ns = 0
        for entry in self.entries:
            assert entry.frame == frames.get(entry.epoch, 0)
            frames[entry.epoch] = entry.frame + 1
            if entry.frame == 0:
                assert isinstance(entry.body, Control)
                assert (entry.body.action, entry.symbol) == ("opened", f"epoch-{entry.epoch.hex()}")
            assert entry.effective_ns >= effective_ns
            effective_ns = entry.effective_ns


def play(
    scene: Callable[[Desk], Awaitable[None]],
    *,
    faults: Sequence[Fault] = (),
    frames: int = 800,
    markets: int = 6,
    speed: float | None = None,
    journal: MemoryJournal | None = None,
    **options: Any,
) -> None:
    async def main() -> None:
        feed = SyntheticFeed(7, markets=markets, rate=1_000.0, frames=frames)
        oracle = Oracle(keep_bytes=64 << 20)
        options.setdefault("hold", True)
        with TemporaryDirectory() as directory:
            async with SimulatorServer(feed, CLOCK, speed=speed, oracle=oracle, faults=ScriptedFaults(faults), **options) as sim:
                await scene(Desk(sim, journal or MemoryJournal(), Path(directory)))

    asyncio.run(main())


def chosen_of(entries: Sequence[Entry]) -> list[str]:
    """Symbols that joined, in order."""
    bodies = [e.body for e in entries if isinstance(e.body, Control) and e.body.action == "chosen"]
    return [symbol for body in bodies for symbol in json.loads(body.detail)["symbols"]]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await CLOCK.sleep(0.005)


def test_every_frame_once_in_order_with_its_bytes() -> None:
    async def scene(desk: Desk) -> None:
        connector = await desk.capture()
        assert desk.raws() == desk.sent(1)
        assert connector.status.frames == len(desk.raws()) > 800
        assert connector.status.entries == len(desk.entries) - 2  # but `opened` and `lease` of the run
        assert (connector.status.unparsed, connector.status.gaps, connector.status.connections) == (0, 0, 1)
        assert connector.status.lag.count >= connector.status.frames
        assert connector.status.lag.quantile_ns(0.99) < 2 * 10**9
        assert connector.status.state == "stopped"
        desk.check_order()
        desk.check_books()

    play(scene)


def test_a_run_opens_takes_its_lease_opens_the_day_lists_the_markets_then_connects() -> None:
    async def scene(desk: Desk) -> None:
        await desk.capture(instance="host:17")
        said = [(e.body.action if isinstance(e.body, Control) else type(e.body).__name__) for e in desk.entries]
        connected = said.index("opened", 1)
        assert said[:4] == ["opened", "lease", "day_opened", "chosen"]
        assert set(said[3:connected]) == {"chosen", "Lifecycle", "silence"}
        opened, lease, day = desk.entries[:3]
        assert json.loads(opened.body.detail) == {"instance": "host:17", "kind": "run", "writer": "connector"}  # type: ignore[union-attr]
        assert (lease.symbol, day.symbol) == ("writer-connector", f"day-{datetime.now(UTC):%Y-%m-%d}")
        listed = [e for e in desk.entries[:connected] if isinstance(e.body, Lifecycle)]
        assert len(listed) >= 6
        assert {e.symbol for e in listed} == set(chosen_of(desk.entries[:connected]))
        for entry in listed:
            body = entry.body
            assert isinstance(body, Lifecycle)
            assert (body.event, entry.price_exponent, entry.size_exponent, entry.raw) == ("definition", -6, -2, b"")
            assert body.status in {"active", "pending"}
            assert body.close_ns > body.open_ns > 0
            assert json.loads(body.detail)["secmaster"].startswith("local_secmaster:")
        assert [json.loads(e.body.detail)["reason"] for e in desk.controls("closed")] == ["stopped", "stopped"]  # type: ignore[union-attr]
        assert desk.entries[-2].epoch == desk.entries[connected].epoch  # the connection, then the run

    play(scene, frames=50)


def test_lost_frames_are_a_gap_and_every_book_recovers() -> None:
    async def scene(desk: Desk) -> None:
        connector = await desk.capture()
        gaps = desk.bodies(Gap)
        assert {gap.reason for gap in gaps} == {"sequence gap"}
        lost = {(s.sid, s.seq) for s in desk.sim.oracle.sent() if s.fate == "drop"}
        told = {
            (e.subscription, n)
            for e in desk.entries
            if isinstance(e.body, Gap)
            for n in range(e.body.first_missing, e.body.last_missing + 1)
        }
        assert told == lost
        assert len(lost) == 4
        assert connector.status.connections == 1
        assert [e.body.channel for e in desk.controls("resynced")] == ["orderbook_delta"]  # type: ignore[union-attr]
        desk.check_order()
        desk.check_books()

    play(
        scene,
        faults=[
            Fault(Fate.drop, channel="orderbook_delta", after=200, times=3),
            Fault(Fate.drop, channel="trade", after=20),
        ],
        speed=2.0,
    )


def test_repeated_frames_are_kept_and_change_nothing() -> None:
    async def scene(desk: Desk) -> None:
        await desk.capture()
        assert len(desk.controls("duplicate")) == 5
        assert desk.bodies(Gap) == []
        desk.check_books()

    play(scene, faults=[Fault(Fate.duplicate, channel="orderbook_delta", after=100, times=5)])


def test_a_lost_connection_is_closed_reopened_and_its_outage_told() -> None:
    async def scene(desk: Desk) -> None:
        connector = await desk.capture()
        assert connector.status.connections == 2
        first, second = (e for e in desk.controls("opened") if '"connection"' in e.body.detail)  # type: ignore[union-attr]
        assert first.epoch != second.epoch
        ended = desk.controls("closed")[0]
        assert ended.epoch == first.epoch
        assert "connection lost" in ended.body.detail  # type: ignore[union-attr]
        gaps = [e for e in desk.entries if isinstance(e.body, Gap)]
        assert {e.body.channel for e in gaps} == {"orderbook_delta", "trade", "ticker", "market_lifecycle_v2"}  # type: ignore[union-attr]
        last = max(e.recv_ns for e in desk.entries if e.epoch == first.epoch and e.raw)
        for entry in gaps:
            assert isinstance(entry.body, Gap)
            assert (entry.epoch, entry.body.reason, entry.body.from_ns) == (second.epoch, "not subscribed", last)
            assert entry.body.to_ns >= second.recv_ns
        desk.check_order()
        desk.check_books()
        kept = set(desk.raws())
        happened = [s for s in desk.sim.oracle.sent() if b'"trade"' in s.data and s.data not in kept]
        assert all(last <= s.when_ns + 10**9 for s in happened)

    play(scene, faults=[Fault(Fate.disconnect, channel="orderbook_delta", after=300)], speed=2.0)


def test_a_successor_fences_the_first_and_speaks_for_it() -> None:
    async def scene(desk: Desk) -> None:
        first = desk.connector(instance="first")
        async with desk.running(first) as task:
            await until(lambda: first.status.frames > 200)
            second = desk.connector(instance="second")
            async with desk.running(second):
                with pytest.raises(Fenced, match="second"):
                    await task
                await desk.drained(second)
        assert first.status.state == "stopped"
        assert "second" in first.status.message
        (dead,) = [e for e in desk.controls("opened") if '"connection"' in e.body.detail][:1]  # type: ignore[union-attr]
        lease = desk.controls("lease")[1]
        after = [e for e in desk.entries if e.frame > lease.frame and e.epoch == lease.epoch]
        gap, closed = after[0], after[1]
        assert isinstance(gap.body, Gap)
        assert isinstance(closed.body, Control)
        assert gap.body.reason == "connector restarted"
        assert json.loads(gap.body.detail) == {"epoch": dead.epoch.hex()}
        assert json.loads(closed.body.detail)["epoch"] == dead.epoch.hex()
        last = max(e.recv_ns for e in desk.entries if e.epoch == dead.epoch and e.raw)
        assert (gap.body.from_ns, gap.body.to_ns) == (last, lease.recv_ns)
        assert len(desk.controls("day_opened")) == 1
        desk.check_books(of_open_markets=True)

    play(scene, speed=1.0)


def test_a_run_after_a_clean_stop_tells_the_time_between() -> None:
    async def scene(desk: Desk) -> None:
        first = desk.connector()
        async with desk.running(first):
            await until(lambda: first.status.frames > 100)
        last = max(e.recv_ns for e in desk.entries if e.raw)
        assert last < desk.entries[-1].recv_ns  # what was in the socket when it stopped
        await desk.capture()
        gaps = [e.body for e in desk.entries if isinstance(e.body, Gap)]
        assert gaps[0].reason == "connector was stopped"
        assert gaps[0].from_ns == last
        assert {g.channel for g in gaps[1:]} == {"orderbook_delta", "trade", "ticker", "market_lifecycle_v2"}
        assert {g.from_ns for g in gaps[1:]} == {last}
        desk.check_order()
        desk.check_books(of_open_markets=True)

    play(scene, speed=1.0)


def test_two_writers_of_one_stream_do_not_disturb_each_other() -> None:
    async def scene(desk: Desk) -> None:
        left, right = desk.connector(writer="left"), desk.connector(writer="right")
        async with desk.running(left), desk.running(right):
            await desk.drained(left)
            await desk.drained(right)
        assert left.status.frames > 800
        assert right.status.frames > 800
        assert desk.bodies(Gap) == []

    play(scene, speed=2.0)


def test_markets_of_a_series_join_when_the_venue_announces_them() -> None:
    async def scene(desk: Desk) -> None:
        connector = await desk.capture(selection=Selection(series=("KXSIMETH5M",)))
        symbols = {e.symbol for e in desk.entries if isinstance(e.body, Book)}
        assert symbols
        assert all(symbol.startswith("KXSIMETH5M-") for symbol in symbols)
        created = {e.symbol for e in desk.entries if isinstance(e.body, Lifecycle) and e.body.event == "created"}
        ours = {symbol for symbol in created if symbol.startswith("KXSIMETH5M-")}
        assert ours
        assert ours <= symbols
        assert connector.status.symbols >= len(symbols)

    play(scene, markets=12, frames=2_000)


def test_an_unknown_symbol_names_its_neighbours() -> None:
    async def scene(desk: Desk) -> None:
        known = next(iter(desk.sim.oracle.books()))
        with pytest.raises(NotFound, match="no market") as caught:
            await desk.connector(selection=Selection(symbols=(known, known + "x"))).run()
        assert known in caught.value.nearest
        assert json.loads(desk.entries[-1].body.detail)["reason"] == str(caught.value)  # type: ignore[union-attr]

    play(scene)


def test_one_symbol_only() -> None:
    async def scene(desk: Desk) -> None:
        known = next(iter(desk.sim.oracle.books()))
        await desk.capture(selection=Selection(symbols=(known,)))
        assert {e.symbol for e in desk.entries if isinstance(e.body, (Book, Delta, Trade))} == {known}

    play(scene)


def test_a_wrong_key_is_final_and_a_right_one_is_not() -> None:
    key_id = "11111111-2222-3333-4444-555555555555"
    ours, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()

    async def scene(desk: Desk) -> None:
        wrong = Signer(key_id, other)
        refused = desk.connector(headers=lambda ns: wrong.headers("GET", WS_PATH, ns))
        with pytest.raises(VenueRefused, match="HTTP 401"):
            await refused.run()
        assert "HTTP 401" in refused.status.message
        assert "HTTP 401" in desk.entries[-1].body.detail  # type: ignore[union-attr]
        right = Signer(key_id, ours)
        assert (await desk.capture(headers=lambda ns: right.headers("GET", WS_PATH, ns))).status.frames > 800

    play(scene, authority=Authority({key_id: ours.public_key()}, CLOCK))


def test_a_day_begins_in_its_stream_with_its_opening() -> None:
    async def scene(desk: Desk) -> None:
        start = datetime.fromtimestamp(CLOCK.wall_ns() // 10**9 + 2, UTC)
        connector = desk.connector(days=DayRule(start=time(start.hour, start.minute, start.second)))
        async with desk.running(connector):
            await desk.drained(connector)
        days = [e.day for e in desk.entries]
        assert days == sorted(days)
        assert len(set(days)) == 2
        openings = desk.controls("day_opened")
        assert [json.loads(e.body.detail)["day"] for e in openings] == sorted(set(days))  # type: ignore[union-attr]
        second = next(e for e in desk.entries if e.day == days[-1])
        assert second is openings[1]
        desk.check_order()
        desk.check_books()

    play(scene, speed=1.0, frames=3_500)


class Stepped(WallClock):
    """A machine whose clock is set while we run."""

    step_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.step_ns


def test_a_clock_that_is_set_back_and_forward_breaks_no_order_and_decides_a_day_once() -> None:
    async def scene(desk: Desk) -> None:
        clock = Stepped()
        connector = desk.connector(clock=clock)
        async with desk.running(connector) as task:
            for step_s in (-3_600, 86_400, -86_400, 0):
                seen = connector.status.frames
                await until(lambda seen=seen: connector.status.frames > seen + 150)  # type: ignore[misc]
                clock.step_ns = step_s * 1_000_000_000
            await desk.drained(connector)
            assert not task.done()
        assert connector.status.connections == 1
        assert desk.raws() == desk.sent(1)
        desk.check_order()
        days = [entry.day for entry in desk.entries]
        assert days == sorted(days)
        assert [json.loads(e.body.detail)["day"] for e in desk.controls("day_opened")] == sorted(set(days))  # type: ignore[union-attr]
        assert len(set(days)) == 2
        received = [entry.recv_ns for entry in desk.entries]  # as the clock told, wrong or not
        assert min(received) < received[0] < max(received) - 86_000 * 10**9
        desk.check_books()

    play(scene, speed=1.0, frames=1_500)


class Faltering(MemoryJournal):
    """A journal that is away for a while, from its nth append on, and loses the replies of what it stored."""

    def __init__(self, away_from: int, away: int) -> None:
        super().__init__()
        self.appends = 0
        self._away = range(away_from, away_from + away)

    async def append(self, stream: Stream, entries: Sequence[Entry], fence: Fence | None = None) -> list[int]:
        self.appends += 1
        if self.appends in self._away:
            if self.appends % 2:
                await super().append(stream, entries, fence)
            raise JournalUnavailable("no leader")
        return await super().append(stream, entries, fence)


@pytest.mark.parametrize("away_from", [1, 2, 6])
def test_nothing_is_lost_or_doubled_when_the_journal_is_away(away_from: int) -> None:
    async def scene(desk: Desk) -> None:
        # room for a few hundred frames: the socket waits for the journal
        connector = await desk.capture(max_pending_bytes=200_000)
        assert desk.raws() == desk.sent(1)
        assert connector.status.connections == 1
        desk.check_order()
        desk.check_books()

    play(scene, journal=Faltering(away_from, 3))


def test_an_entry_that_the_journal_would_not_take_is_told_and_the_rest_goes_on() -> None:
    async def scene(desk: Desk) -> None:
        # The security master has its own journal here: only frames are too large.
        choice = choice_of(MemoryJournal(), desk.directory, desk.sim.rest_url, CLOCK, EVERYTHING)
        connector = await desk.capture(choice=choice)
        refused = [e for e in desk.entries if isinstance(e.body, Unparsed)]
        gaps = desk.bodies(Gap)
        assert refused
        assert len(gaps) == len(refused)
        assert {gap.reason for gap in gaps} == {"frame too large"}
        hashed = [e for e in refused if not e.raw]
        assert all("BLAKE2b-256" in e.body.error for e in hashed)  # type: ignore[union-attr]
        assert connector.status.frames == len(desk.raws()) + len(hashed)
        assert 0 < len(hashed) < len(refused)  # what was read of a frame may not fit where its bytes do
        desk.check_order()

    play(scene, journal=MemoryJournal(max_entry_bytes=900))


class Refused(KalshiAdapter):
    """Its venue answers the first frame's command with an error and nothing else."""

    def __init__(self, symbols: Sequence[str], since_ns: int, **refusal: Any) -> None:
        super().__init__(symbols, since_ns=since_ns)
        self.refusal = refusal

    def frame(self, data: bytes, recv_ns: int) -> Output:
        del data, recv_ns
        refusal, self.refusal = self.refusal, {}
        return Output((Normalised(Control("error", "trade", "{}")),), **refusal)


def test_a_subscription_that_the_venue_ends_at_once_is_tried_on_a_new_connection() -> None:
    async def scene(desk: Desk) -> None:
        connector = desk.connector(adapters=lambda symbols, since_ns: Refused(symbols, since_ns, reconnect="code 10"))
        async with desk.running(connector):
            await until(lambda: connector.status.connections > 2)
        assert "code 10" in desk.controls("closed")[0].body.detail  # type: ignore[union-attr]

    play(scene)


def test_a_subscription_that_the_venue_refuses_for_good_ends_the_run() -> None:
    async def scene(desk: Desk) -> None:
        with pytest.raises(VenueRefused, match="permissions"):
            await desk.connector(adapters=lambda symbols, since_ns: Refused(symbols, since_ns, error="check the permissions")).run()

    play(scene)


def test_a_venue_that_is_not_there_is_waited_for() -> None:
    async def scene(desk: Desk) -> None:
        connector = desk.connector(url="ws://127.0.0.1:9/ws")
        async with desk.running(connector) as task:
            await until(lambda: "cannot connect" in connector.status.message)
            assert connector.status.state == "connecting"
            assert not task.done()

    play(scene)


# -- the predecessor -----------------------------------------------------------------------------------------------------


def entry(epoch: int, frame: int, body: Body, symbol: str = "", recv_ns: int = 1) -> Entry:
    raw = b"x" if isinstance(body, Unparsed) else b""
    return Entry(body, "kalshi", symbol, bytes([epoch] * 16), frame, recv_ns, 0, recv_ns, 20260827, raw=raw)


def opened(epoch: int, writer: str, recv_ns: int) -> Entry:
    detail = json.dumps({"kind": "connection", "writer": writer})
    return entry(epoch, 0, Control("opened", detail=detail), f"epoch-{epoch}", recv_ns)


def find(*entries: Entry) -> predecessor.Predecessor:
    async def look() -> predecessor.Predecessor:
        journal = MemoryJournal()
        await journal.ensure(STREAM, "kalshi")
        await journal.append(STREAM, [entry(1, 0, Control("lease"), "writer-us", 10)])
        (lease,) = [r async for records in journal.read(STREAM) for r in records]
        for at in range(0, len(entries), 500):
            await journal.append(STREAM, entries[at : at + 500])
        return await predecessor.find(journal, STREAM, "kalshi", "us", lease)

    return asyncio.run(look())


def test_a_predecessor_without_connections_last_wrote_its_lease() -> None:
    assert find() == ([], 10)
    assert find(opened(5, "another", 20)) == ([], 10)


def test_a_predecessor_that_died_is_found_behind_what_others_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor, "_WINDOW", 64)
    others = [entry(9, n, Unparsed("x"), recv_ns=100 + n) for n in range(1, 300)]
    assert find(opened(2, "us", 20), entry(2, 1, Unparsed("x"), recv_ns=30), opened(9, "them", 40), *others) == (
        [bytes([2] * 16).hex()],
        30,
    )


def test_connections_that_were_closed_are_not_dead() -> None:
    ended = entry(2, 2, Control("closed", detail="{}"), recv_ns=25)
    assert find(opened(2, "us", 20), ended) == ([], 10)  # it read nothing
    read = entry(2, 1, Unparsed("x"), recv_ns=24)
    assert find(opened(2, "us", 20), read, ended, opened(3, "us", 26)) == ([bytes([3] * 16).hex()], 24)


# -- lag -----------------------------------------------------------------------------------------------------------------


def test_lag_quantiles_are_within_a_sixteenth() -> None:
    lag = Lag()
    assert lag.quantile_ns(0.5) == 0
    durations = [round(1.07**n * 1_000) for n in range(300)]
    for duration in durations:
        lag.add(duration)
    for q in (0.01, 0.1, 0.5, 0.9, 0.99, 1.0):
        exact = sorted(durations)[max(int(q * 300) - 1, 0)]
        assert exact <= lag.quantile_ns(q) <= exact * 1.0625 + 1_000
    lag.add(-5)
    lag.add(10**18, 3)
    assert (lag.count, lag.worst_ns) == (304, 10**18)
