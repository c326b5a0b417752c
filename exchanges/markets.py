"""Which markets a capture is of, and where their definitions come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


@dataclass(frozen=True, slots=True)
class Selection:
    """Markets by name, by series (a new market of one is picked up when the venue announces it), or all that are open."""

    symbols: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    everything: bool = False

    def matches(self, symbol: str) -> bool:
        """Whether a market that appears later belongs to the capture."""
        return self.everything or symbol in self.symbols or symbol.partition("-")[0] in self.series
