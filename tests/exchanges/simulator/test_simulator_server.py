"""The simulated venue over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from exchanges.kalshi.signing import KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, PrivateKey, Signer
from exchanges.session import Session, SessionConfig
from exchanges.simulator import server as server_module
from exchanges.simulator.authority import Authority
from exchanges.simulator.faults import Fate, Fault, ScriptedFaults
from exchanges.simulator.oracle import Oracle, read_log
from exchanges.simulator.rest import PREFIX
from exchanges.simulator.server import WS_PATH, SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.clock import WallClock
from journal.errors import VenueRefused
from tests.gold import Books

KEY_ID = "11111111-2222-3333-4444-555555555555"


def play(scene: Callable[[SimulatorServer], Awaitable[None]], feed: SyntheticFeed | None = None, **options: Any) -> None:
    async def main() -> None:
        async with SimulatorServer(feed or SyntheticFeed(1, frames=500), WallClock(), **{"speed": None, "hold": True} | options) as sim:
            await scene(sim)

    asyncio.run(main())


async def get(sim: SimulatorServer, path: str, **headers: str) -> tuple[int, Any]:
    """`path` below the REST prefix, or ``/sim/…``. In a thread: the server shares this loop."""

    def fetch() -> tuple[int, Any]:
        base = sim.rest_url.removesuffix(PREFIX) if path.startswith("/sim/") else sim.rest_url
        request = urllib.request.Request(f"{base}{path}", headers=headers)  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own server
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(fetch)


async def subscribe(ws: ClientConnection, sim: SimulatorServer, *channels: str) -> None:
    tickers = list(sim.venue.catalogue.markets)
    await ws.send(json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": channels, "market_tickers": tickers}}))


async def drain(ws: ClientConnection, idle_s: float = 0.5) -> list[dict[str, Any]]:
    """Everything until it has been silent for `idle_s`, or closed."""
    frames: list[dict[str, Any]] = []
    try:
        while True:
            frames.append(json.loads(await asyncio.wait_for(ws.recv(), idle_s)))
    except (TimeoutError, ConnectionClosed):
        return frames


def test_a_plain_client_gets_what_the_oracle_says_was_sent(tmp_path: Path) -> None:
    log = tmp_path / "sent.jsonl"

    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url) as ws:
            await subscribe(ws, sim, "orderbook_delta", "trade", "ticker", "market_lifecycle_v2")
            frames = await drain(ws)
        await sim.finished()
        assert len(frames) > 500
        assert frames == [json.loads(sent.data) for sent in sim.oracle.sent()]
        sim.oracle.flush()
        assert [sent.data for sent in read_log(log)] == [sent.data for sent in sim.oracle.sent()]
        books = Books()
        seqs: dict[int, int] = {}
        for frame in frames:
            if "seq" in frame:
                seqs[frame["sid"]] = seqs.get(frame["sid"], 0) + 1
                assert frame["seq"] == seqs[frame["sid"]]
            if frame["type"].startswith("orderbook"):
                books.apply(frame)
        truth = sim.oracle.books()
        assert len(books.ladders) == 20
        for ticker, ladders in books.ladders.items():
            yes, no = truth[ticker]
            assert {int(p * 1_000_000): int(c * 100) for p, c in ladders["yes"].items()} == yes
            assert {int(p * 1_000_000): int(c * 100) for p, c in ladders["no"].items()} == no

    play(scene, oracle=Oracle(path=log, keep_bytes=10_000_000))


def test_a_client_that_comes_late_gets_a_snapshot_of_the_true_book() -> None:
    async def scene(sim: SimulatorServer) -> None:
        sim.release()
        await sim.finished()
        async with connect(sim.ws_url) as ws:
            await subscribe(ws, sim, "orderbook_delta")
            frames = await drain(ws)
        books = Books()
        for frame in frames[1:]:
            books.apply(frame)
        truth = sim.oracle.books()
        assert any(yes or no for yes, no in truth.values())
        assert {t: len(side["yes"]) + len(side["no"]) for t, side in books.ladders.items()} == {
            t: len(yes) + len(no) for t, (yes, no) in truth.items()
        }

    play(scene)


def test_a_held_feed_waits_for_all_subscriptions_of_a_client() -> None:
    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url, max_queue=None) as ws:
            await asyncio.sleep(0.1)
            assert not sim.venue.happened
            for channel in ("orderbook_delta", "trade", "ticker"):
                await subscribe(ws, sim, channel)
                await asyncio.sleep(0.05)
            frames = await drain(ws, 0.6)
        first = next(index for index, frame in enumerate(frames) if frame["type"] in {"orderbook_delta", "trade", "ticker"})
        assert [frame["type"] for frame in frames[:first]].count("subscribed") == 3

    play(scene)


def test_the_feed_does_not_wait_for_absent_clients() -> None:
    async def scene(sim: SimulatorServer) -> None:
        await sim.finished()
        assert sim.status()["finished"] is True
        assert sum(sim.venue.happened.values()) >= 500 - 1  # a listing without a message is no frame

    play(scene, hold=False)


def test_pings_are_the_venues_own_and_do_not_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PING_S", 0.05)
    pings: list[bytes] = []

    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url) as ws:
            received = ws.protocol.recv_frame

            def watch(frame: Any) -> None:
                if frame.opcode is Opcode.PING:
                    pings.append(bytes(frame.data))
                received(frame)

            ws.protocol.recv_frame = watch  # type: ignore[method-assign]
            await asyncio.sleep(0.3)
            await (await ws.ping())  # the connection is sound, and the client's pings are answered

    play(scene, speed=1000.0)
    assert 3 <= len(pings) <= 6
    assert set(pings) == {b"heartbeat"}


def headers(signer: Signer, *, age_ms: int = 0) -> dict[str, str]:
    return signer.headers("GET", WS_PATH, WallClock().wall_ns() - age_ms * 1_000_000)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_signatures_are_checked(kind: str) -> None:
    key: PrivateKey = rsa.generate_private_key(65_537, 2048) if kind == "rsa" else Ed25519PrivateKey.generate()
    signer = Signer(KEY_ID, key)
    other = Signer(KEY_ID, Ed25519PrivateKey.generate())
    stranger = Signer("99999999-2222-3333-4444-555555555555", key)

    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url, additional_headers=headers(signer)) as ws:
            await subscribe(ws, sim, "orderbook_delta")
            assert (await drain(ws))[0]["type"] == "subscribed"
        bad = headers(signer)
        bad[SIGNATURE_HEADER] = "%%%"
        unsigned = {name: value for name, value in headers(signer).items() if name != SIGNATURE_HEADER}
        garbled = headers(signer) | {TIMESTAMP_HEADER: "soon"}
        wrong_path = signer.headers("GET", "/", WallClock().wall_ns())
        for wrong in ({}, headers(other), headers(stranger), bad, unsigned, garbled, wrong_path, headers(signer, age_ms=60_000)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(sim.ws_url, additional_headers=wrong)
            assert refused.value.response.status_code == 401
            assert b"authentication_error" in (refused.value.response.body or b"")
        assert (await get(sim, "/exchange/status"))[0] == 200  # public
        assert (await get(sim, "/exchange/status", **headers(signer)))[0] == 401  # signed for another path

    play(scene, authority=Authority({KEY_ID: key.public_key()}, WallClock()))


class _Off(WallClock):
    """A machine whose clock is off."""

    def __init__(self, seconds: int) -> None:
        self._off_ns = seconds * 1_000_000_000

    def wall_ns(self) -> int:
        return super().wall_ns() + self._off_ns


@pytest.mark.parametrize(
    ("off_s", "key", "says"),
    [
        (-60, True, r"clock is (59|60|61) s behind the venue's; set the clock"),
        (3_600, True, r"clock is (3599|3600|3601) s ahead of the venue's"),
        (0, False, "it wants a key and none was given"),
    ],
)
def test_a_client_is_told_why_it_is_refused(off_s: int, key: bool, says: str) -> None:
    signer = Signer(KEY_ID, Ed25519PrivateKey.generate())
    clock = _Off(off_s)

    async def scene(sim: SimulatorServer) -> None:
        signed = (lambda now_ns: signer.headers("GET", WS_PATH, now_ns)) if key else (lambda _: {})
        with pytest.raises(VenueRefused, match=says):
            await Session(SessionConfig(sim.ws_url), clock, random.Random(1), signed).connect()

    play(scene, authority=Authority({KEY_ID: signer.public_key}, WallClock()))


@pytest.mark.parametrize("salt", [20, 31, padding.PSS.MAX_LENGTH])
def test_a_wrong_salt_length_is_refused(salt: int) -> None:
    key = rsa.generate_private_key(65_537, 2048)
    authority = Authority({KEY_ID: key.public_key()}, WallClock())
    sent = headers(Signer(KEY_ID, key))
    assert authority.objection("GET", WS_PATH, sent) == ""
    import base64

    text = f"{sent[TIMESTAMP_HEADER]}GET{WS_PATH}".encode()
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt)
    sent[SIGNATURE_HEADER] = base64.b64encode(key.sign(text, pss, hashes.SHA256())).decode()
    assert authority.objection("GET", WS_PATH, sent) == "incorrect signature"
    assert authority.objection("GET", WS_PATH, {KEY_HEADER: "?"}) == "unknown access key"


def test_rest_pages_without_gaps_or_repeats() -> None:
    async def scene(sim: SimulatorServer) -> None:
        sim.release()
        await sim.finished()
        for path, key, name in (
            ("/markets", "ticker", "markets"),
            ("/events", "event_ticker", "events"),
            ("/markets/trades", "trade_id", "trades"),
        ):
            seen: list[str] = []
            cursor = ""
            for _ in range(200):
                status, page = await get(sim, f"{path}?limit=3&cursor={cursor}")
                assert status == 200
                seen += [row[key] for row in page[name]]
                cursor = page["cursor"]
                if not cursor:
                    break
            status, whole = await get(sim, f"{path}?limit={200 if name == 'events' else 1000}")
            assert seen == [row[key] for row in whole[name]]
            assert len(set(seen)) == len(seen) > 3 or name == "events"

    play(scene, SyntheticFeed(3, frames=600))


def test_rest_selects() -> None:
    async def scene(sim: SimulatorServer) -> None:
        sim.release()
        await sim.finished()

        async def tickers(query: str) -> list[str]:
            return [market["ticker"] for market in (await get(sim, f"/markets?limit=1000&{query}"))[1]["markets"]]

        every = await tickers("")
        by_status = {name: await tickers(f"status={name}") for name in ("unopened", "open", "paused", "closed", "settled")}
        assert sorted(chain.from_iterable(by_status.values())) == every
        assert by_status["open"]
        assert by_status["settled"]
        (_, answer) = await get(sim, f"/markets/{by_status['open'][0]}")
        assert answer["market"]["status"] == "active"
        (_, answer) = await get(sim, f"/markets/{by_status['settled'][0]}")
        assert answer["market"]["status"] == "finalized"
        assert answer["market"]["result"] in {"yes", "no"}
        gold = await tickers("series_ticker=KXSIMGOLDH")
        assert gold
        assert all(ticker.startswith("KXSIMGOLDH-") and "." in ticker for ticker in gold)
        assert await tickers(f"tickers={every[0]},{every[2]},NOPE") == [every[0], every[2]]
        assert await tickers(f"event_ticker={every[0].rpartition('-')[0]}")
        assert await tickers("max_close_ts=1") == []
        _, answer = await get(sim, f"/events/{gold[0].rpartition('-')[0]}?with_nested_markets=true")
        assert {market["ticker"] for market in answer["event"]["markets"]} <= set(gold)
        _, answer = await get(sim, "/series")
        assert [series["ticker"] for series in answer["series"]] == ["KXSIMBTC15M", "KXSIMETH5M", "KXSIMGOLDH"]
        _, answer = await get(sim, "/series/KXSIMBTC15M")
        assert answer["series"]["ticker"] == "KXSIMBTC15M"
        _, answer = await get(sim, "/markets/trades?limit=1000&min_ts=1")
        times = [datetime.fromisoformat(trade["created_time"]) for trade in answer["trades"]]
        assert times == sorted(times, reverse=True)
        one = answer["trades"][0]["ticker"]
        _, answer = await get(sim, f"/markets/trades?ticker={one}")
        assert {trade["ticker"] for trade in answer["trades"]} == {one}
        _, answer = await get(sim, "/exchange/schedule")
        assert answer["schedule"]["standard_hours"][0]["monday"]

    play(scene, SyntheticFeed(3, rate=20, frames=3000))


def test_rest_books_are_the_true_books_ascending_with_depth() -> None:
    async def scene(sim: SimulatorServer) -> None:
        sim.release()
        await sim.finished()
        ticker, (yes, no) = max(sim.oracle.books().items(), key=lambda item: min(len(item[1][0]), len(item[1][1])))
        _, whole = await get(sim, f"/markets/{ticker}/orderbook")
        assert [round(float(price) * 1_000_000) for price, _ in whole["orderbook_fp"]["yes_dollars"]] == sorted(yes)
        assert [round(float(count) * 100) for _, count in whole["orderbook_fp"]["no_dollars"]] == [no[price] for price in sorted(no)]
        _, top = await get(sim, f"/markets/{ticker}/orderbook?depth=2")
        assert top["orderbook_fp"]["yes_dollars"] == whole["orderbook_fp"]["yes_dollars"][-2:]
        _, several = await get(sim, f"/markets/orderbooks?tickers={ticker}")
        assert several["orderbooks"] == [{"ticker": ticker, "orderbook_fp": whole["orderbook_fp"]}]
        _, market = await get(sim, f"/markets/{ticker}")
        assert market["market"]["yes_bid_dollars"] == whole["orderbook_fp"]["yes_dollars"][-1][0]
        _, truth = await get(sim, "/sim/books")
        assert truth[ticker]["no"] == whole["orderbook_fp"]["no_dollars"]

    play(scene)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/markets/NOPE", 404),
        ("/markets/NOPE/orderbook", 404),
        ("/events/NOPE", 404),
        ("/series/NOPE", 404),
        ("/nowhere", 404),
        ("/markets?limit=1001", 400),
        ("/markets?limit=-1", 400),
        ("/markets?status=active", 400),
        ("/markets?cursor=%21", 400),
        ("/markets/orderbooks", 400),
    ],
)
def test_rest_refuses_in_the_venues_shape(path: str, status: int) -> None:
    async def scene(sim: SimulatorServer) -> None:
        answer = await get(sim, path)
        assert answer[0] == status
        assert set(answer[1]["error"]) == {"code", "message", "details"}

    play(scene)


# A client with `max_queue=1` stops reading its socket when nobody takes the first message.
# 60,000 frames are 15 MB: kernels hold up to 5 of them.


def test_a_client_that_does_not_read_is_cut_off_with_error_25_and_memory_stays_bounded() -> None:
    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url, max_queue=1) as slow, connect(sim.ws_url) as quick:
            await subscribe(slow, sim, "orderbook_delta", "trade")
            await subscribe(quick, sim, "orderbook_delta")
            reader = asyncio.create_task(drain(quick, 3.0))  # of silence, which a busy machine has too
            most = 0
            while not sim.status()["finished"]:
                most = max(most, *(socket.transport.get_write_buffer_size() for socket in sim._sockets.values()))
                await asyncio.sleep(0.005)
            assert sim.overflows == 1
            assert 500_000 < most < 1_000_000 + 256 * 400  # the bound and one burst
            ends = [frame for frame in await drain(slow) if frame["type"] == "error"]
            assert [(frame["sid"], frame["msg"]["code"]) for frame in ends] == [(1, 25), (2, 25)]
            seqs = [frame["seq"] for frame in await reader if "seq" in frame]
            assert seqs == list(range(1, len(seqs) + 1))  # the other client missed nothing
            assert len(seqs) > 22_000

    play(scene, SyntheticFeed(1, rate=5_000, frames=30_000), speed=1.0, buffer_bytes=1_000_000)


def test_at_full_speed_the_feed_waits_for_a_slow_client() -> None:
    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url, max_queue=1) as slow:
            await subscribe(slow, sim, "orderbook_delta", "trade", "ticker", "market_lifecycle_v2")
            before = -1
            while sim.venue.frames != before:
                before = sim.venue.frames
                await asyncio.sleep(0.4)
            assert 0 < before < 20_000
            frames = await drain(slow, 1.0)
            assert len(frames) == sim.venue.frames > 20_000
            assert sim.status()["finished"] is True
            assert sim.overflows == 0

    play(scene, SyntheticFeed(1, rate=2_000, frames=30_000))


def test_clients_that_leave_at_any_moment_do_not_stop_the_feed() -> None:
    async def scene(sim: SimulatorServer) -> None:
        async def visit(number: int) -> None:
            async with connect(sim.ws_url, close_timeout=0.2) as ws:
                await subscribe(ws, sim, "orderbook_delta", "trade")
                for _ in range(30 + number):
                    await ws.recv()
                if number % 3 == 0:
                    ws.transport.abort()

        for _ in range(4):
            await asyncio.gather(*(visit(number) for number in range(10)))
        assert sim.status()["finished"] is False
        assert sim.status()["playing"] is True

    play(scene, SyntheticFeed(1, rate=20_000), speed=1.0, hold=False)


def test_a_client_that_says_goodbye_and_stays_stops_neither_the_feed_nor_the_servers_end() -> None:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    hello = f"GET {WS_PATH} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n"

    def masked(opcode: int, payload: bytes) -> bytes:
        return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload

    async def main() -> None:
        async with SimulatorServer(SyntheticFeed(1, rate=5_000), WallClock()) as sim:
            reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
            writer.write(hello.encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(masked(1, b'{"id":1,"cmd":"subscribe","params":{"channels":["trade","ticker"]}}'))
            await reader.readuntil(b'"type":"ticker"')
            writer.write(masked(8, (1000).to_bytes(2, "big")))
            await asyncio.sleep(0.3)  # the server has closed its half; the socket is still there
            playing = sim.status()["playing"]
        writer.close()
        assert playing is True

    asyncio.run(main())


def test_a_fault_cuts_the_connection_and_the_next_one_starts_anew() -> None:
    faults = ScriptedFaults([Fault(Fate.disconnect, "orderbook_delta", after=60)])

    async def scene(sim: SimulatorServer) -> None:
        async with connect(sim.ws_url) as ws:
            await subscribe(ws, sim, "orderbook_delta")
            assert len(await drain(ws)) <= 60
            with pytest.raises(ConnectionClosed):
                await ws.recv()
        async with connect(sim.ws_url) as ws:
            await subscribe(ws, sim, "orderbook_delta")
            frames = await drain(ws)
            assert [frame["seq"] for frame in frames[1:4]] == [1, 2, 3]

    play(scene, faults=faults)
