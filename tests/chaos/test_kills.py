"""SIGKILL at random instants of a capture. A failure prints its seed; SSMD_SEED runs it again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exchanges.simulator.oracle import read_log
from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.codec import encode
from journal.entry import Book, Delta, Gap, Record, Trade
from journal.memory import MemoryStorage
from journal.protocols import Journal
from journal.storage import open_storage
from journal.subjects import Stream
from projections.book import BookProjection, BookState
from projections.registry import create
from replay.engine import replay
from replay.source import ArchiveSource, JournalSource
from ssmd.render import decimal_text
from ssmd.services.archiver import Archiver
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from ssmd.software import software
from ssmd.wiring import open_journal
from tests.chaos.rig import Rig, rig
from tests.recordings import gold_files

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
STREAM = Stream("local", shard="0")
KILLS = 20
# Synthetic: 2,000 frames a second, which two cores have room for, for as long as the kills last. Recordings: five windows in a row,
# fifteen minutes in fifteen seconds.
SECONDS = 70
SYNTHETIC = ["--rate", "2000", "--markets", "30", "--frames", str(2_000 * (SECONDS + 5)), "--seed"]


def seed() -> int:
    return int(os.environ.get("SSMD_SEED") or random.SystemRandom().randrange(1 << 32))


def recorded() -> tuple[list[str], list[str]]:
    files = gold_files()[8:13]
    tickers = [word for path in files for word in ("--ticker", path.parent.name)]
    return ["--recording", *map(str, files), "--speed", "60"], tickers


@pytest.fixture(params=["synthetic", pytest.param("recorded", marks=pytest.mark.data)])
def venue(request: pytest.FixtureRequest) -> tuple[list[str], list[str]]:
    return recorded() if request.param == "recorded" else ([*SYNTHETIC, "1"], [])


def test_kills_of_archiver_projector_guard_and_server_change_nothing(tmp_path: Path, venue: tuple[list[str], list[str]]) -> None:
    chosen = seed()
    print(f"seed {chosen}")
    with rig(tmp_path, simulate=venue[0], connect=venue[1]) as capture:
        capture.start()
        capture.torment(("archiver", "projector", "guard", "server"), KILLS, SECONDS, chosen)
        capture.wait()
        capture.stop()
        asyncio.run(_unchanged(capture))
        assert len(capture.kills) == 4 * KILLS
    _nothing_left(capture)


def test_a_killed_connector_leaves_a_gap_and_nothing_else(tmp_path: Path) -> None:
    chosen = seed()
    print(f"seed {chosen}")
    simulate = ["--rate", "2000", "--markets", "30", "--frames", str(2_000 * 35), "--seed", "2"]
    with rig(tmp_path, simulate=simulate, connect=[]) as capture:
        capture.start()
        capture.torment(("connector",), 6, 28, chosen)
        capture.wait()
        truth = capture.books()
        capture.stop()
        asyncio.run(_only_gaps_are_missing(capture, truth))
    _nothing_left(capture)


def _nothing_left(capture: Rig) -> None:
    end = time.monotonic() + 10  # the guard's grace is two seconds
    while capture.orphans() and time.monotonic() < end:
        time.sleep(0.1)
    assert capture.orphans() == []


async def _records(journal: Journal) -> list[Record]:
    return [record async for records in journal.read(STREAM) for record in records]


def _frames(capture: Rig) -> dict[int, list[bytes]]:
    """What the simulator sent, by connection, in order."""
    sent: dict[int, list[bytes]] = {}
    for frame in read_log(capture.log):
        if frame.conn and frame.fate == "send":
            sent.setdefault(frame.conn, []).append(frame.data)
    return sent


def _received(records: list[Record]) -> dict[bytes, list[bytes]]:
    """Frames in the journal, by epoch, in stream order; each once."""
    got: dict[bytes, list[bytes]] = {}
    ids = set()
    for _, entry in records:
        assert entry.id not in ids, f"{entry.id} is there twice"
        ids.add(entry.id)
        if entry.raw:
            got.setdefault(entry.epoch, []).append(entry.raw)
    return got


async def _verified(capture: Rig, journal: Journal) -> None:
    """The live digests are those of a fold that nothing disturbed, from the journal and from the archive."""
    clock, storage = WallClock(), open_storage(str(capture.data / "objects"))
    await Projector(journal, storage, STREAM, clock).catch_up()
    await Archiver(journal, storage, "local", clock, software=software()).catch_up()
    for source in (JournalSource(journal), ArchiveSource(ArchiveReader(storage, "local"))):
        days = await source.days(STREAM)
        entries = 0
        for day in days:
            result = await replay(source, create(), day=day, stream=STREAM, clock=clock, storage=storage, verify=True)
            assert result.verify is not None
            assert result.verify.mismatched == 0, result.verify.differences
            assert result.verify.compared >= 5
            entries += result.entries
        info = await journal.info(STREAM)
        assert info is not None
        assert entries == info.last
    # The closed objects are those of an archiver that was never disturbed.
    afresh = MemoryStorage()
    await Archiver(journal, afresh, "local", clock, software=software()).catch_up()
    segments = [o.key for o in afresh.list("local/kalshi/") if "/norm/" in o.key or "/raw/" in o.key]
    assert segments
    for key in segments:
        assert storage.get(key) == afresh.get(key), key


async def _unchanged(capture: Rig) -> None:
    async with open_journal(Settings(data_dir=capture.data), WallClock(), read_only=True) as journal:
        records = await _records(journal)
        sent, got = _frames(capture), _received(records)
        assert len(sent) == 1, "the connector was never disconnected"
        assert [frames for frames in got.values() if frames] == list(sent.values()), "every frame once, in order, untouched"
        await _verified(capture, journal)


async def _only_gaps_are_missing(capture: Rig, truth: dict[str, Any]) -> None:
    async with open_journal(Settings(data_dir=capture.data), WallClock(), read_only=True) as journal:
        records = await _records(journal)
        got = [frames for frames in _received(records).values() if frames]
        sent = list(_frames(capture).values())
        assert _prefixes(got, sent) == len(got), "what is stored of a connection is what was sent, up to the kill"
        gaps = [e.body for _, e in records if isinstance(e.body, Gap)]
        assert len({gap.to_ns for gap in gaps}) >= 6
        _missing_trades_are_in_gaps(capture, records, gaps)
        book = BookProjection()
        # Up to the last change: the connector's stop makes every book STALE.
        last = max(sequence for sequence, e in records if isinstance(e.body, Delta | Book))
        async for block in JournalSource(journal).blocks(STREAM, day=records[-1].entry.day, end=last):
            book.apply(block)
        valid = 0
        for symbol, sides in truth.items():
            view = book.book(symbol)
            if view.state is BookState.VALID:
                valid += 1
                assert _shown(view.bids) == sides["yes"][::-1], symbol
                assert _shown([(1_000_000 - p, s) for p, s in view.asks]) == sides["no"][::-1], symbol
        assert valid >= 20
        await _verified(capture, journal)


def _shown(levels: list[tuple[int, int]]) -> list[list[str]]:
    return [[decimal_text(p, -6, 4), decimal_text(s, -2, 2)] for p, s in levels]


def _prefixes(got: list[list[bytes]], sent: list[list[bytes]]) -> int:
    """How many of the stored connections are, in order, each a prefix of a connection the simulator served."""
    waiting: Iterator[list[bytes]] = iter(sent)
    return sum(1 for frames in got if any(served[: len(frames)] == frames for served in waiting))


def _missing_trades_are_in_gaps(capture: Rig, records: list[Record], gaps: list[Gap]) -> None:
    stored = {e.body.trade_id: e.recv_ns for _, e in records if isinstance(e.body, Trade)}
    spans = [(g.from_ns, g.to_ns) for g in gaps if g.channel in {"", "trade"}]
    # Sent but not read at the kill: older than the gap by what was in the socket and not yet durable.
    in_flight_ns = 500_000_000
    missing = 0
    for frame in read_log(capture.log):
        if b'"type":"trade"' not in frame.data:
            continue
        trade = json.loads(frame.data)["msg"]["trade_id"]
        if trade not in stored:
            missing += 1
            assert any(a - in_flight_ns <= frame.when_ns <= b for a, b in spans), (
                f"trade {trade} at {frame.when_ns} is missing outside all gaps"
            )
    assert missing > 0
    for trade, recv_ns in stored.items():
        assert not any(a < recv_ns < b for a, b in spans), f"trade {trade} is stored inside a gap"


def test_encoding_is_what_the_archive_keeps(tmp_path: Path) -> None:
    """After a kill of everything at once, the journal and the archive hold identical entries."""
    chosen = seed()
    print(f"seed {chosen}")
    with rig(tmp_path, simulate=["--rate", "3000", "--markets", "20", "--frames", "45000", "--seed", "3"], connect=[]) as capture:
        capture.start()
        time.sleep(8)
        for name in ("connector", "projector", "archiver", "guard", "server"):
            capture.kill(name)
        time.sleep(1)
        capture.keep()
        capture.wait()
        capture.stop()
        asyncio.run(_identical(capture))
    _nothing_left(capture)


async def _identical(capture: Rig) -> None:
    async with open_journal(Settings(data_dir=capture.data), WallClock(), read_only=True) as journal:
        await _verified(capture, journal)
        storage = open_storage(str(capture.data / "objects"))
        theirs = [record async for batch in ArchiveReader(storage, "local").read(STREAM) for record in batch]
        ours = await _records(journal)
        assert [(s, encode(e)) for s, e in theirs] == [(s, encode(e)) for s, e in ours]
