"""`ssmd replay --serve-gateway`: the same clients see a past day, and nothing of what comes after where it is."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from http.client import HTTPConnection
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal.clock import Clock, WallClock
from journal.day import iso
from journal.entry import Entry, control
from journal.errors import CallerError, NotFound
from journal.jetstream import JetStreamJournal
from journal.subjects import Stream
from replay.pace import Max, Pace, Step, Stride, Times
from ssmd.metadata.environment import Shard
from ssmd.past_day import Chosen, PastDay
from ssmd.services.projector import Projector
from ssmd.settings import Settings
from ssmd.wiring import open_objects
from tests.gateway.rig import (
    STREAM,
    Checked,
    History,
    Market,
    client_of,
    journal_of,
    messages,
    next_of,
    send,
    settings_of,
    until,
)  # fmt: skip
from tests.gateway.served import GOLD, Served, command, environ, seeded, stop
from tests.journal.servers import NatsServer, nats_server

BEFORE, DAY, AFTER = 20260809, 20260810, 20260811
MIDNIGHT_NS = 1_786_320_000 * 10**9  # of DAY
CLOCK: Clock = WallClock()


def days(counts: dict[int, int], *, gap_ns: int = 10**9) -> list[Entry]:
    """So many entries of each day, one a second from noon on; the books go on from day to day."""
    market, found = Market(random.Random(7), 6), list[Entry]()
    for day, count in counts.items():
        for at, entry in enumerate(market.run(count)):
            now_ns = MIDNIGHT_NS + (day - DAY) * 86_400 * 10**9 + 43_200 * 10**9 + at * gap_ns
            found.append(msgspec.structs.replace(entry, day=day, recv_ns=now_ns, effective_ns=now_ns, venue_ns=now_ns))
    return found


async def kept(journal: JetStreamJournal, server: NatsServer, folder: Path, entries: list[Entry]) -> History:
    """Journalled and folded, with what days open with."""
    await journal.ensure(STREAM, "kalshi")
    for at in range(0, len(entries), 500):
        await journal.append(STREAM, entries[at : at + 500])
    await Projector(journal, open_objects(settings_of(server, folder)), STREAM, CLOCK).catch_up()
    return await History.read(journal)


@asynccontextmanager
async def past_day(server: NatsServer, folder: Path, pace: Pace, **chosen: Any) -> AsyncIterator[PastDay]:
    served = PastDay(settings_of(server, folder), CLOCK, Chosen(DAY, pace, **chosen), 0)
    running = asyncio.create_task(served.run())
    try:
        await until(lambda: running.done() or "begins when" in served.status or "happens again" in served.status, "the day is open")
        if running.done():
            running.result()
        yield served
    finally:
        served.stop()
        await asyncio.wait_for(running, 60)


async def follow(ws: Any, client: Checked, served: PastDay) -> None:
    """Until the day is over and all of it has come."""
    while True:
        for message in await messages(ws):
            client.receive(message)
            if message["type"] == "heartbeat" and "is over" in served.status:
                return


def port_of(served: PastDay) -> int:
    assert served.gateway is not None
    return served.gateway.port


async def ask(served: PastDay, path: str) -> Any:
    """Its answer."""

    def get() -> Any:
        connection = HTTPConnection("127.0.0.1", port_of(served), timeout=60)
        try:
            connection.request("GET", f"/v1/{path}")
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 200, found
            return found
        finally:
            connection.close()

    return await asyncio.to_thread(get)


def test_a_client_sees_the_books_and_trades_of_the_day_at_their_own_positions(tmp_path: Path) -> None:
    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                entries = days({BEFORE: 300, DAY: 3_000, AFTER: 50})
                history = await kept(journal, server, tmp_path, entries)
                before = [await journal.info(s) for s in await journal.streams("local")]
                client = Checked()
                async with past_day(server, tmp_path, Max(CLOCK)) as served, client_of(port_of(served)) as ws:
                    await send(ws, op="subscribe", channels=["book", "trade"], symbols=["*"])
                    await follow(ws, client, served)
                assert [await journal.info(s) for s in await journal.streams("local")] == before, "what is live is only read"
                client.check(history)
                assert len(client.had) > 1_000
                trades = {s: [at for at in found if 300 < at <= 3_300] for s, found in history.trades.items()}
                assert {s: [at for at, *_ in found] for s, found in client.trades.items()} == trades
                assert not client.seen["dropped"]

    asyncio.run(main())


def test_it_opens_with_the_books_of_the_day_before_and_knows_nothing_of_what_is_to_come(tmp_path: Path) -> None:
    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                history = await kept(journal, server, tmp_path, days({BEFORE: 300, DAY: 500, AFTER: 50}))
                async with past_day(server, tmp_path, Max(CLOCK)) as served:
                    [stream] = [s for s in (await ask(served, "streams"))["streams"] if s["stream"] == STREAM.name]
                    assert (stream["first"], stream["last"]) == (301, 300)
                    assert (await ask(served, "days/today"))["day"]["date"] == iso(DAY)
                    opened = {symbol: book for (symbol, at), book in sorted(history.books.items(), key=lambda x: x[0][1]) if at <= 300}
                    valid = 0
                    for symbol, sides in opened.items():
                        book = await ask(served, f"markets/{symbol}/book")
                        assert int(book["position"].rpartition(":")[2]) <= 300
                        if book["state"] == "VALID":
                            valid += 1
                            assert [{Decimal(p): Decimal(s) for p, s in book[side]} for side in ("bids", "asks")] == list(sides)
                    assert valid
                    async with client_of(port_of(served)) as ws:
                        await send(ws, op="subscribe", channels=["trade"], symbols=["*"])
                        await next_of(ws, "subscribed")
                        await until(lambda: "is over" in served.status, "the day is over")
                    assert served.status.endswith(f"is over at {STREAM.name}:800, and is served until Ctrl-C")
                    late = Checked()
                    async with client_of(port_of(served)) as ws:
                        await send(ws, op="subscribe", channels=["trade"], symbols=["*"], resume=f"{STREAM.name}:300")
                        assert (await next_of(ws, "subscribed"))["resumed"] is True
                        await follow(ws, late, served)
                    trades = {s: [at for at in found if 300 < at <= 800] for s, found in history.trades.items()}
                    assert {s: [at for at, *_ in found] for s, found in late.trades.items()} == trades
                    past = await ask(served, f"markets/KXA-1/book?as_of={STREAM.name}:500")
                    assert int(past["position"].rpartition(":")[2]) <= 500

    asyncio.run(main())


def test_a_pace_is_kept_and_until_ends_it(tmp_path: Path) -> None:
    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await kept(journal, server, tmp_path, days({DAY: 300}))
                until_ns = MIDNIGHT_NS + 43_200 * 10**9 + 100 * 10**9
                started_ns = CLOCK.mono_ns()
                async with past_day(server, tmp_path, Times(CLOCK, 50), clients=0, until_ns=until_ns) as served:
                    await until(lambda: "is over" in served.status, "the day is over")
                    assert CLOCK.mono_ns() - started_ns >= 2 * 10**9
                    assert f"over at {STREAM.name}:101," in served.status

    asyncio.run(main())


def test_of_some_symbols_nothing_else_is_released_and_the_rest_is_as_in_the_whole_day(tmp_path: Path) -> None:
    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                history = await kept(journal, server, tmp_path, days({BEFORE: 300, DAY: 2_000}))
                client = Checked()
                chosen = past_day(server, tmp_path, Max(CLOCK), symbols=("KXA-1", "KXB-2"))
                async with chosen as served, client_of(port_of(served)) as ws:
                    await send(ws, op="subscribe", channels=["book", "trade"], symbols=["*"])
                    await follow(ws, client, served)
                    assert (await ask(served, "health"))["replay"]["symbols"] == ["KXA-1", "KXB-2"]
                    assert {m["symbol"] for m in (await ask(served, "markets"))["markets"]} == {"KXA-1", "KXB-2"}
                    position = f"{STREAM.name}:1500"
                    past = await ask(served, f"markets/KXA-1/book?as_of={position}")
                    [whole] = [b for (s, at), b in history.books.items() if (s, f"{STREAM.name}:{at}") == ("KXA-1", past["position"])]
                    assert [{Decimal(p): Decimal(s) for p, s in past[side]} for side in ("bids", "asks")] == list(whole)
                client.check(history)
                assert {symbol for symbol, *_ in client.had} == {"KXA-1", "KXB-2"}
                trades = {s: [at for at in found if at > 300] for s, found in history.trades.items() if s in {"KXA-1", "KXB-2"}}
                assert {s: [at for at, *_ in found] for s, found in client.trades.items()} == trades

                with pytest.raises(NotFound, match=r"KXA-1.*near|KXA-1") as unknown:
                    async with past_day(server, tmp_path, Max(CLOCK), symbols=("KXA-1", "KXA-11")):
                        raise AssertionError
                assert "KXA-11" in str(unknown.value)

    asyncio.run(main())


def test_shards_happen_together_in_the_order_of_time(tmp_path: Path) -> None:
    other = Stream("local", shard="b")

    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                entries = days({DAY: 600})
                halves = {STREAM: entries[:200] + entries[400:], other: entries[200:400]}  # one is silent while the other speaks
                for stream, half in halves.items():
                    renamed = [msgspec.structs.replace(e, symbol=f"S{stream.shard}-{e.symbol}") for e in half]
                    await journal.ensure(stream, "kalshi")
                    await journal.append(stream, renamed)
                settings = settings_of(server, tmp_path)
                shards = settings.environment.model_copy(update={"shards": {"0": Shard(), "b": Shard()}})
                served = PastDay(replace(settings, environment=shards), CLOCK, Chosen(DAY, Max(CLOCK)), 0)
                running = asyncio.create_task(served.run())
                await until(lambda: "begins when" in served.status, "the day is open")
                order: list[str] = []
                async with client_of(port_of(served)) as ws:
                    await send(ws, op="subscribe", channels=["book", "trade", "bbo"], symbols=["*"])
                    while "is over" not in served.status or order[-1:] != ["heartbeat"]:
                        order += [m.get("position", m["type"]).partition(":")[0] for m in await messages(ws)]
                assert served.status.endswith(f"over at {STREAM.name}:400, {other.name}:200, and is served until Ctrl-C")
                served.stop()
                await asyncio.wait_for(running, 60)
                turns = [name for name, _ in groupby(o for o in order if o.startswith("local_md"))]
                assert turns == [STREAM.name, other.name, STREAM.name]

    asyncio.run(main())


def test_steps_are_taken_one_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await kept(journal, server, tmp_path, days({DAY: 300}))
                typed: asyncio.Queue[Stride] = asyncio.Queue()
                async with past_day(server, tmp_path, Step(typed.get), clients=0) as served:
                    for stride, at in ((Stride(1), 1), (Stride(10), 11), (Stride(ns=20 * 10**9), 31)):
                        typed.put_nowait(stride)
                        await until(lambda at=at: f"is at {STREAM.name}:{at}," in served.status, "the step is taken")
                        assert {s["stream"]: s["last"] for s in (await ask(served, "streams"))["streams"]}[STREAM.name] == at
                    assert (await ask(served, "health"))["replay"]["speed"] == "step"

    asyncio.run(main())


def test_an_entry_of_another_day_among_the_days_is_stood_in_for(tmp_path: Path) -> None:
    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                entries = days({DAY: 200})
                entries[100] = msgspec.structs.replace(entries[100], day=BEFORE, body=control("late", {}), symbol="")
                await journal.ensure(STREAM, "kalshi")
                await journal.append(STREAM, entries)  # a projector refuses such a stream, where a run of entries ends just before that one
                async with past_day(server, tmp_path, Max(CLOCK), clients=0) as served:
                    await until(lambda: "is over" in served.status, "the day is over")
                    assert f"over at {STREAM.name}:200," in served.status
                    assert served.gateway is not None
                    assert served.gateway.views.shards[0].position == 200

    asyncio.run(main())


def test_the_command_serves_until_it_is_interrupted_and_leaves_nothing(tmp_path: Path) -> None:
    data, told = seeded(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    args = command("replay", "--date", "today", "--serve-gateway", "0", "--clients", "0")
    process = subprocess.Popen(args, env=environ(data, TMPDIR=str(scratch)), cwd=data, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "is over" in line)
        port = int(said.partition(",")[0].rpartition(":")[2])
        assert [path for path in scratch.iterdir() if path.name.startswith("ssmd-replay-")]
        served = Served(data, port, process, told, [])
        assert served.good(f"/v1/markets/{GOLD}/book")["position"] == f"local_md_0:{told.positions['delta']}"
        assert served.good("/v1/markets")["markets"]
        assert served.good("/v1/health")["replay"] == {
            "date": served.good("/v1/days/today")["day"]["date"],
            "speed": "max",
            "symbols": [],
            "state": "over",
        }
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert not list(scratch.iterdir())
    finally:
        stop(process)
        if process.stderr:
            process.stderr.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--verify"], "--verify compares a fold of its own"),
        (["--serve-gateway", "70000"], "write a port"),
    ],
)
def test_what_it_does_not_do_is_refused(options: list[str], why: str, tmp_path: Path) -> None:
    args = command("replay", "--date", "today", "--serve-gateway", *options)
    ran = subprocess.run(args, env=environ(tmp_path), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, why in " ".join(ran.stderr.split())) == (2, True), ran.stderr


def test_an_environment_that_needs_keys_is_refused(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    closed = settings.environment.gateway.model_copy(update={"require_key": True})
    closed_settings = replace(settings, environment=settings.environment.model_copy(update={"gateway": closed}))
    with pytest.raises(CallerError, match="served without keys"):
        PastDay(closed_settings, CLOCK, Chosen(DAY, Max(CLOCK)), 0)


def test_who_names_a_market_of_later_in_the_day_waits_for_it(tmp_path: Path) -> None:
    """Live it would have been known when that client subscribed."""

    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                entries = days({DAY: 600})
                late = [msgspec.structs.replace(e, symbol=e.symbol and f"LATE-{e.symbol}") for e in entries[300:]]
                history = await kept(journal, server, tmp_path, [*entries[:300], *late])
                client = Checked()
                async with past_day(server, tmp_path, Max(CLOCK)) as served, client_of(port_of(served)) as ws:
                    await send(ws, op="subscribe", channels=["book", "trade"], symbols=["LATE-KXA-1"])
                    acked = await next_of(ws, "subscribed")
                    assert ([u["name"] for u in acked["unknown"]], acked.get("symbols", 0)) == (["LATE-KXA-1"], 0)
                    await follow(ws, client, served)
                client.check(history)
                assert {symbol for symbol, *_ in client.had} == {"LATE-KXA-1"}
                assert [at for at, *_ in client.trades["LATE-KXA-1"]] == history.trades["LATE-KXA-1"]

    asyncio.run(main())
