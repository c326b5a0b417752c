"""A value that must not be seen."""

from __future__ import annotations

import hmac
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
