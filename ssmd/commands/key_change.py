"""`ssmd key set`, `rotate`, `delete` and `init`: values in, and what happened to them into the journal."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmd import render
from ssmd.commands.key_options import declared, environment_and_key, signer_of, unlocked
from ssmd.options import DURATION, configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.keys.change import Change
    from ssmd.keys.check import KeyState
    from ssmd.keys.secret import Secret
    from ssmd.keys.source import Wanted
    from ssmd.keys.store import Sealing
    from ssmd.metadata.environment import Key

_FIELD = re.compile(r"--[a-z][a-z0-9_-]*")
_GIVEN = "ssmd.key.values"
_OFFERED = "ssmd.key.options"
_STDIN = "-"
SCOPES = ("strict", "namespace-wide", "cluster-wide")
_CERT_HELP = "Of a sealed secret: the cluster's public certificate. [SSMD_SEAL_CERT]"


class FieldCommand(click.Command):
    """Takes an option for every field, whatever the environment calls them."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *ctx.meta.get(_OFFERED, ())]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name for param in super().get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        names = dict.fromkeys(arg.partition("=")[0] for arg in args)
        ctx.meta[_OFFERED] = [_offer(name) for name in names if _FIELD.fullmatch(name) and name not in known]
        return super().parse_args(ctx, args)


def _offer(name: str) -> click.Option:
    field = name.removeprefix("--").replace("-", "_")

    def keep(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(_GIVEN, {})[field] = value

    return click.Option([name, f"field_{field}"], expose_value=False, callback=keep, hidden=True)


def _pair(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not (name and rest) for name, _, rest in pairs):
        raise click.BadParameter("write FIELD=WHERE", param=param)
    return {name: rest for name, _, rest in pairs}


def _valued(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that take values."""
    for option in (
        click.option("--namespace", default="", metavar="NAME", help="Of a sealed secret: for this Kubernetes namespace."),
        click.option("--scope", type=click.Choice(SCOPES), help="Of a sealed secret. [default: strict]"),
        click.option("--cert", default="", envvar="SSMD_SEAL_CERT", metavar="FILE|URL", help=_CERT_HELP),
        click.option("--from-env", multiple=True, callback=_pair, metavar="FIELD=VARIABLE", help="Value in a variable; repeated."),
        click.option("--from-file", multiple=True, callback=_pair, metavar="FIELD=PATH", help="Value in a file (-: stdin); repeated."),
    ):  # fmt: skip
        function = option(function)
    return function


def _journalled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands whose doings are journalled."""
    said = "Without the journal: the event waits beside the environment."
    function = click.option("--offline", is_flag=True, help=said)(function)
    return click.option("--reason", default="", metavar="TEXT", help="Why; it is journalled.")(function)


@click.command(
    "set", cls=FieldCommand,
    epilog=examples(
        "ssmd key set kalshi-demo kalshi",
        "ssmd key set kalshi-demo kalshi --key-id UUID --from-file private_key=kalshi.pem",
        "ssmd key set kalshi-prod nats --from-env token=NATS_TOKEN --cert cluster.pem --namespace market-data --offline",
    ),
)  # fmt: skip
@environment_and_key
@_valued
@_journalled
@configured
def set_(*, key: str, settings: Settings, output: str, **given: Any) -> None:
    """Set fields of a key; those not named stay as they are.

    Values come from --FIELD VALUE (an option for each field the key declares, such as --key-id), --from-file, --from-env or, without
    any, from prompts that do not echo. They are encrypted (age) or sealed (sealed-secret) into a file beside the environment.
    """
    _change(settings, output, key, kind="set", given=given)


@click.command(
    cls=FieldCommand,
    epilog=examples(
        "ssmd key rotate kalshi-demo kalshi --grace 24h --reason 'every 90 days'",
        "ssmd key rotate kalshi-demo kalshi --from-file private_key=new.pem --from-file key_id=new.id",
    ),
)
@environment_and_key
@click.option("--grace", type=DURATION, default="24h", show_default=True, metavar="DURATION", help="How long the old values stay valid.")
@_valued
@_journalled
@configured
def rotate(*, key: str, grace: int, settings: Settings, output: str, **given: Any) -> None:
    """Set new values and keep the old ones valid for a while. Values come as for `ssmd key set`."""
    _change(settings, output, key, kind="rotated", given=given, grace_ns=grace)


def _change(settings: Settings, output: str, name: str, *, kind: Any, given: Mapping[str, Any], grace_ns: int = 0) -> None:
    from journal.errors import KeyRefused
    from ssmd.keys.source import Wanted
    from ssmd.keys.store import check_writable

    settings.project.writable()
    key = declared(settings, name)
    wanted = Wanted(settings.env, name, key.fields, key.variables)
    sealing = _sealing(given)
    check_writable(key.source, wanted, sealing)
    values = _values(key, name, given)
    if not values:
        raise KeyRefused(f"no value was given for key {name}: nothing was changed")
    done = _write(unlocked(settings), key, wanted, values, sealing=sealing, kind=kind, given=given, grace_ns=grace_ns)
    render.one(done, output)


def _write(
    settings: Settings, key: Key, wanted: Wanted, values: Mapping[str, Secret], *, sealing: Sealing, kind: Any, given: Mapping[str, Any],
    grace_ns: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Check, write, journal; what was done, for people and machines."""
    from journal.errors import KeyRefused
    from ssmd.keys import store
    from ssmd.keys.change import Change, whoami
    from ssmd.keys.check import inspect
    from ssmd.keys.source import Found

    if problems := inspect(key, Found(values), signer_of(settings)):
        raise KeyRefused(f"key {wanted.name}: {'; '.join(problems)}; nothing was changed")
    place = settings.place()
    now_ns = place.clock.wall_ns()
    until_ns = now_ns + grace_ns if kind == "rotated" else 0
    change = Change(kind, wanted.name, now_ns, whoami(), given["reason"], key.source, tuple(values), until_ns)
    path = asyncio.run(
        _carry_out(
            settings, change, offline=given["offline"],
            write=lambda: store.store(
                key.source, wanted, place, values, sealing=sealing, set_ns=now_ns, previous_until_ns=until_ns
            ),
        )
    )  # fmt: skip
    assert path  # noqa: S101  (store always writes)
    return {
        "env": settings.env, "key": wanted.name, "source": key.source, "fields": list(values), "file": settings.project.shown(path),
        "set_ns": now_ns, "previous_until_ns": until_ns, "journalled": not given["offline"],
    }  # fmt: skip


async def _carry_out(settings: Settings, change: Change, *, offline: bool, write: Callable[[], Path | None]) -> Path | None:
    """Write and journal. A crash leaves the change waiting, or all done. Raises `StoreError` with nothing changed, or with what waits."""
    from journal.errors import KeyRefused, StoreError
    from ssmd.keys.pending import Pending, append_pending
    from ssmd.wiring import day_rule, open_journal

    place = settings.place()
    pending = Pending(place.directory, settings.env)
    pending.waiting()  # of a damaged file people hear before anything is changed
    async with AsyncExitStack() as stack:
        journal = None
        if not offline:
            try:
                journal = await stack.enter_async_context(open_journal(settings, place.clock))
            except (StoreError, KeyRefused) as error:
                raise StoreError(f"{error}. Nothing was changed; with --offline the next connected command journals it") from None
        with pending.carried_out(change):
            path = write()
        if journal:
            try:
                await append_pending(journal, place.clock, settings.project, settings.env, days=day_rule(settings))
            except StoreError as error:
                shown = settings.project.shown(pending.path(change.key))
                raise StoreError(f"{error}. The key is {change.kind}; its event waits in {shown} for the next connected command") from None
    return path


def _sealing(given: Mapping[str, Any]) -> Sealing:
    from ssmd.clock import machine_clock
    from ssmd.keys.certificate import load_certificate
    from ssmd.keys.store import Sealing

    pem = load_certificate(given["cert"], machine_clock()) if given["cert"] else b""
    return Sealing(pem, given["namespace"], given["scope"])


def _values(key: Key, name: str, given: Mapping[str, Any]) -> dict[str, Secret]:
    """By field, from where the options say; without any, from prompts. Raises `CallerError`."""
    from journal.errors import CallerError
    from ssmd.keys.secret import Secret

    typed = click.get_current_context().meta.get(_GIVEN, {})
    named = [*typed, *given["from_file"], *given["from_env"]]
    if unknown := [field for field in named if field not in key.fields]:
        raise CallerError(f"key {name} has no field {', '.join(unknown)}; it has {', '.join(key.fields)}")
    if twice := sorted({field for field in named if named.count(field) > 1}):
        raise CallerError(f"{', '.join(twice)} is given twice")
    if typed:
        click.echo("ssmd: other users see values on a command line (ps), and the shell keeps them: use --from-file", err=True)
    if not named:
        return _ask(key, name)
    texts = dict(typed)
    texts |= {field: _read(path) for field, path in given["from_file"].items()}
    for field, variable in given["from_env"].items():
        if not os.environ.get(variable):
            raise CallerError(f"--from-env {field}: variable {variable} is not set")
        texts[field] = os.environ[variable]
    if empty := [field for field, text in texts.items() if not text]:
        raise CallerError(f"{', '.join(empty)} is empty; `ssmd key delete` removes a key")
    return {field: Secret(text) for field, text in texts.items()}


def _ask(key: Key, name: str) -> dict[str, Secret]:
    """Of each field, without echo; an empty answer leaves the field as it is."""
    from journal.errors import CallerError
    from ssmd.keys.secret import Secret

    if not sys.stdin.isatty():
        flags = " ".join(f"--from-file {field}=PATH" for field in key.fields)
        raise CallerError(f"no terminal to ask for the values of key {name}: give them with {flags} or --from-env FIELD=VARIABLE")
    click.echo(f"Key {name}{f': {key.description}' if key.description else ''}. @PATH reads a file; nothing skips a field.", err=True)
    found = {}
    for field in key.fields:
        text = click.prompt(field, hide_input=True, default="", show_default=False, err=True)
        if text:
            found[field] = Secret(_read(text[1:]) if text.startswith("@") else text)
    return found


def _read(where: str) -> str:
    """A value from a file, or stdin, without its last newline. Raises `CallerError`."""
    from journal.errors import CallerError
    from ssmd.keys.values import LIMIT_BYTES, check_size, decode, drop_newline

    most = LIMIT_BYTES + 3  # beyond the limit and a newline there is more, which is not to be cut off
    try:
        if where == _STDIN:
            raw = sys.stdin.buffer.read(most)
        else:
            with Path(where).expanduser().open("rb") as file:
                raw = file.read(most)
    except OSError as error:
        raise CallerError(f"{where}: {error.strerror}") from None
    text = drop_newline(decode(raw, where))
    check_size(text, where)
    return text


@click.command(epilog=examples("ssmd key delete kalshi-demo kalshi", "ssmd key delete kalshi-demo kalshi --yes --reason 'account closed'"))
@environment_and_key
@click.option("--yes", is_flag=True, help="Do not ask.")
@_journalled
@configured
def delete(*, key: str, yes: bool, settings: Settings, output: str, reason: str, offline: bool) -> None:
    """Delete the values of a key, previous ones too. Its declaration in the environment stays."""
    from journal.errors import CallerError, NotFound
    from ssmd.keys import store
    from ssmd.keys.change import Change, whoami
    from ssmd.keys.source import Wanted

    settings.project.writable()
    spec = declared(settings, key)
    wanted = Wanted(settings.env, key, spec.fields, spec.variables)
    store.check_writable(spec.source, wanted)
    if not yes:
        if not sys.stdin.isatty():
            raise CallerError(f"this deletes the values of key {key} of environment {settings.env}: say --yes")
        click.confirm(f"Delete the values of key {key} of environment {settings.env}?", abort=True, err=True)
    settings = unlocked(settings)
    place = settings.place()

    def remove() -> Path:
        path = store.remove(spec.source, wanted, place)
        if path is None:
            raise NotFound(f"value of key {key} in environment", settings.env)
        return path

    change = Change("deleted", key, place.clock.wall_ns(), whoami(), reason, spec.source, spec.fields)
    path = asyncio.run(_carry_out(settings, change, offline=offline, write=remove))
    assert path  # noqa: S101  (remove raises)
    render.one({"env": settings.env, "key": key, "deleted": settings.project.shown(path), "journalled": not offline}, output)


@click.command(epilog=examples("ssmd key init kalshi-demo", "ssmd key init kalshi-prod --cert cluster.pem --namespace desk --offline"))
@environment_argument
@_valued
@_journalled
@click.pass_context
@configured
def init(ctx: click.Context, *, settings: Settings, output: str, **given: Any) -> None:
    """Walk through the keys that are missing and ask for each. Makes your age identity if you have none.

    Exit code: 0 nothing is missing, 1 something still is.
    """
    from journal.errors import KeyRefused
    from ssmd.keys.check import examine
    from ssmd.keys.resolve import Resolver
    from ssmd.keys.source import Wanted
    from ssmd.keys.store import check_writable

    settings.project.writable()
    environment = settings.environment
    if any(key.source == "age" for key in environment.keys.values()):
        _identity(settings)
    settings, sealing = unlocked(settings), _sealing(given)
    place = settings.place()

    def missing() -> list[KeyState]:
        states = examine(environment, Resolver(settings.env, environment.keys, place), place)
        return [s for s in states if s.status not in {"ok", "sealed", "expiring"}]

    done, problems = [], []
    for state in missing():
        wanted = Wanted(settings.env, state.name, state.key.fields, state.key.variables)
        try:
            check_writable(state.key.source, wanted, sealing)
            values = _ask(state.key, state.name) if sys.stdin.isatty() else {}
            if values:
                _write(settings, state.key, wanted, values, sealing=sealing, kind="set", given=given)
                done.append(state.name)
        except KeyRefused as error:
            problems.append(str(error))
    left = missing()
    for problem in [*problems, *(p for s in left for p in s.problems)]:
        click.echo(f"ssmd: {problem}", err=True)
    render.one({"env": settings.env, "set": done, "left": [s.name for s in left]}, output)
    ctx.exit(int(any(s.finding for s in left)))


def _identity(settings: Settings) -> None:
    """Make the identity, unless there is one, or a passphrase."""
    from ssmd.clock import machine_clock
    from ssmd.keys.age import PASSPHRASE, create_identity, find_identity

    environ = settings.variables
    path = find_identity(environ, Path.home())
    if path.exists() or environ.get(PASSPHRASE):
        return
    public = create_identity(path, machine_clock())
    click.echo(f"ssmd: made your identity, {path}. Back it up: without it nobody opens what is encrypted to {public}", err=True)
