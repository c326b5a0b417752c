"""All recordings played by the simulator at full speed through connector, journal, archiver and replay, each a process."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from exchanges.simulator.oracle import read_log
from journal.archive import ArchiveReader
from journal.block import Block
from journal.clock import WallClock
from journal.storage import open_storage
from journal.subjects import Stream
from projections.book import BookProjection, BookState
from projections.registry import create
from replay.engine import replay
from replay.source import ArchiveSource
from ssmd.render import decimal_text
from ssmd.services.archiver import Archiver
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from ssmd.software import software
from ssmd.wiring import open_journal
from tests import gold
from tests.chaos.rig import Rig, rig
from tests.recordings import gold_files

pytestmark = [pytest.mark.data, pytest.mark.timeout(1_800)]
STREAM = Stream("local", shard="0")
DOLLAR = Decimal(1)
MOMENTS = 60


def test_every_recording_through_the_whole_path(tmp_path: Path) -> None:
    files = gold_files()
    tickers = [word for name in sorted({path.parent.name for path in files}) for word in ("--ticker", name)]
    with rig(tmp_path, simulate=["--speed", "max", "--recording", *map(str, files)], connect=tickers) as capture:
        capture.start()
        capture.wait(600)
        capture.stop()
        asyncio.run(_checked(capture))


async def _checked(capture: Rig) -> None:
    clock, storage = WallClock(), open_storage(str(capture.data / "objects"))
    async with open_journal(Settings(data_dir=capture.data), clock, read_only=True) as journal:
        await Projector(journal, storage, STREAM, clock).catch_up()
        await Archiver(journal, storage, "local", clock, software=software()).catch_up()
    reader = ArchiveReader(storage, "local")
    source = ArchiveSource(reader)
    for day in await source.days(STREAM):
        result = await replay(source, create(), day=day, stream=STREAM, clock=clock, storage=storage, verify=True)
        assert result.verify is not None
        assert result.verify.mismatched == 0, result.verify.differences
        assert result.verify.compared >= 5 * 20  # a digest of five projections every 65,536 of 1.4 million entries
    conns: Counter[int] = Counter()
    await _books_equal(reader, _sent(capture, conns))
    # A connector that is cut off, on a machine that is too busy, loses frames: that must not look like something else.
    assert set(conns) == {1}, f"frames by connection, 0 for none: {conns}; {capture.tail('connector')}"
    assert conns[1] >= 1_408_687


def _sent(capture: Rig, conns: Counter[int]) -> Iterator[bytes]:
    for frame in read_log(capture.log):
        conns[frame.conn] += 1
        if frame.conn:
            yield frame.data


async def _books_equal(reader: ArchiveReader, sent: Iterator[bytes]) -> None:
    """The archive's raw frames are those that were sent; books after random entries are those of the decimal fold of them."""
    rng, theirs, book = random.Random(7), gold.Books(), BookProjection()
    blocks: list[Block] = [block async for block in reader.blocks(STREAM)]
    last = blocks[-1].last
    moments = sorted(rng.sample(range(1_000, last), MOMENTS))
    rows = iter(_parts(blocks, moments))
    checked = 0
    async for records in reader.read(STREAM):
        for sequence, entry in records:
            if entry.raw:
                assert entry.raw == next(sent), sequence
                event = json.loads(entry.raw)
                if event["type"] in {"orderbook_snapshot", "orderbook_delta", "trade"}:
                    theirs.apply(event)
                    _not_crossed(theirs, event)
            if checked < len(moments) and sequence == moments[checked]:
                for part in next(rows):
                    book.apply(part)
                checked += 1
                for symbol in book.keys():  # noqa: SIM118  (a projection's method)
                    view = book.book(symbol)
                    if view.state is BookState.VALID:
                        yes = [[decimal_text(p, -6, 4), decimal_text(s, -2, 2)] for p, s in view.bids]
                        no = [[decimal_text(1_000_000 - p, -6, 4), decimal_text(s, -2, 2)] for p, s in view.asks]
                        assert {"yes": yes, "no": no} == theirs.shown(symbol), (symbol, sequence)
    assert next(sent, None) is None
    assert checked == MOMENTS


def _parts(blocks: list[Block], moments: list[int]) -> list[list[Block]]:
    """The blocks cut after each moment."""
    parts: list[list[Block]] = []
    start = 0
    for moment in moments:
        part = []
        for block in blocks:
            inside = np.flatnonzero((block.rows["sequence"] > start) & (block.rows["sequence"] <= moment))
            if len(inside):
                part.append(block.slice(int(inside[0]), int(inside[-1]) + 1))
        parts.append(part)
        start = moment
    return parts


def _not_crossed(books: gold.Books, event: dict[str, dict[str, str]]) -> None:
    message = event["msg"]
    if "delta_fp" in message and not message["delta_fp"].startswith("-"):
        ladders = books.ladders[message["market_ticker"]]
        other = ladders["no" if message["side"] == "yes" else "yes"]
        assert not other or Decimal(message["price_dollars"]) + max(other) < DOLLAR, message
