"""What msgspec refuses, said with what would do."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

_PLACE = re.compile(r" - at `\$\.?([^`]*)`")
_WORDS = "Invalid enum value "


def refused(error: Exception, *kinds: type) -> tuple[str, str]:
    """The field, "" if it is about none, and why. Of one with a few words these are told; `kinds`: the structures it may be of."""
    text = str(error)
    place = _PLACE.search(text)
    field, reason = place[1] if place else "", text[: place.start()] if place else text
    if reason.startswith(_WORDS):
        hints = [get_type_hints(kind).get(field.partition("[")[0]) for kind in kinds]
        known = dict.fromkeys(word for hint in hints for word in _words(hint))
        reason = f"{reason.removeprefix(_WORDS)} is none of {', '.join(known)}"
    elif field == "op":
        reason = f"{reason}; known: {', '.join(str(msgspec.inspect.type_info(kind).tag) for kind in kinds)}"  # type: ignore[attr-defined]
    return field, reason


def refusal(error: Exception, *kinds: type) -> str:
    """The same in one sentence."""
    return ": ".join(part for part in refused(error, *kinds) if part)


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [str(word.value) for word in hint]
    return [word for part in get_args(hint) for word in _words(part)]
