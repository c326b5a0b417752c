"""Whether the fields of an environment's keys are there. Never what they are."""

from __future__ import annotations

from collections.abc import Iterator

from journal.errors import BadFile, KeyRefused, KeyUnavailable
from ssmd.keys.resolve import Resolver
from ssmd.keys.sealed import SealedSource
from ssmd.keys.source import Place, Wanted, open_key_source
from ssmd.metadata.environment import Environment
from ssmd.metadata.problem import Problem, Severity


def key_problems(environment: Environment, place: Place) -> Iterator[Problem]:
    """Asks every source: a program or a server may take its seconds. A sealed key that only the cluster can read is judged by its file."""
    resolver = Resolver(environment.name, environment.keys, place)
    for name, key in environment.keys.items():
        severity: Severity = "error" if key.required else "warning"
        where = f"source {key.source.partition(':')[0]}"
        try:
            wanted = Wanted(environment.name, name, key.fields, key.variables)
            missing, how = _missing(resolver, wanted, key.source, place)
        except KeyUnavailable as error:
            yield Problem(("keys", name), severity, f"could not be asked for: {error}")
        except BadFile as error:
            yield from (Problem(("keys", name), severity, text) for text in error.problems)
        except KeyRefused as error:
            yield Problem(("keys", name), severity, str(error))
        else:
            if missing:
                todo = f"set it with `ssmd key set {environment.name} {name}`"
                yield Problem(("keys", name), severity, f"{where} has no {', '.join(missing)}; {todo}")
            else:
                yield Problem(("keys", name), "note", f"{', '.join(key.fields)}: {how} ({where})")


def _missing(resolver: Resolver, wanted: Wanted, source: str, place: Place) -> tuple[list[str], str]:
    """Fields that are not there, and how the others are."""
    try:
        return resolver.missing(wanted.name), "there"
    except KeyRefused:
        opened = open_key_source(source, place)
        sealed = opened.sealed(wanted) if isinstance(opened, SealedSource) else None
        if sealed is None:
            raise
        return [f for f in wanted.fields if f not in sealed.fields], "sealed; the cluster mounts it"
