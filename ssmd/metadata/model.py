"""What all metadata models share: strictness, and the types of their leaves."""

from __future__ import annotations

import re
from datetime import date, time
from functools import cache
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from journal.errors import BadSubject
from journal.subjects import check_name

# A whole value, or a part of one: nats://$key:bus.user@host is not written, so a reference is the whole value.
REFERENCE = re.compile(r"\$key:([a-z][a-z0-9_-]{0,31})\.([a-z][a-z0-9_]{0,63})")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Model(BaseModel):
    """Frozen; unknown keys are errors; an error never repeats the input, which may be a secret written in the wrong place."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


def is_reference(text: str) -> bool:
    """Whether `text` is ``$key:NAME.FIELD``."""
    return REFERENCE.fullmatch(text) is not None


def _name(text: str) -> str:
    try:
        return check_name("feed", text)
    except BadSubject as error:
        raise ValueError(str(error).removeprefix("feed name ")) from None


def _shard(text: str) -> str:
    try:
        return check_name("shard", text)
    except BadSubject as error:
        raise ValueError(str(error).removeprefix("shard name ")) from None


def _key_name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", text):
        raise ValueError("use a lower-case letter, then up to 31 of a-z, 0-9, '_' and '-'")
    return text


def _field(text: str) -> str:
    if not _FIELD.fullmatch(text):
        raise ValueError("use a lower-case letter, then up to 63 of a-z, 0-9 and '_'")
    return text


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())  # reads a directory of hundreds of files


def _timezone(text: str) -> str:
    if text not in _timezones():
        from difflib import get_close_matches

        near = ", ".join(get_close_matches(text, _timezones(), n=3, cutoff=0.5))
        raise ValueError(f"unknown timezone; {f'nearest: {near}' if near else 'write an IANA name such as America/New_York'}")
    return text


def _clock_time(text: str) -> str:
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", text):
        raise ValueError('write the time as "HH:MM", 00:00 to 23:59')
    return text


def _version(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", text):
        raise ValueError('write a version as "1", "1.0" or "1.0.0", in quotes')
    return text


def _secret_reference(text: str) -> str:
    if not is_reference(text):
        raise ValueError("a secret is never written here: declare a key and refer to it as $key:NAME.FIELD")
    return text


def _url(*schemes: str) -> Any:
    shown = " or ".join(f"{s}://" for s in schemes)

    def check(text: str) -> str:
        if is_reference(text):
            return text
        for one in text.split(","):
            parts = urlsplit(one.strip())
            if parts.scheme not in schemes or not parts.netloc:
                raise ValueError(f"write {shown}…, or $key:NAME.FIELD")
            # A password with a / or # in it ends what is the host for a parser; of these URLs nothing else has an @.
            if "@" in (parts.netloc if parts.scheme in {"https", "http"} else one):
                raise ValueError("a user or password in an URL is a secret in clear: declare a key and refer to it as $key:NAME.FIELD")
        return text

    return Annotated[str, AfterValidator(check)]


def _address(text: str) -> str:
    if not is_reference(text) and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", text):
        raise ValueError("write HOST:PORT, or $key:NAME.FIELD")
    return text


def _file_name(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError("name a file beside this one")
    return text


Name = Annotated[str, AfterValidator(_name)]
ShardName = Annotated[str, AfterValidator(_shard)]
KeyName = Annotated[str, AfterValidator(_key_name)]
FieldName = Annotated[str, AfterValidator(_field)]
Timezone = Annotated[str, AfterValidator(_timezone)]
ClockTime = Annotated[str, AfterValidator(_clock_time)]
Version = Annotated[str, AfterValidator(_version)]
SecretReference = Annotated[str, AfterValidator(_secret_reference)]
FileName = Annotated[str, AfterValidator(_file_name)]
VenueUrl = _url("wss", "ws", "tcp", "udp", "https", "http")
HttpUrl = _url("https", "http")
NatsUrl = _url("nats", "tls", "ws", "wss")
Address = Annotated[str, AfterValidator(_address)]
RedisUrl = _url("redis", "rediss")


# Scheme, host and port, as a browser writes them.
WebOrigin = Annotated[str, Field(pattern=r"^https?://[a-z0-9.-]{1,250}(:[0-9]{1,5})?$")]


def at(text: str) -> time:
    """A `ClockTime` as a time."""
    return time.fromisoformat(text)


def in_force(versions: tuple[Any, ...], day: date) -> Any | None:
    """Of `versions` the one with the latest ``effective_from`` not after `day`; None before the first and after an ``effective_to``."""
    past = [v for v in versions if v.effective_from <= day]
    newest = max(past, key=lambda v: v.effective_from, default=None)
    until = getattr(newest, "effective_to", None)
    return None if until is not None and until < day else newest


def overlaps(versions: tuple[Any, ...]) -> list[str]:
    """What is wrong with the periods and names of `versions`, in words."""
    found = [f"version {v.version} is there twice" for i, v in enumerate(versions) if v.version in {w.version for w in versions[:i]}]
    ordered = sorted(versions, key=lambda v: v.effective_from)
    for v in ordered:
        until = getattr(v, "effective_to", None)
        if until is not None and until < v.effective_from:
            found.append(f"version {v.version} ends ({until}) before it begins ({v.effective_from})")
    for one, other in pairwise(ordered):
        until = getattr(one, "effective_to", None)
        if one.effective_from == other.effective_from:
            found.append(f"versions {one.version} and {other.version} overlap: both are effective from {one.effective_from}")
        elif until is not None and until >= other.effective_from:
            said = f"{one.version} is effective to {until}, {other.version} from {other.effective_from}"
            found.append(f"versions {one.version} and {other.version} overlap: {said}")
    return found
