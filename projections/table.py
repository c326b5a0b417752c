"""One int64 row a symbol: the state of the folds whose keys do not depend on each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import numpy as np

from journal.errors import BadObject, NotFound
from projections.rows import Names


class Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A table in a snapshot: rows in the order of the sorted symbols."""

    symbols: list[str]
    rows: bytes


class Table:
    """Rows indexed by `Names`' integers. Column `present` says whether a row is a key, `touched` whether it changed."""

    def __init__(self, names: Names, columns: int, *, present: int, touched: int) -> None:
        self._names = names
        self._present = present
        self._touched = touched
        self.rows = np.zeros((0, columns), np.int64)

    def reserve(self) -> None:
        """Have a row for every symbol seen; doubled, so that a symbol costs its row once."""
        wanted = len(self._names.symbol_list)
        if len(self.rows) < wanted:
            rows = np.zeros((max(wanted, 2 * len(self.rows), 64), self.rows.shape[1]), np.int64)
            rows[: len(self.rows)] = self.rows
            self.rows = rows

    def clear(self) -> None:
        self.rows[:] = 0

    def keys(self) -> list[str]:
        return sorted(self._names.symbol_list[s] for s in np.flatnonzero(self.rows[:, self._present]).tolist())

    def row(self, what: str, symbol: str) -> list[int]:
        """The symbol's row as plain integers. Raises `NotFound`."""
        at = self._names.find(symbol)
        if at is None or at >= len(self.rows) or not self.rows[at, self._present]:
            raise NotFound(what, symbol, self.keys())
        row: list[int] = self.rows[at].tolist()
        return row

    def columns(self, symbol: str, start: int, stop: int) -> bytes:
        at = self._names.symbol(symbol)
        return self.rows[at, start:stop].astype("<i8").tobytes()

    def keep(self, symbols: Collection[str]) -> None:
        """Clear every other row."""
        others = [at for at, symbol in enumerate(self._names.symbol_list[: len(self.rows)]) if symbol not in symbols]
        self.rows[others] = 0

    def take_touched(self) -> set[str]:
        touched = np.flatnonzero(self.rows[:, self._touched]).tolist()
        self.rows[:, self._touched] = 0
        return {self._names.symbol_list[s] for s in touched}

    def save(self) -> Saved:
        symbols = self.keys()
        rows = self.rows[[self._names.symbol(s) for s in symbols]]
        rows[:, self._touched] = 0
        return Saved(symbols, rows.astype("<i8").tobytes())

    def load(self, saved: Saved) -> None:
        """Replace all rows; every key counts as touched. Raises `BadObject`."""
        try:
            rows: Any = np.frombuffer(saved.rows, "<i8").reshape(len(saved.symbols), self.rows.shape[1])
        except ValueError as error:
            raise BadObject(f"not a table of {self.rows.shape[1]} columns: {error}; rebuild from the journal") from error
        at = [self._names.symbol(s) for s in saved.symbols]
        self.clear()
        self.reserve()
        self.rows[at] = rows
        self.rows[at, self._touched] = 1
