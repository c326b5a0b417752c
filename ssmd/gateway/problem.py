"""What goes wrong, as RFC 9457 problem documents: one table of kinds, and our errors as one of them.

What a client did is told in words. What happened to us is told as a kind: its words go into the log, where the operator reads them.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from journal.errors import CallerError, CorruptionError, NotFound, SsmdError, StoreError

_log = logging.getLogger("ssmd.gateway")

MEDIA = "application/problem+json"
# kind -> (HTTP status, title); the type is urn:ssmd:problem:KIND.
KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "bad-parameter": (400, "A parameter is not what it must be"),
    "no-key": (401, "A key is needed"),
    "wrong-key": (401, "The key is not valid"),
    "not-allowed": (403, "The key does not allow this"),
    "wrong-origin": (403, "Pages of this origin may not do this"),
    "not-found": (404, "There is no such thing"),
    "wrong-method": (405, "The method is not for this path"),
    "slow": (408, "The request came too slowly"),
    "too-large": (413, "The request is too large"),
    "long-target": (414, "The path or the query is too long"),
    "wrong-media": (415, "The body is not JSON"),
    "wrong-host": (421, "This server is not that host"),
    "too-many-requests": (429, "Too many requests"),
    "large-headers": (431, "The headers are too large"),
    "defect": (500, "Something is wrong here"),
    "damaged": (500, "Stored data is not what it must be"),
    "unavailable": (503, "Not available just now"),
    "busy": (503, "Too many are asking this just now"),
    "too-long": (504, "It takes too long"),
}


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong with one parameter, header or field of the body."""

    name: str
    reason: str


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    nearest: tuple[str, ...] = ()
    errors: tuple[Flaw, ...] = ()


class Problem(Exception):
    """Raised where a request cannot be answered. `headers` go with it."""

    def __init__(
        self, kind: str, detail: str, *, nearest: tuple[str, ...] = (), errors: tuple[Flaw, ...] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.nearest, self.errors, self.headers = kind, detail, nearest, errors, headers or {}
        self.status, self.title = KINDS[kind]

    def document(self, instance: str) -> ProblemDocument:
        """As it is sent; `instance` is the path that was asked."""
        said = f"urn:ssmd:problem:{self.kind}"
        return ProblemDocument(said, self.title, self.status, self.detail, instance, self.nearest, self.errors)


def problem_of(error: Exception) -> Problem:
    """Any error as a problem; what is ours is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, NotFound):
        return Problem("not-found", f"no {error.what} {error.name!r}", nearest=tuple(error.nearest))
    if isinstance(error, CallerError):
        return Problem("bad-request", str(error))
    if isinstance(error, TimeoutError):
        return Problem("too-long", "it took longer than this server works on one question; ask for less, or of a later time")
    if isinstance(error, StoreError):
        _log.warning("%s: %s", type(error).__name__, error)
        return Problem("unavailable", "the journal or the archive does not answer; try again", headers={"Retry-After": "2"})
    if isinstance(error, CorruptionError):
        _log.error("%s: %s", type(error).__name__, error)
        return Problem("damaged", f"{type(error).__name__}: the operator's log says where")
    if isinstance(error, SsmdError):
        _log.warning("%s: %s", type(error).__name__, error)
        return Problem("unavailable", "not available just now; try again", headers={"Retry-After": "2"})
    _log.error("a request was not answered", exc_info=error)
    return Problem("defect", "this is a defect of ssmd; the operator's log has the traceback")


def encode(value: Any) -> bytes:
    """JSON of an answer or a problem."""
    return msgspec.json.encode(value)
