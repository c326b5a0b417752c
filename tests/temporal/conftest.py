from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.temporal.servers import DevServer, dev_server


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """One server for tests that do not kill it; each has a task queue of its own."""
    with dev_server(tmp_path_factory.mktemp("temporal")) as server:
        yield server
