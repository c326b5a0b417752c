"""Much of what is cheap to send and dear to answer: counted, cut off or put off, and the others are served meanwhile."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.gateway.served import GOLD, Served, gateway, seeded

CONT, TEXT, PING, PONG = 0, 1, 9, 10


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("floods"))
    with gateway(data, told) as found:
        yield found
        assert found.process.poll() is None
        assert "Traceback" not in found.log


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    mask = 0x80 if masked else 0
    size = bytes([mask | len(data)]) if len(data) < 126 else bytes([mask | 126]) + struct.pack(">H", len(data))
    return bytes([(0x80 if fin else 0) | reserved | opcode]) + size + (bytes(4) if masked else b"") + data


def shaken(served: Served, query: str = "") -> socket.socket:
    """A stream, as bare as can be."""
    stream = socket.create_connection(("127.0.0.1", served.port), 30)
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /v1/stream{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    )
    stream.sendall(f"{head}Sec-WebSocket-Key: {key}\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += stream.recv(1)
    assert b" 101 " in got
    return stream


def rest_of(stream: socket.socket) -> bytes:
    found = b""
    with suppress(ConnectionError):
        while data := stream.recv(1 << 20):
            found += data
    return found


@pytest.mark.parametrize(
    "flood",
    [frame(PING) * 60_000, frame(PONG, b"x") * 60_000, frame(TEXT, fin=False) + frame(CONT, fin=False) * 60_000],
    ids=["pings", "pongs", "empty fragments"],
)
def test_tiny_frames_without_end_are_cut_off(served: Served, flood: bytes) -> None:
    """They were answered for as long as they came: 40,000 pings in one piece held everybody up for 4 s."""
    with closing(shaken(served)) as stream:
        with suppress(ConnectionError):
            stream.sendall(flood)
        started = time.monotonic()
        ended = rest_of(stream)
        assert time.monotonic() - started < 20
        assert ended.count(frame(PONG, masked=False)) < 1_000
    assert served.ask("/v1/health/live").status == 200


@pytest.mark.parametrize(
    "broken",
    [
        frame(PING, bytes(126)), frame(PING, fin=False), frame(TEXT, b"{}", masked=False), frame(TEXT, b"{}", reserved=0x40),
        frame(TEXT, b"{}", reserved=0x10), frame(3, b"x"), frame(11, b"x"), frame(CONT, b"x"),
        frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
        frame(8, b"\x00"), frame(8, b"\x03\xee"), frame(8, b"\x03\xe8\xff\xff"), b"\x81\xff" + b"\xff" * 8 + bytes(4),
    ],
)  # fmt: skip
def test_what_is_no_frame_ends_the_stream(served: Served, broken: bytes) -> None:
    with closing(shaken(served)) as stream:
        stream.sendall(broken)
        assert b"\x88" in rest_of(stream), "it is told why"


def test_frames_behind_the_goodbye_are_nothing(served: Served) -> None:
    with closing(shaken(served)) as stream:
        with suppress(ConnectionError):
            stream.sendall(frame(8, b"\x03\xe8") + frame(TEXT, b'{"op":"ping","id":"late"}') * 50)
        assert b"late" not in rest_of(stream)


def test_a_body_that_nobody_reads_keeps_no_connection(served: Served) -> None:
    """It held one for as long as a byte came now and then."""
    with closing(socket.create_connection(("127.0.0.1", served.port), 30)) as stream:
        stream.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert b"200 OK" in rest_of(stream)


def test_what_is_refused_is_counted_too(served: Served) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    statuses = set()
    for _ in range(2_000):
        connection.request("GET", "/v1/marketsmarkets")
        answer = connection.getresponse()
        answer.read()
        statuses.add(answer.status)
        if answer.status == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            break
    connection.close()
    assert statuses == {404, 429}
    time.sleep(1)


def asked(ws: ClientConnection, request: dict[str, Any], stops: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    ws.send(json.dumps(request))
    while True:
        for message in json.loads(ws.recv(60)):
            if stops(message):
                found: dict[str, Any] = message
                return found


def test_thousands_of_unknown_names_are_not_looked_up_again_and_again(served: Served) -> None:
    request = {"op": "subscribe", "symbols": [GOLD, *(f"NO-{n}" for n in range(1_990))], "id": "x"}
    with connect(f"ws://127.0.0.1:{served.port}/v1/stream", compression=None, max_size=4 << 20) as ws:
        answers = [asked(ws, request, lambda m: m.get("id") == "x" or m["type"] == "error") for _ in range(12)]
        assert [a["type"] for a in answers[:2]] == ["subscribed", "subscribed"]
        assert "ask again in" in answers[-1]["message"]
        # Who asks for little is still served, and so is everybody else.
        pong = asked(ws, {"op": "ping", "id": "here"}, lambda m: m["type"] == "pong")
        assert pong["id"] == "here"
    few = {**request, "symbols": [GOLD, "NO-1"]}
    with connect(f"ws://127.0.0.1:{served.port}/v1/stream", compression=None, max_size=4 << 20) as ws:
        refused = asked(ws, request, lambda m: m["type"] in {"subscribed", "error"})
        assert "ask again in" in refused["message"], "another connection of the same key begins no new count"
        assert asked(ws, few, lambda m: m["type"] in {"subscribed", "error"})["unknown"] == [{"name": "NO-1"}], "not looked for like ones"
        for group in ("series", "category"):
            wish = {"op": "subscribe", group: [f"NO-{n}" for n in range(1_000)] if group == "series" else "NO"}
            expected = "error" if group == "series" else "subscribed"
            assert asked(ws, wish, lambda m: m["type"] in {"subscribed", "error"})["type"] == expected


def test_who_asks_for_snapshots_without_end_is_cut_off_and_others_are_answered(served: Served) -> None:
    url = f"ws://127.0.0.1:{served.port}/v1/stream"
    with connect(url, compression=None) as honest, connect(url, compression=None, max_size=4 << 20) as flooder:
        with suppress(ConnectionClosed):
            for n in range(2_000):
                flooder.send(
                    json.dumps({"op": "snapshot", "symbols": ["*"], "channels": ["book", "bbo", "ticker", "market"], "id": f"{n}"})
                )
                if n == 50:
                    assert asked(honest, {"op": "ping", "id": "meanwhile"}, lambda m: m["type"] == "pong")["id"] == "meanwhile"
        answered = 0
        with suppress(ConnectionClosed):
            while True:
                answered += sum(m["type"] == "snapshots" for m in json.loads(flooder.recv(60)))
        assert answered < 1_000
        assert flooder.close_code in {1006, 1008}
        assert asked(honest, {"op": "snapshot", "symbols": [GOLD]}, lambda m: m["type"] == "book")["symbol"] == GOLD


def test_who_connects_anew_may_not_ask_more(served: Served) -> None:
    """A hundred requests of each connection were done, of however many a second."""
    ended = []
    for _ in range(8):
        with suppress(ConnectionClosed), connect(f"ws://127.0.0.1:{served.port}/v1/stream", compression=None) as ws:
            try:
                for n in range(90):
                    ws.send(json.dumps({"op": "ping", "id": str(n)}))
                while '"id":"89"' not in str(ws.recv(60)):
                    pass
            except ConnectionClosed:
                ended.append(ws.close_code)
    assert ended
    assert set(ended) <= {1006, 1008}
    time.sleep(5)


def test_who_is_refused_again_and_again_waits_for_it_and_others_do_not(served: Served) -> None:
    """A thousand wrong keys a second took more than half a core."""

    def knocking() -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", served.port), 30, ("127.0.0.7", 0))
        stream.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Authorization: Bearer nonsense\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        return stream

    def refused() -> float:
        started = time.monotonic()
        with closing(knocking()) as stream:
            assert b" 401 " in rest_of(stream)
        return time.monotonic() - started

    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(40) as pool:
        found = [0.0]
        while max(found) < 1:
            assert time.monotonic() < deadline, found
            found = list(pool.map(lambda _: refused(), range(120)))
    with ExitStack() as stack, suppress(ConnectionError):
        *_, stream = [stack.enter_context(closing(knocking())) for _ in range(80)]
        for sent in range(100):  # MB; of what it sends meanwhile a gateway that reads it keeps all
            assert sent < 50
            stream.sendall(bytes(1_000_000))
    shaken(served).close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is looked at in /proc")
def test_connections_that_come_and_go_leave_nothing(served: Served) -> None:
    def resident() -> int:
        lines = Path(f"/proc/{served.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    for _ in range(100):
        shaken(served, "?symbols=*").close()
    before = resident()
    for _ in range(400):
        shaken(served, "?symbols=*").close()
    deadline = time.monotonic() + 30
    while clients := served.good("/v1/clients")["clients"]:
        assert time.monotonic() < deadline, clients
        time.sleep(0.2)
    assert resident() - before < 40_000, "KiB"
