"""The venue's own top of book and totals by symbol: each field as last sent."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec
import numpy as np

from journal.block import Block
from journal.entry import Ticker
from projections import kernels as k
from projections.rows import Cursor, Names, unpacked
from projections.table import Saved, Table


class TickerView(NamedTuple):
    """`values` holds every field the venue ever sent of this symbol, None for the others."""

    symbol: str
    values: Ticker
    price_exponent: int
    size_exponent: int
    venue_ns: int
    sequence: int


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    day: int
    sequence: int
    table: Saved


_SAVED = msgspec.msgpack.Decoder(_Saved)


class TickerProjection:
    name = "ticker"
    version = 1

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()
        self._table = Table(self._names, k.K_COLUMNS, present=k.K_SEQUENCE, touched=k.K_TOUCHED)
        self._cursor = Cursor()

    def apply(self, block: Block) -> None:
        rows = self._cursor.take(block)
        if not len(rows):
            return
        symbols = self._names.symbols(block)
        self._table.reserve()
        tickers = block.tickers.view(np.int64).reshape(-1, k.TICKER_WORDS)
        k.fold_tickers(rows, tickers, 0, len(rows), symbols, self._table.rows)

    def stepper(self, block: Block) -> Callable[[int], None]:
        """As `BookProjection.stepper`, for rows of tickers."""
        rows, symbols = block.rows, self._names.symbols(block)
        self._table.reserve()
        tickers = block.tickers.view(np.int64).reshape(-1, k.TICKER_WORDS)
        places = list(zip(rows["day"].tolist(), rows["sequence"].tolist(), strict=True))

        def step(at: int) -> None:
            self._cursor.day, self._cursor.sequence = places[at]
            k.fold_tickers(rows, tickers, at, at + 1, symbols, self._table.rows)

        return step

    def keys(self) -> list[str]:
        return self._table.keys()

    def ticker(self, symbol: str) -> TickerView:
        """Raises `NotFound` where no ticker was seen."""
        row = self._table.row("ticker of", symbol)
        mask = row[k.K_MASK]
        values = Ticker(*(row[n] if mask >> n & 1 else None for n in range(k.K_MASK)))
        return TickerView(symbol, values, row[k.K_PRICE_EXP], row[k.K_SIZE_EXP], row[k.K_VENUE_NS], row[k.K_SEQUENCE])

    def canonical(self, key: str) -> bytes:
        return self._table.columns(key, k.K_VALUES, k.K_SEQUENCE)

    def keep(self, keys: Collection[str]) -> None:
        self._table.keep(keys)

    def take_touched(self) -> set[str]:
        return self._table.take_touched()

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_Saved(self._cursor.day, self._cursor.sequence, self._table.save()))

    def restore(self, snapshot: bytes) -> None:
        saved = unpacked(snapshot, _SAVED, self)
        self._table.load(saved.table)
        self._cursor = Cursor(saved.day, saved.sequence)
