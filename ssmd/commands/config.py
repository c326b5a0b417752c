"""`ssmd config`: what this process would run with, and who said so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ssmd.options import configured, examples

if TYPE_CHECKING:
    from ssmd.settings import Settings


@click.group()
def config() -> None:
    """Look at the configuration in effect."""


@config.command(
    epilog=examples("ssmd config show", "ssmd config show --origin", "ssmd config show --env kalshi-prod --origin -o json"),
)
@click.option("--origin", is_flag=True, help="Say where each value comes from: a flag, a variable, a file's line, or the default.")
@configured
def show(*, origin: bool, settings: Settings, output: str) -> None:
    """Print every setting with its value. Secrets are shown as the references they are in the file, or as ***."""
    from ssmd import render

    rows = [{"setting": s, "value": v, **({"origin": o} if origin else {})} for s, v, o in _settings(settings)]
    render.rows(rows, output, title=f"configuration of environment {settings.env}")


def _settings(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """(setting, value, origin): what was said for this process first, then the environment's."""
    from ssmd.metadata.project import lines
    from ssmd.settings import shown

    project, said = settings.project, settings.origins
    yield "env", settings.env, said.get("env", "the only environment" if len(project.environments.names()) == 1 else "default")
    yield (
        "project",
        str(project.root),
        said.get("project", "installed with ssmd" if project.packaged else "found here or above"),
    )
    yield "data_dir", str(settings.data_dir), said.get("data", "default")
    overridden = {"journal": "nats", "storage": "storage"}
    if settings.nats_url:
        yield "journal.url", shown(settings.nats_url), said["nats"]
        yield "journal.token", "***" if settings.nats_token else "", said["nats"]
    if settings.replicas:
        yield "journal.replicas", settings.replicas, said["replicas"]
    if settings.storage_url:
        yield "storage.url", shown(settings.storage_url), said["storage"]
    path = project.environments.path(settings.env)
    where = lines(path)
    for name, value in _leaves("", settings.environment.model_dump(mode="json", by_alias=True)):
        if overridden.get(name.partition(".")[0], "") not in said:
            line = where.get(name)
            yield name, value, f"{project.shown(path)}:{line}" if line else "default"


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, below)
    elif value not in (None, "", [], {}):
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else value
