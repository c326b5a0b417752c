"""One declaration of each route: what is served, checked and described (OpenAPI) is made from it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

from ssmd.gateway.access import Grant
from ssmd.gateway.problem import Flaw, Problem
from ssmd.gateway.refusal import refused

MAX_TEXT = 256  # characters of a name: a symbol, a category
Method = Literal["GET", "POST", "DELETE"]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Limit = Annotated[int, Meta(ge=1, le=1_000, description="At most so many.")]
CursorText = Annotated[str, Meta(max_length=1_000, description="`next` of the page before.")] | None
_MOMENTS = "RFC 3339, nanoseconds since 1970, a duration before now such as 5m, or a position `stream:sequence`."
Moment = Annotated[str, Meta(max_length=80, description=_MOMENTS)] | None
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Query(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Parameters of a GET; a subclass adds its own."""

    as_of: Annotated[str, Meta(max_length=80, description=f"As it was then: {_MOMENTS}")] | None = None


class NoQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """No parameters."""


@dataclass(frozen=True, slots=True)
class PathPart:
    """A name in a path, which is one segment: a slash in it is written %2F."""

    description: str
    example: str
    pattern: str = r"^[^\x00-\x1f\x7f-\x9f]+$"


PARTS = {
    "symbol": PathPart("The market's symbol.", "KXBTC15M-26NOV221900-00"),
    "date": PathPart("YYYY-MM-DD, today or yesterday.", "2026-11-22", r"^([0-9]{4}-[0-9]{2}-[0-9]{2}|today|yesterday)$"),
    "id": PathPart("The client's id.", "c1", r"^[A-Za-z0-9_-]{1,64}$"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    grant: Grant
    path: Mapping[str, str]
    query: Any
    body: Any
    now_ns: int
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """`scope` "" is open to everybody. `unready`: its answer is 503 where it says that it is not ready."""

    name: str
    path: str
    summary: str
    handler: Callable[[Any, Call], Awaitable[Any]]
    answer: Any
    query: type = NoQuery
    body: type | None = None
    method: Method = "GET"
    scope: Literal["", "read", "admin"] = "read"
    media: str = "application/json"
    unready: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)}", self.path))


def read_segment(name: str, text: str) -> str:
    """A name of a path as it was before it was escaped, decoded once. Raises `Problem`."""
    if len(text) > 3 * MAX_TEXT:
        raise Problem("bad-parameter", f"{name} is too long", errors=(Flaw(name, f"at most {MAX_TEXT} characters"),))
    try:
        found = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise Problem("bad-parameter", f"{name} is not UTF-8", errors=(Flaw(name, "percent-encode its UTF-8 bytes"),)) from None
    if len(found) > MAX_TEXT or not found or _CONTROL.search(found):
        raise Problem(
            "bad-parameter", f"{name} is empty, too long or has control characters", errors=(Flaw(name, f"1 to {MAX_TEXT} characters"),)
        )
    if not re.search(PARTS[name].pattern, found):
        reason = f"{found!r}: write it as {PARTS[name].example} ({PARTS[name].description.rstrip('.')})"
        raise Problem("bad-parameter", f"{name} {reason}", errors=(Flaw(name, reason),))
    return found


def read_query(kind: type, given: list[tuple[str, str]]) -> Any:
    """The parameters as `kind`. Raises `Problem`, with near names for one that is not known."""
    known: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]
    flaws, nearest = [], []
    for name, value in given:
        if name not in known:
            near = get_close_matches(name, known)
            nearest += near
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known) or 'none'}"
            flaws.append(Flaw(name[:MAX_TEXT], f"is not a parameter of this path{hint}"))
        elif _CONTROL.search(value):
            flaws.append(Flaw(name, "has control characters"))
    flaws += [Flaw(n, "is given twice") for n in known if sum(name == n for name, _ in given) > 1]
    if flaws:
        raise Problem("bad-parameter", _said(flaws), errors=tuple(flaws), nearest=tuple(dict.fromkeys(nearest)))
    try:
        found: Any = msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error, kind, "a parameter") from None
    for name, value in given:
        if isinstance(getattr(found, name), int) and not _INTEGER.fullmatch(value):  # 1e3 is no integer to others
            raise Problem("bad-parameter", f"{name}: write it in digits", errors=(Flaw(name, "write it in digits"),))
    return found


def read_body(kind: type, data: bytes) -> Any:
    """A JSON body as `kind`. Raises `Problem`."""
    try:
        found: Any = msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error, kind, "the body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("bad-request", f"the body is no JSON: {error}") from None
    values: dict[str, Any] = msgspec.structs.asdict(found)
    if flaws := [Flaw(n, "has control characters") for n, v in values.items() if isinstance(v, str) and _CONTROL.search(v)]:
        raise Problem("bad-parameter", _said(flaws), errors=tuple(flaws))  # it goes into logs and onto terminals
    return found


def _invalid(error: msgspec.ValidationError, kind: type, what: str) -> Problem:
    place, reason = refused(error, kind)
    name = place or what
    return Problem("bad-parameter", f"{name}: {reason}", errors=(Flaw(name, reason),))


def _said(flaws: list[Flaw]) -> str:
    return "; ".join(f"{flaw.name} {flaw.reason}" for flaw in flaws[:3])
