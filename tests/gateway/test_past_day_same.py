"""The same client code, at a live gateway and at a past day: the same messages in the same order, at any speed; and nothing too early."""

from __future__ import annotations

import asyncio
import random
import re
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from journal.clock import Clock, WallClock
from journal.entry import Entry
from replay.pace import Max, Pace, Step, Stride, Times
from ssmd.past_day import Chosen, PastDay
from ssmd.services.projector import Projector
from ssmd.wiring import open_objects
from tests.gateway.follower import sequence
from tests.gateway.rig import STREAM, Market, client_of, gateway_of, journal_of, messages, next_of, send, settings_of, until
from tests.gateway.test_documented_client import DOCS
from tests.journal.servers import nats_server

CLOCK: Clock = WallClock()
BEFORE, DAY = 20260809, 20260810
NOON_NS = (1_786_320_000 + 43_200) * 10**9  # of DAY
GAP_NS = 5_000_000
OPENED, LAST = 400, 1_200
CHANNELS = ["book", "bbo", "trade", "ticker", "market", "gap"]


def entries() -> list[Entry]:
    """Of two days; those of the second take four seconds."""
    found = []
    for at, entry in enumerate(Market(random.Random(11), 6).run(LAST), 1):
        now_ns = NOON_NS + (at - OPENED - 1) * GAP_NS - (86_400 * 10**9 if at <= OPENED else 0)
        day = BEFORE if at <= OPENED else DAY
        found.append(msgspec.structs.replace(entry, day=day, recv_ns=now_ns, effective_ns=now_ns, venue_ns=now_ns - 10**6))
    return found


def documented() -> dict[str, Any]:
    """What the client of the documentation is made of."""
    code = next(c for c in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "def take" in c)
    names: dict[str, Any] = {}
    exec(code.replace("asyncio.run(main())", ""), names)  # noqa: S102  (our own page)
    return names


async def run_client(port: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that it is told up to the last entry, and its books. It asks for a snapshot where it would have to."""
    names, told = documented(), list[dict[str, Any]]()
    async with client_of(port) as ws:
        await send(ws, op="subscribe", channels=CHANNELS, symbols=["*"])
        while True:
            for message in await messages(ws):
                assert names["take"](message) is None, message
                if message["type"] == "heartbeat" and f"{STREAM.name}:{LAST}" in str(message):
                    return told, names["books"]
                if message["type"] not in {"heartbeat", "subscribed", "welcome"}:
                    told.append(message)


@pytest.mark.parametrize("pace", [Times(CLOCK, 1), Times(CLOCK, 60), Max(CLOCK)], ids=str)
def test_one_client_is_told_the_same_live_and_of_the_past(pace: Pace, tmp_path: Path) -> None:
    async def main() -> None:
        found = entries()
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await journal.append(STREAM, found[:OPENED])
                async with gateway_of(server, tmp_path) as gateway:
                    client = asyncio.create_task(run_client(gateway.port))
                    await until(lambda: client.done() or any(c.subscriptions for c in gateway.hub.clients.values()), "it has subscribed")
                    for at in range(OPENED, LAST, 7):
                        await journal.append(STREAM, found[at : at + 7])
                    live, live_books = await client
                await Projector(journal, open_objects(settings_of(server, tmp_path)), STREAM, CLOCK).catch_up()
                served = PastDay(settings_of(server, tmp_path), CLOCK, Chosen(DAY, pace), 0)
                running = asyncio.create_task(served.run())
                await until(lambda: running.done() or "begins when" in served.status, "the day is open")
                assert served.gateway is not None
                started_ns = CLOCK.mono_ns()
                past, past_books = await run_client(served.gateway.port)
                took_s = (CLOCK.mono_ns() - started_ns) / 1e9
                served.stop()
                await asyncio.wait_for(running, 60)
        assert len(live) > LAST - OPENED
        assert {m["type"] for m in live} >= {"book", "bbo", "trade", "ticker", "gap", "stale"}
        # What came before is known to a gateway that was there then: only the first of a channel may lack it.
        unknown = [m for m in past if "prev_position" not in m and m.get("kind") != "snapshot" and m["type"] != "stale"]
        for at, message in enumerate(past):
            if "prev_position" not in message and at < len(live):
                live[at].pop("prev_position", None)
        assert len({(m["type"], m.get("symbol")) for m in unknown}) == len(unknown), unknown
        for ours, theirs in zip(past, live, strict=True):
            if ours["type"] in {"bbo", "market"} and ours["kind"] == "snapshot" and sequence(ours["position"]) <= OPENED:
                # A gateway that began from a checkpoint does not know when they changed last, but no later than this.
                assert sequence(theirs.pop("position")) <= sequence(ours.pop("position"))
            assert ours == theirs
        assert past_books == live_books
        assert took_s > (LAST - OPENED) * GAP_NS / 1e9 or str(pace) != "1"

    asyncio.run(main())


LATER = ("", f"?as_of={STREAM.name}:{{at}}", "?as_of={now}", "?as_of=0s", "?as_of=now")
PATHS = (
    "markets", "markets/KXA-1", "markets/KXA-1/book", "markets/KXA-1/trades", "markets/KXA-1/candles?interval=1m&since={day}",
    "markets/KXA-1/trades?since={day}", "markets/KXA-1/trades?since={day}&until={now}", "events", "days", "days/today", "coverage",
    "coverage?date=2026-08-10", "streams",
)  # fmt: skip
BEHIND = (
    "markets/KXA-1/book?as_of={later}", "markets/KXA-1/trades?as_of={later}", "markets/KXA-1/candles?interval=1s&as_of={later}",
    "markets?as_of={later}", "events?as_of={later}", "days?as_of={later}", "coverage?as_of={later}", "streams?as_of={later}",
    "markets/KXA-1/book?as_of=local_md_0:801", "markets/KXA-1/trades?as_of=local_md_0:1200", "coverage?as_of=local_md_0:1200",
    "days/2026-08-11",
)  # fmt: skip
EMPTY = ("markets/KXA-1/trades?since={later}", "markets/KXA-1/candles?interval=1s&since={later}")


async def get(port: int, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", f"/v1/{quote(path, safe='/?=&:%')}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


def test_nothing_is_told_of_what_has_not_happened_yet(tmp_path: Path) -> None:
    """Half of the day is released; every number and time in every answer is of that half, and what lies behind it is refused or empty."""
    at = 800
    now_ns = NOON_NS + (at - OPENED - 1) * GAP_NS

    async def main() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                for part in (entries()[:OPENED], entries()[OPENED:]):
                    await journal.append(STREAM, part)
                await Projector(journal, open_objects(settings_of(server, tmp_path)), STREAM, CLOCK).catch_up()
                typed: asyncio.Queue[Stride] = asyncio.Queue()
                typed.put_nowait(Stride(at - OPENED))
                served = PastDay(settings_of(server, tmp_path), CLOCK, Chosen(DAY, Step(typed.get), clients=0), 0)
                running = asyncio.create_task(served.run())
                await until(lambda: running.done() or f"is at {STREAM.name}:{at}," in served.status, "half of it is released")
                assert served.gateway is not None
                port = served.gateway.port
                names = {"at": at, "now": now_ns, "later": now_ns + 1, "day": NOON_NS - 3_600 * 10**9}
                asked = [path + later for path in PATHS for later in (LATER if "?" not in path else [""])]
                seen = 0
                for path in (text.format(**names) for text in asked):
                    status, text = await get(port, path)
                    assert status == 200, (path, text)
                    for position in re.findall(rf"{STREAM.name}:(\d+)", text):
                        assert int(position) <= at, (path, text)
                        seen += 1
                    for ns in re.findall(r"\b1786\d{15}\b", text):
                        if "days" not in path and "candles" not in path:  # which say when something ends
                            assert int(ns) <= now_ns, (path, text)
                    times = re.findall(r"\"(?!opens_time|over_time)[a-z_]*time\": ?\"([^\"]+)\"", text)
                    limit = "2026-08-10T12:00:01.995"
                    times = [] if "candles" in path else times
                    assert all(time <= limit + "Z" or time.startswith(limit) for time in times), (path, times)
                assert seen > 20
                for path in (text.format(**names) for text in BEHIND):
                    status, text = await get(port, path)
                    if status == 200:  # of a moment that a client's clock may be ahead: of now
                        assert "later" not in path, path
                        assert all(int(p) <= at for p in re.findall(rf"{STREAM.name}:(\d+)", text)), (path, text)
                        assert all(int(ns) <= now_ns for ns in re.findall(r"as_of_ns\": ?(\d+)", text)), (path, text)
                    else:
                        assert status in {400, 404}, (path, status, text)
                for path in (text.format(**names) for text in EMPTY):
                    status, text = await get(port, path)
                    assert status in {200, 400}, (path, text)
                    assert not re.findall(rf"{STREAM.name}:(\d+)", text), (path, text)
                far = now_ns + 60 * 10**9
                for path in ("markets/KXA-1/book", "markets/KXA-1/trades", "coverage", "days", "events", "streams"):
                    status, text = await get(port, f"{path}?as_of={far}")
                    assert (status, "still to come" in text) == (400, True), (path, text)
                async with client_of(port) as ws:
                    await send(ws, op="subscribe", channels=CHANNELS, symbols=["*"], resume=f"{STREAM.name}:{at + 100}")
                    assert (await next_of(ws, "subscribed"))["resumed"] is False
                    assert all(sequence(m["position"]) <= at for m in await messages(ws) if "position" in m)
                served.stop()
                await asyncio.wait_for(running, 60)

    asyncio.run(main())
