"""Every way in, made from the routes and the stream's requests themselves: a new one cannot be forgotten here."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync

from journal.clock import WallClock
from ssmd.gateway.keydesk import KeyDesk
from ssmd.gateway.operation import Operation
from ssmd.gateway.request import REQUESTS
from ssmd.gateway.routes import OPERATIONS
from ssmd.wiring import day_rule
from tests.gateway.rig import Market, gateway_of, journal_of, stream_url, until, write
from tests.gateway.served import GOLD, Answer, Served, gateway, seeded
from tests.gateway.test_gateway_access import ANYWHERE, make, project, ssmd
from tests.journal.servers import nats_server

PARTS = {"symbol": GOLD, "date": "today", "id": "c1"}  # a part that is not here is a route that nobody thought of
BODIES: dict[str, Any] = {"setClientMode": {"mode": "latest"}, "disconnectClient": {"reason": "because"}}
KEYS = {
    "reader": ["--feed", "kalshi"], "admin": ["--scope", "admin"], "elsewhere": ["--feed", "kraken"],
    "elsewhere-admin": ["--scope", "admin", "--feed", "kraken"], "revoked": ["--scope", "admin"], "expired": ["--expires", "1s"],
}  # fmt: skip
NOBODY = {"none", "wrong", "half", "revoked", "expired"}
OPENS = {"read": {"reader", "admin"}, "admin": {"admin"}}
ASKS = {request.__struct_config__.tag for request in REQUESTS}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("scopes"))
    ssmd(data, "gateway", "key", "create", "first")
    directory = project(tmp_path_factory.mktemp("often") / "project", "  limits: {requests: 10000, burst: 100000}\n")
    with gateway(data, told, "--host", ANYWHERE, directory=directory) as found:
        yield found
        assert found.process.poll() is None
        assert "Traceback" not in found.log


@pytest.fixture(scope="module")
def keys(served: Served) -> dict[str, str]:
    """Texts by what they are for; the last ones open nothing."""
    made = {name: make(served, name, *options) for name, options in KEYS.items()}
    number, _ = made["revoked"]
    ssmd(served.data, "gateway", "key", "revoke", number)
    number, _ = made["admin"]
    found = {name: text for name, (_, text) in made.items()}
    time.sleep(1.1)
    return {**found, "wrong": f"ssmd_{'0' * 12}_{'0' * 64}", "half": f"ssmd_{number}_{'0' * 64}", "none": ""}


def asked(served: Served, operation: Operation, key: str, query: str = "", method: str = "") -> Answer:
    path = operation.path.format(**{name: PARTS[name] for name in operation.parts})
    return served.ask(path + query, method or operation.method, key=key, body=BODIES[operation.name] if operation.body else None)


def test_every_route_is_tried_here(served: Served) -> None:
    described = served.ask("/openapi.json").json["paths"]
    declared = {(path, method.upper()) for path, methods in described.items() for method in methods if method != "parameters"}
    assert declared == {(o.path, o.method) for o in OPERATIONS}
    assert {o.name for o in OPERATIONS if o.body} == set(BODIES)
    assert {o.name for o in OPERATIONS if not o.scope} == {"isLive", "isReady", "openapi", "asyncapi"}, "what is open to everybody"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_a_route_answers_those_whom_it_is_for(served: Served, keys: dict[str, str], operation: Operation) -> None:
    queries = ["", "?as_of=5s"] if "as_of" in operation.query.__struct_fields__ else [""]  # type: ignore[attr-defined]
    for query in queries:
        for name, key in keys.items():
            answer = asked(served, operation, key, query)
            if not operation.scope or name in OPENS[operation.scope]:
                assert answer.status not in {401, 403, 500}, (name, query, answer)
            elif name in NOBODY:
                assert (answer.status, answer.kind) == (401, "no-key" if name == "none" else "wrong-key"), (name, query, answer)
            else:
                assert (answer.status, answer.kind) == (403, "not-allowed"), (name, query, answer)
            assert GOLD.encode() not in answer.data or answer.status == 200 or operation.scope != "admin"
            if operation.method == "GET" and answer.status in {401, 403}:
                assert asked(served, operation, key, query, "HEAD").status == answer.status, "no more is told by the status of HEAD"


@pytest.mark.parametrize("path", ["/v1/clients", "/v1/clients/c1"])
@pytest.mark.parametrize("trick", ["{}/", "/{}", "{}?", "{}%2f", "{};a", "/v1/markets/..{}", "{}/../clients", "/v1/health/live{}", "//h{}"])
def test_no_spelling_of_a_path_leads_around_its_scope(served: Served, keys: dict[str, str], path: str, trick: str) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    with closing(connection):
        connection.request("GET", trick.format(path), headers={"Authorization": f"Bearer {keys['reader']}"})
        answer = connection.getresponse()
        assert answer.status in {400, 403, 404}
        assert b'"clients"' not in answer.read()


# --- the stream -------------------------------------------------------------------------------------------------------------

URLS = [
    "", f"?symbols={GOLD}", "?symbols=*", "?series=KXGOLD", "?category=Commodities", "?symbols=*&channels=gap,day", "?channels=day",
    f"?symbols={GOLD}&resume=local_md_0:1", f"?symbols={GOLD}&mode=latest", "?policy=conflate",
]  # fmt: skip


def opened(served: Served, key: str, query: str) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with connect_sync(f"ws://127.0.0.1:{served.port}/v1/stream{query}", additional_headers=headers, compression=None):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


@pytest.mark.parametrize("query", URLS)
def test_a_stream_opens_for_those_who_may_read_its_feed(served: Served, keys: dict[str, str], query: str) -> None:
    for name, key in keys.items():
        expected = 401 if name in NOBODY else 101 if name in OPENS["read"] else 403
        assert opened(served, key, query) == expected, name


def test_no_request_of_a_stream_administers(served: Served, keys: dict[str, str]) -> None:
    """What a client may ask for is about itself: there is none that names another one."""
    known = {"subscribe", "unsubscribe", "snapshot", "configure", "ping"}
    assert known == ASKS, "say here who may ask for the new one"
    url = f"ws://127.0.0.1:{served.port}/v1/stream"
    with connect_sync(url, additional_headers={"Authorization": f"Bearer {keys['reader']}"}) as ws:
        for op in ("disconnect", "set-mode", "clients", "revoke"):
            ws.send(json.dumps({"op": op, "client": "c1", "id": op}))
            while not (errors := [m for m in json.loads(ws.recv(30)) if m["type"] == "error"]):
                pass
            assert errors[0]["code"] == "bad_request"


# --- keys that end meanwhile --------------------------------------------------------------------------------------------------


def test_a_question_that_is_being_answered_is_given_up_when_its_key_is_revoked(served: Served) -> None:
    """It was answered, up to 20 s later. Held up here: the reader's process stands still, and a body does not come."""
    number, key = make(served, "curious", "--scope", "admin")
    served.ask(f"/v1/markets/{GOLD}/book?as_of=1m", key=key)
    if not served.reader:
        pytest.skip("the reader is looked for in /proc")
    os.kill(served.reader, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as pool, closing(socket.create_connection(("127.0.0.1", served.port), 30)) as slow:
            past = pool.submit(served.ask, f"/v1/markets/{GOLD}/book?as_of={served.told.times['delta']}", key=key)
            head = f"POST /v1/clients/c1/mode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 99\r\n"
            slow.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
            time.sleep(0.5)
            assert not past.done()
            ssmd(served.data, "gateway", "key", "revoke", number)
            answer = past.result(10)  # the reader still stands: it is not it that answers
            assert (answer.status, answer.json["detail"]) == (401, "the key was revoked")
            assert slow.recv(1_000).startswith(b"HTTP/1.1 401 ")
    finally:
        os.kill(served.reader, signal.SIGCONT)


@pytest.mark.skipif(sys.platform != "linux", reason="another process's files are counted in /proc")
def test_one_that_takes_nothing_is_shut_out_too(served: Served) -> None:
    number, key = make(served, "sleeper")

    def files() -> int:
        return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))

    with closing(socket.socket()) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.connect(("127.0.0.1", served.port))
        with connect_sync(
            f"ws://127.0.0.1:{served.port}/v1/stream", sock=raw, additional_headers={"Authorization": f"Bearer {key}"}, compression=None,
            max_queue=1, close_timeout=1,
        ) as ws:  # fmt: skip
            for _ in range(20):
                ws.send(json.dumps({"op": "subscribe", "symbols": [GOLD, *(f"{'NOTHING' * 3}-{n}" for n in range(1_800))]}))
            time.sleep(1)
            before = files()
            ssmd(served.data, "gateway", "key", "revoke", number)
            until_s = time.monotonic() + 10
            while files() >= before and time.monotonic() < until_s:
                time.sleep(0.05)
            assert files() < before


async def drained(ws: ClientConnection) -> None:
    while True:
        await asyncio.wait_for(ws.recv(), 30)


def test_a_replay_ends_with_the_key(tmp_path: Path) -> None:
    """A client that takes little of a long replay: it is closed, and nobody folds for it any more."""

    def replays() -> list[str]:
        return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("resume ")]

    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal, gateway_of(server, tmp_path) as served:
                await write(journal, Market(random.Random(3), 4), 60_000, run=1_000)
                await until(lambda: served.views.shards[0].position >= 60_000, "all of it is folded")
                desk = KeyDesk(journal, WallClock(), "local", random.Random(3), day_rule(served.settings))
                made = await desk.issue("replayer", who="tests", why="", scopes=("read",), feeds=(), expires_ns=0)
                headers = {"Authorization": f"Bearer {made.text.reveal()}"}
                while True:
                    try:
                        ws = await connect(
                            stream_url(served.port, "symbols=*&resume=local_md_0:10"),
                            additional_headers=headers,
                            compression=None,
                            max_queue=1,
                        )
                        break
                    except InvalidStatus:  # it has not heard of the key yet
                        await asyncio.sleep(0.05)
                await until(replays, "it is replayed")
                await desk.revoke(made.key.id, who="tests", why="")
                await until(lambda: not replays() and not served.hub.clients, "nobody replays")
                with pytest.raises(ConnectionClosed) as error:
                    await drained(ws)
                assert error.value.rcvd is None or error.value.rcvd.code == 1008

    asyncio.run(run())
