"""AsyncAPI 3.0 of the stream, made from the types of its messages and requests."""

from __future__ import annotations

from typing import Any

import msgspec

from ssmd.gateway import message, openapi, request
from ssmd.gateway.access import SUBPROTOCOL
from ssmd.software import software

_REF = "#/components/schemas/{name}"
_QUERY = ("symbols", "series", "category", "channels", "mode", "interval_ms", "resume", "policy")


def describe() -> dict[str, Any]:
    """The document. A frame from the server is an array of messages; one from a client is one request."""
    sent, received = (*message.DATA, *message.CONTROL), request.REQUESTS
    schemas = openapi.schemas([*sent, *received], _REF)
    schemas["Frame"] = {"type": "array", "minItems": 1, "items": {"oneOf": [{"$ref": _REF.format(name=t.__name__)} for t in sent]}}
    messages = {t.__name__: _message(t) for t in (*sent, *received)}
    messages["Frame"] = {
        "name": "Frame", "title": "Frame", "summary": "What the server sends: messages in order.", "contentType": "application/json",
        "payload": {"$ref": _REF.format(name="Frame")},
    }  # fmt: skip
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ssmd gateway stream", "version": software(),
            "description": "WebSocket. A frame from the server is a JSON array of messages, told apart by `type`; one from a client is one"
            " JSON object, told apart by `op`. REST is in /openapi.json.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "stream": {
                "address": "/v1/stream",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "query": {"type": "object", "properties": {n: {"type": "string"} for n in _QUERY}, "additionalProperties": False},
                        "headers": {
                            "type": "object",
                            "properties": {
                                "Authorization": {"type": "string", "description": "Bearer KEY"},
                                "Sec-WebSocket-Protocol": {
                                    "type": "string",
                                    "description": f"{SUBPROTOCOL}; a browser adds its key as another one: {SUBPROTOCOL}, ssmd.key.KEY",
                                },
                            },
                        },
                    }
                },
            }
        },
        "operations": {
            "receiveFrames": {
                "action": "send", "channel": {"$ref": "#/channels/stream"}, "summary": "What the server sends.",
                "messages": [{"$ref": "#/channels/stream/messages/Frame"}],
            },
            "sendRequests": {
                "action": "receive", "channel": {"$ref": "#/channels/stream"}, "summary": "What a client may ask.",
                "messages": [{"$ref": f"#/channels/stream/messages/{t.__name__}"} for t in received],
            },
        },
        "components": {"schemas": schemas, "messages": messages},
    }  # fmt: skip


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    said = (kind.__doc__ or "").strip().split("\n\n")[0]
    return {
        "name": kind.__struct_config__.tag, "title": kind.__name__, "summary": " ".join(said.split()), "contentType": "application/json",
        "payload": {"$ref": _REF.format(name=kind.__name__)},
    }  # fmt: skip
