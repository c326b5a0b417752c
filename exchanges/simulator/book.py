"""True books: integers, one ladder of bids per side, and how Kalshi writes prices and counts.

Prices are micro-dollars, counts hundredths of a contract.
"""

from __future__ import annotations

from functools import lru_cache

DOLLAR = 1_000_000


@lru_cache(maxsize=20_000)  # 10,001 prices exist at the finest tick of $0.0001
def price_text(price: int) -> str:
    """``320000 -> "0.3200"``: four decimals, six where four do not suffice."""
    whole, micros = divmod(price, DOLLAR)
    return f"{whole}.{micros // 100:04d}" if micros % 100 == 0 else f"{whole}.{micros:06d}"


@lru_cache(maxsize=20_000)
def price_micros(text: str) -> int:
    """``"0.3200" -> 320000``, exactly. Raises ValueError for what is not a price."""
    return _scaled(text, 6)


def count_text(count: int) -> str:
    """``-4602 -> "-46.02"``."""
    whole, cents = divmod(abs(count), 100)
    return f"{'-' if count < 0 else ''}{whole}.{cents:02d}"


def count_hundredths(text: str) -> int:
    """``"-46.02" -> -4602``, exactly. Raises ValueError for what is not a count."""
    if text[-3:-2] == ".":  # two decimals: every count seen
        return int(text[:-3] + text[-2:])
    return _scaled(text, 2)


def _scaled(text: str, decimals: int) -> int:
    whole, _, fraction = text.partition(".")
    extra = fraction[decimals:]
    if extra.strip("0"):
        raise ValueError(f"{text!r} has more than {decimals} decimals")
    return int(whole + fraction[:decimals].ljust(decimals, "0"))


Ladder = dict[int, int]  # price -> resting count, never 0 or less


class TrueBook:
    """One market's book as the venue knows it. `known` is False until its first snapshot or its listing as new."""

    __slots__ = ("known", "no", "yes")

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.yes: Ladder = {}
        self.no: Ladder = {}

    def apply(self, no: bool, price: int, change: int) -> bool:
        """Change one level. False, and nothing done, when the level would become negative."""
        ladder = self.no if no else self.yes
        count = ladder.get(price, 0) + change
        if count > 0:
            ladder[price] = count
        elif count == 0:
            ladder.pop(price, None)
        else:
            return False
        return True

    def replace(self, yes: Ladder, no: Ladder) -> None:
        self.yes = yes
        self.no = no
        self.known = True

    def best(self) -> tuple[int, int, int, int]:
        """Best yes bid and its count, best no bid and its count; zeros for an empty side."""
        yes = max(self.yes, default=0)
        no = max(self.no, default=0)
        return yes, self.yes.get(yes, 0), no, self.no.get(no, 0)

    def levels(self, *, depth: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Yes and no levels as the venue writes them, ascending; the best `depth` of each, 0 for all."""
        return _written(self.yes, depth), _written(self.no, depth)


def _written(ladder: Ladder, depth: int) -> list[tuple[str, str]]:
    prices = sorted(ladder)
    return [(price_text(price), count_text(ladder[price])) for price in (prices[-depth:] if depth else prices)]


def parse_ladder(levels: list[tuple[str, str]]) -> Ladder:
    """``[["0.3200", "12.00"], …]`` as a ladder. Raises ValueError on a count that is not positive."""
    ladder = {price_micros(price): count_hundredths(count) for price, count in levels}
    if any(count <= 0 for count in ladder.values()):
        raise ValueError("a level of a snapshot is not positive")
    return ladder
