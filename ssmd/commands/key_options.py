"""What the key commands share: their arguments, and how a key's state is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ssmd import options

if TYPE_CHECKING:
    from rich.text import Text

    from ssmd.keys.check import KeyState, LoadSigner
    from ssmd.settings import Settings

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_COLOURS = {"ok": "green", "sealed": "green", "expiring": "yellow", "missing": "red", "present": "green"}


def environment_and_key(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments ``[ENV] KEY``: the command is called with `key`."""

    def split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str:
        if not 1 <= len(value) <= 2:
            # Not quoted: a value may have been written where a name belongs.
            raise click.UsageError(f"write [ENV] KEY, not {len(value)} words; values are options: --FIELD VALUE", ctx)
        if len(value) == 2:
            options.name_environment(ctx, param, value[0])
        return value[-1]

    return click.argument("key", nargs=-1, metavar="[ENV] KEY", callback=split)(function)


def unlocked(settings: Settings) -> Settings:
    """The same with the passphrase that an age file needs, asked for once, where there is somebody to ask."""
    from journal.errors import KeyRefused
    from ssmd.keys.age import PASSPHRASE, AgeSource
    from ssmd.keys.secret import Variables
    from ssmd.keys.source import Wanted

    place = settings.place()
    aged = [Wanted(settings.env, name, key.fields) for name, key in settings.environment.keys.items() if key.source == "age"]

    def locked(wanted: Wanted) -> bool:
        with suppress(KeyRefused):  # who looks at the key says why
            return AgeSource("", place).needs_passphrase(wanted)
        return False

    if sys.stdin.isatty() and any(map(locked, aged)):
        said = click.prompt("Passphrase of the age files", hide_input=True, err=True)
        return replace(settings, variables=Variables({**settings.variables, PASSPHRASE: said}))
    return settings


def declared(settings: Settings, name: str) -> Any:
    """The key's declaration. Raises `NotFound`."""
    from journal.errors import NotFound

    keys = settings.environment.keys
    if name not in keys:
        hint = "" if keys else f"environment {settings.env} declares none: `ssmd env add-key {settings.env} NAME …`"
        raise NotFound(f"key in environment {settings.env}:", name, list(keys), hint=hint)
    return keys[name]


def signer_of(settings: Settings) -> LoadSigner | None:
    """What parses the API keys of the environment's venue; None for a venue that is not built."""
    from exchanges.venues import VENUES, load

    venue = settings.project.feeds.read(settings.environment.feed).venue
    return load(VENUES[venue].signer) if venue in VENUES else None


def relative(ns: int, now_ns: int) -> str:
    """``in 12 days``, ``3 hours ago``; "" for 0."""
    if not ns:
        return ""
    seconds = abs(ns - now_ns) // 10**9
    size, unit = next(((s, u) for s, u in _UNITS if seconds >= s), _UNITS[-1])
    count = seconds // size
    text = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"in {text}" if ns > now_ns else f"{text} ago"


def coloured(status: str) -> Text:
    from rich.text import Text

    return Text(status, style=_COLOURS.get(status, "red"))


def document(env: str, state: KeyState) -> dict[str, Any]:
    """A key's state for machines."""
    return {
        "env": env,
        "key": state.name,
        "type": state.key.type,
        "source": state.key.source,
        "required": state.key.required,
        "status": state.status,
        "fields": dict(state.fields),
        "set_ns": state.set_ns,
        "expires_ns": state.expires_ns,
        "previous_until_ns": state.previous_until_ns,
        "problems": state.problems,
    }


def row(state: KeyState, now_ns: int) -> dict[str, Any]:
    """A key's state for people."""
    return {
        "key": state.name,
        "type": state.key.type,
        "source": state.key.source,
        "required": "yes" if state.key.required else "no",
        "fields": " ".join(f if s == "present" else f"{f}:{s}" for f, s in state.fields.items()),
        "set": relative(state.set_ns, now_ns),
        "expires": relative(state.expires_ns, now_ns),
        "status": coloured(state.status),
    }
