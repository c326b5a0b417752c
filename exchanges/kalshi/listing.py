"""The way through Kalshi's lists of markets, page by page.

Whole: ``/events?with_nested_markets=true``. It takes about as many requests as ``/markets`` (200 events of a few markets, or 1,000 markets,
a page) and no more bytes, leaves out combinations by itself, and says of each market what the market object does not: its series, which is
not always the beginning of its ticker. Changes: ``/markets?min_updated_ts=…``, the one list with that filter (it counts what is not
trading), and ``/events?tickers=…`` for the events on the page, a hundred a request. Category and tags are the series', from ``/series``
(one answer of about 20 MB) for the whole list, and from ``/series/TICKER`` for the few that a look at changes needs. No status is filtered:
one call takes one status, and a market would be missed that changes it between two lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec

from exchanges.kalshi.definitions import (
    MAX_RAW_BYTES,
    EventFacts,
    SeriesFacts,
    decode_object,
    mended,
    parse_definition,
    parse_event,
    parse_series,
)
from exchanges.markets import DefinitionPage
from journal.errors import CallerError, VenueRefused, VenueUnavailable
from journal.market import Market

EVENTS_PAGE = 200  # the venue's most; halved while the answer is larger than we read
MARKETS_PAGE = 1_000  # the venue's most
TICKERS = 100  # events of one query: about 3 kB of URL
MAX_PAGES = 20_000  # of one list: 500,000 markets are at most 2,500 pages
MAX_SERIES = 200_000  # 40 MB; the venue has about 10,000
MAX_EVENTS = 50_000  # remembered while changes are read: 20 MB; then forgotten and asked for again
SINGLE_SERIES = 64  # asked for one by one; more, and the whole list is cheaper

Found = list[tuple[Market, bytes]]


class AnswerTooLarge(VenueUnavailable):
    """An answer is larger than we read. Asking for less may help."""


class Ask(Protocol):
    def __call__(self, path: str, *, absent_ok: bool = False) -> Awaitable[bytes]:
        """The body of an answer, b"" for a 404 if `absent_ok`. Raises `VenueRefused`, `VenueUnavailable`, `AnswerTooLarge`."""
        ...


_NONE = msgspec.Raw(b"")


class _Page(msgspec.Struct):
    events: msgspec.Raw = _NONE
    markets: msgspec.Raw = _NONE
    series: msgspec.Raw = _NONE
    cursor: Any = None


class _Event(msgspec.Struct):
    event_ticker: Any = None
    series_ticker: Any = None
    title: Any = None
    category: Any = None
    markets: msgspec.Raw = _NONE


_PAGE = msgspec.json.Decoder(_Page)
_EVENT = msgspec.json.Decoder(_Event)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class Facts:
    """What the venue says of series, kept between lists: they hardly ever change."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._series: dict[str, SeriesFacts | None] = {}
        self._single = 0

    def of(self, series: str) -> SeriesFacts | None:
        return self._series.get(series)

    async def load(self) -> None:
        """All series, anew."""
        found: dict[str, SeriesFacts | None] = {}
        for raw in rows(_decoded(await self._ask("/series"), "/series").series, "/series"):
            if (record := decode_object(raw)) and (series := parse_series(record)):
                found[series[0]] = series[1]
        if len(found) > MAX_SERIES:
            raise VenueRefused(f"/series has {len(found)} series; at most {MAX_SERIES} are kept; check the feed's REST URL")
        for name, known in self._series.items():
            if known is None:
                found.setdefault(name, None)  # asked for before; not again
        self._series, self._single = found, 0

    async def find(self, names: Iterable[str], *, anew: bool = False) -> None:
        """See that what the venue says of `names` is known; it may not know them either."""
        for name in names:
            if not name or (name in self._series and not anew) or len(self._series) > MAX_SERIES:
                continue
            if self._single >= SINGLE_SERIES:
                await self.load()
                self._series.setdefault(name, None)
                continue
            self._single += 1
            body = await self._ask(f"/series/{quote(name, safe='')}", absent_ok=True)
            record = (decode_object(body) or {}).get("series")
            found = parse_series(record) if isinstance(record, dict) else None
            self._series[name] = found[1] if found else None


class Guard:
    """Refuses a list that goes in circles: by a cursor that comes again, or a page with the very same objects."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: set[str | bytes] = set()
        self._pages = 0

    def check(self, cursor: str, names: Iterable[str]) -> None:
        """`cursor` of the page that follows, `names` of what is on this one."""
        joined = "\n".join(names)
        page = blake2b(joined.encode(errors="surrogatepass"), digest_size=16).digest() if joined else b""
        if page and page in self._seen:
            raise VenueUnavailable(f"{self._path} repeats a page; the list would never end")
        if cursor and cursor in self._seen:
            raise VenueUnavailable(f"{self._path} repeats a page: the same cursor came twice; the list would never end")
        self._seen.update((page, cursor))
        self._pages += 1
        if self._pages >= MAX_PAGES and cursor:
            raise VenueRefused(f"{self._path} does not end within {MAX_PAGES} pages; check the feed's REST URL, or name series")


async def whole(ask: Ask, facts: Facts, series: Sequence[str], cursor: str) -> AsyncIterator[DefinitionPage]:
    """Every market; of each of `series`, where some are named."""
    parts = [*dict.fromkeys(series)] or [""]
    part, total, at = resumed(cursor, len(parts))
    await (facts.find(parts[part:], anew=True) if series else facts.load())
    for number in range(part, len(parts)):
        guard, limit = Guard("/events"), EVENTS_PAGE
        while True:
            query = {"limit": str(limit), "with_nested_markets": "true", "series_ticker": parts[number], "cursor": at}
            try:
                page = _decoded(await ask(f"/events?{urlencode({k: v for k, v in query.items() if v})}"), "/events")
            except AnswerTooLarge as error:
                if limit == 1:
                    raise AnswerTooLarge(f"/events: {error} for one event alone; name the series that you need") from error
                limit //= 2
                continue
            found, nameless, names = await _events(page, facts)
            at = _cursor(page, "/events")
            guard.check(at, names)
            total += len(found)
            following = f"{number} {total} {at}" if at else f"{number + 1} {total} " if number + 1 < len(parts) else ""
            yield DefinitionPage(found, following, total, tuple(nameless))
            if not at:
                break


async def changed(ask: Ask, facts: Facts, series: Sequence[str], since_s: int, cursor: str) -> AsyncIterator[DefinitionPage]:
    """What was changed at or after `since_s`. Series are chosen here: the venue takes no other filter beside this one."""
    _, total, at = resumed(cursor, 1)
    guard = Guard("/markets")
    events: dict[str, EventFacts | None] = {}
    while True:
        query = {"limit": str(MARKETS_PAGE), "min_updated_ts": str(since_s), "mve_filter": "exclude", "cursor": at}
        page = _decoded(await ask(f"/markets?{urlencode({k: v for k, v in query.items() if v})}"), "/markets")
        raws = rows(page.markets, "/markets")
        named = [_belongs(raw) for raw in raws]
        if len(events) > MAX_EVENTS:
            events.clear()
        await _learn(ask, events, {event for _, event in named if event})
        await facts.find({event.series for _, name in named if (event := events.get(name))})
        found: Found = []
        nameless: list[bytes] = []
        for raw, (_, name) in zip(raws, named, strict=True):
            event = events.get(name)
            if not series or (event and event.series in series):
                _define(raw, event, facts, found, nameless)
        at = _cursor(page, "/markets")
        guard.check(at, (ticker for ticker, _ in named))
        total += len(found)
        yield DefinitionPage(found, f"0 {total} {at}" if at else "", total, tuple(nameless))
        if not at:
            return


def resumed(cursor: str, parts: int) -> tuple[int, int, str]:
    """Part of the list, markets seen and the venue's cursor, of a cursor of ours."""
    if not cursor:
        return 0, 0, ""
    part, _, rest = cursor.partition(" ")
    total, _, at = rest.partition(" ")
    if not part.isdecimal() or not total.isdecimal() or int(part) >= parts:
        raise CallerError(f"cursor {cursor[:80]!r} is not of this list; begin without one")
    return int(part), int(total), at


def rows(found: msgspec.Raw, path: str) -> list[msgspec.Raw]:
    """The objects of a list, not looked into. Raises `VenueUnavailable` for what is no list."""
    try:
        return _LIST.decode(found)
    except ValueError:
        raise VenueUnavailable(f"{path} answered without its list") from None


async def _events(page: _Page, facts: Facts) -> tuple[Found, list[bytes], list[str]]:
    found: Found = []
    nameless: list[bytes] = []
    names: list[str] = []
    for raw in rows(page.events, "/events"):
        try:
            nested = _nested(raw)
            markets = [] if bytes(nested.markets) in {b"", b"null"} else rows(nested.markets, "/events")
        except (ValueError, RecursionError, VenueUnavailable):  # no object, or its markets are no list: the others still count
            nameless.append(_kept(raw))
            continue
        event = parse_event({name: getattr(nested, name) for name in ("event_ticker", "series_ticker", "title", "category")})
        names.append(event.ticker if event else "")
        if event is not None:
            await facts.find([event.series])  # a series may be newer than the list
        for market in markets:
            _define(market, event, facts, found, nameless)
    return found, nameless, names


def _nested(raw: msgspec.Raw) -> _Event:
    try:
        return _EVENT.decode(raw)
    except ValueError:
        return _EVENT.decode(mended(bytes(raw)))


def _define(raw: msgspec.Raw, event: EventFacts | None, facts: Facts, found: Found, nameless: list[bytes]) -> None:
    market = parse_definition(raw, event, facts.of(event.series) if event else None)
    if market is None:
        nameless.append(_kept(raw))
    else:
        found.append((market, _kept(raw)))


def _kept(raw: msgspec.Raw) -> bytes:
    """The object as a journal may hold it."""
    data = bytes(raw)
    return data if len(data) <= MAX_RAW_BYTES else b""


async def _learn(ask: Ask, events: dict[str, EventFacts | None], names: set[str]) -> None:
    """Ask for the events that are not known yet."""
    unknown = sorted(names - events.keys())
    for at in range(0, len(unknown), TICKERS):
        wanted = unknown[at : at + TICKERS]
        events.update(dict.fromkeys(wanted))
        page = _decoded(await ask(f"/events?{urlencode({'limit': '200', 'tickers': ','.join(wanted)})}"), "/events")
        for raw in rows(page.events, "/events"):
            if (record := decode_object(raw)) and (event := parse_event(record)):
                events[event.ticker] = event


def _belongs(raw: msgspec.Raw) -> tuple[str, str]:
    """Tickers of a market and its event, "" where it does not say."""
    record = decode_object(raw) or {}
    ticker, event = record.get("ticker"), record.get("event_ticker")
    return ticker if isinstance(ticker, str) else "", event if isinstance(event, str) and len(event) <= 200 else ""


def _decoded(body: bytes, path: str) -> _Page:
    try:
        try:
            return _PAGE.decode(body)
        except ValueError:
            return _PAGE.decode(mended(body))
    except (ValueError, RecursionError) as error:
        raise VenueUnavailable(f"{path} answered with something that is not JSON, or no object ({error})") from error


def _cursor(page: _Page, path: str) -> str:
    cursor = page.cursor or ""
    if not isinstance(cursor, str):
        raise VenueUnavailable(f"{path} answered with a cursor that is not text")
    return cursor
