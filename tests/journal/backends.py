"""A journal on an event loop in a thread of its own, as recorders use it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine, Iterator
from typing import Any
from uuid import uuid4

from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.memory import MemoryJournal
from journal.protocols import Journal
from journal.recorder import JournalRecorder
from journal.subjects import Stream
from tests.journal.servers import TOKEN


class Backend:
    def __init__(self, loop: asyncio.AbstractEventLoop, journal: Journal) -> None:
        self.loop = loop
        self.journal = journal

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def recorder(self, stream: Stream | None = None, **more: Any) -> JournalRecorder:
        """Of a stream of its own unless one is given."""
        stream = stream or Stream(f"t{uuid4().hex[:12]}", domain="key")
        return JournalRecorder(self.journal, self.loop, stream, WallClock(), more.pop("rng", random.SystemRandom()), **more)


@contextlib.contextmanager
def backend(url: str = "", **more: Any) -> Iterator[Backend]:
    """In memory, or with `url` on that server."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def connect() -> Journal:
        return await JetStreamJournal.connect(url, WallClock(), token=TOKEN, **more) if url else MemoryJournal()

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await loop.shutdown_asyncgens()

    made: Backend | None = None
    try:
        made = Backend(loop, asyncio.run_coroutine_threadsafe(connect(), loop).result(20))
        yield made
    finally:
        if made:
            made.run(made.journal.close())
        asyncio.run_coroutine_threadsafe(end(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
