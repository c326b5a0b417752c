"""Parameter types of names in the project, so that a shell completes them. Any text passes: a command says itself what is not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Names(click.ParamType[str]):
    def __init__(self, name: str, *kinds: str, files: bool = False) -> None:
        self.name = name
        self._kinds = kinds
        self._files = files

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from pathlib import Path

        from click.shell_completion import CompletionItem

        from journal.errors import SsmdError
        from ssmd.metadata.project import Project
        from ssmd.options import flags

        del param
        try:
            project = Project.find(Path.cwd(), flags(ctx).get("project") or os.environ.get("SSMD_PROJECT", ""))
            names = sorted({name for kind in self._kinds for name in getattr(project, kind).names() if name.startswith(incomplete)})
        except (SsmdError, OSError):
            names = []
        found = [CompletionItem(name) for name in names]
        return found or ([CompletionItem(incomplete, type="file")] if self._files else [])


class _Directory(click.ParamType[str]):
    name = "directory"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        del ctx, param
        return [CompletionItem(incomplete, type="dir")]


DIRECTORY = _Directory()
FEED = _Names("name", "feeds")
SCHEMA = _Names("name", "schemas")
ENVIRONMENT = _Names("name", "environments")
METADATA = _Names("path", "feeds", "schemas", "environments", files=True)
