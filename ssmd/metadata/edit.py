"""Create and update metadata files: read, change, validate the text that would be, and only then replace the file, whole."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from journal.errors import BadFile, CallerError
from journal.subjects import check_name
from ssmd.metadata.patch import plain, rewrite
from ssmd.metadata.project import MAX_FILE_BYTES, Kind, examine, fields_at, parse
from ssmd.metadata.spelling import block

Steps = tuple[str, ...]  # keys from the root; an index of a list is its decimal digits
_STEP = re.compile(r'(?:^|(?<=.)\.)(?:"([^"]+)"|([^."\[\]]+))|\[([0-9]+)\]')


@dataclass(frozen=True, slots=True)
class Edit:
    """A validated change of one file, not written yet. `model` is what it will read as; `before` is None where there is no file."""

    path: Path
    shown: str
    model: Any
    before: bytes | None
    after: bytes

    @property
    def change(self) -> str:
        """What it does: created, updated or unchanged."""
        return "created" if self.before is None else "unchanged" if self.before == self.after else "updated"

    def diff(self) -> str:
        """As ``diff -u`` would show it."""
        old = (self.before or b"").decode().splitlines(keepends=True)
        lines = unified_diff(
            old, self.after.decode().splitlines(keepends=True), "/dev/null" if self.before is None else f"a/{self.shown}", f"b/{self.shown}"
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def write(self) -> None:
        """Replace the file, whole or not at all. Raises `CallerError` when it is no longer what it was when it was read."""
        if self.before == self.after:
            return
        path = self.path.resolve()
        try:
            with _locked(path.parent):
                if (path.read_bytes() if path.is_file() else None) != self.before:
                    raise CallerError(f"{self.shown} was changed by another program meanwhile; nothing was written: run it again")
                _replace(path, self.after)
        except OSError as error:
            raise CallerError(f"{self.shown} cannot be written: {error.strerror}") from None


def create(kind: Kind[Any], name: str, tree: dict[str, Any], comment: str, blame: Mapping[str, str]) -> Edit:
    """A new file that says `tree` below a line of comment. Raises `CallerError` when it is there, and as `update` does."""
    path = kind.path(check_name(kind.noun, name))
    if path.exists() or path.is_symlink():
        noun = {"environment": "env"}.get(kind.noun, kind.noun)
        raise CallerError(f"{kind.shown(name)} is there already: `ssmd {noun} show {name}` shows it")
    return _validated(kind, name, None, "\n".join([f"# {comment}", *block(tree, 0), ""]).encode(), blame)


def update(kind: Kind[Any], name: str, change: Callable[[dict[str, Any]], None], blame: Mapping[str, str]) -> Edit:
    """The file after `change` was made to its tree, all else as it is.

    `blame` names the option behind a dotted path, for messages. Raises `NotFound`; `BadFile` with what would be wrong; `CallerError`.
    """
    shown = kind.shown(name)
    try:
        before = kind.existing(name).read_bytes()
    except OSError as error:
        raise BadFile([f"{shown}: cannot be read: {error.strerror}"]) from None
    try:
        text = before.decode()
        old = plain(text)
    except (YAMLError, ValueError, RecursionError):
        old = None
    if not isinstance(old, dict):
        parse(before, shown)  # says line and place of what is no YAML
        raise BadFile([f"{shown}: must be a mapping of keys to values"])
    new = deepcopy(old)
    change(new)
    try:
        after = rewrite(text, old, new)
    except CallerError as error:
        raise BadFile([f"{shown}: {error}"]) from None
    return _validated(kind, name, before, after.encode(), blame)


def _validated(kind: Kind[Any], name: str, before: bytes | None, after: bytes, blame: Mapping[str, str]) -> Edit:
    shown = kind.shown(name)
    if len(after) > MAX_FILE_BYTES:
        raise BadFile([f"{shown}: would be larger than {MAX_FILE_BYTES >> 20} MiB; nothing was written"])
    model, problems = examine(parse(after, shown), kind.model, name)
    if not problems:
        return Edit(kind.path(name), shown, model, before, after)
    lines = [f"{_blamed(path, blame) or f'{shown}:{line}'}: {_place(path, blame)}{message}" for line, path, message in problems]
    raise BadFile([*lines, f"{shown}: nothing was written"])


def _place(path: str, blame: Mapping[str, str]) -> str:
    """The path, where no option says it."""
    return "" if not path or path in blame else f"{path}: "


def _blamed(path: str, blame: Mapping[str, str]) -> str | None:
    """The option behind the nearest of `path` and what it is in."""
    while path:
        if path in blame:
            return blame[path]
        path = path.rpartition(".")[0]
    return None


def parse_path(text: str) -> Steps:
    """``shards.a.series[0]`` or ``symbols."K.1".tier`` to its steps. Raises `CallerError`."""
    steps, at = [], 0
    while at < len(text):
        found = _STEP.match(text, at)
        if not found or found.end() == at:
            break
        steps.append(found[1] or found[2] or found[3])
        at = found.end()
    if not steps or at < len(text):
        raise CallerError(f'{text!r} is no path: write keys with dots between, one that holds a dot in quotes: symbols."K.1".tier')
    return tuple(steps)


def put(tree: dict[str, Any], model: Any, path: Steps, value: Any) -> None:
    """Set the value at `path`, making mappings on the way; a new key goes to its place among the fields of `model`.

    One more than the last index of a list appends. Raises `CallerError` where the path leads through a value.
    """
    at: Any = tree
    for depth, step in enumerate(path):
        here, last = ".".join(path[: depth + 1]), depth + 1 == len(path)
        if isinstance(at, list):
            if not step.isdecimal() or int(step) > len(at):
                raise CallerError(f"{here}: the list has {len(at)} items, numbered from 0; {len(at)} appends")
            if int(step) == len(at):
                at.append(value if last else {})
            elif last:
                at[int(step)] = value
            at = at[int(step)]
        elif isinstance(at, dict):
            if last or at.get(step) is None:
                _insert(at, step, value if last else {}, fields_at(model, path[:depth]))
            at = at[step]
        else:
            raise CallerError(f"{here}: what it is in is a value, neither a mapping nor a list")


def remove(tree: dict[str, Any], path: Steps) -> None:
    """Remove the key or item at `path`. Raises `CallerError` when there is none."""
    at: Any = tree
    for depth, step in enumerate(path):
        key: Any = int(step) if isinstance(at, list) and step.isdecimal() else step
        there = key in at if isinstance(at, dict) else isinstance(at, list) and isinstance(key, int) and key < len(at)
        if not there:
            raise CallerError(f"{'.'.join(path[: depth + 1])} is not in the file: there is nothing to unset")
        if depth + 1 == len(path):
            del at[key]
        else:
            at = at[key]


def _insert(mapping: dict[str, Any], key: str, value: Any, order: list[str]) -> None:
    if key in mapping or key not in order:
        mapping[key] = value
        return
    before = order[: order.index(key)]
    items = list(mapping.items())
    items.insert(max((i + 1 for i, (k, _) in enumerate(items) if k in before), default=0), (key, value))
    mapping.clear()
    mapping.update(items)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """No two of our edits of one directory write at once. The lock is on the directory itself: no file is left behind."""
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)  # the rename
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
