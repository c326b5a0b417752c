"""What clients leave behind that came and went in every way: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import tracemalloc
from pathlib import Path

from ssmd.gateway.server import Gateway
from tests.gateway.rig import Market, client_of, gateway_of, journal_of, until, write
from tests.journal.servers import nats_server

_AT_ONCE = 20
_ROUNDS = 6
# Of one client: its bucket of what it may ask for stays, of which there are 10,000 at most, and the test's own URL: 460 measured. A client
# that is kept has 8,800.
_LEFT_BYTES = 1_500


async def _visit(port: int, rng: random.Random, end: int) -> None:
    """Connect, ask for something, and go: with a goodbye, without one, or having read nothing."""
    query = rng.choice(["", "symbols=*", "symbols=*&mode=latest&channels=bbo", f"symbols=KXNONE-{rng.random()}"])
    if query.startswith("symbols=KXNONE"):
        query += ",KXA-1"
    async with client_of(port, query) as ws:
        asks = [
            {"op": "subscribe", "series": ["KXA", f"KX{rng.random()}"], "mode": "conflated", "interval_ms": 50},
            {"op": "subscribe", "symbols": ["*"], "resume": f"local_md_0:{rng.randrange(end)}"},
            {"op": "subscribe", "symbols": [f"{rng.random()}"]},
            {"op": "snapshot", "symbols": ["*"]},
            {"op": "nothing"},
        ]
        for asked in rng.sample(asks, rng.randrange(3)):
            await ws.send(json.dumps(asked))
        if rng.random() < 0.7:
            await ws.recv()
        if rng.random() < 0.5:
            ws.transport.abort()


async def _visits(gateway: Gateway, rng: random.Random, end: int) -> None:
    async def one() -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(_visit(gateway.port, rng, end), 2)

    for _ in range(_ROUNDS):
        await asyncio.gather(*(one() for _ in range(_AT_ONCE)))
    await until(lambda: not gateway.hub.clients, "all have gone")


def test_clients_that_came_and_went_leave_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        rng = random.Random(4)
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal, gateway_of(server, tmp_path) as gateway:
                await write(journal, Market(rng, 6), 400)
                await until(lambda: gateway.views.shards[0].position == 400, "all is folded")
                kept = []
                for number in range(3):
                    await _visits(gateway, rng, 400)
                    if number == 0:
                        tracemalloc.start()
                        continue
                    await asyncio.sleep(2.5)  # closing connections are given two seconds
                    gc.collect()
                    kept.append(tracemalloc.get_traced_memory()[0])
                tracemalloc.stop()
                hub = gateway.hub
                assert not any((hub._groups, hub._index, hub._of, hub._waiting, hub._awake, hub._broad))
                assert kept[-1] - kept[-2] < _LEFT_BYTES * _AT_ONCE * _ROUNDS, kept

    asyncio.run(run())
