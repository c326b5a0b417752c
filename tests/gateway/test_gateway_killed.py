"""The gateway as a process, killed while clients are connected: they come back, resume, and have missed and doubled nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from journal.clock import WallClock
from journal.storage import open_storage
from ssmd.services.projector import Projector
from tests.gateway.rig import STREAM, Checked, History, Market, client_of, journal_of, messages, until, write
from tests.gateway.test_stream_live import same
from tests.journal.servers import TOKEN, NatsServer, free_port, nats_server


def start(server: NatsServer, folder: Path, port: int) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "SSMD_NATS": f"nats://127.0.0.1:{server.port}", "SSMD_NATS_TOKEN": TOKEN, "SSMD_DATA": str(folder / "data")}
    with (folder / "gateway.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ssmd.cli", "run", "gateway", "--env", "local", "--port", str(port)], env=environ, stderr=log, cwd=folder
        )


async def follow(port: int, follower: Checked) -> None:
    while True:
        try:
            resume = f"&resume={follower.last}" if follower.last else ""
            async with client_of(port, f"symbols=*&channels=book,bbo,trade,gap{resume}") as ws:
                while True:
                    for message in await messages(ws, 60):
                        follower.receive(message)
        except (OSError, ConnectionClosed, InvalidMessage, InvalidStatus):
            await asyncio.sleep(0.05)


def served(followers: list[Checked], kind: str, times: int) -> bool:
    return all(f.seen[kind] >= times for f in followers)


def over(tasks: list[asyncio.Task[None]]) -> bool:
    return any(task.done() for task in tasks)


def test_clients_resume_after_the_gateway_was_killed(tmp_path: Path) -> None:
    async def run() -> None:
        port = free_port()
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(21), 6)
                await write(journal, market, 500)
                # A checkpoint, from which the next gateway starts.
                objects = open_storage(str(tmp_path / "data" / "objects"))
                await Projector(journal, objects, STREAM, WallClock()).catch_up()
                process = start(server, tmp_path, port)
                followers = [Checked() for _ in range(4)]
                tasks = [asyncio.create_task(follow(port, f)) for f in followers]
                try:
                    for connected in range(1, 4):
                        await until(lambda n=connected: served(followers, "subscribed", n) or over(tasks), "all are connected")
                        await write(journal, market, 600, per_s=2_000)
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                        await write(journal, market, 300)
                        process = start(server, tmp_path, port)
                    await write(journal, market, 600, per_s=2_000)
                    history = await History.read(journal)
                    await until(lambda: all(same(f, history, market.symbols) for f in followers) or over(tasks), "same")
                finally:
                    for task in tasks:
                        task.cancel()
                    ended = await asyncio.gather(*tasks, return_exceptions=True)
                    process.terminate()
                    code = process.wait(20)
                for result in ended:
                    assert isinstance(result, asyncio.CancelledError), result
                assert code == 0, (tmp_path / "gateway.log").read_text()
                for follower in followers:
                    follower.check(history)
                    assert all(m.get("resumed") is not False for m in follower.others if m["type"] == "subscribed")
                    for symbol, trades in follower.trades.items():
                        numbers = [n for n, _, _ in trades]
                        assert numbers == [n for n in history.trades[symbol] if n >= numbers[0]]

    asyncio.run(run())
