"""What `ssmd journal query` looks for, and finding it: filters that are tried on the server first and on each entry always."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from journal.codec import body_kind_name
from journal.day import to_date
from journal.entry import Event, Record
from journal.errors import CallerError, NotFound
from journal.subjects import VERSIONED, Stream, escape, matches
from ssmd import tailing
from ssmd.tailing import sought

if TYPE_CHECKING:
    from ssmd.trail import Bounds, Trail

_MAX_PATTERNS = 32  # of one read, on the server; beyond, entries are compared here
_TYPE = re.compile(r"[A-Za-z0-9_-]+")
# A date's entries are at most that far from its midnight in UTC: 14 and 12 hours of timezones, a day of `day_start`, and lateness.
_BEFORE, _AFTER = timedelta(hours=48), timedelta(hours=96)
END_NS = 1 << 63  # no time is there


@dataclass(frozen=True)
class Wanted:
    """Which entries; nothing said of something means any. Values of one kind are alternatives, kinds are all to hold.

    `who` may have ``*`` for any text. A symbol is also the id of an aggregate and then means all its versions. Times are effective.
    """

    streams: tuple[str, ...] = ()
    subject: str = ""
    since_ns: int = 0
    until_ns: int = END_NS
    dates: frozenset[int] = frozenset()
    symbols: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    who: tuple[str, ...] = ()
    correlations: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for kind in self.types:
            if not _TYPE.fullmatch(kind):
                raise CallerError(f"{kind!r} is no type; write one such as trade, gap, changes or events")

    def __bool__(self) -> bool:
        """Whether anything is said at all."""
        return self != Wanted()

    @property
    def of_people(self) -> bool:
        """Whether only domain events can be meant: market messages have no actor."""
        return bool(self.who or self.correlations)

    def counts(self, stream: Stream) -> bool:
        """Whether the sequences between its bounds are the wanted entries, all of them."""
        timed = self.since_ns > 0 or self.until_ns < END_NS
        return not (self.subject or self.symbols or self.types or self.dates or self.of_people or (timed and not sought(stream)))

    def takes(self, stream: Stream, record: Record) -> bool:
        """Whether the entry is one of them."""
        e = record.entry
        kind = body_kind_name(e.body)
        return (
            self.since_ns <= e.effective_ns <= self.until_ns
            and (not self.dates or e.day in self.dates)
            and (not self.symbols or e.symbol in self.symbols or (kind in VERSIONED and e.symbol.rpartition(".")[0] in self.symbols))
            and (not self.types or kind in self.types)
            and (not self.of_people or self._takes_event(e.body))
            and (not self.subject or self._takes_subject(stream.subject(e.feed, kind, e.symbol)))
        )

    def _takes_event(self, body: object) -> bool:
        return (
            isinstance(body, Event)
            and (not self.who or bool(self._names.fullmatch(body.who)))
            and (not self.correlations or body.correlation in self.correlations)
        )

    def _takes_subject(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in tailing.patterns(self.subject))

    @cached_property
    def _names(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in self.who), re.DOTALL)

    def patterns(self, stream: Stream) -> list[str]:
        """Subject patterns that all wanted entries of the stream match; none for a stream that is read whole."""
        return tailing.patterns(self.subject) if self.subject else patterns(stream, self.types, self.symbols)


def patterns(stream: Stream, types: Iterable[str], symbols: Iterable[str]) -> list[str]:
    """Subject patterns of some types and symbols of a stream, [] for all of it, or where they are too many for one read."""
    kinds, named = sorted(types), sorted(symbols)
    if not kinds and not named:
        return []
    head = f"{stream.env}.{stream.domain}" if stream.domain else stream.subject("feed", "type", "").rsplit(".", 3)[0] + ".*"
    ends = {end for symbol in named for end in _ends(stream, symbol)} or {">"}
    found = [f"{head}.{kind}.{end}" for kind, end in product(kinds or ["*"], sorted(ends))]
    return found if len(found) <= _MAX_PATTERNS else []


def _ends(stream: Stream, symbol: str) -> set[str]:
    """What may be behind the type: the symbol's token, and of an aggregate's events one for its version too."""
    if stream.is_market:
        return {escape(symbol)}
    return {escape(symbol), f"{escape(symbol)}.*", *(stream.subject("", kind, symbol).split(".", 3)[3] for kind in VERSIONED)}


async def choose(trail: Trail, wanted: Wanted) -> list[Stream]:
    """The streams that can hold what is wanted, by name. Raises `NotFound`, with what there is, and `BadSubject`."""
    known = await trail.streams()
    if not known:
        raise NotFound("entries of environment", trail.env, hint="nothing was ever journalled in it here; see `ssmd config show`")
    found = known
    if wanted.streams:
        names = {s.name: s for s in known}
        found = []
        for name in wanted.streams:
            stream = names.get(name) or names.get(f"{trail.env}_{name}")
            if stream is None:
                raise NotFound("stream", name, list(names))
            found.append(stream)
    if wanted.subject:
        holding = tailing.holding(known, trail.env, wanted.subject)
        if not holding:
            raise NotFound("stream for subject", wanted.subject, [s.subjects("feed")[0] for s in known])
        found = [s for s in found if s in holding]
    return [s for s in found if not (wanted.of_people and s.is_market)]


async def bound(trail: Trail, stream: Stream, wanted: Wanted) -> Bounds:
    """Where in the stream to look, as narrow as is known without reading: exact for times where they never decrease."""
    bounds = await trail.bounds(stream)
    if bounds.last < bounds.first or not sought(stream):
        return bounds
    since_ns, until_ns = wanted.since_ns, wanted.until_ns
    if wanted.dates:
        since_ns = max(since_ns, _midnight_ns(min(wanted.dates), -_BEFORE))
        until_ns = min(until_ns, _midnight_ns(max(wanted.dates), _AFTER))
    first, last = bounds.first, bounds.last
    if since_ns > 0:
        first = max(first, await trail.seek(stream, bounds, since_ns - 1))
    if until_ns < END_NS:
        last = min(last, await trail.seek(stream, bounds, until_ns) - 1)
    return bounds._replace(first=first, last=last)


def _midnight_ns(day: int, after: timedelta) -> int:
    return int((datetime.combine(to_date(day), time(), UTC) + after).timestamp()) * 1_000_000_000


async def matching(trail: Trail, streams: Sequence[Stream], wanted: Wanted) -> AsyncGenerator[tuple[Stream, list[Record]], None]:
    """The wanted entries, stream by stream, in order; what comes from the archive is without its raw bytes."""
    for stream in streams:
        bounds = await bound(trail, stream, wanted)
        runs = trail.runs(stream, bounds, subjects=wanted.patterns(stream), symbols=wanted.symbols or None)
        async with aclosing(runs) as reads:
            async for run in reads:
                records = run if isinstance(run, list) else run.records()
                if found := [r for r in records if wanted.takes(stream, r)]:
                    yield stream, found
