"""What happens to a subscription while it resumes: others change its mode, its client asks for this and that, its buffer is small."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection

from journal.entry import Body, Entry, Gap, Trade
from journal.jetstream import JetStreamJournal
from ssmd.gateway.buffer import Limits
from ssmd.gateway.client import Client
from ssmd.gateway.server import Gateway
from tests.gateway.follower import sequence
from tests.gateway.rig import STREAM, Checked, History, Market, client_of, gateway_of, journal_of, messages, send, until, write
from tests.journal.servers import nats_server

ENTRIES = 6_000
ALL = "symbols=*&channels=book,bbo,trade"
FROM_START = f"{ALL}&resume=local_md_0:0"


class Told(Checked):
    """It reads what it is sent, until there is nothing more to come."""

    async def read(self, ws: ClientConnection, **wanted: str) -> None:
        """Up to the next message that is like this, and what else is in its frame."""
        found = False
        while not found:
            for message in await messages(ws):
                self.receive(message)
                found = found or wanted.items() <= message.items()

    async def read_all(self, ws: ClientConnection, history: History) -> None:
        async with asyncio.timeout(120):
            while not all(self.has(symbol, history) for symbol in history.last):
                await self.read(ws, type="book")

    def has(self, symbol: str, history: History) -> bool:
        state, *sides = history.last[symbol]
        found = self.books.get(symbol)
        return found is not None and found[0] == state and (state != "VALID" or list(found[1:]) == sides)


class Talkative(Market):
    """Trades alone fill a connection."""

    def _entry(self, body: Body, symbol: str) -> Entry:
        if isinstance(body, Trade):
            body = replace(body, trade_id=f"{body.trade_id:0>1000}")
        return super()._entry(body, symbol)


@asynccontextmanager
async def slow_client(gateway: Gateway, query: str) -> AsyncIterator[tuple[ClientConnection, Client]]:
    """It has read nothing yet, and little is on the way to it."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
    line.connect(("127.0.0.1", gateway.port))
    before = set(gateway.hub.clients)
    async with client_of(gateway.port, query, sock=line, max_queue=1) as ws:
        ws.transport.pause_reading()
        [name] = set(gateway.hub.clients) - before
        client = gateway.hub.clients[name]
        if "resume" in query:
            await until(lambda: client.paused and client.resuming and client.buffer.pending[0], "it is in the middle of what it missed")
        yield ws, client


@asynccontextmanager
async def past(folder: Path, market: Market, entries: int = ENTRIES) -> AsyncIterator[tuple[Gateway, JetStreamJournal]]:
    with nats_server(folder) as server:
        async with journal_of(server) as journal:
            await write(journal, market, entries, run=500)
            async with gateway_of(server, folder) as gateway:
                gateway.hub.limits = Limits(messages=400, bytes=200_000)
                yield gateway, journal


async def operator_conflates(gateway: Gateway, client: Client, _ws: ClientConnection, _told: Told) -> dict[str, str]:
    gateway.hub.set_mode(client, "conflated", 50)
    return {"type": "mode"}


async def operator_wants_all(gateway: Gateway, client: Client, _ws: ClientConnection, _told: Told) -> dict[str, str]:
    gateway.hub.set_mode(client, "realtime", 0)
    return {"type": "mode"}


async def asks_for_snapshots(_gateway: Gateway, _client: Client, ws: ClientConnection, _told: Told) -> dict[str, str]:
    await send(ws, op="snapshot", channels=["book", "bbo"], symbols=["*"])
    return {"type": "snapshots"}


async def subscribes_to_the_same(_gateway: Gateway, _client: Client, ws: ClientConnection, _told: Told) -> dict[str, str]:
    await send(ws, op="subscribe", channels=["book", "bbo", "trade"], symbols=["*"], mode="latest", id="again")
    return {"type": "subscribed", "id": "again"}


async def leaves_and_resumes(_gateway: Gateway, client: Client, ws: ClientConnection, told: Told) -> dict[str, str]:
    mode = client.subscriptions["s1"].mode
    await send(ws, op="unsubscribe", subscription="s1")
    await told.read(ws, type="unsubscribed")
    await send(ws, op="subscribe", channels=["book", "bbo", "trade"], symbols=["*"], mode=mode, resume=told.last, id="again")
    return {"type": "subscribed", "id": "again"}


@pytest.mark.parametrize("mode", ["realtime", "conflated"])
def test_what_was_missed_comes_first_and_once(tmp_path: Path, mode: str) -> None:
    async def run() -> None:
        market, history = Talkative(random.Random(7), 4), History()
        async with past(tmp_path, market) as (gateway, journal):
            for meanwhile in (operator_conflates, operator_wants_all, asks_for_snapshots, subscribes_to_the_same, leaves_and_resumes):
                print(meanwhile.__name__)
                async with slow_client(gateway, f"{FROM_START}&mode={mode}") as (ws, client):
                    told = Told(strict=mode == "realtime")
                    done = asyncio.create_task(meanwhile(gateway, client, ws, told))
                    await write(journal, market, 100, run=100)
                    history = await History.read(journal, history)
                    ws.transport.resume_reading()
                    await told.read(ws, **await done)
                    assert sequence(told.last) < 0.9 * ENTRIES
                    await told.read_all(ws, history)
                    if mode == "realtime":
                        told.check(history)
                    assert not told.seen["dropped"]
                    assert {s: [n for n, _, _ in found] for s, found in told.trades.items()} == history.trades

    asyncio.run(run())


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "drop_newest", "conflate"])
def test_a_resume_is_no_reason_to_be_cut_or_to_lose_anything(tmp_path: Path, policy: str) -> None:
    """Also where an entry makes more messages than the buffer holds."""

    async def run() -> None:
        market = Market(random.Random(8), 300)
        async with past(tmp_path, market, 4_000) as (gateway, journal):
            await journal.append(STREAM, [market._entry(Gap("lost", "orderbook_delta", 3, 5), "")])
            await write(journal, market, 1_000, run=500)
            history = await History.read(journal)
            await until(lambda: gateway.views.shards[0].position == history.end, "the gateway is there")
            gateway.hub.limits = Limits(messages=100, bytes=1 << 20)
            told = Told()
            for resume in (0, history.end - 400):
                if resume:
                    told = Told(strict=False)
                async with client_of(gateway.port, f"{ALL}&policy={policy}&resume=local_md_0:{resume}") as ws:
                    last = 0
                    while last < history.end - 1:
                        for message in await messages(ws):
                            if resume == 0:
                                told.receive(message)
                            assert message["type"] not in {"dropped", "conflated"}, message
                            if "position" in message:
                                last = max(last, sequence(message["position"]))
            told.check(history)

    asyncio.run(run())
