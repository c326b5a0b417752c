"""Change the text of a YAML file so that only the lines of what changed differ: comments, order, quotes and indentation stay.

A dump of the whole tree would write every line its own way. Here the text is cut at the places that the parser reports for each value, and
only there. `rewrite` proves itself: what it returns reads as exactly the tree that was asked for, or it is refused.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.tokens import AliasToken

from journal.errors import CallerError
from ssmd.metadata.spelling import block, entry, inline, is_block

_QUOTES = {"'", '"'}
_Collection = MappingNode | SequenceNode


def plain(text: str) -> Any:
    """The tree of `text`: dicts, lists, str, int, float, bool, date and None. Raises `YAMLError`, `ValueError`."""
    return YAML(typ="safe", pure=True).load(text)


def same(one: Any, other: Any) -> bool:
    """Equal in kind too (1, 1.0 and true are three things) and in the order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def rewrite(text: str, old: dict[str, Any], tree: dict[str, Any]) -> str:
    """`text`, which says `old`, changed to say `tree`. New keys stand after the one they follow in `tree`; the others stay where they are.

    Raises `CallerError` for what cannot be changed in place: aliases, mixed line ends, keys in another order.
    """
    crlf = "\r\n" in text
    unix = text.replace("\r\n", "\n")
    if crlf and unix.replace("\n", "\r\n") != text:
        raise CallerError("has two kinds of line ends: make them one first")
    if same(old, tree):
        return text
    if "*" in unix and any(isinstance(token, AliasToken) for token in YAML(typ="safe", pure=True).scan(unix)):
        raise CallerError("uses an alias (*name), so that one line stands for several places: edit it by hand")
    try:
        changed = _Patch(unix).of(tree, old)
        if not same(plain(changed), tree):
            raise ValueError  # noqa: TRY301 (one way out)
    except (YAMLError, ValueError, RecursionError):
        raise CallerError("is written in a way that cannot be changed by command: edit it by hand") from None
    return changed.replace("\n", "\r\n") if crlf else changed


class _Patch:
    """Cuts of one text: (start, end, what stands there instead), collected while the old tree and the new one are walked side by side."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._cuts: list[tuple[int, int, str]] = []

    def of(self, new: dict[str, Any], old: dict[str, Any]) -> str:
        root = YAML(typ="safe", pure=True).compose(self._text)
        self._value(None, root, old, new)
        found, at = [], 0
        for start, end, instead in sorted(self._cuts, key=lambda cut: cut[:2]):
            if start < at:
                raise ValueError("cuts overlap")
            found += [self._text[at:start], instead]
            at = end
        return "".join([*found, self._text[at:]])

    def _cut(self, start: int, end: int, instead: str) -> None:
        self._cuts.append((start, end, instead))

    def _value(self, key: Node | None, node: Node, old: Any, new: Any, *, flow: bool = False) -> None:
        """`key` is the node of its key; None for the root and for items of a list."""
        if same(old, new):
            return
        inside = flow or (isinstance(node, _Collection) and bool(node.flow_style))
        if inside and _loses(old, new) and "#" not in self._text[node.start_mark.index : node.end_mark.index]:
            self._replace(node, new, flow=True)  # brackets without comments are shorter written again
        elif isinstance(node, MappingNode) and isinstance(new, dict) and any(k in new for k in old):
            self._mapping(node, old, new, flow=inside)
        elif isinstance(node, SequenceNode) and isinstance(new, list) and old and new:
            self._sequence(node, old, new, flow=inside)
        elif key is None or flow:
            self._replace(node, new, flow=flow)
        else:
            self._replace_of(key, node, new)

    def _replace(self, node: Node, new: Any, *, flow: bool) -> None:
        """An item of a list, or a value between brackets."""
        column = node.start_mark.column
        text = "\n".join(block(new, column)).lstrip() if is_block(new) and not flow else inline(new, quote=_quote(node), flow=flow)
        self._cut(node.start_mark.index, self._end(node), text)

    def _replace_of(self, key: Node, node: Node, new: Any) -> None:
        """The value of a key, which may begin on the key's line or below it."""
        start, end = node.start_mark.index, self._end(node)
        colon = self._text.index(":", key.end_mark.index) + 1
        empty = start == node.end_mark.index
        below = isinstance(node, _Collection) and not node.flow_style
        if not is_block(new):
            text = inline(new, quote=_quote(node))
            if below or empty:
                self._cut(colon, colon, f" {text}")
            else:
                self._cut(start, end, text)
        if below:
            self._cut(self._line_start(start) - 1, self._line_end(end), "")
        elif is_block(new) and not empty:
            self._cut(colon, end, "")
        if is_block(new):
            after = self._line_end(colon if empty or below else end)
            self._cut(after, after, "".join(f"\n{line}" for line in block(new, key.start_mark.column + 2)))

    def _mapping(self, node: MappingNode, old: dict[str, Any], new: dict[str, Any], *, flow: bool) -> None:
        pairs = list(zip(old, node.value, strict=True))
        nodes = {k: pair for k, pair in pairs if k in new}
        spans = [(k.start_mark.index, self._end(v, k)) for k, v in node.value]
        for number, (key, (key_node, value)) in enumerate(pairs):
            if key in new:
                self._value(key_node, value, old[key], new[key], flow=flow)
            elif flow:
                self._remove_between_brackets(spans, number)
            else:
                self._remove(spans, number)
        column = node.value[0][0].start_mark.column
        after: Node | None = None
        for key, value in new.items():
            if key in nodes:
                after = nodes[key][1]
            elif flow:
                self._insert_between_brackets(spans, after, f"{inline(key, flow=True)}: {inline(value, flow=True)}")
            else:
                lines = entry(key, value, column)
                if after is None:
                    self._cut(spans[0][0], spans[0][0], "\n".join(lines).lstrip() + "\n" + " " * column)
                else:
                    at = self._line_end(self._end(after, next(k for k, v in node.value if v is after)))
                    self._cut(at, at, "".join(f"\n{line}" for line in lines))

    def _sequence(self, node: SequenceNode, old: list[Any], new: list[Any], *, flow: bool) -> None:
        """Items equal at both ends stay; of those between, each is changed into its successor, the rest are removed or added."""
        least = min(len(old), len(new))
        head = next((i for i in range(least) if not same(old[i], new[i])), least)
        tail = next((i for i in range(least - head) if not same(old[-1 - i], new[-1 - i])), least - head)
        old_end, new_end = len(old) - tail, len(new) - tail
        shared = min(old_end, new_end)
        for i in range(head, shared):
            self._value(None, node.value[i], old[i], new[i], flow=flow)
        spans = [(n.start_mark.index, self._end(n)) for n in node.value]
        dash = node.start_mark.column
        if not flow:
            spans = [(self._dash(node, i), end) for i, (_, end) in enumerate(spans)]
        for i in range(shared, old_end):
            (self._remove_between_brackets if flow else self._remove)(spans, i)
        after = node.value[shared - 1] if shared else None
        for item in new[shared:new_end]:
            if flow:
                self._insert_between_brackets(spans, after, inline(item, flow=True))
                continue
            lines = block([item], dash)
            if after is None:
                self._cut(spans[0][0], spans[0][0], "\n".join(lines).lstrip() + "\n" + " " * dash)
            else:
                at = self._line_end(self._end(after))
                self._cut(at, at, "".join(f"\n{line}" for line in lines))

    def _remove(self, spans: list[tuple[int, int]], number: int) -> None:
        """A key or item of a block, with its lines; a comment above it stays."""
        start, end = spans[number]
        line = self._line_start(start)
        if not self._text[line:start].strip(" "):
            # With the line end before it, or after it on the file's first line.
            self._cut(*((line - 1, self._line_end(end)) if line else (0, self._line_end(end) + 1)), "")
        elif number + 1 < len(spans) and not self._text[self._line_end(end) : spans[number + 1][0]].strip():
            self._cut(start, spans[number + 1][0], "")  # it stands on its dash's line, and so does the next one then
        else:
            self._cut(start, self._line_end(end), "")

    def _remove_between_brackets(self, spans: list[tuple[int, int]], number: int) -> None:
        start, end = spans[number]
        comma = re.compile(r"\s*,[ \t]*").match(self._text, end)
        self._cut(start, comma.end() if comma else end, "")

    def _insert_between_brackets(self, spans: list[tuple[int, int]], after: Node | None, text: str) -> None:
        if after is None:
            self._cut(spans[0][0], spans[0][0], f"{text}, ")
        else:
            self._cut(self._end(after), self._end(after), f", {text}")

    def _dash(self, node: SequenceNode, number: int) -> int:
        """Where the dash of item `number` is."""
        if not number:
            return int(node.start_mark.index)
        found = re.compile(r"^ *-(?=\s)", re.MULTILINE).search(self._text, self._line_end(self._end(node.value[number - 1])))
        if found is None:
            raise ValueError("no dash")
        return found.end() - 1

    def _end(self, node: Node, key: Node | None = None) -> int:
        """Where the last character of `node` is, plus 1; comments after it are not part of it."""
        start, end = node.start_mark.index, node.end_mark.index
        if isinstance(node, ScalarNode):
            if start == end and key is not None:
                return self._text.index(":", key.end_mark.index) + 1
            return start + len(self._text[start:end].rstrip()) if node.style in {"|", ">"} else int(end)
        if not isinstance(node, _Collection) or node.flow_style or not node.value:
            return int(end)
        last = node.value[-1]
        return self._end(last[1], last[0]) if isinstance(last, tuple) else self._end(last)

    def _line_start(self, at: int) -> int:
        return self._text.rfind("\n", 0, at) + 1

    def _line_end(self, at: int) -> int:
        found = self._text.find("\n", at)
        return len(self._text) if found < 0 else found


def _loses(old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return any(key not in new for key in old)
    return isinstance(old, list) and isinstance(new, list) and len(new) < len(old)


def _quote(node: Node) -> str | None:
    return node.style if isinstance(node, ScalarNode) and node.style in _QUOTES else None
