"""`ssmd commit`: commit the project's folders, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ssmd.options import examples, projected

if TYPE_CHECKING:
    from ssmd.metadata.problem import Finding
    from ssmd.metadata.project import Project
    from ssmd.metadata.repository import Repository


@click.command(epilog=examples("ssmd commit -m 'Kalshi: a second shard'", "ssmd commit -m 'rotate the key of kalshi-prod' -o json"))
@click.option("-m", "--message", required=True, metavar="TEXT", help="Why.")
@click.pass_context
@projected
def commit(ctx: click.Context, *, message: str, project: Project, output: str) -> None:
    """Commit feeds, schemas and environments as they are in the working tree. Validates first; other staged files stay staged.

    Exit code: 0 committed or nothing to commit, 1 the project has errors and nothing was committed, 2 could not run.
    """
    from ssmd import render
    from ssmd.metadata.repository import Repository

    repository = Repository(project)
    if found := errors(project):
        for finding in found:
            click.echo(f"error: {finding}", err=True)
        click.echo("ssmd: nothing was committed: correct these first", err=True)
        ctx.exit(1)
    done = repository.commit(message)
    say_ignored(repository)
    if output and output != "table":
        changes = [change._asdict() for change in done.changes] if done else []
        render.one({"commit": done.commit if done else None, "changes": changes}, output)
    elif done is None:
        click.echo("nothing to commit: the folders are as they were committed")
    else:
        click.echo(f"committed {done.commit}: {len(done.changes)} file{'s' if len(done.changes) > 1 else ''}")
        for change in done.changes:
            click.echo(f"  {change}")


def errors(project: Project) -> list[Finding]:
    """What `ssmd validate` calls errors, of the whole project."""
    from ssmd.commands.files import today
    from ssmd.metadata.validation import check

    return [finding for finding in check(project, today=today()) if finding.severity == "error"]


def say_ignored(repository: Repository) -> None:
    """Files that a .gitignore keeps out of commits, on stderr."""
    for path in repository.ignored():
        click.echo(f"warning: {path} is ignored by git: see `git check-ignore -v {path}`", err=True)
