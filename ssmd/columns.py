"""Entries as Arrow columns: prices and sizes stay integers with their exponent, times are nanoseconds in UTC.

``events`` has the columns of `EVENTS`, ``entries`` those and what a market message has besides. What an entry does not have is null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

from journal.block import COLD_FROM, Block
from journal.codec import body_kind_name, decode
from journal.day import to_date
from journal.entry import Aggressor, Entry, Event, Kind, Op, Record, Side, Ticker, canonical_json
from journal.subjects import Stream
from ssmd import documents

_TIME = pa.timestamp("ns", "UTC")
_INT, _TEXT, _FRAME = pa.int64(), pa.string(), pa.uint64()
_HEAD = [
    ("position", _TEXT), ("stream", _TEXT), ("sequence", _INT), ("effective_time", _TIME), ("effective_ns", _INT), ("recv_time", _TIME),
    ("recv_ns", _INT), ("day", pa.date32()), ("feed", _TEXT), ("type", _TEXT), ("symbol", _TEXT), ("who", _TEXT), ("why", _TEXT),
    ("causation", _TEXT), ("correlation", _TEXT),
]  # fmt: skip
_DATA = [("data", _TEXT)]
_CHANGE = pa.struct([("side", _TEXT), ("op", _TEXT), ("price", _INT), ("size", _INT)])
_MARKET = [
    ("kind", _TEXT), ("venue_time", _TIME), ("venue_ns", _INT), ("epoch", _TEXT), ("frame", _FRAME), ("part", _INT), ("parts", _INT),
    ("subscription", _INT), ("venue_seq", _FRAME), ("price_exponent", _INT), ("size_exponent", _INT), ("price", _INT), ("size", _INT),
    ("aggressor", _TEXT), ("block_trade", pa.bool_()), ("trade_id", _TEXT), *((name, _INT) for name in Ticker.__struct_fields__),
    ("changes", pa.list_(_CHANGE)),
]  # fmt: skip
EVENTS = pa.schema([*_HEAD, *_DATA])
ENTRIES = pa.schema([*_HEAD, *_MARKET, *_DATA])

_SAID = ("who", "why", "causation", "correlation")
_KINDS = np.array([k.name for k in Kind], object)
# By number, null for a number that no version of ours knows.
_SIDES, _OPS, _AGGRESSORS = (np.array([*(m.name for m in kind), None], object) for kind in (Side, Op, Aggressor))
_BLOCK_TRADES = np.array([False, True, None], object)


def events(stream: Stream, records: Sequence[Record]) -> pa.RecordBatch:
    """Records of a domain stream as rows of `EVENTS`."""
    rows = [_event(stream, record) for record in records]
    return pa.RecordBatch.from_arrays(
        [_array([row[n] for row in rows], f.type) for n, f in enumerate(EVENTS)], schema=EVENTS
    )  # fmt: skip


def _event(stream: Stream, record: Record) -> tuple[Any, ...]:
    e, b = record.entry, record.entry.body
    said = [_said(name, e) for name in _SAID]
    return (
        f"{stream.name}:{record.sequence}", stream.name, record.sequence, e.effective_ns, e.effective_ns, e.recv_ns or None, e.recv_ns,
        _day(e.day), e.feed, body_kind_name(b), e.symbol, *said, _data(e),
    )  # fmt: skip


def _said(name: str, e: Entry) -> str | None:
    return getattr(e.body, name) if isinstance(e.body, Event) else None


def _data(e: Entry) -> str:
    """The body as JSON: of an event its data, of what is no JSON a string."""
    if isinstance(e.body, Event):
        return e.body.data.decode(errors="replace")
    return canonical_json(documents.body(e)).decode()


def entries(stream: Stream, block: Block) -> pa.RecordBatch:
    """A block's rows as rows of `ENTRIES`."""
    rows = block.rows
    cold = _Cold(block)
    columns: dict[str, pa.Array] = {
        "position": pa.array([f"{stream.name}:{n}" for n in rows["sequence"].tolist()], _TEXT),
        "stream": _repeated(stream.name, len(rows)),
        "effective_time": _time(rows["effective_ns"]), "recv_time": _time(rows["recv_ns"]), "venue_time": _time(rows["venue_ns"]),
        "day": _days(rows["day"]), "feed": _chosen(block.feeds, rows["feed"]), "type": cold.types(),
        "kind": pa.array(_KINDS[rows["kind"]], _TEXT),
        "symbol": _chosen(block.symbols, rows["symbol"]), "epoch": _chosen([e.hex() for e in block.epochs], rows["epoch"]),
        **_trades(block), **_tickers(block), "changes": _changes(block), **cold.columns(),
    }  # fmt: skip
    for field in ENTRIES:
        if field.name not in columns:
            columns[field.name] = pa.array(rows[field.name].astype(field.type.to_pandas_dtype()), field.type)
    return pa.RecordBatch.from_arrays([columns[f.name] for f in ENTRIES], schema=ENTRIES)


class _Cold:
    """The rows that are stored as encoded entries: lifecycle, gap, control, unparsed and events."""

    def __init__(self, block: Block) -> None:
        self._rows = block.rows
        at = np.flatnonzero(block.rows["kind"] >= COLD_FROM).tolist()
        self._entries = {row: decode(block.cold[int(block.rows["body"][row])]) for row in at}

    def types(self) -> pa.Array:
        found = _KINDS[self._rows["kind"]]
        for row, e in self._entries.items():
            found[row] = body_kind_name(e.body)
        return pa.array(found, _TEXT)

    def columns(self) -> dict[str, pa.Array]:
        found = {name: self._column(partial(_said, name)) for name in _SAID}
        return found | {"data": self._column(_data)}

    def _column(self, value: Callable[[Entry], Any]) -> pa.Array:
        column = np.full(len(self._rows), None, object)
        for row, e in self._entries.items():
            column[row] = value(e)
        return pa.array(column, _TEXT)


def _trades(block: Block) -> dict[str, pa.Array]:
    rows, at = block.rows, np.flatnonzero(block.rows["kind"] == Kind.trade)
    trades = block.trades[rows["body"][at]]
    ids = [
        block.texts[text - 1] if text else str(UUID(int=hi << 64 | lo))
        for hi, lo, text in zip(trades["id_hi"].tolist(), trades["id_lo"].tolist(), trades["id_text"].tolist(), strict=True)
    ]
    size = len(rows)
    return {
        "price": _sparse(size, at, trades["price"]), "size": _sparse(size, at, trades["size"]),
        "aggressor": _spread(size, at, _named(_AGGRESSORS, trades["aggressor"]), _TEXT),
        "block_trade": _spread(size, at, _named(_BLOCK_TRADES, trades["block"]), pa.bool_()),
        "trade_id": _spread(size, at, np.array(ids, object), _TEXT),
    }  # fmt: skip


def _tickers(block: Block) -> dict[str, pa.Array]:
    rows, at = block.rows, np.flatnonzero(block.rows["kind"] == Kind.ticker)
    tickers = block.tickers[rows["body"][at]]
    found = {}
    for bit, name in enumerate(Ticker.__struct_fields__):
        sent = (tickers["present"] >> bit & 1).astype(bool)
        found[name] = _sparse(len(rows), at[sent], tickers[name][sent])
    return found


def _changes(block: Block) -> pa.Array:
    """Levels of books and deltas, lists of them; null for other kinds."""
    rows = block.rows
    levels = (rows["kind"] == Kind.book) | (rows["kind"] == Kind.delta)
    counts = np.where(levels, rows["count"], 0).astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    taken = block.changes[np.repeat(rows["body"].astype(np.int64) - offsets[:-1], counts) + np.arange(offsets[-1])]
    fields = [pa.array(_named(_SIDES, taken["side"]), _TEXT), pa.array(_named(_OPS, taken["op"]), _TEXT)]
    fields += [pa.array(taken[name].astype(np.int64)) for name in ("price", "size")]
    values = pa.StructArray.from_arrays(fields, fields=list(_CHANGE))
    nulls = pa.array(~levels)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=pa.list_(_CHANGE), mask=nulls)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == _TIME:
        return pa.array(values, _INT).cast(_TIME)
    return pa.array(values, kind)


def _time(ns: Any) -> pa.Array:
    """Nanoseconds as times; 0 is none."""
    return pa.array(ns.astype(np.int64), _INT, mask=ns == 0).cast(_TIME)


def _days(days: Any) -> pa.Array:
    known, index = np.unique(days, return_inverse=True)
    return pa.array([_day(d) for d in known.tolist()], pa.date32()).take(pa.array(index))


def _chosen(known: Sequence[str | None], index: Any) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(known, _TEXT)).dictionary_decode()


def _named(names: Any, numbers: Any) -> Any:
    return names[np.minimum(numbers, len(names) - 1)]


def _day(day: int) -> date | None:
    try:
        return to_date(day)
    except ValueError:  # 0 is no day
        return None


def _repeated(text: str, size: int) -> pa.Array:
    return _chosen([text], np.zeros(size, np.int32))


def _sparse(size: int, at: Any, values: Any) -> pa.Array:
    """Integers at some rows, null at the others."""
    whole, absent = np.zeros(size, np.int64), np.ones(size, bool)
    whole[at], absent[at] = values, False
    return pa.array(whole, _INT, mask=absent)


def _spread(size: int, at: Any, values: Any, kind: pa.DataType) -> pa.Array:
    whole = np.full(size, None, object)
    whole[at] = values
    return pa.array(whole, kind)
