"""The live table of `ssmd up` and `ssmd demo`: a fold of the journal like any other, shown a few times a second."""

from __future__ import annotations

from collections import deque

from rich.box import HEAVY_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from journal.block import Block
from journal.clock import Clock
from journal.entry import Control, Entry, Gap, Trade
from journal.errors import NotFound
from journal.protocols import JournalReader
from journal.subjects import Stream
from projections.book import BookProjection
from ssmd.render import LEAST_DECIMALS, decimal_text
from ssmd.services.predecessor import detail_of

_RATE_SECONDS = 3
_COOLING, _COLD = 0.9, 0.1  # a frame of the table: of what is shown, three quarters is of the last three seconds
_NOTES = 6  # lines kept below the table
_WIDE = 114  # columns of a terminal that the whole table needs, with symbols of 31 characters
_STYLE = {"VALID": "green", "SYNCING": "yellow", "STALE": "red"}
_TOLD = ("opened", "closed", "day_opened", "resync", "lease")


class LiveView:
    """Follows one market stream. `run` until cancelled; `render` at any time."""

    def __init__(self, reader: JournalReader, stream: Stream, clock: Clock, feed: str) -> None:
        self._reader = reader
        self._stream = stream
        self._clock = clock
        self._decimals = LEAST_DECIMALS.get(feed, (0, 0))
        self._books = BookProjection()
        self.activity: dict[str, int] = {}  # entries by symbol
        self._heat: dict[str, float] = {}  # entries of late, by symbol: what the table shows
        self._trades: dict[str, Entry] = {}
        self._samples: deque[tuple[int, int]] = deque([(clock.mono_ns(), 0)])
        self._notes: deque[str] = deque(maxlen=_NOTES)
        self.entries = 0
        self.trades = 0
        self.gaps = 0
        self.position = 0

    async def run(self) -> None:
        """Fold from the beginning of the stream and go on."""
        async for records in self._reader.read(self._stream, follow=True):
            for sequence, entry in records:
                self._count(sequence, entry)
            self._books.apply(Block.of(records))

    def note(self, text: str) -> None:
        """A line below the table; the newest few are shown."""
        self._notes.append(text)

    def _rate(self) -> float:
        """Entries a second since about three seconds ago; each call is a sample for the next."""
        now = self._clock.mono_ns()
        self._samples.append((now, self.entries))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SECONDS * 10**9:
            self._samples.popleft()
        since, count = self._samples[0]
        return (self.entries - count) * 1e9 / max(now - since, 1)

    def _count(self, sequence: int, entry: Entry) -> None:
        self.position = sequence
        self.entries += 1
        body = entry.body
        if isinstance(body, Gap):
            self.gaps += 1
            self.note(f"gap: {body.reason}{f' on {body.channel}' if body.channel else ''}")
        elif isinstance(body, Control):
            if body.action in _TOLD:
                self.note(f"{body.action} {entry.symbol or detail_of(body).get('reason', '')}")
        elif entry.symbol:
            self._heat[entry.symbol] = self._heat.get(entry.symbol, 0) + 1
            self.activity[entry.symbol] = self.activity.get(entry.symbol, 0) + 1
            if isinstance(body, Trade):
                self.trades += 1
                self._trades[entry.symbol] = entry

    def line(self) -> str:
        """One line for where there is no terminal."""
        books = len(self._books.keys())
        return f"{self.entries:,} entries ({self._rate():,.0f}/s), {books} books, {self.trades:,} trades, {self.gaps} gaps"

    def render(self, processes: RenderableType = "", rows: int = 12, width: int = _WIDE) -> RenderableType:
        """The table of the busiest books, the processes, the notes. In less than `_WIDE` columns the last two are left out."""
        title = f"{self._stream.name}:{self.position}   {self.line()}"
        wide = width >= _WIDE
        table = Table(title=title, title_justify="left", title_style="bold", box=HEAVY_HEAD if wide else None, pad_edge=wide)
        table.add_column("symbol", overflow="ellipsis")  # the one that gives way: a number cut short is another number
        table.add_column("book", no_wrap=True)
        shown = ("bid", "size", "ask", "size", "last trade", "size", "entries") if wide else ("bid", "size", "ask", "size", "last")
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
        for symbol in sorted(sorted(self._heat, key=lambda s: self._heat[s])[-rows:]):
            table.add_row(*[*self._row(symbol), f"{self.activity[symbol]:,}"][: len(table.columns)])
        self._heat = {symbol: heat * _COOLING for symbol, heat in self._heat.items() if heat > _COLD}
        return Group(table, processes, *(Text(f"  {note}", style="dim") for note in self._notes))

    def _row(self, symbol: str) -> list[RenderableType]:
        try:
            book = self._books.book(symbol)
        except NotFound:
            return [symbol, "", *[""] * 4, *self._last(symbol)]
        state = book.state.name
        best: list[RenderableType] = []
        for levels in (book.bids, book.asks):
            if levels:
                price, size = levels[0]
                best += self._shown(price, size, book.price_exponent, book.size_exponent)
            else:
                best += ["", ""]
        return [symbol, Text(state, style=_STYLE.get(state, "")), *best, *self._last(symbol)]

    def _shown(self, price: int, size: int, price_exponent: int, size_exponent: int) -> list[RenderableType]:
        return [decimal_text(price, price_exponent, self._decimals[0]), decimal_text(size, size_exponent, self._decimals[1])]

    def _last(self, symbol: str) -> list[RenderableType]:
        entry = self._trades.get(symbol)
        if entry is None or not isinstance(entry.body, Trade):
            return ["", ""]
        return self._shown(entry.body.price, entry.body.size, entry.price_exponent, entry.size_exponent)
