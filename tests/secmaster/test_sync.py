"""Synchronisation: what differs is journalled, once, from wherever it was stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from journal.archive import ArchiveReader
from journal.block import Block
from journal.clock import WallClock
from journal.entry import Event, Record
from journal.errors import HoleInStream, VenueUnavailable
from journal.memory import MemoryJournal, MemoryStorage
from projections.projection import Digester
from projections.secmaster import SecmasterProjection, change_of
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.past import changes_of, market_as_of
from ssmd.secmaster.query import Filter, select
from ssmd.secmaster.reading import History, catch_up
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import OVERLAP_NS, Question
from ssmd.secmaster.view import View
from ssmd.services.archiver import Archiver
from tests.secmaster.listing import ENV, HOUR_NS, NOON_NS, QUESTION, Listing, SetClock, ledger_of, market, synchronise

STREAM = secmaster(ENV)


async def all_records(journal: MemoryJournal) -> list[Record]:
    return [r async for records in journal.read(STREAM) for r in records]


async def folded(journal: MemoryJournal) -> SecmasterProjection:
    projection = SecmasterProjection()
    if records := await all_records(journal):
        projection.apply(Block.of(records))
    return projection


async def changes(journal: MemoryJournal) -> list[tuple[str, str, str]]:
    found = [change_of(r.entry) for r in await all_records(journal)]
    return [(c.change.removeprefix("market_"), c.symbol, c.source) for c in found if c]


def in_view(ledger: Ledger) -> dict[str, object]:
    return {f.symbol: f.market for f in select(ledger.view, Filter())}


def test_only_what_differs_is_journalled(tmp_path: Path) -> None:
    async def body() -> None:
        journal, clock = MemoryJournal(), SetClock()
        ledger, venue = ledger_of(tmp_path, journal, clock), Listing([market(n) for n in range(250)])
        first = await synchronise(ledger, venue, clock)
        assert first.synced.counts == {"market_added": 250}
        assert (first.synced.pages, first.synced.markets, first.resumed) == (3, 250, False)
        again = await synchronise(ledger, venue, clock)
        assert again.synced.counts == {}
        venue.markets[3] = replace(venue.markets[3], title="Another title")
        venue.markets[4] = replace(venue.markets[4], status="paused", venue_status="inactive", rules="Other rules")
        venue.markets[5] = replace(venue.markets[5], status="settled", venue_status="finalized", result="yes", settlement_value=1_000_000)
        before = len(await all_records(journal))
        third = await synchronise(ledger, venue, clock)
        assert third.synced.counts == {"market_updated": 2, "market_status_changed": 1, "market_settled": 1}
        assert (await changes(journal))[-4:] == [
            ("updated", "KXS3-26AUG10-T3", "rest"),
            ("updated", "KXS4-26AUG10-T4", "rest"),
            ("settled", "KXS5-26AUG10-T5", "rest"),
            ("status_changed", "KXS4-26AUG10-T4", "rest"),
        ]
        entries = [r.entry for r in (await all_records(journal))[before:]]
        assert entries[0].raw == b'{"ticker":"KXS3-26AUG10-T3"}'
        assert {e.body.correlation for e in entries[:-1] if isinstance(e.body, Event)} == {third.synced.run}
        assert [e.frame for e in entries] == [1, 1, 1, 2, 2]  # the last is the synchronisation's own
        fold = await folded(journal)
        assert fold.markets() == in_view(ledger) == {m.symbol: m for m in venue.markets}

    asyncio.run(body())


def test_what_is_listed_no_more_is_removed_unless_it_is_settled(tmp_path: Path) -> None:
    async def body() -> None:
        journal = MemoryJournal()
        ledger = ledger_of(tmp_path, journal)
        gone, settled = market(7), market(8, status="settled", venue_status="finalized")
        venue = Listing([*(market(n) for n in range(7)), gone, settled])
        await synchronise(ledger, venue)
        del venue.markets[7:]
        assert (await synchronise(ledger, venue)).synced.counts == {"market_removed": 1}
        assert set(in_view(ledger)) == {m.symbol for m in venue.markets} | {settled.symbol}
        venue.markets.append(gone)  # it comes back, and its history goes on
        assert (await synchronise(ledger, venue)).synced.counts == {"market_added": 1}
        row = ledger.view.rows([gone.symbol])[gone.symbol]
        assert (row.known.changes, row.known.market) == (3, gone)

    asyncio.run(body())


def test_a_venue_that_lists_hardly_anything_removes_nothing_unasked(tmp_path: Path) -> None:
    async def body() -> None:
        ledger, venue = ledger_of(tmp_path), Listing([market(n) for n in range(300)])
        await synchronise(ledger, venue)
        del venue.markets[150:]
        summary = await synchronise(ledger, venue)
        assert (summary.missing, summary.synced.counts, len(in_view(ledger))) == (150, {}, 300)
        accepted = await synchronise(ledger, venue, yes=True)
        assert (accepted.missing, accepted.synced.counts, len(in_view(ledger))) == (0, {"market_removed": 150}, 150)

    asyncio.run(body())


def test_of_some_series_only_these_are_asked_and_removed(tmp_path: Path) -> None:
    async def body() -> None:
        ledger, venue = ledger_of(tmp_path), Listing([market(n) for n in range(40)])
        await synchronise(ledger, venue)
        del venue.markets[:2]
        only = Question("kalshi", QUESTION.url, ("KXS1",))
        assert (await synchronise(ledger, venue, question=only)).synced.counts == {"market_removed": 1}
        assert len(in_view(ledger)) == 39

    asyncio.run(body())


def test_the_next_one_asks_what_changed_since(tmp_path: Path) -> None:
    async def body() -> None:
        clock = SetClock()
        ledger, venue = ledger_of(tmp_path, clock=clock), Listing([market(n) for n in range(10)])
        assert (await synchronise(ledger, venue, clock, full=False)).synced.full  # there was none before
        clock.ns += HOUR_NS // 2
        del venue.markets[5:]
        summary = await synchronise(ledger, venue, clock, full=False)
        assert not summary.synced.full
        assert venue.asked == [(0, ""), (NOON_NS - OVERLAP_NS, "")]
        assert summary.synced.counts == {}  # it lists what changed: what it does not list is not gone

    asyncio.run(body())


@pytest.mark.parametrize("pages", [0, 1, 4])
def test_it_goes_on_from_its_last_page(tmp_path: Path, pages: int) -> None:
    async def body() -> None:
        ledger, venue = ledger_of(tmp_path), Listing([market(n) for n in range(60)], page=10)
        venue.markets += [market(n) for n in range(60, 65)]
        await synchronise(ledger, venue)
        gone = venue.markets.pop(3)
        venue.fail_after = pages
        with pytest.raises(VenueUnavailable):
            await synchronise(ledger, venue)
        venue.fail_after = -1
        summary = await synchronise(ledger, venue)
        assert summary.resumed
        assert venue.asked[-1] == (0, f"a{10 * pages}" if pages else "")
        assert (summary.synced.pages, summary.synced.markets) == (7, 64)
        assert summary.synced.counts == {"market_removed": 1}
        assert gone.symbol not in in_view(ledger)
        assert list(ledger.view.query("SELECT count(*) FROM seen")) == [(0,)]

    asyncio.run(body())
    assert not list(tmp_path.glob("*.lock"))


def test_a_cursor_that_the_venue_has_forgotten_begins_anew(tmp_path: Path) -> None:
    async def body() -> None:
        ledger, venue = ledger_of(tmp_path), Listing([market(n) for n in range(30)], page=10)
        venue.fail_after = 1
        with pytest.raises(VenueUnavailable):
            await synchronise(ledger, venue)
        venue.fail_after, venue.epoch = -1, "b"
        assert (await synchronise(ledger, venue)).synced.counts == {"market_added": 30}

    asyncio.run(body())


def test_what_nobody_announces_is_derived_once_and_not_undone(tmp_path: Path) -> None:
    async def body() -> None:
        journal, clock = MemoryJournal(), SetClock(NOON_NS - HOUR_NS)
        ledger = ledger_of(tmp_path, journal, clock)
        venue = Listing([market(0, status="pending", venue_status="initialized")])
        await synchronise(ledger, venue, clock)
        clock.ns = NOON_NS + 1
        assert (await synchronise(ledger, venue, clock)).synced.counts == {"market_status_changed": 1}
        assert (await synchronise(ledger, venue, clock)).synced.counts == {}  # the venue still says initialized
        clock.ns = NOON_NS + HOUR_NS
        await synchronise(ledger, Listing([]), clock, full=False)
        found = [c for r in await all_records(journal) if (c := change_of(r.entry))]
        assert [(c.change, c.derived, c.at_ns) for c in found[1:]] == [
            ("market_status_changed", True, NOON_NS),
            ("market_status_changed", True, NOON_NS + HOUR_NS),
        ]
        assert [f.market.status for f in select(ledger.view, Filter())] == ["closed"]

    asyncio.run(body())


def test_a_view_is_the_fold_however_it_was_made(tmp_path: Path) -> None:
    """Digest of the fold, of the view that wrote, of one made from the journal, and of one that was deleted half way."""

    async def body() -> None:
        journal = MemoryJournal()
        ledger, venue = ledger_of(tmp_path, journal), Listing([market(n) for n in range(120)])
        await synchronise(ledger, venue)
        half = View(tmp_path / "half.sqlite")
        await catch_up(half, History(STREAM, journal))
        venue.markets[::7] = [replace(m, status="closed", venue_status="closed", title="t") for m in venue.markets[::7]]
        del venue.markets[1:4]
        await synchronise(ledger, venue)
        new = View(tmp_path / "new.sqlite")
        for view in (half, new):
            await catch_up(view, History(STREAM, journal))
        expected = Digester(await folded(journal)).digest()
        assert [v.digest() for v in (ledger.view, half, new)] == [expected] * 3

    asyncio.run(body())


def test_two_with_views_of_their_own_journal_each_change_once(tmp_path: Path) -> None:
    async def body() -> None:
        journal = MemoryJournal()
        one, two = (ledger_of(tmp_path, journal, name=name, who=name) for name in ("one", "two"))  # the same entry twice would be one
        markets = [market(n) for n in range(300)]
        summaries = await asyncio.gather(synchronise(one, Listing(markets, page=50)), synchronise(two, Listing(markets, page=50)))
        assert sum(s.synced.counts.get("market_added", 0) for s in summaries) == 300
        assert sorted(symbol for _, symbol, _ in await changes(journal)) == sorted(m.symbol for m in markets)

    asyncio.run(body())


def test_the_view_of_another_journal_is_made_anew(tmp_path: Path) -> None:
    async def body() -> None:
        await synchronise(ledger_of(tmp_path, MemoryJournal()), Listing([market(n) for n in range(20)]))
        other = MemoryJournal()
        await synchronise(ledger_of(tmp_path, other, name="other"), Listing([market(n) for n in range(50, 80)]))
        ledger = ledger_of(tmp_path, other)
        await ledger.open()
        assert len(in_view(ledger)) == 30
        assert in_view(ledger) == (await folded(other)).markets()
        ledger.view.close()
        # The same markets at the same places, another day: the n-th change of a market has the same id.
        again, later = MemoryJournal(), WallClock()
        await synchronise(
            ledger_of(tmp_path, again, later, name="again"), Listing([market(n, title="Of another") for n in range(50, 80)]), later
        )
        ledger = ledger_of(tmp_path, again)
        await ledger.open()
        assert in_view(ledger) == (await folded(again)).markets()
        ledger.view.close()
        (tmp_path / "view.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 100)
        ledger = ledger_of(tmp_path, again)
        await ledger.open()
        assert len(in_view(ledger)) == 30

    asyncio.run(body())


def test_what_is_not_understood_is_kept_and_told(tmp_path: Path) -> None:
    async def body() -> None:
        journal = MemoryJournal()
        ledger = ledger_of(tmp_path, journal)
        venue = Listing(
            [market(0), market(1, status="unknown", venue_status="frozen", flaws=("status",)), market(2, flaws=("close_time",))]
        )
        venue.nameless = (b'{"title":"no name"}', b"[]")
        for _ in range(2):
            summary = await synchronise(ledger, venue)
            assert (summary.unknown, summary.flawed, summary.nameless) == ((market(1).symbol,), 2, 2)
        assert [f.symbol for f in select(ledger.view, Filter(status="unknown"))] == [market(1).symbol]
        kept = [r.entry for r in await all_records(journal) if isinstance(r.entry.body, Event) and r.entry.body.type == "nameless"]
        assert [e.raw for e in kept] == list(venue.nameless)  # each once
        assert (await folded(journal)).markets() == in_view(ledger)

    asyncio.run(body())


def test_what_the_journal_has_let_go_comes_from_the_archive(tmp_path: Path) -> None:
    async def body() -> None:
        journal, storage = MemoryJournal(), MemoryStorage()
        ledger, venue, clock = ledger_of(tmp_path, journal), Listing([market(n) for n in range(60)]), WallClock()
        await synchronise(ledger, venue)
        venue.markets[0] = replace(venue.markets[0], title="changed")
        await synchronise(ledger, venue)
        await Archiver(journal, storage, ENV, clock).catch_up()
        archive = ArchiveReader(storage, ENV, clock)
        await journal.purge(STREAM, 40)
        with pytest.raises(HoleInStream):
            await catch_up(View(tmp_path / "none.sqlite"), History(STREAM, journal))
        for name, history in (("both", History(STREAM, journal, archive)), ("archive", History(STREAM, archive))):
            view = View(tmp_path / f"{name}.sqlite")
            await catch_up(view, history)
            await catch_up(view, history)
            assert view.digest() == ledger.view.digest()
            known, _, raw = await market_as_of(history, market(0).symbol, NOON_NS)
            assert known.market == venue.markets[0]
            assert raw
            assert [len(records) async for records in changes_of(history, limit=500)] == [61]
            assert await history.seek(NOON_NS - 1) == 1

    asyncio.run(body())


def test_a_view_of_another_version_is_made_anew(tmp_path: Path) -> None:
    async def body() -> None:
        journal = MemoryJournal()
        ledger = ledger_of(tmp_path, journal)
        await synchronise(ledger, Listing([market(n) for n in range(20)]))
        expected = ledger.view.digest()
        with ledger.view.change() as db:
            db.execute("DROP TABLE markets")
            db.execute("PRAGMA user_version = 99")
        ledger.view.close()
        again = ledger_of(tmp_path, journal)
        await again.open()
        assert again.view.digest() == expected

    asyncio.run(body())


def test_several_processes_may_clear_and_fold_one_file(tmp_path: Path) -> None:
    """A fold that does not join on to what another one left is done again from there."""

    async def body() -> None:
        journal = MemoryJournal()
        ledger = ledger_of(tmp_path, journal)
        await synchronise(ledger, Listing([market(n) for n in range(50)]))
        expected, records = ledger.view.digest(), await all_records(journal)
        one, two = View(tmp_path / "shared.sqlite"), View(tmp_path / "shared.sqlite")
        assert one.fold(records[:30])
        assert two.fold(records[10:40])  # an overlap
        assert two.place.sequence == one.place.sequence == 40
        two.clear()
        assert not one.fold(records[40:])  # a hole: not folded
        assert one.place.sequence == 0
        await catch_up(one, History(STREAM, journal))
        assert two.digest() == expected

    asyncio.run(body())


def test_changes_are_followed_from_a_time_or_as_they_come(tmp_path: Path) -> None:
    async def body() -> None:
        journal, clock = MemoryJournal(), SetClock()
        ledger, venue = ledger_of(tmp_path, journal, clock), Listing([market(n) for n in range(5)])
        await synchronise(ledger, venue, clock)
        history = History(STREAM, journal)

        async def followed(**how: object) -> list[str]:
            found = [r async for records in changes_of(history, follow=True, **how) for r in records]  # type: ignore[arg-type]
            return [c.change for r in found if (c := change_of(r.entry))]

        coming = asyncio.create_task(followed(limit=2))
        of_one = asyncio.create_task(followed(limit=2, symbol=market(1).symbol, since_ns=NOON_NS))
        await asyncio.sleep(0.01)
        clock.ns += HOUR_NS // 2
        venue.markets = [replace(m, title="t") for m in venue.markets]
        await synchronise(ledger, venue, clock)
        assert await coming == ["market_updated"] * 2
        assert await of_one == ["market_added", "market_updated"]
        assert await followed(limit=6, since_ns=NOON_NS) == ["market_added"] * 5 + ["market_updated"]
        assert await followed(limit=1, since_ns=NOON_NS + 1) == ["market_updated"]

    asyncio.run(body())
