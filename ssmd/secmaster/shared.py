"""The security master in a cache, under ``ENV:secmaster:…`` (parts of keys escaped as in `journal.subjects`)::

    markets            hash     symbol -> JSON {"market", "first_ns", "changed_ns", "changes"}, of the markets that are there
    removed            hash     symbol -> the same without "market", of those that were
    by_category:{c}    set      symbols of the markets there are of a category that has a name
    by_series:{s}      set      the same of a series
    expiring           sorted   symbols of markets that are neither determined nor settled, by seconds since 1970 of their expiry
    position           string   `ssmd.sharing.Position`

The market is as in `journal.market.Market`, without the fields that have their default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from journal.cache import NOT_OURS, cache_key
from journal.entry import Record, canonical_json
from journal.errors import BadObject
from journal.market import Market
from journal.protocols import Cache, CacheChange
from projections.secmaster import Known, change_of, changed, expires_ns

_OVER = frozenset({"determined", "settled"})


class _Shown(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A market's value in the hash."""

    first_ns: int
    changed_ns: int
    changes: int
    market: Market | None = None


_SHOWN = msgspec.json.Decoder(_Shown)


class SharedMarkets:
    """What a `SharedView` folds ``{env}_secmaster`` with; the same functions as `projections.secmaster`."""

    name = "secmaster"
    version = 1

    def __init__(self, env: str) -> None:
        self._env = env
        self.markets, self.removed, self.expiring = (self._key(name) for name in ("markets", "removed", "expiring"))

    async def change(self, cache: Cache, records: Sequence[Record]) -> CacheChange:
        """Raises `CacheError`, `CorruptionError`."""
        changes = [(entry, change) for _, entry in records if (change := change_of(entry))]
        before = await self.known(cache, {change.symbol for _, change in changes})
        after: dict[str, Known] = {}
        for entry, change in changes:
            after[change.symbol] = changed(after.get(change.symbol) or before.get(change.symbol), change, entry)
        fields: dict[str, dict[str, bytes | None]] = {}
        members: dict[str, dict[str, bool]] = {}
        scores: dict[str, float | None] = {}
        for symbol, known in after.items():
            old = before.get(symbol)
            was, now = old.market if old else None, known.market
            value = canonical_json(_Shown(known.first_ns, known.changed_ns, known.changes, now))
            fields.setdefault(self.markets if now else self.removed, {})[symbol] = value
            if old and bool(was) != bool(now):
                fields.setdefault(self.markets if was else self.removed, {})[symbol] = None
            left, joined = self._sets(was), self._sets(now)
            for key in left ^ joined:
                members.setdefault(key, {})[symbol] = key in joined
            if _score(was) != _score(now):
                scores[symbol] = _score(now)
        return CacheChange(fields=fields, members=members, scores={self.expiring: scores} if scores else {})

    async def known(self, cache: Cache, symbols: Iterable[str]) -> dict[str, Known]:
        """Those of `symbols` that were ever there. Raises `BadObject` for what is no market's value."""
        found: dict[str, Known] = {}
        left = list(symbols)
        for key in (self.markets, self.removed):
            values = dict(zip(left, await cache.fields(key, left), strict=True))
            found |= {symbol: _known(key, symbol, value) for symbol, value in values.items() if value is not None}
            left = [symbol for symbol, value in values.items() if value is None]
        return found

    def _sets(self, market: Market | None) -> set[str]:
        if market is None:
            return set()
        named = (("by_category", market.category), ("by_series", market.series))
        return {self._key(index, value) for index, value in named if value}

    def _key(self, *parts: str) -> str:
        return cache_key(self._env, self.name, *parts)


def _score(market: Market | None) -> float | None:
    """Expiry in seconds since 1970, None where it is over or not known."""
    if market is None or market.status in _OVER or not (ns := expires_ns(market)):
        return None
    return ns / 1e9


def _known(key: str, symbol: str, value: bytes) -> Known:
    try:
        shown = _SHOWN.decode(value)
    except NOT_OURS as error:
        raise BadObject(f"{key} has no market at {symbol}: {error}") from error
    return Known(shown.market, shown.first_ns, shown.changed_ns, shown.changes)
