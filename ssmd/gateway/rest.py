"""REST: each request is bounded, admitted, counted against its key's rate, checked, answered, and told apart by an ETag.

Paths are matched as they were sent and each name is decoded once, so that an escaped slash is part of a name and never of a path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

from msgspec.structs import replace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from journal.errors import NotFound
from ssmd.gateway.access import OPEN, Grant
from ssmd.gateway.annex import Elsewhere
from ssmd.gateway.answers import Asked
from ssmd.gateway.desk import Desk
from ssmd.gateway.markets import nearest_names
from ssmd.gateway.measures import Measures
from ssmd.gateway.operation import Call, Operation, read_body, read_query, read_segment
from ssmd.gateway.problem import MEDIA, Problem, encode, problem_of
from ssmd.gateway.routes import OPERATIONS

MAX_TARGET = 4 << 10  # bytes of path and query; a symbol is at most 200 characters
MAX_HEADERS = 16 << 10
MAX_BODY = 64 << 10
MAX_FIELDS = 32  # parameters of a query
_BODY_S = 5.0
_ALWAYS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache", "Referrer-Policy": "no-referrer"}
_EXPOSED = "ETag, Retry-After, RateLimit, RateLimit-Policy, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"


class Rest:
    """An ASGI application for HTTP."""

    def __init__(self, desk: Desk, measures: Measures, operations: Sequence[Operation] = OPERATIONS) -> None:
        self._desk = desk
        self._measures = measures
        self._paths: dict[str, dict[str, Operation]] = {}
        for operation in operations:
            self._paths.setdefault(operation.path, {})[operation.method] = operation
        self._routes = [(Route(path, _unused), methods) for path, methods in self._paths.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started_ns = self._desk.clock.mono_ns()
        name = "none"
        headers: dict[str, str] = {}
        try:
            self._bound(scope, request)
            headers |= self._cors(request)
            methods, parts = self._match(scope)
            if request.method == "OPTIONS" and headers and "access-control-request-method" in request.headers:
                response = _preflight(methods, headers)
            else:
                operation = _operation(methods, request.method)
                name = operation.name
                response = await self._answer(operation, request, parts, headers)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001  (every error is a problem document)
            problem = problem_of(error)
            if "RateLimit" not in headers:  # it was refused before it was counted
                try:
                    self._count(f"open {_peer(request)}", headers)
                except Problem as enough:
                    problem = enough
            response = self._problem(problem, _path(scope), headers)
        self._measures.answered(name, response.status_code, (self._desk.clock.mono_ns() - started_ns) / 1e9)
        if request.method == "HEAD":
            response.body = b""
        try:
            await response(scope, receive, send)
        except RuntimeError as error:
            if "closed" not in str(error):  # which uvloop says where the client has gone meanwhile
                raise

    async def _answer(self, operation: Operation, request: Request, parts: dict[str, str], headers: dict[str, str]) -> Response:
        grant = self._admit(operation, request, headers)
        async with self._desk.gatekeeper.answering(grant):
            path = {name: read_segment(name, text) for name, text in parts.items()}
            query = read_query(operation.query, _fields(request))
            body = read_body(operation.body, await _read(request)) if operation.body else None
            call = Call(grant, path, query, body, self._desk.clock.wall_ns(), _peer(request))
            status = 200
            try:
                answer = await operation.handler(self._desk, call)
            except Elsewhere:
                data, tag = await self._past(operation, call)
            else:
                data = answer if isinstance(answer, bytes) else encode(answer)
                tag = tag_of(answer, data)
                status = 503 if operation.unready and not answer.ready else 200
        headers |= _ALWAYS
        if request.method in {"GET", "HEAD"} and operation.scope:
            headers["ETag"] = tag
            if _has(request.headers.get("if-none-match", ""), tag):
                return Response(status_code=304, headers=headers)
        return Response(data, status, headers, media_type=operation.media)

    def _admit(self, operation: Operation, request: Request, headers: dict[str, str]) -> Grant:
        """Who asks, counted. Raises `Problem`."""
        self._desk.gatekeeper.check_origin(request.headers)
        peer = _peer(request)
        if not operation.scope:
            self._count(f"open {peer}", headers)
            return OPEN
        try:
            grant = self._desk.gatekeeper.admit(request.headers, operation.scope, peer=peer)
        except Problem:
            self._count(f"refused {peer}", headers)
            raise
        self._count(grant.key, headers)
        return grant

    async def _past(self, operation: Operation, call: Call) -> tuple[bytes, str]:
        """The answer of the other process. What is captured only this one knows: names like an unknown one are of it."""
        desk = self._desk
        if desk.annex is None:
            raise Problem("unavailable", "this gateway answers nothing about the past")
        try:
            reply = await desk.annex.ask(operation, call, {v.stream.name: v.effective_ns for v in desk.views if v.ready})
        except Problem as problem:
            if problem.kind == "not-found" and "symbol" in call.path and not problem.nearest:
                problem.nearest = nearest_names(desk, call.path["symbol"], [])
            raise
        return reply.data, reply.tag

    def _bound(self, scope: Scope, request: Request) -> None:
        """Refuse what is larger than any honest request, and what could be read in two ways. Raises `Problem`."""
        if len(_raw(scope)) + len(scope.get("query_string", b"")) > MAX_TARGET:
            raise Problem("long-target", f"path and query are at most {MAX_TARGET} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise Problem("large-headers", f"headers are at most {MAX_HEADERS} bytes")
        for name in ("host", "authorization", "origin"):
            if len(request.headers.getlist(name)) > 1:
                raise Problem("bad-request", f"header {name} is there twice")

    def _match(self, scope: Scope) -> tuple[dict[str, Operation], dict[str, str]]:
        path = _path(scope)
        matched = {**scope, "path": path, "root_path": "", "method": "GET"}
        for route, methods in self._routes:
            found, child = route.matches(matched)
            if found is not Match.NONE:
                return methods, dict(child["path_params"])
        known = NotFound("path", path[:200], list(self._paths))
        raise Problem("not-found", f"no path {path[:200]!r}", nearest=tuple(known.nearest))

    def _count(self, name: str, headers: dict[str, str]) -> None:
        taken = self._desk.rates.take(name)
        headers |= self._desk.rates.headers(taken)
        if not taken.allowed:
            raise Problem("too-many-requests", f"at most {self._desk.rates.per_s} requests a second; wait {headers['Retry-After']} s")

    def _cors(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("origin", "")
        if not origin or not self._desk.gatekeeper.shares(origin):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", "Access-Control-Expose-Headers": _EXPOSED}

    def _problem(self, problem: Problem, path: str, headers: dict[str, str]) -> Response:
        said = {**headers, **_ALWAYS, "Cache-Control": "no-store", **problem.headers}
        return Response(encode(problem.document(path[:500])), problem.status, said, media_type=MEDIA)


async def _unused(request: Request) -> Response:
    raise AssertionError(request)  # routes are matched, not called


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _raw(scope: Scope) -> bytes:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


def _path(scope: Scope) -> str:
    """As it was sent; what is not ASCII in it is escaped."""
    return _raw(scope).decode("ascii", "backslashreplace")


def _operation(methods: dict[str, Operation], method: str) -> Operation:
    found = methods.get("GET" if method == "HEAD" else method)
    if found is None:
        allowed = sorted({*methods, *({"HEAD"} if "GET" in methods else ())})
        raise Problem(
            "wrong-method", f"{method[:20]} is not for this path; {', '.join(allowed)} are", headers={"Allow": ", ".join(allowed)}
        )
    return found


def _fields(request: Request) -> list[tuple[str, str]]:
    text = request.scope.get("query_string", b"")
    try:
        return parse_qsl(
            text.decode("ascii"), keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MAX_FIELDS
        )
    except (ValueError, UnicodeDecodeError):
        raise Problem("bad-parameter", f"the query is at most {MAX_FIELDS} of name=value, percent-encoded UTF-8, joined by &") from None


async def _read(request: Request) -> bytes:
    """The body. Raises `Problem` for one that is too large, comes too slowly or is not JSON."""
    data = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY:
                    raise Problem("too-large", f"a body is at most {MAX_BODY} bytes")
    except TimeoutError:
        raise Problem("slow", f"the body did not come within {_BODY_S:g} s", headers={"Connection": "close"}) from None
    if data and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem("wrong-media", "send the body as Content-Type: application/json")
    return bytes(data)


def tag_of(answer: Any, data: bytes) -> str:
    """Weak: answers that differ in nothing but when they are of have the same."""
    if isinstance(answer, Asked):
        data = encode(replace(answer, as_of_time="", as_of_ns=0))
    return f'W/"{blake2b(data, digest_size=12).hexdigest()}"'


def _has(text: str, tag: str) -> bool:
    """Whether an If-None-Match names the tag; compared weakly."""
    named = [part.strip().removeprefix("W/") for part in text.split(",")]
    return "*" in named or tag.removeprefix("W/") in named


def _preflight(methods: dict[str, Operation], headers: dict[str, str]) -> Response:
    allowed = {
        "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
        "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match",
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers={**headers, **allowed})
