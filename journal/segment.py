"""Archive segments: a run of one stream's records as two objects, written once and read for ever. The format never changes.

- norm, ``….capnp.zst``: zstd frames of one `Block` message each and a last one of an `Index` (``exchanges/schemas/block.capnp``);
- raw, ``….jsonl.zst``: zstd frames of whole lines ``{"pos","recv_ns","mono_ns","epoch","frame","text"}``, with ``"b64"`` in place of
  ``"text"`` where the bytes are not UTF-8; only entries that have raw bytes have a line.

Both end with the seek table of the zstd seekable format, a skippable frame, so that any zstd tool reads them and a reader finds every
frame. Both are functions of the records alone: written again after a crash they are the same bytes.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

from journal.block import CHANGE, ROW, TICKER, TRADE, Block, BlockBuilder
from journal.entry import Gap, Kind, Record
from journal.errors import BadObject
from journal.message import Message, texts, write


class Limits(NamedTuple):
    """The cut rule: a segment ends with the entry that reaches `entries` or `raw_bytes` (or where the day changes), wherever the
    archiver was restarted. Part of the format: only tests use others.
    """

    entries: int = 65_536
    raw_bytes: int = 32 << 20
    block_rows: int = 8_192
    raw_frame_bytes: int = 1 << 20  # of lines, before compression


LIMITS = Limits()
# Measured on recorded order books (bytes and µs a frame): norm level 1 24.1 and 0.27, 3 22.8 and 0.40, 9 22.0 and 1.5;
# raw level 1 31.2 and 0.57, 3 36.4 and 0.77, 8 28.2 and 4.5. Blocks of 4,096 to 65,536 rows differ by 1 % in size and read equally fast.
NORM_LEVEL, RAW_LEVEL = 3, 1
INFO = np.dtype(
    [("offset", "<u8"), ("size", "<u8"), ("first", "<u8"), ("last", "<u8"), ("min_effective_ns", "<i8"), ("max_effective_ns", "<i8"),
     ("rows", "<u4"), ("symbol_from", "<u4"), ("symbol_count", "<u4"), ("kinds", "<u4")]
)  # fmt: skip
# Rows that concern every symbol: a reader that asks for some symbols gets these too.
FOR_ALL = 1 << Kind.gap | 1 << Kind.control
# Rows of one block in bytes at most: a guard against a seek table that lies, far above what 8,192 rows of 1 MiB books need in practice.
_MAX_FRAME_BYTES = 1 << 31
_SKIPPABLE, _SEEKABLE = 0x184D2A5E, 0x8F92EAB1


class RawLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a raw segment; `pos` is ``stream:sequence``, `epoch` hexadecimal."""

    pos: str
    recv_ns: int
    mono_ns: int
    epoch: str
    frame: int
    text: str | None = None
    b64: str | None = None

    @property
    def sequence(self) -> int:
        return int(self.pos.rpartition(":")[2])

    @property
    def raw(self) -> bytes:
        return self.text.encode() if self.text is not None else b64decode(self.b64 or "")


_RAW_LINES = msgspec.json.Decoder(RawLine)  # made once, since two threads that are the first to decode a type may crash


class GapNote(msgspec.Struct, frozen=True):
    """A gap entry, as manifests list them."""

    position: str
    symbol: str
    subscription: int
    reason: str
    channel: str
    first_missing: int
    last_missing: int
    from_ns: int
    to_ns: int
    healed_by: str


@dataclass
class Summary:
    """What a manifest says about a segment's records."""

    first: int = 0
    last: int = 0
    entries: int = 0
    raw_bytes: int = 0
    first_recv_ns: int = 0
    last_recv_ns: int = 0
    min_effective_ns: int = 0
    max_effective_ns: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    gaps: list[GapNote] = field(default_factory=list)


class Built(NamedTuple):
    """The two objects; `raw` is empty when no record has raw bytes."""

    norm: bytes
    raw: bytes


class _Frame(NamedTuple):
    data: bytes
    size: int  # decompressed


class _Closed(NamedTuple):
    """A block that is compressed, and what index and summary need of it."""

    frame: _Frame
    symbols: list[str]
    counts: Any  # rows by kind
    rows: int
    first: int
    last: int
    min_effective_ns: int
    max_effective_ns: int
    first_recv_ns: int
    last_recv_ns: int


class SegmentBuilder:
    """Collects the records of one segment, compressing as it goes: it holds one block, one raw frame and what is compressed already."""

    def __init__(self, stream: str, first: int, limits: Limits = LIMITS) -> None:
        self._stream = stream
        self._limits = limits
        self._norm_zstd = zstandard.ZstdCompressor(level=NORM_LEVEL, write_checksum=True)
        self._raw_zstd = zstandard.ZstdCompressor(level=RAW_LEVEL, write_checksum=True)
        self._open = BlockBuilder(keep_raw=False)
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._raw_frames: list[_Frame] = []
        self._blocks: list[_Closed] = []
        self.summary = Summary(first)

    @property
    def full(self) -> str:
        """Why the segment must be closed before the next record (``entries``, ``bytes``); "" while it need not."""
        if self.summary.entries >= self._limits.entries:
            return "entries"
        return "bytes" if self.summary.raw_bytes >= self._limits.raw_bytes else ""

    def add(self, record: Record) -> None:
        """Take the next record."""
        sequence, entry = record
        summary = self.summary
        summary.last = sequence
        summary.entries += 1
        self._open.add(record)
        raw = entry.raw
        if raw:
            summary.raw_bytes += len(raw)
            head = (
                f'{{"pos":"{self._stream}:{sequence}","recv_ns":{entry.recv_ns},"mono_ns":{entry.mono_ns},'
                f'"epoch":"{entry.epoch.hex()}","frame":{entry.frame},'
            )
            try:
                line = b'%b"text":%b}\n' % (head.encode(), msgspec.json.encode(raw.decode()))
            except UnicodeDecodeError:
                line = b'%b"b64":"%b"}\n' % (head.encode(), b64encode(raw))
            self._lines.append(line)
            self._lines_bytes += len(line)
            if self._lines_bytes >= self._limits.raw_frame_bytes:
                self._raw_frames.append(_compress(self._raw_zstd, b"".join(self._lines)))
                self._lines, self._lines_bytes = [], 0
        if type(entry.body) is Gap:
            summary.gaps.append(_note(f"{self._stream}:{sequence}", entry.symbol, entry.subscription, entry.body))
        if len(self._open) >= self._limits.block_rows:
            self._blocks.append(self._close_block())
            self._open = BlockBuilder(keep_raw=False)

    def build(self) -> tuple[Built, Summary]:
        """The segment of all that was added; more may be added afterwards."""
        blocks = [*self._blocks, self._close_block()] if len(self._open) else self._blocks
        frames = [b.frame for b in blocks]
        frames.append(_compress(self._norm_zstd, self._index(blocks)))
        raw_frames = [*self._raw_frames, _compress(self._raw_zstd, b"".join(self._lines))] if self._lines else self._raw_frames
        counts = sum(b.counts for b in blocks).tolist()
        summary = replace(
            self.summary,
            first_recv_ns=min(b.first_recv_ns for b in blocks),
            last_recv_ns=max(b.last_recv_ns for b in blocks),
            min_effective_ns=min(b.min_effective_ns for b in blocks),
            max_effective_ns=max(b.max_effective_ns for b in blocks),
            counts={kind.name: counts[kind] for kind in Kind if counts[kind]},
            gaps=list(self.summary.gaps),
        )
        return Built(_joined(frames), _joined(raw_frames) if raw_frames else b""), summary

    def _close_block(self) -> _Closed:
        block = self._open.build()
        rows = block.rows
        return _Closed(
            _compress(self._norm_zstd, write_block(block)),
            block.symbols,
            np.bincount(rows["kind"], minlength=len(Kind)),
            len(rows),
            block.first,
            block.last,
            *_range(rows["effective_ns"]),
            *_range(rows["recv_ns"]),
        )

    def _index(self, blocks: list[_Closed]) -> bytes:
        symbols = sorted({s for b in blocks for s in b.symbols})
        number = {s: i for i, s in enumerate(symbols)}
        ids: list[int] = []
        infos = []
        at = 0
        for b in blocks:
            kinds = sum(1 << kind for kind, n in enumerate(b.counts.tolist()) if n)
            size = len(b.frame.data)
            infos.append((at, size, b.first, b.last, b.min_effective_ns, b.max_effective_ns, b.rows, len(ids), len(b.symbols), kinds))
            ids.extend(sorted(number[s] for s in b.symbols))
            at += size
        (stream,) = texts([self._stream])
        return write([stream, np.array(infos, INFO), texts(symbols), np.array(ids, "<u4")])


def write_block(block: Block) -> bytes:
    """`block` as a Cap'n Proto message, without its raw bytes."""
    return write(
        [
            block.rows, block.changes, block.trades, block.tickers, block.cold, texts(block.symbols), block.epochs,
            texts(block.feeds), texts(block.texts), np.array(list(block.hashes), "<u4"), list(block.hashes.values()),
        ]
    )  # fmt: skip


def read_block(message: bytes) -> Block:
    """Inverse of `write_block`: views of `message`, not copies. Raises `BadObject`."""
    m = Message(message)
    numbers, hashes = m.integers(9).tolist(), m.blobs(10)
    if len(numbers) != len(hashes):
        raise BadObject(f"a block has {len(hashes)} raw hashes for {len(numbers)} rows")
    return Block(
        rows=m.structs(0, ROW), changes=m.structs(1, CHANGE), trades=m.structs(2, TRADE), tickers=m.structs(3, TICKER),
        cold=m.blobs(4), symbols=m.texts(5), epochs=m.blobs(6), feeds=m.texts(7), texts=m.texts(8),
        hashes=dict(zip(numbers, hashes, strict=True)),
    )  # fmt: skip


class Segment:
    """A norm object, opened: its index is read, its blocks are decompressed when asked for. Raises `BadObject`."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._zstd = zstandard.ZstdDecompressor()
        table = list(frames(data))
        if not table:
            raise BadObject("a norm segment has no frames")
        index = Message(self._frame(*table[-1]))
        self.stream = index.text(0)
        self.infos = index.structs(1, INFO)
        self.symbols = index.texts(2)
        self._ids = index.integers(3)
        self._table = {offset: (size, raw_size) for offset, size, raw_size in table[:-1]}

    def _frame(self, offset: int, size: int, raw_size: int) -> bytes:
        return decompress(self._zstd, self._data[offset : offset + size], raw_size)

    def blocks(self, *, start: int = 1, end: int | None = None, symbols: Collection[str] | None = None) -> Iterator[Block]:
        """Blocks that have rows from `start` to `end`, cut to them. With `symbols`, only rows of those symbols and gap and control
        rows, which concern every symbol; blocks that have none are not decompressed.
        """
        wanted = None
        if symbols is not None:
            wanted = np.isin(np.arange(len(self.symbols)), [i for i, s in enumerate(self.symbols) if s in symbols])
        for info in self.infos:
            if info["last"] < start or (end is not None and info["first"] > end):
                continue
            if wanted is not None and not info["kinds"] & FOR_ALL:
                at = int(info["symbol_from"])
                if not wanted[self._ids[at : at + int(info["symbol_count"])]].any():
                    continue
            offset = int(info["offset"])
            if offset not in self._table:
                raise BadObject(f"the index names a block at byte {offset}, the seek table does not")
            block = cut(read_block(self._frame(offset, *self._table[offset])), start, end)
            if symbols is not None:
                block = select(block, symbols)
            if len(block):
                yield block


def cut(block: Block, start: int, end: int | None) -> Block:
    """Rows with sequences from `start` to `end`, both inclusive."""
    if block.first >= start and (end is None or block.last <= end):
        return block
    sequences = block.rows["sequence"]
    low = int(np.searchsorted(sequences, start, "left"))
    high = len(sequences) if end is None else int(np.searchsorted(sequences, end, "right"))
    return block.slice(low, max(low, high))


def select(block: Block, symbols: Collection[str]) -> Block:
    """Rows of `symbols`, and the gap and control rows."""
    rows = block.rows
    chosen = np.array([s in symbols for s in block.symbols], bool)
    mask = chosen[rows["symbol"]] | (rows["kind"] == Kind.gap) | (rows["kind"] == Kind.control)
    return block if mask.all() else block.with_rows(rows[mask])


def read_segment(data: bytes) -> Iterator[Block]:
    """Every block of a norm object, in order. Raises `BadObject`."""
    return Segment(data).blocks()


def read_raw(data: bytes) -> Iterator[RawLine]:
    """Every line of a raw object, in order. Raises `BadObject`."""
    zstd, view = zstandard.ZstdDecompressor(), memoryview(data)
    for offset, size, raw_size in frames(data):
        try:
            yield from _RAW_LINES.decode_lines(decompress(zstd, view[offset : offset + size], raw_size))
        except msgspec.MsgspecError as error:
            raise BadObject(f"a raw segment has a line that is none of ours: {error}") from error


def decompress(zstd: zstandard.ZstdDecompressor, frame: memoryview, size: int) -> bytes:
    """One frame of known decompressed size."""
    try:
        if size > _MAX_FRAME_BYTES or zstandard.frame_content_size(frame) != size:
            raise BadObject("a frame and the seek table disagree about its size")
        return zstd.decompress(frame)
    except zstandard.ZstdError as error:
        raise BadObject(f"a frame does not decompress: {error}") from error


def frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(offset, size, decompressed size) of each frame, by the seek table at the end of the object. Raises `BadObject`."""
    if len(data) < 17:
        raise BadObject(f"{len(data)} bytes are no archive object")
    count, descriptor, magic = struct.unpack_from("<IBI", data, len(data) - 9)
    start = len(data) - 17 - 8 * count
    if magic != _SEEKABLE or descriptor or start < 0 or struct.unpack_from("<II", data, start) != (_SKIPPABLE, 8 * count + 9):
        raise BadObject("the object does not end with a seek table")
    at = 0
    for size, raw_size in struct.iter_unpack("<II", data[start + 8 : start + 8 + 8 * count]):
        yield at, size, raw_size
        at += size
    if at != start:
        raise BadObject(f"the seek table describes {at} bytes, the object has {start}")


def _compress(zstd: zstandard.ZstdCompressor, data: bytes) -> _Frame:
    return _Frame(zstd.compress(data), len(data))


def _joined(parts: list[_Frame]) -> bytes:
    """The frames and their seek table (zstd seekable format, no checksums in the table: the frames have their own)."""
    table = b"".join(struct.pack("<II", len(f.data), f.size) for f in parts)
    tail = struct.pack("<IBI", len(parts), 0, _SEEKABLE)
    return b"".join([*(f.data for f in parts), struct.pack("<II", _SKIPPABLE, len(table) + len(tail)), table, tail])


def _range(column: Any) -> tuple[int, int]:
    return int(column.min()), int(column.max())


def _note(position: str, symbol: str, subscription: int, gap: Gap) -> GapNote:
    return GapNote(
        position, symbol, subscription, gap.reason, gap.channel, gap.first_missing, gap.last_missing, gap.from_ns, gap.to_ns,
        gap.healed_by,
    )  # fmt: skip
