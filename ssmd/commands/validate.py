"""`ssmd validate`: is every file of the project right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmd.names import METADATA
from ssmd.options import env_named, examples, projected, settings_of

if TYPE_CHECKING:
    from ssmd.metadata.problem import Finding, Problem, Severity
    from ssmd.metadata.project import Project
    from ssmd.settings import Settings

_SHOWN = {"error": "error  ", "warning": "warning", None: "ok     "}


@click.command(
    epilog=examples(
        "ssmd validate",
        "ssmd validate exchanges/feeds kalshi-prod",
        "ssmd validate kalshi-prod --check-keys --check-reachable",
        "ssmd validate -o json",
    )
)
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=METADATA)
@click.option("--check-keys", is_flag=True, help="Also ask the sources of keys whether every field is there.")
@click.option("--check-reachable", is_flag=True, help="Also ask journal, storage, cache and venue whether they answer; nothing is written.")
@click.pass_context
@projected
def validate(ctx: click.Context, *, paths: tuple[str, ...], check_keys: bool, check_reachable: bool, project: Project, output: str) -> None:
    """Check feeds, schemas and environments: each file, and all against each other. PATH is a file, a folder or a name.

    One line a file, its problems below it; --env limits which environment's keys and servers are asked.
    Exit code: 0 no errors (warnings are none), 1 errors, 2 could not run.
    """
    from ssmd.commands.files import today
    from ssmd.metadata.validation import check, select, worst

    chosen = select(project, paths, Path.cwd())
    findings = check(project, chosen, today=today()) if chosen else []
    broken = {f.file for f in findings if f.severity == "error"}
    if check_keys or check_reachable:
        for path in _environments(project, chosen, env_named(ctx)):
            if project.shown(path) not in broken:
                findings += _asked(ctx, project, path, keys=check_keys, reachable=check_reachable)
    show(project, chosen, findings, output)
    ctx.exit(1 if worst(findings) == "error" else 0)


def _environments(project: Project, chosen: Sequence[Path], env: str) -> Iterator[Path]:
    for name in project.environments.names():
        if (path := project.environments.path(name)) in chosen and env in {"", name}:
            yield path


def _asked(ctx: click.Context, project: Project, path: Path, *, keys: bool, reachable: bool) -> Iterator[Finding]:
    from ssmd.clock import machine_clock
    from ssmd.metadata.problem import Finding
    from ssmd.reach import reach_problems

    settings = settings_of(ctx, project, path.stem)
    problems = list(_key_problems(settings)) if keys else []
    problems += list(reach_problems(settings, machine_clock())) if reachable else []
    for where, severity, text in problems:
        yield Finding(project.shown(path), 0, ".".join(map(str, where)), severity, text)


def _key_problems(settings: Settings) -> Iterator[Problem]:
    """Whether the fields of keys are there. Asks every source: a program or a server may take its seconds."""
    from ssmd.keys.check import examine
    from ssmd.metadata.problem import Problem

    for state in examine(settings.environment, settings.resolver, settings.place()):
        where = ("keys", state.name)
        severity: Severity = "error" if state.key.required else "warning"
        for text in state.problems:
            yield Problem(where, severity, text)
        if not state.problems:
            how = "sealed; the cluster mounts it" if "sealed" in state.fields.values() else "there"
            yield Problem(where, "note", f"{', '.join(state.key.fields)}: {how} (source {state.key.source.partition(':')[0]})")


def show(project: Project, chosen: Sequence[Path], findings: Sequence[Finding], output: str) -> None:
    """One line a file, its problems indented below; or as data."""
    from ssmd import render
    from ssmd.metadata.validation import worst

    found = {project.shown(path): [f for f in findings if f.file == project.shown(path)] for path in chosen}
    if output and output != "table":
        render.rows([_row(file, worst(said), said) for file, said in found.items()], output)
        return
    for file, said in found.items():
        counts = [f"{n} {what}{'s' if n > 1 else ''}" for what in ("error", "warning") if (n := sum(f.severity == what for f in said))]
        click.echo(f"{_SHOWN[worst(said)]} {file}{': ' if counts else ''}{', '.join(counts)}")
        for f in said:
            where = " ".join(filter(None, (f"line {f.line}" if f.line else "", f.place)))
            click.echo(f"          {f.severity}: {where}{': ' if where else ''}{f.text}")
    if not found:
        click.echo("no files")


def _row(file: str, status: str | None, findings: Sequence[Finding]) -> dict[str, Any]:
    said = [{"line": f.line, "place": f.place, "severity": f.severity, "text": f.text} for f in findings]
    return {"file": file, "status": status or "ok", "findings": said}
