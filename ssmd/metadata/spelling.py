"""How values are written as YAML: as people write these files, and so that they read back as what they were."""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

# Written without quotes: what no YAML of any version takes for a number, date, time, boolean or null, and no flow collection for its own.
_PLAIN = re.compile(r"[A-Za-z/$][\w./@%+$*()=~-]*((:|,? |,)[\w./@%+$*()=~-]+)*|(?=\d*[acdf])[\da-f]{64}", re.ASCII)
_WORDS = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"])


def inline(value: Any, *, quote: str | None = None, flow: bool = False) -> str:
    """`value` on one line. `quote` is the style of what stood there, `flow` that it stands between brackets."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inline(k, flow=True)}: {inline(v, flow=True)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(v, flow=True) for v in value) + "]"
    if isinstance(value, str):
        return _text(value, quote, flow=flow)
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value)


def is_block(value: Any) -> bool:
    """Whether `value` is written over several lines: a mapping, or a list of mappings."""
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)))


def block(value: Any, column: int) -> list[str]:
    """The lines of a value for which `is_block` holds, each indented by `column`."""
    indent = " " * column
    if isinstance(value, dict):
        return [line for k, v in value.items() for line in entry(k, v, column)]
    found = []
    for item in value:
        lines = block(item, column + 2) if is_block(item) else [f"{indent}  {inline(item)}"]
        found += [f"{indent}- {lines[0].lstrip()}", *lines[1:]]
    return found


def entry(key: str, value: Any, column: int) -> list[str]:
    """``key: value`` as lines."""
    head = f"{' ' * column}{inline(key)}:"
    return [head, *block(value, column + 2)] if is_block(value) else [f"{head} {inline(value)}"]


def _text(text: str, quote: str | None, *, flow: bool) -> str:
    if quote == "'" and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    free = _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not (flow and re.search(r"[,:]", text))
    if free and quote != '"':
        return text
    # JSON's escapes are YAML's, but for what JSON leaves as it is and YAML does not print.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
