"""Which markets a capture is of, and where their definitions come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from journal import market as definition


class DefinitionPage(NamedTuple):
    """One page of definitions, each with the venue's object as it was read (empty where that was too large to keep).

    `cursor`: what to go on with after this page, "" after the last. `total_seen`: markets up to here, those before a resumed cursor too.
    `nameless`: objects that name no market.
    """

    markets: list[tuple[definition.Market, bytes]]
    cursor: str
    total_seen: int
    nameless: tuple[bytes, ...] = ()


class DefinitionSource(Protocol):
    def definitions(self, *, series: Sequence[str] = (), since_ns: int = 0, cursor: str = "") -> AsyncIterator[DefinitionPage]:
        """Pages of every market the venue lists, of any state; of `series` only, where some are named.

        `since_ns`: only what the venue has changed since. It counts in seconds, so a market may come twice, but is not missed. `cursor`: of
        an earlier page of the same question. A page may be empty. Raises `VenueRefused`, or `VenueUnavailable` after several tries: the
        pages before hold, and their last cursor goes on from there.
        """
        ...


# What a capture begins with, where nobody says otherwise: an end that has come is not captured any more.
STANDING: frozenset[str] = frozenset(("pending", "active", "paused", "unknown"))


@dataclass(frozen=True, slots=True)
class Selection:
    """Markets by name, series, category or tag: any of them chooses; or all. Of these the ones that are in one of `statuses`.

    `min_volume`: a power of ten; of these again the ones that had at least so many contracts traded when the venue last listed them.
    """

    symbols: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    everything: bool = False
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    statuses: frozenset[str] = STANDING
    min_volume: int = 0

    def matches(self, symbol: str, status: str = "pending") -> bool:
        """Whether a market that the venue just announced belongs to the capture, as far as its name tells."""
        return not self.min_volume and status in self.statuses and self._named(symbol)

    def covers(self, market: definition.Market) -> bool:
        """Whether it is one of those that are chosen, whatever state it is in."""
        return (
            self._named(market.symbol)
            or market.series in self.series
            or market.category in self.categories
            or not set(self.tags).isdisjoint(market.tags)
        )

    def begins(self, market: definition.Market) -> bool:
        """Whether its capture begins now: of one that is named in any state. One that has begun goes on until it is settled."""
        if market.symbol in self.symbols and self.statuses == STANDING and not self.min_volume:
            return True
        enough = not self.min_volume or market.volume_class >= len(str(self.min_volume))
        return enough and market.status in self.statuses and self.covers(market)

    def _named(self, symbol: str) -> bool:
        return self.everything or symbol in self.symbols or symbol.partition("-")[0] in self.series
