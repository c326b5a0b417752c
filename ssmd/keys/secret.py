"""A value that must not be seen."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from typing import Final, NoReturn


class Secret:
    """Text that prints as ``***`` wherever it is shown, and cannot be pickled, ordered or hashed; `reveal` gives it out.

    Frozen dataclasses and pydantic models that hold one can be printed, logged and compared safely.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text: Final = text

    def reveal(self) -> str:
        """The text itself: for the call that needs it, never to be kept."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    __hash__ = None  # type: ignore[assignment]  # a hash would tell equal secrets apart

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


class Variables(Mapping[str, str]):
    """The variables of a process, which may hold secrets: a mapping that prints as ``***`` and is not pickled."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values: Final = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("variables are not pickled")
