"""A venue that lists markets from memory, and what tests make of markets."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from exchanges.backoff import Backoff
from exchanges.kalshi.changes import derived_changes, observed_changes
from exchanges.markets import DefinitionPage
from journal.clock import Clock
from journal.day import DayRule
from journal.errors import VenueRefused, VenueUnavailable
from journal.market import Market, PriceRange
from journal.memory import MemoryJournal
from journal.protocols import Journal
from ssmd.render import Silent
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.sync import Question, Summary, Sync
from ssmd.secmaster.view import View

ENV = "test"
QUESTION = Question("kalshi", "http://venue/trade-api/v2")
NOON_NS = 1_786_363_200 * 10**9  # 2026-08-10T12:00:00Z
HOUR_NS = 3_600 * 10**9


class SetClock:
    """A clock that stands still until it is told, and does not wait."""

    rate = 1.0

    def __init__(self, ns: int = NOON_NS) -> None:
        self.ns = ns

    def wall_ns(self) -> int:
        return self.ns

    def mono_ns(self) -> int:
        return self.ns

    async def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class Listing:
    """Pages of `markets` in order. `fail_after` pages it does not answer any more; a cursor it did not give is refused."""

    def __init__(self, markets: Sequence[Market], *, page: int = 100) -> None:
        self.markets = list(markets)
        self.page = page
        self.fail_after = -1
        self.asked: list[tuple[int, str]] = []
        self.epoch = "a"  # of its cursors
        self.nameless: tuple[bytes, ...] = ()  # on its first page

    async def definitions(self, *, series: Sequence[str] = (), since_ns: int = 0, cursor: str = "") -> AsyncIterator[DefinitionPage]:
        self.asked.append((since_ns, cursor))
        if cursor and not cursor.startswith(self.epoch):
            raise VenueRefused("invalid cursor")
        found = [m for m in self.markets if not series or m.series in series]
        at, left = int(cursor[1:] or 0) if cursor else 0, self.fail_after
        while True:
            if left == 0:
                raise VenueUnavailable("it does not answer")
            left -= 1
            page = [(m, f'{{"ticker":"{m.symbol}"}}'.encode()) for m in found[at : at + self.page]]
            at += self.page
            more = at < len(found)
            yield DefinitionPage(page, f"{self.epoch}{at}" if more else "", min(at, len(found)), self.nameless if at == self.page else ())
            if not more:
                return


def market(n: int, **more: object) -> Market:
    """Market number `n`: of ten series and three categories, open since noon, expiring an hour after its number."""
    values: dict[str, object] = {
        "symbol": f"KXS{n % 10}-26AUG10-T{n}",
        "series": f"KXS{n % 10}",
        "event": f"KXS{n % 10}-26AUG10",
        "title": f"Will thing {n} happen?",
        "category": ("Economics", "Sports", "Weather")[n % 3],
        "status": "active",
        "venue_status": "active",
        "open_ns": NOON_NS,
        "close_ns": NOON_NS + (n + 1) * HOUR_NS,
        "price_exponent": -6,
        "price_ranges": (PriceRange(0, 1_000_000, 10_000),),
        "rules": f"Resolves to Yes if the thing with number {n} is above its strike.",
    }
    return Market(**{**values, **more})  # type: ignore[arg-type]


def ledger_of(
    directory: Path, journal: Journal | None = None, clock: Clock | None = None, name: str = "view", who: str = "tests"
) -> Ledger:
    """With a view of its own in `directory`."""
    journal, clock = journal or MemoryJournal(), clock or SetClock()
    backoff = Backoff(random.Random(1), 0.01, 0.1)
    return Ledger(journal, View(directory / f"{name}.sqlite"), ENV, clock, backoff, days=DayRule(), who=who)


async def synchronise(
    ledger: Ledger, source: Listing, clock: Clock | None = None, *, full: bool = True, question: Question = QUESTION, yes: bool = False
) -> Summary:
    sync = Sync(ledger, clock or SetClock(), observed_changes, derived_changes)
    return await sync.run(source, question, "a-run", full=full, meter=Silent(), accept_missing=yes)
