"""Where the values of keys are: one small protocol, and the literal table from an environment's ``source:`` to its class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from journal.clock import Clock
from journal.errors import CallerError
from ssmd.keys.secret import Secret, Variables


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key of an environment and the fields it is declared with. `variables` names environment variables of fields (source env)."""

    env: str
    name: str
    fields: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """The fields that are there, maybe not all. Times are nanoseconds since 1970, 0 where the source does not know.

    `previous` are the values before the last rotation, for as long as they are valid (`previous_until_ns`).
    """

    values: Mapping[str, Secret]
    set_ns: int = 0
    previous: Mapping[str, Secret] = field(default_factory=dict)
    previous_until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """What a source may look at: the directory of the environment files, the process's variables, a clock, a HOME."""

    directory: Path
    environ: Mapping[str, str]
    clock: Clock
    home: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "environ", Variables(self.environ))


class KeySource(Protocol):
    """Reads keys. Synchronous: called at start, from a thread where it may wait."""

    def fetch(self, wanted: Wanted) -> Found:
        """What is there of `wanted`; an absent key is `Found({})`.

        Raises `KeyRefused` (unreadable, unsafe permissions, no right to it: somebody must act) and `KeyUnavailable` (worth a retry).
        No message holds a value.
        """
        ...


# kind -> (how a ``source:`` of it is written, module:class). Each class is called as Class(rest of the source, place).
SOURCES = {
    "env": ("env", "ssmd.keys.variables:VariableSource"),
    "file": ("file:DIRECTORY", "ssmd.keys.directory:DirectorySource"),
    "sealed-secret": ("sealed-secret/NAME", "ssmd.keys.sealed:SealedSource"),
    "vault": ("vault/PATH", "ssmd.keys.vault:VaultSource"),
    "exec": ("exec:COMMAND", "ssmd.keys.program:ProgramSource"),
    "age": ("age", "ssmd.keys.age:AgeSource"),
}
_SHAPE = re.compile(r"(env|age)()|(?:(file|exec):|(sealed-secret|vault)/)(.+)", re.DOTALL)


def parse_source(text: str) -> tuple[str, str]:
    """``file:/run/secrets`` to (``file``, ``/run/secrets``). Raises `CallerError` with the shapes that are known."""
    found = _SHAPE.fullmatch(text)
    if not found:
        raise CallerError(f"key source {text!r} is not one of {', '.join(shape for shape, _ in SOURCES.values())}")
    return found[1] or found[3] or found[4], found[5] or ""


def open_key_source(text: str, place: Place) -> KeySource:
    """The source of a ``source:`` line. Raises `CallerError`."""
    kind, rest = parse_source(text)
    module, _, name = SOURCES[kind][1].partition(":")
    source: KeySource = getattr(import_module(module), name)(rest, place)
    return source
