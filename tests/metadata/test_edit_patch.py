"""Any YAML that a person may write, changed at one place: it reads as asked for, and every other line is as it was."""

from __future__ import annotations

from copy import deepcopy
from datetime import date
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import CallerError
from ssmd.metadata.patch import plain, rewrite, same

TEXTS = st.sampled_from(
    ["a", "two words", "2", "1.10", "09:30", "yes", "null", "", " lead", "trail ",
     "a: b", "a #b", "#", "ünï", "it's", 'say "x"', "x\ny", "\t",
     "\x85\u2028\x07", "😀", "$key:a.b", "nats://a:1,nats://b:2", "wss://x/y?z=1", "- a",
     "[a", "{", "*x", "&x", "!x", "%x", "@x", "`x", "|", ">",
     "a,b", "a:", ":a", "?", "~", "0x1f", "1e5", ".5", "2026-01-01", "KXBTC*", "C:\\x", "a  b", "1_000", "on", "=", "<<"]
)  # fmt: skip
KEYS = st.sampled_from(["a", "bc", "KX-1.5", "0", "two words", "yes", "ä", "x/y", "n", "~", "q'", "d:e"])
SCALARS = st.one_of(TEXTS, st.integers(-5, 10**9), st.booleans(), st.none(), st.dates(date(1999, 1, 1), date(2030, 1, 1)), st.just(0.25))
LISTS = st.lists(SCALARS, max_size=3)
MAPS = st.dictionaries(KEYS, st.one_of(SCALARS, LISTS), max_size=3)
VALUES = st.one_of(SCALARS, SCALARS, LISTS, MAPS, st.lists(MAPS.filter(bool), max_size=3), st.dictionaries(KEYS, MAPS, max_size=3))
TREES = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)
Lines = list[tuple[str, tuple[Any, ...] | None]]


class Writer:
    """Writes a tree as a careless person would; each line with the path of the key or item it belongs to, None for a comment of its own."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._numbers = count()

    def block(self, value: Any, column: int, path: tuple[Any, ...]) -> Lines:
        found: Lines = []
        for step, below in value.items() if isinstance(value, dict) else enumerate(value):
            here = (*path, step)
            for _ in range(self._draw(st.integers(0, 1))):
                found += self._draw(st.sampled_from([[("", None)], [(f"{' ' * column}# own {next(self._numbers)}", None)], [("#x", None)]]))
            found += self._entry(below, column, here) if isinstance(value, dict) else self._item(below, column, here)
        return found

    def _entry(self, value: Any, column: int, path: tuple[Any, ...]) -> Lines:
        head = f"{' ' * column}{self._scalar(path[-1], flow=False)}:"
        if self._is_block(value):
            least = 0 if isinstance(value, list) else 1  # a list may stand below its key, not indented
            below = self.block(value, column + self._draw(st.integers(least, 4)), path)
            return [(f"{head}{self._comment()}", path), *below]
        return self._ended(head + self._gap(), value, column, path)

    def _item(self, value: Any, column: int, path: tuple[Any, ...]) -> Lines:
        head = f"{' ' * column}-"
        if self._is_block(value):
            gap = self._draw(st.integers(1, 3))
            lines = self.block(value, column + 1 + gap, path)
            if isinstance(value, dict) and lines[0][1] is not None and self._draw(st.booleans()):
                return [(f"{head}{' ' * gap}{lines[0][0].lstrip()}", lines[0][1]), *lines[1:]]
            return [(f"{head}{self._comment()}", path), *lines]
        return self._ended(head + self._gap(), value, column, path)

    def _ended(self, head: str, value: Any, column: int, path: tuple[Any, ...]) -> Lines:
        """The value on the key's line, or brackets over several."""
        if isinstance(value, str) and value and value.isalpha() and self._draw(st.integers(0, 4)) == 0:
            style = self._draw(st.sampled_from(["|-", ">-"]))
            return [(f"{head}{style}", path), (f"{' ' * (column + 3)}{value}", path)]
        text = self._flow(value, column)
        if value is None and isinstance(path[-1], str) and self._draw(st.booleans()):  # an item is never empty: no list of ours has null
            text = ""
        lines = f"{head}{text}".split("\n")
        return [*((line, path) for line in lines[:-1]), (f"{lines[-1].rstrip()}{self._comment()}", path)]

    def _flow(self, value: Any, column: int) -> str:
        if not isinstance(value, dict | list):
            return self._scalar(value, flow=True)
        inside = [
            f"{self._scalar(k, flow=True)}: {self._flow(v, column)}" for k, v in (value.items() if isinstance(value, dict) else [])
        ] or [self._flow(v, column) for v in value]
        comma: str = self._draw(st.sampled_from([", ", ",", " , ", f", # in {next(self._numbers)}\n{' ' * (column + 6)}"]))
        start, end = "{}" if isinstance(value, dict) else "[]"
        last: str = self._draw(st.sampled_from(["", ",", " "])) if inside else ""
        return start + comma.join(inside) + last + end

    def _scalar(self, value: Any, *, flow: bool) -> str:
        from ssmd.metadata.spelling import inline

        quote = self._draw(st.sampled_from([None, '"', "'"]))
        return str(inline(value, quote=quote, flow=flow))

    def _is_block(self, value: Any) -> bool:
        return bool(value) and isinstance(value, dict | list) and self._draw(st.integers(0, 3)) > 0

    def _comment(self) -> str:
        return str(self._draw(st.sampled_from(["", "", f"  # end {next(self._numbers)}", " #"])))

    def _gap(self) -> str:
        return str(self._draw(st.sampled_from([" ", " ", "   "])))


@st.composite
def written(draw: Any) -> tuple[str, Lines, dict[str, Any]]:
    tree = draw(TREES)
    lines: Lines = [("# head", None)] * draw(st.integers(0, 1)) + Writer(draw).block(tree, 0, ())
    lines += [("", None), ("# tail", None)] * draw(st.integers(0, 1))
    return "\n".join(line for line, _ in lines) + draw(st.sampled_from(["\n", "\n", ""])), lines, tree


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for step, inner in below for p in places(inner, (*path, step)))]


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def change(draw: Any, tree: dict[str, Any]) -> tuple[Any, ...]:
    """Make one change; the path of what may look different after it."""
    path: tuple[Any, ...] = draw(st.sampled_from(places(tree)))
    value = at(tree, path)
    what = draw(st.sampled_from(["set", "add", "delete"]))
    if what == "add" and isinstance(value, dict | list):
        was_empty = not value
        if isinstance(value, list):
            value.insert(number := draw(st.integers(0, len(value))), draw(SCALARS if not value or not isinstance(value[0], dict) else MAPS))
            return path if was_empty or number == 0 else (*path, None)
        key = draw(KEYS.filter(lambda k: k not in value))
        items = [*value.items()]
        items.insert(number := draw(st.integers(0, len(items))), (key, draw(VALUES)))
        value.clear()
        value.update(items)
        return path if was_empty or (number == 0 and path and isinstance(path[-1], int)) else (*path, None)
    if not path:
        return (None,)
    parent = at(tree, path[:-1])
    if what == "delete" and (len(parent) > 1 or len(path) > 1):
        if isinstance(parent, list):  # of equals the last goes
            while path[-1] + 1 < len(parent) and same(parent[path[-1]], parent[path[-1] + 1]):
                path = (*path[:-1], path[-1] + 1)
        del parent[path[-1]]
        alone = not parent or (isinstance(parent, dict) and len(path) > 1 and isinstance(path[-2], int))
        return path[:-1] if alone else path
    parent[path[-1]] = draw(VALUES)
    return path


def is_below(path: tuple[Any, ...], top: tuple[Any, ...]) -> bool:
    return path[: len(top)] == top


@given(written(), st.data())
@settings(max_examples=400, deadline=None)
def test_one_change_of_any_text_changes_its_own_lines_only(case: tuple[str, Lines, dict[str, Any]], data: st.DataObject) -> None:
    text, lines, tree = case
    assert same(plain(text), tree)
    assert rewrite(text, tree, deepcopy(tree)) == text
    new = deepcopy(tree)
    touched = change(data.draw, new)
    try:
        result = rewrite(text, tree, new)
    except CallerError as error:
        # A list of lists has dashes that share a line; nothing of ours is written so.
        raise AssertionError(f"{error}\n{text}\n{new}") from error
    assert same(plain(result), new)
    # Brackets over several lines are one place: the lines of the key they belong to.
    labels = {path for _, path in lines if path}
    holder = touched
    while holder and holder not in labels and not (holder[-1] is None and holder[:-1] in labels | {()} and _is_block(lines, holder[:-1])):
        holder = holder[:-1]
    after = iter(result.split("\n"))
    for number, (line, path) in enumerate(lines):
        inside = path is None and _within(lines, number, holder)
        if (path is not None and is_below(path, holder)) or inside:
            continue
        assert any(line == other for other in after), f"lost {line!r} of\n{text}\nin\n{result}"


def _is_block(lines: Lines, path: tuple[Any, ...]) -> bool:
    return not path or any(p is not None and len(p) == len(path) + 1 and is_below(p, path) for _, p in lines)


def _within(lines: Lines, number: int, holder: tuple[Any, ...]) -> bool:
    """Whether the comment stands between lines of what may change."""
    before = any(p is not None and is_below(p, holder) for _, p in lines[:number])
    after = any(p is not None and is_below(p, holder) for _, p in lines[number + 1 :])
    return before and after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x\n", "alias"),
        ("a: 1\r\nb: 2\n", "two kinds of line ends"),
        ("{a, b}\n", "cannot be changed by command"),
    ],
)
def test_what_cannot_be_changed_in_place_is_refused(text: str, said: str) -> None:
    tree = plain(text)
    with pytest.raises(CallerError, match=said):
        rewrite(text, tree, tree | {"a": {"x": [1]}})


def test_line_ends_of_windows_and_a_byte_order_mark_stay() -> None:
    text = "\ufeffa: 1 # x\r\nb: 2\r\n"
    assert rewrite(text, plain(text), {"a": 1, "b": {"c": 3}}) == "\ufeffa: 1 # x\r\nb:\r\n  c: 3\r\n"
