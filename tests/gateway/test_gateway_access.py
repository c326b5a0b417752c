"""Who is let in, how far, and what becomes of those who are shut out."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from journal.errors import CallerError
from ssmd.gateway.remote import RemoteGateway
from ssmd.keys.secret import Secret
from tests.gateway.served import GOLD, Served, command, environ, gateway, seeded

ANYWHERE = "0.0.0.0"  # noqa: S104  (that it is refused, or asks for keys, is what is tested)


def ssmd(data: Path, *args: str, code: int = 0, cwd: Path | None = None) -> Any:
    ran = subprocess.run(command(*args, "-o", "json"), env=environ(data), cwd=cwd or data, capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran
    return json.loads(ran.stdout) if not code else ran.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """It can be reached from elsewhere, so that everybody needs a key."""
    data, told = seeded(tmp_path_factory.mktemp("access"))
    refused = ssmd(data, "run", "gateway", "--host", ANYWHERE, "--port", "0", code=2)
    assert "ssmd gateway key create" in refused
    ssmd(data, "gateway", "key", "create", "first")
    with gateway(data, told, "--host", ANYWHERE) as found:
        yield found


@pytest.fixture(scope="module")
def near(served: Served) -> Iterator[Served]:
    """Another one, on loopback."""
    with gateway(served.data, served.told) as found:
        yield found


def make(served: Served, name: str, *options: str) -> tuple[str, str]:
    """Id and text of a new key, known to the gateway."""
    made = ssmd(served.data, "gateway", "key", "create", name, *options)
    deadline = time.monotonic() + 10
    while served.ask("/v1/health", key=made["key"]).status == 401 and time.monotonic() < deadline:
        time.sleep(0.02)
    return made["id"], made["key"]


class Closed(NamedTuple):
    code: int
    reason: str
    at_s: float


async def until_closed(served: Served, key: str, connected: asyncio.Semaphore | None = None) -> Closed:
    """Listen to the stream until the gateway closes it."""
    async with connect(f"ws://127.0.0.1:{served.port}/v1/stream", additional_headers={"Authorization": f"Bearer {key}"}) as stream:
        if connected:
            connected.release()
        try:
            while True:
                await asyncio.wait_for(stream.recv(), 30)
        except ConnectionClosed as error:
            frame = error.rcvd
            return Closed(frame.code if frame else 0, frame.reason if frame else "", time.time())


# --- keys -------------------------------------------------------------------------------------------------------------------


def test_without_a_key_only_what_is_open_is_answered(served: Served) -> None:
    for path in ("/v1/markets", "/v1/health", "/metrics", "/v1/streams", "/v1/clients", f"/v1/markets/{GOLD}/book"):
        answer = served.ask(path)
        assert (answer.status, answer.kind) == (401, "no-key"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/v1/health/live", "/v1/health/ready", "/openapi.json", "/asyncapi.json"):
        assert served.ask(path).status == 200, path


@pytest.mark.parametrize(
    "text",
    [
        "Bearer",
        "Bearer x",
        f"Bearer ssmd_{'0' * 12}_{'0' * 64}",
        "Basic YTpi",
        "Bearer ssmd_../../etc_0",
        "bearer \x7f",
        f"Bearer {'a' * 9_000}",
    ],
)
def test_a_wrong_key_is_refused_in_the_same_way(served: Served, text: str) -> None:
    answer = served.ask("/v1/markets", Authorization=text)
    assert answer.status in {400, 401}
    assert answer.kind in {"wrong-key", "bad-request"}


def test_the_right_id_with_another_secret_is_no_key(served: Served) -> None:
    number, key = make(served, "half-right")
    other = f"ssmd_{number}_{'0' * 64}"
    assert served.ask("/v1/markets", key=key).status == 200
    assert served.ask("/v1/markets", key=other).json["detail"] == "no such key"
    assert served.ask("/v1/markets", key=key.upper()).status == 401


def test_a_key_for_reading_administers_nothing(served: Served) -> None:
    _, reader = make(served, "reader")
    _, admin = make(served, "admin", "--scope", "admin")
    for path, method in (("/v1/clients", "GET"), ("/v1/clients/c1", "GET"), ("/v1/clients/c1", "DELETE"), ("/v1/clients/c1/mode", "POST")):
        answer = served.ask(path, method, key=reader, body={"mode": "latest"} if method == "POST" else None)
        assert (answer.status, answer.kind) == (403, "not-allowed"), path
        assert served.ask(path, method, key=admin, body={"mode": "latest"} if method == "POST" else None).status in {200, 404}
    assert served.ask("/v1/markets", key=admin).status == 200


def test_a_key_of_another_feed_sees_nothing(served: Served) -> None:
    _, key = make(served, "elsewhere", "--feed", "kraken")
    answer = served.ask(f"/v1/markets/{GOLD}", key=key)
    assert (answer.status, answer.kind) == (403, "not-allowed")
    _, key = make(served, "here", "--feed", "kalshi")
    assert served.ask(f"/v1/markets/{GOLD}", key=key).status == 200
    assert "polymarkt" in ssmd(served.data, "gateway", "key", "create", "x", "--feed", "polymarkt", code=2)


def test_a_key_is_not_taken_from_the_url(served: Served) -> None:
    _, key = make(served, "in-the-url")
    for name in ("key", "token", "access_token", "authorization"):
        assert served.ask(f"/v1/markets?{name}={key}").status == 401


def test_a_key_that_ends_is_shut_out_with_its_streams(served: Served) -> None:
    _, key = make(served, "short", "--expires", "4s")

    closed = asyncio.run(until_closed(served, key))
    assert (closed.code, closed.reason) == (1008, "the key has expired")
    assert "expired" in served.ask("/v1/markets", key=key).json["detail"]


def test_a_key_revoked_while_connected_is_closed_within_a_second(served: Served) -> None:
    number, key = make(served, "lost-laptop")
    _, other = make(served, "kept-laptop")

    async def run() -> Closed:
        connected = asyncio.Semaphore(0)
        lost, kept = (asyncio.create_task(until_closed(served, text, connected)) for text in (key, other))
        await connected.acquire()
        await connected.acquire()
        await asyncio.to_thread(ssmd, served.data, "gateway", "key", "revoke", number, "--reason", "stolen")
        closed = await lost
        assert not kept.done()
        kept.cancel()
        return closed

    closed = asyncio.run(run())
    assert (closed.code, closed.reason) == (1008, "the key was revoked")
    (gone,) = [k for k in ssmd(served.data, "gateway", "key", "list", "--all") if k["id"] == number]
    assert closed.at_s - gone["revoked_ns"] / 1e9 < 1.0
    assert (gone["state"], gone["revoked_why"]) == ("revoked", "stolen")
    assert "revoked" in served.ask("/v1/markets", key=key).json["detail"]
    assert served.ask("/v1/markets", key=other).status == 200


def test_a_stream_needs_a_key_too_and_a_browser_sends_it_as_a_subprotocol(served: Served) -> None:
    _, key = make(served, "browser")

    async def status(**options: Any) -> int:
        try:
            async with connect(f"ws://127.0.0.1:{served.port}/v1/stream", **options) as socket:
                assert json.loads(await socket.recv())[0]["type"] == "welcome"
                assert socket.subprotocol in {None, "ssmd.v1"}  # never the key
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    async def run() -> None:
        assert await status() == 401
        assert await status(subprotocols=["ssmd.v1", "ssmd.key.x"]) == 401
        assert await status(subprotocols=["ssmd.v1", f"ssmd.key.{key}"]) == 101
        assert await status(origin="https://evil.example", subprotocols=["ssmd.v1", f"ssmd.key.{key}"]) == 403
        assert await status(origin=f"http://127.0.0.1:{served.port}", subprotocols=["ssmd.v1", f"ssmd.key.{key}"]) == 101

    asyncio.run(run())


def test_no_secret_is_kept_or_told(served: Served) -> None:
    _, key = make(served, "whispered")
    secret = key.rpartition("_")[2]
    served.ask("/v1/markets", key=key)
    served.ask("/v1/nothing", key=key + "0")
    assert secret not in served.log
    for row in ssmd(served.data, "gateway", "key", "list", "--all"):
        assert "digest" not in row
        assert secret not in json.dumps(row)
    stored = b"".join(path.read_bytes() for path in (served.data / "nats").rglob("*.blk"))
    assert secret.encode() not in stored
    assert b"whispered" in stored
    assert ssmd(served.data, "key", "audit") == []


def test_a_key_that_is_sent_where_none_belongs_is_told_to_nobody(served: Served) -> None:
    """In the URL, twice, in another header, in a body, in what is no HTTP: not in the answer, the log, the measures or the journal."""
    _, key = make(served, "spilled", "--scope", "admin")
    secret = key.rpartition("_")[2]
    heads = [
        f"GET /v1/markets?key={key} HTTP/1.1", f"GET /v1/markets?{secret} HTTP/1.1", f"GET /v1/stream?token={key} HTTP/1.1",
        f"GET /v1/health HTTP/1.1\r\nAuthorization: Bearer {key}\r\nAuthorization: Bearer {key}",
        f"GET /v1/health HTTP/1.1\r\nAuthorization: Bearer {key} {secret}", f"GET /v1/health HTTP/1.1\r\nAuthorization: {key}",
        f"GET /v1/health HTTP/1.1\r\nHost: {secret}\r\nAuthorization: Bearer {key}", f"NONSENSE {key}", f"GET {key} HTTP/1.1",
        f"GET /v1/health HTTP/1.1\r\nAuthorization: Bearer {key}\x00", f"GET /v1/health HTTP/9.9\r\nAuthorization: Bearer {key}",
        f"GET /v1/stream HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: ssmd.key.{key}x",
        f"GET /v1/stream HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {secret}\r\nOrigin: {key}",
    ]  # fmt: skip
    for head in heads:
        with closing(socket.create_connection(("127.0.0.1", served.port), 20)) as stream:
            stream.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
            stream.settimeout(1)  # a stream stays open
            said = b""
            with suppress(OSError):
                while data := stream.recv(65_536):
                    said += data
        assert secret.encode() not in said, (head.replace(secret, "…"), said)
    answer = served.ask("/v1/clients/c9/mode", "POST", key=key, body={"mode": "latest", "token": secret})
    assert secret.encode() not in answer.data
    assert secret.encode() not in served.ask("/metrics", key=key).data
    assert secret not in served.log
    assert secret.encode() not in b"".join(path.read_bytes() for path in served.data.rglob("*") if path.is_file())


# --- loopback ---------------------------------------------------------------------------------------------------------------


def test_on_loopback_nobody_needs_a_key_but_a_wrong_one_is_wrong(near: Served) -> None:
    assert near.ask("/v1/clients").status == 200
    assert near.ask("/v1/clients", key="ssmd_x_y").kind == "wrong-key"


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Host": "evil.example"}, "wrong-host"), ({"Host": "evil.example:80"}, "wrong-host"), ({"Host": "[::1]"}, ""),
        ({"Host": "localhost"}, ""), ({"X_Forwarded_For": "10.0.0.1"}, "no-key"), ({"Forwarded": "for=10.0.0.1"}, "no-key"),
        ({"Via": "1.1 proxy"}, "no-key"), ({"Origin": "https://evil.example"}, "wrong-origin"), ({"Origin": "null"}, "wrong-origin"),
    ],
)  # fmt: skip
def test_what_is_not_from_this_machine_does_not_pass_for_it(near: Served, headers: dict[str, str], kind: str) -> None:
    answer = near.ask("/v1/clients", **headers)
    assert (answer.kind if kind else answer.status) == (kind or 200)


def test_a_page_elsewhere_administers_nothing(near: Served) -> None:
    """A form can post text, and needs no answer to have done harm."""
    answer = near.ask("/v1/clients/c1/mode", "POST", body=b'{"mode":"latest"}', Content_Type="text/plain")
    assert answer.kind == "wrong-media"
    assert near.ask("/v1/clients/c1", "DELETE", Origin="https://evil.example").kind == "wrong-origin"


# --- limits -----------------------------------------------------------------------------------------------------------------


def project(directory: Path, text: str) -> Path:
    (directory / "exchanges" / "environments").mkdir(parents=True)
    (directory / "exchanges" / "feeds").mkdir()
    (directory / "exchanges" / "schemas").mkdir()
    (directory / "exchanges" / "environments" / "local.yaml").write_text(f"name: local\nfeed: kalshi\ngateway:\n{text}")
    return directory


def test_a_key_may_ask_so_often_and_is_told(served: Served, tmp_path: Path) -> None:
    directory = project(tmp_path / "project", "  limits: {requests: 1, burst: 5, connections_per_key: 2}\n")
    with gateway(served.data, served.told, directory=directory) as few:
        answers = [few.ask("/v1/health") for _ in range(9)]
        good, refused = [a for a in answers if a.status == 200], [a for a in answers if a.status == 429]
        assert len(good) + len(refused) == 9
        assert 5 <= len(good) <= 7
        assert good[0].headers["ratelimit-limit"] == "5"
        assert [int(a.headers["ratelimit-remaining"]) for a in good[:3]] == [4, 3, 2]
        assert good[0].headers["ratelimit-policy"] == '"default";q=5;w=5'
        assert refused[0].kind == "too-many-requests"
        assert int(refused[0].headers["retry-after"]) >= 1
        time.sleep(int(refused[-1].headers["retry-after"]) + 0.5)
        assert few.ask("/v1/health").status == 200

        async def open_streams() -> list[int]:
            found, held = [], []
            for _ in range(3):
                try:
                    held.append(await connect(f"ws://127.0.0.1:{few.port}/v1/stream"))
                    found.append(101)
                except InvalidStatus as error:
                    found.append(error.response.status_code)
            for stream in held:
                await stream.close()
            return found

        assert asyncio.run(open_streams()) == [101, 101, 429]


def test_pages_of_origins_that_are_named_may_read(served: Served, tmp_path: Path) -> None:
    directory = project(tmp_path / "project", "  origins: ['https://desk.example']\n")
    with gateway(served.data, served.told, directory=directory) as shared:
        answer = shared.ask("/v1/markets", Origin="https://desk.example")
        assert answer.headers["access-control-allow-origin"] == "https://desk.example"
        assert answer.headers["vary"] == "Origin"
        asked = {"Origin": "https://desk.example", "Access_Control_Request_Method": "GET"}
        preflight = shared.ask("/v1/markets", "OPTIONS", **asked)
        assert (preflight.status, preflight.headers["access-control-allow-methods"]) == (204, "GET")
        assert "access-control-allow-origin" not in shared.ask("/v1/markets", Origin="https://evil.example").headers
    assert shared.process.returncode == 0


def test_tls_by_files_and_a_key_on_loopback_where_the_environment_says_so(served: Served, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    directory = project(tmp_path / "project", f"  require_key: true\n  tls: {{certificate: {certificate}, key: {key}}}\n")
    text = ssmd(served.data, "gateway", "key", "create", "over-tls")["key"]
    context = ssl.create_default_context(cafile=str(certificate))
    with gateway(served.data, served.told, directory=directory) as secure:

        def ask(head: str) -> bytes:
            with closing(socket.create_connection(("127.0.0.1", secure.port), 20)) as plain, context.wrap_socket(
                plain, server_hostname="127.0.0.1"
            ) as stream:  # fmt: skip
                stream.sendall(f"GET /v1/streams HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{head}\r\n".encode())
                return b"".join(iter(lambda: stream.recv(65_536), b""))

        assert ask("").startswith(b"HTTP/1.1 401")
        assert ask(f"Authorization: Bearer {text}\r\n").startswith(b"HTTP/1.1 200")
        with pytest.raises(CallerError, match=r"is not trusted .*; SSL_CERT_FILE names"):
            RemoteGateway(f"https://127.0.0.1:{secure.port}", Secret(text)).clients()


def test_tls_files_that_are_none_are_named(tmp_path: Path) -> None:
    data, _ = seeded(tmp_path)
    (tmp_path / "cert.pem").write_text("no certificate")
    for certificate in ("nowhere.pem", "cert.pem"):
        directory = project(tmp_path / certificate.partition(".")[0], f"  tls: {{certificate: ../{certificate}, key: ../cert.pem}}\n")
        refused = ssmd(data, "run", "gateway", "--port", "0", code=2, cwd=directory)
        assert "gateway.tls" in refused
        assert certificate in refused


def self_signed(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, private = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )  # fmt: skip
    return certificate, private
