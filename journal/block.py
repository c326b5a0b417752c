"""A run of records as columns: what folds read and archive segments store.

`rows` has one element an entry, in stream order. A row's `body` is the index of its first element in the table of its kind
(`changes` for book and delta, `trades`, `tickers`, else `cold`) and `count` how many there are. `symbol`, `epoch` and `feed`
index the block's own dictionaries. All arrays are data-only Cap'n Proto structs of ``block.capnp``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
import numpy as np

from journal.codec import decode, encode
from journal.entry import Book, Change, Delta, Entry, Kind, Record, Ticker, Trade

ROW = np.dtype(
    [
        ("sequence", "<u8"), ("recv_ns", "<i8"), ("mono_ns", "<i8"), ("effective_ns", "<i8"), ("venue_ns", "<i8"),
        ("frame", "<u8"), ("venue_seq", "<u8"), ("epoch", "<u4"), ("symbol", "<u4"), ("subscription", "<u4"),
        ("body", "<u4"), ("count", "<u4"), ("day", "<u4"), ("part", "<u2"), ("parts", "<u2"), ("kind", "u1"),
        ("feed", "u1"), ("price_exponent", "i1"), ("size_exponent", "i1"),
    ]
)  # fmt: skip
CHANGE = np.dtype([("price", "<i8"), ("size", "<i8"), ("side", "u1"), ("op", "u1"), ("_pad", "V6")])
# A trade id that is a canonical UUID is two integers; any other is text `id_text - 1` of the block's `texts`.
TRADE = np.dtype(
    [("price", "<i8"), ("size", "<i8"), ("id_hi", "<u8"), ("id_lo", "<u8"), ("id_text", "<u4"), ("aggressor", "u1"),
     ("block", "u1"), ("_pad", "V2")]
)  # fmt: skip
TICKER = np.dtype(
    [(name, "<i8") for name in Ticker.__struct_fields__] + [("present", "<u4"), ("_pad", "V4")],
)
COLD_FROM = int(Kind.lifecycle)  # kinds from here on are stored as encoded entries
_ZERO6, _ZERO2, _ZERO4 = bytes(6), bytes(2), bytes(4)
_MASK64 = 2**64 - 1


class Block:
    """Columns of a run of records of one stream. Treat as immutable."""

    __slots__ = ("changes", "cold", "epochs", "feeds", "hashes", "raws", "rows", "symbols", "texts", "tickers", "trades")

    def __init__(
        self,
        *,
        rows: Any,
        changes: Any,
        trades: Any,
        tickers: Any,
        cold: list[bytes],
        symbols: list[str],
        epochs: list[bytes],
        feeds: list[str],
        texts: list[str],
        hashes: dict[int, bytes] | None = None,
        raws: list[bytes] | None = None,
    ) -> None:
        self.rows = rows
        self.changes = changes
        self.trades = trades
        self.tickers = tickers
        self.cold = cold  # entries of the cold kinds, encoded without their raw bytes and hash
        self.symbols = symbols
        self.epochs = epochs
        self.feeds = feeds
        self.texts = texts
        self.hashes = hashes or {}  # raw hashes by row, where `raw_hashes` cannot derive them
        self.raws = raws  # by row; None when read from a segment, which keeps them elsewhere

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> int:
        return int(self.rows["sequence"][0])

    @property
    def last(self) -> int:
        return int(self.rows["sequence"][-1])

    def slice(self, start: int, stop: int) -> Block:
        """Rows `start` to `stop` (exclusive); the body tables and dictionaries are shared, nothing is copied."""
        return Block(
            rows=self.rows[start:stop], changes=self.changes, trades=self.trades, tickers=self.tickers, cold=self.cold,
            symbols=self.symbols, epochs=self.epochs, feeds=self.feeds, texts=self.texts,
            hashes={row - start: h for row, h in self.hashes.items() if start <= row < stop},
            raws=None if self.raws is None else self.raws[start:stop],
        )  # fmt: skip

    def with_rows(self, rows: Any) -> Block:
        """The same tables with some of the rows only, in order; without raw bytes."""
        return Block(
            rows=rows, changes=self.changes, trades=self.trades, tickers=self.tickers, cold=self.cold,
            symbols=self.symbols, epochs=self.epochs, feeds=self.feeds, texts=self.texts,
        )  # fmt: skip

    def entry(self, index: int) -> Entry:
        """The entry of row `index`; without raw bytes where the block has none, and without its raw hash."""
        return self._entry(self.rows[index].item(), self.raws[index] if self.raws is not None else b"")

    def _entry(self, row: tuple[Any, ...], raw: bytes, raw_hash: bytes = b"") -> Entry:
        (
            _, recv_ns, mono_ns, effective_ns, venue_ns, frame, venue_seq, epoch, symbol, subscription, at, count, day, part,
            parts, kind, feed, price_exponent, size_exponent,
        ) = row  # fmt: skip
        if kind >= COLD_FROM:
            entry = decode(self.cold[at])
            return msgspec.structs.replace(entry, raw=raw, raw_hash=raw_hash) if raw or raw_hash else entry
        body: Any
        if kind == Kind.trade:
            price, size, id_hi, id_lo, id_text, aggressor, block, _ = self.trades[at].item()
            trade_id = self.texts[id_text - 1] if id_text else str(UUID(int=id_hi << 64 | id_lo))
            body = Trade(price, size, aggressor, block, trade_id)
        elif kind == Kind.ticker:
            *values, present, _ = self.tickers[at].item()
            body = Ticker(*(v if present >> i & 1 else None for i, v in enumerate(values)))
        else:
            changes = tuple(Change._make(c[:4]) for c in self.changes[at : at + count].tolist())
            body = Delta(changes) if kind == Kind.delta else Book(changes)
        return Entry(
            body, self.feeds[feed], self.symbols[symbol], self.epochs[epoch], frame, recv_ns, mono_ns, effective_ns, day, venue_ns,
            venue_seq, subscription, part, parts, price_exponent, size_exponent, raw, raw_hash,
        )  # fmt: skip

    def records(self) -> Iterator[Record]:
        """Every row as a record, in order; with raw bytes and hashes where the block has raw bytes."""
        rows = self.rows.tolist()
        if self.raws is None:
            for row in rows:
                yield Record(row[0], self._entry(row, b""))
            return
        hashes = self.raw_hashes()
        for index, row in enumerate(rows):
            yield Record(row[0], self._entry(row, self.raws[index], hashes.get(index, b"")))

    def raw_hashes(self) -> dict[int, bytes]:
        """The entries' raw hashes by row, where they have one. Needs raw bytes, of the frame's part 0 too: do not slice before."""
        assert self.raws is not None  # noqa: S101  callers have them
        rows, chain, found = self.rows, _HashChain(), dict(self.hashes)
        candidates = (rows["part"] != 0) | (rows["parts"] != 1)
        candidates[list(self.hashes)] = True
        for index in np.flatnonzero(candidates).tolist():
            row = rows[index]
            key = (int(row["feed"]), int(row["epoch"]), int(row["frame"]))
            if index not in found:
                found[index] = chain.expected(key, int(row["part"]))
            chain.saw(key, self.raws[index], found[index])
        return found

    @classmethod
    def of(cls, records: Iterable[Record]) -> Block:
        """Columns of `records`."""
        builder = BlockBuilder()
        for record in records:
            builder.add(record)
        return builder.build()


class _HashChain:
    """The raw hash an entry must have, given those before it: later parts of a frame carry the hash of part 0's raw bytes."""

    def __init__(self) -> None:
        self._key: object = None
        self._raw = b""
        self._hash = b""

    def expected(self, key: object, part: int) -> bytes:
        if not part or key != self._key:
            return b""
        if not self._hash and self._raw:
            self._hash = blake2b(self._raw, digest_size=32).digest()
        return self._hash

    def saw(self, key: object, raw: bytes, raw_hash: bytes) -> None:
        if key != self._key or raw:
            self._key, self._raw, self._hash = key, raw, raw_hash


class BlockBuilder:
    """Collects records and makes a `Block` of them. Not bounded: the caller decides when to cut."""

    def __init__(self, *, keep_raw: bool = True) -> None:
        self._keep_raw = keep_raw
        self._rows: list[tuple[Any, ...]] = []
        self._changes: list[tuple[Any, ...]] = []
        self._trades: list[tuple[Any, ...]] = []
        self._tickers: list[tuple[Any, ...]] = []
        self._cold: list[bytes] = []
        self._raws: list[bytes] = []
        self._symbols: dict[str, int] = {}
        self._epochs: dict[bytes, int] = {}
        self._feeds: dict[str, int] = {}
        self._texts: list[str] = []
        self._chain = _HashChain()
        self._hashes: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, record: Record) -> None:
        sequence, e = record
        body = e.body
        kind = type(body)
        count = 1
        if kind is Delta or kind is Book:
            code = 2 if kind is Delta else 1
            changes: tuple[Change, ...] = body.changes if kind is Delta else body.levels  # type: ignore[union-attr]
            at = len(self._changes)
            count = len(changes)
            self._changes.extend([(*c, _ZERO6) for c in changes])
        elif kind is Trade:
            code = 0
            at = len(self._trades)
            self._trades.append(self._trade(body))  # type: ignore[arg-type]
        elif kind is Ticker:
            code = 3
            at = len(self._tickers)
            values = [getattr(body, name) for name in Ticker.__struct_fields__]
            present = sum(1 << i for i, v in enumerate(values) if v is not None)
            self._tickers.append((*(v or 0 for v in values), present, _ZERO4))
        else:
            code = int(e.kind)
            at = len(self._cold)
            self._cold.append(encode(msgspec.structs.replace(e, raw=b"", raw_hash=b"") if e.raw or e.raw_hash else e))
        symbols, epochs, feeds = self._symbols, self._epochs, self._feeds
        feed = feeds.setdefault(e.feed, len(feeds))
        epoch = epochs.setdefault(e.epoch, len(epochs))
        if e.part or e.parts != 1 or e.raw_hash:
            key = (feed, epoch, e.frame)
            if e.raw_hash != self._chain.expected(key, e.part):
                self._hashes[len(self._rows)] = e.raw_hash
            self._chain.saw(key, e.raw, e.raw_hash)
        self._rows.append(
            (
                sequence, e.recv_ns, e.mono_ns, e.effective_ns, e.venue_ns, e.frame, e.venue_seq,
                epoch, symbols.setdefault(e.symbol, len(symbols)), e.subscription,
                at, count, e.day, e.part, e.parts, code, feed, e.price_exponent, e.size_exponent,
            )
        )  # fmt: skip
        if self._keep_raw:
            self._raws.append(e.raw)

    def _trade(self, t: Trade) -> tuple[Any, ...]:
        hi = lo = text = 0
        try:
            number = int(t.trade_id.replace("-", ""), 16)
            canonical = len(t.trade_id) == 36 and str(UUID(int=number)) == t.trade_id
        except ValueError:
            canonical = False
        if canonical:
            hi, lo = number >> 64, number & _MASK64
        else:
            self._texts.append(t.trade_id)
            text = len(self._texts)
        return (t.price, t.size, hi, lo, text, t.aggressor, t.block, _ZERO2)

    def build(self) -> Block:
        """The block of all that was added; the builder may go on being used."""
        return Block(
            rows=np.array(self._rows, ROW),
            changes=np.array(self._changes, CHANGE),
            trades=np.array(self._trades, TRADE),
            tickers=np.array(self._tickers, TICKER),
            cold=list(self._cold),
            symbols=list(self._symbols),
            epochs=list(self._epochs),
            feeds=list(self._feeds),
            texts=list(self._texts),
            hashes=dict(self._hashes),
            raws=list(self._raws) if self._keep_raw else None,
        )
