"""A project: the folder with ``exchanges/{feeds,schemas,environments}``. Finding it, listing it, reading it.

Every problem of a file is a line ``FILE:LINE: key.path: what is wrong and what would be right``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from errno import EFBIG, EINVAL
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISREG
from typing import Any, Generic, TypeVar, get_args

import msgspec
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from journal.errors import BadFile, CallerError, NotFound
from ssmd.metadata.environment import Environment
from ssmd.metadata.feed import Feed
from ssmd.metadata.model import Model
from ssmd.metadata.schema import Schema

FOLDERS = ("feeds", "schemas", "environments")
# A feed with a version a week for fifty years is half of it; what is larger is not one of ours.
MAX_FILE_BYTES = 1 << 20
# Ends of ruamel's messages that repeat what the file says, which may be a secret in the wrong place.
_REPEATED = re.compile(r"(?<=duplicate key) .*|(?<=undefined alias) .*|(?<=undefined tag handle) .*", re.DOTALL)
_M = TypeVar("_M", bound=Model)


class Kind(Generic[_M]):
    """The files of one folder."""

    def __init__(self, project: Project, folder: str, noun: str, model: type[_M]) -> None:
        self.directory = project.exchanges / folder
        self.noun = noun
        self.model = model
        self._project = project

    def names(self) -> list[str]:
        """Of the files that are there, sorted."""
        return sorted(p.stem for p in self.directory.glob("*.yaml") if is_metadata(p))

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def shown(self, name: str) -> str:
        """The path of that name as people see it."""
        return self._project.shown(self.path(name))

    def existing(self, name: str) -> Path:
        """Of the file of that name. Raises `NotFound`."""
        if name not in (known := self.names()):
            hint = "" if known else f"there are none in {self._project.shown(self.directory)}: `ssmd init` makes a starter set"
            raise NotFound(self.noun, name, known, hint=hint)
        return self.path(name)

    def read(self, name: str) -> _M:
        """The file of that name. Raises `NotFound`, `BadFile`."""
        return read(self.existing(name), self.model, self.shown(name))


class Project:
    """`root` holds ``exchanges``; `packaged` is the starter set inside the installed package, which is never written."""

    def __init__(self, root: Path, *, packaged: bool = False) -> None:
        self.root = root
        self.packaged = packaged
        self.exchanges = root / "exchanges"

    @classmethod
    def find(cls, directory: Path, named: str = "") -> Project:
        """The project `named`, else the nearest at or above `directory`, else the packaged one. Raises `CallerError`."""
        if named:
            root = expanded(named).absolute()
            if not (root / "exchanges" / "environments").is_dir():
                raise CallerError(f"{root} is no project: it has no exchanges/environments; run `ssmd init {named}`")
            return cls(root)
        for root in (directory, *directory.parents):
            if (root / "exchanges" / "environments").is_dir():
                return cls(root)
        return packaged()

    @cached_property
    def feeds(self) -> Kind[Feed]:
        return Kind(self, "feeds", "feed", Feed)

    @cached_property
    def schemas(self) -> Kind[Schema]:
        return Kind(self, "schemas", "schema", Schema)

    @cached_property
    def environments(self) -> Kind[Environment]:
        return Kind(self, "environments", "environment", Environment)

    @property
    def kinds(self) -> tuple[Kind[Feed], Kind[Schema], Kind[Environment]]:
        return self.feeds, self.schemas, self.environments

    def shown(self, path: Path) -> str:
        """`path` as people see it: from the project's root."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def writable(self) -> Project:
        """Itself, where files may be written. Raises `CallerError` for the packaged one."""
        if self.packaged:
            raise CallerError("there is no project here: run `ssmd init` in your repository first, or name one with --project")
        return self


def expanded(path: str | Path) -> Path:
    """With ~ as the home. Raises `CallerError` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CallerError(f"{path}: there is no such user, or HOME is not set; write the whole path") from None


def packaged() -> Project:
    """The starter set that is installed with ssmd."""
    spec = find_spec("exchanges")
    if spec is None or spec.origin is None:
        raise CallerError("the package `exchanges` is not installed whole: install ssmd again")
    return Project(Path(spec.origin).parent.parent, packaged=True)


def is_metadata(path: Path) -> bool:
    """Whether a ``*.yaml`` file is one of ours: sealed secrets and pending events beside environments have a second suffix."""
    return path.is_file() and path.suffix == ".yaml" and "." not in path.stem


def read_regular(path: Path) -> bytes:
    """The file's bytes, at most one more than `MAX_FILE_BYTES`. Raises `OSError`, also for what is no file: a pipe would be waited for."""
    if not S_ISREG(path.stat().st_mode):
        raise OSError(EINVAL, "not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def file_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal. Raises `OSError`."""
    if len(content := read_regular(path)) > MAX_FILE_BYTES:
        raise OSError(EFBIG, f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return sha256(content).hexdigest()


def load(path: Path, shown: str) -> Any:
    """The file's YAML with comments and places kept. Raises `BadFile` for what is no YAML mapping, or too large."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise BadFile([f"{shown}: cannot be read: {error.strerror}"]) from None
    if len(content) > MAX_FILE_BYTES:
        raise BadFile([f"{shown}: larger than {MAX_FILE_BYTES >> 20} MiB: this is no metadata file"])
    return parse(content, shown)


def parse(content: bytes, shown: str) -> Any:
    """The YAML of a file's bytes, as `load` does."""
    try:
        tree = YAML(typ="rt").load(text := content.decode())
    except UnicodeDecodeError as error:
        raise BadFile([f"{shown}: not UTF-8 at byte {error.start}"]) from None
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadFile([f"{shown}{line}: not YAML: {_REPEATED.sub('', error.problem or error.context or '')}"]) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise BadFile([f"{shown}: not YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}"]) from None
    if not isinstance(tree, dict):
        raise BadFile([f"{shown}: must be a mapping of keys to values"])
    # Ten lines of aliases of aliases stand for gigabytes.
    if "*" in text and _expanded(tree, {}) > MAX_FILE_BYTES:
        raise BadFile([f"{shown}: its aliases (*name) stand for more than {MAX_FILE_BYTES >> 20} MiB: write out what is meant"])
    return tree


def _expanded(tree: Any, known: dict[int, int]) -> int:
    """About how many bytes `tree` has with its aliases written out; `known` are the sizes of what was seen. In itself it has none."""
    if not isinstance(tree, Mapping | list):
        return len(tree) + 1 if isinstance(tree, str) else 1
    if id(tree) not in known:
        known[id(tree)] = 0
        below = (*tree.keys(), *tree.values()) if isinstance(tree, Mapping) else tree
        known[id(tree)] = 1 + sum(_expanded(item, known) for item in below)
    return known[id(tree)]


def read(path: Path, model: type[_M], shown: str) -> _M:
    """The file as `model`, whose ``name`` must be the file's. Raises `BadFile` with every problem."""
    return check(load(path, shown), model, shown, path.stem)


def check(tree: Any, model: type[_M], shown: str, name: str) -> _M:
    """A tree of `parse` as `model`, whose ``name`` must be `name`. Raises `BadFile` with every problem, in the order of lines."""
    found, problems = examine(tree, model, name)
    if found is None:
        raise BadFile([f"{shown}:{line}: {path}{': ' if path else ''}{message}" for line, path, message in problems])
    return found


def examine(tree: Any, model: type[_M], name: str) -> tuple[_M | None, list[tuple[int, str, str]]]:
    """As `check`, but what is wrong is returned: (line from 1, dotted path of the key, message)."""
    try:
        # As JSON: a version that YAML reads as a number, a yes that is no boolean are errors, never coerced.
        text = msgspec.json.encode(tree, enc_hook=_plain)
    except (TypeError, ValueError, RecursionError):
        return None, [(1, "", "holds something that is neither text, number, date, list nor mapping")]
    try:
        found = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        return None, sorted(set(_problems(error, model, tree)))
    if (said := getattr(found, "name", name)) != name:
        return None, [(line_of(tree, ("name",)), "name", f"is {said!r}, the file is called {name!r}; make them equal")]
    return found, []


def lines(path: Path) -> dict[str, int]:
    """The line, from 1, of every value of the file by its dotted path. Raises `BadFile`."""
    found: dict[str, int] = {}

    def walk(head: str, tree: Any) -> None:
        for name, below in tree.items():
            step = f"{head}.{name}" if head else str(name)
            found[step] = tree.lc.key(name)[0] + 1
            if isinstance(below, CommentedMap):
                walk(step, below)

    walk("", load(path, path.name))
    return found


def _plain(value: Any) -> Any:
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(type(value).__name__)


def _problems(error: ValidationError, model: type[BaseModel], tree: Any) -> Iterator[tuple[int, str, str]]:
    errors = error.errors(include_url=False, include_input=False)
    for found in errors:
        place = found["loc"]
        if found["type"] == "too_short" and any(len(e["loc"]) > len(place) and e["loc"][: len(place)] == place for e in errors):
            continue  # items that are wrong are not counted: that they are wrong is said
        path = ".".join(str(p) for p in place if p != "[key]")
        message = str(found["msg"]).removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            message = _unknown(str(place[-1]), fields_at(model, place[:-1]))
        elif found["type"] == "missing":
            message = "is required"
        elif found["type"] == "literal_error" and place and place[-1] == "type":
            message = f"not built, or unknown; known: {found['ctx']['expected']}"
        yield line_of(tree, place), path, message


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"unknown key{f'; did you mean {near[0]}?' if near else ''} known: {', '.join(known)}"


def fields_at(model: Any, place: tuple[Any, ...]) -> list[str]:
    """Keys that the model below `place` knows."""
    for step in place:
        fields = {f.alias or n: f for n, f in model.model_fields.items()} if _is_model(model) else {}
        model = _inner(fields[step].annotation if step in fields else model)
    return [f.alias or n for n, f in model.model_fields.items()] if _is_model(model) else []


def _is_model(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _inner(annotation: Any) -> Any:
    """The model inside Optional, tuple and dict."""
    if _is_model(annotation):
        return annotation
    return next((m for a in get_args(annotation) if _is_model(m := _inner(a))), annotation)


def line_of(tree: Any, place: tuple[Any, ...]) -> int:
    """Line, from 1, of the deepest part of `place` that is in the file."""
    line = 1
    for step in place:
        if not isinstance(tree, CommentedBase):
            break
        try:
            line = (tree.lc.key(step) if isinstance(tree, Mapping) else tree.lc.item(step))[0] + 1
            tree = tree[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            break
    return line
