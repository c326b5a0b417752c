"""A gateway whose environment has a Redis: programs find its view there, and when it is away the gateway serves and says so."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from journal.cache import RedisCache
from journal.clock import WallClock
from ssmd.gateway.server import Gateway
from ssmd.settings import Settings
from tests import valkey
from tests.gateway.rig import Market, client_of, journal_of, next_of, until, write
from tests.journal.servers import TOKEN, nats_server
from tests.metadata.starter import copy_starter


def test_without_its_cache_the_gateway_serves_and_says_so(tmp_path: Path) -> None:
    copy_starter(tmp_path)
    with valkey.running(tmp_path / "valkey") as cache, nats_server(tmp_path) as nats:
        file = tmp_path / "exchanges" / "environments" / "local.yaml"
        file.write_text(f"{file.read_text()}cache:\n  type: redis\n  url: {cache.url}\n")
        flags = {"env": "local", "nats": f"nats://{TOKEN}@127.0.0.1:{nats.port}", "data": str(tmp_path / "data")}
        asyncio.run(check(nats, cache, Settings.read(flags, {}, tmp_path)))


def fetched(url: str) -> tuple[int, bytes]:
    with urlopen(url, timeout=30) as answer:  # noqa: S310
        return answer.status, answer.read()


async def check(nats: Any, cache: valkey.Valkey, settings: Settings) -> None:
    market = Market(random.Random(3), 5)
    redis = RedisCache(cache.url)
    async with journal_of(nats) as journal:
        await write(journal, market, 200)
        gateway = Gateway(settings, WallClock(), port=0)
        running = asyncio.create_task(gateway.run())
        await until(lambda: running.done() or gateway.status.startswith("serving"), "the gateway is ready")

        async def health() -> tuple[bool, dict[str, Any]]:
            said = json.loads((await asyncio.to_thread(fetched, f"{gateway.url}/v1/health"))[1])
            [found] = [check for check in said["checks"] if check["name"].startswith("cache ")]
            return said["ready"], found

        async def position() -> int:
            return int(json.loads(await redis.get("local:kalshi:position:0") or b'{"sequence": 0}')["sequence"])

        async def eventually(holds: Any) -> None:
            async with asyncio.timeout(60):
                while not await holds():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        async def is_good() -> bool:
            return bool((await health())[1]["good"])

        async def is_bad() -> bool:
            return not await is_good()

        async def is_at_220() -> bool:
            return await position() == 220

        async def is_at_240() -> bool:
            return await position() == 240

        async with asyncio.timeout(250):
            await eventually(is_good)
            symbol = market.symbols[0]
            book = json.loads(await redis.get(f"local:kalshi:book:{symbol}") or b"{}")
            async with client_of(gateway.port, f"symbols={symbol}&channels=book") as ws:
                told = await next_of(ws, "book")
                assert (book["bids"], book["asks"], book["state"]) == (told["bids"], told["asks"], told["state"])
            assert await position() == 200
            cache.kill()
            await eventually(is_bad)
            ready, found = await health()
            assert ready
            assert found == {"name": "cache local_md_0", "good": False, "reason": found["reason"], "needed": False}
            assert "the cache does not answer" in found["reason"]
            assert (await asyncio.to_thread(fetched, f"{gateway.url}/v1/health/ready"))[0] == 200
            await write(journal, market, 20)
            async with client_of(gateway.port, f"symbols={symbol}&channels=book") as ws:
                await next_of(ws, "book")
            cache.start()
            await eventually(is_at_220)
            await eventually(is_good)
            cache.hang()
            began_s = asyncio.get_running_loop().time()
            await eventually(is_bad)
            assert asyncio.get_running_loop().time() - began_s < 15, "before the client of the cache gives up, after 20 s"
            ready, found = await health()
            assert ready
            assert "takes more than 3 s to answer" in found["reason"]
            async with client_of(gateway.port, f"symbols={symbol}&channels=book") as ws:
                await next_of(ws, "book")
                await write(journal, market, 20)
            cache.go_on()
            await eventually(is_at_240)
            await eventually(is_good)
        gateway.stop()
        await asyncio.wait_for(running, 20)
    await redis.close()
