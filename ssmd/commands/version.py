"""`ssmd version`: what is installed."""

from __future__ import annotations

import platform

import click

from ssmd import render
from ssmd.options import configured, examples
from ssmd.settings import Settings
from ssmd.software import LIBRARIES, installed, software


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
