"""What commands open: an environment's security master, as it is or as it was, and its venue. Part of the composition root."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from exchanges.backoff import Backoff
from exchanges.markets import Selection
from exchanges.venues import Venue
from journal.clock import Clock
from journal.day import to_date
from journal.errors import CallerError
from journal.protocols import Journal, JournalReader
from ssmd import venues
from ssmd.keys.change import whoami
from ssmd.render import Meter
from ssmd.secmaster.choosing import Asked, Choice
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.reading import History, catch_up, path_of, view_as_of
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import Sync
from ssmd.secmaster.view import View
from ssmd.settings import Settings
from ssmd.wiring import day_rule, open_journal, open_objects

SIMULATED = "simulated"  # of whom a simulated venue's synchronisations say that they are
_RETRY_FIRST_S, _RETRY_MOST_S = 0.25, 4.0


class Opened(NamedTuple):
    view: View
    history: History


def archive_of(settings: Settings, clock: Clock) -> JournalReader | None:
    """None where the environment has none."""
    from journal.archive import ArchiveReader

    return ArchiveReader(open_objects(settings), settings.env, clock) if settings.archived else None


@asynccontextmanager
async def open_history(settings: Settings, clock: Clock) -> AsyncIterator[History]:
    """Of the journal and the archive, or of the archive alone where the data directory has no journal."""
    from journal.embedded import has_data

    archive = archive_of(settings, clock)
    if archive and settings.embedded and not has_data(settings.data_dir):
        yield History(secmaster(settings.env), archive)
        return
    async with open_journal(settings, clock, read_only=True) as journal:
        yield History(secmaster(settings.env), journal, archive)


@asynccontextmanager
async def open_markets(settings: Settings, clock: Clock, meter: Meter, *, as_of_ns: int | None = None) -> AsyncIterator[Opened]:
    """The environment's markets, up to date, or as they were at `as_of_ns`."""
    async with open_history(settings, clock) as history:
        if as_of_ns is not None:
            async with view_as_of(history, as_of_ns, meter=meter) as view:
                yield Opened(view, history)
            return
        view = View(path_of(settings.data_dir, settings.env))
        try:
            await catch_up(view, history, meter=meter)
            yield Opened(view, history)
        finally:
            view.close()


@asynccontextmanager
async def open_ledger(settings: Settings, clock: Clock, journal: Journal | None = None) -> AsyncIterator[Ledger]:
    """What changes of markets are written with; `journal` if it is open already."""
    if journal is None:
        async with open_journal(settings, clock) as opened, open_ledger(settings, clock, opened) as ledger:
            yield ledger
        return
    archive = archive_of(settings, clock)
    view = View(path_of(settings.data_dir, settings.env))
    backoff = Backoff(random.SystemRandom(), _RETRY_FIRST_S, _RETRY_MOST_S)
    try:
        yield Ledger(journal, view, settings.env, clock, backoff, days=day_rule(settings), who=whoami(), archive=archive)
    finally:
        view.close()


@asynccontextmanager
async def open_choice(
    settings: Settings, clock: Clock, journal: Journal, selection: Selection, *, feed: str, venue: venues.VenueAccess
) -> AsyncIterator[Choice]:
    """What a connector of `venue` chooses its markets with."""
    from exchanges.venues import load

    random_ = random.SystemRandom()
    async with open_ledger(settings, clock, journal) as ledger:
        # A simulated venue's address is another one each time it is started, and so are its markets.
        simulated = settings.environment.venue.type != "live" and venue.signer is None
        sync = Sync(ledger, clock, load(venue.parts.observed), load(venue.parts.due))
        url, run = SIMULATED if simulated else venue.rest_url, random_.randbytes(8).hex()
        asked = Asked(sync, venue.rest(clock, random_), feed, url, run, changing=simulated)
        yield Choice(ledger, History(secmaster(settings.env), journal, archive_of(settings, clock)), selection, clock, asked)


class DefinitionAccess(NamedTuple):
    source: Any  # a DefinitionSource
    parts: Venue
    url: str


def parts_of(settings: Settings, clock: Clock, feed: str) -> Venue:
    """The parts of the feed's venue. Raises `CallerError`."""
    found, _ = venues.feed_in_force(settings, feed, to_date(day_rule(settings).day_of(clock.wall_ns())))
    return venues.adapter_of(found.venue)


def open_definitions(settings: Settings, clock: Clock, *, feed: str, rest_url: str | None) -> DefinitionAccess:
    """The REST of the feed's venue; public, so it needs no key. Raises `CallerError`."""
    if rest_url is None and settings.environment.venue.type != "live":
        raise CallerError(
            f"environment {settings.env} has a simulated venue; name its REST with --rest-url (`ssmd sim kalshi` prints it), or an"
            " environment whose venue is live"
        )
    today = to_date(day_rule(settings).day_of(clock.wall_ns()))
    access = venues.access(settings, feed, today, ws_url="", rest_url=rest_url)
    return DefinitionAccess(access.rest(clock, random.SystemRandom()), access.parts, access.rest_url)
