"""A journal that is not what was folded any more: purged beneath the gateway, deleted and begun anew, restored to what it was.

The view begins again from what is there, clients are sent away with the reason, and what they resume from then is refused.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.storage import open_storage
from ssmd.services.projector import Projector
from tests.gateway.rig import STREAM, Checked, History, Market, client_of, gateway_of, journal_of, messages, next_of, send, until, write
from tests.gateway.test_gateway_killed import start
from tests.gateway.test_stream_live import check_trades, same
from tests.journal.servers import NatsServer, free_port, nats_server


class Life:
    """A follower by the documented rules: what it has is of no use any more once it is told that it cannot be resumed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.all: list[Checked] = [Checked()]
        self.closed: list[tuple[int, str]] = []
        self.told: list[dict[str, Any]] = []

    @property
    def now(self) -> Checked:
        return self.all[-1]

    async def follow(self) -> None:
        while True:
            try:
                await self._connected()
            except ConnectionClosed as error:
                self.closed.append((error.rcvd.code if error.rcvd else 1006, error.rcvd.reason if error.rcvd else ""))
            except (OSError, InvalidStatus):
                await asyncio.sleep(0.05)

    async def _connected(self) -> None:
        resume = f"&resume={self.now.last}" if self.now.last else ""
        async with client_of(self.port, f"symbols=*&channels=book,bbo,trade,gap{resume}") as ws:
            while True:
                for message in await messages(ws, 120):
                    if message["type"] in {"subscribed", "error"}:
                        self.told.append(message)
                        if message.get("resumed") is False:
                            self.all.append(Checked())
                    self.now.receive(message)


@asynccontextmanager
async def followed(server: NatsServer, folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Life]]:
    """A gateway as a process, and somebody who follows it. The gateway must live to the end."""
    port = free_port()
    process = start(server, folder, port)
    life = Life(port)
    task = asyncio.create_task(life.follow())
    try:
        await until(lambda: life.told or task.done(), "somebody is connected")
        yield process, life
        assert not task.done() or task.result()
    finally:
        task.cancel()
        ended = await asyncio.gather(task, return_exceptions=True)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        code = process.wait(30)
    assert isinstance(ended[0], asyncio.CancelledError), ended
    assert code == 0, (folder / "gateway.log").read_text()


async def agrees(life: Life, history: History) -> None:
    """The follower has the books of the fold, and had no other since it began again."""

    await until(lambda: same(life.now, history, list(history.last)), "the books are the same")
    life.now.check(history)
    check_trades(life.now, history)


async def frozen(process: subprocess.Popen[bytes], change: Callable[[], Awaitable[None]]) -> None:
    """Let something happen that the gateway does not see happen."""
    process.send_signal(signal.SIGSTOP)
    try:
        await change()
    finally:
        process.send_signal(signal.SIGCONT)


async def begun_again(life: Life, before: Checked, says: str) -> None:
    """All was right until it was told that it cannot go on, and why; health says the same; what it had cannot be resumed."""
    await until(lambda: life.now is not before, "it is told to begin again")
    assert (1012, "the view is begun again; connect again and resume") in life.closed
    assert [t["code"] for t in life.told if t["type"] == "error"] == ["begun_again"]
    [refused] = [t for t in life.told if t.get("resumed") is False]
    assert re.search(says, refused["reason"])
    [view] = [c for c in (await asyncio.to_thread(ask, life.port, "/v1/health"))["checks"] if c["name"] == f"view {STREAM.name}"]
    assert view["good"]
    assert re.search(says, view["reason"])
    await refuses(life.port, before.last)


async def refuses(port: int, position: str) -> None:
    async with client_of(port, f"symbols=*&resume={position}") as ws:
        assert (await next_of(ws, "subscribed"))["resumed"] is False


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


async def books(journal: JetStreamJournal, market: Market) -> None:
    """A snapshot of every book, and a little more."""
    await journal.append(STREAM, [market.book(symbol) for symbol in market.symbols])
    await write(journal, market, 200)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_entries_are_purged_beneath_a_frozen_gateway(tmp_path: Path, checkpoint: bool) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(3), 5)
                await write(journal, market, 600)
                async with followed(server, tmp_path) as (process, life):
                    before, history = life.now, await History.read(journal)
                    await agrees(life, history)

                    async def change() -> None:
                        await write(journal, market, 3_000)
                        if checkpoint:
                            await Projector(journal, open_storage(str(tmp_path / "data" / "objects")), STREAM, WallClock()).catch_up()
                            await write(journal, market, 60)
                        await History.read(journal, history)
                        await journal.purge(STREAM, 3_500)

                    await frozen(process, change)
                    await begun_again(life, before, "601 is not there any more|is missing")
                    if not checkpoint:
                        await books(journal, market)
                    await write(journal, market, 300)
                    await agrees(life, await History.read(journal, history))
                    before.check(history)

    asyncio.run(run())


@pytest.mark.parametrize("grown", [False, True])
def test_the_stream_is_deleted_and_begun_anew(tmp_path: Path, grown: bool) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(4), 5)
                await write(journal, market, 600)
                # A checkpoint of the old stream is no beginning of the new one's fold, though there is such a sequence again.
                await Projector(journal, open_storage(str(tmp_path / "data" / "objects")), STREAM, WallClock()).catch_up()
                await write(journal, market, 40)
                async with followed(server, tmp_path) as (process, life):
                    before, old = life.now, await History.read(journal)
                    await agrees(life, old)

                    async def change() -> None:
                        await journal.delete(STREAM)
                        async with journal_of(server) as anew:
                            await books(anew, market)
                            await write(anew, market, 1_000 if grown else 60)

                    await frozen(process, change)
                    await begun_again(life, before, "made anew")
                    before.check(old)
                    async with journal_of(server) as anew:
                        await write(anew, market, 800)
                        await agrees(life, await History.read(anew))
                    await refuses(life.port, before.last)

    asyncio.run(run())


@pytest.mark.parametrize("grown", [False, True])
def test_the_journal_is_restored_to_what_it_was(tmp_path: Path, grown: bool) -> None:
    async def run() -> None:
        (tmp_path / "nats").mkdir()
        with nats_server(tmp_path / "nats") as server:
            market = Market(random.Random(5), 5)
            async with journal_of(server) as journal:
                await write(journal, market, 600)
            server.stop(signal.SIGTERM)
            shutil.copytree(tmp_path / "nats" / "store", tmp_path / "backup")
            server.start()
            async with journal_of(server) as journal:
                await write(journal, market, 400)
                history = await History.read(journal)
            async with followed(server, tmp_path) as (process, life):
                before = life.now
                await agrees(life, history)

                async def change() -> None:
                    server.stop(signal.SIGTERM)
                    shutil.rmtree(tmp_path / "nats" / "store")
                    shutil.copytree(tmp_path / "backup", tmp_path / "nats" / "store")
                    server.start()
                    async with journal_of(server) as restored:
                        await books(restored, market)
                        await write(restored, market, 900 if grown else 60)

                await frozen(process, change)
                await begun_again(life, before, "made anew")
                before.check(history)
                async with journal_of(server) as restored:
                    await write(restored, market, 300)
                    await agrees(life, await History.read(restored))

    asyncio.run(run())


def test_an_entry_in_the_middle_is_gone(tmp_path: Path) -> None:
    """What is behind the hole is served; a gateway that starts there does the same."""

    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Market(random.Random(6), 5)
                await write(journal, market, 600)
                history = await History.read(journal)
                await journal._link.api(f"STREAM.MSG.DELETE.{STREAM.name}", {"seq": 300})
                async with followed(server, tmp_path) as (_, life):
                    await books(journal, market)
                    await agrees(life, await History.read(journal, history))
                    [view] = [c for c in ask(life.port, "/v1/health")["checks"] if c["name"] == f"view {STREAM.name}"]
                    assert "what was before local_md_0:301 is not there any more" in view["reason"]

    asyncio.run(run())


def test_a_server_that_is_started_again_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            market = Market(random.Random(7), 5)
            async with journal_of(server) as journal:
                await write(journal, market, 600)
            async with followed(server, tmp_path) as (_, life):
                for _ in range(3):
                    server.stop()
                    server.start()
                    async with journal_of(server) as journal:
                        await write(journal, market, 200)
                async with journal_of(server) as journal:
                    await agrees(life, await History.read(journal))
                assert (len(life.all), life.closed) == (1, [])

    asyncio.run(run())


@pytest.mark.parametrize("change", ["made anew", "restored"])
def test_a_gateway_that_was_started_since_knows_the_stream_by_the_mark(tmp_path: Path, change: str) -> None:
    """Sequences alone cannot tell: the stream that is there now has grown past where the client was."""

    async def run() -> None:
        store, market = tmp_path / "nats" / "store", Market(random.Random(8), 3)
        (tmp_path / "nats").mkdir()
        with nats_server(tmp_path / "nats") as server:
            async with journal_of(server) as journal:
                await write(journal, market, 200)
            server.stop(signal.SIGTERM)
            shutil.copytree(store, tmp_path / "backup")
            server.start()
            async with journal_of(server) as journal:
                await write(journal, market, 200)
                async with gateway_of(server, tmp_path) as gateway:
                    told = await asked(gateway.port, "")
                    mark, position = told["mark"], told["positions"][0]
                    assert position == f"{STREAM.name}:400"
                    assert (await asked(gateway.port, f"&resume={position}&mark={mark}"))["resumed"]
                await write(journal, market, 200)
                async with gateway_of(server, tmp_path) as gateway:
                    assert (await asked(gateway.port, f"&resume={position}&mark={mark}"))["resumed"]
                    for wrong in ("x", f"{STREAM.name}:0:{'0' * 12}", f"{STREAM.name}:9999:{'0' * 12}", mark[:-1] + "g", f"{mark},"):
                        refused = await asked(gateway.port, f"&resume={position}&mark={wrong}")
                        assert not refused["resumed"]
                        assert refused["reason"]
                if change == "made anew":
                    await journal.delete(STREAM)
            if change == "restored":
                server.stop(signal.SIGTERM)
                shutil.rmtree(store)
                shutil.copytree(tmp_path / "backup", store)
                server.start()
            async with journal_of(server) as journal:
                await write(journal, market, 800)
                async with gateway_of(server, tmp_path / "new") as gateway:
                    refused = await asked(gateway.port, f"&resume={position}&mark={mark}")
                    assert not refused["resumed"]
                    assert "another entry than the mark's" in refused["reason"]

    asyncio.run(run())


def test_an_idle_client_that_notes_positions_of_heartbeats_has_their_mark(tmp_path: Path) -> None:
    """A stream that was restored to between its mark and its position, and has grown past that, was taken for the one it knew."""

    async def run() -> None:
        market = Market(random.Random(8), 3)
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal, gateway_of(server, tmp_path) as gateway:
                gateway.hub.heartbeat_s = 0.2
                async with client_of(gateway.port, "channels=day&symbols=*") as ws:
                    assert "mark" not in await next_of(ws, "subscribed"), "nothing is journalled yet"
                    await write(journal, market, 200)
                    while (beat := await next_of(ws, "heartbeat"))["positions"] != [f"{STREAM.name}:200"]:
                        pass
                    await send(ws, op="ping")
                    assert beat["mark"] == (await next_of(ws, "pong"))["mark"]
                    assert beat["mark"].startswith(f"{STREAM.name}:200:")

    asyncio.run(run())


async def asked(port: int, resume: str) -> dict[str, Any]:
    """What a subscription is told, and the same by the mark of a pong."""
    async with client_of(port, f"symbols=*&channels=book{resume}") as ws:
        told = await next_of(ws, "subscribed")
        await send(ws, op="ping")
        assert (await next_of(ws, "pong"))["mark"]
        return told
