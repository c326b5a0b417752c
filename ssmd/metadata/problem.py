"""What is wrong with a file, and where."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]


class Problem(NamedTuple):
    """At a key of a file that is being read; the text says what would be right."""

    place: tuple[str | int, ...]
    severity: Severity
    text: str


class Finding(NamedTuple):
    """`file` from the project's root; `line` from 1, 0 when the whole file is meant; `place` is the dotted path of the key, or empty.

    A note is no problem: what was asked for and is right.
    """

    file: str
    line: int
    place: str
    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {f'{self.place}: ' if self.place else ''}{self.text}"
