"""What a feed tells the venue: things that happen, in order, each with the venue's own time and its rendered message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import msgspec

from exchanges.simulator.book import Ladder, TrueBook, price_text
from exchanges.simulator.market import Catalogue, Fields, Market

# `at_ms`: venue time of sending, never decreasing. `body`: the JSON of the frame's `msg`.


class Delta(msgspec.Struct, gc=False):
    at_ms: int
    ticker: str
    body: bytes
    no: bool
    price: int
    change: int


class Snapshot(msgspec.Struct, gc=False):
    """A snapshot that the venue sends in-stream on its own account; it replaces the book."""

    at_ms: int
    ticker: str
    body: bytes
    yes: Ladder
    no: Ladder


class Trade(msgspec.Struct, gc=False):
    at_ms: int
    ticker: str
    body: bytes
    price: int  # yes price
    count: int


class Ticker(msgspec.Struct, gc=False):
    at_ms: int
    ticker: str
    body: bytes


class Lifecycle(msgspec.Struct, gc=False):
    """A message of the lifecycle channel. `listing`: the market it creates; an empty `body` lists it without a message."""

    at_ms: int
    ticker: str
    body: bytes
    event: str  # event_type
    type: str = "market_lifecycle_v2"
    listing: Market | None = None
    event_fields: Fields | None = None
    series_fields: Fields | None = None
    result: str = ""
    settlement_value: int = 0
    close_ms: int = 0


def determined(ticker: str, at_ms: int, result: str, value: int) -> Lifecycle:
    """The venue says how a market ended; `value` in micro-dollars."""
    message = {
        "market_ticker": ticker,
        "determination_ts": at_ms // 1000,
        "result": result,
        "settlement_value": price_text(value),
        "event_type": "determined",
    }
    return Lifecycle(at_ms, ticker, msgspec.json.encode(message), "determined", result=result, settlement_value=value)


def settled(ticker: str, at_ms: int) -> Lifecycle:
    message = {"market_ticker": ticker, "settled_ts": at_ms // 1000, "event_type": "settled"}
    return Lifecycle(at_ms, ticker, msgspec.json.encode(message), "settled")


Happening = Delta | Snapshot | Trade | Ticker | Lifecycle


class Feed(Protocol):
    """Plays once."""

    skipped: Counter[str]  # what could not be played, by reason

    def catalogue(self, start_ms: int) -> Catalogue:
        """What is listed when the venue opens at `start_ms` (the wall clock's now). Called once, before `play`."""
        ...

    def books(self) -> dict[str, TrueBook]:
        """Books of markets that traded before the start; the caller's own copies. Called after `catalogue`."""
        ...

    def play(self) -> Iterator[Happening]:
        """Everything that happens. Raises `CallerError` where the source is corrupt, naming the place."""
        ...
