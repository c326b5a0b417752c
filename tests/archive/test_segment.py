"""Segments: what goes in comes out, byte for byte the same however it was cut on the way, and readable by others."""

from __future__ import annotations

import contextlib
import io
import json
from base64 import b64decode
from hashlib import blake2b, sha256

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from journal.block import Block
from journal.entry import Body, Book, Change, Control, Delta, Entry, Event, Gap, Kind, Lifecycle, Record, Ticker, Trade, Unparsed
from journal.errors import BadObject
from journal.segment import Limits, Segment, SegmentBuilder, frames, read_raw, read_segment, write_block
from tests.strategies import entries

STREAM = "local_md_0"
SMALL = Limits(entries=1_000, raw_bytes=1 << 20, block_rows=3, raw_frame_bytes=200)
some_entries = st.lists(entries, min_size=1, max_size=20)


def numbered(items: list[Entry], first: int = 1) -> list[Record]:
    return [Record(n, e) for n, e in enumerate(items, first)]


def built(records: list[Record], limits: Limits = SMALL) -> tuple[bytes, bytes]:
    builder = SegmentBuilder(STREAM, records[0].sequence, limits)
    for record in records:
        builder.add(record)
    return builder.build()[0]


def bare(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, raw=b"", raw_hash=b"")


@given(some_entries)
def test_columns_hold_every_field(items: list[Entry]) -> None:
    records = numbered(items)
    assert list(Block.of(records).records()) == records


@given(some_entries, st.integers(1, 2**63))
def test_a_segment_holds_every_field(items: list[Entry], first: int) -> None:
    records = numbered(items, first)
    norm, raw = built(records)
    read = [r for block in read_segment(norm) for r in block.records()]
    assert read == [Record(r.sequence, bare(r.entry)) for r in records]
    lines = list(read_raw(raw)) if raw else []
    with_raw = [r for r in records if r.entry.raw]
    assert [(n.pos, n.recv_ns, n.mono_ns, n.epoch, n.frame, n.raw) for n in lines] == [
        (f"{STREAM}:{r.sequence}", r.entry.recv_ns, r.entry.mono_ns, r.entry.epoch.hex(), r.entry.frame, r.entry.raw) for r in with_raw
    ]


@given(some_entries, st.sets(st.integers(0, 20)))
def test_looking_in_between_changes_nothing(items: list[Entry], looks: set[int]) -> None:
    records = numbered(items)
    builder = SegmentBuilder(STREAM, 1, SMALL)
    for n, record in enumerate(records):
        builder.add(record)
        if n in looks:
            tail, _ = builder.build()
            assert tail == built(records[: n + 1])
    assert builder.build()[0] == built(records)


def parts_of(frame: int, raw: bytes, parts: int, symbol: str = "A") -> list[Entry]:
    hashed = blake2b(raw, digest_size=32).digest()
    return [
        Entry(
            Delta((Change(p, 1, 0, 0),)), "kalshi", symbol, bytes(16), frame, 1, 2, 3, 20260810, part=p, parts=parts,
            raw=b"" if p else raw, raw_hash=hashed if p else b"",
        )
        for p in range(parts)
    ]  # fmt: skip


def test_hashes_of_later_parts_are_derived_not_stored() -> None:
    items = [e for n in range(200) for e in parts_of(n, b'{"frame":%d}' % n, 4)]
    block = Block.of(numbered(items))
    assert block.hashes == {}
    assert [r.entry.raw_hash for r in block.records()] == [e.raw_hash for e in items]


def test_a_frame_cut_in_two_keeps_its_hash() -> None:
    records = numbered(parts_of(7, b"frame", 5))
    block = Block.of(records[2:])
    assert list(block.hashes) == [0]
    assert list(block.records()) == records[2:]


def test_raw_lines_are_json_for_anyone() -> None:
    items = [Entry(Unparsed("x"), "kalshi", "", bytes(range(16)), n, n, -n, n, 20260810, raw=raw) for n, raw in enumerate(RAWS)]
    _, raw = built(numbered(items))
    text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw), read_across_frames=True).read()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [list(line)[:5] for line in lines] == [["pos", "recv_ns", "mono_ns", "epoch", "frame"]] * len(RAWS)
    assert [line["text"].encode() if "text" in line else b64decode(line["b64"]) for line in lines] == RAWS
    assert text.count(b"\n") == len(RAWS)


RAWS = [b'{"a":"\\u00e9"}', "é€😀".encode(), b"\xff\x00", b"\x00\x1f\x7f\r\n\t", b"\xed\xa0\x80", b" ", "\u2028\ufeff".encode(), b'"\\/']


def test_any_zstd_reads_both_objects_and_the_table_finds_each_frame() -> None:
    records = numbered([Entry(Trade(1, 2, 0, 0, ""), "kalshi", "A", bytes(16), n, 0, 0, 0, 0, raw=b"x" * 50) for n in range(50)])
    for data in built(records):
        whole = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
        table = list(frames(data))
        assert len(table) > 5
        one_by_one = [zstandard.ZstdDecompressor().decompress(data[at : at + size]) for at, size, _ in table]
        assert b"".join(one_by_one) == whole
        assert [len(f) for f in one_by_one] == [raw_size for _, _, raw_size in table]


def test_the_summary_is_of_the_records() -> None:
    bodies: list[Body] = [Trade(1, 2, 0, 0, ""), Gap("lost", "c", 4, 6, 1, 2, "", ""), Ticker(), Gap("more"), Book(())]
    items = [Entry(body, "kalshi", "A", bytes(16), n, 100 - n, 0, 10 + n, 0, raw=b"abc") for n, body in enumerate(bodies)]
    builder = SegmentBuilder(STREAM, 5, SMALL)
    for record in numbered(items, 5):
        builder.add(record)
    _, s = builder.build()
    assert (s.first, s.last, s.entries, s.raw_bytes) == (5, 9, 5, 15)
    assert (s.first_recv_ns, s.last_recv_ns, s.min_effective_ns, s.max_effective_ns) == (96, 100, 10, 14)
    assert s.counts == {"trade": 1, "book": 1, "ticker": 1, "gap": 2}
    gaps = [(g.position, g.reason, g.first_missing, g.last_missing) for g in s.gaps]
    assert gaps == [(f"{STREAM}:6", "lost", 4, 6), (f"{STREAM}:8", "more", 0, 0)]


SOME_BODIES: list[Body] = [Delta(()), Gap("x"), Control("ok"), Lifecycle("e")]
some_rows = st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from(SOME_BODIES)), min_size=1, max_size=40)


@given(some_rows, st.integers(1, 45), st.integers(1, 45), st.none() | st.sets(st.sampled_from("ABCDEF")))
def test_reads_by_position_and_symbol(rows: list[tuple[str, Body]], start: int, end: int, symbols: set[str] | None) -> None:
    records = numbered([Entry(body, "kalshi", s, bytes(16), n, 0, 0, n, 0) for n, (s, body) in enumerate(rows)])
    norm, _ = built(records)
    wanted = [
        r for r in records
        if start <= r.sequence <= end
        and (symbols is None or r.entry.symbol in symbols or r.entry.kind in (Kind.gap, Kind.control))
    ]  # fmt: skip
    segment = Segment(norm)
    assert [r for b in segment.blocks(start=start, end=end, symbols=symbols) for r in b.records()] == wanted
    assert segment.stream == STREAM
    assert segment.symbols == sorted({s for s, _ in rows})


def test_blocks_without_the_symbol_are_not_read() -> None:
    records = numbered([Entry(Delta(()), "kalshi", "A" if n < 30 else "B", bytes(16), n, 0, 0, n, 0) for n in range(60)])
    norm, _ = built(records)
    at, size, _ = next(frames(norm))
    damaged = norm[: at + 8] + bytes(size - 8) + norm[at + size :]  # the first block, of A, is gone
    assert sum(len(b) for b in Segment(damaged).blocks(symbols=["B"])) == 30
    assert sum(len(b) for b in Segment(damaged).blocks(start=31)) == 30
    with pytest.raises(BadObject):
        list(Segment(damaged).blocks())


def read_all(norm: bytes, raw: bytes) -> None:
    for block in read_segment(norm):
        assert len(block.rows) > 0
    for line in read_raw(raw) if raw else ():
        assert line.pos


@given(some_entries, st.data())
def test_damage_is_bad_object_or_harmless(items: list[Entry], data: st.DataObject) -> None:
    norm, raw = built(numbered(items))

    def damaged(whole: bytes) -> bytes:
        if data.draw(st.booleans()):
            return whole[: data.draw(st.integers(0, len(whole)))]
        bits = bytearray(whole)
        bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        return bytes(bits)

    with contextlib.suppress(BadObject):
        read_all(damaged(norm), raw)
    with contextlib.suppress(BadObject):
        read_all(norm, damaged(raw) if raw else b"")


def test_columns_are_views_of_what_was_decompressed() -> None:
    records = numbered([Entry(Delta((Change(n, 1, 0, 0),)), "kalshi", "A", bytes(16), n, 0, 0, n, 0) for n in range(5)])
    (block,) = read_segment(built(records, Limits())[0])
    for array in (block.rows, block.changes):
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert array.flags.c_contiguous
        assert array.flags.aligned


def all_kinds() -> list[Record]:
    epoch = bytes(range(16))
    bodies: list[Body] = [
        Book((Change(450_000, 1_000, 0, 1), Change(550_000, 2_000, 1, 1))), Delta((Change(450_000, -500, 0, 0),)),
        Trade(500_000, 100, 1, 2, "4f5c2e39-5132-4147-ba3f-b3485ad89427"), Trade(500_000, 100, 2, 0, "other"),
        Ticker(last=1, volume=2), Lifecycle("open", "active", 1, 2, settlement_value=3), Gap("lost", "book", 1, 2, 3, 4, "resync"),
        Control("opened", detail="{}"), Unparsed("no JSON"), Event("digest", b'{"a":1}', "who", "why", "c", "d"),
    ]  # fmt: skip
    return [
        Record(
            n,
            Entry(
                body, "kalshi", f"KX-{n % 3}.5", epoch, n, 10 * n, 7 * n, 10 * n + n % 3, 20260810, n, n, 3, 0, 1, -6, -2,
                b'{"n":%d}' % n,
            ),
        )
        for n, body in enumerate(bodies, 1)
    ]  # fmt: skip


def test_the_format_has_not_changed() -> None:
    """These bytes were written in 2026-11. If this fails, archives that exist would read otherwise: undo the change."""
    records = all_kinds()
    assert sha256(write_block(Block.of(records))).hexdigest() == BLOCK_SHA256
    norm, raw = built(records, Limits())
    (at, size, _), (index_at, _, _) = frames(norm)
    (info,) = Segment(norm).infos
    assert info.item() == (at, size, 1, 10, 11, 101, 10, 0, 3, 0b111111111)
    assert index_at == size
    assert Segment(norm).symbols == ["KX-0.5", "KX-1.5", "KX-2.5"]
    lines = b"".join(zstandard.ZstdDecompressor().decompress(raw[at : at + size]) for at, size, _ in frames(raw))
    assert lines.splitlines()[0] == FIRST_LINE
    assert sha256(lines).hexdigest() == LINES_SHA256


FIRST_LINE = b'{"pos":"local_md_0:1","recv_ns":10,"mono_ns":7,"epoch":"000102030405060708090a0b0c0d0e0f","frame":1,"text":"{\\"n\\":1}"}'
BLOCK_SHA256 = "ce3849f9317caa1b867a582cc4d7395befd01eb4995f9c62e1c3fd4fee143af1"
LINES_SHA256 = "d5bb7b6c7d3f2186b9df8e2e8aedb665e270ce404550585c44c1f1621570788f"
