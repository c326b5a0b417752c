"""`ssmd gateway`: who may ask the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from ssmd import render
from ssmd.options import DURATION, configured, environment_argument, examples, name_environment
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.gateway.keydesk import KeyDesk
    from ssmd.gateway.keys import ClientKey

_SCOPES = ("read", "admin")


@click.group()
def gateway() -> None:
    """The gateway's keys: who may read, and who may administer. `ssmd run gateway` runs it."""


@gateway.group()
def key() -> None:
    """Keys of the gateway's clients: create, list, revoke."""


def _environment_and(name: str, metavar: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Arguments ``[ENV] NAME``."""

    def split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str:
        if not 1 <= len(value) <= 2:
            raise click.UsageError(f"write [ENV] {metavar}, not {len(value)} words", ctx)
        if len(value) == 2:
            name_environment(ctx, param, value[0])
        return value[-1]

    return click.argument(name, nargs=-1, metavar=f"[ENV] {metavar}", callback=split)


async def _at_desk(settings: Settings, work: Callable[[KeyDesk, str], Awaitable[Any]]) -> Any:
    import random

    from ssmd.clock import machine_clock
    from ssmd.gateway.keydesk import KeyDesk
    from ssmd.keys.change import whoami
    from ssmd.wiring import day_rule, open_journal

    clock = machine_clock()
    async with open_journal(settings, clock) as journal:
        return await work(KeyDesk(journal, clock, settings.env, random.SystemRandom(), day_rule(settings)), whoami())


@key.command(
    epilog=examples(
        "ssmd gateway key create dashboard",
        "ssmd gateway key create local desk-7 --feed kalshi --expires 90d --reason 'the desk in Chicago'",
        "ssmd gateway key create ops --scope admin -o json",
    )
)
@_environment_and("name", "NAME")
@click.option(
    "--scope", "scopes", type=click.Choice(_SCOPES), multiple=True, help="read (the default), or admin, which may do all. Repeatable."
)
@click.option("--feed", "feeds", metavar="NAME", multiple=True, help="Of this feed only. Repeatable. [default: all]")
@click.option("--expires", type=DURATION, metavar="DURATION", help="It ends after this long: 90d, 12h. [default: never]")
@click.option("--reason", default="", metavar="TEXT", help="What for; journalled.")
@configured
def create(
    *, name: str, scopes: tuple[str, ...], feeds: tuple[str, ...], expires: int | None, reason: str, settings: Settings, output: str
) -> None:
    """Make a key for a client called NAME and print it, once: only a hash of it is kept."""
    import re

    from journal.errors import CallerError
    from ssmd.clock import machine_clock

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", name):
        raise CallerError(f"{name!r} is no name of a client: 1 to 64 letters, digits, '_', '-', '.' and '@', a letter or digit first")
    for feed in feeds:
        settings.project.feeds.read(feed)
    expires_ns = machine_clock().wall_ns() + expires if expires else 0

    async def work(desk: KeyDesk, who: str) -> Any:
        chosen = tuple(s for s in _SCOPES if s in scopes) or ("read",)
        return await desk.issue(name, who=who, why=reason, scopes=chosen, feeds=tuple(dict.fromkeys(feeds)), expires_ns=expires_ns)

    made = asyncio.run(_at_desk(settings, work))
    if render.format_of(output) == "table":
        click.echo(made.text.reveal())
        click.echo(f"ssmd: key {made.key.id} ({name}): {_described(made.key)}. It is not shown again; send it as", err=True)
        click.echo("ssmd:   Authorization: Bearer KEY", err=True)
    else:
        render.one({"key": made.text.reveal(), **_row(made.key, made.key.created_ns)}, output)


@key.command("list", epilog=examples("ssmd gateway key list", "ssmd gateway key list local --all -o json"))
@environment_argument
@click.option("--all", "everything", is_flag=True, help="Those that were revoked or have expired, too.")
@configured
def list_(*, everything: bool, settings: Settings, output: str) -> None:
    """List the keys of ENV's clients, oldest first; never what opens them."""

    async def run() -> list[dict[str, Any]]:
        from ssmd.clock import machine_clock
        from ssmd.gateway.keys import read_keys
        from ssmd.wiring import open_journal

        clock = machine_clock()
        async with open_journal(settings, clock, read_only=True) as journal:
            keys = await read_keys(journal, settings.env)
        now_ns = clock.wall_ns()
        return [_row(k, now_ns) for k in keys.values() if everything or k.state(now_ns) == "valid"]

    rows = asyncio.run(run())
    if render.format_of(output) == "table":
        from ssmd.moments import rfc3339

        rows = [
            {
                "id": r["id"], "name": r["name"], "state": r["state"], "scopes": ", ".join(r["scopes"]),
                "feeds": ", ".join(r["feeds"]) or "all",
                "created": rfc3339(r["created_ns"])[:10], "expires": rfc3339(r["expires_ns"])[:16] or "never",
            }
            for r in rows
        ]  # fmt: skip
    render.rows(rows, output, title="keys")


@key.command(
    epilog=examples("ssmd gateway key revoke dashboard", "ssmd gateway key revoke local 3f09c1d2a4b7 --reason 'the laptop is lost'")
)
@_environment_and("which", "KEY")
@click.option("--reason", default="", metavar="TEXT", help="Why; journalled.")
@configured
def revoke(*, which: str, reason: str, settings: Settings, output: str) -> None:
    """Revoke the key with this id or name, for good: whoever uses it is shut out, open streams within a second."""

    async def work(desk: KeyDesk, who: str) -> Any:
        return await desk.revoke(which, who=who, why=reason)

    gone = asyncio.run(_at_desk(settings, work))
    if render.format_of(output) == "table":
        click.echo(f"ssmd: key {gone.id} ({gone.name}) is revoked", err=True)
    else:
        render.one(_row(gone, gone.revoked_ns), output)


def _row(found: ClientKey, now_ns: int) -> dict[str, Any]:
    return {
        "id": found.id, "name": found.name, "state": found.state(now_ns), "scopes": list(found.scopes), "feeds": list(found.feeds),
        "created_ns": found.created_ns, "created_by": found.created_by, "why": found.why, "expires_ns": found.expires_ns,
        "revoked_ns": found.revoked_ns, "revoked_by": found.revoked_by, "revoked_why": found.revoked_why,
    }  # fmt: skip


def _described(found: ClientKey) -> str:
    from ssmd.moments import rfc3339

    feeds = f" of {', '.join(found.feeds)}" if found.feeds else ""
    return f"{', '.join(found.scopes)}{feeds}, {f'until {rfc3339(found.expires_ns)[:19]}Z' if found.expires_ns else 'for ever'}"
