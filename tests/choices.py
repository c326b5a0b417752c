"""What a connector in a test chooses its markets with: a real security master on the test's journal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from exchanges.backoff import Backoff
from exchanges.kalshi.changes import derived_changes, observed_changes
from exchanges.kalshi.rest import KalshiRest
from exchanges.markets import Selection
from journal.clock import Clock
from journal.day import DayRule
from journal.protocols import Journal
from ssmd.secmaster.choosing import Asked, Choice
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.reading import History, path_of
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import Sync
from ssmd.secmaster.view import View

ENV = "local"


def ledger_of(journal: Journal, directory: Path, clock: Clock) -> Ledger:
    backoff = Backoff(random.Random(1), 0.01, 0.1)
    return Ledger(journal, View(path_of(directory, ENV)), ENV, clock, backoff, days=DayRule(), who="test")


def sync_of(ledger: Ledger, clock: Clock) -> Sync:
    return Sync(ledger, clock, observed_changes, derived_changes)


def choice_of(
    journal: Journal, directory: Path, rest_url: str, clock: Clock, selection: Selection, *, changing: bool = True,
    kind: type[Choice] = Choice, source: Any = None,
) -> Choice:  # fmt: skip
    """Like `ssmd.secmaster.access.open_choice`; the view stays open."""
    ledger = ledger_of(journal, directory, clock)
    rng = random.Random(2)
    asked = Asked(
        sync_of(ledger, clock), source or KalshiRest(rest_url, clock, rng), "kalshi", "simulated", rng.randbytes(8).hex(), changing=changing
    )
    return kind(ledger, History(secmaster(ENV), journal), selection, clock, asked)
