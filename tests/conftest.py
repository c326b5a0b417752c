"""Which suites run: ``SSMD_TEST`` is a comma-separated list of what was asked for beyond the default."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ASKED = frozenset(filter(None, os.environ.get("SSMD_TEST", "").split(",")))
SUITES = ("data", "chaos", "npm", "vault", "promtool", "chromium", "rehearsal")

# Where a change is judged (CI) the examples are the same each time; where it is made they are drawn anew, and explore.
settings.register_profile(
    "ssmd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("ssmd")


def pytest_configure(config: pytest.Config) -> None:
    del config
    if unknown := ASKED - set(SUITES):
        raise pytest.UsageError(f"SSMD_TEST asks for {', '.join(sorted(unknown))}; known: {', '.join(SUITES)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        wanted = {suite for suite in SUITES if item.get_closest_marker(suite)}
        (kept if wanted <= ASKED else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
    # What takes minutes begins first, so that nobody waits for it alone in the end.
    slow = {item.path for item in kept if any(item.get_closest_marker(suite) for suite in ("chaos", "data", "rehearsal"))}
    items[:] = sorted(kept, key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go to workers whole, in the order of collection. Of what needs a core for itself one test runs at a time."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):  # type: ignore[misc]  # (it has no types)
        def _split_scope(self, nodeid: str) -> str:
            return "heavy" if nodeid.startswith(("tests/chaos/", "tests/data/")) else super()._split_scope(nodeid)

    return Files(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing := [suite for suite in SUITES if suite not in ASKED]:
        terminalreporter.write_line(f"not asked for: {', '.join(missing)} (SSMD_TEST={','.join(SUITES)} asks for all)")
