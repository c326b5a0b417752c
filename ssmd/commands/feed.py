"""`ssmd feed`: data sources of venues, as files."""

from __future__ import annotations

from copy import deepcopy
from datetime import date
from typing import Any

import click

from journal.errors import CallerError, NotFound
from ssmd.commands.fields import CHOSEN, Given, fields, settable, unsettable
from ssmd.commands.files import as_of, document, editing, long_since, show_list, today
from ssmd.commands.files import show as show_document
from ssmd.metadata import edit
from ssmd.metadata.edit import Edit
from ssmd.metadata.feed import CaptureLocation, Feed, FeedVersion
from ssmd.metadata.project import Project
from ssmd.names import FEED
from ssmd.options import examples, projected

_TRANSPORTS = {"wss": "wss", "ws": "wss", "https": "https", "http": "https", "tcp": "tcp", "udp": "multicast"}
_TYPES = {"wss": "websocket", "https": "rest", "tcp": "multicast", "multicast": "multicast"}
# Of one version, not of those made after it.
_OWN = ("version", "effective_from", "effective_to")


@click.group()
def feed() -> None:
    """Look at the data sources of venues and change them: exchanges/feeds/*.yaml."""


@feed.command("list", epilog=examples("ssmd feed list", "ssmd feed list -o json"))
@click.pass_context
@projected
def list_(ctx: click.Context, *, project: Project, output: str) -> None:
    """List the feeds, with the version in force today."""

    def row(found: Feed) -> dict[str, Any]:
        version = found.version(today())
        return {
            "name": found.name,
            "display_name": found.display_name,
            "venue": found.venue,
            "type": found.type,
            "status": found.status,
            "version": version and version.version,
            "endpoint": version and version.endpoint,
        }

    show_list(ctx, project.feeds, row, output)


@feed.command(epilog=examples("ssmd feed show kalshi", "ssmd feed show kalshi --as-of 2025-01-01 -o yaml"))
@click.argument("name", type=FEED)
@as_of
@projected
def show(name: str, *, as_of: date | None, project: Project, output: str) -> None:
    """Show a feed in full, defaults included; with --as-of the version that was in force."""
    found = project.feeds.read(name)
    show_document(in_force(found, as_of) if as_of else document(found), output)


def in_force(found: Any, day: date) -> dict[str, Any]:
    """A feed or schema with one `version`, that of `day`, instead of all. Raises `NotFound`."""
    version = found.version(day)
    if version is None:
        periods = ", ".join(f"{v.version} from {v.effective_from}" for v in sorted(found.versions, key=lambda v: v.effective_from))
        raise NotFound(f"version of {found.name} in force on", str(day), hint=f"there is {periods}")
    whole = document(found)
    del whole["versions"]
    return whole | {"as_of": str(day), "version": document(version)}


@feed.command(
    epilog=examples(
        "ssmd feed create bitstamp --endpoint wss://ws.bitstamp.net --supports.trades",
        "ssmd feed create itch --endpoint udp://233.54.12.111:26477 --protocol.message itch --effective-from 2026-01-05 --dry-run",
    )
)
@click.argument("name")
@fields(Feed, without=("name",))
@fields(FeedVersion, at=("versions", "0"), required=("endpoint",))
@settable
@editing
def create(name: str, *, given: Given, project: Project) -> Edit:
    """Make a feed with its first version.

    Without being told, the venue is called as the feed, transport and type follow from the endpoint, and the version is 1, in force from
    the day before yesterday: today in any timezone.
    """
    endpoint = str(given.values[("versions", "0", "endpoint")])
    transport = given.values.get(("versions", "0", "protocol", "transport")) or _TRANSPORTS.get(endpoint.partition("://")[0], "wss")
    tree: dict[str, Any] = {
        "name": name,
        "venue": name,
        "type": _TYPES[transport],
        "versions": [{"version": "1", "effective_from": long_since(), "protocol": {"transport": transport}}],
    }
    given.apply(tree, Feed)
    return edit.create(project.feeds, name, tree, f"Feed {name}.", given.options)


@feed.command(
    epilog=examples(
        "ssmd feed update kalshi --status deprecated",
        "ssmd feed update kalshi --version 2 --rate-limit.requests 20",
        "ssmd feed update kalshi --set 'calendar.holidays=[2026-12-25]' --unset display_name --dry-run",
    )
)
@click.argument("name", type=FEED)
@click.option("--version", metavar="VERSION", help="Which version the options of versions are about; by default the only one.")
@fields(Feed, without=("name",))
@fields(FeedVersion, at=("versions", CHOSEN), without=("version",))
@settable
@unsettable
@editing
def update(name: str, *, version: str | None, given: Given, project: Project) -> Edit:
    """Change fields of a feed. Data recorded under a version was recorded as it said: what changed at the venue is a new version."""
    number = 0
    if any(CHOSEN in path for path in given.values) or version is not None:
        versions = [v.version for v in project.feeds.read(name).versions]
        if version is None and len(versions) > 1:
            raise click.UsageError(f"name the version with --version: {', '.join(versions)}")
        if version is not None and version not in versions:
            raise NotFound(f"version of {name}", version, versions)
        number = versions.index(version) if version else 0
    chosen = given.pick(number)
    return edit.update(project.feeds, name, lambda tree: chosen.apply(tree, Feed), chosen.blame)


@feed.command(
    epilog=examples(
        "ssmd feed add-version kalshi --version 3 --effective-from 2027-01-01 --endpoint wss://example.com/trade-api/ws/v3",
    )
)
@click.argument("name", type=FEED)
@fields(FeedVersion, required=("version", "effective_from"))
@unsettable
@editing
def add_version(name: str, *, given: Given, project: Project) -> Edit:
    """Add a version. What is not given is as in the latest one, without what --unset names; periods must not overlap."""
    versions = list(project.feeds.read(name).versions)
    latest = max(range(len(versions)), key=lambda i: versions[i].effective_from)
    day = given.values[("effective_from",)]
    number = sum(v.effective_from <= day for v in versions) if _is_sorted(versions) else len(versions)

    def change(tree: dict[str, Any]) -> None:
        version = {k: v for k, v in deepcopy(tree["versions"][latest]).items() if k not in _OWN}
        given.apply(version, FeedVersion)
        tree["versions"].insert(number, version)

    return edit.update(project.feeds, name, change, given.under("versions", str(number)).blame)


def _is_sorted(versions: list[Any]) -> bool:
    days = [v.effective_from for v in versions]
    return days == sorted(days)


@feed.command(
    epilog=examples("ssmd feed add-location kalshi --site equinix-ny4 --site-type colocation --provider equinix --clock ptp"),
)
@click.argument("name", type=FEED)
@fields(CaptureLocation, required=("site", "site_type"))
@editing
def add_location(name: str, *, given: Given, project: Project) -> Edit:
    """Add a place where data of the feed is recorded."""
    site = given.values[("site",)]
    sites = [location.site for location in project.feeds.read(name).capture_locations]
    if site in sites:
        raise CallerError(
            f"{name} has the location {site} already; `ssmd feed update {name} --set capture_locations.{sites.index(site)}.…`"
        )

    def change(tree: dict[str, Any]) -> None:
        location: dict[str, Any] = {}
        given.apply(location, CaptureLocation)
        if tree.get("capture_locations") is None:
            edit.put(tree, Feed, ("capture_locations",), [])
        tree["capture_locations"].append(location)

    return edit.update(project.feeds, name, change, given.under("capture_locations", str(len(sites))).blame)
