"""All recordings through the command line: imported, counted, replayed, and their books held against the decimal fold."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journal.archive import ArchiveReader
from journal.day import DayRule
from journal.entry import Kind
from journal.storage import open_storage
from journal.subjects import Stream
from replay.source import ArchiveSource
from ssmd.books import document, find_book
from tests import gold
from tests.recordings import directory, gold_files

pytestmark = [pytest.mark.data, pytest.mark.timeout(1_200)]
ROOT = Path(__file__).resolve().parents[2]
STREAM = Stream("local", shard="import")
MOMENTS = 40
SEED = 20260810


def ssmd(data: Path, *args: str, status: int = 0) -> Any:
    argv = [sys.executable, "-m", "ssmd.cli", *args, "-o", "json", "--data-dir", str(data)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    data = tmp_path_factory.mktemp("gold")
    return data, ssmd(data, "data", "import", "--feed", "kalshi", str(directory() / "kalshi" / "gold15m" / "events"))


@pytest.fixture(scope="module")
def manifest() -> dict[str, int]:
    with (directory() / "kalshi" / "gold15m" / "MANIFEST.csv").open() as file:
        return {row["file"].removeprefix("events/"): int(row["events"]) for row in csv.DictReader(file)}


def test_counts_equal_the_manifest(imported: tuple[Path, dict[str, Any]], manifest: dict[str, int]) -> None:
    data, said = imported
    assert said["frames"] == sum(manifest.values()) == 1_408_687
    assert (said["unparsed"], said["duplicates"], said["symbols"]) == (0, 0, 31)
    assert said["days"] == ["2026-08-05", "2026-08-06", "2026-08-07", "2026-08-10", "2026-08-11"]

    async def count() -> dict[str, int]:
        frames: dict[str, int] = {}
        reader = ArchiveReader(open_storage(str(data / "objects")), "local")
        async for block in reader.blocks(STREAM):
            rows = block.rows[block.rows["kind"] <= Kind.ticker]
            for epoch, n in zip(*np.unique(rows["epoch"], return_counts=True), strict=True):
                name = block.epochs[int(epoch)].hex()
                frames[name] = frames.get(name, 0) + int(n)
        return frames

    ours = asyncio.run(count())
    for path in gold_files():
        epoch = hashlib.sha256(gzip.decompress(path.read_bytes())).digest()[:16].hex()
        assert ours[epoch] == manifest[f"{path.parent.name}/{path.name}"], path


def test_a_second_import_changes_nothing(imported: tuple[Path, dict[str, Any]]) -> None:
    data, first = imported
    files = [str(path) for path in gold_files()[:3]]
    again = ssmd(data, "data", "import", "--feed", "kalshi", *files)
    assert again["entries"] == 0
    assert again["frames"] == again["duplicates"] > 100_000
    assert set(again["days"]) <= set(first["days"])


def test_every_day_replays_to_its_digests(imported: tuple[Path, dict[str, Any]]) -> None:
    data, said = imported
    entries = 0
    for day in said["days"]:
        # The journal hands out one entry at a time: the smallest day is enough of it.
        for source in ("archive", "journal") if day == "2026-08-05" else ("archive",):
            result = ssmd(data, "replay", "--date", day, "--shard", "import", "--from", source, "--verify")
            assert result["verify"]["mismatched"] == 0
            assert result["verify"]["compared"] >= 5
            if source == "archive":
                entries += result["entries"]
    assert entries == said["entries"]
    some = ssmd(data, "replay", "--date", "2026-08-10", "--shard", "import", "--symbol", gold_files()[9].parent.name, "--verify")
    assert (some["symbols"], some["verify"]["mismatched"]) == (1, 0)


def test_books_of_random_moments_and_at_the_end_equal_the_decimal_fold(imported: tuple[Path, dict[str, Any]]) -> None:
    data, _ = imported
    rng = random.Random(SEED)
    source = ArchiveSource(ArchiveReader(open_storage(str(data / "objects")), "local"))
    storage = open_storage(str(data / "objects"))
    theirs = gold.Books()
    checked = 0

    async def check(ticker: str, at_ms: int) -> None:
        at_ns = at_ms * 1_000_000
        _, view = await find_book(source, storage, [STREAM], ticker, as_of_ns=at_ns, days=DayRule())
        ours = document(STREAM, view, "kalshi", at_ns)
        assert ours["state"] == "VALID"
        expected = theirs.shown(ticker)
        assert {side: ours[side] for side in ("yes", "no")} == expected, (ticker, at_ms)

    total = 1_408_687
    moments = set(rng.sample(range(total), MOMENTS))
    before: tuple[int, dict[str, Any]] | None = None
    due = False
    for number, (recv_ms, event) in enumerate(gold.merged(gold_files())):
        # A moment is the end of a millisecond: what shares its receive time is in the book.
        if due and before and recv_ms != before[0]:
            asyncio.run(check(before[1]["msg"]["market_ticker"], before[0]))
            checked += 1
            due = False
        theirs.apply(event)
        due = due or number in moments
        before = (recv_ms, event)
    assert checked >= MOMENTS - 2
    for ticker in sorted(theirs.ladders):
        end_ms = 1_786_500_000_000
        asyncio.run(check(ticker, end_ms))


def test_the_market_that_crosses_midnight_opens_the_day_with_its_book(imported: tuple[Path, dict[str, Any]]) -> None:
    data, _ = imported
    ticker = "KXGOLD15M-26AUG102000-00"
    book = ssmd(data, "book", ticker, "--as-of", "2026-08-11T00:00:00.050Z")
    assert book["state"] == "VALID"
    assert book["yes"]
    theirs = gold.Books()
    for recv_ms, event in gold.merged([p for p in gold_files() if p.parent.name == ticker]):
        if recv_ms > 1_786_406_400_050:
            break
        theirs.apply(event)
    assert {side: book[side] for side in ("yes", "no")} == theirs.shown(ticker)
