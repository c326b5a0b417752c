"""OpenAPI 3.1, made from the declarations of the routes and the types of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ssmd.gateway.operation import MAX_TEXT, PARTS, NoQuery, Operation
from ssmd.gateway.problem import KINDS, MEDIA, ProblemDocument
from ssmd.software import software

_REF = "#/components/schemas/{name}"
_ALWAYS = (400, 403, 405, 414, 421, 429, 431, 500)  # wherever one asks; 401 and 503 depend


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document."""
    types = [ProblemDocument, *(t for o in operations for t in (o.answer, o.query, o.body) if _is_struct(t))]
    components = schemas(list(dict.fromkeys(types)), _REF)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, components)
    for operation in operations:
        components.pop(operation.query.__name__, None)  # parameters are written out
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ssmd gateway", "version": software(),
            "description": "Exact books, trades and market state, now and at any past moment. The live stream is in /asyncapi.json.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`ssmd gateway key create NAME` makes one."}},
        },
        "security": [{"key": []}],
    }  # fmt: skip


def schemas(types: Sequence[Any], reference: str) -> dict[str, Any]:
    """Of the types and of those that they are made of, by name. Not every generator of clients knows schemas that are `false`."""
    _, found = msgspec.json.schema_components(types, ref_template=reference)

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            closed = "prefixItems" in part and part.get("items") is False and part.get("maxItems") == len(part["prefixItems"])
            return {name: plain(value) for name, value in part.items() if not (closed and name == "items")}
        return [plain(value) for value in part] if isinstance(part, list | tuple) else part

    return {name: plain(schema) for name, schema in found.items()}


def _operation(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if not operation.scope:
        said["security"] = []
    elif operation.scope == "admin":
        said["description"] = "Needs a key with scope admin."
    if parameters := [_part(name) for name in operation.parts] + _query(operation, components):
        said["parameters"] = parameters
    if operation.body:
        said["requestBody"] = {
            "required": operation.method == "POST",
            "content": {"application/json": {"schema": {"$ref": _REF.format(name=operation.body.__name__)}}},
        }
    said["responses"] = _responses(operation)
    return said


def _part(name: str) -> dict[str, Any]:
    part = PARTS[name]
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": part.pattern}
    return {"name": name, "in": "path", "required": True, "description": part.description, "schema": schema, "example": part.example}


def _query(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    if operation.query is NoQuery:
        return []
    found = []
    for name, schema in components[operation.query.__name__]["properties"].items():
        # A parameter that is not given is null here; none is ever sent as null.
        options = [o for o in schema.get("anyOf", [schema]) if o.get("type") != "null"]
        kept = {k: v for k, v in {**schema, **options[0]}.items() if k not in {"anyOf", "description"} and v is not None}
        if kept.get("type") == "string" or "enum" not in kept:
            kept = _plain(kept)
        found.append(
            {"name": name, "in": "query", "description": schema.get("description", options[0].get("description", "")), "schema": kept}
        )
    return found


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Text without control characters."""
    if schema.get("type") != "string" or "pattern" in schema:
        return schema
    return {**schema, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}


def _responses(operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"} if operation.answer is dict else {"type": "string"}
    if _is_struct(operation.answer):
        schema = {"$ref": _REF.format(name=operation.answer.__name__)}
    good = {"description": "The answer.", "content": {operation.media.partition(";")[0]: {"schema": schema}}}
    found: dict[str, Any] = {"200": good}
    if operation.scope and operation.method == "GET":
        found["200"] = {**good, "headers": {"ETag": {"schema": {"type": "string"}}}}
        found["304"] = {"description": "As `If-None-Match` knows it."}
    codes = [*_ALWAYS, *([404] if operation.parts or operation.query is not NoQuery else []), *([401] if operation.scope else [])]
    codes += [408, 413, 415] if operation.body else []
    codes += [503, 504] if operation.scope else []
    problem = {MEDIA: {"schema": {"$ref": _REF.format(name="ProblemDocument")}}}
    for code in sorted(codes):
        titles = [title for status, title in KINDS.values() if status == code]
        found[str(code)] = {"description": "; or: ".join(titles) + ".", "content": problem}
    if operation.unready:
        found["503"] = {"description": "It cannot.", "content": {"application/json": {"schema": schema}}}
    return found


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not NoQuery
