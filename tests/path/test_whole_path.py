"""The whole path on memory backends: a simulated venue's frames, connector, archiver, projector, replay."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.markets import Selection
from exchanges.session import Session, SessionConfig
from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Gap
from journal.memory import MemoryJournal, MemoryStorage
from journal.subjects import Stream
from projections.book import BookProjection
from projections.registry import create
from replay.engine import replay
from replay.source import ArchiveSource, JournalSource
from ssmd.services.archiver import Archiver
from ssmd.services.connector import Connector
from ssmd.services.projector import Projector
from tests.choices import choice_of

FRAMES = 3_000


def test_everything_on_memory_alone(tmp_path: Path) -> None:
    asyncio.run(_whole_path(tmp_path))


async def _whole_path(directory: Path) -> None:
    clock, rng = WallClock(), random.Random(1)
    journal, storage = MemoryJournal(), MemoryStorage()
    stream = Stream("local", shard="0")
    feed = SyntheticFeed(7, markets=12, rate=2_000.0, frames=FRAMES)
    async with SimulatorServer(feed, clock, speed=None, hold=True) as sim:
        connector = Connector(
            journal, stream, clock, rng, feed="kalshi", days=DayRule(), session=Session(SessionConfig(sim.ws_url), clock, rng),
            adapters=lambda symbols, since_ns: KalshiAdapter(symbols, since_ns=since_ns),
            choice=choice_of(journal, directory, sim.rest_url, clock, Selection(everything=True)),
        )  # fmt: skip
        projector = Projector(journal, storage, stream, clock)
        archiver = Archiver(journal, storage, "local", clock)
        capture, fold, archive = (asyncio.create_task(part.run()) for part in (connector, projector, archiver))
        await sim.finished()
        while connector.status.last_frame_ns == 0 or connector.status.pending_bytes or connector.status.unread_bytes:
            await clock.sleep(0.01)
        await clock.sleep(0.05)
        capture.cancel()
        await asyncio.gather(capture, return_exceptions=True)
        truth = sim.oracle.books()
        while await projector.lag():
            await clock.sleep(0.01)
        projector.stop()
        await fold
        archiver.stop()
        await archive

    # The live books are the venue's own.
    books = projector.projection("book")
    assert isinstance(books, BookProjection)
    for symbol, (yes, no) in truth.items():
        book = books.book(symbol)
        bids = dict(book.bids)
        asks = {1_000_000 - price: size for price, size in book.asks}
        assert (bids, asks) == (yes, no), symbol

    # The archive, folded from nothing, comes to the same digests; so does the journal.
    archived = ArchiveSource(ArchiveReader(storage, "local"))
    days = await archived.days(stream)
    for source in (archived, JournalSource(journal)):
        for day in days:
            result = await replay(source, create(), day=day, stream=stream, clock=clock, storage=storage, verify=True)
            assert result.verify is not None
            assert result.verify.compared >= 5
            assert result.verify.mismatched == 0, result.verify.differences
            assert result.entries > FRAMES
    gaps = [r.entry async for records in journal.read(stream) for r in records if isinstance(r.entry.body, Gap)]
    assert gaps == []
