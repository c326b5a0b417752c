"""`ssmd key`: the secrets of an environment, looked at and changed, never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssmd import render
from ssmd.commands.key_change import delete, init, rotate, set_
from ssmd.commands.key_options import declared, document, environment_and_key, relative, row, signer_of, unlocked
from ssmd.options import MOMENT, configured, environment_argument, examples
from ssmd.settings import Settings

if TYPE_CHECKING:
    from ssmd.keys.check import KeyState
    from ssmd.keys.history import Fact


@click.group()
def key() -> None:
    """Look at and change the keys of an environment. No command shows a value."""


for _command in (set_, init, rotate, delete):
    key.add_command(_command)


def _told(fact: Fact) -> dict[str, str]:
    """A fact for people."""
    from ssmd.moments import rfc3339

    detail = dict(fact.detail)
    detail.pop("process", None)  # it is who
    until = detail.pop("previous_until_ns", 0)
    said = [", ".join(v) if isinstance(v, list) else f"{n}" if v is True else f"{n} {v}" for n, v in detail.items()]
    said += [f"old values valid until {rfc3339(until)[:19]}Z"] if until else []
    return {
        "position": fact.position, "when": f"{rfc3339(fact.at_ns)[:19]}Z", "key": fact.key, "what": fact.what, "who": fact.who,
        "why": fact.why, "detail": "; ".join(said),
    }  # fmt: skip


def _states(settings: Settings, name: str = "", *, deep: bool = False) -> tuple[list[KeyState], int]:
    """The keys of the environment, or one, and the time they were looked at."""
    from ssmd.keys import check as checking

    if name:
        declared(settings, name)
    settings = unlocked(settings)
    environment, resolver, place, names = settings.environment, settings.resolver, settings.place(), [name] if name else []
    if deep:
        return checking.verify(environment, resolver, place, signer_of(settings), names), place.clock.wall_ns()
    return checking.examine(environment, resolver, place, names), place.clock.wall_ns()


def _print(settings: Settings, states: Sequence[KeyState], now_ns: int, output: str) -> None:
    output = render.format_of(output)
    table = output == "table"
    rows = [row(s, now_ns) if table else document(settings.env, s) for s in states]
    render.rows(rows, output, title=f"keys of environment {settings.env}")
    for state in states if table else ():
        for problem in state.problems:
            click.echo(f"{state.name}: {problem}", err=True)


def _code(states: Sequence[KeyState]) -> int:
    """2 when a source could not be asked, 1 when somebody must act."""
    found = {s.status for s in states if s.finding}
    return 2 if "unavailable" in found else int(bool(found))


@key.command("list", epilog=examples("ssmd key list", "ssmd key list kalshi-demo -o json"))
@environment_argument
@configured
def list_(*, settings: Settings, output: str) -> None:
    """List the keys of an environment: where each comes from, what is there, how old it is, when it ends."""
    _print(settings, *_states(settings), output)


@key.command(epilog=examples("ssmd key show kalshi-demo kalshi", "ssmd key show kalshi --env kalshi-demo -o json"))
@environment_and_key
@configured
def show(*, key: str, settings: Settings, output: str) -> None:
    """Show all that is known of one key, except its values."""
    from ssmd import moments

    (state,), now_ns = _states(settings, key)
    shown = document(settings.env, state) | {"description": state.key.description, "rotation_days": state.key.rotation_days}
    if render.format_of(output) == "table":
        shown |= {n: moments.rfc3339(shown[n]) for n in ("set_ns", "expires_ns", "previous_until_ns")}
        when = relative(state.expires_ns, now_ns)
        shown["status"] = f"{state.status}, expires {when}" if when else state.status
    render.one(shown, output)


@key.command(
    epilog=examples("ssmd key check", "ssmd key check kalshi-prod -o json", "ssmd key check kalshi-prod --textfile /var/lib/node/ssmd.prom")
)
@environment_argument
@click.option("--textfile", type=click.Path(path_type=Path), metavar="FILE", help="Write the Prometheus gauge there too, for a cron job.")
@click.pass_context
@configured
def check(ctx: click.Context, *, textfile: Path | None, settings: Settings, output: str) -> None:
    """Check that every required key is there and has not expired.

    Exit code: 0 all are, 1 one is not, 2 a source could not be asked.
    """
    states, now_ns = _states(settings)
    if textfile:
        from ssmd.clock import machine_clock
        from ssmd.metrics import KeyExpiry, write_textfile

        write_textfile(textfile, KeyExpiry(settings.env, lambda: states, machine_clock()))
    _print(settings, states, now_ns, output)
    ctx.exit(_code(states))


@key.command(epilog=examples("ssmd key verify", "ssmd key verify kalshi-demo -o json"))
@environment_argument
@click.pass_context
@configured
def verify(ctx: click.Context, *, settings: Settings, output: str) -> None:
    """Parse what is there: a venue's keys, certificates and their private keys; others must not be blank.

    Exit code: 0 all can be used, 1 one cannot, 2 a source could not be asked.
    """
    states, now_ns = _states(settings, deep=True)
    _print(settings, states, now_ns, output)
    ctx.exit(_code(states))


@key.command(epilog=examples("ssmd key export kalshi-prod", "ssmd key export kalshi-prod -o json"))
@environment_argument
@configured
def export(*, settings: Settings, output: str) -> None:
    """Print the declarations of the keys, to paste into another environment: references, no values."""
    keys = {name: key.model_dump(mode="json", exclude_defaults=True) for name, key in settings.environment.keys.items()}
    for name, key in settings.environment.keys.items():
        keys[name]["source"] = key.source
    render.one({"keys": keys}, output if output in {"json", "jsonl"} else "yaml")


@key.command(
    epilog=examples("ssmd key audit", "ssmd key audit kalshi-demo kalshi --since 30d", "ssmd key audit kalshi-demo --limit 10 -o jsonl")
)
@environment_argument
@click.argument("key", default="", metavar="[KEY]")
@click.option("--since", type=MOMENT, metavar="DURATION|TIME", help="What happened from then on: 30d, 2026-08-10.")
@click.option("--until", type=MOMENT, metavar="DURATION|TIME", help="What happened up to then.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, metavar="N", help="The last N.")
@configured
def audit(*, key: str, since: int | None, until: int | None, limit: int, settings: Settings, output: str) -> None:
    """Print what happened to the keys, oldest first, as the journal has it: when, who, what and why."""
    from ssmd.clock import machine_clock
    from ssmd.keys.history import read_history
    from ssmd.keys.pending import Pending
    from ssmd.wiring import open_journal

    waiting = len(Pending(settings.project.environments.directory, settings.env).waiting())
    clock = machine_clock()

    async def run() -> None:
        async with open_journal(settings, clock, read_only=True) as journal:
            facts = await read_history(journal, settings.env, key, since_ns=since or 0, until_ns=until or 0, limit=limit)
        table = render.format_of(output) == "table"
        rows = [_told(fact) if table else fact._asdict() for fact in facts]
        render.rows(rows, output, title=f"history of environment {settings.env}'s keys")

    asyncio.run(run())
    if waiting:
        click.echo(f"{waiting} changes are not journalled yet; the next connected command that writes does it", err=True)
