"""Blocks as Cap'n Proto: pycapnp, knowing only the schema, and our views agree on every field, both ways."""

from __future__ import annotations

import contextlib
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

import capnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.block import CHANGE, ROW, TICKER, TRADE, Block
from journal.codec import SCHEMA_PATH
from journal.entry import Record, Ticker
from journal.errors import BadObject
from journal.message import Message, write
from journal.segment import INFO, read_block, write_block
from tests.strategies import entries

blocks = st.lists(entries, max_size=12).map(lambda es: Block.of(Record(n, e) for n, e in enumerate(es, 1)))
LISTS = {"rows": ROW, "changes": CHANGE, "trades": TRADE, "tickers": TICKER}


@cache
def schema() -> Any:
    return capnp.load(str(SCHEMA_PATH.with_name("block.capnp")))


def names(dtype: np.dtype[Any]) -> dict[str, str]:
    """Our field names to the schema's."""
    return {n: re.sub(r"_(\w)", lambda m: m[1].upper(), n) for n in dtype.names or () if not n.startswith("_")}


def assert_agree(block: Block, theirs: Any) -> None:
    for name, dtype in LISTS.items():
        ours, items = getattr(block, name), getattr(theirs, name)
        assert len(ours) == len(items)
        for one, other in zip(ours, items, strict=True):
            assert {n: one[n].item() for n in names(dtype)} == {n: getattr(other, c) for n, c in names(dtype).items()}
    for name in ("cold", "epochs", "symbols", "feeds", "texts"):
        assert getattr(block, name) == list(getattr(theirs, name))
    assert block.hashes == dict(zip(theirs.hashRows, theirs.hashes, strict=True))


@given(blocks)
def test_pycapnp_reads_what_we_write(block: Block) -> None:
    with schema().Block.from_bytes(write_block(block)) as theirs:
        assert_agree(block, theirs)


def by_pycapnp(block: Block, first_segment_words: int) -> bytes:
    """The same block as another language would write it; a small first segment makes many, with far pointers between them."""
    message = schema().Block.new_message(num_first_segment_words=first_segment_words)
    for name, dtype in LISTS.items():
        ours = getattr(block, name)
        for one, slot in zip(ours, message.init(name, len(ours)), strict=True):
            for n, c in names(dtype).items():
                setattr(slot, c, one[n].item())
    for name in ("cold", "epochs", "symbols", "feeds", "texts"):
        slots = message.init(name, len(getattr(block, name)))
        for at, value in enumerate(getattr(block, name)):
            slots[at] = value
    message.hashRows = list(block.hashes)
    message.hashes = list(block.hashes.values())
    return bytes(message.to_bytes())


@given(blocks, st.sampled_from([1, 4, 20, 200, 100_000]))
def test_we_read_what_pycapnp_writes(block: Block, first_segment_words: int) -> None:
    payload = by_pycapnp(block, first_segment_words)
    ours = read_block(payload)
    with schema().Block.from_bytes(payload, traversal_limit_in_words=2**60) as theirs:
        assert_agree(ours, theirs)
    assert list(ours.records()) == list(block_without_raw(block).records())


def block_without_raw(block: Block) -> Block:
    return read_block(write_block(block))


@pytest.mark.parametrize(("first_segment_words", "segments"), [(1 << 20, 1), (8, 2)])
def test_a_list_is_found_in_one_segment_and_in_several(first_segment_words: int, segments: int) -> None:
    ours = Block.of(())
    ours.changes = np.arange(3_000, dtype="<i8").view(CHANGE)
    payload = by_pycapnp(ours, first_segment_words)
    assert (struct.unpack_from("<I", payload)[0] + 1 > 1) == (segments > 1)
    found = Message(payload).structs(1, CHANGE)
    assert found["price"].tolist() == ours.changes["price"].tolist()
    assert found.base is not None  # a view, not a copy
    assert not found.flags.writeable
    assert found.flags.c_contiguous


def test_double_far_pointers() -> None:
    # Segment 0: root pointer, double far to a pad in segment 1, whose content (a struct of one pointer) is in segment 2.
    text = b"far\0".ljust(8, b"\0")
    zero = struct.pack("<Q", 2 | 4 | 0 << 3 | 1 << 32)
    one = struct.pack("<QQ", 2 | 0 << 3 | 2 << 32, 1 << 48)
    two = struct.pack("<Q", 1 | 0 << 2 | (2 | 4 << 3) << 32) + text
    payload = struct.pack("<IIII", 2, 1, 2, 2) + zero + one + two
    assert Message(payload).text(0) == "far"


def test_structs_of_later_and_earlier_versions(tmp_path: Path) -> None:
    def load(name: str, fields: str) -> Any:
        text = f"@0xa{len(fields):015x};\nstruct R {{ l @0 :List(E); }}\nstruct E {{ {fields} }}\n"
        (tmp_path / name).write_text(text)
        return capnp.load(str(tmp_path / name))

    dtype = np.dtype([("a", "<i8"), ("b", "<i8")])
    later = load("later.capnp", "a @0 :Int64; b @1 :Int64; c @2 :Int64; d @3 :Text;").R.new_message()
    for n, slot in enumerate(later.init("l", 3)):
        slot.a, slot.b, slot.c, slot.d = n, -n, 7, "x"
    earlier = load("earlier.capnp", "a @0 :Int64;").R.new_message()
    for n, slot in enumerate(earlier.init("l", 3)):
        slot.a = n
    assert Message(bytes(later.to_bytes())).structs(0, dtype).tolist() == [(0, 0), (1, -1), (2, -2)]
    old = Message(bytes(earlier.to_bytes()))
    assert old.structs(0, dtype).tolist() == [(0, 0), (1, 0), (2, 0)]
    assert len(old.structs(5, dtype)) == 0  # a list its schema did not have


def test_layouts_are_the_schemas() -> None:
    s = schema()
    for struct_type, dtype in ((s.Row, ROW), (s.Trade, TRADE), (s.BlockInfo, INFO)):
        node = struct_type.schema.node.struct
        assert (node.dataWordCount * 8, node.pointerCount) == (dtype.itemsize, 0)
        assert [f.name for f in sorted(node.fields, key=lambda f: f.codeOrder)] == list(names(dtype).values())
    assert [n for n in TICKER.names or () if n not in ("present", "_pad")] == list(Ticker.__struct_fields__)


@given(blocks, st.data())
def test_a_flipped_bit_never_does_worse_than_bad_object(block: Block, data: st.DataObject) -> None:
    payload = bytearray(write_block(block))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, min(len(payload) - 1, 400)))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BadObject):
        read_block(bytes(payload))


@given(st.binary(max_size=300))
def test_garbage_is_refused(payload: bytes) -> None:
    with contextlib.suppress(BadObject):
        message = Message(payload)
        for read in (message.blobs, message.texts, message.integers, message.text):
            with contextlib.suppress(BadObject):
                read(0)
        message.structs(0, ROW)


def test_lists_beyond_the_format_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        write([np.zeros(1 << 29, "<u4")])
