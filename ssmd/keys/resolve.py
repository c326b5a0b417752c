"""``$key:NAME.FIELD`` to a `Secret`: used by the composition root and by the commands that look at keys, and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from journal.errors import KeyRefused, KeyUnavailable
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found, Place, Wanted, open_key_source

if TYPE_CHECKING:
    from ssmd.metadata.environment import Key

# Outcomes wait for the journal; a process resolves each of its keys once a start, so this many means a loop.
MAX_OUTCOMES = 1_000

# Shorter values are parts of ordinary words.
_LEAST_REDACTED = 6

Result = Literal["resolved", "missing", "refused", "unavailable"]


class Outcome(NamedTuple):
    """That a key was asked for, and how it went; never what came of it."""

    key: str
    result: Result
    at_ns: int


class Resolver:
    """The keys of one environment, each fetched from its source at most once. `outcomes` waits to be journalled."""

    def __init__(self, env: str, keys: Mapping[str, Key], place: Place) -> None:
        self._env = env
        self._keys = keys
        self._place = place
        self._found: dict[str, Found] = {}
        self.outcomes: list[Outcome] = []

    def found(self, name: str) -> Found:
        """What the source of key `name` has. Raises `KeyRefused`, `KeyUnavailable`."""
        if name not in self._found:
            key = self._keys[name]
            try:
                source = open_key_source(key.source, self._place)
                found = source.fetch(Wanted(self._env, name, key.fields, key.variables))
            except (KeyRefused, KeyUnavailable) as error:
                self._note(name, "refused" if isinstance(error, KeyRefused) else "unavailable")
                raise
            self._note(name, "resolved" if all(f in found.values for f in key.fields) else "missing")
            self._found[name] = found
        return self._found[name]

    def missing(self, name: str) -> list[str]:
        """Fields of key `name` that its source does not have."""
        values = self.found(name).values
        return [field for field in self._keys[name].fields if field not in values]

    def values(self, name: str) -> Mapping[str, Secret]:
        """All fields of key `name`. Raises `KeyRefused` when one is missing, with what to do."""
        if missing := self.missing(name):
            raise KeyRefused(
                f"key {name} of environment {self._env}: {self._keys[name].source} has no {', '.join(missing)};"
                f" see `ssmd key check {self._env}`, set it with `ssmd key set {self._env} {name}`"
            )
        return self.found(name).values

    def value(self, reference: str) -> Secret:
        """The field that a whole ``$key:NAME.FIELD`` names; other text is itself. Raises `KeyRefused`, `KeyUnavailable`."""
        if not reference.startswith("$key:"):
            return Secret(reference)
        name, _, field = reference.removeprefix("$key:").partition(".")
        found = self.found(name).values
        if field not in found:
            self.values(name)
        return found[field]

    def redact(self, text: str) -> str:
        """`text` with values fetched so far as ``***``: for words of libraries and servers, which repeat what they were given."""
        for found in list(self._found.values()):
            for secret in (*found.values.values(), *found.previous.values()):
                if len(value := secret.reveal()) >= _LEAST_REDACTED:
                    text = text.replace(value, "***")
        return text

    def _note(self, name: str, result: Result) -> None:
        if len(self.outcomes) < MAX_OUTCOMES:
            self.outcomes.append(Outcome(name, result, self._place.clock.wall_ns()))
