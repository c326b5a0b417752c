"""`ssmd diff`: what has changed in the project's folders since the last commit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ssmd.options import examples, projected

if TYPE_CHECKING:
    from ssmd.metadata.project import Project


@click.command(epilog=examples("ssmd diff", "ssmd diff --stat", "ssmd diff -o json"))
@click.option("--stat", is_flag=True, help="Only how many lines of which files.")
@click.pass_context
@projected
def diff(ctx: click.Context, *, stat: bool, project: Project, output: str) -> None:
    """Show what `ssmd commit` would commit: feeds, schemas and environments, new and deleted files too. Validates first.

    Exit code: 0 it would be committed, 1 the project has errors (on stderr), 2 could not run.
    """
    from ssmd import render
    from ssmd.commands.commit import errors, say_ignored
    from ssmd.metadata.repository import Repository

    repository = Repository(project)
    found = errors(project)
    for finding in found:
        click.echo(f"error: {finding}", err=True)
    if output and output != "table":
        render.rows([change._asdict() for change in repository.changes()], output)
    else:
        click.echo(repository.diff(stat=stat, color=sys.stdout.isatty()), nl=False)
    say_ignored(repository)
    ctx.exit(1 if found else 0)
