"""What the reader gets of the gateway's variables: what opens the journal and the objects. No venue's key, no cache's, nobody's token."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from ssmd.clock import VARIABLE as CLOCK
from ssmd.keys.source import Wanted, parse_source
from ssmd.keys.values import list_names
from ssmd.keys.variables import name_variable
from ssmd.metadata.environment import Environment, references
from ssmd.settings import Settings

# What programs need to run and to reach others at all.
_PLAIN = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TZ|LANG|LC_\w+|PYTHON\w+|VIRTUAL_ENV|LD_LIBRARY_PATH|MALLOC_\w+|XDG_\w+|SSL_CERT_(FILE|DIR)"
    r"|REQUESTS_CA_BUNDLE|(?i:(https?|all|no)_proxy)"
)
_OF_SOURCE = {  # of keys
    "vault": re.compile(r"VAULT_\w+|SSMD_VAULT_\w+"),
    "age": re.compile(r"SSMD_AGE_\w+"),
    "sealed-secret": re.compile(r"SSMD_SECRETS"),
}
_OBJECTS = re.compile(r"AWS_\w+")


def environ_of(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The reader's variables, from those of this process."""
    given = {**(os.environ if environ is None else environ), **settings.variables}
    patterns = [_PLAIN, *([_OBJECTS] if settings.local_objects is None else ())]
    names = {CLOCK, "SSMD_DEBUG"}
    for key in _opening(settings.environment):
        spec = settings.environment.keys[key]
        kind, _ = parse_source(spec.source)
        if kind == "env":
            wanted = Wanted(settings.env, key, spec.fields, spec.variables)
            names |= {name_variable(wanted, name) for name in list_names(wanted)}
        elif kind in _OF_SOURCE:
            patterns.append(_OF_SOURCE[kind])
    kept = {name: value for name, value in given.items() if name in names or any(p.fullmatch(name) for p in patterns)}
    return {**kept, **settings.environ()}


def _opening(environment: Environment) -> Iterator[str]:
    """Names of the keys that the journal and the objects are opened with."""
    for path, reference in references(environment):
        if path.partition(".")[0] in {"journal", "storage"}:
            yield reference.removeprefix("$key:").partition(".")[0]
