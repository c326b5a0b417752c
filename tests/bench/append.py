"""(a) Journal append, every message durable (``sync_interval: always``): ours against the usual ways of publishing with nats-py."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from journal.clock import WallClock
from journal.codec import body_kind_name, encode
from journal.entry import Change, Delta, Entry
from journal.jetstream import JetStreamJournal
from journal.subjects import Stream
from journal.writer import GroupCommit
from tests.journal.servers import TOKEN, NatsServer, nats_server

ROUNDS = 5
STREAM = Stream("bench", shard="0")
# As a Kalshi delta is on the wire; its entry is about 450 bytes.
FRAME = (
    b'{"type":"orderbook_delta","sid":2,"seq":%d,"msg":{"market_ticker":"KXGOLD15M-26AUG101215-15","market_id":"7b0d0bd1-75b4-4a0e-8ccf-5b37d3b0'
    b'11aa","price_dollars":"0.4100","delta_fp":"-12.00","side":"yes","ts":"2026-08-10T16:03:11.482913Z"}}'
)


def made(count: int, epoch: bytes) -> list[Entry]:
    body = Delta((Change(410_000, -1200, 0, 0),))
    return [
        Entry(
            body, "kalshi", f"KXGOLD15M-26AUG101215-{n % 30}", epoch, n, n, n, n, 20260810, n, n, 2,
            price_exponent=-6, size_exponent=-2, raw=FRAME % n,
        )
        for n in range(count)
    ]  # fmt: skip


Rendered = Sequence[tuple[str, bytes, str]]


def rendered(entries: Sequence[Entry]) -> Rendered:
    return [(STREAM.subject(e.feed, body_kind_name(e.body), e.symbol), encode(e), e.id) for e in entries]


async def awaited(client: Client, messages: Rendered) -> None:
    js = client.jetstream()
    for subject, payload, entry_id in messages:
        await js.publish(subject, payload, headers={"Nats-Msg-Id": entry_id})


async def pipelined(client: Client, messages: Rendered) -> None:
    js = client.jetstream(publish_async_max_pending=1_000)
    acks = [await js.publish_async(subject, payload, headers={"Nats-Msg-Id": entry_id}) for subject, payload, entry_id in messages]
    await asyncio.gather(*acks)


async def windowed(client: Client, messages: Rendered) -> None:
    """Core publishes to one reply inbox, at most 1,000 unacknowledged."""
    window = asyncio.Semaphore(1_000)
    left = len(messages)
    done = asyncio.Event()

    async def acked(message: Msg) -> None:
        nonlocal left
        if b'"error"' in message.data:
            raise RuntimeError(message.data.decode())
        window.release()
        left -= 1
        if not left:
            done.set()

    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=acked)
    for subject, payload, entry_id in messages:
        await window.acquire()
        await client.publish(subject, payload, reply=inbox, headers={"Nats-Msg-Id": entry_id})
    await done.wait()


async def ours(server: NatsServer, entries: Sequence[Entry]) -> None:
    """The connector's way: posted one by one as they come, room respected; encoding included."""
    journal = await JetStreamJournal.connect(server.url, WallClock(), token=TOKEN)
    group = GroupCommit(journal, STREAM, WallClock(), random.Random(1))
    group.start()
    for number, entry in enumerate(entries):
        group.post(entry)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await group.close()
    await journal.close()


async def once(server: NatsServer, round_number: int) -> dict[str, tuple[float, float]]:
    """Messages a second and our CPU microseconds a message, by way."""
    admin = await JetStreamJournal.connect(server.url, WallClock(), token=TOKEN)
    client = await nats.connect(server.url, token=TOKEN)
    found: dict[str, tuple[float, float]] = {}

    async def measure(name: str, count: int, work: Callable[[list[Entry]], Awaitable[None]]) -> None:
        await admin.ensure(STREAM, "kalshi")
        entries = made(count, round_number.to_bytes(16, "big"))
        wall, cpu = time.perf_counter(), time.process_time()
        await work(entries)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        info = await admin.info(STREAM)
        if info is None or info.last != count:
            raise RuntimeError(f"{name} stored {info} of {count}")
        found[name] = (count / wall, cpu / count * 1e6)
        await client.jetstream().delete_stream(STREAM.name)

    await measure("one awaited publish a message", 1_000, lambda e: awaited(client, rendered(e)))
    await measure("publish_async, 1,000 pending", 5_000, lambda e: pipelined(client, rendered(e)))
    await measure("core publish, window of 1,000", 5_000, lambda e: windowed(client, rendered(e)))
    await measure("ssmd: GroupCommit, batches of 500", 50_000, lambda e: ours(server, e))
    await client.close()
    await admin.close()
    return found


def run(out: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory() as directory, nats_server(Path(directory)) as server:
        rounds = [asyncio.run(once(server, n)) for n in range(1, ROUNDS + 1)]
    names = list(rounds[0])
    rates = {name: statistics.median(r[name][0] for r in rounds) for name in names}
    cpu = {name: statistics.median(r[name][1] for r in rounds) for name in names}
    best = max(rate for name, rate in rates.items() if not name.startswith("ssmd"))
    out(f"{'durable append':36} {'messages/s':>12} {'CPU µs each':>12} {'to best other':>14}")
    for name in names:
        out(f"{name:36} {rates[name]:12,.0f} {cpu[name]:12.1f} {rates[name] / best:13.1f}x")
