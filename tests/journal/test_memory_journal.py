"""The memory journal keeps the contract."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from journal.memory import MemoryJournal
from journal.protocols import Journal
from tests.journal.contract import JournalContract


class TestMemoryJournal(JournalContract):
    @contextlib.asynccontextmanager
    async def journals(self) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Journal]]]:
        journal = MemoryJournal()

        async def connect() -> Journal:
            return journal

        yield connect

    async def pass_window(self) -> None:
        return None  # it has none: it remembers every id
