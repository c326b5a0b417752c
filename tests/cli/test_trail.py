"""A trail reads the archive as far back as the journal begins, and queries over it are the plain filter over all entries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.codec import body_kind_name
from journal.entry import Change, Delta, Entry, Event, Gap, Record, Trade
from journal.errors import CorruptionError, HoleInStream
from journal.memory import MemoryJournal, MemoryStorage
from journal.segment import Limits
from journal.subjects import Stream
from ssmd.loading import rows_of
from ssmd.querying import END_NS, Wanted, bound, choose, matching
from ssmd.services.archiver import Archiver
from ssmd.trail import Trail
from tests.strategies import entries as any_entries

MARKET, IMPORT, CHANGES, DAY = (
    Stream("local", shard="0"), Stream("local", shard="import"), Stream("local", domain="secmaster"), Stream("local", domain="day"),
)  # fmt: skip
SMALL = Limits(entries=16, raw_bytes=1_000, block_rows=5, raw_frame_bytes=100)
MIDNIGHT_NS = int(datetime(2026, 8, 11, tzinfo=UTC).timestamp()) * 10**9
SYMBOLS = ("KX-A", "KX.B-1", "Ü/€", "")


def made(stream: Stream) -> list[Entry]:
    """Sixty entries around midnight: in order of time, but not in streams that several write."""
    out: list[Entry] = []
    for n in range(60):
        at_ns = MIDNIGHT_NS + ((n * 37 % 60) if stream in {IMPORT, DAY} else n) * 1_000 - 30_000
        symbol = SYMBOLS[n % 4]
        body: Any = (Delta((Change(n, 1, 0, 0),)), Trade(n, 2, 1, 0, "x"), Gap("lost"))[n % 3]
        if stream.domain:
            body = Event("events" if stream == DAY else "changes", b"{}", ("ann", "bob", "bobby")[n % 3], correlation=f"c{n % 2}")
            symbol = f"id-{n % 4}.{n // 4}" if stream == DAY else symbol
        feed = stream.domain or "kalshi"
        out.append(Entry(body, feed, symbol, bytes(16), n, at_ns, n, at_ns, 20260810 if at_ns < MIDNIGHT_NS else 20260811, raw=b"{}"))
    return out


@asynccontextmanager
async def trails(keep_from: int) -> AsyncIterator[tuple[Trail, dict[Stream, list[Record]]]]:
    """All of it archived but the last ten; the journal begins at `keep_from`, or is gone for 0."""
    journal, storage, all_of = MemoryJournal(), MemoryStorage(), {}
    for stream in (MARKET, IMPORT, CHANGES, DAY):
        entries = made(stream)
        all_of[stream] = [Record(n, entry) for n, entry in enumerate(entries, 1)]
        await journal.ensure(stream, "kalshi")
        await journal.append(stream, entries[:50])
    await Archiver(journal, storage, "local", WallClock(), limits=SMALL).catch_up()
    for stream, records in all_of.items():
        if keep_from:
            await journal.append(stream, [r.entry for r in records[50:]])
            await journal.purge(stream, keep_from)
        else:
            all_of[stream] = records[:50]
    yield Trail("local", journal if keep_from else None, ArchiveReader(storage, "local")), all_of


def plain(wanted: Wanted, record: Record) -> bool:
    """Said once more, without looking at how it is done."""
    e, body = record.entry, record.entry.body
    kind = body_kind_name(body)
    said = body if isinstance(body, Event) else Event("")
    named = not wanted.symbols or e.symbol in wanted.symbols or (kind == "events" and e.symbol.split(".")[0] in wanted.symbols)
    people = not wanted.who or (isinstance(body, Event) and any(w in {"*", said.who} for w in wanted.who))
    return (
        wanted.since_ns <= e.effective_ns <= wanted.until_ns
        and named and people
        and (not wanted.dates or e.day in wanted.dates)
        and (not wanted.types or kind in wanted.types)
        and (not wanted.correlations or said.correlation in wanted.correlations)
    )  # fmt: skip


def some(*values: Any) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(values), max_size=2)


times = st.integers(MIDNIGHT_NS - 31_000, MIDNIGHT_NS + 31_000)
wanted = st.builds(
    Wanted,
    since_ns=st.just(0) | times,
    until_ns=st.just(END_NS) | times,
    dates=some(20260810, 20260811, 20260812),
    symbols=some(*SYMBOLS, "id-1", "id-2.7"),
    types=some("trade", "gap", "events", "changes"),
    who=st.sampled_from([(), (), ("bob",), ("*",), ("ann", "bobby")]),
    correlations=some("c1", "c2"),
)


@settings(max_examples=40, deadline=None)
@given(wanted, st.sampled_from([0, 1, 20, 51]))
def test_a_query_is_the_plain_filter(asked: Wanted, keep_from: int) -> None:
    async def run() -> None:
        async with trails(keep_from) as (trail, all_of):
            found: dict[Stream, list[tuple[int, str]]] = {}
            chosen = await choose(trail, asked)
            async for stream, records in matching(trail, chosen, asked):
                found.setdefault(stream, []).extend((r.sequence, r.entry.id) for r in records)
                bounds = await bound(trail, stream, asked)
                assert all(bounds.first <= r.sequence <= bounds.last for r in records)
            expected = {s: [(r.sequence, r.entry.id) for r in records if plain(asked, r)] for s, records in all_of.items()}
            assert found == {s: ids for s, ids in expected.items() if ids}
            for stream in chosen:  # as columns, which the archive's are from the start
                runs = trail.runs(stream, await bound(trail, stream, asked), symbols=asked.symbols or None)
                batches = [batch async for run in runs if (batch := rows_of(stream, run, asked))]
                assert [n for b in batches for n in b["sequence"].to_pylist()] == [n for n, _ in expected[stream]]

    asyncio.run(run())


def test_an_exact_count_is_what_is_found() -> None:
    async def run() -> None:
        async with trails(20) as (trail, _):
            for asked in (Wanted(), Wanted(since_ns=MIDNIGHT_NS - 5_000), Wanted(since_ns=MIDNIGHT_NS, until_ns=MIDNIGHT_NS + 7_500)):
                for stream in (MARKET, CHANGES):
                    bounds = await bound(trail, stream, asked)
                    found = [r async for _, records in matching(trail, [stream], asked) for r in records]
                    assert asked.counts(stream)
                    assert len(found) == bounds.last - bounds.first + 1
            assert not Wanted(since_ns=1).counts(DAY)
            assert not Wanted(symbols=frozenset({"KX-A"})).counts(MARKET)

    asyncio.run(run())


def test_a_journal_that_was_cut_or_lacks_a_part_is_no_answer() -> None:
    async def run() -> None:
        async with trails(1) as (trail, _):
            emptier = MemoryJournal()
            await emptier.ensure(MARKET, "kalshi")
            await emptier.append(MARKET, made(MARKET)[:49])
            with pytest.raises(CorruptionError, match="ends at 49"):
                await Trail("local", emptier, trail._archive).bounds(MARKET)
            later = MemoryJournal()
            await later.ensure(MARKET, "kalshi")
            await later.append(MARKET, made(MARKET))
            await later.purge(MARKET, 55)
            with pytest.raises(HoleInStream, match="archived to 50 and begins at 55"):
                await Trail("local", later, trail._archive).bounds(MARKET)
            assert await Trail("local", later, None).bounds(MARKET) == (55, 55, 0, 60)

    asyncio.run(run())


@settings(max_examples=80, deadline=None)
@given(st.lists(any_entries, max_size=12))
def test_columns_say_what_the_entries_say(made_up: list[Entry]) -> None:
    from journal.block import Block
    from ssmd import columns

    records = [Record(n, entry) for n, entry in enumerate(made_up, 1)]
    if not records:
        return
    batch = columns.entries(MARKET, Block.of(records))
    times_of = {name: batch.column(name).cast("int64").to_pylist() for name in ("effective_time", "recv_time", "venue_time")}
    rows = batch.drop_columns(list(times_of)).to_pylist()
    for index, (record, row) in enumerate(zip(records, rows, strict=True)):
        e, body = record.entry, record.entry.body
        same = ("recv_ns", "effective_ns", "venue_ns", "feed", "symbol", "frame", "part", "parts", "subscription", "venue_seq")
        for name in (*same, "price_exponent", "size_exponent"):
            assert row[name] == getattr(e, name), name
        assert (row["position"], row["type"], row["kind"]) == (f"local_md_0:{record.sequence}", body_kind_name(body), e.kind.name)
        assert row["epoch"] == e.epoch.hex()
        assert [times_of[n][index] for n in times_of] == [e.effective_ns or None, e.recv_ns or None, e.venue_ns or None]
        for name in ("price", "size", "trade_id"):
            assert row[name] == (getattr(body, name) if isinstance(body, Trade) else None)
        for name in ("bid", "volume", "last"):
            assert row[name] == getattr(body, name, None)
        for name in ("who", "why", "causation", "correlation"):
            assert row[name] == (getattr(body, name) if isinstance(body, Event) else None)
        changes = getattr(body, "changes", None) or getattr(body, "levels", None)
        if e.kind.name in {"book", "delta"}:
            assert [(c["price"], c["size"]) for c in row["changes"]] == [(c.price, c.size) for c in changes or ()]
            for said, change in zip(row["changes"], changes or (), strict=True):
                assert said["side"] == {0: "bid", 1: "ask"}.get(change.side)
                assert said["op"] == {0: "add", 1: "set"}.get(change.op)
        else:
            assert row["changes"] is None
        if isinstance(body, Event):
            assert row["data"] == body.data.decode(errors="replace")
