"""Entries to and from Cap'n Proto bytes (``exchanges/schemas/entry.capnp``).

pycapnp takes 3 to 11 µs to build one message and 7 to 10 µs to read it, so the one layout we write (a single segment, every
struct at its full size) is packed and unpacked by hand. Any other valid encoding of the schema, such as another language's
writer may choose, is read by pycapnp instead. Tests compare the two on every field.

`encode` is deterministic: equal entries have equal bytes, so `digest` identifies content.
"""

from __future__ import annotations

import struct
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from journal.entry import (
    KIND_OF,
    Body,
    Book,
    Change,
    Control,
    Delta,
    Entry,
    Event,
    Gap,
    Lifecycle,
    Ticker,
    Trade,
    Unparsed,
)
from journal.errors import BadObject

SCHEMA_PATH = Path(__file__).resolve().parent.parent / "exchanges" / "schemas" / "entry.capnp"

# Segment table and root pointer (2 words), then 10 data words and 5 pointers.
_HEAD = struct.Struct("<IIQ qqqq QQQQ IIHHbbH QQQQQ")
_ROOT = (10 << 32) | (5 << 48)
_BODY_AT = _HEAD.size
_WORD = struct.Struct("<Q")
_CHANGE = struct.Struct("<qqBB6x")
_CHANGE_WORDS = _CHANGE.size // 8
_CHANGE_TAG_SHAPE = _CHANGE_WORDS << 32

_TRADE = struct.Struct("<qqBB6x")
_TICKER = struct.Struct("<10qI4x")
_LIFECYCLE = struct.Struct("<5qB7x")
_GAP = struct.Struct("<QQqq")
_TICKER_FIELDS = Ticker.__struct_fields__
_PAD = tuple(b"\0" * n for n in range(8))


def encode(entry: Entry) -> bytes:
    """The entry as one Cap'n Proto message (single segment).

    Raises `struct.error` or `OverflowError` for an integer outside its field, `ValueError` for a wrong epoch length.
    """
    body = entry.body
    data, blobs = _ENCODE[type(body)](body)
    # Layout: head | body struct | body's blobs | feed | symbol | raw | rawHash, each padded to words.
    data_words = len(data) >> 3
    pointers = len(blobs)
    out = [data]
    at = data_words + pointers  # words from the body struct's start
    links = b""
    for index, (shape, payload) in enumerate(blobs):
        links += _WORD.pack(_pointer(at - data_words - index - 1, shape))
        at += (len(payload) + 7) >> 3
    out.append(links)
    for _, payload in blobs:
        out.append(payload)
        out.append(_PAD[-len(payload) & 7])
    heads = []
    for index, payload in enumerate(
        (
            entry.feed.encode() + b"\0" if entry.feed else b"",
            entry.symbol.encode() + b"\0" if entry.symbol else b"",
            entry.raw,
            entry.raw_hash,
        )
    ):
        if payload:
            # `at` counts from the body struct, which starts right behind the head's five pointers.
            heads.append(_pointer(at + 4 - index, 2 | (len(payload) << 3)))
            at += (len(payload) + 7) >> 3
            out.append(payload)
            out.append(_PAD[-len(payload) & 7])
        else:
            heads.append(0)
    epoch = entry.epoch
    if len(epoch) != 16:
        raise ValueError("epoch must be 16 bytes")
    head = _HEAD.pack(
        0, 16 + at, _ROOT,
        entry.recv_ns, entry.mono_ns, entry.effective_ns, entry.venue_ns,
        entry.frame, entry.venue_seq,
        int.from_bytes(epoch[:8], "big"), int.from_bytes(epoch[8:], "big"),
        entry.subscription, entry.day, entry.part, entry.parts,
        entry.price_exponent, entry.size_exponent, KIND_OF[type(body)],
        heads[0], heads[1], heads[2], heads[3],
        (data_words << 32) | (pointers << 48),
    )  # fmt: skip
    return head + b"".join(out)


def digest(payload: bytes) -> bytes:
    """BLAKE2b-256 of an encoded entry: its content."""
    return blake2b(payload, digest_size=32).digest()


def _pointer(offset: int, shape: int) -> int:
    # A list pointer: two type bits (1), 30 bits of offset, then element size and count from `shape` (see `_text`).
    return 1 | (offset << 2) | (shape << 32)


def _text(value: str) -> tuple[int, bytes]:
    payload = value.encode() + b"\0"
    return 2 | (len(payload) << 3), payload


def _data(value: bytes) -> tuple[int, bytes]:
    return 2 | (len(value) << 3), value


def _changes(changes: tuple[Change, ...]) -> tuple[bytes, list[tuple[int, bytes]]]:
    n = len(changes)
    pack = _CHANGE.pack
    payload = _WORD.pack((n << 2) | _CHANGE_TAG_SHAPE) + b"".join([pack(*c) for c in changes])
    return b"", [(7 | (n * _CHANGE_WORDS << 3), payload)]


def _encode_trade(b: Trade) -> tuple[bytes, list[tuple[int, bytes]]]:
    return _TRADE.pack(b.price, b.size, b.aggressor, b.block), [_text(b.trade_id)]


def _encode_ticker(b: Ticker) -> tuple[bytes, list[tuple[int, bytes]]]:
    values = [getattr(b, name) for name in _TICKER_FIELDS]
    present = sum(1 << i for i, v in enumerate(values) if v is not None)
    return _TICKER.pack(*(v or 0 for v in values), present), []


def _encode_lifecycle(b: Lifecycle) -> tuple[bytes, list[tuple[int, bytes]]]:
    value = b.settlement_value
    return (
        _LIFECYCLE.pack(b.open_ns, b.close_ns, b.determined_ns, b.settled_ns, value or 0, value is not None),
        [_text(b.event), _text(b.status), _text(b.result), _text(b.detail)],
    )


def _encode_gap(b: Gap) -> tuple[bytes, list[tuple[int, bytes]]]:
    return (
        _GAP.pack(b.first_missing, b.last_missing, b.from_ns, b.to_ns),
        [_text(b.reason), _text(b.channel), _text(b.healed_by), _text(b.detail)],
    )


_ENCODE: dict[type, Any] = {
    Trade: _encode_trade,
    Book: lambda b: _changes(b.levels),
    Delta: lambda b: _changes(b.changes),
    Ticker: _encode_ticker,
    Lifecycle: _encode_lifecycle,
    Gap: _encode_gap,
    Control: lambda b: (b"", [_text(b.action), _text(b.channel), _text(b.detail)]),
    Unparsed: lambda b: (b"", [_text(b.error)]),
    Event: lambda b: (
        b"",
        [_text(b.type), _text(b.who), _text(b.why), _text(b.causation), _text(b.correlation), _data(b.data)],
    ),
}


class _OtherLayout(Exception):
    """Valid Cap'n Proto perhaps, but not the layout `encode` writes."""


def decode(payload: bytes) -> Entry:
    """The entry in `payload`. Raises `BadObject` when it is not one."""
    try:
        return _decode(payload)
    except (_OtherLayout, struct.error, UnicodeDecodeError):
        return _decode_any(payload)


def _blob(buf: bytes, at: int) -> bytes:
    """Content of the byte list whose pointer is at byte `at`."""
    (pointer,) = _WORD.unpack_from(buf, at)
    if not pointer:
        return b""
    if pointer & 3 != 1 or (pointer >> 32) & 7 != 2:
        raise _OtherLayout
    start = at + 8 + ((pointer & 0xFFFFFFFF) >> 2) * 8
    end = start + (pointer >> 35)
    if end > len(buf):
        raise _OtherLayout
    return buf[start:end]


def _str(buf: bytes, at: int) -> str:
    return _blob(buf, at)[:-1].decode()


def _decode(buf: bytes) -> Entry:
    (
        segments, words, root, recv_ns, mono_ns, effective_ns, venue_ns, frame, venue_seq, epoch_hi, epoch_lo,
        subscription, day, part, parts, price_exponent, size_exponent, kind, _, _, raw, raw_hash, body,
    ) = _HEAD.unpack_from(buf)  # fmt: skip
    if segments or root != _ROOT or len(buf) != 8 + words * 8 or kind >= len(_DECODE):
        raise _OtherLayout
    shape, read = _DECODE[kind]
    if body != shape:
        raise _OtherLayout
    at = _HEAD.size - 40
    return Entry(
        read(buf, _BODY_AT),
        _str(buf, at),
        _str(buf, at + 8),
        epoch_hi.to_bytes(8, "big") + epoch_lo.to_bytes(8, "big"),
        frame,
        recv_ns,
        mono_ns,
        effective_ns,
        day,
        venue_ns,
        venue_seq,
        subscription,
        part,
        parts,
        price_exponent,
        size_exponent,
        _blob(buf, at + 16) if raw else b"",
        _blob(buf, at + 24) if raw_hash else b"",
    )


def _read_changes(buf: bytes, at: int) -> tuple[Change, ...]:
    pointer, tag = struct.unpack_from("<QQ", buf, at)
    # The only pointer of the struct, its list right behind it: offset 0.
    if pointer & 0x7FFFFFFFF != 1 | (7 << 32) or tag >> 32 != _CHANGE_WORDS or tag & 3:
        raise _OtherLayout
    n = (tag & 0xFFFFFFFF) >> 2
    start = at + 16
    if start + n * 24 > len(buf) or pointer >> 35 != n * _CHANGE_WORDS:
        raise _OtherLayout
    if n == 1:
        return (Change._make(_CHANGE.unpack_from(buf, start)),)
    return tuple(map(Change._make, _CHANGE.iter_unpack(buf[start : start + n * 24])))


def _read_trade(buf: bytes, at: int) -> Trade:
    price, size, aggressor, block = _TRADE.unpack_from(buf, at)
    return Trade(price, size, aggressor, block, _str(buf, at + 24))


def _read_ticker(buf: bytes, at: int) -> Ticker:
    *values, present = _TICKER.unpack_from(buf, at)
    return Ticker(*(v if present >> i & 1 else None for i, v in enumerate(values)))


def _read_lifecycle(buf: bytes, at: int) -> Lifecycle:
    open_ns, close_ns, determined_ns, settled_ns, value, has_value = _LIFECYCLE.unpack_from(buf, at)
    event, status, result, detail = (_str(buf, at + 48 + 8 * i) for i in range(4))
    return Lifecycle(event, status, open_ns, close_ns, determined_ns, settled_ns, value if has_value else None, result, detail)


def _read_gap(buf: bytes, at: int) -> Gap:
    first, last, from_ns, to_ns = _GAP.unpack_from(buf, at)
    reason, channel, healed_by, detail = (_str(buf, at + 32 + 8 * i) for i in range(4))
    return Gap(reason, channel, first, last, from_ns, to_ns, healed_by, detail)


def _read_event(buf: bytes, at: int) -> Event:
    kind, who, why, causation, correlation = (_str(buf, at + 8 * i) for i in range(5))
    return Event(kind, _blob(buf, at + 40), who, why, causation, correlation)


def _shape(data_words: int, pointers: int) -> int:
    return (data_words << 32) | (pointers << 48)


# By discriminant: the body struct's pointer word (it starts right behind the head) and its reader.
_DECODE: tuple[tuple[int, Any], ...] = (
    (_shape(3, 1), _read_trade),
    (_shape(0, 1), lambda buf, at: Book(_read_changes(buf, at))),
    (_shape(0, 1), lambda buf, at: Delta(_read_changes(buf, at))),
    (_shape(11, 0), _read_ticker),
    (_shape(6, 4), _read_lifecycle),
    (_shape(4, 4), _read_gap),
    (_shape(0, 3), lambda buf, at: Control(_str(buf, at), _str(buf, at + 8), _str(buf, at + 16))),
    (_shape(0, 1), lambda buf, at: Unparsed(_str(buf, at))),
    (_shape(0, 6), _read_event),
)


@cache
def schema() -> Any:
    """The loaded schema. pycapnp makes different classes for each load, so this is the only one."""
    import capnp  # 40 ms to import, and only archive segments and foreign encodings need it

    return capnp.load(str(SCHEMA_PATH))


def _decode_any(payload: bytes) -> Entry:
    import capnp

    try:
        with schema().Entry.from_bytes(payload) as e:
            body = e.body
            kind = body.which()
            b = getattr(body, kind)
            return Entry(
                _BODY_ANY[str(kind)](b), e.feed, e.symbol,
                e.epochHi.to_bytes(8, "big") + e.epochLo.to_bytes(8, "big"),
                e.frame, e.recvNs, e.monoNs, e.effectiveNs, e.day, e.venueNs, e.venueSeq, e.subscription,
                e.part, e.parts, e.priceExponent, e.sizeExponent, bytes(e.raw), bytes(e.rawHash),
            )  # fmt: skip
    except (capnp.KjException, KeyError, ValueError, UnicodeDecodeError) as error:
        raise BadObject(f"{len(payload)} bytes are not a journal entry: {str(error).splitlines()[0]}") from error


def _changes_any(items: Any) -> tuple[Change, ...]:
    return tuple(Change(c.price, c.size, c.side, c.op) for c in items)


_BODY_ANY: dict[str, Any] = {
    "trade": lambda b: Trade(b.price, b.size, b.aggressor, b.block, b.tradeId),
    "book": lambda b: Book(_changes_any(b.levels)),
    "delta": lambda b: Delta(_changes_any(b.changes)),
    "ticker": lambda b: Ticker(
        *(
            v if b.present >> i & 1 else None
            for i, v in enumerate(
                (b.last, b.bid, b.ask, b.bidSize, b.askSize, b.lastSize, b.volume, b.openInterest, b.dollarVolume,
                 b.dollarOpenInterest)
            )
        )
    ),
    "lifecycle": lambda b: Lifecycle(
        b.event, b.status, b.openNs, b.closeNs, b.determinedNs, b.settledNs,
        b.settlementValue if b.hasSettlementValue else None, b.result, b.detail,
    ),
    "gap": lambda b: Gap(
        b.reason, b.channel, b.firstMissing, b.lastMissing, b.fromNs, b.toNs, b.healedBy, b.detail
    ),
    "control": lambda b: Control(b.action, b.channel, b.detail),
    "unparsed": lambda b: Unparsed(b.error),
    "event": lambda b: Event(b.type, bytes(b.data), b.who, b.why, b.causation, b.correlation),
}  # fmt: skip


def body_kind_name(body: Body) -> str:
    """The subject's type token of a body, such as ``delta``; of a domain event, its own type."""
    return body.type if isinstance(body, Event) else KIND_OF[type(body)].name
