"""Every file of a project against its model, against the others, and against the day; and what lies beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from journal.errors import BadFile, NotFound
from ssmd.metadata.environment import Environment
from ssmd.metadata.feed import Feed
from ssmd.metadata.folders import BESIDE, File, list_files
from ssmd.metadata.leaks import find_leaks
from ssmd.metadata.model import Model
from ssmd.metadata.problem import Finding, Problem, Severity
from ssmd.metadata.project import Project, examine, file_hash, line_of, load, packaged, read_regular
from ssmd.metadata.rules import Around, environment_problems, feed_problems, schema_problems
from ssmd.metadata.schema import Schema

_MODELS: Mapping[str, type[Model]] = {"feeds": Feed, "schemas": Schema, "environments": Environment}
_PROBLEM = re.compile(r"(?::(\d+))?: (.*)", re.DOTALL)
# How each kind of file that belongs to a key is named in an environment's `source:`.
_SOURCE = {"age": "age", "sealed": "sealed-secret"}
_AGE_HEADS = (b"-----BEGIN AGE ENCRYPTED FILE-----", b"age-encryption.org/")


class _Read(NamedTuple):
    file: File
    tree: Any
    model: Model | None
    findings: list[Finding]


def check(project: Project, paths: Sequence[Path] = (), *, today: date, entry_hash: str = "") -> list[Finding]:
    """What is wrong with `paths`, files as `list_files` names them, or without any with the whole project; by file, then line.

    `entry_hash` is of the schema of the entries that this ssmd writes; by default the installed one's. The other files are read too, since
    an environment is judged by its feed and schema. Raises `CallerError` for a folder that is too large.
    """
    files = list_files(project)
    read = [_read(project, file) for file in files if file.role == "metadata"]
    around = Around(
        {r.file.path.stem: r.model for r in read if r.file.folder == "feeds"},  # type: ignore[misc]  # of `_MODELS`
        {r.file.path.stem: r.model for r in read if r.file.folder == "schemas"},  # type: ignore[misc]
        today,
        entry_hash or file_hash(packaged().exchanges / "schemas" / "entry.capnp"),
    )
    found = [finding for r in read for finding in (*r.findings, *_judge(project, r, around))]
    found += _strangers(project, files, read)
    for file in files:
        found += _leaks(project, file)
    wanted = {project.shown(path) for path in paths}
    return sorted({f for f in found if not wanted or f.file in wanted})


def select(project: Project, words: Sequence[str], directory: Path) -> list[Path]:
    """The files that `words` name: names of feeds, schemas and environments, files, or folders from `directory`. All without words.

    Raises `NotFound`.
    """
    files = [file.path for file in list_files(project)]
    names = [name for kind in project.kinds for name in kind.names()]
    chosen: set[Path] = set()
    for word in words:
        found = {kind.path(word) for kind in project.kinds if word in kind.names()}
        if not found:
            path = (directory / word).resolve()
            found = {f for f in files if f.resolve() == path or f.resolve().is_relative_to(path)}
        if not found:
            where = project.shown(project.exchanges)
            raise NotFound(
                "file, folder or name", word, names, hint=f"files are in {where}/feeds, {where}/schemas and {where}/environments"
            )
        chosen |= found
    return [f for f in files if not words or f in chosen]


def worst(findings: Sequence[Finding]) -> Severity | None:
    """None where there is no problem."""
    said = {f.severity for f in findings}
    return "error" if "error" in said else "warning" if "warning" in said else None


def _read(project: Project, file: File) -> _Read:
    shown = project.shown(file.path)
    try:
        tree = load(file.path, shown)
    except BadFile as error:
        return _Read(file, None, None, [_split(shown, problem) for problem in error.problems])
    model, problems = examine(tree, _MODELS[file.folder], file.path.stem)
    return _Read(file, tree, model, [Finding(shown, line, place, "error", text) for line, place, text in problems])


def _split(shown: str, problem: str) -> Finding:
    found = _PROBLEM.fullmatch(problem.removeprefix(shown))
    return Finding(shown, int(found[1] or 0), "", "error", found[2]) if found else Finding(shown, 0, "", "error", problem)


def _judge(project: Project, read: _Read, around: Around) -> Iterator[Finding]:
    problems: Iterator[Problem]
    if isinstance(read.model, Feed):
        problems = feed_problems(read.model, around)
    elif isinstance(read.model, Schema):
        problems = schema_problems(read.model, read.file.path.parent)
    elif isinstance(read.model, Environment):
        problems = environment_problems(read.model, around)
    else:
        return
    shown = project.shown(read.file.path)
    for place, severity, text in problems:
        yield Finding(shown, line_of(read.tree, place), ".".join(map(str, place)), severity, text)


def _strangers(project: Project, files: Sequence[File], read: Sequence[_Read]) -> Iterator[Finding]:
    """Files that nothing names."""
    environments = {r.file.path.stem: r.model for r in read if r.file.folder == "environments"}
    schemas = [r for r in read if r.file.folder == "schemas"]
    named = {r.file.path.parent / name for r in schemas if isinstance(r.model, Schema) for name in _texts(r.model)}
    unread = any(r.model is None for r in schemas)
    for file in files:
        shown = project.shown(file.path)
        if file.role == "stranger":
            hint = ": rename it to .yaml" if file.path.suffix == ".yml" else "; it is neither read nor committed"
            yield Finding(shown, 0, "", "warning", f"is no metadata file{hint}")
        elif file.role == "text" and file.path not in named and not unread:
            yield Finding(shown, 0, "", "warning", "no schema names it; `ssmd schema register` does")
        elif file.role in BESIDE.values():
            yield from _beside(shown, file, environments)


def _texts(schema: Schema) -> list[str]:
    return [schema.file, *(v.file for v in schema.versions if v.file)]


def _beside(shown: str, file: File, environments: Mapping[str, Model | None]) -> Iterator[Finding]:
    if file.env not in environments:
        yield Finding(shown, 0, "", "warning", f"belongs to no environment: there is no {file.env}.yaml beside it")
        return
    environment = environments[file.env]
    if not isinstance(environment, Environment):
        return  # its own errors come first
    if file.key not in environment.keys:
        yield Finding(shown, 0, "", "warning", f"belongs to no key: environment {file.env} declares no {file.key}")
        return
    source = environment.keys[file.key].source
    if file.role in _SOURCE and source.partition("/")[0] != _SOURCE[file.role]:
        yield Finding(
            shown, 0, "", "warning", f"is not used: key {file.key} of environment {file.env} has source {source.partition(':')[0]}"
        )


def _leaks(project: Project, file: File) -> Iterator[Finding]:
    shown = project.shown(file.path)
    try:
        content = read_regular(file.path)
    except OSError as error:
        if file.role != "metadata":  # else said already
            yield Finding(shown, 0, "", "error", f"cannot be read: {error.strerror}")
        return
    if file.role == "age":
        if not content.lstrip().startswith(_AGE_HEADS):
            yield Finding(shown, 0, "", "error", "is not encrypted by age: remove it, and set the key with `ssmd key set`")
        return
    if file.role == "sealed" and not re.search(rb"^kind:\s*[\"']?SealedSecret\b", content, re.MULTILINE):
        yield Finding(
            shown, 0, "", "error", "is not a SealedSecret, maybe a Secret in clear: remove it, and seal the key with `ssmd key set`"
        )
    for line, what in find_leaks(content.decode(errors="replace"), encoded=file.role == "metadata"):
        todo = "take it out, keep it with `ssmd key set`, refer to it as $key:NAME.FIELD; if it was committed, replace it"
        yield Finding(shown, line, "", "error", f"looks like {what} in clear: {todo}")
