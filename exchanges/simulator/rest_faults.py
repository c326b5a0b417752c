"""Faults of the simulated venue's REST: asked about every answer that is about to leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

Kind = Literal["busy", "down", "slow", "flat", "nested", "cut", "circle", "missing", "mistyped"]
_PROBLEM = {"code": "internal", "message": "something went wrong", "details": "simulated"}
# The answer instead. 429 comes without a Retry-After; other errors are flat in the specification and nested as really seen.
_INSTEAD: dict[str, tuple[int, bytes]] = {
    "busy": (429, b'{"error":"too many requests"}'),
    "down": (503, b"<html>no healthy upstream</html>"),
    "flat": (400, msgspec.json.encode(_PROBLEM)),
    "nested": (400, msgspec.json.encode({"error": _PROBLEM})),
}
_WRONG: dict[type, Any] = {str: 17, int: "17", float: [17], bool: "true", list: {}, dict: [], type(None): [None]}


class RestFault(msgspec.Struct):
    """Let `after` matching answers pass, then strike the next `times`. Empty `path` matches any, else the path begins with it.

    slow: `delay_s` later. cut: the first half of the answer. circle: its cursor leads back to the first page that was struck or passed.
    missing, mistyped: `field` of every object in the answer's list (and of nested markets) is left out, or of another type.
    """

    kind: Kind
    path: str = ""
    after: int = 0
    times: int = 1
    delay_s: float = 0.0
    field: str = ""


class RestFaults:
    """Faults by counting answers. `struck` tells how often each has."""

    def __init__(self, script: Sequence[RestFault]) -> None:
        self._script = list(script)
        self._seen = [0] * len(self._script)
        self._cursors = [""] * len(self._script)
        self.struck = [0] * len(self._script)

    def strike(self, path: str, status: int, body: bytes) -> tuple[float, int, bytes]:
        """Seconds to wait, status and body of what leaves for `path`, without its prefix and query."""
        delay_s = 0.0
        for index, fault in enumerate(self._script):
            if not path.startswith(fault.path):
                continue
            self._seen[index] += 1
            if fault.kind == "circle" and status == 200:
                self._cursors[index] = self._cursors[index] or msgspec.json.decode(body).get("cursor", "")
            if self._seen[index] <= fault.after or self.struck[index] >= fault.times:
                continue
            self.struck[index] += 1
            if fault.kind == "slow":
                delay_s += fault.delay_s
            elif fault.kind in _INSTEAD:
                status, body = _INSTEAD[fault.kind]
            elif fault.kind == "cut":
                body = body[: len(body) // 2]
            elif status == 200:
                body = self._bent(fault, body, self._cursors[index])
        return delay_s, status, body

    @staticmethod
    def _bent(fault: RestFault, body: bytes, cursor: str) -> bytes:
        answer = msgspec.json.decode(body)
        if fault.kind == "circle":
            answer["cursor"] = cursor
        for record in _records(answer):
            if fault.kind == "missing":
                record.pop(fault.field, None)
            elif fault.kind == "mistyped" and fault.field in record:
                record[fault.field] = _WRONG[type(record[fault.field])]
        return msgspec.json.encode(answer)


def _records(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("markets", "events", "series"):
        found = answer.get(name)
        for record in found if isinstance(found, list) else ():
            yield from _records(record)
            yield record
