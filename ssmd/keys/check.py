"""Looking at an environment's keys: what is there, how old it is, when it ends, and whether it can be what it is said to be. No values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from journal.errors import CallerError, KeyRefused, KeyUnavailable
from ssmd.keys.expiry import WARN_NS, expires_ns
from ssmd.keys.resolve import Resolver
from ssmd.keys.source import Found, Place, Wanted, parse_source
from ssmd.metadata.environment import Environment, Key

Status = Literal["ok", "expiring", "expired", "missing", "sealed", "refused", "unavailable", "wrong"]
FieldStatus = Literal["present", "missing", "sealed", "unknown"]
# (key id, PEM) -> a signer; raises `CallerError` for what is none.
LoadSigner = Callable[[str, bytes], Any]


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of one key. Times are nanoseconds since 1970, 0 where not known."""

    name: str
    key: Key
    status: Status
    fields: dict[str, FieldStatus]
    set_ns: int = 0
    expires_ns: int = 0
    previous_until_ns: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def finding(self) -> bool:
        """Whether somebody must act. A key that is not required may be missing, not wrong; one that is sealed is the cluster's affair."""
        return self.status not in {"ok", "expiring", "sealed"} and (self.key.required or self.status != "missing")


def examine(environment: Environment, resolver: Resolver, place: Place, names: Iterable[str] = ()) -> list[KeyState]:
    """The state of the keys `names`, or of all, in the environment's order."""
    chosen = list(names) or list(environment.keys)
    return [_examine(environment, name, resolver, place) for name in chosen]


def _examine(environment: Environment, name: str, resolver: Resolver, place: Place) -> KeyState:
    key = environment.keys[name]
    try:
        if sealed := _find_sealed(environment.name, name, key, place):
            return sealed
        found = resolver.found(name)
    except (KeyRefused, KeyUnavailable) as error:
        status: Status = "unavailable" if isinstance(error, KeyUnavailable) else "refused"
        return KeyState(name, key, status, dict.fromkeys(key.fields, "unknown"), problems=[str(error)])
    end, now = expires_ns(key, found), place.clock.wall_ns()
    fields: dict[str, FieldStatus] = {f: "present" if f in found.values else "missing" for f in key.fields}
    problems = []
    if missing := [f for f, s in fields.items() if s == "missing"]:
        problems.append(f"{key.source} has no {', '.join(missing)}; set it with `ssmd key set {environment.name} {name}`")
    if end and end <= now:
        problems.append(f"expired; set a new one with `ssmd key rotate {environment.name} {name}`")
    status = "missing" if missing else _status(end, now)
    return KeyState(name, key, status, fields, found.set_ns, end, found.previous_until_ns, problems)


def _status(end: int, now: int) -> Status:
    if not end or end > now + WARN_NS:
        return "ok"
    return "expiring" if end > now else "expired"


def _find_sealed(env: str, name: str, key: Key, place: Place) -> KeyState | None:
    """Of a key that only the cluster opens, what its sealed file says; None where there is none, or where it is mounted here."""
    from ssmd.keys.sealed import SealedSource

    kind, rest = parse_source(key.source)
    if kind != "sealed-secret":
        return None
    source = SealedSource(rest, place)
    sealed = source.sealed(Wanted(env, name, key.fields))
    if sealed is None or source.is_mounted:
        return None
    fields: dict[str, FieldStatus] = {f: "sealed" if f in sealed.fields else "missing" for f in key.fields}
    end, now = expires_ns(key, Found({}, sealed.set_ns)), place.clock.wall_ns()
    late = _status(end, now)
    status = "missing" if "missing" in fields.values() else "sealed" if late == "ok" else late
    problems = [f"{f} is not sealed; set it with `ssmd key set {env} {name}`" for f, s in fields.items() if s == "missing"]
    return KeyState(name, key, status, fields, sealed.set_ns, end, sealed.previous_until_ns, problems)


def verify(
    environment: Environment, resolver: Resolver, place: Place, load_signer: LoadSigner | None, names: Iterable[str] = ()
) -> list[KeyState]:
    """As `examine`, and what is there is parsed. `load_signer` is of the venue's API keys, None where it has none."""
    states = []
    for state in examine(environment, resolver, place, names):
        problems = [] if set(state.fields.values()) != {"present"} else inspect(state.key, resolver.found(state.name), load_signer)
        states.append(replace(state, status="wrong", problems=[*state.problems, *problems]) if problems else state)
    return states


def inspect(key: Key, found: Found, load_signer: LoadSigner | None) -> list[str]:
    """What is wrong with the values of a key, in words that do not hold them."""
    blank = [f"{name} is blank" for name, secret in found.values.items() if not secret.reveal().strip()]
    if blank:
        return blank
    if key.type == "api_key" and load_signer and {"key_id", "private_key"} <= found.values.keys():
        try:
            load_signer(found.values["key_id"].reveal(), found.values["private_key"].reveal().encode())
        except CallerError as error:
            return [str(error)]
        return []
    return _inspect_tls(found) if key.type == "tls" else []


def _inspect_tls(found: Found) -> list[str]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    def public(key: Any) -> bytes:
        return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    problems, certified, private = [], set(), {}
    for name, secret in found.values.items():
        pem = secret.reveal().encode()
        try:
            if b"PRIVATE KEY-----" in pem:
                private[name] = public(load_pem_private_key(pem, None).public_key())
            else:
                certified |= {public(c.public_key()) for c in load_pem_x509_certificates(pem)}
        except TypeError:
            problems.append(f"{name} is an encrypted private key; ssmd has nowhere to ask for its password")
        except (ValueError, UnsupportedAlgorithm):
            problems.append(f"{name} is neither a PEM certificate nor a PEM private key")
    if certified and not problems:
        problems += [f"{name} is not the private key of the certificate" for name, key in private.items() if key not in certified]
    return problems
