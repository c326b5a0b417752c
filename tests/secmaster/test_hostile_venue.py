"""What a venue may answer and what becomes of it: the real reader of its REST, the real journal, the real view."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchanges.kalshi.changes import derived_changes, observed_changes
from exchanges.kalshi.rest import Answer, KalshiRest
from exchanges.markets import DefinitionPage
from journal.block import Block
from journal.clock import WallClock
from journal.errors import VenueUnavailable
from journal.jetstream import JetStreamJournal
from journal.market import Market
from journal.memory import MemoryJournal
from journal.protocols import Journal
from projections.projection import Digester
from projections.secmaster import SecmasterProjection
from ssmd.render import Silent
from ssmd.secmaster import export, query
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import Question, Summary, Sync
from tests.journal.servers import TOKEN, NatsServer, nats_server
from tests.secmaster.listing import ENV, HOUR_NS, NOON_NS, Listing, SetClock, ledger_of, market, synchronise

Get = Callable[[str], Answer]
STREAM = secmaster(ENV)


def said(ticker: str, **more: object) -> dict[str, object]:
    """A market as the venue lists it."""
    return {
        "ticker": ticker, "event_ticker": "E-1", "market_type": "binary", "title": "t", "status": "active",
        "open_time": "2026-01-01T00:00:00Z", "close_time": "2027-01-01T00:00:00Z",
        "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}], **more,
    }  # fmt: skip


def listing(*markets: object) -> Get:
    """A venue of one page with one event."""

    def get(url: str) -> Answer:
        event = {"event_ticker": "E-1", "series_ticker": "S", "title": "T", "category": "C", "markets": markets}
        found = {"events": [event], "cursor": ""} if "/events" in url else {"series": [{"ticker": "S", "category": "C"}]}
        return 200, json.dumps(found).encode()

    return get


async def folded(journal: MemoryJournal) -> SecmasterProjection:
    projection = SecmasterProjection()
    async for records in journal.read(STREAM):
        projection.apply(Block.of(records))
    return projection


async def synced(ledger: Ledger, get: Get, name: str = "venue") -> Summary:
    clock = SetClock()
    sync = Sync(ledger, clock, observed_changes, derived_changes)
    rest = KalshiRest("https://venue/trade-api/v2", clock, random.Random(1), get=get)
    return await sync.run(rest, Question("kalshi", f"https://{name}"), "a-run", full=True, meter=Silent())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def journal_of(server: NatsServer) -> AsyncIterator[Journal]:
    journal = await JetStreamJournal.connect(server.url, WallClock(), token=TOKEN)
    try:
        yield journal
    finally:
        await journal.close()


NAMES = (
    "A.B", "A/B", "A\x00B", "A\nB\x1b[31m", ">", "*", " ", "Ω" * 200, "x" * 200, "\U0001f600" * 200, "%41", "A..B", "$JS.API", "..", "A\tB",
    "\u202eabc", "-", "%",
)  # fmt: skip
WRONG: dict[str, object] = {
    "open_time": "9999-12-31T23:59:59Z", "close_time": "0000-01-01T00:00:00Z", "expected_expiration_time": "1e99",
    "latest_expiration_time": "2026-02-30T00:00:00Z", "settlement_ts": "2026-01-01T00:00:00+99:99", "settlement_value_dollars": "9" * 30,
    "floor_strike": [1], "cap_strike": True, "price_ranges": [{"start": "-5", "end": "1e400", "step": "0"}], "tick_size": 10**30,
    "custom_strike": json.loads("[" * 300 + "]" * 300), "rules_primary": "x" * 2_000_000, "title": {"a": 1}, "event_ticker": "E" * 5_000,
    "status": ["active"], "can_close_early": "perhaps", "market_type": 7,
}  # fmt: skip


def test_names_of_every_kind_are_markets(server: NatsServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with journal_of(server) as journal:
            ledger = ledger_of(tmp_path, journal)
            too_long, none = said("x" * 201), said("")
            summary = await synced(ledger, listing(*map(said, NAMES), too_long, none))
            assert (summary.synced.counts, summary.nameless) == ({"market_added": len(NAMES)}, 2)
            assert {f.symbol for f in query.select(ledger.view, query.Filter())} == set(NAMES)
            assert (await synced(ledger, listing(*map(said, NAMES)))).synced.counts == {}
            for form in ("parquet", "jsonl"):
                export.write(ledger.view, form, str(tmp_path / f"all.{form}"))
                assert {m.symbol for m in export.read(tmp_path / f"all.{form}")} == set(NAMES)
            assert all(query.row_of(ledger.view, name).known.market for name in NAMES)
            query.search(ledger.view, "A\x00B \" ' * ^ NEAR(", 5)

    asyncio.run(body())


def test_one_market_that_is_wrong_in_everything_leaves_the_others_alone(tmp_path: Path) -> None:
    async def body() -> None:
        ledger = ledger_of(tmp_path)
        summary = await synced(ledger, listing(said("A"), said("B", **WRONG), said("C")))
        assert (summary.synced.counts, summary.flawed, summary.unknown) == ({"market_added": 3}, 1, ("B",))
        found = {f.symbol: f.market for f in query.select(ledger.view, query.Filter())}
        assert (found["A"].flaws, found["C"].flaws) == ((), ())
        assert set(WRONG) <= set(found["B"].flaws)
        assert found["B"].status == "unknown"

    asyncio.run(body())


@pytest.mark.parametrize("cut", ['"t\\ud83d"', '"\\ude00"', '"\\ud83d\\ud83d\\ude00"', '"t\xff"'])
def test_a_title_that_is_cut_inside_a_character(tmp_path: Path, cut: str) -> None:
    """As JavaScript writes the first 80 characters of a title with an emoji at its end."""
    whole = listing(said("A"), said("B", title="CUT"), said("C", title="\\ud83d is a backslash here"))

    def get(url: str) -> Answer:
        status, body = whole(url)
        return status, body.replace(b'"CUT"', cut.encode("latin-1"))

    async def body() -> None:
        ledger = ledger_of(tmp_path)
        summary = await synced(ledger, get)
        assert summary.synced.counts == {"market_added": 3}
        titles = {f.symbol: f.market.title for f in query.select(ledger.view, query.Filter())}
        assert titles["A"] == "t"
        assert "\ufffd" in titles["B"]
        assert titles["C"] == "\\ud83d is a backslash here"

    asyncio.run(body())


def test_of_one_that_comes_twice_on_a_page_the_last_counts(tmp_path: Path) -> None:
    async def body() -> None:
        ledger = ledger_of(tmp_path)
        many = [said(f"M{n}") for n in range(700)]  # in two appends
        for counts in ({"market_added": 700}, {}):
            assert (await synced(ledger, listing(said("M0", title="old"), *many[1:], many[0]))).synced.counts == counts
        assert next(query.select(ledger.view, query.Filter())).market.title == "t"

    asyncio.run(body())


def test_the_largest_market_of_all_is_journalled_and_changed(server: NatsServer, tmp_path: Path) -> None:
    """Every text as long as it may be, of characters that JSON writes as six, old and new in one entry with the object."""
    texts = ("title", "yes_sub_title", "rules_primary", "rules_secondary")

    async def body() -> None:
        async with journal_of(server) as journal:
            ledger = ledger_of(tmp_path, journal)
            for character, kind in (("\x01", "market_added"), ("\x02", "market_updated")):
                one = said("KXLARGEST", **dict.fromkeys(texts, character * 16_384), functional_strike=character * 16_000)
                summary = await synced(ledger, listing(one), "largest")
                assert summary.synced.counts[kind] == 1
            (found,) = query.select(ledger.view, query.Filter(series="S", status="active"), 1)
            assert found.market.rules == "\x02" * 16_384

    asyncio.run(body())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TIMES = st.sampled_from(
    [
        "2026-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "1600-01-01T00:00:00Z",
        "2262-04-11T23:47:16.854775807Z",
        "",
        "x",
    ]
)
FIELDS = st.fixed_dictionaries(
    {"ticker": st.sampled_from(["A", "B", "C.1"]) | st.text(max_size=5)},
    optional=dict.fromkeys(
        (*WRONG, "settlement_value", "functional_strike", "price_level_structure", "result", "volume", "volume_fp", "tags"), VALUES | TIMES
    ),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(pages=st.lists(st.lists(FIELDS, max_size=4), min_size=1, max_size=3))
def test_whatever_is_listed_the_view_is_the_fold_and_the_next_look_is_quiet(tmp_path: Path, pages: list[list[dict[str, Any]]]) -> None:
    async def body() -> None:
        journal = MemoryJournal()
        ledger = ledger_of(tmp_path, journal, name="fuzz")
        ledger.view.clear()
        for markets in pages:
            await synced(ledger, listing(*markets))
            assert (await synced(ledger, listing(*markets))).synced.counts == {}
        assert ledger.view.digest() == Digester(await folded(journal)).digest()
        ledger.view.close()

    asyncio.run(body())


def test_a_clock_that_was_a_year_ahead_costs_one_full_list(tmp_path: Path) -> None:
    """What was closed by that clock is open again, and what changed since is found: nothing is asked as of next year."""

    async def body() -> None:
        clock, journal = SetClock(NOON_NS), MemoryJournal()
        ledger = ledger_of(tmp_path, journal, clock)
        markets = [market(n, close_ns=NOON_NS + 1_000 * HOUR_NS) for n in range(5)]
        await synchronise(ledger, Listing(markets), clock)
        clock.ns = NOON_NS + 8_760 * HOUR_NS
        ahead = await synchronise(ledger, Listing(markets), clock, full=False)
        assert ahead.synced.counts == {"market_status_changed": 5}
        clock.ns = NOON_NS + HOUR_NS
        venue = Listing([*markets, market(5, close_ns=0)])
        back = await synchronise(ledger, venue, clock, full=False)
        assert back.synced.full
        assert back.synced.counts == {"market_added": 1, "market_status_changed": 5}
        assert {f.market.status for f in query.select(ledger.view, query.Filter())} == {"active"}
        assert not (await synchronise(ledger, venue, clock, full=False)).synced.full
        assert ledger.view.digest() == Digester(await folded(journal)).digest()

    asyncio.run(body())


def test_a_page_is_journalled_while_the_next_is_asked_for(tmp_path: Path) -> None:
    journal = MemoryJournal()

    class Waiting(Listing):
        """Answers its second page only when the first one is journalled."""

        async def definitions(self, **asked: Any) -> AsyncIterator[DefinitionPage]:
            number = 0
            async for page in super().definitions(**asked):
                for _ in range(2_000 if number == 1 else 0):
                    if await journal.info(STREAM):
                        break
                    await asyncio.sleep(0.01)
                else:
                    assert number != 1, "nothing is journalled"
                number += 1
                yield page

    async def body() -> None:
        ledger, source = ledger_of(tmp_path, journal), Waiting([market(n) for n in range(30)], page=10)
        assert (await synchronise(ledger, source)).synced.markets == 30
        source.fail_after = 2
        with pytest.raises(VenueUnavailable):
            await synchronise(ledger, source)
        assert (await synchronise(ledger, Listing(source.markets, page=10))).resumed  # at the third: both before it were worked on
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(body())


def test_a_market_has_no_number_that_a_table_cannot_hold() -> None:
    """Every integer of a market is bounded where it is decoded: one entry beyond would end every view of them."""
    for field in msgspec.structs.fields(Market):
        for beyond in (2**63, -(2**63) - 1):
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert({"symbol": "A", field.name: beyond}, Market)
