"""`ssmd replay`: fold a past day again."""

from __future__ import annotations

import click


@click.command()
def replay() -> None:
    """Replay a day."""
