"""Plausible market streams for the folds' property tests, and small folds of entries that share nothing with the product's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from journal.entry import (
    Body,
    Book,
    Change,
    Control,
    Delta,
    Entry,
    Event,
    Gap,
    Lifecycle,
    Record,
    Ticker,
    Trade,
    Unparsed,
    canonical_json,
)

SYMBOLS = ["A", "B", "KX-1.5", "ünï"]
EPOCHS = [bytes(16), b"1" * 16, b"\xff" * 16]
SUBSCRIPTIONS = [1, 2]
DAY = 20260810

_price = st.integers(1, 12)
_level = st.builds(Change, _price, st.integers(0, 40), st.sampled_from([0, 1]), st.just(1))
_change = st.one_of(
    st.builds(Change, _price, st.integers(-15, 40), st.sampled_from([0, 1]), st.just(0)),
    st.builds(Change, _price, st.integers(0, 40), st.sampled_from([0, 1]), st.just(1)),
)
_market: st.SearchStrategy[Body] = st.one_of(
    st.builds(Book, st.lists(_level, max_size=24).map(tuple)),
    st.builds(Delta, st.lists(_change, min_size=1, max_size=3).map(tuple)),
    st.builds(Delta, st.lists(_change, min_size=1, max_size=1).map(tuple)),
    st.builds(
        Trade,
        st.integers(-(2**40), 2**62),
        st.integers(1, 2**40),
        st.sampled_from([0, 1, 2]),
        st.sampled_from([0, 1, 2]),
        st.one_of(
            st.uuids().map(str),
            st.sampled_from(["", "7", "8", "00000000-0000-0000-0000-000000000007"]),
        ),
    ),
    st.builds(Ticker, **{name: st.none() | st.integers(0, 2**50) for name in Ticker.__struct_fields__}),
    st.builds(
        Lifecycle,
        st.sampled_from(["created", "settled"]),
        st.sampled_from(["", "active", "closed"]),
        st.integers(0, 3),
        st.integers(0, 3),
        settlement_value=st.none() | st.integers(0, 5),
        result=st.sampled_from(["", "yes"]),
    ),
)
_ours: st.SearchStrategy[Body] = st.one_of(
    st.builds(Gap, st.sampled_from(["seq", "stall"]), st.sampled_from(["", "orderbook_delta"]), st.integers(0, 6), st.integers(0, 6)),
    st.builds(
        Control, st.sampled_from(["opened", "closed", "subscribed", "unsubscribed", "switched", "ok", "lease"]), st.just("orderbook_delta")
    ),
    st.just(Control("opened", detail='{"filtered":true}')),
    st.builds(Control, st.just("closed"), st.just(""), st.sampled_from(EPOCHS).map(lambda e: canonical_json({"epoch": e.hex()}).decode())),
    st.just(Control("day_opened")),
    st.just(Unparsed("what?")),
    st.just(Event("something", b"{}")),
)


@dataclass
class _Numbers:
    """Venue sequences as a venue counts them, now and then with a hole or a repeat."""

    last: dict[tuple[bytes, int], int] = field(default_factory=dict)

    def next(self, epoch: bytes, subscription: int, step: int) -> int:
        seq = max(1, self.last.get((epoch, subscription), 0) + step)
        self.last[epoch, subscription] = seq
        return seq


_Step = tuple[Body, bytes, int, str]  # body, epoch, subscription, symbol


@st.composite
def _one(draw: st.DrawFn) -> list[_Step]:
    epoch = draw(st.sampled_from(EPOCHS))
    if draw(st.integers(0, 7)) == 0:
        return [(draw(_ours), epoch, draw(st.sampled_from([0, *SUBSCRIPTIONS])), draw(st.sampled_from(["", *SYMBOLS])))]
    return [(draw(_market), epoch, draw(st.sampled_from(SUBSCRIPTIONS)), draw(st.sampled_from(SYMBOLS)))]


@st.composite
def _handover(draw: st.DrawFn) -> list[_Step]:
    """Two connections overlap; the book passes from one to the other, which may be further ahead or behind."""
    symbol = draw(st.sampled_from(SYMBOLS))
    old, new = draw(st.permutations(EPOCHS))[:2]
    delta = st.builds(Delta, st.lists(_change, min_size=1, max_size=1).map(tuple))
    book = st.builds(Book, st.lists(_level, max_size=6).map(tuple))
    steps: list[_Step] = [(draw(book), old, 1, symbol), (draw(book), new, 1, symbol)]
    steps += [(draw(delta), draw(st.sampled_from([old, new])), 1, symbol) for _ in range(draw(st.integers(0, 4)))]
    if draw(st.integers(0, 3)) == 0:
        steps.append((Control("closed"), draw(st.sampled_from([old, new])), 0, ""))
    steps.append((Control("switched"), new, draw(st.sampled_from([0, 1])), draw(st.sampled_from(["", symbol]))))
    steps += [(draw(delta), draw(st.sampled_from([old, new])), 1, symbol) for _ in range(draw(st.integers(0, 2)))]
    return steps


@st.composite
def records(draw: st.DrawFn, max_size: int = 60) -> list[Record]:
    """A stream's records: several connections and subscriptions interleaved, losses, handovers, days, all kinds."""
    numbers = _Numbers()
    out: list[Record] = []
    day, sequence, now_ns = DAY, draw(st.sampled_from([0, 65_530])), 1_000
    plan = draw(st.lists(st.one_of(_one(), _one(), _one(), _one(), _one(), _handover()), min_size=1, max_size=max_size))
    for planned, epoch, subscription, symbol in [step for steps in plan for step in steps][:max_size]:
        body = planned
        ours = isinstance(body, Control | Gap | Unparsed | Event)
        numbered = not isinstance(body, Ticker | Gap) and subscription and (not ours or draw(st.booleans()))
        seq = numbers.next(epoch, subscription, draw(st.sampled_from([1] * 12 + [0, 2, 5, -3]))) if numbered else 0
        if isinstance(body, Control) and body.action == "day_opened":
            day += draw(st.sampled_from([0, 1, 1]))  # a second writer opens the same day again
            body = Control("day_opened", detail=canonical_json({"day": day}).decode())
        now_ns += draw(st.integers(0, 3))
        sequence += 1
        exponents = (-4, -2) if draw(st.integers(0, 20)) == 0 else (-6, -2)
        out.append(
            Record(
                sequence,
                Entry(body, "f", symbol, epoch, sequence, now_ns - 1, 0, now_ns, day, now_ns - 500, seq, subscription, 0, 1, *exponents),
            )
        )
    return out


class ReferenceBooks:
    """Books by the rules' text: dicts, one entry at a time. A book is (state, exponents, {price: size} by side)."""

    @dataclass
    class One:
        state: str
        link: tuple[bytes, int] | None = None
        exponents: tuple[int, int] = (0, 0)
        sides: tuple[dict[int, int], dict[int, int]] = field(default_factory=lambda: ({}, {}))

    def __init__(self) -> None:
        self.books: dict[str, ReferenceBooks.One] = {}
        self.shadows: dict[str, ReferenceBooks.One] = {}

    def apply(self, e: Entry) -> None:
        link, body = (e.epoch, e.subscription), e.body
        if isinstance(body, Book):
            self._snapshot(e, body, link)
        elif isinstance(body, Delta):
            book = self.books.setdefault(e.symbol, self.One("SYNCING"))
            if book.link != link:
                book = self.shadows.get(e.symbol, book)
            if book.link == link and book.state == "VALID":
                self._change(book, e, body.changes)
        elif isinstance(body, Gap):
            self._lose(e.epoch, e.subscription, e.symbol)
        elif isinstance(body, Control):
            if body.action == "closed":
                named = msgspec.json.decode(body.detail).get("epoch") if body.detail else None
                self._lose(bytes.fromhex(named) if named else e.epoch, e.subscription, "")
            elif body.action == "unsubscribed" and e.subscription:
                self._lose(e.epoch, e.subscription, e.symbol)
            elif body.action == "switched":
                self._switch(e)

    def _snapshot(self, e: Entry, body: Book, link: tuple[bytes, int]) -> None:
        fresh = self.One("VALID", link, (e.price_exponent, e.size_exponent))
        book = self.books.get(e.symbol)
        if book is None or book.link in (None, link):
            self.books[e.symbol] = fresh
            if e.symbol in self.shadows and self.shadows[e.symbol].link == link:
                del self.shadows[e.symbol]
        else:
            self.shadows[e.symbol] = fresh
        self._change(fresh, e, body.levels)

    def _change(self, book: One, e: Entry, changes: tuple[Change, ...]) -> None:
        if (e.price_exponent, e.size_exponent) != book.exponents:
            book.state, book.link = "STALE", None
            return
        for price, size, side, op in changes:
            total = size if op else book.sides[side].get(price, 0) + size
            if total < 0:
                book.state, book.link = "STALE", None
                return
            if total:
                book.sides[side][price] = total
            else:
                book.sides[side].pop(price, None)

    def _covered(self, link: tuple[bytes, int] | None, epoch: bytes, subscription: int) -> bool:
        return link is not None and link[0] == epoch and (not subscription or link[1] == subscription)

    def _lose(self, epoch: bytes, subscription: int, symbol: str) -> None:
        for name, book in self.books.items():
            if (not symbol or symbol == name) and self._covered(book.link, epoch, subscription):
                book.link = None
                book.state = "STALE" if book.state == "VALID" else book.state
        for name in list(self.shadows):
            if (not symbol or symbol == name) and self._covered(self.shadows[name].link, epoch, subscription):
                del self.shadows[name]

    def _switch(self, e: Entry) -> None:
        moving = [
            name
            for name, shadow in self.shadows.items()
            if (not e.symbol or e.symbol == name) and self._covered(shadow.link, e.epoch, e.subscription)
        ]
        for name in moving:
            self.books[name] = self.shadows.pop(name)
        if not moving and e.symbol and e.subscription:
            self.books.setdefault(e.symbol, self.One("SYNCING")).link = (e.epoch, e.subscription)

    def shown(self) -> dict[str, tuple[str, list[tuple[int, int]], list[tuple[int, int]]]]:
        return {
            name: (b.state, sorted(b.sides[0].items(), reverse=True), sorted(b.sides[1].items())) for name, b in sorted(self.books.items())
        }


class ReferenceTrades:
    """Last trade and a day's totals: lists of the day's trades, added up when asked."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.last: dict[str, Trade] = {}
        self.day: dict[str, list[Trade]] = {}
        self.units: dict[str, tuple[int, int]] = {}
        self.opened = 0

    def apply(self, e: Entry) -> None:
        if isinstance(e.body, Control) and e.body.action == "day_opened":
            day = msgspec.json.decode(e.body.detail)["day"]
            if day > self.opened:
                self.opened, self.day = day, {}
        if not isinstance(e.body, Trade):
            return
        name = (e.body.trade_id if e.body.trade_id.count("-") == 4 else f"{e.symbol}/{e.body.trade_id}", "")
        if name in self.seen:
            return
        self.seen.add(name)
        if self.day.get(e.symbol) and self.units[e.symbol] != (e.price_exponent, e.size_exponent):
            return
        self.units[e.symbol] = (e.price_exponent, e.size_exponent)
        self.last[e.symbol] = e.body
        self.day.setdefault(e.symbol, []).append(e.body)

    def shown(self) -> dict[str, tuple[int, ...]]:
        return {name: (last.price, last.size, *self._totals(self.day.get(name, []))) for name, last in sorted(self.last.items())}

    @staticmethod
    def _totals(day: list[Trade]) -> Iterator[int]:
        prices = [t.price for t in day] or [0]
        yield len(day)
        yield sum(t.size for t in day)
        yield sum(t.size for t in day if t.aggressor == 1)
        yield sum(t.size for t in day if t.aggressor == 2)
        yield from (prices[0], max(prices), min(prices), prices[-1])
        yield sum(t.price * t.size for t in day)
