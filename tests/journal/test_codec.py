"""The hand-written codec and pycapnp must agree on every field, both ways."""

from __future__ import annotations

import contextlib

import capnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.codec import _decode, _decode_any, decode, encode, schema
from journal.entry import (
    KIND_OF,
    Book,
    Delta,
    Entry,
    Ticker,
    Trade,
)
from journal.errors import BadObject
from tests.strategies import entries


@given(entries)
def test_encode_then_decode_is_the_same_entry(entry: Entry) -> None:
    assert _decode(encode(entry)) == entry


@given(entries)
def test_pycapnp_reads_what_we_write(entry: Entry) -> None:
    assert _decode_any(encode(entry)) == entry


def _by_pycapnp(entry: Entry) -> bytes:
    """The same entry as pycapnp would write it: another layout, the same message."""
    m = schema().Entry.new_message()
    for ours, theirs in (
        ("recv_ns", "recvNs"),
        ("mono_ns", "monoNs"),
        ("effective_ns", "effectiveNs"),
        ("venue_ns", "venueNs"),
        ("frame", "frame"),
        ("venue_seq", "venueSeq"),
        ("subscription", "subscription"),
        ("day", "day"),
        ("part", "part"),
        ("parts", "parts"),
        ("price_exponent", "priceExponent"),
        ("size_exponent", "sizeExponent"),
        ("feed", "feed"),
        ("symbol", "symbol"),
        ("raw", "raw"),
        ("raw_hash", "rawHash"),
    ):
        setattr(m, theirs, getattr(entry, ours))
    m.epochHi = int.from_bytes(entry.epoch[:8], "big")
    m.epochLo = int.from_bytes(entry.epoch[8:], "big")
    body = entry.body
    b = m.body.init(KIND_OF[type(body)].name)
    if isinstance(body, Book | Delta):
        field, items = ("levels", body.levels) if isinstance(body, Book) else ("changes", body.changes)
        for slot, c in zip(b.init(field, len(items)), items, strict=True):
            slot.price, slot.size, slot.side, slot.op = c
    else:
        for name in body.__struct_fields__:
            value = getattr(body, name)
            camel = name.split("_")[0] + "".join(w.title() for w in name.split("_")[1:])
            if value is None:
                continue
            setattr(b, camel, value)
            if isinstance(body, Ticker):
                b.present |= 1 << Ticker.__struct_fields__.index(name)
            if name == "settlement_value":
                b.hasSettlementValue = 1
    return bytes(m.to_bytes())


@given(entries)
def test_we_read_what_pycapnp_writes(entry: Entry) -> None:
    assert decode(_by_pycapnp(entry)) == entry


@given(st.binary(max_size=400))
def test_garbage_is_refused_by_name(payload: bytes) -> None:
    with pytest.raises(BadObject):
        decode(payload)


@given(entries, st.data())
def test_a_flipped_bit_never_crashes(entry: Entry, data: st.DataObject) -> None:
    payload = bytearray(encode(entry))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BadObject):
        decode(bytes(payload))


def test_an_integer_outside_its_field_is_refused() -> None:
    entry = Entry(Trade(2**63, 1, 0, 0, ""), "kalshi", "A", bytes(16), 0, 0, 0, 0, 0)
    with pytest.raises(Exception, match=r"int too large|out of range|format requires"):
        encode(entry)


def test_the_layout_is_the_schemas() -> None:
    node = schema().Entry.schema.node.struct
    assert (node.dataWordCount, node.pointerCount, node.discriminantOffset) == (10, 5, 0)
    group = schema().Entry.schema.fields["body"].schema.node.struct
    assert group.discriminantOffset == 39
    assert [f.name for f in group.fields] == [k.name for k in sorted(KIND_OF.values())]
    assert isinstance(capnp.__version__, str)
