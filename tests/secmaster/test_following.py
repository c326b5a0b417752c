"""Lifecycle messages and times between synchronisations."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from exchanges.kalshi.changes import derived_changes, lifecycle_changes, observed_changes
from journal.clock import WallClock
from journal.entry import Control, Entry, Event, Lifecycle
from journal.errors import JournalUnavailable
from journal.memory import MemoryJournal
from journal.protocols import StreamInfo
from journal.subjects import Stream
from projections.secmaster import change_of
from ssmd.secmaster.following import Follower
from ssmd.secmaster.query import Filter, select
from ssmd.secmaster.service import Schedule, SecmasterService
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import Sync
from tests.secmaster.listing import ENV, HOUR_NS, NOON_NS, QUESTION, Listing, SetClock, ledger_of, market, synchronise

MARKET = Stream(ENV, shard="0")


def message(at: int, symbol: str, event: str, **more: object) -> Entry:
    body = Lifecycle(event, **more)  # type: ignore[arg-type]
    now_ns = NOON_NS + at * 10**9
    return Entry(body, "kalshi", symbol, b"e" * 16, at, now_ns, now_ns, now_ns, 20260810, raw=b"{}")


async def written(journal: MemoryJournal) -> list[tuple[str, str, str]]:
    """What, by whom told, caused by what."""
    found = []
    async for records in journal.read(secmaster(ENV)):
        for _, entry in records:
            if (change := change_of(entry)) and isinstance(entry.body, Event):
                found.append((change.change.removeprefix("market_"), change.source, entry.body.causation))
    return found


def test_messages_change_markets_once_and_name_themselves(tmp_path: Path) -> None:
    async def body() -> None:
        journal, clock = MemoryJournal(), SetClock(NOON_NS)
        ledger = ledger_of(tmp_path, journal, clock)
        await synchronise(ledger, Listing([market(0), market(1)]), clock)
        await journal.ensure(MARKET, "kalshi")
        symbol = market(0).symbol
        await journal.append(
            MARKET,
            [
                message(1, "KXNEW-1", "created", open_ns=NOON_NS + HOUR_NS, close_ns=NOON_NS + 2 * HOUR_NS),
                message(2, symbol, "close_date_updated", close_ns=NOON_NS + 5 * HOUR_NS),
                message(3, symbol, "determined", result="yes", settlement_value=1_000_000, determined_ns=NOON_NS + 3 * 10**9),
                message(4, "KXNOBODY", "determined", result="no"),
                message(5, symbol, "settled", settled_ns=NOON_NS + 5 * 10**9),
            ],
        )
        follower = Follower(ledger, journal, MARKET, "kalshi", lifecycle_changes)
        counts = await follower.catch_up()
        assert counts == {"market_added": 1, "market_updated": 1, "market_status_changed": 1, "market_settled": 1}
        known = {f.symbol: f.market for f in select(ledger.view, Filter())}
        assert (known[symbol].status, known[symbol].result, known[symbol].close_ns) == ("settled", "yes", NOON_NS + 5 * HOUR_NS)
        assert known["KXNEW-1"].status == "pending"
        before = await written(journal)
        assert before[2:] == [
            ("added", "lifecycle", "test_md_0:1"),
            ("updated", "lifecycle", "test_md_0:2"),
            ("status_changed", "lifecycle", "test_md_0:3"),
            ("settled", "lifecycle", "test_md_0:5"),
        ]
        # Again, and by another process with a view of its own: nothing is left to do.
        other = ledger_of(tmp_path, journal, clock, name="other")
        await other.open()
        assert other.view.told(MARKET.name) == 5
        for one in (follower, Follower(other, journal, MARKET, "kalshi", lifecycle_changes)):
            assert not await one.catch_up()
        assert await written(journal) == before

    asyncio.run(body())


def test_the_service_synchronises_follows_and_derives(tmp_path: Path) -> None:
    async def body() -> None:
        journal, clock = MemoryJournal(), WallClock()
        ledger = ledger_of(tmp_path, journal, clock)
        soon_ns = clock.wall_ns() + 700_000_000
        opening = market(0, status="pending", venue_status="initialized", open_ns=soon_ns, close_ns=soon_ns + HOUR_NS)
        venue = Listing([opening, market(1, open_ns=1, close_ns=0)])
        await journal.ensure(MARKET, "kalshi")
        sync = Sync(ledger, clock, observed_changes, derived_changes)
        service = SecmasterService(
            ledger, sync, Follower(ledger, journal, MARKET, "kalshi", lifecycle_changes), clock, lambda: "a-run",
            source=(venue, QUESTION), schedule=Schedule(every_s=0.2),
        )  # fmt: skip
        running = asyncio.create_task(service.run())

        async def until(change: str, source: str, symbol: str) -> None:
            async for records in journal.read(secmaster(ENV), follow=True):
                for found in (c for r in records if (c := change_of(r.entry))):
                    if (found.change, found.source, found.symbol) == (change, source, symbol):
                        return

        async with asyncio.timeout(20):
            await until("market_status_changed", "derived", opening.symbol)
            venue.markets.append(market(2, open_ns=1, close_ns=0))
            await until("market_added", "rest", market(2).symbol)
            now_ns = clock.wall_ns()
            told = Entry(Lifecycle("deactivated"), "kalshi", market(1).symbol, b"e" * 16, 1, now_ns, 1, now_ns, 20260810)
            await journal.append(MARKET, [told])
            await until("market_status_changed", "lifecycle", market(1).symbol)
            assert {since > 0 for since, _ in venue.asked} == {False, True}  # a full one, then what changed
            assert "synchronised" in service.status
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        statuses = {f.symbol: f.market.status for f in select(ledger.view, Filter())}
        assert statuses[opening.symbol] == "active"

    asyncio.run(body())


class Absent(MemoryJournal):
    """Away for the first few calls of each method that a service begins something with."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: Counter[str] = Counter()

    async def ensure(self, stream: Stream, feed: str = "") -> None:
        self._refuse(f"ensure {stream.name}", 2)
        await super().ensure(stream, feed)

    async def info(self, stream: Stream) -> StreamInfo | None:
        self._refuse(f"info {stream.name}", 3)
        return await super().info(stream)

    def _refuse(self, call: str, times: int) -> None:
        if self.refused[call] < times:
            self.refused[call] += 1
            raise JournalUnavailable("no leader")


def test_a_service_waits_for_a_journal_that_is_away_and_then_does_all_that_it_does(tmp_path: Path) -> None:
    async def body() -> None:
        journal, clock = Absent(), WallClock()
        ledger = ledger_of(tmp_path, journal, clock)
        await MemoryJournal.ensure(journal, MARKET, "kalshi")
        service = SecmasterService(
            ledger, Sync(ledger, clock, observed_changes, derived_changes), Follower(ledger, journal, MARKET, "kalshi", lifecycle_changes),
            clock, iter(map(str, range(100))).__next__, source=(Listing([market(1, open_ns=1, close_ns=0)]), QUESTION),
        )  # fmt: skip
        running = asyncio.create_task(service.run())
        async with asyncio.timeout(30):
            while "no leader" not in service.status:
                await clock.sleep(0.01)
            while "synchronised 1 markets" not in service.status:
                await clock.sleep(0.01)
            now_ns = clock.wall_ns()
            told = Entry(Lifecycle("deactivated"), "kalshi", market(1).symbol, b"e" * 16, 1, now_ns, 1, now_ns, 20260810)
            await journal.append(MARKET, [told])
            while not any(change == "status_changed" for change, _, _ in await written(journal)):
                await clock.sleep(0.01)
        assert not running.done()
        assert {call.partition(" ")[0] for call in journal.refused} == {"ensure", "info"}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(body())


def test_a_subscription_of_a_connector_brings_a_synchronisation_forward(tmp_path: Path) -> None:
    """A market announced between the last one and the subscription is in no message."""

    async def body() -> None:
        journal, clock = MemoryJournal(), WallClock()
        ledger = ledger_of(tmp_path, journal, clock)
        venue = Listing([market(0, open_ns=1, close_ns=0)])
        await journal.ensure(MARKET, "kalshi")
        service = SecmasterService(
            ledger, Sync(ledger, clock, observed_changes, derived_changes), Follower(ledger, journal, MARKET, "kalshi", lifecycle_changes),
            clock, iter(map(str, range(100))).__next__, source=(venue, QUESTION), schedule=Schedule(every_s=3_600),
        )  # fmt: skip
        running = asyncio.create_task(service.run())
        async with asyncio.timeout(20):
            while "synchronised" not in service.status:
                await clock.sleep(0.01)
            venue.markets.append(market(1, open_ns=1, close_ns=0))
            now_ns = clock.wall_ns()
            for number, action in enumerate(("ok", "subscribed"), 1):
                said = Entry(Control(action), "kalshi", "", b"e" * 16, number, now_ns, 1, now_ns, 20260810)
                await journal.append(MARKET, [said])
            while len(list(select(ledger.view, Filter()))) < 2:
                await clock.sleep(0.01)
        assert len(venue.asked) >= 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(body())
