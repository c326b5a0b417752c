"""Requests that no honest client sends: refused at once, with little work, and the others are served as before."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from ssmd.gateway.rest import MAX_BODY, MAX_HEADERS, MAX_TARGET
from tests.gateway.served import GOLD, Served, gateway, seeded


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("attacks"))
    with gateway(data, told) as found:
        yield found
        assert found.process.poll() is None
        assert "Traceback" not in found.log


def raw(served: Served, data: bytes, wait_s: float = 20) -> bytes:
    """What is answered to these bytes, until the connection ends."""
    with closing(socket.create_connection(("127.0.0.1", served.port), wait_s)) as stream:
        try:
            stream.sendall(data)
            return b"".join(iter(lambda: stream.recv(65_536), b""))
        except (ConnectionResetError, BrokenPipeError):
            return b""


def get(served: Served, target: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    """Status and problem of a target that no client library would send as it is."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers, "", ""]
    head, _, body = raw(served, "\r\n".join(lines).encode("latin-1")).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status != 200:
        assert b"application/problem+json" in head, head
    return status, json.loads(body) if body else {}


PATHS = f"""
    /v1/markets/..%2f..%2fetc%2fpasswd /v1/markets/../../etc/passwd /v1/markets/%2e%2e/%2e%2e/secret /v1/markets/%252e%252e%252f
    /v1/markets/..%5c..%5cwindows /v1/markets/{GOLD}%2f..%2f..%2fclients /v1/markets/%ff%fe /v1/markets/a%00b /v1/markets/%0d%0aX:1
    /v1/markets/ /v1/markets//book //v1/markets /v1//markets /v1/markets/% /v1/markets/%zz /v1/markets/* /v1/markets/%3e
    /v1/markets/local.kalshi.%3E/trades /v1/markets/*/trades /v1/markets/%25/book /V1/MARKETS /v1/markets;x=1 /v1/days/..
    /v1/days/2026-11-22%2f.. /v1/clients/..%2f.. /v1/clients/%00 * /%2e%2e/%2e%2e/etc/passwd /v1/./markets /v1/x/../markets
""".split()


@pytest.mark.parametrize("target", PATHS)
def test_a_path_is_a_name_and_nothing_else(served: Served, target: str) -> None:
    status, problem = get(served, target)
    assert status in {400, 404}, problem
    assert problem["status"] == status
    assert "root:" not in json.dumps(problem)


def test_an_escaped_path_is_decoded_once(served: Served) -> None:
    for target, symbol in (("/v1/markets/a%252fb", "a%2fb"), ("/v1/markets/a%2fb", "a/b"), ("/v1/markets/a+b", "a+b")):
        status, problem = get(served, target)
        assert (status, problem["detail"]) == (404, f"no market {symbol!r}")


QUERIES = [
    "x",
    "=",
    "&&",
    "limit",
    "limit=1;limit=2",
    "limit=%00",
    "limit=1e3",
    "limit=0x10",
    "limit=+1",
    "limit=-1",
    "limit=1_0",
    "limit=1.0",
    "limit=",
    "limit=%201",
    "as_of=%ff",
    "as_of=NaN",
    "as_of=1e18",
    "as_of=-1",
    "as_of=local_md_0:-1",
    "as_of=_:1",
    "as_of=local_md_0:",
    "as_of=..%2f:1_",
    "as_of=",
    "cursor=W10",
    "cursor=%ff",
    "cursor=",
    "category=%27%20OR%201=1--%00",
    "status=active%27--",
    "__class__=1",
    "as_of[]=1",
    "limit=1&limit=1",
]
QUERIES += [f"limit={'9' * 400}", f"as_of=local_md_0:{'9' * 40}", f"cursor={'A' * 900}", f"category={'a' * 257}"]
QUERIES += ["&".join(f"a{n}=1" for n in range(64))]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_is_what_it_must_be(served: Served, query: str) -> None:
    status, problem = get(served, f"/v1/markets?{query}")
    assert status in {400, 404}, problem


def test_sql_in_a_filter_is_a_name_that_nothing_has(served: Served) -> None:
    status, found = get(served, "/v1/markets?category=%27%20OR%20%271%27=%271")
    assert (status, found["markets"]) == (200, [])


def test_what_is_too_large_is_refused(served: Served) -> None:
    assert get(served, f"/v1/markets/{'a' * MAX_TARGET}")[0] == 414
    assert get(served, f"/v1/markets?category={'a' * MAX_TARGET}")[0] == 414
    assert get(served, "/v1/markets", *(f"X-{n}: {'a' * 1_000}" for n in range(MAX_HEADERS // 1_000 + 1)))[0] == 431
    for size in (1 << 20, 32 << 20):
        answer = raw(served, b"GET /" + b"a" * size)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    answer = raw(served, b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * (1 << 20))
    assert not answer or answer.startswith(b"HTTP/1.1 400")
    big = b'{"mode":"' + b"a" * MAX_BODY + b'"}'
    assert served.ask("/v1/clients/c1/mode", "POST", body=big).kind == "too-large"
    chunked = (
        b"POST /v1/clients/c1/mode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert b" 413 " in raw(served, chunked + b"4000\r\n" + b"a" * 0x4000 + b"\r\n" + (b"10000\r\n" + b"a" * 0x10000 + b"\r\n"))[:20]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b'{"mode":1}', 400), (b'{"mode":"latest","x":1}', 400), (b"\xff", 400),
        (b"[" * 60_000, 400),
        (b'{"mode":"conflated"}', 400), (b'{"mode":"latest","interval":"1s"}', 400), (b'{"mode":"conflated","interval":"1h"}', 400),
        (b'{"mode":"conflated","interval":"x"}', 400), (b'{"mode":"latest"}', 404), (b'{"mode":"conflated","interval":"500ms"}', 404),
    ],
)  # fmt: skip
def test_a_body_is_what_it_must_be(served: Served, body: bytes, status: int) -> None:
    assert served.ask("/v1/clients/c1/mode", "POST", body=body).status == status


@pytest.mark.parametrize("name", ["who", "reason"])
@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "done\nERROR forged", "\x9b2J"])
def test_what_is_told_of_an_action_obeys_no_terminal_and_forges_no_line(served: Served, name: str, text: str) -> None:
    for method, path, body in (("DELETE", "/v1/clients/c1", {}), ("POST", "/v1/clients/c1/mode", {"mode": "latest"})):
        answer = served.ask(path, method, body={**body, name: text})
        assert (answer.status, answer.kind) == (400, "bad-parameter")
        assert answer.json["errors"] == [{"name": name, "reason": "has control characters"}]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "get"])
def test_a_method_is_one_of_the_path(served: Served, method: str) -> None:
    head, _, body = raw(served, f"{method} /v1/markets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()).partition(
        b"\r\n\r\n"
    )
    status = int(head.split()[1])
    assert status in {400, 405}
    assert json.loads(body)["status"] == status
    if status == 405:
        assert b"allow: GET, HEAD" in head.lower().replace(b"get, head", b"GET, HEAD")


def test_a_method_is_not_another_one_by_a_header(served: Served) -> None:
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        status, found = get(served, "/v1/clients", f"{name}: DELETE")
        assert (status, found) == (200, {"clients": []})


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"HELO x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused(served: Served, data: bytes) -> None:
    answer = raw(served, data + b"\r\n\r\n")
    assert not answer or answer.startswith((b"HTTP/1.1 4",)), answer[:100]


def test_two_hosts_or_keys_are_none(served: Served) -> None:
    for header in ("Host: evil.example", "Authorization: Bearer a\r\nAuthorization: Bearer b", "Origin: http://a\r\nOrigin: http://b"):
        assert get(served, "/v1/markets", header)[0] == 400


def test_slow_clients_are_let_go_and_hold_nobody_up(served: Served) -> None:
    """Fifty that send a byte now and then: each is closed about ten seconds after it came, and the others are answered meanwhile."""
    ended: list[float] = []

    def drip() -> None:
        started = time.monotonic()
        with closing(socket.create_connection(("127.0.0.1", served.port), 60)) as stream:
            stream.settimeout(0.5)
            stream.sendall(b"GET /v1/markets HTTP/1.1\r\nHost: localhost\r\n")
            while time.monotonic() - started < 60:
                try:
                    stream.sendall(b"X")
                    if not stream.recv(1):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        ended.append(time.monotonic() - started)

    threads = [threading.Thread(target=drip) for _ in range(50)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert served.ask("/v1/health/live").status == 200
    for thread in threads:
        thread.join()
    assert len(ended) == 50
    assert max(ended) < 40


def test_a_client_that_takes_no_answers_is_let_go(served: Served) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(socket.socket()) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stream.settimeout(1)
        stream.connect(("127.0.0.1", served.port))
        started = time.monotonic()
        while time.monotonic() - started < 90:
            try:
                stream.sendall(request)  # more and more answers wait
                time.sleep(0.005)
            except TimeoutError:
                continue
            except OSError:
                break
        assert 15 < time.monotonic() - started < 80
    assert served.ask("/v1/health/live").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(served: Served) -> None:
    head = b"POST /v1/clients/c1/mode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
    started = time.monotonic()
    assert b" 408 " in raw(served, head, 60)[:20]
    assert time.monotonic() - started < 40


def test_many_questions_about_the_past_wait_in_a_short_line(served: Served) -> None:
    """Each is answered, or told to come again; what is asked of the present is answered meanwhile."""
    target = f"/v1/markets/{GOLD}/book?as_of={served.told.times['delta']}"
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(served.ask, target) for _ in range(60)]
        assert served.ask(f"/v1/markets/{GOLD}/book").status == 200
        answers = [a.result() for a in asked]
    assert {a.status for a in answers} <= {200, 503}
    assert {a.data for a in answers if a.status == 200} == {served.ask(target).data}
    for answer in answers:
        if answer.status == 503:
            assert (answer.kind, "retry-after" in answer.headers) == ("busy", True)
