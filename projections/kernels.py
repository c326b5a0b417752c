"""The hot loops, compiled once and cached on disk by numba. Importing this module costs about a second: folds only.

State is one int64 row a symbol; the column numbers below are each table's layout.
"""
# ruff: noqa: PLR0917  a compiled function takes its tables by position

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import from_dtype, njit, types

from journal.block import CHANGE, ROW, TICKER, TRADE

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(signature: Any) -> Callable[[_F], _F]:
    """Compile for exactly one signature, now or from the cache; a typed face for numba's untyped decorator."""
    decorate: Any = njit([signature], cache=True)

    def keep_type(function: _F) -> _F:
        compiled_function: _F = decorate(function)
        return compiled_function

    return keep_type


def _unpadded(dtype: np.dtype[Any]) -> np.dtype[Any]:
    # numba knows no void fields; the same layout without the padding's name.
    fields = {name: field for name, field in (dtype.fields or {}).items() if not name.startswith("_")}
    formats, offsets = [field[0] for field in fields.values()], [field[1] for field in fields.values()]
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize})


CHANGES, TRADES = _unpadded(CHANGE), _unpadded(TRADE)
# Ten values and the mask, seen as one matrix of words.
TICKER_WORDS = TICKER.itemsize // 8

_ROWS = types.Array(from_dtype(ROW), 1, "C", readonly=True)
_CHANGES = types.Array(from_dtype(CHANGES), 1, "C", readonly=True)
_TRADES = types.Array(from_dtype(TRADES), 1, "C", readonly=True)
_TICKERS = types.Array(types.int64, 2, "C", readonly=True)
_IDS = types.Array(types.int64, 1, "C", readonly=True)
_TABLE = types.Array(types.int64, 2, "C")
_WORDS = types.Array(types.int64, 1, "C")
_SEEN = types.Array(types.uint64, 3, "C")
_N = types.int64

KIND_TRADE, KIND_BOOK, KIND_DELTA, KIND_TICKER = 0, 1, 2, 3

# --- order books ------------------------------------------------------------------------------------------------------------
# Two rows a symbol: 2s is the book, 2s+1 its shadow: the book of a subscription that a `switched` may move it to.
B_STATE, B_FOLLOW, B_PRICE_EXP, B_SIZE_EXP, B_SEQUENCE, B_TOUCHED = 0, 1, 2, 3, 4, 5
B_OFFSET, B_ROOM, B_COUNT = 6, 8, 10  # each for bids, then asks: where the levels are in the pool, room there, levels
B_VENUE_NS, B_RECV_NS = 12, 13
B_COLUMNS = 16
NONE, SYNCING, VALID, STALE = 0, 1, 2, 3
# What a book is at its top, as a row: state, each side's best if it has levels, units; whether one of these is another than before the row.
P_STATE, P_BIDS, P_BID, P_BID_SIZE, P_ASKS, P_ASK, P_ASK_SIZE, P_PRICE_EXP, P_SIZE_EXP = 0, 1, 2, 3, 4, 5, 6, 7, 8
P_BEST_END = 9
P_SEQUENCE, P_VENUE_NS, P_RECV_NS, P_CHANGED = 9, 10, 11, 12
P_COLUMNS = 13
_LEAST_ROOM = 8


@compiled(_N(_N))
def room_for(count: int) -> int:
    """Levels to reserve for `count`: the next power of two, at least 8; nothing for nothing."""
    if count == 0:
        return 0
    room = _LEAST_ROOM
    while room < count:
        room *= 2
    return room


@compiled(types.boolean(_TABLE, _N, _N, _N, _N, _N, _TABLE, _WORDS))
def _set_level(books: Any, book: int, side: int, price: int, size: int, op: int, pool: Any, used: Any) -> bool:
    # False, and nothing changed, where the level would become negative.
    at, count = books[book, B_OFFSET + side], books[book, B_COUNT + side]
    low, high = 0, count
    if count and pool[at + count - 1, 0] < price:
        low = count
    else:
        while low < high:
            middle = (low + high) >> 1
            if pool[at + middle, 0] < price:
                low = middle + 1
            else:
                high = middle
    found = low < count and pool[at + low, 0] == price
    if op == 0 and found:
        size += pool[at + low, 1]
    if size < 0:
        return False
    if found:
        if size:
            pool[at + low, 1] = size
        else:
            for i in range(at + low, at + count - 1):
                pool[i, 0] = pool[i + 1, 0]
                pool[i, 1] = pool[i + 1, 1]
            books[book, B_COUNT + side] = count - 1
        return True
    if size == 0:
        return True
    if count == books[book, B_ROOM + side]:
        room = room_for(count + 1)
        new = used[0]
        used[0] = new + room
        for i in range(count):
            pool[new + i, 0] = pool[at + i, 0]
            pool[new + i, 1] = pool[at + i, 1]
        books[book, B_OFFSET + side] = at = new
        books[book, B_ROOM + side] = room
    for i in range(at + count, at + low, -1):
        pool[i, 0] = pool[i - 1, 0]
        pool[i, 1] = pool[i - 1, 1]
    pool[at + low, 0] = price
    pool[at + low, 1] = size
    books[book, B_COUNT + side] = count + 1
    return True


@compiled(_N(_ROWS, _CHANGES, _N, _N, _IDS, _IDS, _TABLE, _TABLE, _WORDS))
def fold_books(rows: Any, changes: Any, start: int, stop: int, symbols: Any, epochs: Any, books: Any, pool: Any, used: Any) -> int:
    """Fold book and delta rows `start` to `stop`; the row it stopped before for want of room in the pool, else `stop`."""
    size_of_pool = pool.shape[0]
    for i in range(start, stop):
        row = rows[i]
        kind = row.kind
        if kind not in (KIND_BOOK, KIND_DELTA):
            continue
        book = symbols[row.symbol] * 2
        link = (epochs[row.epoch] << 32) | np.int64(row.subscription)
        if kind == KIND_BOOK:
            follow = books[book, B_FOLLOW]
            if follow in (0, link):
                if books[book + 1, B_FOLLOW] == link:
                    books[book + 1, B_STATE] = NONE
                    books[book + 1, B_FOLLOW] = 0
            else:
                book += 1
        else:
            if books[book, B_STATE] == NONE:
                books[book, B_STATE] = SYNCING
                books[book, B_TOUCHED] = 1
            if books[book, B_FOLLOW] != link:
                book += 1
                if books[book, B_FOLLOW] != link:
                    continue
            if books[book, B_STATE] != VALID:
                continue
        first, last = np.int64(row.body), np.int64(row.body) + np.int64(row.count)
        # Room this row can need at most: each side moved once or more, each time to twice its size (a geometric sum).
        if used[0] + 4 * (books[book, B_COUNT] + books[book, B_COUNT + 1] + last - first + 2 * _LEAST_ROOM) > size_of_pool:
            return i
        good = True
        if kind == KIND_BOOK:
            books[book, B_COUNT] = books[book, B_COUNT + 1] = 0
            books[book, B_FOLLOW] = link
            books[book, B_PRICE_EXP] = row.price_exponent
            books[book, B_SIZE_EXP] = row.size_exponent
        else:
            good = books[book, B_PRICE_EXP] == row.price_exponent and books[book, B_SIZE_EXP] == row.size_exponent
        j = first
        while good and j < last:
            change = changes[j]
            good = _set_level(books, book, change.side, change.price, change.size, change.op, pool, used)
            j += 1
        if good:
            books[book, B_STATE] = VALID
        else:
            books[book, B_STATE] = STALE
            books[book, B_FOLLOW] = 0
        books[book, B_SEQUENCE] = row.sequence
        books[book, B_VENUE_NS] = row.venue_ns
        books[book, B_RECV_NS] = row.recv_ns
        books[book, B_TOUCHED] = 1
    return stop


@compiled(_N(_TABLE, _N, _N, _N, _TABLE))
def size_of(books: Any, book: int, side: int, price: int, pool: Any) -> int:
    """Of one level; 0 for a level that there is not."""
    low, end = books[book, B_OFFSET + side], books[book, B_OFFSET + side] + books[book, B_COUNT + side]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if pool[middle, 0] < price:
            low = middle + 1
        else:
            high = middle
    return int(pool[low, 1]) if low < end and pool[low, 0] == price else 0


@compiled(types.void(_TABLE, _N, _TABLE, _TABLE, _N))
def write_top(books: Any, book: int, pool: Any, tops: Any, at: int) -> None:
    """The top of one book, to row `at` of `tops`."""
    bids, asks = books[book, B_COUNT], books[book, B_COUNT + 1]
    bid, ask = books[book, B_OFFSET] + bids - 1, books[book, B_OFFSET + 1]  # levels ascend
    tops[at, P_STATE] = books[book, B_STATE]
    tops[at, P_BIDS], tops[at, P_ASKS] = bids > 0, asks > 0
    tops[at, P_BID], tops[at, P_BID_SIZE] = (pool[bid, 0], pool[bid, 1]) if bids else (0, 0)
    tops[at, P_ASK], tops[at, P_ASK_SIZE] = (pool[ask, 0], pool[ask, 1]) if asks else (0, 0)
    tops[at, P_PRICE_EXP], tops[at, P_SIZE_EXP] = books[book, B_PRICE_EXP], books[book, B_SIZE_EXP]
    tops[at, P_SEQUENCE], tops[at, P_VENUE_NS], tops[at, P_RECV_NS] = (
        books[book, B_SEQUENCE],
        books[book, B_VENUE_NS],
        books[book, B_RECV_NS],
    )


@compiled(_N(_ROWS, _CHANGES, _N, _N, _IDS, _IDS, _TABLE, _TABLE, _WORDS, _TABLE, _WORDS))
def trace_books(
    rows: Any, changes: Any, start: int, stop: int, symbols: Any, epochs: Any, books: Any, pool: Any, used: Any, tops: Any, sizes: Any
) -> int:
    """As `fold_books`, and what each row made of its symbol's book: its top to that row of `tops`, which has one more for use here, and
    the sizes that a delta's levels have then to `sizes`, by change. It stops behind a snapshot, too, whose levels are read then.
    """
    scratch = tops.shape[0] - 1
    for i in range(start, stop):
        row = rows[i]
        if row.kind not in (KIND_BOOK, KIND_DELTA):
            continue
        book = symbols[row.symbol] * 2
        write_top(books, book, pool, tops, scratch)
        if fold_books(rows, changes, i, i + 1, symbols, epochs, books, pool, used) == i:
            return i
        write_top(books, book, pool, tops, i)
        tops[i, P_CHANGED] = 0
        for column in range(P_BEST_END):
            if tops[i, column] != tops[scratch, column]:
                tops[i, P_CHANGED] = 1
        if row.kind == KIND_BOOK:
            return i + 1
        for j in range(np.int64(row.body), np.int64(row.body) + np.int64(row.count)):
            sizes[j] = size_of(books, book, changes[j].side, changes[j].price, pool)
    return stop


@compiled(types.void(_TABLE, _N, _TABLE, _TABLE, _WORDS))
def compact_pool(books: Any, count: int, old: Any, new: Any, used: Any) -> None:
    """Copy the levels of the first `count` rows of `books` from `old` to `new`, with room to grow and no holes."""
    at = 0
    for book in range(count):
        for side in range(2):
            levels = books[book, B_COUNT + side]
            from_ = books[book, B_OFFSET + side]
            for i in range(levels):
                new[at + i, 0] = old[from_ + i, 0]
                new[at + i, 1] = old[from_ + i, 1]
            books[book, B_OFFSET + side] = at
            books[book, B_ROOM + side] = room_for(levels)
            at += room_for(levels)
    used[0] = at


# --- trades -----------------------------------------------------------------------------------------------------------------
T_PRESENT, T_PRICE_EXP, T_SIZE_EXP, T_PRICE, T_SIZE, T_AGGRESSOR, T_BLOCK, T_VENUE_NS = 0, 1, 2, 3, 4, 5, 6, 7
T_COUNT, T_VOLUME, T_BUY, T_SELL, T_OPEN, T_HIGH, T_LOW, T_CLOSE, T_NOTIONAL_LOW, T_NOTIONAL_HIGH = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
T_ODD, T_DAY_END = 18, 19  # T_COUNT up to T_DAY_END is the day's
T_SEQUENCE, T_TOUCHED = 19, 20
T_COLUMNS = 24
# Trade ids remembered: at least this many, at most twice. An overlap of two connections repeats trades for seconds; at the
# busiest, 1,000 a second, this covers 16 s of it.
REMEMBERED = 16_384
_SLOTS = 32_768  # a table at most half full
SEEN_SHAPE = (2, _SLOTS, 2)


@compiled(types.boolean(_SEEN, _N, types.uint64, types.uint64, types.boolean))
def _look(seen: Any, table: int, hi: int, lo: int, insert: bool) -> bool:
    at = np.int64((hi ^ (lo * np.uint64(0x9E3779B97F4A7C15)) ^ (lo >> np.uint64(29))) & np.uint64(_SLOTS - 1))
    while seen[table, at, 0] != 0 or seen[table, at, 1] != 0:
        if seen[table, at, 0] == hi and seen[table, at, 1] == lo:
            return True
        at = (at + 1) & (_SLOTS - 1)
    if insert:
        seen[table, at, 0] = hi
        seen[table, at, 1] = lo
    return False


@compiled(types.boolean(_SEEN, _WORDS, types.uint64, types.uint64))
def remember(seen: Any, seen_count: Any, hi: int, lo: int) -> bool:
    """Whether the id was among the remembered ones; it is now. `seen_count`: ids in the newer table, which one is newer."""
    if hi == 0 and lo == 0:
        return False
    newer = seen_count[1]
    if _look(seen, newer, hi, lo, False) or _look(seen, 1 - newer, hi, lo, False):
        return True
    if seen_count[0] == REMEMBERED:
        newer = 1 - newer
        seen[newer, :, :] = 0
        seen_count[0], seen_count[1] = 0, newer
    _look(seen, newer, hi, lo, True)
    seen_count[0] += 1
    return False


@compiled(types.void(_TABLE, _N, _N, _N))
def _add_product(table: Any, at: int, price: int, size: int) -> None:
    # 128-bit sum of price * size, two's complement, as low and high words: a day's notional overflows 64 bits where a venue
    # counts in millionths twice. Schoolbook in 32-bit limbs; signed correction at the end.
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    a, b = np.uint64(price), np.uint64(size)
    a0, a1, b0, b1 = a & mask, a >> shift, b & mask, b >> shift
    p00, p01, p10 = a0 * b0, a0 * b1, a1 * b0
    middle = (p00 >> shift) + (p01 & mask) + (p10 & mask)
    low = (p00 & mask) | (middle << shift)
    high = a1 * b1 + (p01 >> shift) + (p10 >> shift) + (middle >> shift)
    if price < 0:
        high -= b
    if size < 0:
        high -= a
    before = np.uint64(table[at, T_NOTIONAL_LOW])
    total = before + low
    carry = np.uint64(1) if total < before else np.uint64(0)
    table[at, T_NOTIONAL_LOW] = np.int64(total)
    table[at, T_NOTIONAL_HIGH] = np.int64(np.uint64(table[at, T_NOTIONAL_HIGH]) + high + carry)


@compiled(types.void(_ROWS, _TRADES, _N, _N, _IDS, _TABLE, _SEEN, _WORDS))
def fold_trades(rows: Any, trades: Any, start: int, stop: int, symbols: Any, table: Any, seen: Any, seen_count: Any) -> None:
    """Fold trade rows `start` to `stop`. A trade whose id is remembered is counted once."""
    for i in range(start, stop):
        row = rows[i]
        if row.kind != KIND_TRADE:
            continue
        trade = trades[row.body]
        if remember(seen, seen_count, trade.id_hi, trade.id_lo):
            continue
        s = symbols[row.symbol]
        price, size = trade.price, trade.size
        table[s, T_TOUCHED] = 1
        odd = row.price_exponent != table[s, T_PRICE_EXP] or row.size_exponent != table[s, T_SIZE_EXP]
        if odd and table[s, T_COUNT]:
            table[s, T_ODD] += 1  # other units within a day: not to be added up, and not to be hidden
            continue
        table[s, T_PRESENT] = 1
        table[s, T_PRICE_EXP] = row.price_exponent
        table[s, T_SIZE_EXP] = row.size_exponent
        table[s, T_PRICE] = table[s, T_CLOSE] = price
        table[s, T_SIZE] = size
        table[s, T_AGGRESSOR] = trade.aggressor
        table[s, T_BLOCK] = trade.block
        table[s, T_VENUE_NS] = row.venue_ns
        table[s, T_SEQUENCE] = row.sequence
        if table[s, T_COUNT] == 0:
            table[s, T_OPEN] = table[s, T_HIGH] = table[s, T_LOW] = price
        table[s, T_HIGH] = max(table[s, T_HIGH], price)
        table[s, T_LOW] = min(table[s, T_LOW], price)
        table[s, T_COUNT] += 1
        table[s, T_VOLUME] += size
        if trade.aggressor == 1:
            table[s, T_BUY] += size
        elif trade.aggressor == 2:
            table[s, T_SELL] += size
        _add_product(table, s, price, size)


# --- tickers ----------------------------------------------------------------------------------------------------------------
K_VALUES, K_MASK, K_PRICE_EXP, K_SIZE_EXP, K_VENUE_NS, K_SEQUENCE, K_TOUCHED = 0, 10, 11, 12, 13, 14, 15
K_COLUMNS = 16


@compiled(types.void(_ROWS, _TICKERS, _N, _N, _IDS, _TABLE))
def fold_tickers(rows: Any, tickers: Any, start: int, stop: int, symbols: Any, table: Any) -> None:
    """Fold ticker rows: a field keeps its value until it is sent again."""
    for i in range(start, stop):
        row = rows[i]
        if row.kind != KIND_TICKER:
            continue
        s = symbols[row.symbol]
        mask = tickers[row.body, K_MASK] & 0x3FF
        if table[s, K_PRICE_EXP] != row.price_exponent or table[s, K_SIZE_EXP] != row.size_exponent:
            table[s, :K_MASK] = 0
            table[s, K_MASK] = 0
        for n in range(K_MASK):
            if mask >> n & 1:
                table[s, K_VALUES + n] = tickers[row.body, n]
        table[s, K_MASK] |= mask
        table[s, K_PRICE_EXP] = row.price_exponent
        table[s, K_SIZE_EXP] = row.size_exponent
        table[s, K_VENUE_NS] = row.venue_ns
        table[s, K_SEQUENCE] = row.sequence
        table[s, K_TOUCHED] = 1


# --- coverage ---------------------------------------------------------------------------------------------------------------
L_LINK, L_STATUS, L_NEXT, L_ENTRIES, L_FROM_NS, L_TO_NS, L_FIRST, L_LAST, L_BEHIND, L_TOUCHED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
L_COLUMNS = 12
PROVED, PROBABLE, UNKNOWN = 1, 2, 3


@compiled(_N(_ROWS, _N, _N, _IDS, _TABLE, _N))
def fold_links(rows: Any, start: int, stop: int, epochs: Any, links: Any, count: int) -> int:
    """Count rows that simply continue their subscription; the first row that does not, else `stop`.

    `links` are searched from the newest, and the last one found is tried first.
    """
    at = count - 1
    for i in range(start, stop):
        row = rows[i]
        if row.subscription == 0 or row.part != 0:
            continue
        link = (epochs[row.epoch] << 32) | np.int64(row.subscription)
        if at < 0 or links[at, L_LINK] != link:
            at = count - 1
            while at >= 0 and links[at, L_LINK] != link:
                at -= 1
            if at < 0:
                return i
        seq = np.int64(row.venue_seq)
        status = links[at, L_STATUS]
        if links[at, L_ENTRIES] == 0:
            return i
        if status == PROVED:
            if seq != links[at, L_NEXT]:
                return i
        elif status == UNKNOWN:
            if 0 < seq < links[at, L_NEXT]:
                return i
        elif status != PROBABLE or seq != 0:
            return i
        if seq:
            links[at, L_NEXT] = seq + 1
            links[at, L_LAST] = seq
        links[at, L_ENTRIES] += 1
        links[at, L_BEHIND] = 0
        links[at, L_TOUCHED] = 1
        links[at, L_TO_NS] = row.effective_ns
    return stop
