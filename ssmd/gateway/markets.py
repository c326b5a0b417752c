"""Markets, their books and the events they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

from msgspec import Meta, convert
from msgspec.structs import replace

from journal.day import iso
from journal.entry import Gap as GapBody
from journal.errors import NotFound
from journal.market import Market as Definition
from journal.subjects import Stream, escape
from projections.book import BookProjection, BookState, BookView
from projections.projection import Projection
from projections.secmaster import expires_ns
from projections.ticker import TickerProjection, TickerView
from ssmd.books import book_of, find_folds
from ssmd.gateway import answers
from ssmd.gateway.desk import AsOf, Desk, LiveView
from ssmd.gateway.operation import Call, CursorText, Limit, Query, Text
from ssmd.gateway.paging import cursor_of, place_of
from ssmd.gateway.problem import Flaw, Problem
from ssmd.gateway.room import Shelf
from ssmd.moments import rfc3339
from ssmd.render import LEAST_DECIMALS, decimal_text
from ssmd.secmaster import documents
from ssmd.secmaster.past import market_as_of
from ssmd.secmaster.query import near, search
from ssmd.secmaster.view import GONE, View
from ssmd.wiring import day_rule

Status = Literal["pending", "active", "paused", "closed", "determined", "settled", "unknown"]
_PRICES = ("last", "bid", "ask")
_SIZES = ("last_size", "bid_size", "ask_size", "volume", "open_interest")
_GAPS = 20
_LOOKED_UP = 1_000  # symbols of one question
_SEARCHED = 1_000  # best ones that filters choose from


class MarketsQuery(Query, frozen=True, kw_only=True):
    category: Annotated[Text, Meta(description="Of this category.")] = ""
    series: Annotated[Text, Meta(description="Of this series.")] = ""
    event: Annotated[Text, Meta(description="Of this event.")] = ""
    status: Annotated[Status | None, Meta(description="In this state.")] = None
    q: Annotated[Text, Meta(description="Words that a market has, the last one perhaps unfinished: best first, one page.")] = ""
    limit: Limit = 100
    cursor: CursorText = None


class BookQuery(Query, frozen=True, kw_only=True):
    depth: Annotated[int, Meta(ge=0, le=10_000, description="So many levels of each side, best first; 0: all.")] = 0


# --- lists ------------------------------------------------------------------------------------------------------------------


async def list_markets(desk: Desk, call: Call) -> answers.Markets:
    query: MarketsQuery = call.query
    if query.q:
        return await _search(desk, call, query)
    as_of = await desk.moment(query.as_of, call.now_ns)
    after = place_of("markets", query, str) or ""

    async def work(shelf: Shelf) -> tuple[list[tuple[str, Definition]], int]:
        view = await shelf.markets(as_of.ns if as_of else None)
        return list(_select(view, query, after)), view.place.effective_ns

    found, at_ns = await desk.read(as_of, work)
    known = as_of is None and all(view.ready for view in desk.views)
    lines = [_line(symbol, market, desk.view_of(symbol) is not None if known else None) for symbol, market in found]
    if as_of is None and query.status in {None, "unknown"} and not (query.category or query.series or query.event):
        lines = await _with_captured(desk, lines, found, after, query.limit + 1)
    page = lines[: query.limit]
    following = cursor_of("markets", query, page[-1].symbol) if len(lines) > query.limit else None
    at_ns = as_of.ns if as_of else at_ns or desk.seen_ns(call.now_ns)
    return answers.Markets(**asked(at_ns), markets=page, next=following)


async def _search(desk: Desk, call: Call, query: MarketsQuery) -> answers.Markets:
    """Of the best `_SEARCHED` those that the filters choose, then what is captured under a name with `q` in it and not known otherwise."""
    for name in ("as_of", "cursor"):
        if getattr(query, name) is not None:
            flaw = Flaw(name, "is not for a search by words")
            raise Problem("bad-parameter", f"{name}: a search by words has neither a past nor pages", errors=(flaw,))
    named = [(name, value) for name in ("category", "series", "event", "status") if (value := getattr(query, name))]

    async def work(shelf: Shelf) -> tuple[list[tuple[str, Definition]], int]:
        view = await shelf.markets()
        found = [(hit.symbol, hit.market) for hit in search(view, query.q, _SEARCHED)]
        chosen = [(symbol, market) for symbol, market in found if all(getattr(market, name) == value for name, value in named)]
        return chosen[: query.limit], view.place.effective_ns

    found, at_ns = await desk.now.ask(work)
    known = all(view.ready for view in desk.views)
    lines = [_line(symbol, market, desk.view_of(symbol) is not None if known else None) for symbol, market in found]
    if not named or named == [("status", "unknown")]:
        like = [s for s in desk.captured.between("", None) if query.q.casefold() in s.casefold()][:_LOOKED_UP]
        more = await _strangers(desk, like, query.limit)
        listed = {line.symbol for line in lines}
        lines += [_line(s, Definition(symbol=s), captured=True) for s in more if s not in listed]
    return answers.Markets(**asked(at_ns or desk.seen_ns(call.now_ns)), markets=lines[: query.limit], next=None)


def _select(view: View, query: MarketsQuery, after: str) -> Iterable[tuple[str, Definition]]:
    named = [(name, value) for name in ("category", "series", "event", "status") if (value := getattr(query, name))]
    conditions = ["symbol > ?", *(f"{name} = ?" for name, _ in named)]
    values: list[Any] = [after, *(value for _, value in named)]
    if not query.status:
        conditions.append("status <> ?")
        values.append(GONE)
    sql = f"SELECT symbol, known FROM markets WHERE {' AND '.join(conditions)} ORDER BY symbol LIMIT ?"  # noqa: S608 (columns)
    for symbol, blob in view.query(sql, [*values, query.limit + 1]):
        if (market := view.known(blob).market) is not None:
            yield symbol, market


def _line(symbol: str, market: Definition, captured: bool | None) -> answers.MarketLine:
    return answers.MarketLine(
        symbol=symbol, status=market.status, title=market.title, category=market.category, series=market.series, event=market.event,
        open_time=rfc3339(market.open_ns), close_time=rfc3339(market.close_ns), expires_time=rfc3339(expires_ns(market)),
        result=market.result, captured=captured, href=_path(symbol),
    )  # fmt: skip


async def _with_captured(
    desk: Desk, lines: list[answers.MarketLine], found: list[tuple[str, Definition]], after: str, most: int
) -> list[answers.MarketLine]:
    """The page with markets that messages are journalled of and the security master knows nothing of."""
    last = found[-1][0] if len(found) >= most else None  # what comes behind it is for a later page
    listed = {symbol for symbol, _ in found}
    asked_of = [s for s in desk.captured.between(after, last) if s not in listed]

    more = [_line(s, Definition(symbol=s), captured=True) for s in (await _strangers(desk, asked_of, most) if asked_of else [])]
    return sorted([*lines, *more], key=lambda line: line.symbol)[:most]


async def _strangers(desk: Desk, symbols: list[str], most: int) -> list[str]:
    """Those that the security master knows neither as a market nor as an event, of which the venue tells when it is made."""

    async def work(shelf: Shelf) -> list[str]:
        view, strange = await shelf.markets(), list[str]()
        for at in range(0, len(symbols), _LOOKED_UP):
            some = symbols[at : at + _LOOKED_UP]
            known = {*view.rows(some), *_events(view, some)}
            strange += [s for s in some if s not in known]
            if len(strange) >= most:
                break
        return strange

    return await desk.now.ask(work)


def _events(view: View, names: list[str]) -> set[str]:
    marks = ", ".join("?" * len(names))
    return {event for (event,) in view.query(f"SELECT DISTINCT event FROM markets WHERE event IN ({marks})", names)}  # noqa: S608 (marks)


# --- one market -------------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """What the security master, and in the past the folds, say."""

    definition: dict[str, Any] | None
    status: str
    near: list[str]
    book: tuple[Stream, BookView] | None = None
    ticker: TickerView | None = None
    gaps: tuple[answers.Gap, ...] = ()


async def show_market(desk: Desk, call: Call) -> answers.Market:
    symbol = call.path["symbol"]
    as_of = await desk.moment(call.query.as_of, call.now_ns)
    live = desk.view_of(symbol) if as_of is None else None

    async def work(shelf: Shelf) -> _Known:
        return await _known(desk, shelf, symbol, as_of, call.now_ns, fold=live is None)

    known: _Known = await desk.read(as_of, work)
    stream, book, ticker = (live.stream, *_live(live, symbol)) if live else (*(known.book or (None, None)), known.ticker)
    if known.definition is None and stream is None and book is None and ticker is None:
        raise Problem("not-found", f"no market {symbol!r}", nearest=nearest_names(desk, symbol, known.near))
    at_ns = as_of.ns if as_of else desk.seen_ns(call.now_ns)
    status = known.status or (live and _live_status(live, symbol)) or "unknown"
    return answers.Market(
        **asked(at_ns), symbol=symbol, status=status,
        definition=None if known.definition is None else convert(known.definition, answers.Definition),
        prices=_quote(desk.settings.feed, book, ticker), book=_summary(stream, book) if stream and book else None,
        captured=stream is not None, gaps=[*known.gaps], links=_links(symbol, known.definition),
    )  # fmt: skip


async def _known(desk: Desk, shelf: Shelf, symbol: str, as_of: AsOf | None, now_ns: int, *, fold: bool) -> _Known:
    definition, status, names = None, "", list[str]()
    history = shelf.history(_secmaster(desk))
    if as_of is None:
        view = await shelf.markets()
        row = view.rows([symbol]).get(symbol)
        if row is None:
            names = near(view, symbol)
        elif row.known.market is None:
            status = "removed"
        else:
            definition, status = documents.whole(row.known.market), row.known.market.status
    else:
        try:
            past = await market_as_of(history, symbol, as_of.ns)
            if past.known.market is None:
                status = "removed"
            else:
                definition, status = documents.whole(past.known.market), past.known.market.status
        except NotFound:
            pass
    gaps = await _gaps(desk, shelf, symbol, as_of, now_ns)
    if not fold or not await captured_ever(desk, shelf, symbol):
        return _Known(definition, status, names, gaps=gaps)
    found = await _past_folds(desk, shelf, symbol, as_of or AsOf(now_ns), [BookProjection, TickerProjection])
    if found is None:
        return _Known(definition, status, names, gaps=gaps)
    stream, (books, tickers) = found
    return _Known(definition, status, names, (stream, book_of(books, symbol)), _ticker_of(tickers, symbol), gaps)


async def show_book(desk: Desk, call: Call) -> answers.BookAnswer:
    symbol, depth = call.path["symbol"], call.query.depth
    as_of = await desk.moment(call.query.as_of, call.now_ns)
    if as_of is None and (live := desk.view_of(symbol)):
        book, _ = _live(live, symbol)
        view = book or BookView(symbol, BookState.SYNCING, [], [], 0, 0, 0, 0, 0)
        return _book(desk, live.stream, view, live.effective_ns, depth)

    async def work(shelf: Shelf) -> tuple[Stream, BookView]:
        at = as_of or AsOf(call.now_ns)
        if await captured_ever(desk, shelf, symbol) and (found := await _past_folds(desk, shelf, symbol, at, [BookProjection])):
            return found[0], book_of(found[1][0], symbol)
        names = near(await shelf.markets(), symbol)
        raise Problem("not-found", f"no messages of a market {symbol!r} up to then", nearest=nearest_names(desk, symbol, names))

    stream, view = await desk.past.ask(work)
    return _book(desk, stream, view, as_of.ns if as_of else call.now_ns, depth)


async def _past_folds(
    desk: Desk, shelf: Shelf, symbol: str, at: AsOf, kinds: list[Callable[[], Projection]]
) -> tuple[Stream, list[Projection]] | None:
    """Projections of the symbol as they were, in one pass."""
    exact = at.stream is not None and at.stream.is_market
    return await find_folds(
        shelf.source, shelf.storage, [at.stream] if exact and at.stream else desk.streams, symbol, kinds,
        as_of_ns=at.ns, days=day_rule(desk.settings), end=at.sequence if exact else None, ledgers=shelf.ledger,
    )  # fmt: skip


def _ticker_of(tickers: Any, symbol: str) -> TickerView | None:
    try:
        found: TickerView = tickers.ticker(symbol)
    except NotFound:
        return None
    return found


async def captured_ever(desk: Desk, shelf: Shelf, symbol: str) -> bool:
    """Whether there ever was a message of the market: one question to the journal for each shard, so that unknown names cost little."""
    for stream in desk.streams:
        subject = stream.subject("feed", "type", symbol).split(".")
        subject[-3:-1] = "*", "*"
        pattern = ".".join(subject)
        if await shelf.journal.last(stream, pattern):
            return True
        info = await shelf.journal.info(stream)
        if shelf.archive and (info is None or info.first > 1):
            for kind in ("book", "trade", "ticker", "lifecycle"):
                if await shelf.archive.last(stream, stream.subject(desk.settings.feed, kind, symbol)):
                    return True
    return False


async def _gaps(desk: Desk, shelf: Shelf, symbol: str, as_of: AsOf | None, now_ns: int) -> tuple[answers.Gap, ...]:
    """Of the day, of the symbol or of everything."""
    rule = day_rule(desk.settings)
    at_ns = as_of.ns if as_of else now_ns
    day = rule.day_of(at_ns)
    found: list[answers.Gap] = []
    for stream in desk.streams[:1]:
        history = shelf.history(stream)
        start = await history.seek(_opens_ns(desk, day) - 1)
        head = stream.subject("feed", "gap", "").split(".")
        head[-3] = "*"
        subjects = [".".join([*head[:-1], token]) for token in (escape(symbol), escape(""))]
        async for records in history.read(start, subjects=subjects):
            for number, entry in records:
                body = entry.body
                if isinstance(body, GapBody) and entry.effective_ns <= at_ns and entry.day == day:
                    found.append(
                        answers.Gap(
                            position=f"{stream.name}:{number}", symbol=entry.symbol, channel=body.channel, reason=body.reason,
                            from_time=rfc3339(body.from_ns), to_time=rfc3339(body.to_ns), first_missing=body.first_missing,
                            last_missing=body.last_missing, healed_by=body.healed_by,
                        )
                    )  # fmt: skip
            del found[:-_GAPS]
    return tuple(found)


# --- how they are written ---------------------------------------------------------------------------------------------------


def _live(view: LiveView, symbol: str) -> tuple[BookView | None, TickerView | None]:
    return view.books.book(symbol) if view.books.top(symbol) is not None else None, _ticker_of(view.tickers, symbol)


def _live_status(view: LiveView, symbol: str) -> str:
    try:
        return view.statuses.status(symbol).status
    except NotFound:
        return ""


def _levels(feed: str, view: BookView, side: list[tuple[int, int]], depth: int) -> list[tuple[str, str]]:
    price, size = LEAST_DECIMALS.get(feed, (0, 0))
    cut = side[:depth] if depth else side
    return [(decimal_text(p, view.price_exponent, price), decimal_text(s, view.size_exponent, size)) for p, s in cut]


def _book(desk: Desk, stream: Stream, view: BookView, at_ns: int, depth: int) -> answers.BookAnswer:
    feed = desk.settings.feed
    state: Any = view.state.name
    return answers.BookAnswer(
        **asked(at_ns), symbol=view.symbol, state=state, position=f"{stream.name}:{view.sequence}", depth=depth,
        bids=_levels(feed, view, view.bids, depth), asks=_levels(feed, view, view.asks, depth), levels=(len(view.bids), len(view.asks)),
        venue_time=rfc3339(view.venue_ns), venue_ns=view.venue_ns, recv_time=rfc3339(view.recv_ns), recv_ns=view.recv_ns,
    )  # fmt: skip


def _summary(stream: Stream, view: BookView) -> answers.BookSummary:
    state: Any = view.state.name
    return answers.BookSummary(
        state=state, position=f"{stream.name}:{view.sequence}", bids=len(view.bids), asks=len(view.asks), venue_time=rfc3339(view.venue_ns),
        recv_time=rfc3339(view.recv_ns),
    )  # fmt: skip


def _quote(feed: str, book: BookView | None, ticker: TickerView | None) -> answers.Quote:
    """The book's best where it can be trusted; else what the venue's ticker said."""
    found = answers.Quote()
    price, size = LEAST_DECIMALS.get(feed, (0, 0))
    if ticker:
        said: dict[str, str] = {}
        for names, exponent, least in ((_PRICES, ticker.price_exponent, price), (_SIZES, ticker.size_exponent, size)):
            said |= {n: decimal_text(v, exponent, least) for n in names if (v := getattr(ticker.values, n)) is not None}
        found = replace(found, **said)
    if book and book.state == BookState.VALID:
        found = replace(found, bid=None, bid_size=None, ask=None, ask_size=None)
        for bid, bid_size in _levels(feed, book, book.bids, 1):
            found = replace(found, bid=bid, bid_size=bid_size)
        for ask, ask_size in _levels(feed, book, book.asks, 1):
            found = replace(found, ask=ask, ask_size=ask_size)
    return found


def nearest_names(desk: Desk, symbol: str, known: list[str]) -> tuple[str, ...]:
    """Names like it: of the security master's, else of those that begin alike among what is captured."""
    if not known:
        start = symbol[:4]
        known = desk.captured.between(start, f"{start}\U0010ffff")[:1_000] or desk.captured.between("", None)[:5]
    return tuple(NotFound("market", symbol, known).nearest)


def _links(symbol: str, definition: dict[str, Any] | None) -> answers.Links:
    path, event = _path(symbol), (definition or {}).get("event", "")
    return answers.Links(
        self=path, book=f"{path}/book", trades=f"{path}/trades", candles=f"{path}/candles",
        event=f"/v1/markets?event={quote(event, safe='')}" if event else "", stream=f"/v1/stream?symbols={quote(symbol, safe='')}",
    )  # fmt: skip


def _path(symbol: str) -> str:
    return f"/v1/markets/{quote(symbol, safe='')}"


def asked(ns: int) -> dict[str, Any]:
    return {"as_of_time": rfc3339(ns), "as_of_ns": ns}


def _secmaster(desk: Desk) -> Stream:
    return Stream(desk.settings.env, domain="secmaster")


def _opens_ns(desk: Desk, day: int) -> int:
    from datetime import date

    return day_rule(desk.settings).opens_ns(date.fromisoformat(iso(day)))
