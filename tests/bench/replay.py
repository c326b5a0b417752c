"""Replay from the archive into books, beside the same fold over gzip, JSON and dicts. The recordings, else a synthetic tape."""

from __future__ import annotations

import asyncio
import gzip
import heapq
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from exchanges.kalshi.adapter import KalshiAdapter
from journal.archive import ArchiveReader
from journal.clock import WallClock
from journal.day import DayRule
from journal.entry import Control, Record
from journal.protocols import StreamInfo
from journal.storage import LocalStorage
from journal.subjects import Stream
from journal.writer import EpochWriter, Stamper
from projections.book import BookProjection
from projections.registry import create
from replay.engine import ReplayResult, replay
from replay.source import ArchiveSource
from ssmd.services.archiver import Archiver
from tests import recordings

_STREAM = Stream("bench", shard="import")
_RUNS = 5
_Ladders = dict[str, dict[str, dict[str, int]]]


def run(out: Callable[[str], None]) -> None:
    """Build the archive, then take turns; medians of five."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            files = recordings.gold_files()
        except FileNotFoundError:
            files = _synthetic(Path(scratch) / "tape", random.Random(7))
            out("no recordings: a synthetic tape")
        storage = LocalStorage(Path(scratch) / "archive")
        tape = _Tape(files)
        asyncio.run(Archiver(tape, storage, _STREAM.env, WallClock()).catch_up())
        out(f"{tape.frames:,} frames of {len(files)} files; of the archive every hash is checked, and a thread reads one segment ahead")
        books = BookProjection()
        asyncio.run(_replay(storage, [books]))
        assert _shown(books) == _dicts(files, json.loads)
        ours: list[float] = []
        five: list[float] = []
        plain: list[float] = []
        typed: list[float] = []
        for _ in range(_RUNS):
            ours.append(_timed(lambda: asyncio.run(_replay(storage, [BookProjection()]))))
            five.append(_timed(lambda: asyncio.run(_replay(storage, create()))))
            plain.append(_timed(lambda: _dicts(files, json.loads)))
            typed.append(_timed(lambda: _dicts(files, msgspec.json.Decoder().decode)))
        base = statistics.median(plain)
        for name, times in (
            ("replay, books", ours),
            ("replay, all five projections", five),
            ("gzip + json + dict, books", plain),
            ("gzip + msgspec + dict, books", typed),
        ):
            seconds = statistics.median(times)
            out(f"{name:32} {seconds:7.2f} s  {tape.frames / seconds / 1e6:6.2f} M frames/s  x {base / seconds:.1f}")


async def _replay(storage: LocalStorage, projections: Sequence[Any]) -> ReplayResult:
    source = ArchiveSource(ArchiveReader(storage, _STREAM.env))
    for day in await source.days(_STREAM):
        result = await replay(source, projections, day=day, stream=_STREAM, clock=WallClock())
    return result


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _dicts(files: Sequence[Path], loads: Callable[[bytes], Any]) -> _Ladders:
    """The straightforward fold: prices as the venue's text, counts as integer hundredths."""
    books: _Ladders = {}
    for path in files:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                event = loads(line)["event"]
                msg = event["msg"]
                if event["type"] == "orderbook_delta":
                    ladder = books[msg["market_ticker"]][msg["side"]]
                    price = msg["price_dollars"]
                    left = ladder.get(price, 0) + int(msg["delta_fp"].replace(".", ""))
                    if left:
                        ladder[price] = left
                    else:
                        del ladder[price]
                elif event["type"] == "orderbook_snapshot":
                    books[msg["market_ticker"]] = {
                        side: {price: int(count.replace(".", "")) for price, count in msg.get(f"{side}_dollars_fp", ())}
                        for side in ("yes", "no")
                    }
    return books


def _shown(books: BookProjection) -> _Ladders:
    """Our final books in the baseline's form: the figures compare the same work."""
    views = [books.book(symbol) for symbol in books.keys()]  # noqa: SIM118  (a protocol's method, not a dict)
    return {
        v.symbol: {
            "yes": {f"{price / 1e6:.4f}": size for price, size in v.bids},
            "no": {f"{1 - price / 1e6:.4f}": size for price, size in v.asks},
        }
        for v in views
    }


class _Tape:
    """A journal to be archived once: the files by receive time, read as they are asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.frames = 0

    async def streams(self, env: str) -> list[Stream]:
        return [_STREAM] if env == _STREAM.env else []

    async def info(self, stream: Stream) -> StreamInfo | None:
        return StreamInfo(stream, 1, 0, 0)

    async def read(
        self, stream: Stream, *, start: int = 1, end: int | None = None, subjects: Sequence[str] = (), follow: bool = False
    ) -> AsyncIterator[list[Record]]:
        stamper, sequence, run = Stamper(DayRule()), 0, []
        adapters = [KalshiAdapter(filtered=True) for _ in self._files]
        writers = [EpochWriter("kalshi", bytes([i]) * 16, stamper) for i in range(len(self._files))]
        followed: dict[str, int] = {}
        for recv_ms, index, _, frame in heapq.merge(*(_lines(i, path) for i, path in enumerate(self._files))):
            now_ns, writer = recv_ms * 1_000_000, writers[index]
            entries = []
            if writer.frame == 0:
                opened = Control("opened", detail='{"filtered":true}')
                entries.append(writer.entry(opened, recv_ns=now_ns, symbol=f"epoch-{writer.epoch.hex()}"))
            for item in adapters[index].frame(frame, now_ns).items:
                if item.subscription == 1 and followed.get(item.symbol) != index:
                    followed[item.symbol] = index  # a market cut at midnight goes on in its second file
                    entries.append(writer.entry(Control("switched"), recv_ns=now_ns, symbol=item.symbol, subscription=1))
                entries.append(
                    writer.entry(
                        item.body, recv_ns=now_ns, symbol=item.symbol, venue_ns=item.venue_ns, venue_seq=item.venue_seq,
                        subscription=item.subscription, price_exponent=item.price_exponent, size_exponent=item.size_exponent,
                    )
                )  # fmt: skip
            self.frames += 1
            for entry in entries:
                sequence += 1
                run.append(Record(sequence, entry))
            if len(run) >= 512:
                yield run
                run = []
        if run:
            yield run

    async def seek(self, stream: Stream, effective_ns: int) -> int:
        raise NotImplementedError

    async def last(self, stream: Stream, subject: str) -> Record | None:
        raise NotImplementedError

    async def close(self) -> None:
        return None


def _lines(index: int, path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(receive time in ms, file, line, frame), the frame cut out of its line untouched."""
    with gzip.open(path, "rb") as lines:
        for number, line in enumerate(lines):
            at = line.index(b'"event":')
            yield int(line[line.index(b":") + 1 : line.index(b",")]), index, number, line[at + 8 :].rstrip()[:-1]


def _synthetic(folder: Path, rng: random.Random) -> list[Path]:
    """Four markets of 50,000 frames in the recordings' format."""
    folder.mkdir(parents=True)
    files = []
    for market in range(4):
        ticker, now_ms = f"SYNTH-{market}", 1_786_320_000_000 + market
        held: dict[tuple[str, str], int] = {}
        path = folder / f"{ticker}.ndjson.gz"
        with gzip.open(path, "wt") as lines:
            for seq in range(1, 50_001):
                now_ms += rng.randrange(20)
                msg: dict[str, Any] = {"market_ticker": ticker, "market_id": ""}
                if seq > 1:
                    side = rng.choice(["yes", "no"])
                    price = f"{rng.randint(1, 48) / 100:.4f}"
                    count = held.get((side, price), 0)
                    change = -count if count and rng.random() < 0.5 else rng.randint(1, 50_000)
                    held[side, price] = count + change
                    msg |= {"price_dollars": price, "delta_fp": f"{change / 100:.2f}", "side": side, "ts_ms": now_ms}
                kind = "orderbook_delta" if seq > 1 else "orderbook_snapshot"
                event = {"type": kind, "sid": 1, "seq": seq, "msg": msg}
                lines.write(json.dumps({"recv_ms": now_ms, "event": event}, separators=(",", ":")) + "\n")
        files.append(path)
    return files
