"""`ssmd client`: who is connected to a gateway's stream."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ssmd import render
from ssmd.options import DURATION, configured, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.gateway.remote import RemoteGateway

_F = TypeVar("_F", bound=Callable[..., Any])
_EVERY_S = 1.0


@click.group()
def client() -> None:
    """Who is connected to a gateway's stream: list, show, disconnect, set-mode.

    The gateway is that of the environment; with a key it needs one with scope admin, in SSMD_GATEWAY_KEY.
    """


def _at_gateway(function: _F) -> _F:
    return click.option(
        "--gateway", "url", metavar="URL", envvar="SSMD_GATEWAY", help="http://HOST:PORT. [SSMD_GATEWAY; default: the environment's]"
    )(function)


def _remote(settings: Settings, url: str | None) -> RemoteGateway:
    from ssmd.gateway.remote import RemoteGateway
    from ssmd.keys.secret import Secret

    spec = settings.environment.gateway
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(spec.host, spec.host)  # noqa: S104  (where it listens, asked from this machine)
    return RemoteGateway(
        url or f"{'https' if spec.tls else 'http'}://{host}:{spec.port}", Secret(settings.variables.get("SSMD_GATEWAY_KEY", ""))
    )


@client.command(
    "list", epilog=examples("ssmd client list", "ssmd client list --watch", "ssmd client list --gateway https://md.example.com -o jsonl")
)
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@_at_gateway
@configured
def list_(*, watch: bool, url: str | None, settings: Settings, output: str) -> None:
    """List the clients that are connected, and how well each keeps up."""
    remote = _remote(settings, url)

    def rows() -> list[dict[str, Any]]:
        import msgspec

        return [msgspec.to_builtins(line) for line in remote.clients().clients]

    if not watch:
        found = rows()
        render.rows([_short(row) for row in found] if render.format_of(output) == "table" else found, output, title="clients")
        return
    asyncio.run(_watch(rows, output))


async def _watch(rows: Callable[[], list[dict[str, Any]]], output: str) -> None:
    from journal.errors import CallerError, SsmdError
    from ssmd.clock import machine_clock

    clock, chosen, head = machine_clock(), output or ("table" if sys.stdout.isatty() else "jsonl"), 0
    found: list[dict[str, Any]] | None = await asyncio.to_thread(rows)
    while True:
        if found is not None and chosen == "table":
            if sys.stdout.isatty():
                click.clear()
            render.rows([_short(row) for row in found], "table", title="clients")
        elif found:
            for line in list(render.lines(found, "jsonl" if chosen == "json" else chosen))[head:]:
                click.echo(line)
            head = 1 if chosen == "csv" else 0
        sys.stdout.flush()
        await clock.sleep(_EVERY_S)
        try:
            found = await asyncio.to_thread(rows)
        except CallerError:
            raise
        except SsmdError as error:  # it may be started again
            found = None
            click.echo(f"ssmd: {error}", err=True)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "who", "state", "policy", "mode", "sent", "waiting", "dropped")}


@client.command(epilog=examples("ssmd client show c1", "ssmd client show c1 -o json"))
@click.argument("name", metavar="ID")
@_at_gateway
@configured
def show(*, name: str, url: str | None, settings: Settings, output: str) -> None:
    """Show one client and what it has subscribed to."""
    import msgspec

    found = msgspec.to_builtins(_remote(settings, url).client(name))
    if render.format_of(output) == "table":
        render.one(found["client"], "table")
        lines = [{**s, "channels": ", ".join(s["channels"]), "of": ", ".join(s["of"])} for s in found["subscriptions"]]
        render.rows(lines, "table", title="subscriptions")
    else:
        render.one(found, output)


@client.command(epilog=examples("ssmd client disconnect c1 --reason 'it never reads'", "ssmd client disconnect c1 --yes -o json"))
@click.argument("name", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Told to the client, and journalled.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_at_gateway
@configured
def disconnect(*, name: str, reason: str, yes: bool, url: str | None, settings: Settings, output: str) -> None:
    """Close a client's connection. It may connect again: revoke its key to keep it out."""
    from journal.errors import CallerError
    from ssmd.keys.change import whoami

    remote = _remote(settings, url)
    if not yes and not reason:
        if not sys.stdin.isatty():
            raise CallerError(f"this closes the connection of client {name}: say --reason TEXT or --yes")
        click.confirm(f"Close the connection of client {name}?", abort=True, err=True)
    _done(remote.disconnect(name, reason=reason, who=whoami()), output)


@client.command(
    "set-mode",
    epilog=examples(
        "ssmd client set-mode c1 --mode conflated --interval 500ms", "ssmd client set-mode c1 --mode realtime --reason 'tests'"
    ),
)
@click.argument("name", metavar="ID")
@click.option("--mode", type=click.Choice(["realtime", "conflated", "latest"]), required=True, help="Of all its subscriptions.")
@click.option("--interval", type=DURATION, metavar="DURATION", help="Of mode conflated: 10ms to 1m.")
@click.option("--reason", default="", metavar="TEXT", help="Told to the client, and journalled.")
@_at_gateway
@configured
def set_mode(*, name: str, mode: str, interval: int | None, reason: str, url: str | None, settings: Settings, output: str) -> None:
    """Change how a client is served. It is told; trades are never conflated."""
    from ssmd.keys.change import whoami

    if (mode == "conflated") != bool(interval):
        raise click.UsageError("--interval belongs to --mode conflated, such as --interval 500ms")
    text = f"{interval}ns" if interval else ""
    _done(_remote(settings, url).set_mode(name, mode, interval=text, reason=reason, who=whoami()), output)


def _done(done: Any, output: str) -> None:
    import msgspec

    if render.format_of(output) == "table":
        click.echo(f"ssmd: client {done.client}: {done.action}, journalled at {done.position}", err=True)
    else:
        render.one(msgspec.to_builtins(done), output)
