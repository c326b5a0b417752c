"""What must hold of a feed, a schema and an environment beyond their models: between files, and on the day.

Pure but for the hashes of schema files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from journal.errors import NotFound
from ssmd.keys.source import Wanted
from ssmd.keys.variables import name_variable
from ssmd.metadata.environment import Environment, Schedule, references
from ssmd.metadata.feed import Feed
from ssmd.metadata.model import at, is_reference
from ssmd.metadata.problem import Problem
from ssmd.metadata.project import file_hash
from ssmd.metadata.schema import Schema, SchemaVersion
from ssmd.metadata.selectors import selector_problems

_CRON_DAYS = 15  # of a schedule that are looked at: two weekends
# Of a venue's api_key: what its requests are signed with.
VENUE_FIELDS: Mapping[str, tuple[str, ...]] = {"kalshi": ("key_id", "private_key")}
# Of the other types: one of these sets.
KEY_FIELDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "api_key": (),
    "transport": (("token",), ("user", "password"), ("credentials",), ("nkey_seed",)),
    "storage": (("access_key_id", "secret_access_key"),),
    "database": (("password",),),
    "tls": (("certificate", "key"), ("certificate", "private_key")),
    "webhook": (("url",), ("secret",), ("token",)),
}


@dataclass(frozen=True, slots=True)
class Around:
    """What a file is judged by. A feed or schema that is there but cannot be read is None."""

    feeds: Mapping[str, Feed | None]
    schemas: Mapping[str, Schema | None]
    today: date
    entry_hash: str  # of the schema of the entries that this ssmd writes


def feed_problems(feed: Feed, around: Around) -> Iterator[Problem]:
    if feed.version(around.today) is None:
        yield Problem(
            ("versions",), "warning", f"no version is in force on {around.today}; add one with `ssmd feed add-version {feed.name}`"
        )
    if feed.calendar.open is not None and feed.calendar.open == feed.calendar.close:
        yield Problem(("calendar", "close"), "error", "is the time of open: leave both out for a venue that never closes")
    sites = [location.site for location in feed.capture_locations]
    for number, site in enumerate(sites):
        if site in sites[:number]:
            yield Problem(("capture_locations", number, "site"), "warning", f"{site} is there twice")


def schema_problems(schema: Schema, directory: Path) -> Iterator[Problem]:
    """The newest version that is not deprecated matches its file; so does any version with a file of its own."""
    ordered = sorted(enumerate(schema.versions), key=lambda item: item[1].effective_from)
    newest = next((number for number, version in reversed(ordered) if version.status != "deprecated"), None)
    if newest is None:
        yield Problem(("versions",), "warning", f"every version is deprecated; `ssmd schema add-version {schema.name}` adds one")
    for number, version in ordered:
        if number == newest or version.file is not None:
            yield from _hash_problems(schema, number, version, directory)


def _hash_problems(schema: Schema, number: int, version: SchemaVersion, directory: Path) -> Iterator[Problem]:
    name = version.file or schema.file
    place = ("versions", number, "file") if version.file else ("file",)
    try:
        found = file_hash(directory / name)
        empty = not (directory / name).stat().st_size
    except OSError as error:
        yield Problem(place, "error", f"{name} cannot be read: {error.strerror}; it must be beside this file")
        return
    if empty:
        yield Problem(place, "error", f"{name} is empty")
    elif found != version.sha256:
        if version.status == "active":
            todo = f"restore the file, or if the change is meant add a version: `ssmd schema add-version {schema.name}`"
        else:
            todo = f"`ssmd schema hash {schema.name} --write` writes the file's"
        said = f"{name} has SHA-256 {found}, {version.status} version {version.version} says {version.sha256}: {todo}"
        yield Problem(("versions", number, "sha256"), "warning" if version.status == "deprecated" else "error", said)


def environment_problems(environment: Environment, around: Around) -> Iterator[Problem]:
    yield from _of_feed(environment, around)
    yield from _of_schema(environment, around)
    yield from _of_keys(environment, around.feeds.get(environment.feed))
    yield from _of_schedule(environment, around.today)
    if environment.archive.retention_days is not None:
        said = "nothing deletes old days yet: `ssmd env teardown --date` does it by hand"
        yield Problem(("archive", "retention_days"), "warning", said)
    yield from selector_problems(environment)


def _of_feed(environment: Environment, around: Around) -> Iterator[Problem]:
    name, venue = environment.feed, environment.venue
    if name not in around.feeds:
        yield Problem(("feed",), "error", str(NotFound("feed", name, list(around.feeds))))
        return
    feed = around.feeds[name]
    if feed is None:
        yield Problem(("feed",), "error", f"feed {name} has errors of its own")
        return
    if feed.status == "disabled":
        yield Problem(("feed",), "error", f"feed {name} is disabled; `ssmd feed update {name} --status active` enables it")
    if feed.status == "deprecated":
        yield Problem(("feed",), "warning", f"feed {name} is deprecated")
    version = feed.version(around.today)
    if version is None:
        todo = f"`ssmd feed add-version {name}` adds one"
        yield Problem(("feed",), "error", f"feed {name} has no version in force on {around.today}; {todo}")
        return
    if venue.type == "live" and version.auth_method != "none" and venue.key is None:
        said = f"feed {name} is authenticated by {version.auth_method}: declare a key of type api_key and name it here"
        yield Problem(("venue", "key"), "error", said)
    kinds = {"wss": ("wss", "ws"), "https": ("https", "http")}.get(version.protocol.transport, ())
    if kinds and venue.endpoint and not is_reference(venue.endpoint) and urlsplit(venue.endpoint).scheme not in kinds:
        yield Problem(("venue", "endpoint"), "error", f"feed {name} is reached by {version.protocol.transport}: write {kinds[0]}://…")


def _of_schema(environment: Environment, around: Around) -> Iterator[Problem]:
    name = environment.schema_
    if name not in around.schemas:
        yield Problem(("schema",), "error", str(NotFound("schema", name, list(around.schemas))))
        return
    schema = around.schemas[name]
    if schema is None:
        yield Problem(("schema",), "error", f"schema {name} has errors of its own")
        return
    version = schema.version(around.today)
    if version is None:
        yield Problem(("schema",), "error", f"schema {name} has no version in force on {around.today}")
        return
    if version.status == "draft" and environment.stage != "dev":
        todo = f"`ssmd schema set-status {name} {version.version} active`, or an environment of stage dev"
        yield Problem(
            ("schema",), "error", f"version {version.version} of schema {name} is a draft, and the stage is {environment.stage}: {todo}"
        )
    if version.status == "deprecated":
        yield Problem(("schema",), "warning", f"version {version.version} of schema {name}, in force today, is deprecated")
    if version.sha256 != around.entry_hash:
        said = f"version {version.version} of schema {name} has SHA-256 {version.sha256}, this ssmd writes entries of {around.entry_hash}"
        yield Problem(("schema",), "error", f"{said}: name schema entry, as `ssmd init` makes it, or install the ssmd that writes yours")


def _of_keys(environment: Environment, feed: Feed | None) -> Iterator[Problem]:
    used = {text.removeprefix("$key:").partition(".")[0] for _, text in references(environment)} | {environment.venue.key}
    variables: dict[str, str] = {}
    for name, key in environment.keys.items():
        for field in key.fields if key.source == "env" else ():
            variable = name_variable(Wanted(environment.name, name, key.fields, key.variables), field)
            if (other := variables.setdefault(variable, f"{name}.{field}")) != f"{name}.{field}":
                said = f"{field} is read from {variable}, which is {other} already: name another one in variables"
                yield Problem(("keys", name, "fields"), "error", said)
        wanted = KEY_FIELDS[key.type]
        if name == environment.venue.key and feed is not None and feed.venue in VENUE_FIELDS:
            wanted = (VENUE_FIELDS[feed.venue],)
        if wanted and not any(set(fields) <= set(key.fields) for fields in wanted):
            said = " or ".join(" and ".join(fields) for fields in wanted)
            who = f"a key of {feed.venue}" if name == environment.venue.key and feed is not None else f"a key of type {key.type}"
            yield Problem(("keys", name, "fields"), "error", f"{who} has {said}")
        if name not in used:
            yield Problem(("keys", name), "warning", f"nothing uses it: no $key:{name}.FIELD is written, and it is not venue.key")


def _of_schedule(environment: Environment, today: date) -> Iterator[Problem]:
    schedule = environment.schedule
    if schedule.day_end == schedule.day_start:
        yield Problem(("schedule", "day_end"), "error", "is the time of day_start: leave it out for days that end when the next begins")
    yield from _of_crons(schedule, today)
    for name in ("day_start", "day_end"):
        text = getattr(schedule, name)
        if text is not None and (day := _skipped(text, schedule.timezone, today)):
            said = f"{text} does not exist on {day} in {schedule.timezone}, when clocks go forward: that day it is the first instant after"
            yield Problem(("schedule", name), "warning", said)


def _of_crons(schedule: Schedule, today: date) -> Iterator[Problem]:
    from ssmd.day.calendar import Calendar

    calendar, days = Calendar(schedule), [today + timedelta(n) for n in range(_CRON_DAYS)]
    if schedule.end_cron and schedule.day_end:
        yield Problem(("schedule", "end_cron"), "error", "day_end says when a day ends, too: leave one of them out")
        return
    if schedule.start_cron and not schedule.auto_roll:
        yield Problem(("schedule", "start_cron"), "warning", "auto_roll is false, so that no day begins by itself")
    begun = [day for day in days if calendar.begins_ns(day)]
    if not begun:
        yield Problem(("schedule", "start_cron"), "warning", f"begins no day before {days[-1]}")
    for day in begun:
        if calendar.over_ns(day) <= calendar.begins_ns(day):
            yield Problem(("schedule", "start_cron"), "error", f"begins {day} when it is over already, by day_end {schedule.day_end}")
            return
    if schedule.end_cron and begun and all(calendar.over_ns(d) == calendar.opens_ns(d + timedelta(1)) for d in begun):
        yield Problem(("schedule", "end_cron"), "warning", "ends no day before the next one opens at day_start")


def _skipped(text: str, timezone: str, today: date) -> date | None:
    """The first day of the next 366 without that time."""
    zone = ZoneInfo(timezone)
    for days in range(366):
        moment = datetime.combine(today + timedelta(days), at(text), zone)
        if moment.astimezone(UTC).astimezone(zone).time() != moment.time():
            return moment.date()
    return None
