"""`ssmd init`: the folders of a project, and a starter set in them."""

from __future__ import annotations

from pathlib import Path

import click

from ssmd import render
from ssmd.options import examples, output_of, shared


@click.command(epilog=examples("ssmd init", "ssmd init market-data", "ssmd init --force"))
@click.argument("directory", default=".", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Write the starter set over files that are there.")
@shared
@click.pass_context
def init(ctx: click.Context, directory: Path, *, force: bool) -> None:
    """Make exchanges/ with a starter set of feeds, schemas and environments, and .ssmd/ for data, which git ignores.

    Files that are there are kept and listed. Works in a git repository, in a folder of one, and without git.
    """
    from journal.errors import CallerError
    from ssmd.metadata.starter import plant, repository

    try:
        planted = plant(directory, force=force)
    except OSError as error:
        raise CallerError(f"cannot make a project in {directory.resolve()}: {error.filename}: {error.strerror}") from error
    if (output := output_of(ctx)) in {"", "table"}:
        for file, change in planted:
            click.echo(f"{change:<9} {file}")
    else:
        render.rows([one._asdict() for one in planted], output)
    root = repository(directory)
    if root is None:
        click.echo("Not in a git repository: `git init` first, if changes are to have a history.", err=True)
    else:
        click.echo(f"In the git repository {root}: `ssmd commit -m MESSAGE` commits exchanges/ and nothing else.", err=True)
