"""Connections without end, from those who never say who they are: others are let in, and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send
from websockets.sync.client import connect

from journal.clock import WallClock
from ssmd.gateway.porch import MOST_GUESTS, MOST_SHAKING, Porch, place_of
from tests.gateway.served import GOLD, Served, gateway, seeded
from tests.gateway.test_gateway_access import project, self_signed

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="another process's files are looked at and limited in Linux's way")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("porch"))
    with gateway(data, told) as found:
        yield found
        assert found.process.poll() is None
        assert "Traceback" not in found.log


def files(served: Served) -> int:
    return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))


def gone(served: Served, before: int) -> bool:
    deadline = time.monotonic() + 30
    while files(served) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    return files(served) <= before


def connected(served: Served, stack: ExitStack, count: int) -> list[socket.socket]:
    return [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 30)) for _ in range(count)]


def said(stream: socket.socket) -> bytes:
    stream.settimeout(30)
    with suppress(ConnectionError):
        return b"".join(iter(lambda: stream.recv(65_536), b""))
    return b""


@LINUX
def test_who_connects_and_asks_nothing_makes_way(served: Served) -> None:
    """Two thousand of them were held, and everybody else was turned away without a word until they had gone."""
    served.ask(f"/v1/markets/{GOLD}/book?as_of=1m")  # the reader is there
    before = files(served)
    with connect(f"ws://127.0.0.1:{served.port}/v1/stream") as kept, ExitStack() as stack:
        held = connected(served, stack, MOST_GUESTS + 200)
        assert served.ask("/v1/health/live").status == 200
        assert files(served) < before + MOST_GUESTS + 50
        for stream in held[:100]:
            head, _, body = said(stream).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in head
            assert json.loads(body)["type"] == "urn:ssmd:problem:busy"
        kept.send('{"op":"ping","id":"me"}')
        while not any(m.get("id") == "me" for m in json.loads(kept.recv(30))):
            pass
    assert gone(served, before + 5)


@LINUX
def test_without_a_file_to_open_it_goes_on_and_who_asks_nothing_makes_way(served: Served) -> None:
    before = files(served)
    limits = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (before + 40, limits[1]))
    try:
        with ExitStack() as stack:
            connected(served, stack, 150)
            assert served.ask("/v1/health/live").status == 200
            assert served.process.poll() is None
    finally:
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, limits)
    assert gone(served, before + 5)
    assert "limit of open files" in served.log
    served.good(f"/v1/markets/{GOLD}/book")


@LINUX
def test_a_handshake_that_does_not_come_holds_no_place(tmp_path: Path) -> None:
    """Each was waited for a minute, and there was no end of them."""
    data, told = seeded(tmp_path)
    certificate, key = self_signed(tmp_path)
    directory = project(tmp_path / "project", f"  tls: {{certificate: {certificate}, key: {key}}}\n")
    context = ssl.create_default_context(cafile=str(certificate))
    with gateway(data, told, directory=directory) as secure, ExitStack() as stack:
        before = files(secure)
        silent = connected(secure, stack, 300)
        for stream in silent[::2]:
            stream.sendall(b"\x16\x03\x01\x02\x00\x01")

        def shaken() -> ssl.SSLSocket:
            (plain,) = connected(secure, stack, 1)
            return stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))

        stream, drip = shaken(), shaken()
        assert files(secure) < before + MOST_SHAKING + 10
        stream.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert said(stream).startswith(b"HTTP/1.1 200")
        drip.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: ")
        assert said(drip) == b"", "a slow head is cut off behind TLS, too"
        assert gone(secure, before + 1)
        assert "Traceback" not in secure.log


def test_requests_in_one_piece_are_answered_in_their_order_and_others_in_between(served: Served) -> None:
    """Thousands were taken apart at once, and everybody else waited."""
    count = 2_000
    request = b"GET /v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", served.port), 60)) as stream:
        stream.sendall(request * 200)
        assert served.ask("/v1/health/live").status == 200
        stream.sendall(request * (count - 200) + last)
        answer = said(stream)
    assert answer.count(b"HTTP/1.1 200 ") + answer.count(b"HTTP/1.1 429 ") >= count
    assert answer.rpartition(b"HTTP/1.1 ")[2].startswith((b"404", b"429"))


class Stopped(WallClock):
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.slept_s = 0.0

    def mono_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.now_ns += int(seconds * 1e9)


def test_what_one_address_asks_too_fast_waits_and_others_do_not() -> None:
    clock, answered = Stopped(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answered.append(scope["client"][0])

    porch = Porch(clock, per_s=100)
    call = porch.paced(app)

    async def ask(address: str, times: int) -> float:
        before = clock.slept_s
        for _ in range(times):
            await call({"type": "http", "client": (address, 1)}, None, None)  # type: ignore[arg-type]
        return clock.slept_s - before

    assert asyncio.run(ask("10.0.0.1", 200)) == 0
    assert 2.9 < asyncio.run(ask("10.0.0.1", 300)) < 3.1
    assert asyncio.run(ask("10.0.0.2", 100)) == 0
    assert len(answered) == 600


def test_the_addresses_of_one_machine_are_one() -> None:
    assert place_of("2001:db8::1") == place_of("2001:db8::ffff:1%eth0") != place_of("2001:db8:0:1::1")
    assert place_of("::ffff:10.0.0.1") == place_of("10.0.0.1") == "10.0.0.1"
    assert place_of("") == ""


class Idle:
    def __init__(self, *, idle: bool = True) -> None:
        self.idle, self.away = idle, False

    def turn_away(self) -> None:
        self.away = True


def test_of_those_who_ask_nothing_the_first_of_the_largest_crowd_goes() -> None:
    porch = Porch(WallClock(), most=4)
    alone, asking, *crowd = Idle(), Idle(idle=False), Idle(), Idle(), Idle()
    porch.enter(alone, "10.0.0.1")
    for guest in (asking, *crowd):
        porch.enter(guest, "10.0.0.2")
    assert [g.away for g in (alone, asking, *crowd)] == [False, False, True, False, False]
    busy = Porch(WallClock(), most=1)
    late = Idle()
    busy.enter(asking, "10.0.0.2")
    busy.enter(late, "10.0.0.1")
    assert (asking.away, late.away) == (False, True)
    busy.leave(asking)
    busy.leave(late)
    busy.enter(alone, "10.0.0.1")
    assert not alone.away
