"""Which markets there are and were: the fold of ``{env}_secmaster``.

It folds a domain stream, so it is no part of the folds of market streams. The materialised view of ``ssmd.secmaster`` folds the same
entries with the same functions and has the same digest.
"""

from __future__ import annotations

import msgspec
import numpy as np

from journal.block import Block
from journal.entry import Entry, Event, Kind, canonical_json
from journal.errors import CorruptionError, NotFound
from journal.market import TYPE, Change, Market, apply, decode_change
from projections.rows import Cursor, Names, cold_entry, unpacked


class Known(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A market as the changes of it up to one place make it. `market` is None once it was removed; it may come back.

    `first_ns` and `changed_ns` are when its first and newest change happened, as the changes say; `changes` is how many there were.
    """

    market: Market | None
    first_ns: int
    changed_ns: int
    changes: int


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    day: int
    sequence: int
    markets: list[tuple[str, Known]]


_SAVED = msgspec.msgpack.Decoder(_Saved)


def change_of(entry: Entry) -> Change | None:
    """The change that an entry is; None for any other entry. Raises `CorruptionError`."""
    body = entry.body
    if not isinstance(body, Event) or body.type != TYPE:
        return None
    try:
        return decode_change(body.data)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"entry {entry.id} is no change of a market: {error}") from error


def changed(known: Known | None, change: Change, entry: Entry) -> Known:
    """`known` after `change`. Raises `CorruptionError` for one that cannot follow."""
    at_ns = change.at_ns or entry.effective_ns
    try:
        market = apply(known.market if known else None, change)
    except (ValueError, msgspec.MsgspecError) as error:
        raise CorruptionError(f"entry {entry.id} of {change.symbol}: {error}") from error
    return Known(market, known.first_ns if known else at_ns, at_ns, known.changes + 1 if known else 1)


def canonical(known: Known) -> bytes:
    """What the digest of one market is made of. Fields that have their default are left out, so that a new one changes no old digest."""
    return canonical_json([known.first_ns, known.changed_ns, known.changes, known.market])


def expires_ns(market: Market) -> int:
    """When it is over, as far as the venue says: expected, else latest expiration, else close; 0 if it does not."""
    return market.expected_expiration_ns or market.expiration_ns or market.close_ns


class SecmasterProjection:
    name = "secmaster"
    version = 1

    def __init__(self, names: Names | None = None) -> None:
        del names  # its keys are not those of market streams
        self._cursor = Cursor()
        self._known: dict[str, Known] = {}
        self._touched: set[str] = set()

    def apply(self, block: Block) -> None:
        rows = self._cursor.take(block)
        if not len(rows):
            return
        for at in np.flatnonzero(rows["kind"] == Kind.event).tolist():
            entry = cold_entry(block, rows[at])
            if change := change_of(entry):
                self._known[change.symbol] = changed(self._known.get(change.symbol), change, entry)
                self._touched.add(change.symbol)

    def keys(self) -> list[str]:
        return sorted(self._known)

    def market(self, symbol: str) -> Market:
        """Raises `NotFound` for a market that was never there or is there no more."""
        known = self._known.get(symbol)
        if known is None or known.market is None:
            raise NotFound("market", symbol, list(self._known))
        return known.market

    def markets(self) -> dict[str, Market]:
        """Those that are there."""
        return {symbol: k.market for symbol, k in self._known.items() if k.market is not None}

    def known(self, symbol: str) -> Known | None:
        """Also of one that was removed."""
        return self._known.get(symbol)

    def canonical(self, key: str) -> bytes:
        return canonical(self._known[key])

    def take_touched(self) -> set[str]:
        touched, self._touched = self._touched, set()
        return touched

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(_Saved(self._cursor.day, self._cursor.sequence, sorted(self._known.items())))

    def restore(self, snapshot: bytes) -> None:
        saved = unpacked(snapshot, _SAVED, self)
        self._cursor = Cursor(saved.day, saved.sequence)
        self._known = dict(saved.markets)
        self._touched = set(self._known)
