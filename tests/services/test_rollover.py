"""Markets come and go while a connector runs: judged by the simulated venue's own log of what it sent, and to whom."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.kalshi.changes import lifecycle_changes
from exchanges.kalshi.rest import KalshiRest
from exchanges.markets import STANDING, Selection
from exchanges.session import Session, SessionConfig
from exchanges.simulator.channels import BOOKS, LIFECYCLE
from exchanges.simulator.faults import Fate, Faults
from exchanges.simulator.listing import Listing
from exchanges.simulator.oracle import Oracle
from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Control, Entry, Gap, Lifecycle
from journal.errors import StorageError
from journal.market import Market
from journal.memory import MemoryJournal
from journal.subjects import Stream
from ssmd.render import Silent
from ssmd.secmaster.choosing import Choice, Listed
from ssmd.secmaster.endings import endings
from ssmd.secmaster.following import Follower
from ssmd.secmaster.importing import import_markets
from ssmd.secmaster.service import Schedule, SecmasterService
from ssmd.secmaster.sync import Question
from ssmd.services.connector import Connector
from ssmd.services.ledger import Ledger
from ssmd.services.roster import Roster
from tests.choices import choice_of, ledger_of, sync_of

CLOCK = WallClock()
STREAM = Stream("local", shard="0")
BTC, ETH = "KXSIMBTC15M", "KXSIMETH5M"


class Unlucky:
    """Of each series' events in turn: the messages that create its markets arrive, are lost, or the connection ends before the first."""

    def __init__(self) -> None:
        # The connection never ends just when a market of the other series opens: that would be an outage, not a missed announcement.
        self._coming = {BTC: [Fate.send, Fate.drop] * 4, ETH: [Fate.send, Fate.disconnect, Fate.drop] * 4}
        self._met: set[str] = set()  # markets whose first message was on its way
        self.fates: dict[str, Fate] = {}  # by event

    def fate(self, connection: int, sid: int, channel: str, ticker: str, seq: int) -> Fate:
        del connection, sid, seq
        series, event = ticker.partition("-")[0], ticker.rpartition("-")[0]
        if channel != LIFECYCLE or series not in self._coming or ticker in self._met:
            return Fate.send
        self._met.add(ticker)
        known = self.fates.get(event)
        if known is None:
            known = self.fates[event] = self._coming[series].pop(0)
        return known

    def rolled(self, series: str) -> int:
        return sum(event.startswith(series) for event in self.fates)


class Town:
    """A venue, a journal, and the security master's service as another process would run it."""

    def __init__(self, sim: SimulatorServer, directory: Path) -> None:
        self.sim = sim
        self.directory = directory
        self.journal = MemoryJournal()
        self.seeds = iter(range(100))

    def connector(self, selection: Selection, **options: Any) -> Connector:
        rng = random.Random(next(self.seeds))
        config = SessionConfig(self.sim.ws_url, backoff_first_s=0.02, backoff_most_s=0.1, close_timeout_s=0.2)
        return Connector(
            self.journal, STREAM, CLOCK, rng, feed="kalshi", days=DayRule(), session=Session(config, CLOCK, rng),
            adapters=lambda symbols, since_ns: KalshiAdapter(symbols, since_ns=since_ns),
            choice=options.pop("choice", None) or choice_of(self.journal, self.directory, self.sim.rest_url, CLOCK, selection), **options,
        )  # fmt: skip

    @asynccontextmanager
    async def service(self, every_s: float) -> AsyncIterator[None]:
        ledger = ledger_of(self.journal, self.directory, CLOCK)
        rng = random.Random(3)
        source = KalshiRest(self.sim.rest_url, CLOCK, rng)
        service = SecmasterService(
            ledger, sync_of(ledger, CLOCK), Follower(ledger, self.journal, STREAM, "kalshi", lifecycle_changes), CLOCK,
            lambda: rng.randbytes(8).hex(), source=(source, Question("kalshi", "simulated")), schedule=Schedule(every_s=every_s),
        )  # fmt: skip
        async with running(service.run()):
            yield

    @property
    def entries(self) -> list[Entry]:
        log = self.journal._logs.get(STREAM)
        return [record.entry for record in log.records] if log else []

    def controls(self, action: str) -> list[Entry]:
        return [e for e in self.entries if isinstance(e.body, Control) and e.body.action == action]

    def definitions(self) -> list[Entry]:
        return [e for e in self.entries if isinstance(e.body, Lifecycle) and e.body.event == "definition"]

    def subscribed(self) -> set[str]:
        """Books that the venue sends to anybody."""
        return {t for conn in self.sim._sockets for sub in conn.subscriptions.values() if sub.channel == BOOKS for t in sub.tickers or ()}


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await CLOCK.sleep(0.02)


@asynccontextmanager
async def town(
    directory: Path,
    *,
    speed: float | None,
    markets: int = 3,
    rate: float = 4.0,
    faults: Faults | None = None,
    listed: int = 0,
    **options: Any,
) -> AsyncIterator[Town]:
    feed = SyntheticFeed(7, markets=markets, rate=rate)
    oracle = Oracle(keep_bytes=256 << 20)
    listing = Listing(5, listed, CLOCK.wall_ns() // 1_000_000) if listed else None
    async with SimulatorServer(feed, CLOCK, speed=speed, oracle=oracle, faults=faults, hold=True, listing=listing, **options) as sim:
        yield Town(sim, directory)


def first_receivers(sim: SimulatorServer) -> dict[str, int]:
    """Market -> the connection that its first change of a book went to; 0: to nobody."""
    found: dict[str, int] = {}
    for sent in sim.oracle.sent():
        frame = json.loads(sent.data)
        if frame["type"] == "orderbook_delta":
            found.setdefault(frame["msg"]["market_ticker"], sent.conn)
    return found


def test_a_series_rolls_over_and_no_market_misses_its_first_message(tmp_path: Path) -> None:
    """Sixty times as fast as the clock, with 2,000 other markets listed; what announces a market is lost, or lost with its connection."""

    async def scene() -> None:
        unlucky = Unlucky()
        async with town(tmp_path, speed=60.0, faults=unlucky, listed=2_000) as place:
            connector = place.connector(Selection(series=(BTC, ETH)), grace_s=2.0)
            async with running(connector.run()), place.service(0.2):
                await until(lambda: unlucky.rolled(BTC) >= 3, 90)  # each 15 s; the third is announced 30 s after the start
                await CLOCK.sleep(2.0)
                await until(lambda: connector.status.finalised >= 5)
                left, silence = place.subscribed(), connector.status.silence
            first = {ticker: conn for ticker, conn in first_receivers(place.sim).items() if ticker.startswith((BTC, ETH))}
            assert len({t for t in first if t.startswith(BTC)}) >= 3
            assert len({t.rpartition("-")[0] for t in first if t.startswith(ETH)}) >= 5
            assert [ticker for ticker, conn in first.items() if not conn] == []
            assert set(unlucky.fates.values()) == {Fate.send, Fate.drop, Fate.disconnect}
            assert connector.status.connections > 1
            # What was sent has come, and nothing of markets that were not chosen.
            assert {e.symbol for e in place.entries if e.raw and type(e.body).__name__ == "Delta"} == set(first)
            # Each was defined, with the place in the security master, before its first change of a book.
            defined = {e.symbol: json.loads(e.body.detail) for e in place.definitions()}  # type: ignore[union-attr]
            assert set(first) <= set(defined)
            assert all(d["secmaster"].startswith("local_secmaster:") for d in defined.values())
            over = {e.symbol for e in place.controls("finalised")}
            assert len(over) >= 5
            assert not over & left
            assert silence == ""
            for ended in place.controls("finalised"):
                said = json.loads(ended.body.detail)  # type: ignore[union-attr]
                assert said["reason"] == "settled"
                last = int(said["last"].rpartition(":")[2])
                own = [n for n, e in enumerate(place.entries, 1) if e.symbol == ended.symbol and not isinstance(e.body, Control)]
                assert max(own) == last  # nothing more has come

    asyncio.run(scene())


def test_what_a_run_left_unfinished_the_next_one_goes_on_with_or_finishes(tmp_path: Path) -> None:
    """Markets close and settle while nobody captures. A run that is stopped in between passes them on."""

    async def scene() -> None:
        async with town(tmp_path, speed=60.0, markets=4) as place, place.service(0.2):
            first = place.connector(Selection(series=(ETH,)))
            async with running(first.run()):
                await until(lambda: len(place.subscribed()) >= 2)
                captured = set(first.roster)
            await until(lambda: any(m.settled_ms for m in place.sim.venue.catalogue.markets.values() if m.ticker in captured))
            second = place.connector(Selection(series=(ETH,)))  # its grace period is longer than it lives
            async with running(second.run()):
                await until(lambda: captured <= set(second.roster))
            assert not place.controls("finalised")
            third = place.connector(Selection(series=(ETH,)), grace_s=0.1)
            async with running(third.run()):
                await until(lambda: place.controls("finalised"))
                assert {e.symbol for e in place.controls("finalised")} & captured
                assert not {e.symbol for e in place.controls("finalised")} & place.subscribed()
            (said,) = await endings(place.journal, "local", "kalshi", place.controls("finalised")[0].symbol)
            assert said["reason"] == "settled"
            assert await endings(place.journal, "local", "kalshi", "KXNONE") == []

    asyncio.run(scene())


def test_silence_is_said_in_the_stream_and_ends_with_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with town(tmp_path, speed=60.0) as place, place.service(0.1):
            connector = place.connector(Selection(series=("KXSIMNONE",)))
            async with running(connector.run()):
                await until(lambda: connector.status.silence == "no market is chosen" and connector.status.state == "capturing")
                connector.status.silent = True  # a moment ago the venue acknowledged
                assert "silence is expected: no market is chosen" in connector.status.told()
            connector = place.connector(Selection(series=(BTC,)))
            async with running(connector.run()):
                await until(lambda: len(place.controls("silence")) >= 2)
        said = [json.loads(e.body.detail) for e in place.controls("silence")]  # type: ignore[union-attr]
        assert said[:2] == [{"expected": True, "reason": "no market is chosen"}, {"expected": False, "reason": ""}]
        assert {e.symbol for e in place.controls("silence")} == {"silence-connector"}

    asyncio.run(scene())


class Broken(Choice):
    """Its view fails once, while it is followed."""

    failed = False

    async def changes(self) -> AsyncGenerator[list[Listed], None]:
        if not self.failed:
            self.failed = True
            raise StorageError("the view: disk I/O error")
        async for some in super().changes():
            yield some


def test_a_security_master_that_fails_does_not_end_the_capture_and_is_followed_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with town(tmp_path, speed=1.0) as place:
            choice = choice_of(place.journal, tmp_path, place.sim.rest_url, CLOCK, Selection(series=(BTC,)), kind=Broken)
            connector = place.connector(Selection(), choice=choice)
            async with running(connector.run()):
                await until(lambda: connector.status.state == "capturing" and "disk I/O error" in connector.status.told())
                opened_ns = CLOCK.wall_ns()
                new = Market(symbol=f"{BTC}-NEW-1", series=BTC, status="active", open_ns=opened_ns)
                await import_markets(ledger_of(place.journal, tmp_path, CLOCK), CLOCK, [new], Silent())
                await until(lambda: new.symbol in connector.roster)
                await until(lambda: not connector.status.security_master)
                assert connector.status.connections == 1
            assert {e.body.from_ns for e in place.entries if isinstance(e.body, Gap) and e.symbol == new.symbol} == {opened_ns}

    asyncio.run(scene())


@pytest.mark.parametrize(("statuses", "late"), [(STANDING, True), (frozenset({"active"}), False)])
def test_a_market_that_is_said_to_be_active_and_was_not_heard_to_be_created_may_have_been_open_since_we_began(
    tmp_path: Path, statuses: frozenset[str], late: bool
) -> None:
    async def scene() -> None:
        async with town(tmp_path, speed=1.0) as place:
            journal, begun_ns = place.journal, CLOCK.wall_ns()
            ledger = Ledger(journal, STREAM, CLOCK, random.Random(1), feed="kalshi", days=DayRule(), writer="connector")
            await ledger.open(print)
            choice = choice_of(journal, tmp_path, place.sim.rest_url, CLOCK, Selection(series=(BTC,), statuses=statuses))
            roster = Roster(choice, ledger, journal, STREAM, CLOCK, feed="kalshi", grace_s=1.0)
            await roster.open()
            now_ns = CLOCK.wall_ns()
            since_ns = roster.announced(f"{BTC}-PAUSED-1", Lifecycle("activated", "active"), now_ns)
            assert since_ns == 0 if not late else begun_ns <= (since_ns or 0) < now_ns
            created = Lifecycle("created", "pending", open_ns=now_ns + 10**9, close_ns=now_ns + 2 * 10**9)
            assert roster.announced(f"{BTC}-NEW-1", created, now_ns) == (created.open_ns if late else None)
            await ledger.close("")

    asyncio.run(scene())


def test_a_market_that_was_over_before_we_learnt_of_it_has_a_gap_of_its_own(tmp_path: Path) -> None:
    async def scene() -> None:
        async with town(tmp_path, speed=1.0) as place:
            connector = place.connector(Selection(series=(BTC,)))
            async with running(connector.run()):
                await until(lambda: connector.status.state == "capturing")
                opened_ns = CLOCK.wall_ns()
                await CLOCK.sleep(0.05)
                closed_ns = CLOCK.wall_ns()
                over = Market(symbol=f"{BTC}-OVER-1", series=BTC, status="settled", open_ns=opened_ns, close_ns=closed_ns)
                before = Market(symbol=f"{BTC}-BEFORE-1", series=BTC, status="settled", open_ns=1, close_ns=2)
                others = Market(symbol="KXSIMNONE-1", series="KXSIMNONE", status="settled", open_ns=opened_ns, close_ns=closed_ns)
                await import_markets(ledger_of(place.journal, tmp_path, CLOCK), CLOCK, [before, others, over], Silent())
                await until(lambda: any(e.symbol == over.symbol for e in place.entries))
            (gap,) = [e for e in place.entries if isinstance(e.body, Gap) and e.symbol]
            # Its last messages may come after its end.
            assert (gap.symbol, gap.body) == (over.symbol, Gap("not subscribed", from_ns=opened_ns, to_ns=gap.recv_ns))
            assert gap.recv_ns > closed_ns

    asyncio.run(scene())


def test_a_market_whose_time_had_come_before_we_learnt_of_it_has_a_gap_though_nobody_said_that_it_is_open(tmp_path: Path) -> None:
    async def scene() -> None:
        async with town(tmp_path, speed=1.0) as place:
            connector = place.connector(Selection(series=(BTC,)))
            async with running(connector.run()):
                await until(lambda: connector.status.state == "capturing")
                opened_ns, far_ns = CLOCK.wall_ns(), CLOCK.wall_ns() + 3_600 * 10**9
                late = Market(symbol=f"{BTC}-LATE-1", series=BTC, status="pending", open_ns=opened_ns, close_ns=far_ns)
                early = Market(symbol=f"{BTC}-EARLY-1", series=BTC, status="pending", open_ns=far_ns - 1, close_ns=far_ns)
                await import_markets(ledger_of(place.journal, tmp_path, CLOCK), CLOCK, [early, late], Silent())
                await until(lambda: {late.symbol, early.symbol} <= set(connector.roster))
                await until(lambda: any(isinstance(e.body, Gap) and e.symbol for e in place.entries))
            gaps = [(e.symbol, e.body.from_ns) for e in place.entries if isinstance(e.body, Gap) and e.symbol]
            assert set(gaps) == {(late.symbol, opened_ns)}

    asyncio.run(scene())
