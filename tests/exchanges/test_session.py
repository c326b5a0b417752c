from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from exchanges.backoff import Backoff
from exchanges.session import Connection, Received, Session, SessionConfig, refusal
from exchanges.venues import VENUES, load, venue
from journal.clock import WallClock
from journal.errors import NotFound, VenueRefused, VenueUnavailable

CLOCK = WallClock()
NOW_S = 1_787_838_990
URL = "wss://venue/ws"


def session(port: int, **options: object) -> Session:
    config = SessionConfig(f"ws://127.0.0.1:{port}/ws", close_timeout_s=0.5, **options)  # type: ignore[arg-type]
    return Session(config, CLOCK, random.Random(1), lambda wall_ns: {"X-Signed-At": str(wall_ns)})


def against(
    handler: Callable[[ServerConnection], Awaitable[None]],
    test: Callable[[int], Awaitable[None]],
    process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
    compression: str | None = None,
) -> None:
    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, process_request=process_request, compression=compression, close_timeout=0.5) as server:
            await test(next(iter(server.sockets)).getsockname()[1])

    asyncio.run(main())


async def drain(connection: Connection, count: int) -> list[Received]:
    received: list[Received] = []
    while len(received) < count:
        received += await connection.receive()
    return received


def test_messages_arrive_in_order_with_the_time_of_the_read() -> None:
    async def handler(ws: ServerConnection) -> None:
        for n in range(1_000):
            await ws.send(f"message {n}")
        await ws.wait_closed()

    async def test(port: int) -> None:
        before = CLOCK.wall_ns()
        connection = await session(port).connect()
        received = await drain(connection, 1_000)
        after = CLOCK.wall_ns()
        assert [data for data, _, _ in received] == [b"message %d" % n for n in range(1_000)]
        times = [wall for _, wall, _ in received]
        assert times == sorted(times)
        assert before <= times[0] <= times[-1] <= after
        assert [mono for _, _, mono in received] == sorted(mono for _, _, mono in received)
        await connection.close()

    against(handler, test)


def test_the_time_is_that_of_the_read_not_of_the_taking() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.send("early")
        await ws.wait_closed()

    async def test(port: int) -> None:
        connection = await session(port).connect()
        while not connection.waiting_bytes:
            await CLOCK.sleep(0.001)
        seen = CLOCK.wall_ns()
        await asyncio.sleep(0.05)
        ((_, wall, _),) = await connection.receive()
        assert wall <= seen
        await connection.close()

    against(handler, test)


def test_commands_go_out_as_text_and_headers_are_fresh() -> None:
    heard: list[object] = []

    async def handler(ws: ServerConnection) -> None:
        assert ws.request
        heard.append(int(ws.request.headers["X-Signed-At"]))
        async for message in ws:
            heard.append(message)
            await ws.send("done")

    async def test(port: int) -> None:
        for _ in range(2):
            connection = await session(port).connect()
            await connection.send(b'{"id":1}')
            await connection.receive()
            await connection.close()
        assert heard[1] == heard[3] == '{"id":1}'
        assert isinstance(heard[0], int)
        assert isinstance(heard[2], int)
        assert heard[0] < heard[2]

    against(handler, test)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_fragments_binary_and_large_messages(compression: str | None) -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.send(["a", "b", "", "c"])
        await ws.send(b"\x00\xff")
        await ws.send("x" * 3_000_000)
        await ws.wait_closed()

    async def test(port: int) -> None:
        connection = await session(port, compression=True).connect()
        received = [data for data, _, _ in await drain(connection, 3)]
        assert received == [b"abc", b"\x00\xff", b"x" * 3_000_000]
        await connection.close()

    against(handler, test, compression=compression)


def test_what_was_sent_before_the_end_is_received_before_the_end_is_told() -> None:
    async def handler(ws: ServerConnection) -> None:
        for n in range(50):
            await ws.send(str(n))
        await ws.close(1011, "maintenance")

    async def test(port: int) -> None:
        connection = await session(port).connect()
        await asyncio.sleep(0.1)
        assert len(await drain(connection, 50)) == 50
        with pytest.raises(VenueUnavailable, match=r"1011.*maintenance"):
            await connection.receive()
        with pytest.raises(VenueUnavailable, match="connection lost"):
            await connection.send(b"x")
        await connection.close()

    against(handler, test)


def test_a_cut_connection_is_told() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.send("last")
        await asyncio.sleep(0.05)
        ws.transport.abort()

    async def test(port: int) -> None:
        connection = await session(port).connect()
        assert len(await drain(connection, 1)) == 1
        with pytest.raises(VenueUnavailable, match="connection lost"):
            await connection.receive()

    against(handler, test)


def test_a_message_above_the_limit_ends_the_connection() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.send("x" * 2_000)
        await ws.wait_closed()

    async def test(port: int) -> None:
        connection = await session(port, max_message_bytes=1_000).connect()
        with pytest.raises(VenueUnavailable, match="1009"):
            await connection.receive()

    against(handler, test)


def test_a_reader_that_does_not_take_stops_the_socket() -> None:
    sent = 0

    async def handler(ws: ServerConnection) -> None:
        nonlocal sent
        for _ in range(2_000):
            await ws.send("x" * 10_000)
            sent += 1
        await ws.wait_closed()

    async def test(port: int) -> None:
        connection = await session(port, max_queue_bytes=100_000).connect()
        await asyncio.sleep(0.3)
        stalled = sent
        assert stalled < 2_000
        # one read of at most 256 KiB above the bound
        assert connection.waiting_bytes < 100_000 + 300_000
        assert len(await drain(connection, 2_000)) == 2_000
        await connection.close()

    against(handler, test)


@pytest.mark.parametrize(
    ("status", "date", "kind", "says"),
    [
        (401, NOW_S, VenueRefused, "the key is likely wrong .the clock agrees."),
        (401, None, VenueRefused, "no date to compare"),
        (403, NOW_S + 37, VenueRefused, "clock is 37 s behind the venue's"),
        (401, NOW_S - 90, VenueRefused, "clock is 90 s ahead of the venue's"),
        (404, NOW_S, VenueRefused, "the path is likely wrong"),
        (301, NOW_S, VenueRefused, "the path is likely wrong"),
        (429, NOW_S, VenueUnavailable, "HTTP 429"),
        (503, NOW_S, VenueUnavailable, "HTTP 503"),
    ],
)
def test_what_a_refused_upgrade_means(status: int, date: int | None, kind: type[Exception], says: str) -> None:
    headers = {"date": formatdate(date, usegmt=True)} if date else {"Date": "nonsense"}
    with pytest.raises(kind, match=says):
        raise refusal(URL, status, headers, NOW_S * 10**9)


@pytest.mark.parametrize(("status", "kind"), [(401, VenueRefused), (404, VenueRefused), (302, VenueRefused), (502, VenueUnavailable)])
def test_an_upgrade_refused_by_a_server(status: int, kind: type[Exception]) -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.wait_closed()

    def refuse(_: ServerConnection, __: Request) -> Response:
        return Response(status, "No", Headers({"Location": "ws://127.0.0.1:1/elsewhere"}))

    async def test(port: int) -> None:
        with pytest.raises(kind, match=f"HTTP {status}"):
            await session(port).connect()

    against(handler, test, refuse)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(VenueUnavailable, match="cannot connect to"):
            asyncio.run(session(port).connect())


def test_a_server_that_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(VenueUnavailable, match="timed out"):
            asyncio.run(session(silent.getsockname()[1], open_timeout_s=0.1).connect())


def test_a_url_that_is_none() -> None:
    with pytest.raises(VenueRefused, match="URL"):
        asyncio.run(Session(SessionConfig("https://venue"), CLOCK, random.Random(1)).connect())


@pytest.mark.parametrize("url", ["ws://me:hidden@127.0.0.1:9/ws?token=hidden", "ftp://me:hidden@venue/?hidden", "ws://hidden@a:b/ws"])
def test_what_is_said_of_a_url_holds_no_secret(url: str) -> None:
    with pytest.raises((VenueRefused, VenueUnavailable)) as refused:
        asyncio.run(Session(SessionConfig(url), CLOCK, random.Random(1)).connect())
    assert "hidden" not in str(refused.value)


def test_backoff_doubles_to_its_most_with_jitter_and_starts_over() -> None:
    backoff = Backoff(random.Random(3), 0.5, 4.0)
    for step in (0.5, 1, 2, 4, 4):
        assert step / 2 <= backoff.next_s() <= step
    backoff.reset()
    assert backoff.next_s() <= 0.5


def test_every_part_of_every_venue_loads() -> None:
    for parts in VENUES.values():
        for target in (parts.adapter, parts.rest, parts.signer):
            assert callable(load(target))
        assert parts.websocket_url.startswith("wss://")
        assert parts.rest_url.startswith("https://")
    with pytest.raises(NotFound, match="nearest: kalshi"):
        venue("kalsi")
