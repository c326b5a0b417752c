"""The configuration of a JetStream stream: what it is told to be, and what of an existing one differs and may be changed.

A stream that differs is changed only where asked (`ssmd env apply`). Some settings JetStream never changes (storage, retention), and some
changes would lose data (fewer bytes than are stored): those are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from journal.subjects import Stream

DUPLICATE_WINDOW_S = 120  # longer ones cost the server memory even with file storage
_MAKE_ANEW = "archive the environment, tear it down and apply it again"


class Change(NamedTuple):
    """A setting of an existing stream that is not as wanted. `refused` says why it stays so; "" when it can be changed."""

    setting: str
    present: Any
    wanted: Any
    refused: str = ""


def wanted(
    stream: Stream, feed: str, *, replicas: int, max_bytes: int | None, duplicate_window_s: float = DUPLICATE_WINDOW_S
) -> dict[str, Any]:
    """On files, without age limit; what is full refuses. `max_bytes` is of market streams; None leaves it as it is."""
    config = {
        "name": stream.name,
        "subjects": stream.subjects(feed),
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "num_replicas": replicas,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": int(duplicate_window_s * 1_000_000_000),
    }
    if not stream.is_market:
        config["max_bytes"] = -1
    elif max_bytes is not None:
        config["max_bytes"] = max_bytes
    return config


def plan(wanted: Mapping[str, Any], present: Mapping[str, Any], stored_bytes: int) -> list[Change]:
    """What to change, by setting. Settings that `wanted` does not name stay as they are."""
    found = []
    for setting, value in wanted.items():
        now = present.get(setting, _ABSENT.get(setting))
        if now != value:
            found.append(Change(setting, now, value, _refusal(setting, now, value, stored_bytes)))
    return sorted(found)


# What the server leaves out of an answer.
_ABSENT: dict[str, Any] = {"allow_direct": False, "allow_atomic": False, "max_age": 0, "subjects": []}


def _refusal(setting: str, now: Any, value: Any, stored_bytes: int) -> str:
    if setting == "storage" or (setting == "retention" and now == "workqueue"):  # server error 10052
        return f"JetStream never changes it: {_MAKE_ANEW}"
    if setting == "max_bytes" and 0 <= value < stored_bytes:
        return f"{stored_bytes} bytes are stored: ask for more than that"
    return ""


def merged(present: Mapping[str, Any], changes: list[Change]) -> dict[str, Any]:
    """The whole configuration with the changes made, as an update wants it."""
    return {**present, **{c.setting: c.wanted for c in changes}}
