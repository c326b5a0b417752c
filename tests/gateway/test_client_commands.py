"""`ssmd client` and `ssmd gateway key` against a real gateway: what they print, what becomes of the clients, what is journalled."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from journal.errors import CallerError, SsmdError
from ssmd.commands.client import _watch
from tests.cli import schema
from tests.gateway.served import GOLD, Served, command, environ, gateway, seeded


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("clients"))
    with gateway(data, told) as found:
        yield found


def ran(served: Served, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    asked = {"SSMD_GATEWAY": f"http://127.0.0.1:{served.port}", **variables}
    return subprocess.run(
        command(*args), env=environ(served.data, **asked), cwd=served.data, capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip


def document(served: Served, name: str, *args: str, code: int = 0) -> Any:
    """What a command prints, held against its schema."""
    found = ran(served, *args, "-o", "json")
    assert found.returncode == code, found
    value = json.loads(found.stdout)
    schema.check(name, value)
    return value


async def hello(stream: ClientConnection) -> str:
    """The client's id."""
    return str(json.loads(await stream.recv())[0]["client"])


def test_a_client_is_listed_shown_slowed_and_disconnected(served: Served) -> None:
    url = f"ws://127.0.0.1:{served.port}/v1/stream?symbols={GOLD}&channels=book,trade"

    async def run() -> None:
        async with connect(url) as stream:
            name = await hello(stream)
            (line,) = [c for c in await asyncio.to_thread(document, served, "clients", "client", "list") if c["id"] == name]
            assert (line["who"], line["state"], line["mode"], line["subscriptions"]) == ("loopback", "healthy", "realtime", 1)
            shown = await asyncio.to_thread(document, served, "client", "client", "show", name)
            assert shown["subscriptions"][0]["channels"] == ["book", "trade"]
            assert (shown["subscriptions"][0]["names"], shown["subscriptions"][0]["of"]) == (1, [GOLD])

            slow = ("client", "set-mode", name, "--mode", "conflated", "--interval", "500ms", "--reason", "a thin line")
            done = await asyncio.to_thread(document, served, "client_action", *slow)
            assert done["action"] == "set-mode"
            told = await until(stream, "mode")
            assert (told["mode"], told["interval_ms"], told["reason"]) == ("conflated", 500, "a thin line")
            shown = await asyncio.to_thread(document, served, "client", "client", "show", name)
            assert (shown["subscriptions"][0]["mode"], shown["subscriptions"][0]["interval_ms"]) == ("conflated", 500)

            gone = await asyncio.to_thread(document, served, "client_action", "client", "disconnect", name, "--reason", "it never reads")
            with pytest.raises(ConnectionClosed) as closed:
                await until(stream, "nothing")
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "it never reads")
            assert gone["position"].startswith("local_system:")

    asyncio.run(run())
    assert document(served, "clients", "client", "list") == []


async def until(stream: ClientConnection, kind: str) -> Any:
    """The next message of a type."""
    while True:
        for said in json.loads(await asyncio.wait_for(stream.recv(), 30)):
            if said["type"] == kind:
                return said


@pytest.mark.parametrize(
    ("action", "options", "more"),
    [
        ("disconnect", (), {}),
        ("set-mode", ("--mode", "conflated", "--interval", "250ms"), {"mode": "conflated", "interval_ns": 250_000_000}),
        ("set-mode", ("--mode", "latest"), {"mode": "latest", "interval_ns": 0}),
    ],
)
def test_each_action_is_in_the_journal_with_who_and_why(served: Served, action: str, options: tuple[str, ...], more: Any) -> None:
    async def run() -> tuple[str, Any]:
        async with connect(f"ws://127.0.0.1:{served.port}/v1/stream?symbols={GOLD}") as stream:
            name = await hello(stream)
            args = ("client", action, name, *options, "--reason", "for the test")
            return name, await asyncio.to_thread(document, served, "client_action", *args)

    name, done = asyncio.run(run())
    found = json.loads(ran(served, "journal", "show", done["position"], "-o", "json").stdout)
    text = json.dumps(found)
    assert "for the test" in text
    assert done["who"].endswith("by loopback")
    assert done["who"] in text
    event = found["body"]["data"]
    assert (found["symbol"], event["client"], event["action"], event["client_who"]) == (name, name, action, "loopback")
    assert {key: event[key] for key in more} == more
    assert event["client_peer"].startswith("127.0.0.1:")
    assert event["connected_time"].endswith("Z")


def test_a_mode_is_of_subscriptions(served: Served) -> None:
    async def run() -> None:
        async with connect(f"ws://127.0.0.1:{served.port}/v1/stream") as stream:
            name = await hello(stream)
            refused = await asyncio.to_thread(ran, served, "client", "set-mode", name, "--mode", "latest", "--reason", "x")
            assert (refused.returncode, refused.stdout) == (2, "")
            assert f"{name} has no subscription whose mode could be set" in refused.stderr

    asyncio.run(run())


def test_what_cannot_be_done_is_said(served: Served) -> None:
    for args, said in (
        (("show", "c999"), "no client 'c999'"),
        (("disconnect", "c999", "--yes"), "`ssmd client list` shows"),
        (("disconnect", "c999"), "--reason TEXT or --yes"),
        (("set-mode", "c999", "--mode", "latest"), "no client"),
        (("set-mode", "c999", "--mode", "latest", "--interval", "1s"), "--interval belongs to --mode conflated"),
        (("set-mode", "c999", "--mode", "conflated"), "--interval belongs to --mode conflated"),
        (("set-mode", "c999", "--mode", "conflated", "--interval", "1h"), "10ms to 1m"),
        (("show", "../../v1/days"), "id"),
    ):
        found = ran(served, "client", *args)
        assert (found.returncode, found.stdout) == (2, ""), args
        assert said in found.stderr, (args, found.stderr)
        assert "defect" not in found.stderr


def test_a_gateway_that_is_not_there_or_wants_another_key(served: Served) -> None:
    away = ran(served, "client", "list", "--gateway", "http://127.0.0.1:1")
    assert away.returncode == 2
    assert "ssmd run gateway" in away.stderr
    assert "does it speak http?" in ran(served, "client", "list", "--gateway", f"https://127.0.0.1:{served.port}").stderr
    for url in ("127.0.0.1:8080", "ftp://x", "http://key@127.0.0.1", "http://127.0.0.1/v1", "http://127.0.0.1:x"):
        assert "http://HOST:PORT" in ran(served, "client", "list", "--gateway", url).stderr, url
    wrong = ran(served, "client", "list", SSMD_GATEWAY_KEY="ssmd_x_secret")
    assert wrong.returncode == 2
    assert "SSMD_GATEWAY_KEY" in wrong.stderr
    assert "secret" not in wrong.stderr
    reader = json.loads(ran(served, "gateway", "key", "create", "reader", "-o", "json").stdout)["key"]
    deadline = time.monotonic() + 60  # the gateway learns of the key from the journal
    while "has no scope admin; it has scope read; `ssmd gateway key create NAME --scope admin`" not in (
        said := ran(served, "client", "list", SSMD_GATEWAY_KEY=reader).stderr
    ):
        assert time.monotonic() < deadline, said


def test_the_list_is_watched(served: Served) -> None:
    asked = environ(served.data, SSMD_GATEWAY=f"http://127.0.0.1:{served.port}")
    args = [sys.executable, "-m", "ssmd.cli", "client", "list", "--watch", "-o", "jsonl"]

    async def run() -> list[Any]:
        async with connect(f"ws://127.0.0.1:{served.port}/v1/stream") as stream:
            name = await hello(stream)
            watching = await asyncio.create_subprocess_exec(*args, env=asked, stdout=asyncio.subprocess.PIPE)
            assert watching.stdout is not None
            lines = [json.loads(await asyncio.wait_for(watching.stdout.readline(), 60)) for _ in range(2)]
            watching.terminate()
            await watching.wait()
            assert {line["id"] for line in lines} == {name}
            return lines

    schema.check("clients", asyncio.run(run()))


def test_watching_goes_on_while_the_gateway_is_away_and_ends_where_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[Any] = [[{"id": "c1"}], SsmdError("it does not answer"), [{"id": "c2"}], CallerError("no scope admin")]

    def rows() -> list[dict[str, Any]]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    with pytest.raises(CallerError, match="scope"):
        asyncio.run(_watch(rows, "csv"))
    told = capsys.readouterr()
    assert (told.out.split(), told.err) == (["id", "c1", "c2"], "ssmd: it does not answer\n")


def test_keys_that_are_made_and_revoked_are_in_the_journal_with_who_and_why(served: Served) -> None:
    made = document(served, "gateway_key_created", "gateway", "key", "create", "ledger", "--scope", "admin", "--reason", "for the books")
    gone = document(served, "gateway_key", "gateway", "key", "revoke", "ledger", "--reason", "the books are closed")
    tail = ran(served, "journal", "tail", "local.key", "-o", "jsonl")
    assert tail.returncode == 0, tail
    said = [json.loads(line)["body"] for line in tail.stdout.splitlines()]
    one, other = [body for body in said if body["data"]["state"].get("key_id") == made["id"]]
    assert (one["who"], one["why"]) == (made["created_by"], "for the books")
    assert (other["who"], other["why"]) == (gone["revoked_by"], "the books are closed")
    assert (one["data"]["state"]["label"], one["data"]["state"]["scopes"]) == ("ledger", ["admin"])
    assert made["key"].rpartition("_")[2] not in tail.stdout


def test_keys_are_printed_as_their_schemas_say(served: Served) -> None:
    made = document(served, "gateway_key_created", "gateway", "key", "create", "local", "desk-7", "--feed", "kalshi", "--expires", "90d")
    assert made["expires_ns"] - made["created_ns"] == pytest.approx(90 * 86_400 * 10**9, rel=1e-3)
    assert {row["name"] for row in document(served, "gateway_keys", "gateway", "key", "list")} >= {"desk-7"}
    gone = document(served, "gateway_key", "gateway", "key", "revoke", "local", "desk-7", "--reason", "over")
    assert (gone["id"], gone["state"], gone["revoked_why"]) == (made["id"], "revoked", "over")
    assert "desk-7" not in {row["name"] for row in document(served, "gateway_keys", "gateway", "key", "list")}
    assert "desk-7" in {row["name"] for row in document(served, "gateway_keys", "gateway", "key", "list", "--all")}
    document(served, "gateway_key_created", "gateway", "key", "create", "desk-7")  # the name is free again
    for args, said in (
        (("create", "desk-7"), "there is a valid key called"), (("create", "../x"), "is no name of a client"),
        (("revoke", "desk-8"), "nearest: desk-7"),
        (("revoke", gone["id"]), "was revoked before"), (("create", "x", "--scope", "root"), "root"),
        (("create", "a", "b", "c"), "[ENV] NAME"),
    ):  # fmt: skip
        found = ran(served, "gateway", "key", *args)
        assert (found.returncode, found.stdout) == (2, ""), args
        assert said in found.stderr, (args, found.stderr)
