"""What the commands about feeds, schemas and environments share: --dry-run, `show` and `list`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import update_wrapper
from typing import Any

import click

from journal.day import DayRule, to_date
from journal.errors import BadFile
from ssmd import render
from ssmd.clock import machine_clock
from ssmd.metadata.edit import Edit
from ssmd.metadata.project import Kind
from ssmd.options import DATE, projected

as_of = click.option("--as-of", type=DATE, metavar="DATE", help="As it was, or will be, in force on that day: 2026-08-10.")


def today() -> date:
    """In UTC."""
    return to_date(DayRule().day_of(machine_clock().wall_ns()))


def long_since() -> date:
    """In force today wherever a day is that of another date: at most 12 hours behind UTC, begun at most 24 hours ago."""
    return today() - timedelta(days=2)


def editing(function: Callable[..., Edit]) -> Callable[..., None]:
    """A command that returns an `Edit`, called with `project`: what it returns is written, or with --dry-run shown."""

    def wrapper(*args: Any, dry_run: bool, output: str, **kwargs: Any) -> None:
        kwargs["project"].writable()
        edit = function(*args, **kwargs)
        if dry_run:
            click.echo(edit.diff(), nl=False)
            return
        edit.write()
        if output in {"", "table"}:
            click.echo(f"{edit.shown}: {edit.change}")
        else:
            render.one({"file": edit.shown, "change": edit.change}, output)

    decorated = projected(update_wrapper(wrapper, function))
    return click.option("--dry-run", is_flag=True, help="Print the difference it would make, as diff -u does, and write nothing.")(
        decorated
    )


def document(model: Any) -> dict[str, Any]:
    """As the file would say it in full, defaults included."""
    found: dict[str, Any] = model.model_dump(mode="json", by_alias=True)
    return found


def show(found: dict[str, Any], output: str) -> None:
    """Print a document; as a table, a row for each value by its path."""
    render.one(_flat("", found) if render.format_of(output) == "table" else found, output)


def show_list(ctx: click.Context, kind: Kind[Any], row: Callable[[Any], dict[str, Any]], output: str) -> None:
    """Print a row for each file that can be read; the problems of others go to stderr, and the exit code is 1 then."""
    rows, broken = [], False
    for name in kind.names():
        try:
            rows.append(row(kind.read(name)))
        except BadFile as error:
            click.echo(error, err=True)
            broken = True
    render.rows(rows, output, title=f"{kind.noun}s")
    ctx.exit(int(broken))


def _flat(path: str, value: Any) -> dict[str, Any]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if _is_long(value) else None
    if not below:
        return {path: value}
    return {k: v for step, inner in below for k, v in _flat(f"{path}.{step}" if path else str(step), inner).items()}


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)
