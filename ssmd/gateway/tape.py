"""Trades of a market, and candles made of them: from the journal, and from the archive where the journal does not keep them any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from journal.entry import Aggressor, Record, Trade
from journal.subjects import Stream
from ssmd.gateway import answers
from ssmd.gateway.desk import AsOf, Desk
from ssmd.gateway.markets import asked, captured_ever, nearest_names
from ssmd.gateway.operation import Call, CursorText, Limit, Moment, Query
from ssmd.gateway.paging import cursor_of, place_of
from ssmd.gateway.problem import Flaw, Problem
from ssmd.gateway.room import Shelf
from ssmd.moments import parse_duration, rfc3339
from ssmd.render import LEAST_DECIMALS, decimal_text
from ssmd.secmaster.query import near

_WINDOW = 16_384  # sequences looked at first for the newest trades, then four times as many, and so on
MAX_CANDLES = 1_000
MAX_TRADES = 200_000  # that candles of one answer are made of
_LEAST_NS, _MOST_NS = 10**9, 7 * 86_400 * 10**9
_SHOWN = 100  # candles, where nobody says since when


class TradesQuery(Query, frozen=True, kw_only=True):
    since: Moment = None
    until: Moment = None
    order: Annotated[Literal["newest", "oldest"] | None, Meta(description="Which come first; newest, with `since` oldest.")] = None
    limit: Limit = 100
    cursor: CursorText = None


class CandlesQuery(Query, frozen=True, kw_only=True):
    interval: Annotated[str, Meta(max_length=20, pattern=r"^[0-9]+(s|m|h|d)$", description="1s to 7d, such as 1m, 5m, 1h or 1d.")] = "1m"
    since: Moment = None
    until: Moment = None


class Span(msgspec.Struct, frozen=True):
    """Trades of one symbol in one stream: sequences and effective times, all included."""

    stream: Stream
    subject: str
    first: int
    last: int
    since_ns: int
    until_ns: int


async def list_trades(desk: Desk, call: Call) -> answers.Trades:
    symbol, query = call.path["symbol"], call.query
    as_of = await desk.moment(query.as_of, call.now_ns)
    since = await desk.moment(query.since, call.now_ns, name="since")
    until = await desk.moment(query.until, call.now_ns, name="until")
    order: Literal["newest", "oldest"] = query.order or ("oldest" if since else "newest")
    place = place_of("trades", query, tuple[str, int])

    async def work(shelf: Shelf) -> tuple[Stream, list[Record]] | None:
        span = await _span(desk, shelf, symbol, since=since, until=until, as_of=as_of)
        if span is None:
            return None
        if place:
            stream = Stream.parse(place[0])
            first, last = (place[1] + 1, span.last) if order == "oldest" else (span.first, place[1] - 1)
            span = msgspec.structs.replace(span, first=max(first, span.first), last=min(last, span.last))
            if stream != span.stream:
                return span.stream, []
        read = _oldest if order == "oldest" else _newest
        return span.stream, await read(shelf, span, query.limit + 1)

    answered = await desk.past.ask(work)
    stream, records = answered or (desk.streams[0], [])
    page = records[: query.limit]
    at_ns = as_of.ns if as_of else _newest_ns(desk, stream, call.now_ns)
    following = cursor_of("trades", query, (stream.name, page[-1].sequence)) if len(records) > query.limit else None
    lines = [_line(stream, record, desk.settings.feed) for record in page]
    return answers.Trades(**asked(at_ns), symbol=symbol, order=order, trades=lines, next=following)


async def list_candles(desk: Desk, call: Call) -> answers.Candles:
    symbol, query = call.path["symbol"], call.query
    interval_ns = parse_duration(query.interval)
    if not _LEAST_NS <= interval_ns <= _MOST_NS:
        raise Problem("bad-parameter", "interval: from 1s to 7d", errors=(Flaw("interval", "from 1s to 7d"),))
    as_of = await desk.moment(query.as_of, call.now_ns)
    until = await desk.moment(query.until, call.now_ns, name="until")
    since = await desk.moment(query.since, call.now_ns, name="since")
    until_ns = min(m.ns for m in (until, as_of, AsOf(call.now_ns)) if m)
    since_ns = since.ns if since else until_ns - (_SHOWN - 1) * interval_ns
    since_ns = max(0, since_ns // interval_ns * interval_ns)  # of whole intervals since 1970
    if (until_ns - since_ns) // interval_ns >= MAX_CANDLES:
        reason = (
            f"{query.interval} from {rfc3339(since_ns)} are more than {MAX_CANDLES} candles; ask for a longer interval or a shorter time"
        )
        raise Problem("bad-parameter", reason, errors=(Flaw("since", reason),))

    async def work(shelf: Shelf) -> dict[int, _Bar]:
        span = await _span(desk, shelf, symbol, since=AsOf(since_ns), until=AsOf(until_ns), as_of=as_of)
        return await _bars(shelf, span, interval_ns) if span else {}

    bars = await desk.past.ask(work)
    found = [bar.candle(start_ns, desk.settings.feed) for start_ns, bar in sorted(bars.items())]
    at_ns = as_of.ns if as_of else min(until_ns, desk.seen_ns(call.now_ns))
    end_ns = -(-until_ns // interval_ns) * interval_ns
    return answers.Candles(**asked(at_ns), symbol=symbol, interval_ns=interval_ns, since_ns=since_ns, until_ns=end_ns, candles=found)


class _Bar:
    """Prices and sizes are integers of the exponents of the interval's first trade."""

    def __init__(self, record: Record, trade: Trade) -> None:
        self.exponents = record.entry.price_exponent, record.entry.size_exponent
        self.open = self.high = self.low = self.close = trade.price
        self.volume = self.trades = 0

    def add(self, record: Record, trade: Trade) -> None:
        if (record.entry.price_exponent, record.entry.size_exponent) != self.exponents:
            raise Problem("damaged", "the market's exponents changed within a candle; ask for a shorter interval")
        self.high, self.low, self.close = max(self.high, trade.price), min(self.low, trade.price), trade.price
        self.volume += trade.size
        self.trades += 1

    def candle(self, start_ns: int, feed: str) -> answers.Candle:
        (price, size), (least_price, least_size) = self.exponents, LEAST_DECIMALS.get(feed, (0, 0))
        prices = {n: decimal_text(getattr(self, n), price, least_price) for n in ("open", "high", "low", "close")}
        volume = decimal_text(self.volume, size, least_size)
        return answers.Candle(start_time=rfc3339(start_ns), start_ns=start_ns, **prices, volume=volume, trades=self.trades)


async def _bars(shelf: Shelf, span: Span, interval_ns: int) -> dict[int, _Bar]:
    """By start, in effective time. A trade that two connections saw counts once."""
    bars: dict[int, _Bar] = {}
    count, seen = 0, set[str]()
    async with aclosing(_read(shelf, span, span.first, span.last)) as reads:  # type: ignore[type-var]
        async for records in reads:
            for record in records:
                trade = record.entry.body
                if not isinstance(trade, Trade) or (trade.trade_id and trade.trade_id in seen):
                    continue
                seen.add(trade.trade_id)
                start_ns = record.entry.effective_ns // interval_ns * interval_ns
                bars.setdefault(start_ns, _Bar(record, trade)).add(record, trade)
                count += 1
            if count > MAX_TRADES:
                raise Problem(
                    "bad-parameter", f"more than {MAX_TRADES} trades; ask for a shorter time", errors=(Flaw("since", "too long"),)
                )
    return bars


async def _span(desk: Desk, shelf: Shelf, symbol: str, *, since: AsOf | None, until: AsOf | None, as_of: AsOf | None) -> Span | None:
    """Where its trades are, None where there are none. Raises `Problem` for a market that nothing is known of."""
    ends = [moment.ns for moment in (until, as_of) if moment]
    since_ns, until_ns = since.ns if since else 0, min(ends, default=(1 << 63) - 1)
    for stream in desk.streams:
        subject = _subject(stream, symbol)
        history = shelf.history(stream)
        first, last = await history.bounds()
        if first > last or not (await shelf.journal.last(stream, subject) or await _archived(shelf, desk, stream, symbol)):
            continue
        if stream.shard != "import":  # whose times are in no order
            first = max(first, await history.seek(since_ns - 1)) if since_ns else first
            last = min(last, await history.seek(until_ns) - 1) if ends else last
        for moment in (until, as_of):
            if moment and moment.stream == stream:
                last = min(last, moment.sequence)
        return Span(stream, subject, first, last, since_ns, until_ns)
    if not await captured_ever(desk, shelf, symbol):
        view = await shelf.markets()
        if not view.rows([symbol]):
            raise Problem("not-found", f"no market {symbol!r}", nearest=nearest_names(desk, symbol, near(view, symbol)))
    return None


def _subject(stream: Stream, symbol: str) -> str:
    """Its trades, of whatever feed."""
    tokens = stream.subject("feed", "trade", symbol).split(".")
    tokens[-3] = "*"
    return ".".join(tokens)


async def _archived(shelf: Shelf, desk: Desk, stream: Stream, symbol: str) -> bool:
    info = await shelf.journal.info(stream)
    if shelf.archive is None or (info and info.first <= 1):
        return False
    return await shelf.archive.last(stream, stream.subject(desk.settings.feed, "trade", symbol)) is not None


async def _read(shelf: Shelf, span: Span, first: int, last: int) -> AsyncIterator[list[Record]]:
    if first > last:
        return
    async with aclosing(shelf.history(span.stream).read(first, last, subjects=[span.subject])) as reads:
        async for records in reads:
            if found := [r for r in records if span.since_ns <= r.entry.effective_ns <= span.until_ns]:
                yield found


async def _oldest(shelf: Shelf, span: Span, count: int) -> list[Record]:
    found: list[Record] = []
    async with aclosing(_read(shelf, span, span.first, span.last)) as reads:  # type: ignore[type-var]
        async for records in reads:
            found += records
            if len(found) >= count:
                break
    return found[:count]


async def _newest(shelf: Shelf, span: Span, count: int) -> list[Record]:
    """The last `count`, newest first, looking at ever larger windows from the end."""
    window, end = _WINDOW, span.last
    found: list[Record] = []
    while end >= span.first and len(found) < count:
        start = max(span.first, end - window + 1)
        part: list[Record] = []
        async with aclosing(_read(shelf, span, start, end)) as reads:  # type: ignore[type-var]
            async for records in reads:
                part = (part + records)[-count:]
        found += part[::-1]
        end, window = start - 1, window * 4
    return found[:count]


def _newest_ns(desk: Desk, stream: Stream, now_ns: int) -> int:
    return next((view.effective_ns for view in desk.views if view.stream == stream and view.effective_ns), now_ns)


def _line(stream: Stream, record: Record, feed: str) -> answers.TradeLine:
    sequence, entry = record
    trade: Any = entry.body
    price, size = LEAST_DECIMALS.get(feed, (0, 0))
    aggressor: Any = Aggressor(trade.aggressor).name
    return answers.TradeLine(
        position=f"{stream.name}:{sequence}", trade_id=trade.trade_id, price=decimal_text(trade.price, entry.price_exponent, price),
        size=decimal_text(trade.size, entry.size_exponent, size), aggressor=aggressor, venue_time=rfc3339(entry.venue_ns),
        venue_ns=entry.venue_ns, recv_time=rfc3339(entry.recv_ns), recv_ns=entry.recv_ns,
    )  # fmt: skip
