"""`ssmd schema`: formats of entries and archives, and the hashes of their files."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import click

from journal.errors import CallerError, NotFound
from ssmd import render
from ssmd.commands.feed import in_force
from ssmd.commands.fields import Given, fields
from ssmd.commands.files import as_of, document, editing, long_since, show_list, today
from ssmd.commands.files import show as show_document
from ssmd.metadata import edit
from ssmd.metadata.edit import Edit
from ssmd.metadata.project import Project, file_hash
from ssmd.metadata.schema import SUFFIX, Schema, SchemaVersion
from ssmd.names import SCHEMA
from ssmd.options import examples, projected


@click.group()
def schema() -> None:
    """Look at schemas, their versions and hashes, and register new ones: exchanges/schemas/*."""


@schema.command("list", epilog=examples("ssmd schema list", "ssmd schema list -o json"))
@click.pass_context
@projected
def list_(ctx: click.Context, *, project: Project, output: str) -> None:
    """List the schemas, with the version in force today."""

    def row(found: Schema) -> dict[str, Any]:
        version = found.version(today())
        return {
            "name": found.name,
            "format": found.format,
            "version": version and version.version,
            "status": version and version.status,
            "file": (version and version.file) or found.file,
            "sha256": version and version.sha256,
        }

    show_list(ctx, project.schemas, row, output)


@schema.command(epilog=examples("ssmd schema show entry", "ssmd schema show entry --as-of 2026-12-01 -o yaml"))
@click.argument("name", type=SCHEMA)
@as_of
@projected
def show(name: str, *, as_of: date | None, project: Project, output: str) -> None:
    """Show a schema in full; with --as-of the version that was in force."""
    found = project.schemas.read(name)
    show_document(in_force(found, as_of) if as_of else document(found), output)


@schema.command(
    "hash",
    epilog=examples("ssmd schema hash entry", "ssmd schema hash entry --write"),
)
@click.argument("name", type=SCHEMA)
@click.option("--write", is_flag=True, help="Record the hash of the file as it is now in draft versions.")
@click.pass_context
@projected
def hash_(ctx: click.Context, name: str, *, write: bool, project: Project, output: str) -> None:
    """Compare the SHA-256 of each version's file with the one recorded; exit 1 when one differs."""
    found = project.schemas.read(name)
    rows = [
        {
            "version": version.version,
            "status": version.status,
            "file": version.file or found.file,
            "sha256": _hash(project, version.file or found.file),
            "recorded": version.sha256,
        }
        for version in found.versions
    ]
    wrong = [number for number, row in enumerate(rows) if row["sha256"] != row["recorded"]]
    if write and wrong:
        if settled := [rows[n]["version"] for n in wrong if rows[n]["status"] != "draft"]:
            raise CallerError(
                f"version {', '.join(settled)} of {name} is not a draft, data was written with it: bring its file back, and give the "
                f"changed one another name and a version: `ssmd schema add-version {name} --version … --file …`"
            )

        def change(tree: dict[str, Any]) -> None:
            for number in wrong:
                tree["versions"][number]["sha256"] = rows[number]["sha256"]

        edit.update(project.writable().schemas, name, change, {}).write()
        rows = [row | {"recorded": row["sha256"]} for row in rows]
        wrong = []
    render.rows([row | {"holds": row["sha256"] == row["recorded"]} for row in rows], output, title=f"versions of {name}")
    ctx.exit(int(bool(wrong)))


def _hash(project: Project, name: str) -> str:
    path = project.schemas.directory / name
    try:
        return file_hash(path)
    except OSError as error:
        raise CallerError(f"{project.shown(path)}: {error.strerror}: put the schema's file there first") from None


@schema.command(
    epilog=examples(
        "ssmd schema register ticks --file ticks.capnp",
        "ssmd schema register orders --file orders.proto --version 1.0.0 --effective-from 2026-12-01 --status active",
    )
)
@click.argument("name")
@fields(Schema, without=("name",), required=("file",))
@fields(SchemaVersion, at=("versions", "0"), without=("sha256", "file"))
@editing
def register(name: str, *, given: Given, project: Project) -> Edit:
    """Make a schema of a file that lies in exchanges/schemas already, with its hash.

    Without being told, the format follows from the file's name, and the version is 1.0.0, a draft, in force today in any timezone.
    """
    file = str(given.values[("file",)])
    if not _is_inside(file):
        raise click.UsageError(f"--file: name a file in {project.shown(project.schemas.directory)}, without folders above it")
    known = {suffix: name for name, suffix in SUFFIX.items()}
    tree: dict[str, Any] = {
        "name": name,
        "format": known.get(Path(file).suffix, "capnp"),
        "file": file,
        "versions": [{"version": "1.0.0", "effective_from": long_since(), "sha256": _hash(project, file)}],
    }
    given.apply(tree, Schema)
    return edit.create(project.schemas, name, tree, f"Schema {name}.", given.options)


def _is_inside(file: str) -> bool:
    return not Path(file).is_absolute() and ".." not in Path(file).parts


@schema.command(
    epilog=examples("ssmd schema set-status entry 1.1.0 active", "ssmd schema set-status entry 1.0.0 deprecated --dry-run"),
)
@click.argument("name", type=SCHEMA)
@click.argument("version")
@click.argument("status", type=click.Choice(["draft", "active", "deprecated"]))
@editing
def set_status(name: str, version: str, status: str, *, project: Project) -> Edit:
    """Make a version active (its file matches its hash from then on), deprecated, or a draft again."""
    found = project.schemas.read(name)
    versions = [v.version for v in found.versions]
    if version not in versions:
        raise NotFound(f"version of {name}", version, versions)
    number = versions.index(version)
    of = found.versions[number]
    if status == "active" and _hash(project, of.file or found.file) != of.sha256:
        raise CallerError(
            f"{of.file or found.file} is not what version {version} was registered with: `ssmd schema hash {name} --write` first"
        )
    return edit.update(project.schemas, name, lambda tree: edit.put(tree, Schema, ("versions", str(number), "status"), status), {})


@schema.command(
    epilog=examples(
        "ssmd schema add-version entry --version 1.1.0 --effective-from 2027-01-01 --file entry-1.1.capnp --compatible-with 1.0.0",
    )
)
@click.argument("name", type=SCHEMA)
@fields(SchemaVersion, without=("sha256",), required=("version", "effective_from"))
@editing
def add_version(name: str, *, given: Given, project: Project) -> Edit:
    """Add a version, a draft unless told otherwise, with the hash of its file.

    Without --file it is the schema's own; that is refused where older versions, not deprecated, are of that file with another content.
    """
    found = project.schemas.read(name)
    own = given.values.get(("file",))
    if own is not None and not _is_inside(own):
        raise click.UsageError(f"--file: name a file in {project.shown(project.schemas.directory)}, without folders above it")
    digest = _hash(project, own or found.file)
    if own is None and (other := [v.version for v in found.versions if not v.file and v.status != "deprecated" and v.sha256 != digest]):
        raise CallerError(
            f"{found.file} changed under version {', '.join(other)}: bring it back, and put the new schema into a "
            "file of its own, named with --file"
        )
    number = len(found.versions)

    def change(tree: dict[str, Any]) -> None:
        version: dict[str, Any] = {"sha256": digest}
        given.apply(version, SchemaVersion)
        tree["versions"].append(version)

    return edit.update(project.schemas, name, change, given.under("versions", str(number)).blame)
