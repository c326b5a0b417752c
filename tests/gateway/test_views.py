"""Names of markets: series and categories of the security master, as soon as it has them; what stands before the dash until then."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from journal.clock import WallClock
from journal.entry import Entry, Event, Record
from journal.market import Change, Market
from journal.memory import MemoryJournal, MemoryStorage
from ssmd.gateway.buffer import Policy
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.rates import Seats
from ssmd.gateway.replays import Archives
from ssmd.gateway.session import Sessions
from ssmd.gateway.views import Views
from ssmd.secmaster.view import View
from tests.gateway.rig import Market as Moving
from tests.gateway.rig import client_of, gateway_of, journal_of, messages, next_of, send, until, write
from tests.journal.servers import nats_server


def known(number: int, symbol: str, series: str, category: str) -> Record:
    market = Market(symbol=symbol, series=series, category=category, status="active", price_exponent=-6, size_exponent=-2)
    change = Change(change="market_added", symbol=symbol, source="rest", at_ns=number, market=market)
    return Record(number, Entry(Event("changes", change.encode()), "secmaster", symbol, bytes(16), number, number, 0, number, 20261122))


def test_kinds_of_symbols(tmp_path: Path) -> None:
    markets = View(tmp_path / "m.sqlite")
    views = Views("local", "kalshi", ["0"], WallClock(), markets=markets)
    assert views.kinds("KXA-1") == ("KXA", "")
    assert views.strange(["KXA-1"]) == {"KXA-1"}
    markets.fold([known(1, "KXA-1", "THE-SERIES", "crypto")])
    assert not views.strange(["KXA-1"])
    assert views.near("KXA-2") == ["KXA-1"]
    assert [views.group_of(name) for name in ("THE-SERIES", "crypto", "KXA", "KXA-1", "NO")] == ["series", "category", "series", None, None]

    async def named() -> None:
        async def refresh() -> None:
            return None

        views = Views("local", "kalshi", ["0"], WallClock(), markets=markets, refresh=refresh)
        naming = asyncio.create_task(views._name_markets(markets, refresh))
        await asyncio.sleep(0.05)
        assert views.kinds("KXA-1") == ("THE-SERIES", "crypto")
        naming.cancel()

    asyncio.run(named())
    markets.close()


def test_symbols_of_a_group_are_known_as_they_come_and_go(tmp_path: Path) -> None:
    markets = View(tmp_path / "m.sqlite")
    views = Views("local", "kalshi", ["0", "b"], WallClock(), markets=markets)
    views.shards[0]._listed |= {"KXA-1", "KXA-2", "KXB-1"}
    assert sorted(views.members("series", "KXA")) == ["KXA-1", "KXA-2"]
    assert views.symbols() is views.symbols()
    views.shards[1]._listed |= {"KXA-3"}
    assert views.symbols() == ["KXA-1", "KXA-2", "KXA-3", "KXB-1"]
    assert sorted(views.members("series", "KXA")) == ["KXA-1", "KXA-2", "KXA-3"]
    markets.fold([known(1, "KXA-1", "THE-SERIES", "crypto")])
    views._learn(["KXA-1"])
    assert [sorted(views.members(*of)) for of in (("series", "KXA"), ("series", "THE-SERIES"), ("category", "crypto"))] == [
        ["KXA-2", "KXA-3"],
        ["KXA-1"],
        ["KXA-1"],
    ]
    for symbol in ("KXB-1", "KXB-1", "NO"):
        views._kinds.drop(symbol)
    assert not views.members("series", "KXB")
    assert "KXB" not in views._kinds.names("series")
    markets.close()


class Mute:
    """A connection whose client takes nothing."""

    paused, deflates = True, False

    def write(self, frame: bytes) -> None:
        raise AssertionError(frame)

    def close(self, code: int, reason: str) -> None:
        """Nothing to close."""


def test_what_a_client_made_us_look_at_is_counted_on_when_it_connects_anew() -> None:
    """Twenty clients that came again and again with nine series each held everybody up for 10 s."""

    async def run() -> None:
        clock = WallClock()
        views = Views("local", "kalshi", ["0"], clock)
        views.shards[0]._listed |= {f"KX{n % 10}-{n}" for n in range(20_000)}
        hub, seats = Hub(views, clock), Seats()
        sessions = Sessions(hub, views, Archives(MemoryJournal(), MemoryStorage()), clock, feed="kalshi")

        def ask(request: bytes) -> str:
            client = Client(hub, Mute(), "c", who="k", peer="", policy=Policy.drop_oldest, now_ns=0, seat=seats.take("k"))
            sessions.receive(client, request)
            said = b"".join(client.buffer.take(1, lambda _: None)).decode()
            seats.free(client.seat)
            return said

        wide = b'{"op":"subscribe","channels":["book","bbo"],"symbols":["*"]}'
        narrow = b'{"op":"subscribe","channels":["book","bbo"],"series":["KX1"]}'
        answers = [ask(wide) for _ in range(8)]
        assert all('"subscribed"' in answer for answer in answers[:4])
        assert "ask again in" in answers[-1]
        taken = seats.take("k")
        assert '"subscribed"' in ask(narrow), "another connection beside it has its own count, and a series is no look at all markets"
        seats.free(taken)

    asyncio.run(run())


def test_subscriptions_by_series_and_category_and_markets_that_appear_later(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                market = Moving(random.Random(8), 2)
                market.symbols[0] = "KXA-EVENT-1"
                await write(journal, market, 100)
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port) as ws:
                    assert [gateway.views.group_of(name) for name in ("KXA", "KXA-EVENT")] == ["series", None]
                    await send(ws, op="subscribe", channels=["book"], series=["KXA"])
                    assert (await next_of(ws, "book"))["symbol"] == "KXA-1"
                    gateway.views._kinds.put("KXNEW-7", "KXNEW", "weather")
                    await send(ws, op="subscribe", channels=["book"], category="weather")
                    await until(lambda: len(gateway.hub.clients["c1"].subscriptions) == 2, "subscribed")
                    market.symbols = ["KXA-9", "KXNEW-7", "KXB-5"]
                    await write(journal, market, 60)
                    seen: set[str] = set()
                    while seen < {"KXA-9", "KXNEW-7"}:
                        seen |= {m["symbol"] for m in await messages(ws) if m["type"] == "book" and m["kind"] == "snapshot"}
                    assert "KXB-5" not in seen

    asyncio.run(run())
