"""Many clients of all kinds in one event loop, cheap enough for two cores: they believe what they are sent, and remember what they had."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from journal.block import Block
from journal.entry import Book, Delta, Gap, Record, Trade
from projections.book import BookProjection
from tests.gateway.bare import Bare, bare
from tests.gateway.follower import Follower, sequence

CHANNELS = ("book", "bbo", "trade", "ticker", "market", "gap")
MODES = ("realtime", "conflated", "latest")
POLICIES = ("drop_oldest", "drop_newest", "conflate", "disconnect")
PACES = ("fast", "slow", "stopped")


@lru_cache(1 << 18)
def mark(side: int, price: Decimal, size: Decimal) -> int:
    """Of one level. A book's is that of all its levels by XOR: what a change does to it costs as much as the change."""
    return hash((side, price, size))


@lru_cache(1 << 18)
def _decimal(text: str) -> Decimal:
    return Decimal(text)


@lru_cache(1 << 18)
def _mark_of(side: int, price: int, size: int, units: tuple[int, int]) -> int:
    return mark(side, Decimal(price).scaleb(units[0]), Decimal(size).scaleb(units[1]))


class Marks:
    """What the fold says of each book behind each entry that changed it, and of the trades."""

    def __init__(self) -> None:
        self.books: dict[tuple[str, int], int] = {}
        self.last: dict[str, tuple[str, int]] = {}
        self.trades: dict[str, list[int]] = {}
        self.end = 0
        self._fold = BookProjection()
        self._levels: dict[str, set[tuple[int, int, int]]] = {}
        self._now: dict[str, int] = {}

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._fold.apply(Block.of([record]))
            self.end, symbol, body = record.sequence, record.entry.symbol, record.entry.body
            if isinstance(body, Trade):
                self.trades.setdefault(symbol, []).append(record.sequence)
            if isinstance(body, Gap) and not symbol:
                for known in self._fold.keys():  # noqa: SIM118
                    self._look(known, record.sequence)
            elif isinstance(body, Book | Delta | Gap) and self._fold.top(symbol):
                self._look(symbol, record.sequence)

    def _look(self, symbol: str, at: int) -> None:
        book = self._fold.book(symbol)
        units = book.price_exponent, book.size_exponent
        levels = {(0, *level) for level in book.bids} | {(1, *level) for level in book.asks}
        now = self._now.get(symbol, 0)
        for level in levels ^ self._levels.get(symbol, set()):
            now ^= _mark_of(*level, units)
        self._levels[symbol], self._now[symbol] = levels, now
        self.last[symbol] = book.state.name, now
        if book.sequence == at:
            self.books[symbol, at] = now


@dataclass
class Marked(Follower):
    """`had`: books by position, as marks."""

    marks: dict[str, int] = field(default_factory=dict)
    had: dict[tuple[str, int], int] = field(default_factory=dict)
    lost: list[tuple[str, str, int, int, int]] = field(default_factory=list)  # dropped, as told: topic, first, last, how many

    def receive(self, message: dict[str, Any]) -> None:
        super().receive(message)
        if message["type"] == "dropped":
            assert not message.get("more_topics")
            assert sum(t["count"] for t in message["topics"]) == message["count"]
            for t in message["topics"]:
                self.lost.append((t["channel"], t["symbol"], sequence(t["first_position"]), sequence(t["last_position"]), t["count"]))

    def _book(self, symbol: str, message: dict[str, Any]) -> None:
        if message["kind"] == "snapshot":
            self.books[symbol] = (message["state"], {}, {})
            self.marks[symbol] = 0
        else:
            self.deltas += 1
            assert self.books[symbol][0] == "VALID", f"a delta of a book that is {self.books[symbol][0]}: {message}"
        state, *sides = self.books[symbol]
        now = self.marks[symbol]
        for number, (side, levels) in enumerate(zip(sides, (message["bids"], message["asks"]), strict=True)):
            for shown in levels:
                price, size = _decimal(shown[0]), _decimal(shown[1])
                if (was := side.pop(price, None)) is not None:
                    now ^= mark(number, price, was)
                if size:
                    side[price] = size
                    now ^= mark(number, price, size)
        self.marks[symbol] = now
        if state == "VALID":
            self.had[symbol, sequence(message["position"])] = now

    def check(self, truth: Marks, channels: frozenset[str], *, ended: bool) -> None:
        """All that it had was so; every trade came once and in order, or was told to be dropped: to the end, or to where its life ended."""
        end = sequence(self.last) if ended and self.last else truth.end
        for (symbol, at), book in self.had.items():
            assert truth.books[symbol, at] == book, f"{symbol} at {at}"
        for symbol, trades in self.trades.items():
            got = [number for number, _, _ in trades]
            assert got == sorted(set(got)), f"trades of {symbol} are doubled or out of order"
            missing = {n for n in truth.trades[symbol] if got[0] <= n <= end}.difference(got)
            for channel, of, first, last, count in self.lost:
                if (channel, of) == ("trade", symbol):
                    gone = {n for n in missing if first <= n <= last}
                    assert len(gone) <= count, f"{count} trades of {symbol} were told to be dropped, {len(gone)} are missing"
                    missing -= gone
            assert not missing, f"trades of {symbol} never came: {sorted(missing)[:5]} of {len(missing)}, had up to {self.last}"
        assert channels >= {channel for channel, _ in self.at} - {"stale"}


class Visitor:
    """One client: what it wants and how it behaves is drawn once; then it comes, goes and comes back until `finishing` is set."""

    def __init__(self, number: int, rng: random.Random, symbols: list[str]) -> None:
        self.number, self._rng = number, rng
        self.mode = rng.choices(MODES, (5, 3, 2))[0]
        self.channels = frozenset(rng.sample(CHANNELS, rng.randint(1, 4))) | {rng.choice(("book", "trade"))}
        self.policy = rng.choice(POLICIES)
        self.pace = rng.choices(PACES, (6, 2, 2))[0]
        if number < 8 * len(POLICIES):  # whatever is drawn, some of each policy miss something
            self.mode, self.pace, self.policy = "realtime", "stopped", POLICIES[number % len(POLICIES)]
            self.channels |= {"book", "bbo", "trade"}
        chosen: list[dict[str, Any]] = [{"symbols": ["*"]}, {"series": [symbols[0].partition("-")[0]]}, {"symbols": rng.sample(symbols, 1)}]
        self.asks = {"op": "subscribe", "channels": sorted(self.channels), "mode": self.mode, **rng.choice(chosen)}
        if self.mode == "conflated":
            self.asks["interval_ms"] = rng.choice((10, 50, 250, 1_000))
        self.lives = [Marked()]
        self.visits = 0
        self.resumed = 0
        self.refused = 0
        self.connected = False
        self.away: Exception | None = None  # why it was last
        self.finishing = asyncio.Event()  # from then on it takes all that comes, and stays
        self.seen = 0  # up to where all was seen, by the last heartbeat

    def __repr__(self) -> str:
        return f"visitor {self.number} ({self.mode}, {self.pace}, {self.policy}, {self.asks})"

    async def visit(self, port: int) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._once(port)
            except OSError as error:
                self.away = error
            finally:
                self.connected = False
            await asyncio.sleep(self._rng.uniform(0.1, 1.5))

    async def _once(self, port: int) -> None:
        rng, follower = self._rng, self.lives[-1]
        async with bare(port, f"policy={self.policy}") as stream:
            if follower.last and rng.random() < 0.15:  # it begins a life of its own
                follower = self._reborn()
            resume = {"resume": follower.last} if follower.last else {}
            if follower.last and rng.random() < 0.05:  # from where nothing is yet: that is refused
                resume = {"resume": follower.last + "000000"}
            await stream.send({**self.asks, **resume})
            self.visits += 1
            stays = self.pace == "stopped" or rng.random() < 0.3  # else it would not hear what it missed
            end = asyncio.get_running_loop().time() + (1e9 if stays else rng.uniform(1, 10))
            await self._listen(stream, end)

    async def _listen(self, stream: Bare, end: float) -> None:
        rng, loop = self._rng, asyncio.get_running_loop()
        stop = loop.time() + rng.uniform(1, 4)
        while self.finishing.is_set() or loop.time() < end:
            for message in await stream.receive():
                self._receive(message)
            if self.finishing.is_set():
                continue
            if self.pace == "slow":
                await asyncio.sleep(rng.uniform(0, 0.3))
            elif self.pace == "stopped" and loop.time() > stop:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.finishing.wait(), rng.uniform(8, 16))
                stop = loop.time() + rng.uniform(1, 4)
            if rng.random() < 0.001:
                await stream.send({"op": "snapshot", "channels": ["book"], "symbols": ["*"]})

    def _receive(self, message: dict[str, Any]) -> None:
        follower, kind = self.lives[-1], message["type"]
        if kind == "subscribed":
            self.connected = True
            if message.get("resumed"):
                self.resumed += 1
            elif message.get("resumed") is False:
                self.refused += 1
                follower = self._reborn()
        elif kind == "heartbeat":
            if message["positions"]:  # else it is told what it missed still
                self.seen = max(self.seen, sequence(message["positions"][0]))
            return
        elif kind == "error":
            assert message["code"] == "bad_request", message
            assert "nothing is known of" in message["message"], message
            raise TimeoutError  # it is too early: come again
        follower.receive(message)

    def _reborn(self) -> Marked:
        self.lives.append(Marked())
        return self.lives[-1]

    def check(self, truth: Marks) -> None:
        for life in self.lives:
            channels = self.channels | ({"book"} if life.seen["snapshots"] else set())
            life.check(truth, channels, ended=life is not self.lives[-1])
        last = self.lives[-1]
        for symbol, (state, book) in truth.last.items():
            if "book" in self.channels:
                assert last.books[symbol][0] == state, symbol
                assert state != "VALID" or last.marks[symbol] == book, f"{symbol} is not what it became"
            if {"book", "bbo"} <= self.channels and state == "VALID":
                _, bids, asks = last.books[symbol]
                best = max(bids.items(), default=None), min(asks.items(), default=None)
                assert last.bests[symbol] == (state, *best), f"{symbol}: {last.bests[symbol]}, but {best} by its book"
