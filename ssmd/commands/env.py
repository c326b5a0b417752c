"""`ssmd env`: environments, as files."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from typing import Any

import click

from journal.errors import CallerError, NotFound, SsmdError
from ssmd.clock import machine_clock
from ssmd.commands.env_apply import apply
from ssmd.commands.env_teardown import teardown
from ssmd.commands.fields import Given, fields, settable, unsettable
from ssmd.commands.files import as_of, document, editing, show_list
from ssmd.commands.files import show as show_document
from ssmd.metadata import edit
from ssmd.metadata.edit import Edit
from ssmd.metadata.environment import Environment, Key
from ssmd.metadata.project import Project
from ssmd.names import ENVIRONMENT
from ssmd.options import env_named, examples, projected, settings_of


@click.group()
def env() -> None:
    """Look at environments, change them, and bring them into effect: exchanges/environments/*.yaml."""


env.add_command(apply)
env.add_command(teardown)


@env.command("list", epilog=examples("ssmd env list", "ssmd env list -o json"))
@click.pass_context
@projected
def list_(ctx: click.Context, *, project: Project, output: str) -> None:
    """List the environments."""

    def row(found: Environment) -> dict[str, Any]:
        return {
            "name": found.name,
            "stage": found.stage,
            "feed": found.feed,
            "venue": found.venue.type,
            "journal": found.journal.type,
            "storage": found.storage.type,
            "keys": len(found.keys),
            "protected": found.protected,
        }

    show_list(ctx, project.environments, row, output)


@env.command(epilog=examples("ssmd env show local", "ssmd env show kalshi-prod --as-of 2026-08-10 -o json"))
@click.argument("name", required=False, type=ENVIRONMENT)
@as_of
@click.option("--files-only", is_flag=True, help="With --as-of: do not ask the journal which configuration was in force.")
@click.pass_context
@projected
def show(ctx: click.Context, name: str | None, *, as_of: date | None, files_only: bool, project: Project, output: str) -> None:
    """Show an environment in full, defaults included. It holds no secrets, only references to keys.

    With --as-of also the versions of its feed and schema that were in force, and the configuration that the journal says was in force at
    the end of that day: what it ran with, whatever the file says now.
    """
    found = project.environments.read(_chosen(ctx, name, project))
    whole = document(found)
    if as_of:
        whole |= {
            "as_of": str(as_of),
            "feed_version": _version(project.feeds.read(found.feed), as_of),
            "schema_version": _version(project.schemas.read(found.schema_), as_of),
            "configuration": None if files_only else _journalled(ctx, found.name, project, as_of),
        }
    show_document(whole, output)


def _version(found: Any, day: date) -> dict[str, Any] | None:
    version = found.version(day)
    return None if version is None else document(version)


def _journalled(ctx: click.Context, name: str, project: Project, day: date) -> dict[str, Any] | None:
    """The configuration in force at the end of `day`; None where there is no journal, or none in it. What went wrong goes to stderr."""
    from ssmd.configuration import in_force as configuration_in_force
    from ssmd.wiring import day_rule, open_source

    async def ask() -> Any:
        settings = settings_of(ctx, project, name)
        next_ns = day_rule(settings).opens_ns(min(day, date.max - timedelta(days=2)) + timedelta(days=1))
        async with open_source(settings, machine_clock()) as source:
            return await configuration_in_force(source, name, next_ns - 1)

    try:
        found = asyncio.run(ask())
    except NotFound:
        return None
    except SsmdError as error:
        click.echo(f"ssmd: the journal was not asked for the configuration in force (--files-only does without): {error}", err=True)
        return None
    return None if found is None else dict(found._asdict())


def _chosen(ctx: click.Context, name: str | None, project: Project) -> str:
    from ssmd.settings import choose_env

    return name or choose_env(project, env_named(ctx))


@env.command(
    epilog=examples(
        "ssmd env create lab --feed kalshi",
        "ssmd env create desk --feed kalshi --stage prod --journal.type jetstream --journal.url nats://nats:4222 --protected",
        "ssmd env create btc --feed kalshi --set 'shards.a.selector.series=[KXBTC15M]' --dry-run",
    )
)
@click.argument("name")
@fields(Environment, without=("name",), required=("feed",))
@settable
@editing
def create(name: str, *, given: Given, project: Project) -> Edit:
    """Make an environment. Only the feed is needed: all else has the embedded default."""
    tree: dict[str, Any] = {"name": name}
    given.apply(tree, Environment)
    return _referred(edit.create(project.environments, name, tree, f"Environment {name}.", given.options), project)


@env.command(
    epilog=examples(
        "ssmd env update lab --schedule.timezone America/New_York",
        "ssmd env update lab --storage.type s3 --storage.bucket market-data --dry-run",
        "ssmd env update lab --set 'symbols.\"KXGOLDH-26AUG2711-T4615.99\".tier=1' --unset archive.retention_days",
    )
)
@click.argument("name", type=ENVIRONMENT)
@fields(Environment, without=("name",))
@settable
@unsettable
@editing
def update(name: str, *, given: Given, project: Project) -> Edit:
    """Change fields of an environment. `ssmd env apply` then brings it into effect."""
    changed = edit.update(project.environments, name, lambda tree: given.apply(tree, Environment), given.blame)
    return _referred(changed, project)


def _referred(changed: Edit, project: Project) -> Edit:
    """Raises `NotFound` when the feed or the schema is not there."""
    project.feeds.existing(changed.model.feed)
    project.schemas.existing(changed.model.schema_)
    return changed


@env.command(
    epilog=examples(
        "ssmd env add-key lab kalshi --type api_key --fields key_id --fields private_key --source age --rotation-days 90",
        "ssmd env add-key lab nats --type transport --fields token --variables token=NATS_TOKEN",
    )
)
@click.argument("name", metavar="ENV", type=ENVIRONMENT)
@click.argument("key")
@fields(Key, required=("type", "fields"))
@editing
def add_key(name: str, key: str, *, given: Given, project: Project) -> Edit:
    """Declare a key: what it opens, its fields and where their values are. `ssmd key set` then sets them; here is no place for a value."""
    if key in project.environments.read(name).keys:
        raise CallerError(f"{name} has a key {key} already: `ssmd env update {name} --set 'keys.{key}.…=…'` changes it")
    below = given.under("keys", key)
    return edit.update(project.environments, name, lambda tree: below.apply(tree, Environment), below.blame)


@env.command(epilog=examples("ssmd env validate", "ssmd env validate kalshi-prod --check-keys --check-reachable"))
@click.argument("names", nargs=-1, metavar="[NAME]...", type=ENVIRONMENT)
@click.option("--check-keys", is_flag=True, help="Also ask the sources of keys whether every field is there.")
@click.option("--check-reachable", is_flag=True, help="Also ask journal, storage, cache and venue whether they answer; nothing is written.")
@click.pass_context
@projected
def validate(ctx: click.Context, names: tuple[str, ...], *, check_keys: bool, check_reachable: bool, project: Project, output: str) -> None:
    """Check environments, all without NAME, with the feeds and schemas they refer to; as `ssmd validate` does for all files."""
    from ssmd.commands.validate import validate as whole

    del output  # it reads what -o says itself
    found = tuple(str(project.environments.existing(name)) for name in names) or (str(project.environments.directory),)
    ctx.invoke(whole, paths=found, check_keys=check_keys, check_reachable=check_reachable)
