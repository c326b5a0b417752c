"""A long read of what has come already lets the event loop's other work have its turn."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.gateway.rig import STREAM, Market, journal_of, write
from tests.journal.servers import nats_server


def test_others_have_a_turn_between_the_parts_of_a_read(tmp_path: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await write(journal, Market(random.Random(3), 4), 3_000, run=500)
                task = asyncio.create_task(others())
                seen = [turns async for _ in journal.read(STREAM)]
                task.cancel()
                assert len(seen) > 10
                assert seen == sorted(set(seen)), "two parts came without a turn between them"

    asyncio.run(run())
