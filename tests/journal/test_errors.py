"""What an error says, and what saying it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import process_time
from typing import Any

from journal.errors import NotFound


class _Watched(Sequence[str]):
    """Names that count how often they are gone through."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.walks = names, 0

    def __getitem__(self, at: Any) -> Any:
        return self.names[at]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        self.walks += 1
        return iter(self.names)


def test_names_are_compared_only_when_they_are_asked_for() -> None:
    known = _Watched(["KXBTC-1", "KXETH-1"])
    error = NotFound("market", "KXBTC-2", known, hint="look again")
    assert known.walks == 0
    assert str(error) == "no market 'KXBTC-2'; nearest: KXBTC-1, KXETH-1; look again"
    assert error.nearest == ["KXBTC-1", "KXETH-1"]
    assert known.walks == 1  # and not again


def test_of_a_hundred_thousand_names_few_are_compared() -> None:
    known = [f"KXSERIES{i % 100:02}-26NOV22-T{i:06}" for i in range(100_000)]
    wanted = known[54_321]
    began = process_time()
    nearest = NotFound("market", f"{wanted}X", known).nearest
    assert process_time() - began < 1  # all of them: seconds
    assert nearest[0] == wanted


def test_far_from_every_name_the_first_are_named() -> None:
    assert NotFound("market", "~", [f"K{i:04}" for i in range(1_000)]).nearest == ["K0000", "K0001", "K0002", "K0003", "K0004"]
