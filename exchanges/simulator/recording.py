"""A feed from recordings: ``{"recv_ms", "event"}`` lines, merged by receive time then file order, their times moved to now.

The recorded `sid` and `seq` are ignored: the venue numbers frames itself, as it would for a new subscriber of those markets.
"""

from __future__ import annotations

import gzip
import heapq
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from exchanges.simulator.book import TrueBook, count_hundredths, parse_ladder, price_micros
from exchanges.simulator.feed import Delta, Happening, Lifecycle, Snapshot, Ticker, Trade
from exchanges.simulator.market import Catalogue, precise_iso
from exchanges.simulator.metadata import Listings
from journal.errors import CallerError

SURVEYED = 500  # lines; files that interleave markets show it within a few
ENDINGS_MS = 60_000  # a market settles seconds after its close; what is later is not waited for
SUFFIXES = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz")


class _Event(msgspec.Struct, gc=False):
    type: str
    msg: msgspec.Raw = msgspec.Raw(b"{}")


class _Line(msgspec.Struct, gc=False):
    recv_ms: int
    event: _Event


class _Delta(msgspec.Struct, gc=False):
    market_ticker: str
    price_dollars: str
    delta_fp: str
    side: str
    ts_ms: int = 0
    ts: str | int | None = None


class _Snapshot(msgspec.Struct, gc=False):
    market_ticker: str
    yes_dollars_fp: list[tuple[str, str]] = []
    no_dollars_fp: list[tuple[str, str]] = []


class _Trade(msgspec.Struct, gc=False):
    market_ticker: str
    yes_price_dollars: str
    count_fp: str


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_trade = msgspec.json.Decoder(_Trade).decode


class Lines:
    """One file, line by line; `recv_ms` and `event` are of the current line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.recv_ms = 0
        self.event = _Event("")
        try:
            self._file = cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise CallerError(f"{path}: cannot be opened ({error.strerror}); name a recording or a folder of recordings") from error

    def advance(self) -> bool:
        """Go to the next line; False at the end. The file is closed there and on every error."""
        try:
            text = self._file.readline()
            if text:
                line = _decode_line(text)
                self.number += 1
                self.recv_ms, self.event = line.recv_ms, line.event
                return True
        except EOFError as error:
            raise self.broken("the gzip stream is truncated; fetch the file again or cut it at its last whole line") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.broken(f"the gzip stream is corrupt ({error}); fetch the file again") from error
        except OSError as error:
            raise self.broken(f"cannot be read ({error})") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            cut = "" if text.endswith(b"\n") else "; the last line is cut short"
            raise self.broken(f'not a recorded frame {{"recv_ms", "event"}} ({error}){cut}') from error
        self._file.close()
        return False

    def broken(self, why: str) -> CallerError:
        """The error for the line after the current one; closes the file."""
        self._file.close()
        return CallerError(f"{self.path}:{self.number + 1}: {why}")

    def close(self) -> None:
        self._file.close()


def find(paths: Sequence[Path]) -> list[Path]:
    """The recordings named: files as given, folders searched for recordings, by name."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
            if not found:
                raise CallerError(f"{path}: holds no recording ({', '.join(SUFFIXES)})")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise CallerError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


class RecordingFeed:
    """With `keep_times` the recorded times stay; else all venue times move by one constant, so that the first frame is now."""

    def __init__(self, paths: Sequence[Path], *, keep_times: bool = False) -> None:
        self._files = find(paths)
        self._keep_times = keep_times
        self._heads: list[tuple[int, int]] = []  # (first recv_ms, file)
        self._shift_ms = 0
        self._moved = Moved(0)
        self._endings: list[Lifecycle] = []
        self.skipped: Counter[str] = Counter()
        self._play: dict[str, Callable[[int, bytes], Happening]] = {
            "orderbook_delta": self._delta,
            "orderbook_snapshot": self._snapshot,
            "trade": self._trade,
            "ticker": self._ticker,
            "market_lifecycle_v2": self._lifecycle,
            "event_lifecycle": self._event_lifecycle,
        }

    def catalogue(self, start_ms: int) -> Catalogue:
        listings = Listings()
        for index, path in enumerate(self._files):
            lines = Lines(path)
            if lines.advance():
                lines.close()
                self._heads.append((lines.recv_ms, index))
                listings.look_near(path)
        if not self._heads:
            raise CallerError(f"{self._files[0]}: the recording is empty")
        for _, index in self._heads:
            self._survey(self._files[index], listings)
        if not self._keep_times:
            self._shift_ms = start_ms - min(self._heads)[0]
        self._moved = Moved(self._shift_ms)
        catalogue, self._endings = listings.catalogue(self._shift_ms, from_ms=min(self._heads)[0])
        return catalogue

    def books(self) -> dict[str, TrueBook]:
        return {}  # unknown until each market's first snapshot

    def play(self) -> Iterator[Happening]:
        endings = iter([*self._endings, None])
        ending = next(endings)
        at_ms = 0
        for lines in self._merged():
            play = self._play.get(lines.event.type)
            if play is None:
                self.skipped[f"type {lines.event.type}"] += 1
                continue
            at_ms = max(at_ms, lines.recv_ms + self._shift_ms)
            while ending is not None and ending.at_ms <= at_ms:
                yield ending
                ending = next(endings)
            try:
                happening = play(at_ms, bytes(lines.event.msg))
            except (msgspec.DecodeError, ValueError) as error:
                raise CallerError(f"{lines.path}:{lines.number}: a {lines.event.type} that cannot be played ({error})") from error
            yield happening
        while ending is not None and ending.at_ms <= at_ms + ENDINGS_MS:
            yield ending
            ending = next(endings)

    def _merged(self) -> Iterator[Lines]:
        """The files' lines by (recv_ms, file); a file is opened when its first line is due, so few are open at once."""
        heap = list(self._heads)
        heapq.heapify(heap)
        opened: dict[int, Lines] = {}
        try:
            while heap:
                recv_ms, index = heapq.heappop(heap)
                lines = opened.get(index)
                if lines is None:
                    lines = opened[index] = Lines(self._files[index])
                    lines.advance()
                while True:
                    yield lines
                    if not lines.advance():
                        del opened[index]
                        break
                    recv_ms = max(recv_ms, lines.recv_ms)
                    if heap and (recv_ms, index) > heap[0]:
                        heapq.heappush(heap, (recv_ms, index))
                        break
        finally:
            for lines in opened.values():
                lines.close()

    def _survey(self, path: Path, listings: Listings) -> None:
        """Learn the file's markets. A file whose beginning speaks of one market with metadata is not read further."""
        lines = Lines(path)
        while lines.advance():
            listings.infer(lines.recv_ms, lines.event.type, bytes(lines.event.msg))
            if lines.number == SURVEYED and listings.complete():
                lines.close()
                return

    def _delta(self, at_ms: int, body: bytes) -> Delta:
        delta = _decode_delta(body)
        if self._shift_ms:
            body = self._moved.delta(body, delta.ts, delta.ts_ms)
        if delta.side not in {"yes", "no"}:
            raise ValueError(f"side {delta.side!r}")
        return Delta(
            at_ms, delta.market_ticker, body, delta.side == "no", price_micros(delta.price_dollars), count_hundredths(delta.delta_fp)
        )

    def _snapshot(self, at_ms: int, body: bytes) -> Snapshot:
        book = _decode_snapshot(body)
        return Snapshot(at_ms, book.market_ticker, body, parse_ladder(book.yes_dollars_fp), parse_ladder(book.no_dollars_fp))

    def _trade(self, at_ms: int, body: bytes) -> Trade:
        trade = _decode_trade(body)
        return Trade(
            at_ms, trade.market_ticker, self._moved.body(body), price_micros(trade.yes_price_dollars), count_hundredths(trade.count_fp)
        )

    def _ticker(self, at_ms: int, body: bytes) -> Ticker:
        return Ticker(at_ms, msgspec.json.decode(body)["market_ticker"], self._moved.body(body))

    def _lifecycle(self, at_ms: int, body: bytes) -> Lifecycle:
        message = msgspec.json.decode(self._moved.body(body))
        return Lifecycle(
            at_ms,
            message["market_ticker"],
            msgspec.json.encode(message),
            message.get("event_type", ""),
            result=message.get("result", ""),
            settlement_value=price_micros(message.get("settlement_value") or "0"),
            close_ms=message.get("close_ts", 0) * 1000,
        )

    def _event_lifecycle(self, at_ms: int, body: bytes) -> Lifecycle:
        return Lifecycle(at_ms, "", self._moved.body(body), "", type="event_lifecycle")


SECONDS = ("ts", "open_ts", "close_ts", "determination_ts", "settled_ts", "expected_expiration_ts")
TEXTS = ("ts", "time", "strike_date")


class Moved:
    """Venue times moved by a constant."""

    def __init__(self, shift_ms: int) -> None:
        self._shift_ms = shift_ms
        self._second = ("", 0)  # the last second seen and its Unix time: most frames share it

    def body(self, body: bytes) -> bytes:
        """A message with every time field moved."""
        return msgspec.json.encode(self._fields(msgspec.json.decode(body))) if self._shift_ms else body

    def delta(self, body: bytes, ts: str | int | None, ts_ms: int) -> bytes:
        """The same for a delta whose times are known: a seventh of the cost, and nine frames of ten are deltas."""
        if isinstance(ts, str):
            compact = b'"ts_ms":%d' % ts_ms
            moved = body.replace(ts.encode(), self.rfc3339(ts).encode(), 1)
            if compact in moved:
                return moved.replace(compact, b'"ts_ms":%d' % (ts_ms + self._shift_ms), 1)
        return self.body(body)

    def _fields(self, message: dict[str, Any]) -> dict[str, Any]:
        for key in SECONDS:
            if isinstance(message.get(key), int):
                # whole seconds of a moment that moved by milliseconds: exact where `ts_ms` tells the moment
                exact = message.get("ts_ms") if key == "ts" else None
                message[key] = ((exact or message[key] * 1000) + self._shift_ms) // 1000
        for key in TEXTS:
            if isinstance(message.get(key), str):
                message[key] = self.rfc3339(message[key])
        if isinstance(message.get("ts_ms"), int):
            message["ts_ms"] += self._shift_ms
        if isinstance(message.get("additional_metadata"), dict):
            self._fields(message["additional_metadata"])
        return message

    def rfc3339(self, text: str) -> str:
        """``2026-08-05T03:45:40.722003Z`` moved; trailing zeros trimmed as the venue does. Unreadable text comes back as it is."""
        second, _, fraction = text.removesuffix("Z").partition(".")
        if second != self._second[0]:
            try:
                self._second = (second, int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp()))
            except ValueError:
                return text
        if self._second[1] < 0:  # the venue's zero time is the year 1
            return text
        return precise_iso(self._second[1] * 1_000_000 + int(fraction[:6].ljust(6, "0")) + self._shift_ms * 1000)
