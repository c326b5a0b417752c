"""The gateway's live view: one fold for each market stream, and what each entry changes as messages.

It holds no truth: it starts from the newest checkpoint, follows the journal, and may be killed at any time. Entries behind the present
end are folded in blocks; those that clients may still ask for, and all that come after, one by one, so that each is a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

import numpy as np

from journal.block import Block, BlockBuilder
from journal.entry import Gap, Kind, Record
from journal.errors import HoleInStream, JournalUnavailable
from journal.protocols import JournalReader, Storage
from journal.subjects import Stream
from projections import kernels as k
from projections.book import BookProjection, BookState, BookTop, top_of
from projections.projection import Projection
from projections.registry import create
from projections.rows import cold_entry
from projections.runner import Runner
from projections.status import StatusProjection
from projections.ticker import TickerProjection
from projections.trades import TradesProjection
from ssmd.gateway.kept import Kept
from ssmd.gateway.message import Update
from ssmd.gateway.over import LOOK_NS, MANY, Forgotten, over
from ssmd.gateway.recent import RECENT_MESSAGES, Recent
from ssmd.gateway.shown import Levels, Row, Shown
from ssmd.render import LEAST_DECIMALS
from ssmd.services.restoring import restore_newest

FOLDS = ("book", "trades", "ticker", "status")
RECENT_NS = 10 * 10**9  # of the journal before a start that is told message by message: clients of the one before come back by then
_FIRST_S = 10.0  # for an entry that is there
_BOOKS = frozenset({int(Kind.book), int(Kind.delta)})
_COLUMNS = ("kind", "body", "count", "symbol", "sequence", "recv_ns", "venue_ns", "price_exponent", "size_exponent")

Publish = Callable[[Sequence[Update]], None]


class MarketView:
    """One stream. `start`, then `follow`; questions at any time, about the state behind the entry at `position`."""

    def __init__(self, stream: Stream, feed: str, *, recent: int = RECENT_MESSAGES) -> None:
        self.stream = stream
        self.ready = False
        self.first = 1  # sequence that the journal still had at the start
        self.position = 0
        self.effective_ns = 0
        self.recent = Recent(recent)
        self.notes: list[str] = []  # why checkpoints were passed over at the start
        self.missing = ""  # what of the beginning is not known
        self.broken = ""  # why it had to begin again, the last time
        self.resumable = 0  # the least position that a client can go on from: what it has of before is of another stream
        self._whole = 1  # from this sequence on nothing is missing, as far as is known
        self._newest: Record | None = None
        self.forgotten = Forgotten()
        self._look_ns = 0  # when to look next for what is over
        self._feed, self._subjects = feed, stream.subjects(feed)
        self._keep = recent
        self._shown = Shown(stream.name, LEAST_DECIMALS.get(feed, (0, 0)))
        self._snapshots = Kept()
        self._last: dict[str, dict[str, int]] = {}  # by channel and symbol: the sequence of the newest message
        self._best: dict[str, tuple[Any, ...]] = {}  # by symbol: state, bid, ask and their units as last told
        self._listed: set[str] = set()
        self._symbols: list[str] = []
        self._sizes: list[int] = []  # of the tables that the symbols were collected from
        self._use(self._new_runner())
        self._begin()

    def _new_runner(self) -> Runner:
        return Runner(create(FOLDS), self.stream.name, mark=lambda _: 1 << 63)

    def _use(self, runner: Runner) -> None:
        books, trades, tickers, statuses = runner.projections
        self.books, self.trades = cast("BookProjection", books), cast("TradesProjection", trades)
        self.tickers, self.statuses = cast("TickerProjection", tickers), cast("StatusProjection", statuses)
        self.position, self.effective_ns = runner.here.sequence, runner.here.effective_ns

    # --- following ----------------------------------------------------------------------------------------------------------

    async def start(self, journal: JournalReader, storage: Storage, *, upto: int | None = None) -> None:
        """Restore and fold up to the present end, or to `upto`; again if need be. Raises `StoreError`, `HoleInStream`.

        Where the journal has neither the beginning nor a checkpoint, what is there is folded: books wait for their snapshots. Not
        `upto` a place, which is for going on as others did.
        """
        self.ready = False
        self.recent, self.notes, self.missing, self._newest = Recent(self._keep), [], "", None
        self._snapshots.clear()
        self.forgotten.clear()
        self._look_ns = 0
        info = await journal.info(self.stream)
        last = info.last if info else 0
        self._whole = self._whole if self._whole <= last + 1 else 1
        self.first = max(self._whole, info.first if info else 1)
        found = await restore_newest(journal, storage, self.stream, self._new_runner, first=self.first, upto=upto)
        self._use(found.runner)
        self.notes += found.notes
        if self.position < self.first - 1 and upto is None:
            self.missing = f"what was before {self.stream.name}:{self.first} is not there any more, and no checkpoint tells it"
            self.position = self.first - 1
        try:
            if upto is None:
                await self._catch_up(journal, last)
            else:
                await self._read(journal, upto, self._fold)
                self._begin()
        except HoleInStream:
            if upto is None:
                await self._look_behind(journal)
            raise
        self._newest = self._newest or await self._entry(journal, self.position)
        if self.broken:
            self.resumable = max(self.resumable, self.position)
        self.ready = True

    async def _catch_up(self, journal: JournalReader, end: int) -> None:
        """In blocks as long as no client can still ask for the messages, then one by one."""
        newest = await self._entry(journal, end) if self.position < end else None
        since_ns, told = newest.entry.effective_ns - RECENT_NS if newest else 0, False

        def take(block: Block) -> None:
            nonlocal told
            if not told and (block.last <= end - self._keep or block.rows["effective_ns"][-1] < since_ns):
                self._fold(block)
                return
            if not told:
                self._begin()
            told = True
            self.recent.add(self.changes(block))

        await self._read(journal, end, take)
        if not told:
            self._begin()

    async def _read(self, journal: JournalReader, end: int, take: Callable[[Block], object]) -> None:
        if self.position < end:
            async with aclosing(journal.read(self.stream, start=self.position + 1, end=end)) as reads:  # type: ignore[type-var]
                async for records in reads:
                    take(block_of(records))
                    self._newest = records[-1]

    async def _look_behind(self, journal: JournalReader) -> None:
        """From where on nothing is missing, after something was behind `position`. Filtered reads pass holes over."""
        at = self.position
        async with aclosing(journal.read(self.stream, start=at + 1, subjects=self._subjects)) as reads:  # type: ignore[type-var]
            async for records in reads:
                for record in records:
                    if record.sequence != at + 1:
                        self._whole = record.sequence
                    at = record.sequence

    async def follow(self, journal: JournalReader, storage: Storage, publish: Publish) -> None:
        """Fold what comes, and publish it, until cancelled; what is over is forgotten now and then. Raises `HoleInStream`, also where the
        stream is not what was folded.
        """
        info = await journal.info(self.stream)
        first, last = (info.first, info.last) if info else (1, 0)
        if last < self.position:
            raise HoleInStream(f"{self.stream.name} ends at {last} but {self.position} was folded: it was made anew or restored")
        # Read from the last one that was folded, so that the reader too knows it again after an outage.
        again = first <= self.position
        try:
            async with asyncio.timeout(_FIRST_S if again else None) as limit:
                async for records in journal.read(self.stream, start=self.position + (not again), follow=True):
                    limit.reschedule(None)
                    if self._newest and records[0].sequence == self._newest.sequence and records[0] != self._newest:
                        at = records[0].sequence
                        raise HoleInStream(
                            f"{self.stream.name}:{at} is not the entry that was folded: the stream was made anew or restored"
                        )
                    if returned := self.forgotten.among(records):
                        await self._remember(journal, storage, returned)
                    updates = self.changes(block_of(records))
                    self._newest = records[-1]
                    self.recent.add(updates)
                    publish(updates)
                    if self.effective_ns >= self._look_ns:
                        self._look_ns = self.effective_ns + LOOK_NS
                        if len(found := over(self)) >= MANY:
                            self.forget(found)
        except TimeoutError:
            raise JournalUnavailable(f"{self.stream.name}:{self.position} is not read again within {_FIRST_S:g} s") from None

    def forget(self, symbols: set[str]) -> None:
        """As if nothing had ever been said of them, but for `follow`, which folds them again when something is."""
        kept, runner, at = set(self.symbols()) - symbols, self._new_runner(), (self.position, self.effective_ns)
        folds: list[Projection] = [self.books, self.trades, self.tickers, self.statuses]
        for old, new in zip(folds, runner.projections, strict=True):
            old.keep(kept)
            new.restore(old.snapshot())
        self._use(runner)
        self.position, self.effective_ns = at
        tables: list[dict[str, Any]] = [self._best, *self._last.values()]
        for table in tables:
            for symbol in symbols & table.keys():
                del table[symbol]
        self._listed -= symbols
        self._sizes = []
        self._snapshots.clear()
        self.forgotten.add(symbols)

    async def _remember(self, journal: JournalReader, storage: Storage, symbols: set[str]) -> None:
        """Have what was forgotten again, all of it, by folding up to here once more. What the journal does not tell any more is new."""
        whole = MarketView(self.stream, self._feed, recent=0)
        try:
            await whole.start(journal, storage, upto=self.position)
        except HoleInStream:
            self.forgotten.drop(symbols)
            return
        self.books, self.trades, self.tickers, self.statuses = whole.books, whole.trades, whole.tickers, whole.statuses
        self._best, self._listed = whole._best | self._best, whole._listed | self._listed
        self._last = {channel: whole._last[channel] | last for channel, last in self._last.items()}
        self.forgotten.clear()

    async def _entry(self, journal: JournalReader, at: int) -> Record | None:
        if at >= self.first:
            async with aclosing(journal.read(self.stream, start=at, end=at)) as reads:  # type: ignore[type-var]
                async for records in reads:
                    return records[0]
        return None

    def give_up(self, why: str) -> None:
        """What was told cannot be gone on from: `start` again. Whoever was told something by now has to begin again too."""
        self.ready = False
        self.broken = why
        self.resumable = max(self.resumable, self.position + 1)

    def _fold(self, block: Block) -> None:
        for projection in (self.books, self.trades, self.tickers, self.statuses):
            projection.apply(block)
        self.position, self.effective_ns = block.last, int(block.rows["effective_ns"][-1])

    def _begin(self) -> None:
        """What the first message of each topic comes after, as far as the folds say: not of bests and statuses."""
        self.recent.since = self._begun = self.position
        books, traded, ticked = self.books.keys(), self.trades.keys(), self.tickers.keys()
        self._best = {symbol: top[:5] for symbol in books if (top := self.books.top(symbol))}
        self._last = {
            "book": {symbol: top.sequence for symbol in books if (top := self.books.top(symbol))},
            "bbo": {},
            "trade": {symbol: self.trades.trade(symbol).sequence for symbol in traded},
            "ticker": {symbol: self.tickers.ticker(symbol).sequence for symbol in ticked},
            "market": {},
            "gap": {},
        }
        self._listed = set(self.statuses.keys())

    def changes(self, block: Block) -> list[Update]:
        """Fold entry by entry; the messages of each, in order. An entry that was folded before has none."""
        out: list[Update] = []
        block = block.slice(int(np.searchsorted(block.rows["sequence"], self.position, side="right")), len(block))
        columns = [block.rows[name].tolist() for name in _COLUMNS]
        trace, step_trade, step_ticker = self.books.tracer(block), self.trades.stepper(block), self.tickers.stepper(block)
        changes = block.changes[["price", "side"]].tolist()
        for at, (kind, body, count, symbol, *rest) in enumerate(zip(*columns, strict=True)):
            row = Row(block.symbols[symbol], *rest)
            if kind in _BOOKS:
                top, sizes = trace(at)
                self._book(row, top, None if kind == Kind.book else (changes[body : body + count], sizes), out)
            elif kind == Kind.trade:
                was = self.trades.counted(row.symbol)
                step_trade(at)
                if self.trades.counted(row.symbol) != was:  # else an overlapping connection told it already
                    out.append(self._shown.trade(row, block.trades[body].item(), block.texts, self._after("trade", row)))
            elif kind == Kind.ticker:
                step_ticker(at)
                out.append(self._shown.ticker(self.tickers.ticker(row.symbol), "update", self._after("ticker", row)))
            elif kind == Kind.lifecycle:
                self.statuses.apply(block.slice(at, at + 1))
                status = self.statuses.status(row.symbol)
                self._listed.add(row.symbol)
                out.append(self._shown.market(row.symbol, row.sequence, status, "update", self._after("market", row)))
            elif kind in {Kind.gap, Kind.control}:
                self.books.take_touched()
                trace(at)
                self._connection(block.slice(at, at + 1), row, out)
            self.position = row.sequence
        if len(block):
            self.effective_ns = int(block.rows["effective_ns"][-1])
        for update in out:
            self._snapshots.forget(update.topic)
        return out

    def _after(self, channel: str, row: Row) -> int | None:
        """Where the topic's message before this one was; this one is the newest now."""
        last = self._last[channel]
        before, last[row.symbol] = last.get(row.symbol), row.sequence
        return before

    def _book(self, row: Row, top: list[int], changed: tuple[Sequence[tuple[int, int]], list[int]] | None, out: list[Update]) -> None:
        """`top` as `BookProjection.tracer` tells it; `changed`: prices and sides of a delta, and their sizes now."""
        if top[k.P_SEQUENCE] == row.sequence:  # else of a connection that the book does not follow, or of a book without a snapshot
            before = self._after("book", row)
            if top[k.P_STATE] != k.VALID:
                out.append(self._shown.stale(row.symbol, row.sequence, "an entry contradicts the book"))
            elif changed is None:
                out.append(self._shown.book(row.symbol, top_of(top), self.books.sides(row.symbol), before))
            else:
                out.append(self._shown.delta(row, _by_side(*changed), before))
        if top[k.P_CHANGED]:
            self._tell_best(row, top_of(top), out)

    def _tell_best(self, row: Row, top: BookTop, out: list[Update]) -> None:
        if self._best.get(row.symbol) != top[:5]:
            self._best[row.symbol] = top[:5]
            out.append(self._shown.bbo(row.symbol, row.sequence, top, "update", self._after("bbo", row)))

    def _connection(self, piece: Block, row: Row, out: list[Update]) -> None:
        """A gap, or a decision of the connector: it may make any number of books stale, or move them to another connection."""
        self.trades.apply(piece)
        body = cold_entry(piece, piece.rows[0]).body
        reason = f"gap: {body.reason}" if isinstance(body, Gap) else str(getattr(body, "action", ""))
        if isinstance(body, Gap):
            out.append(self._shown.gap(row, body, self._after("gap", row)))
        for symbol in sorted(self.books.take_touched()):
            top = self.books.top(symbol)
            told = row._replace(symbol=symbol)
            if top is None:
                continue
            if top.sequence == row.sequence:  # moved to another connection's book
                out.append(self._shown.book(symbol, top, self.books.sides(symbol), self._after("book", told)))
            elif top.state == BookState.STALE and (symbol not in self._best or self._best[symbol][0] != BookState.STALE):
                out.append(self._shown.stale(symbol, row.sequence, reason))
            self._tell_best(told, top, out)

    # --- questions ----------------------------------------------------------------------------------------------------------

    @property
    def newest(self) -> Record | None:
        """The record at `position`, where the journal still has it."""
        return self._newest if self._newest and self._newest.sequence == self.position else None

    def symbols(self) -> list[str]:
        """Every symbol of which anything is known, sorted."""
        tables = [self._listed, *(self._last[channel] for channel in ("book", "bbo", "trade", "ticker"))]
        sizes = [len(table) for table in tables]
        if sizes != self._sizes:  # they only grow
            self._symbols, self._sizes = sorted(set().union(*tables) - {""}), sizes
        return self._symbols

    def knows(self, symbol: str) -> bool:
        return symbol in self._listed or any(symbol in self._last[channel] for channel in ("book", "bbo", "trade", "ticker"))

    def snapshot(self, channel: str, symbol: str) -> Update | None:
        """The topic's state as a message, None where there is none: the same one until it changes."""
        topic = channel, symbol
        if (found := self._snapshots.get(topic)) is None:
            found = self.shown(channel, symbol)
            if found is not None:
                self._snapshots.put(topic, found)
        return found

    def shown(self, channel: str, symbol: str) -> Update | None:
        """As `snapshot`, made anew and not kept."""
        sequence = self._last.get(channel, {}).get(symbol)
        top = self.books.top(symbol) if channel in {"book", "bbo"} else None
        match channel:
            case "book" if top:
                return self._shown.book(symbol, top, self.books.sides(symbol))
            case "bbo" if top:
                return self._shown.bbo(symbol, sequence or top.sequence, top, "snapshot")
            case "ticker" if sequence is not None:
                return self._shown.ticker(self.tickers.ticker(symbol), "snapshot")
            case "market" if symbol in self._listed:
                return self._shown.market(symbol, sequence or self._begun, self.statuses.status(symbol), "snapshot")
        return None


def _by_side(changes: Sequence[tuple[int, int]], sizes: list[int]) -> tuple[Levels, Levels]:
    """Levels of both sides, each once."""
    if len(sizes) == 1:
        [(price, side)] = changes
        only = ((price, sizes[0]),)
        return ((), only) if side else (only, ())
    sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for (price, side), size in zip(changes, sizes, strict=True):
        sides[side][price] = size
    return sides[0].items(), sides[1].items()


def block_of(records: Sequence[Record]) -> Block:
    """Columns of records, without raw bytes."""
    builder = BlockBuilder(keep_raw=False)
    for record in records:
        builder.add(record)
    return builder.build()
