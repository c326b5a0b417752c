"""Last trade and the day's trade statistics by symbol. `day_opened` resets the day; the last trade stays.

A trade that two overlapping connections deliver is counted once: its id is remembered (`kernels.REMEMBERED`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import numpy as np

from journal.block import Block
from journal.entry import Aggressor, Control, Entry, Kind
from journal.errors import BadObject
from projections import kernels as k
from projections.rows import Cursor, Names, cold_entry, detail_of
from projections.table import Saved, Table

_WORD = 2**64


class TradeView(NamedTuple):
    """Integers in the symbol's exponents; `notional` is the sum of price times size, in both exponents together.

    `open` to `close` are 0 while `trades`, the day's count, is 0. `odd` counts trades left out: their units differ from the day's
    first ones.
    """

    symbol: str
    price: int
    size: int
    aggressor: Aggressor
    block: int
    venue_ns: int
    trades: int
    volume: int
    buy_volume: int
    sell_volume: int
    open: int
    high: int
    low: int
    close: int
    notional: int
    odd: int
    price_exponent: int
    size_exponent: int
    sequence: int


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    day: int
    sequence: int
    stats_day: int
    table: Saved
    older: bytes  # remembered ids: the older table's sorted, then the newer one's
    newer: bytes


_SAVED = msgspec.msgpack.Decoder(_Saved)


class TradesProjection:
    name = "trades"
    version = 1

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()
        self._table = Table(self._names, k.T_COLUMNS, present=k.T_PRESENT, touched=k.T_TOUCHED)
        self._clear()

    def _clear(self) -> None:
        self._cursor = Cursor()
        self._stats_day = 0
        self._table.clear()
        self._seen = np.zeros(k.SEEN_SHAPE, np.uint64)
        self._seen_count = np.zeros(2, np.int64)

    def apply(self, block: Block) -> None:
        rows = self._cursor.take(block)
        stop = len(rows)
        if not stop:
            return
        symbols = self._names.symbols(block)
        self._table.reserve()
        kinds = rows["kind"]
        at = 0
        trades = _with_ids(block, rows).view(k.TRADES)
        for cold in np.flatnonzero(kinds == Kind.control).tolist():
            k.fold_trades(rows, trades, at, cold, symbols, self._table.rows, self._seen, self._seen_count)
            self._control(cold_entry(block, rows[cold]))
            at = cold + 1
        k.fold_trades(rows, trades, at, stop, symbols, self._table.rows, self._seen, self._seen_count)

    def stepper(self, block: Block) -> Callable[[int], None]:
        """As `BookProjection.stepper`, for rows of trades."""
        rows, symbols = block.rows, self._names.symbols(block)
        self._table.reserve()
        trades = _with_ids(block, rows).view(k.TRADES)
        places = list(zip(rows["day"].tolist(), rows["sequence"].tolist(), strict=True))

        def step(at: int) -> None:
            self._cursor.day, self._cursor.sequence = places[at]
            k.fold_trades(rows, trades, at, at + 1, symbols, self._table.rows, self._seen, self._seen_count)

        return step

    def _control(self, entry: Entry) -> None:
        if not isinstance(entry.body, Control) or entry.body.action != "day_opened":
            return
        day = detail_of(entry).get("day", entry.day)
        if not isinstance(day, int) or day <= self._stats_day:
            return  # another writer of this stream opened the day already
        self._stats_day = day
        rows = self._table.rows
        rows[(rows[:, k.T_COUNT] != 0) | (rows[:, k.T_ODD] != 0), k.T_TOUCHED] = 1
        rows[:, k.T_COUNT : k.T_DAY_END] = 0

    def keys(self) -> list[str]:
        return self._table.keys()

    def trade(self, symbol: str) -> TradeView:
        """Last trade and statistics. Raises `NotFound` where no trade was seen."""
        row = self._table.row("trades of", symbol)
        notional = row[k.T_NOTIONAL_LOW] % _WORD + row[k.T_NOTIONAL_HIGH] * _WORD
        return TradeView(
            symbol, row[k.T_PRICE], row[k.T_SIZE], Aggressor(row[k.T_AGGRESSOR]), row[k.T_BLOCK], row[k.T_VENUE_NS],
            row[k.T_COUNT], row[k.T_VOLUME], row[k.T_BUY], row[k.T_SELL],
            row[k.T_OPEN], row[k.T_HIGH], row[k.T_LOW], row[k.T_CLOSE], notional, row[k.T_ODD],
            row[k.T_PRICE_EXP], row[k.T_SIZE_EXP], row[k.T_SEQUENCE],
        )  # fmt: skip

    def counted(self, symbol: str) -> tuple[int, int]:
        """Last trade's sequence and trades left out, both 0 where there was none: each trade that is not a repetition changes one."""
        at, rows = self._names.find(symbol), self._table.rows
        return (int(rows[at, k.T_SEQUENCE]), int(rows[at, k.T_ODD])) if at is not None and at < len(rows) else (0, 0)

    def canonical(self, key: str) -> bytes:
        return self._table.columns(key, k.T_PRICE_EXP, k.T_DAY_END)

    def keep(self, keys: Collection[str]) -> None:
        self._table.keep(keys)

    def take_touched(self) -> set[str]:
        return self._table.take_touched()

    def snapshot(self) -> bytes:
        newer = int(self._seen_count[1])
        ids = []
        for table in (self._seen[1 - newer], self._seen[newer]):
            kept = table[(table != 0).any(axis=1)]
            ids.append(kept[np.lexsort((kept[:, 1], kept[:, 0]))].tobytes())
        return msgspec.msgpack.encode(_Saved(self._cursor.day, self._cursor.sequence, self._stats_day, self._table.save(), *ids))

    def restore(self, snapshot: bytes) -> None:
        try:
            saved = _SAVED.decode(snapshot)
            older, newer = (np.frombuffer(ids, np.uint64).reshape(-1, 2) for ids in (saved.older, saved.newer))
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadObject(f"not a snapshot of {self.name} {self.version}: {error}; rebuild from the journal") from error
        if max(len(older), len(newer)) > k.REMEMBERED:
            raise BadObject(f"not a snapshot of {self.name} {self.version}: too many trade ids; rebuild from the journal")
        self._clear()
        self._table.load(saved.table)
        self._cursor = Cursor(saved.day, saved.sequence)
        self._stats_day = saved.stats_day
        for at, ids in ((1, older), (0, newer)):
            self._seen_count[:] = (0, at)
            for hi, lo in ids.tolist():
                k.remember(self._seen, self._seen_count, hi, lo)


def _with_ids(block: Block, rows: Any) -> Any:
    """The block's trades; an id that is text becomes a hash of it and its symbol (such ids are counters of one symbol)."""
    if not block.texts:
        return block.trades
    trades = block.trades.copy()
    for row in rows[rows["kind"] == Kind.trade]:
        at = int(row["body"])
        if number := int(trades["id_text"][at]):
            text = f"{block.symbols[int(row['symbol'])]}\0{block.texts[number - 1]}"
            digest = blake2b(text.encode(), digest_size=16).digest()
            trades["id_hi"][at] = int.from_bytes(digest[:8], "little")
            trades["id_lo"][at] = int.from_bytes(digest[8:], "little")
    return trades
