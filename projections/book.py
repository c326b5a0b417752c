"""Order books, exact: every level of every symbol, and whether it can be trusted.

A book follows one (epoch, subscription) at a time. A snapshot makes it VALID and replaces it; deltas of what it follows change it.
A gap, a lost connection or an unsubscription that covers what it follows makes it STALE, and it follows nothing until the next
snapshot. It trusts those entries, never sequence numbers.

When two connections overlap, the second one's snapshot and deltas build a shadow; `switched` puts the shadow in the book's place, so the
book is exact at every entry whichever connection runs ahead. `switched` where there is no shadow moves the book as it is: a
recording that goes on in another file.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Collection
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np

from journal.block import Block
from journal.entry import Control, Entry, Gap, Kind
from journal.errors import BadObject, NotFound
from projections import kernels as k
from projections.rows import Cursor, Names, cold_entry, epoch_meant

_HEAD = struct.Struct("<5q")  # state, price exponent, size exponent, bids, asks
_FIRST_POOL = 4_096  # levels
_SUBSCRIPTION = 0xFFFFFFFF


class BookState(IntEnum):
    SYNCING = k.SYNCING  # known, no snapshot yet
    VALID = k.VALID
    STALE = k.STALE  # was valid; entries are missing since, or one contradicted it


_STATES = (BookState.SYNCING, *BookState)  # by number, from 1: asking the enumeration takes as long as the rest of `top`


class BookView(NamedTuple):
    """One book. Levels are (price, size) integers, best first; `sequence` is the last entry folded into it, 0 if none."""

    symbol: str
    state: BookState
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]
    price_exponent: int
    size_exponent: int
    sequence: int
    venue_ns: int
    recv_ns: int


class BookTop(NamedTuple):
    """A book without its levels below the best; a side without levels has None. Cheap, however deep the book."""

    state: BookState
    bid: tuple[int, int] | None
    ask: tuple[int, int] | None
    price_exponent: int
    size_exponent: int
    sequence: int
    venue_ns: int
    recv_ns: int


def top_of(row: list[int]) -> BookTop:
    """Of a row as `kernels.write_top` writes it."""
    state, bids, bid, bid_size, asks, ask, ask_size, price_exponent, size_exponent, sequence, venue_ns, recv_ns, _ = row
    best = (bid, bid_size) if bids else None, (ask, ask_size) if asks else None
    return BookTop(_STATES[state], *best, price_exponent, size_exponent, sequence, venue_ns, recv_ns)


def _pauses(rows: Any) -> list[int]:
    """Where the compiled loops stop: rows of controls and gaps, and the end."""
    kinds = rows["kind"]
    return [*np.flatnonzero((kinds == Kind.control) | (kinds == Kind.gap)).tolist(), len(rows)]


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    day: int
    sequence: int
    symbols: list[str]
    epochs: list[bytes]
    books: bytes  # two rows a symbol: 6 book columns (follow split in epoch number and subscription), venue, receive, counts
    levels: bytes


_SAVED = msgspec.msgpack.Decoder(_Saved)


class BookProjection:
    name = "book"
    version = 1

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()
        self._clear()

    def _clear(self) -> None:
        self._cursor = Cursor()
        self._books = np.zeros((0, k.B_COLUMNS), np.int64)
        self._pool = np.zeros((_FIRST_POOL, 2), np.int64)
        self._used = np.zeros(1, np.int64)
        self._top = np.zeros((1, k.P_COLUMNS), np.int64)

    # --- fold ---------------------------------------------------------------------------------------------------------------

    def apply(self, block: Block) -> None:
        rows = self._cursor.take(block)
        stop = len(rows)
        if not stop:
            return
        symbols, epochs = self._names.symbols(block), self._names.epochs(block)
        self._reserve()
        changes = block.changes.view(k.CHANGES)
        at = 0
        for cold in _pauses(rows):
            while (at := k.fold_books(rows, changes, at, cold, symbols, epochs, self._books, self._pool, self._used)) < cold:
                self._make_room(4 * int(rows["count"][at]))
            if cold < stop:
                self._cold(cold_entry(block, rows[cold]), int(rows["sequence"][cold]))
                at = cold + 1

    def tracer(self, block: Block) -> Callable[[int], tuple[list[int], list[int]]]:
        """What folds `block` for who looks at books behind every entry. Asked for a row by its index, it has folded up to that one and
        tells the top of its symbol's book behind it (columns `kernels.P_*`) and the sizes that a delta's levels have then. To be asked in
        order for every book, delta, gap and control (of these two it tells nothing), none of them folded before, and no other block
        meanwhile. It folds ahead up to the next snapshot, gap or control: only behind those the projection itself may be asked.
        """
        rows, changes = block.rows, block.changes.view(k.CHANGES)
        symbols, epochs = self._names.symbols(block), self._names.epochs(block)
        self._reserve()
        kinds, bodies, counts = rows["kind"], rows["body"].tolist(), rows["count"].tolist()
        cold = _pauses(rows)
        hot = (kinds == Kind.book) | (kinds == Kind.delta)
        ends = np.maximum.accumulate(np.where(hot, rows["body"] + rows["count"], 0))  # of the changes up to a row
        tops, sizes = np.zeros((len(rows) + 1, k.P_COLUMNS), np.int64), np.zeros(len(changes), np.int64)
        told: list[list[int]] = []
        sized: list[int] = []
        first = reached = base = 0

        def advance(at: int) -> None:
            nonlocal told, sized, first, reached, base
            stop, first = cold[bisect_left(cold, at)], at
            if at == stop:
                self._cold(cold_entry(block, rows[at]), int(rows["sequence"][at]))
                told, reached = [[]], at + 1
            else:
                while True:
                    tables = self._books, self._pool, self._used, tops, sizes
                    if (reached := k.trace_books(rows, changes, at, stop, symbols, epochs, *tables)) > at:
                        break
                    self._make_room(4 * counts[at])
                base = int(ends[at - 1]) if at else 0
                told, sized = tops[at:reached].tolist(), sizes[base : int(ends[reached - 1])].tolist()
            self._cursor.day, self._cursor.sequence = int(rows["day"][reached - 1]), int(rows["sequence"][reached - 1])

        def trace(at: int) -> tuple[list[int], list[int]]:
            if at >= reached:
                advance(at)
            body = bodies[at] - base
            return told[at - first], sized[body : body + counts[at]]

        return trace

    def _reserve(self) -> None:
        # Two rows for every symbol ever seen; doubled, so that a symbol costs its rows once.
        wanted = 2 * len(self._names.symbol_list)
        if len(self._books) < wanted:
            books = np.zeros((max(wanted, 2 * len(self._books), 64), k.B_COLUMNS), np.int64)
            books[: len(self._books)] = self._books
            self._books = books

    def _make_room(self, extra: int) -> None:
        # The pool is at most twice what the books' levels can need, rounded up; holes of moved books go here.
        counts = self._books[:, k.B_COUNT : k.B_COUNT + 2]
        most = int(counts.sum(axis=1).max(initial=0))
        live = 2 * int(counts.sum()) + 8 * int((counts > 0).sum())  # room_for() is at most twice the count, or 8
        pool = np.empty((max(_FIRST_POOL, 2 * live + 8 * most + 2 * extra + 256), 2), np.int64)
        k.compact_pool(self._books, len(self._books), self._pool, pool, self._used)
        self._pool = pool

    def _cold(self, entry: Entry, sequence: int) -> None:
        body = entry.body
        if isinstance(body, Gap):
            self._lose(epoch_meant(entry), entry.subscription, entry.symbol)
        elif isinstance(body, Control):
            if body.action == "closed":
                self._lose(epoch_meant(entry), entry.subscription, "")
            elif body.action == "unsubscribed" and entry.subscription:
                self._lose(entry.epoch, entry.subscription, entry.symbol)
            elif body.action == "switched":
                self._switch(entry, sequence)

    def _following(self, books: Any, epoch: bytes, subscription: int) -> Any:
        follow = books[:, k.B_FOLLOW]
        found = follow >> 32 == self._names.epoch(epoch)
        return found & (follow & _SUBSCRIPTION == subscription) if subscription else found

    def _rows_of(self, symbol: str) -> slice:
        """The symbol's two rows, or all rows for "" (nothing for a symbol never seen)."""
        if not symbol:
            return slice(0, len(self._books))
        at = self._names.symbol(symbol)
        self._reserve()
        return slice(2 * at, 2 * at + 2)

    def _lose(self, epoch: bytes, subscription: int, symbol: str) -> None:
        books = self._books[self._rows_of(symbol)]
        lost = self._following(books, epoch, subscription)
        if not lost.any():
            return
        books[1::2][lost[1::2], k.B_STATE] = k.NONE
        main = books[::2]
        main[lost[::2] & (main[:, k.B_STATE] == k.VALID), k.B_STATE] = k.STALE
        main[lost[::2], k.B_TOUCHED] = 1
        books[lost, k.B_FOLLOW] = 0

    def _switch(self, entry: Entry, sequence: int) -> None:
        link = self._names.epoch(entry.epoch) << 32 | entry.subscription
        books = self._books[self._rows_of(entry.symbol)]
        to = self._following(books, entry.epoch, entry.subscription)
        main, shadow = books[::2], books[1::2]
        moved = to[1::2]
        if moved.any():
            saved = main[moved]
            main[moved] = shadow[moved]
            shadow[moved] = saved  # its levels' room is kept for the next shadow
            shadow[moved, k.B_STATE] = k.NONE
            shadow[moved, k.B_FOLLOW] = 0
            shadow[moved, k.B_COUNT : k.B_COUNT + 2] = 0
            main[moved, k.B_TOUCHED] = 1
            main[moved, k.B_SEQUENCE] = sequence
        elif entry.symbol and entry.subscription and not to[0]:
            if main[0, k.B_STATE] == k.NONE:
                main[0, k.B_STATE] = k.SYNCING
            main[0, k.B_FOLLOW] = link
            main[0, k.B_TOUCHED] = 1

    # --- questions ----------------------------------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        known = np.flatnonzero(self._books[::2, k.B_STATE]).tolist()
        return sorted(self._names.symbol_list[s] for s in known)

    def book(self, symbol: str) -> BookView:
        """The symbol's book. Raises `NotFound`, naming similar symbols, for one no entry of a book was ever seen of."""
        at = self._names.find(symbol)
        if at is None or 2 * at >= len(self._books) or not self._books[2 * at, k.B_STATE]:
            raise NotFound("book", symbol, self.keys())
        row = self._books[2 * at]
        bids, asks = self.sides(symbol)
        return BookView(
            symbol,
            BookState(int(row[k.B_STATE])),
            [(p, s) for p, s in bids.tolist()],
            [(p, s) for p, s in asks.tolist()],
            int(row[k.B_PRICE_EXP]),
            int(row[k.B_SIZE_EXP]),
            int(row[k.B_SEQUENCE]),
            int(row[k.B_VENUE_NS]),
            int(row[k.B_RECV_NS]),
        )

    def top(self, symbol: str) -> BookTop | None:
        """The symbol's state and best levels; None where `book` raises `NotFound`."""
        at = self._names.find(symbol)
        if at is None or 2 * at >= len(self._books):
            return None
        k.write_top(self._books, 2 * at, self._pool, self._top, 0)
        row = self._top[0].tolist()
        return top_of(row) if row[k.P_STATE] else None

    def sides(self, symbol: str) -> tuple[Any, Any]:
        """Its levels, bids and asks, best first, as arrays that stay as they are. Of a book that there is."""
        bids, asks = self._levels(2 * self._names.symbol(symbol))
        return bids[::-1].copy(), asks.copy()

    def _levels(self, book: int) -> tuple[Any, Any]:
        row = self._books[book]
        bid, ask = int(row[k.B_OFFSET]), int(row[k.B_OFFSET + 1])
        return self._pool[bid : bid + int(row[k.B_COUNT])], self._pool[ask : ask + int(row[k.B_COUNT + 1])]

    def canonical(self, key: str) -> bytes:
        book = 2 * self._names.symbol(key)
        row = self._books[book]
        bids, asks = self._levels(book)
        head = _HEAD.pack(int(row[k.B_STATE]), int(row[k.B_PRICE_EXP]), int(row[k.B_SIZE_EXP]), len(bids), len(asks))
        return b"".join((head, bids.tobytes(), asks.tobytes()))

    def keep(self, keys: Collection[str]) -> None:
        for symbol in set(self.keys()) - set(keys):
            self._books[self._rows_of(symbol)] = 0

    def take_touched(self) -> set[str]:
        touched = np.flatnonzero(self._books[::2, k.B_TOUCHED]).tolist()
        self._books[::2, k.B_TOUCHED] = 0
        return {self._names.symbol_list[s] for s in touched}

    # --- snapshots ----------------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        symbols = self.keys()
        at = [2 * self._names.symbol(s) for s in symbols]
        order = [b for main in at for b in (main, main + 1)]
        saved = self._books[order].copy()
        follows = saved[:, k.B_FOLLOW]
        numbers = sorted({0, *(follows >> 32).tolist()}, key=lambda e: self._names.epoch_list[e])
        rank = {number: at for at, number in enumerate(numbers)}
        saved[:, k.B_FOLLOW] = [rank[int(f) >> 32] << 32 | int(f) & _SUBSCRIPTION for f in follows]
        saved[1::2][saved[1::2, k.B_FOLLOW] == 0] = 0  # a shadow that is none, or none any more, keeps traces
        saved[:, k.B_OFFSET : k.B_OFFSET + 4] = 0
        saved[:, k.B_TOUCHED] = 0
        levels = [side for book, state in zip(order, saved[:, k.B_STATE].tolist(), strict=True) if state for side in self._levels(book)]
        return msgspec.msgpack.encode(
            _Saved(
                self._cursor.day,
                self._cursor.sequence,
                symbols,
                [self._names.epoch_list[n] for n in numbers],
                saved.tobytes(),
                np.concatenate(levels).tobytes() if levels else b"",
            )
        )

    def restore(self, snapshot: bytes) -> None:
        try:
            saved = _SAVED.decode(snapshot)
            books = np.frombuffer(saved.books, np.int64).reshape(-1, k.B_COLUMNS).copy()
            levels = np.frombuffer(saved.levels, np.int64).reshape(-1, 2)
            counts = books[:, k.B_COUNT : k.B_COUNT + 2]
            epochs = np.array([self._names.epoch(e) for e in saved.epochs], np.int64)
            books[:, k.B_FOLLOW] = epochs[books[:, k.B_FOLLOW] >> 32] << 32 | books[:, k.B_FOLLOW] & _SUBSCRIPTION
        except (msgspec.MsgspecError, ValueError, IndexError) as error:
            raise BadObject(f"not a snapshot of {self.name} {self.version}: {error}; rebuild from the journal") from error
        if len(books) != 2 * len(saved.symbols) or counts.min(initial=0) < 0 or counts.sum() != len(levels):
            raise BadObject(f"not a snapshot of {self.name} {self.version}: its counts do not match; rebuild from the journal")
        self._clear()
        self._cursor = Cursor(saved.day, saved.sequence)
        offsets = np.cumsum(counts.reshape(-1)) - counts.reshape(-1)
        books[:, k.B_OFFSET : k.B_OFFSET + 2] = offsets.reshape(-1, 2)
        books[:, k.B_ROOM : k.B_ROOM + 2] = counts
        symbols = [self._names.symbol(s) for s in saved.symbols]
        self._reserve()
        for i, s in enumerate(symbols):
            self._books[2 * s : 2 * s + 2] = books[2 * i : 2 * i + 2]
        self._books[::2, k.B_TOUCHED] = self._books[::2, k.B_STATE] != k.NONE
        self._pool = levels.copy()
        self._used[0] = len(levels)
        self._make_room(0)
