"""Who resumes from the journal and does not read keeps nobody else from resuming."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

from tests.gateway.follower import sequence
from tests.gateway.rig import Market, client_of, gateway_of, journal_of, messages, next_of, until, write
from tests.journal.servers import nats_server

RESUME = "symbols=*&channels=trade,book,bbo&resume=local_md_0:1"


def test_clients_that_do_not_read_keep_no_turn(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await write(journal, Market(random.Random(5), 4), 20_000, run=500)
                async with gateway_of(server, tmp_path) as gateway, AsyncExitStack() as stack:
                    view = gateway.views.shards[0]
                    view.recent.since = 19_000  # as if memory had no room for more: before this the journal is read
                    gateway.hub.limits = gateway.hub.limits._replace(messages=2_000, bytes=200_000)
                    for _ in range(2):
                        ws = await stack.enter_async_context(client_of(gateway.port, RESUME))
                        ws.transport.pause_reading()
                    stuck = tuple(gateway.hub.clients.values())
                    await until(lambda: all(c.paused and c.buffer.fill > 0.25 for c in stuck), "two are stuck")
                    async with client_of(gateway.port, RESUME) as ws:
                        assert (await next_of(ws, "subscribed"))["resumed"] is True
                        last = 0
                        while last < 19_990:
                            last = max(last, *(sequence(x["position"]) for x in await messages(ws, 100) if "position" in x), 0)
                        assert [c.closed for c in stuck] == [False, False]  # it did not wait for their end
                        assert all(c.resuming for c in stuck)

    asyncio.run(run())
