"""Debian's Chromium, driven by Playwright: the machine's, else installed; a page that complains fails its test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

HOME = Path(sys.prefix) / "tools"
_PATIENCE_MS = 60_000  # other tests run beside this one
expect.set_options(timeout=_PATIENCE_MS)
Theme = Literal["dark", "light"]


def chromium() -> str:
    """Its path. Where it is not there it is installed, which takes Debian and root. Raises CalledProcessError."""
    if found := shutil.which("chromium"):
        return found
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "chromium.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not (found := shutil.which("chromium")):
            subprocess.run(
                ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
                check=True, capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
            found = shutil.which("chromium")
    assert found
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


class Tab:
    """A page and what it complained about: errors of scripts, of the console, of its security policy."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")


@contextmanager
def tab(started: Browser, url: str, width: int = 1_280, height: int = 900, theme: Theme = "dark") -> Iterator[Tab]:
    """Open `url`; in the end the page must not have complained."""
    context = started.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    context.set_default_timeout(_PATIENCE_MS)
    found = Tab(context.new_page())
    try:
        found.page.goto(url)
        yield found
        assert not found.complaints, found.complaints
    finally:
        context.close()
