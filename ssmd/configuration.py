"""The configuration in force: what an environment ran with, as a fact in its journal, so that a later replay knows it.

One event `configuration` in ``{env}_system`` each time it changes: the environment with its references unresolved, so that no secret can be
in it, the versions of feed and schema that were in force, the SHA-256 of each of their files, the commit, and the software.
"""

from __future__ import annotations

import asyncio
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal.clock import Clock
from journal.day import to_date
from journal.entry import Event, Record, canonical_json
from journal.errors import BadObject, NotFound
from journal.protocols import Journal, JournalReader
from journal.subjects import Stream
from replay.source import Source
from ssmd.metadata.project import file_hash
from ssmd.settings import Settings, shown
from ssmd.software import LIBRARIES, installed, software
from ssmd.system import say
from ssmd.wiring import day_rule

TYPE = "configuration"
_GIT_S = 10.0
# Of an environment's symbols as they are journalled; more are named by their number and the file's hash: a message holds 1 MiB.
_SYMBOLS = 2_000


class Configuration(NamedTuple):
    """`sha256` is of the canonical JSON of `document` and names it; `position` is where it is in the journal."""

    document: dict[str, Any]
    sha256: str
    position: str
    effective_ns: int
    who: str
    why: str


def name_of(data: bytes) -> str:
    """What a configuration of this canonical JSON is called."""
    return sha256(data).hexdigest()


def document(settings: Settings, day: int) -> dict[str, Any]:
    """What `settings` come to on `day`. Raises `NotFound` for a feed that is not there, `BadFile`."""
    project, environment, date = settings.project, settings.environment, to_date(day)
    paths = [project.environments.path(settings.env)]
    feed = project.feeds.read(environment.feed)
    version = feed.version(date)
    paths.append(project.feeds.path(feed.name))
    schema_version = None
    if environment.schema_ in project.schemas.names():  # a capture goes on without its description; `ssmd validate` tells
        schema = project.schemas.read(environment.schema_)
        schema_version = schema.version(date)
        paths.append(project.schemas.path(schema.name))
        if schema_version:
            paths.append(project.schemas.directory / (schema_version.file or schema.file))
    plain = environment.model_dump(mode="json", by_alias=True, exclude_none=True)
    if len(plain["symbols"]) > _SYMBOLS:
        plain["symbols"] = len(plain["symbols"])
    said = {"nats": shown(settings.nats_url), "storage": shown(settings.storage_url), "replicas": settings.replicas}
    return {
        "environment": plain,
        "said": {name: value for name, value in said.items() if value},  # by flag or variable, instead of the file
        "feed": {"name": feed.name, "version": _plain(version)},
        "schema": {"name": environment.schema_, "version": _plain(schema_version)},
        "files": {project.shown(path): _hash(path) for path in paths},
        "git": None if project.packaged else _git(project.root, project.exchanges),
        "software": {"ssmd": software(), **{name: found for name in LIBRARIES if (found := installed(name))}},
    }


def _plain(version: Any) -> Any:
    return version.model_dump(mode="json", exclude_none=True) if version else None


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise NotFound("file", str(path), hint=f"{error.strerror}; see `ssmd validate`") from None


def _git(root: Path, folder: Path) -> dict[str, Any] | None:
    """The commit, and whether files of `folder` differ from it; None outside a repository, before its first commit, or without git."""
    try:
        commit = _run_git(root, "rev-parse", "--verify", "--quiet", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_run_git(root, "status", "--porcelain", "--", str(folder)))} if commit else None
    except (OSError, subprocess.SubprocessError):
        return None


def _run_git(root: Path, *words: str) -> str:
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_S).stdout  # noqa: S603  git, and no shell


async def journal_configuration(journal: Journal, settings: Settings, clock: Clock, *, who: str, why: str) -> Configuration:
    """Append the configuration to ``{env}_system`` unless the newest one there is the same; the one in force now.

    Any number of processes may do so at once.
    """
    rule = day_rule(settings)
    # In a thread: it asks git.
    found = await asyncio.to_thread(document, settings, rule.day_of(clock.wall_ns()))
    event = Event(TYPE, canonical_json(found), who, why)
    return _parse(settings.env, await say(journal, settings.env, settings.env, event, clock=clock, days=rule))


async def in_force(source: Source, env: str, effective_ns: int) -> Configuration | None:
    """The newest configuration up to that time, None when there was none; from a journal, an archive or both."""
    stream = Stream(env, domain="system")
    best: Record | None = None
    # Few of a stream's entries: days when something changed. Other writers of the stream keep other times, so it cannot be searched.
    async for records in source.records(stream, [stream.subject("", TYPE, env)]):
        for record in records:
            if record.entry.effective_ns <= effective_ns:
                best = record
    return _parse(env, best) if best else None


async def newest(journal: JournalReader, env: str) -> Configuration | None:
    """The configuration in force now, None when there is none."""
    stream = Stream(env, domain="system")
    found = await journal.last(stream, stream.subject("", TYPE, env))
    return _parse(env, found) if found else None


def _parse(env: str, record: Record) -> Configuration:
    entry, body = record.entry, record.entry.body
    position = f"{env}_system:{record.sequence}"
    if not isinstance(body, Event):
        raise BadObject(f"{position} is no configuration, and its subject says that it is: compare the stream with the archive")
    try:
        found = msgspec.json.decode(body.data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BadObject(f"{position} is no configuration: {error}; compare the stream with the archive") from error
    return Configuration(found, name_of(body.data), position, entry.effective_ns, body.who, body.why)
