"""Which markets a connector captures, in what state each is, and which are on their way out. No clock: times are arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_OVER = frozenset(("settled", "removed"))
_QUIET = frozenset(("pending", "paused", "closed", "determined", "settled", "removed"))
# What the venue says in messages is in the market stream first: a state that was learnt late does not take it back.
_RANK = {"pending": 0, "unknown": 0, "active": 1, "paused": 1, "closed": 1, "determined": 2, "settled": 3, "removed": 4}
_NAMED = 3  # states that a sentence about silence names


@dataclass(slots=True)
class _Market:
    status: str
    open_ns: int = 0
    defined: str = ""  # the state that the market stream was last told of; "": none
    leaving: str = ""  # why it goes


class Leaving(NamedTuple):
    symbol: str
    reason: str


class Captured:
    """`grace_ns`: how long a market stays after its end, for what comes late and for an end that is taken back."""

    def __init__(self, grace_ns: int) -> None:
        self._grace_ns = grace_ns
        self._markets: dict[str, _Market] = {}
        self._leaving: dict[str, int] = {}  # until when, in the order of leaving
        self._states: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._markets)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._markets

    def __iter__(self) -> Iterator[str]:
        return iter(self._markets)

    def subscribed(self) -> list[str]:
        """What a new connection asks for: not what is over."""
        return [symbol for symbol, market in self._markets.items() if market.status not in _OVER]

    def join(self, symbol: str, status: str, open_ns: int = 0) -> bool:
        """Whether it was not there."""
        if symbol in self._markets:
            return False
        self._markets[symbol] = _Market(status, open_ns)
        self._states[status] += 1
        return True

    def told(self, symbol: str, status: str, now_ns: int) -> None:
        """Its state, said by the venue's own message. Others' markets and messages without a state are no news."""
        market = self._markets.get(symbol)
        if market is None or not status:
            return
        self._become(market, status)
        market.defined = market.defined and status
        if status in _OVER:
            self.leave(symbol, status, now_ns)

    def news(self, symbol: str, status: str, open_ns: int = 0, *, told: bool) -> bool:
        """Its state, by the security master; whether the market stream has to be told. Not of what it has in the venue's own words."""
        market = self._markets[symbol]
        market.open_ns = open_ns or market.open_ns
        if _RANK[status] < _RANK[market.status]:
            return False
        new = not market.defined or (not told and market.defined != status)
        self._become(market, status)
        market.defined = status
        return new

    def leave(self, symbol: str, reason: str, now_ns: int) -> None:
        """It goes after the grace period."""
        if self._markets[symbol].leaving != reason:
            self._markets[symbol].leaving = reason
            self._leaving.setdefault(symbol, now_ns + self._grace_ns)

    def stay(self, symbol: str) -> None:
        """It does not go after all, unless the venue has said that it is over."""
        if self._markets[symbol].status not in _OVER:
            self._markets[symbol].leaving = ""
            self._leaving.pop(symbol, None)

    def due(self, now_ns: int) -> list[Leaving]:
        """Those whose grace period is over; they are captured no more."""
        out: list[Leaving] = []
        for symbol, until_ns in self._leaving.items():
            if until_ns > now_ns:
                break
            out.append(Leaving(symbol, self._markets[symbol].leaving))
        for symbol, _ in out:
            del self._leaving[symbol]
            self._states[self._markets.pop(symbol).status] -= 1
        return out

    def silence(self, now_ns: int) -> str:
        """Why nothing is to be expected; "" where something is.

        A market whose opening time has come is open, whether anybody has said so or not.
        """
        states = {status: count for status, count in self._states.items() if count > 0}
        if not states:
            return "no market is chosen"
        if not states.keys() <= _QUIET or any(m.status == "pending" and 0 < m.open_ns <= now_ns for m in self._markets.values()):
            return ""
        some = sorted(states.items(), key=lambda item: -item[1])[:_NAMED]
        what = "the one market is" if len(self) == 1 else f"of {len(self)} markets none is active:"
        return f"{what} {', '.join(status if len(self) == 1 else f'{count} {status}' for status, count in some)}"

    def _become(self, market: _Market, status: str) -> None:
        self._states[market.status] -= 1
        self._states[status] += 1
        market.status = status
