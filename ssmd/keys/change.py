"""What people do to keys, as it is kept until the journal has it: who, when, why and which fields; never a value."""

from __future__ import annotations

import getpass
import socket
from typing import Annotated, Literal
from uuid import uuid4

import msgspec

Text = Annotated[str, msgspec.Meta(max_length=1_000)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`written` says that the value was: a change without it was interrupted, and what it left is not known.

    `id` is drawn once and goes into the journal, so that however often a change is appended it is there once.
    """

    kind: Literal["set", "rotated", "deleted"]
    key: Annotated[str, msgspec.Meta(max_length=32)]
    at_ns: Nanoseconds
    who: Text
    why: Text = ""
    source: Text = ""
    fields: Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)] = ()
    previous_until_ns: Nanoseconds = 0
    written: bool = False
    id: Annotated[str, msgspec.Meta(min_length=32, max_length=32)] = msgspec.field(default_factory=lambda: uuid4().hex)


def whoami() -> str:
    """``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
