"""JetStream keeps the contract, and what only a server can do wrong is survived."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.protocols import Journal
from tests.journal.contract import JournalContract
from tests.journal.servers import TOKEN, NatsServer, nats_server

WINDOW_S = 0.1  # the server's least


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


async def connect_to(url: str, **more: Any) -> JetStreamJournal:
    return await JetStreamJournal.connect(url, WallClock(), token=TOKEN, **{"duplicate_window_s": WINDOW_S, **more})


@contextlib.asynccontextmanager
async def handles(url: str, **more: Any) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Any]]]:
    opened: list[JetStreamJournal] = []

    async def connect() -> Journal:
        opened.append(await connect_to(url, **more))
        return opened[-1]

    try:
        yield connect
    finally:
        for journal in opened:
            await journal.close()


class TestJetStreamJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def _server(self, shared_server: NatsServer) -> None:
        self._url = shared_server.url

    def journals(self) -> Any:
        return handles(self._url)

    async def pass_window(self) -> None:
        await asyncio.sleep(2.5 * WINDOW_S)
