"""A client that believes only what it is sent, written from the documentation of the messages and sharing nothing with the gateway."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Side = dict[Decimal, Decimal]


@dataclass
class Follower:
    """`books` by symbol: (state, bids, asks). `strict`: every message of a topic must follow on the one before it."""

    strict: bool = True
    books: dict[str, tuple[str, Side, Side]] = field(default_factory=dict)
    bests: dict[str, Any] = field(default_factory=dict)
    tickers: dict[str, Any] = field(default_factory=dict)
    markets: dict[str, Any] = field(default_factory=dict)
    trades: dict[str, list[tuple[int, str, str]]] = field(default_factory=lambda: defaultdict(list))
    at: dict[tuple[str, str], str] = field(default_factory=dict)  # by topic: its last position
    excused: dict[tuple[str, str], int] = field(default_factory=dict)  # by topic: up to where it was told that something is missing
    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    last: str = ""  # position of the newest message
    others: list[dict[str, Any]] = field(default_factory=list)
    deltas: int = 0

    def receive(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        self.seen[kind] += 1
        if kind in {"book", "bbo", "trade", "ticker", "market", "gap"}:
            topic = kind, message["symbol"]
            if message.get("kind", "update") != "snapshot":
                self._follows(topic, message)
            self.at[topic] = message["position"]
            self._note(message)
            getattr(self, f"_{kind}")(message["symbol"], message)
        elif kind == "stale":
            state, *sides = self.books[message["symbol"]]
            assert state in {"VALID", "STALE"}
            self.books[message["symbol"]] = ("STALE", sides[0], sides[1])
            self.excused["book", message["symbol"]] = sequence(message["position"])
            self._note(message)
        elif kind in {"dropped", "conflated"}:
            self.excused |= {(t["channel"], t["symbol"]): sequence(t["last_position"]) for t in message["topics"]}
            self.others.append(message)
        else:
            self.others.append(message)

    def _note(self, message: dict[str, Any]) -> None:
        if not self.last or sequence(message["position"]) > sequence(self.last):
            self.last = message["position"]

    def _follows(self, topic: tuple[str, str], message: dict[str, Any]) -> None:
        last, before = self.at.get(topic), message.get("prev_position") or self.at.get(topic)
        if last is not None:
            assert sequence(message["position"]) >= sequence(last), f"{message} after {last}"
        if self.strict and last is not None and before is not None and before != last:
            assert sequence(before) <= self.excused.get(topic, 0), f"{message} does not follow on {last}"

    def _book(self, symbol: str, message: dict[str, Any]) -> None:
        if message["kind"] == "snapshot":
            self.books[symbol] = (message["state"], _side(message["bids"]), _side(message["asks"]))
            return
        self.deltas += 1
        state, *sides = self.books[symbol]
        assert state == "VALID", f"a delta of a book that is {state}: {message}"
        for side, levels in zip(sides, (message["bids"], message["asks"]), strict=True):
            for price, size in _side(levels).items():
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)

    def _bbo(self, symbol: str, message: dict[str, Any]) -> None:
        self.bests[symbol] = (message["state"], *(_level(message.get(side)) for side in ("bid", "ask")))

    def _trade(self, symbol: str, message: dict[str, Any]) -> None:
        self.trades[symbol].append((sequence(message["position"]), message["price"], message["size"]))

    def _ticker(self, symbol: str, message: dict[str, Any]) -> None:
        self.tickers[symbol] = message

    def _market(self, symbol: str, message: dict[str, Any]) -> None:
        self.markets[symbol] = message

    def _gap(self, symbol: str, message: dict[str, Any]) -> None:
        self.others.append(message)


def sequence(position: str) -> int:
    return int(position.rpartition(":")[2])


def _side(levels: list[list[str]]) -> Side:
    return {Decimal(price): Decimal(size) for price, size in levels}


def _level(level: list[str] | None) -> tuple[Decimal, Decimal] | None:
    return None if level is None else (Decimal(level[0]), Decimal(level[1]))


def exact(levels: list[tuple[int, int]], price_exponent: int, size_exponent: int) -> Side:
    """The fold's integers as decimals."""
    return {Decimal(p).scaleb(price_exponent): Decimal(s).scaleb(size_exponent) for p, s in levels}
