"""What the venue said a market is: status, opening, close, determination, settlement, result."""

from __future__ import annotations

import struct
from collections.abc import Collection

import msgspec
import numpy as np

from journal.block import Block
from journal.entry import Kind, Lifecycle
from journal.errors import NotFound
from projections.rows import Cursor, Names, cold_entry, unpacked

_TIMES = struct.Struct("<6qq")


class StatusView(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Each field as last sent; "" or 0 or None: never. `status` is pending, active, paused, closed, determined, settled."""

    event: str = ""
    status: str = ""
    open_ns: int = 0
    close_ns: int = 0
    determined_ns: int = 0
    settled_ns: int = 0
    settlement_value: int | None = None
    price_exponent: int = 0
    result: str = ""


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    day: int
    sequence: int
    markets: list[tuple[str, StatusView]]


_SAVED = msgspec.msgpack.Decoder(_Saved)


class StatusProjection:
    name = "status"
    version = 1

    def __init__(self, names: Names | None = None) -> None:
        del names  # keys are few and cold: a dictionary serves
        self._cursor = Cursor()
        self._markets: dict[str, StatusView] = {}
        self._touched: set[str] = set()

    def apply(self, block: Block) -> None:
        rows = self._cursor.take(block)
        if not len(rows):
            return
        for at in np.flatnonzero(rows["kind"] == Kind.lifecycle).tolist():
            entry = cold_entry(block, rows[at])
            if isinstance(entry.body, Lifecycle):
                self._change(entry.symbol, entry.body, entry.price_exponent)

    def _change(self, symbol: str, said: Lifecycle, price_exponent: int) -> None:
        market = self._markets.setdefault(symbol, StatusView())
        self._touched.add(symbol)
        market.event = said.event
        market.status = said.status or market.status
        market.open_ns = said.open_ns or market.open_ns
        market.close_ns = said.close_ns or market.close_ns
        market.determined_ns = said.determined_ns or market.determined_ns
        market.settled_ns = said.settled_ns or market.settled_ns
        market.result = said.result or market.result
        if said.settlement_value is not None:
            market.settlement_value = said.settlement_value
            market.price_exponent = price_exponent

    def keys(self) -> list[str]:
        return sorted(self._markets)

    def status(self, symbol: str) -> StatusView:
        """Do not change what is returned. Raises `NotFound` for a market of which no lifecycle entry was seen."""
        if symbol not in self._markets:
            raise NotFound("status of", symbol, list(self._markets))
        return self._markets[symbol]

    def canonical(self, key: str) -> bytes:
        m = self._markets[key]
        settled = m.settlement_value
        words = _TIMES.pack(m.open_ns, m.close_ns, m.determined_ns, m.settled_ns, settled or 0, int(settled is not None), m.price_exponent)
        texts = [t.encode() for t in (m.event, m.status, m.result)]
        return words + b"".join(len(t).to_bytes(8, "little") + t for t in texts)

    def keep(self, keys: Collection[str]) -> None:
        self._markets = {symbol: market for symbol, market in self._markets.items() if symbol in keys}
        self._touched &= set(self._markets)

    def take_touched(self) -> set[str]:
        touched, self._touched = self._touched, set()
        return touched

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_Saved(self._cursor.day, self._cursor.sequence, sorted(self._markets.items())))

    def restore(self, snapshot: bytes) -> None:
        saved = unpacked(snapshot, _SAVED, self)
        self._cursor = Cursor(saved.day, saved.sequence)
        self._markets = dict(saved.markets)
        self._touched = set(self._markets)
