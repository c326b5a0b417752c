"""Where an environment's connector connects: its feed's version of today, its key, what it captures. Part of the composition root."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from exchanges.bucket import TokenBucket
from exchanges.markets import Selection
from exchanges.venues import VENUES, Venue, load
from journal.clock import Clock
from journal.errors import CallerError, KeyRefused
from ssmd.keys.secret import Secret
from ssmd.metadata.feed import Feed, FeedVersion, RateLimit
from ssmd.metadata.selectors import PATTERN, chooses, is_everything
from ssmd.settings import Settings

# Fields of the key with which a venue is entered.
KEY_FIELDS = ("key_id", "private_key")


@dataclass(frozen=True, slots=True)
class VenueAccess:
    """`signer` is None where the venue needs none, `limit` where the feed has none.

    `older_signer` has the key as it was before its last rotation, while that is valid: for a venue that does not know the new one yet.
    """

    parts: Venue
    websocket_url: str
    rest_url: str
    signer: Any = None
    limit: RateLimit | None = None
    older_signer: Any = None

    def rest(self, clock: Clock, rng: random.Random) -> Any:
        """The venue's REST, asked as often as the feed allows: a DefinitionSource."""
        bucket = TokenBucket(clock, self.limit.requests, self.limit.per_s) if self.limit else None
        return load(self.parts.rest)(self.rest_url, clock, rng, limit=bucket)


def adapter_of(venue: str) -> Venue:
    """The parts of a venue that is built. Raises `CallerError` by name."""
    if venue not in VENUES:
        raise CallerError(f"the adapter of venue {venue!r} is not built yet; built: {', '.join(VENUES)}")
    return VENUES[venue]


def feed_in_force(settings: Settings, name: str, day: date) -> tuple[Feed, FeedVersion]:
    """Feed `name` and its version of `day`. Raises `CallerError` where it may not be captured."""
    feed = settings.project.feeds.read(name)
    where = settings.project.shown(settings.project.feeds.path(name))
    if feed.status == "disabled":
        raise CallerError(f"feed {name} is disabled; {where} says so")
    version = feed.version(day)
    if version is None:
        raise CallerError(f"feed {name} has no version in force on {day}; add one to {where} with `ssmd feed add-version {name}`")
    return feed, version


def access(
    settings: Settings, name: str, day: date, *, ws_url: str | None = None, rest_url: str | None = None,
    key_id: str | None = None, key_file: Path | None = None,
) -> VenueAccess:  # fmt: skip
    """How feed `name` is reached: the URLs and key given, else the environment's, else the feed's.

    A key given means the live venue, also where the environment's is simulated. Raises `CallerError` where nothing says where a venue is,
    `KeyRefused`, `KeyUnavailable`.
    """
    feed, version = feed_in_force(settings, name, day)
    parts, venue = adapter_of(feed.venue), settings.environment.venue
    given = _key_file(parts, key_id, key_file)
    rest: str | None
    older: Any = None
    if venue.type == "live":
        ws = ws_url or settings.resolver.value(venue.endpoint or version.endpoint).reveal()
        rest = rest_url or settings.resolver.value(venue.rest or version.rest or "").reveal()
        signer = given
        if given is None and ws_url is None:
            signer, older = _declared(settings, parts, needed=version.auth_method != "none")
    elif ws_url is None and given is None:
        raise KeyRefused(
            f"environment {settings.env} has a simulated venue, which `ssmd up` starts; for the real one give --key-id UUID --key-file PEM,"
            " or name an environment whose venue is live"
        )
    else:
        ws, rest, signer = ws_url or version.endpoint, rest_url or version.rest, given
    return VenueAccess(parts, ws, rest or parts.rest_url, signer, version.rate_limit, older)


def _declared(settings: Settings, parts: Venue, *, needed: bool) -> tuple[Any, Any]:
    """The signers of the environment's key, as it is and as it was; None where there is none."""
    name = settings.environment.venue.key
    if name is None:
        if needed:
            raise KeyRefused(f"the venue needs a key: declare one and name it as venue.key of environment {settings.env}")
        return None, None
    values, previous = settings.resolver.values(name), settings.resolver.found(name).previous
    if lacking := [f for f in KEY_FIELDS if f not in values]:
        raise KeyRefused(f"key {name} is declared without {', '.join(lacking)}; a venue's key has {' and '.join(KEY_FIELDS)}")
    key_id, private_key = (values[f] for f in KEY_FIELDS)
    signer = _signer(parts, key_id, private_key, f"key {name}")
    if not previous:
        return signer, None
    return signer, _signer(parts, previous.get("key_id", key_id), previous.get("private_key", private_key), f"key {name}, previous values")


def _key_file(parts: Venue, key_id: str | None, key_file: Path | None) -> Any:
    if not key_id and not key_file:
        return None
    if not (key_id and key_file):
        raise CallerError("--key-id and --key-file belong together")
    try:
        text = key_file.read_text()
    except OSError as error:
        raise CallerError(f"--key-file {key_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CallerError(f"--key-file {key_file}: this is not a PEM file") from None
    return _signer(parts, Secret(key_id), Secret(text), f"--key-file {key_file}")


def _signer(parts: Venue, key_id: Secret, private_key: Secret, what: str) -> Any:
    make: Callable[[str, bytes], Any] = load(parts.signer)
    try:
        return make(key_id.reveal(), private_key.reveal().encode())
    except CallerError as error:
        raise KeyRefused(f"{what}: {error}") from None


def selection(settings: Settings, shard: str) -> Selection:
    """What `shard` captures: what its selector chooses; everything without one. Raises `CallerError`."""
    shards = settings.environment.shards
    if not shards:
        return Selection(everything=True)
    if shard not in shards:
        raise CallerError(f"environment {settings.env} has no shard {shard!r}; it has {', '.join(shards)}")
    wanted, symbols = shards[shard].selector, settings.environment.symbols
    narrow: dict[str, Any] = {"statuses": frozenset(wanted.statuses), "min_volume": wanted.min_volume}
    if is_everything(wanted):
        return Selection(everything=True, **narrow)
    chosen = {symbol for symbol, known in symbols.items() if chooses(wanted, symbol, known)}
    chosen |= {symbol for symbol in wanted.symbols if not set(symbol) & PATTERN}
    if not (chosen or wanted.series or wanted.categories or wanted.tags):
        raise CallerError(f"the selector of shard {shard} of environment {settings.env} matches none of its symbols")
    return Selection(tuple(sorted(chosen)), wanted.series, categories=wanted.categories, tags=wanted.tags, **narrow)
