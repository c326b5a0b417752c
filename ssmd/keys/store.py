"""Writing keys, for the sources whose place is beside the environment: age and sealed secrets. For the others: what to do there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from journal.errors import KeyRefused
from ssmd.keys.files import remove_file, write_whole
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found, Place, Wanted, parse_source

if TYPE_CHECKING:
    from ssmd.keys.seal import Scope

WRITABLE = ("age", "sealed-secret")


@dataclass(frozen=True, slots=True)
class Sealing:
    """With what, and for where, a sealed secret is made. What is "" is as it was in the file that is there."""

    certificate_pem: bytes = b""
    namespace: str = ""
    scope: Scope | None = None


def check_writable(source: str, wanted: Wanted, sealing: Sealing | None = None) -> None:
    """Raises `KeyRefused` that says where the values of another source are put, or, with `sealing`, what it lacks."""
    kind, rest = parse_source(source)
    if kind == "sealed-secret" and sealing and not sealing.certificate_pem:
        raise KeyRefused(
            f"sealing key {wanted.name} needs the cluster's public certificate: --cert FILE or URL (kubeseal --fetch-cert > FILE)"
        )
    if kind in WRITABLE:
        return
    from ssmd.keys.variables import name_variable

    variables = " and ".join(name_variable(wanted, field) for field in wanted.fields)
    how = {
        "env": f"set {variables} in the environment of the process (and keep them out of files in git)",
        "file": f"write each field to a file of its name in {rest}, mode 0600: {', '.join(wanted.fields)}",
        "vault": f"write it there: vault kv put {rest} {' '.join(f'{field}=@FILE' for field in wanted.fields)}",
        "exec": f"the program `{rest}` only reads: put it where that program looks",
    }[kind]
    raise KeyRefused(
        f"key {wanted.name} of environment {wanted.env} has source {source}, which ssmd does not write: {how};"
        f" or make its source age or sealed-secret/NAME"
    )


def store(
    source: str, wanted: Wanted, place: Place, values: Mapping[str, Secret], *, sealing: Sealing, set_ns: int, previous_until_ns: int = 0
) -> Path:
    """Write `values` and keep the other fields. The file written.

    With `previous_until_ns` what they replace, and what was replaced before, is valid until then and no longer; at `set_ns` it is over
    at once and not kept: the old value may have been stolen.

    Raises `KeyRefused`, `BadFile`.
    """
    check_writable(source, wanted, sealing)
    kind, rest = parse_source(source)
    if kind == "age":
        return _store_age(wanted, place, values, set_ns, previous_until_ns)
    return _seal(rest, wanted, place, values, sealing=sealing, set_ns=set_ns, previous_until_ns=previous_until_ns)


def _store_age(wanted: Wanted, place: Place, values: Mapping[str, Secret], set_ns: int, previous_until_ns: int) -> Path:
    from ssmd.keys.age import AgeSource

    age = AgeSource("", place)
    try:
        before = age.fetch(wanted)
    except KeyRefused:
        # Nobody here can open it (its identity is lost): it may be replaced as a whole, if nothing of it is to be kept.
        if previous_until_ns or set(values) != set(wanted.fields):
            raise
        before = Found({})
    previous, until_ns = dict(before.previous), before.previous_until_ns
    if previous_until_ns:
        previous |= {f: before.values[f] for f in values if f in before.values}
        until_ns = previous_until_ns
    if until_ns <= set_ns:
        previous = {}
    return age.store(wanted, Found({**before.values, **values}, set_ns, previous, until_ns if previous else 0))


def _seal(
    name: str, wanted: Wanted, place: Place, values: Mapping[str, Secret], *, sealing: Sealing, set_ns: int, previous_until_ns: int
) -> Path:
    from ssmd.keys.seal import seal
    from ssmd.keys.sealed import SealedSource, name_sealed

    path = name_sealed(place.directory, wanted.env, wanted.name)
    before = SealedSource(name, place).sealed(wanted)
    whole = set(values) == set(wanted.fields) and not previous_until_ns
    namespace = sealing.namespace or (before.namespace if before else "")
    if not namespace:
        raise KeyRefused("name the Kubernetes namespace the Secret is for: --namespace NAME")
    scope = sealing.scope or (before.scope if before else "strict")
    moved = before is not None and (before.namespace, before.scope) != (namespace, scope)
    existing = path.read_text() if before and not (moved and whole) else ""
    text = seal(
        values, sealing.certificate_pem, name=name, namespace=namespace, scope=scope, set_ns=set_ns,
        previous_until_ns=previous_until_ns, existing=existing,
    )  # fmt: skip
    write_whole(path, text.encode(), mode=0o644)
    return path


def remove(source: str, wanted: Wanted, place: Place) -> Path | None:
    """Delete the key's file, with every field and previous value in it; None where there is none. Raises `KeyRefused`."""
    from ssmd.keys.age import AgeSource
    from ssmd.keys.sealed import name_sealed

    check_writable(source, wanted)
    path = AgeSource("", place).path(wanted) if source == "age" else name_sealed(place.directory, wanted.env, wanted.name)
    return path if remove_file(path) else None
