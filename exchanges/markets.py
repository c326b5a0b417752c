"""Which markets a capture is of, and where their definitions come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from journal import market as definition
from journal.entry import Lifecycle


class Market(NamedTuple):
    """A market's definition as the venue's REST gives it, in the form of its journal entry."""

    symbol: str
    body: Lifecycle
    price_exponent: int
    size_exponent: int


class MarketSource(Protocol):
    def markets(self, *, series: Iterable[str] = (), tickers: Sequence[str] = (), everything: bool = False) -> AsyncIterator[list[Market]]:
        """Pages of markets: `tickers` in any state, the open ones of each of `series`, or all open ones.

        Raises `VenueRefused`, or `VenueUnavailable` after several tries.
        """
        ...


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


@dataclass(frozen=True, slots=True)
class Selection:
    """Markets by name, by series (a new market of one is picked up when the venue announces it), or all that are open."""

    symbols: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    everything: bool = False

    def matches(self, symbol: str) -> bool:
        """Whether a market that appears later belongs to the capture."""
        return self.everything or symbol in self.symbols or symbol.partition("-")[0] in self.series
