"""What was folded, as messages. A whole book is integers that are kept, and written out when somebody wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec

from journal.entry import Aggressor, Gap, Ticker
from projections.book import BookState, BookTop
from projections.status import StatusView
from projections.ticker import TickerView
from ssmd.gateway import message as m
from ssmd.gateway.message import Update, amount, texts, when

Kind = Literal["snapshot", "update"]
Level = tuple[int, int]  # price, size
Levels = Iterable[Level]
_STATE = {state: state.name for state in BookState}  # asking the enumeration takes longer than a level
_PRICES = frozenset({"last", "bid", "ask"})
_DOLLARS = frozenset({"dollar_volume", "dollar_open_interest"})  # whole ones, as the venue says them


@lru_cache(maxsize=1 << 16)
def _quoted(symbol: str) -> str:
    return m.encode(symbol).decode()


def _instant(name: str, ns: int) -> str:
    return f',"{name}_time":"{when(ns)}","{name}_ns":{ns}' if ns else ""


class Row(NamedTuple):
    """What messages say of an entry."""

    symbol: str
    sequence: int
    recv_ns: int
    venue_ns: int
    price_exponent: int
    size_exponent: int


class Shown:
    """Of one stream. `decimals` are the fewest of a price and a size."""

    def __init__(self, stream: str, decimals: tuple[int, int]) -> None:
        self._stream = stream
        self._price, self._size = decimals
        self._make_bbo = self._bbo  # one object for all

    def _levels(self, levels: Levels, price_exponent: int, size_exponent: int) -> list[m.Level]:
        prices, sizes = texts(price_exponent, self._price), texts(size_exponent, self._size)
        return [(prices[p], sizes[s]) for p, s in levels]

    def _update(self, channel: str, symbol: str, sequence: int, make: Callable[[str], m.Message]) -> Update:
        """Written out at once: of the 50,000 messages that are kept, what they are made of would be half a million objects, which the
        garbage collector walks while clients wait, and take more memory than their text.
        """
        update = Update((channel, symbol), self._stream, sequence, make)
        update.data  # noqa: B018
        return update

    def _before(self, sequence: int | None) -> str | None:
        return None if sequence is None else f"{self._stream}:{sequence}"

    def delta(self, row: Row, sides: tuple[Levels, Levels], before: int | None) -> Update:
        """`sides` are the levels that changed, bids and asks, with their new totals; the book is valid. Nine of ten messages are these: the
        text of a `BookData` is put together here, which takes less than making and encoding one.
        """
        symbol, sequence, recv_ns, venue_ns, price_exponent, size_exponent = row
        prices, sizes, stream = texts(price_exponent, self._price), texts(size_exponent, self._size), self._stream
        bids, asks = [",".join([f'["{prices[p]}","{sizes[s]}"]' for p, s in side]) for side in sides]
        after = "" if before is None else f'"prev_position":"{stream}:{before}",'
        data = (
            f'{{"type":"book","symbol":{_quoted(symbol)},"position":"{stream}:{sequence}",{after}"kind":"delta","state":"VALID",'
            f'"bids":[{bids}],"asks":[{asks}]{_instant("recv", recv_ns)}{_instant("venue", venue_ns)}}}'
        )
        return Update(("book", symbol), stream, sequence, made=data.encode())

    def book(self, symbol: str, top: BookTop, sides: tuple[Any, Any], before: int | None = None) -> Update:
        """The whole book: `sides` are arrays of `BookProjection.sides`, 16 bytes a level. Written out if it is wanted."""

        def make(position: str) -> m.Message:
            bids, asks = (self._levels(side.tolist(), top.price_exponent, top.size_exponent) for side in sides)
            state: Any = _STATE[top.state]
            return m.BookData(
                kind="snapshot", symbol=symbol, position=position, prev_position=self._before(before), state=state, bids=bids, asks=asks,
                recv_time=when(top.recv_ns), recv_ns=top.recv_ns, venue_time=when(top.venue_ns), venue_ns=top.venue_ns,
            )  # fmt: skip

        return Update(("book", symbol), self._stream, top.sequence, make, weight=1 + sum(map(len, sides)))

    def bbo(self, symbol: str, sequence: int, top: BookTop, kind: Kind, before: int | None = None) -> Update:
        """Written out if it is wanted: what it is made of is one tuple of numbers and texts, which the collector does not walk."""
        state, bid, ask, price_exponent, size_exponent, _, venue_ns, recv_ns = top
        of = symbol, kind, before, _STATE[state], bid, ask, price_exponent, size_exponent, venue_ns, recv_ns
        return Update(("bbo", symbol), self._stream, sequence, self._make_bbo, of)

    def _bbo(  # noqa: PLR0917  (of a tuple)
        self, position: str, symbol: str, kind: Kind, before: int | None, state: Any, bid: Level | None, ask: Level | None,
        price_exponent: int, size_exponent: int, venue_ns: int, recv_ns: int,
    ) -> m.Message:  # fmt: skip
        bids, asks = (self._levels([best] if best else [], price_exponent, size_exponent) for best in (bid, ask))
        return m.BboData(
            kind=kind, symbol=symbol, position=position, prev_position=self._before(before), state=state, bid=bids[0] if bids else None,
            ask=asks[0] if asks else None, recv_time=when(recv_ns), recv_ns=recv_ns, venue_time=when(venue_ns), venue_ns=venue_ns,
        )  # fmt: skip

    def stale(self, symbol: str, sequence: int, reason: str) -> Update:
        return self._update("book", symbol, sequence, lambda position: m.Stale(symbol=symbol, position=position, reason=reason))

    def trade(self, row: Row, trade: tuple[Any, ...], texts: list[str], before: int | None) -> Update:
        """`trade` is a row of `journal.block.TRADE`."""
        price, size, id_hi, id_lo, id_text, aggressor, block, _ = trade
        text = texts[id_text - 1] if id_text else ""

        def make(position: str) -> m.Message:
            [(shown_price, shown_size)] = self._levels([(price, size)], row.price_exponent, row.size_exponent)
            side: Any = Aggressor(aggressor).name
            return m.TradeData(
                symbol=row.symbol, position=position, prev_position=self._before(before), price=shown_price, size=shown_size,
                aggressor=side, trade_id=text if id_text else str(UUID(int=id_hi << 64 | id_lo)), block=block == 1,
                recv_time=when(row.recv_ns), recv_ns=row.recv_ns, venue_time=when(row.venue_ns), venue_ns=row.venue_ns,
            )  # fmt: skip

        return self._update("trade", row.symbol, row.sequence, make)

    def ticker(self, view: TickerView, kind: Kind, before: int | None = None) -> Update:
        def make(position: str) -> m.Message:
            fields: dict[str, Any] = {name: self._field(name, view) for name in Ticker.__struct_fields__}
            return m.TickerData(
                kind=kind, symbol=view.symbol, position=position, prev_position=self._before(before),
                venue_time=when(view.venue_ns), venue_ns=view.venue_ns, **fields,
            )  # fmt: skip

        return self._update("ticker", view.symbol, view.sequence, make)

    def _field(self, name: str, view: TickerView) -> str | None:
        value = getattr(view.values, name)
        if value is None or name in _DOLLARS:
            return None if value is None else str(value)
        if name in _PRICES:
            return amount(value, view.price_exponent, self._price)
        return amount(value, view.size_exponent, self._size)

    def market(self, symbol: str, sequence: int, now: StatusView, kind: Kind, before: int | None = None) -> Update:
        view = msgspec.structs.replace(now)  # the fold changes its own

        def make(position: str) -> m.Message:
            value = view.settlement_value
            return m.MarketData(
                kind=kind, symbol=symbol, position=position, prev_position=self._before(before), event=view.event, status=view.status,
                open_time=when(view.open_ns), open_ns=view.open_ns, close_time=when(view.close_ns), close_ns=view.close_ns,
                determined_time=when(view.determined_ns), determined_ns=view.determined_ns,
                settled_time=when(view.settled_ns), settled_ns=view.settled_ns,
                settlement_value=None if value is None else amount(value, view.price_exponent, self._price), result=view.result,
            )  # fmt: skip

        return self._update("market", symbol, sequence, make)

    def gap(self, row: Row, body: Gap, before: int | None) -> Update:
        def make(position: str) -> m.Message:
            return m.GapData(
                symbol=row.symbol, position=position, prev_position=self._before(before), reason=body.reason, channel=body.channel,
                first_missing=body.first_missing, last_missing=body.last_missing, from_time=when(body.from_ns), from_ns=body.from_ns,
                to_time=when(body.to_ns), to_ns=body.to_ns, healed_by=body.healed_by,
            )  # fmt: skip

        return self._update("gap", row.symbol, row.sequence, make)
