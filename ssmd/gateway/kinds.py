"""What markets are of: series and category of each symbol, and the symbols of each, so that these are found without a look at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, KeysView

from ssmd.gateway.message import GROUPS


class Kinds:
    """Symbols and what they are of."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, str]] = {}
        self._members: dict[str, dict[str, dict[str, None]]] = {kind: {} for kind in GROUPS}

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._of

    def get(self, symbol: str) -> tuple[str, str] | None:
        """Series and category, None where not known."""
        return self._of.get(symbol)

    def of(self, symbol: str) -> tuple[str, str]:
        """The same of one that is known."""
        return self._of[symbol]

    def put(self, symbol: str, series: str, category: str) -> None:
        """It is of these, whatever it was of."""
        if self._of.get(symbol) == (series, category):
            return
        self.drop(symbol)
        self._of[symbol] = series, category
        for kind, name in zip(GROUPS, (series, category), strict=True):
            self._members[kind].setdefault(name, {})[symbol] = None

    def drop(self, symbol: str) -> None:
        """Forget it."""
        for kind, name in zip(GROUPS, self._of.pop(symbol, ()), strict=False):
            members = self._members[kind][name]
            del members[symbol]
            if not members:
                del self._members[kind][name]

    def names(self, kind: str) -> KeysView[str]:
        """Groups of a kind (of `GROUPS`) that symbols are of."""
        return self._members[kind].keys()

    def members(self, kind: str, name: str) -> Collection[str]:
        """Symbols of a group."""
        return self._members[kind].get(name, {}).keys()
