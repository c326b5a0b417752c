"""`ssmd key` as a person uses it: in a project of its own, with the embedded journal."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from journal.clock import WallClock
from journal.subjects import Stream
from ssmd.keys.pending import Pending
from ssmd.keys.seal import read_sealed, unseal
from ssmd.metadata.project import packaged
from ssmd.settings import Settings
from ssmd.wiring import open_journal
from tests.cli import schema
from tests.cli.conftest import Ran, Ssmd

KEY_ID = "5f3f1b0a-1111-4222-8333-abcdefabcdef"
DESK = """\
name: desk
feed: kalshi
keys:
  venue: {type: api_key, fields: [key_id, private_key], source: age, rotation_days: 90, description: Access key}
  bus: {type: transport, fields: [token], source: sealed-secret/desk-bus, rotation_days: 30}
  front: {type: tls, fields: [certificate, key], source: age, required: false}
  hook: {type: webhook, fields: [url], source: env, required: false}
  files: {type: storage, fields: [secret], source: "file:/nowhere", required: false}
"""


def private_pem(key: object | None = None) -> str:
    made = key or Ed25519PrivateKey.generate()
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an environment that has a key of every kind; the folder of the environments."""
    folder = tmp_path / "project" / "exchanges"
    for name in ("feeds", "schemas", "environments"):
        (folder / name).mkdir(parents=True)
    (folder / "feeds" / "kalshi.yaml").write_bytes(packaged().feeds.path("kalshi").read_bytes())
    (folder / "environments" / "desk.yaml").write_text(DESK)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SSMD_AGE_IDENTITY", "SSMD_AGE_PASSPHRASE", "SSMD_SECRETS", "SSMD_SEAL_CERT", "SSMD_HOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "venue.pem").write_text(private_pem())
    return folder / "environments"


@pytest.fixture
def cluster(tmp_path: Path) -> bytes:
    """Writes ``cluster.pem``, a certificate that is valid now; its private key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cluster", "-keyout", "cluster.key",
         "-out", "cluster.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    return (tmp_path / "cluster.key").read_bytes()


def by_name(ran: Ran) -> dict[str, dict[str, object]]:
    schema.check("keys", ran.document)
    return {state["key"]: state for state in ran.document}


def set_venue(ssmd: Ssmd, folder: Path, *more: str) -> Ran:
    return ssmd("key", "set", "venue", "--key-id", KEY_ID, "--from-file", f"private_key={folder / 'venue.pem'}", *more)


def test_from_nothing_to_a_key_that_was_set_verified_rotated_and_deleted(ssmd: Ssmd, desk: Path, tmp_path: Path) -> None:
    ran = ssmd("key", "check", "desk", "-o", "json")
    assert ran.code == 1
    assert {n: s["status"] for n, s in by_name(ran).items()} == dict.fromkeys(("venue", "bus", "front", "hook", "files"), "missing")

    ran = ssmd("key", "init")
    assert ran.code == 1
    schema.check("key_init", ran.document)
    assert "home/.config/ssmd/identity.age. Back it up" in ran.err
    assert "ssmd key set desk venue" in ran.err

    ran = set_venue(ssmd, tmp_path, "--reason", "new account")
    assert ran.code == 0, ran.err
    schema.check("key_change", ran.document)
    assert ran.document["fields"] == ["key_id", "private_key"]
    assert (ran.document["file"], ran.document["journalled"]) == ("exchanges/environments/desk.venue.age", True)
    assert "ps" in ran.err  # a value was on the command line

    state = by_name(ssmd("key", "verify", "-o", "json"))["venue"]
    assert (state["status"], state["problems"]) == ("ok", [])
    assert state["expires_ns"] == ran.document["set_ns"] + 90 * 86_400 * 10**9
    shown = ssmd("key", "show", "venue", "-o", "json")
    schema.check("key_show", shown.document)
    assert shown.document["rotation_days"] == 90
    assert "expires in 89 days" in ssmd("key", "show", "desk", "venue", "-o", "table").out

    (tmp_path / "new.pem").write_text(private_pem())
    ran = ssmd("key", "rotate", "venue", "--grace", "1h", "--from-file", f"private_key={tmp_path / 'new.pem'}")
    assert ran.code == 0, ran.err
    assert by_name(ssmd("key", "list", "-o", "json"))["venue"]["previous_until_ns"] == ran.document["set_ns"] + 3600 * 10**9

    ran = ssmd("key", "delete", "venue")
    assert (ran.code, "--yes" in ran.err) == (2, True)
    ran = ssmd("key", "delete", "venue", "--yes", "--reason", "closed", "-o", "json")
    schema.check("key_delete", ran.document)
    assert not (desk / "desk.venue.age").exists()
    assert ssmd("key", "delete", "venue", "--yes").code == 2

    ran = ssmd("key", "audit", "-o", "json")
    schema.check("key_audit", ran.document)
    assert [(f["what"], f["why"]) for f in ran.document] == [("set", "new account"), ("rotated", ""), ("deleted", "closed")]
    assert list(desk.glob("*.pending.yaml")) == []
    assert len(ssmd("key", "audit", "desk", "venue", "--limit", "1", "-o", "jsonl").lines) == 1
    assert ssmd("key", "audit", "desk", "bus", "-o", "jsonl").out == ""


def test_what_happened_belongs_to_the_environments_day(ssmd: Ssmd, desk: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    timezone, day = ("Etc/GMT-14", now + timedelta(hours=14)) if now.hour >= 10 else ("Etc/GMT+12", now - timedelta(hours=12))
    assert day.date() != now.date()
    (desk / "desk.yaml").write_text(f"{DESK}schedule: {{timezone: {timezone}}}\n")
    ssmd("key", "init")
    assert set_venue(ssmd, tmp_path).code == 0
    ran = ssmd("journal", "tail", "desk.key.>", "-o", "jsonl")
    assert {line["day"] for line in ran.lines} == {f"{day:%Y-%m-%d}"}, ran.out


def test_a_damaged_file_of_events_keeps_keys_from_changing_and_no_service_from_starting(
    ssmd: Ssmd, desk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ssmd("key", "init")
    (desk / "desk.bus.pending.yaml").write_text("events: 1")
    ran = set_venue(ssmd, tmp_path)
    assert (ran.code, "desk.bus.pending.yaml" in ran.err) == (2, True)
    assert not (desk / "desk.venue.age").exists()

    async def start() -> None:
        settings = Settings.read({"data": str(tmp_path / "data")}, os.environ)
        async with open_journal(settings, WallClock()) as journal:
            assert await journal.info(Stream("desk", domain="key")) is None

    asyncio.run(start())
    assert "desk.bus.pending.yaml" in caplog.text


def test_a_field_is_set_and_the_others_stay(ssmd: Ssmd, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssmd("key", "init")
    assert set_venue(ssmd, tmp_path).code == 0
    monkeypatch.setenv("NEW_ID", KEY_ID.replace("5f", "6f"))
    assert ssmd("key", "set", "venue", "--from-env", "key_id=NEW_ID").code == 0
    assert by_name(ssmd("key", "verify", "-o", "json"))["venue"]["status"] == "ok"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--key-id", "not-a-uuid"), "the key id is not a UUID"),
        (("--from-file", "private_key={ec}"), "not an RSA or Ed25519 private key"),
        (("--from-file", "private_key={text}"), "not a PEM private key"),
    ],
)
def test_a_venue_key_that_cannot_be_one_is_refused(ssmd: Ssmd, desk: Path, tmp_path: Path, args: tuple[str, str], said: str) -> None:
    ssmd("key", "init")
    (tmp_path / "ec.pem").write_text(private_pem(generate_private_key(SECP256R1())))
    (tmp_path / "text").write_text("hello-canary")
    files = {"ec": tmp_path / "ec.pem", "text": tmp_path / "text"}
    rest = ("--key-id", KEY_ID) if args[0] == "--from-file" else ("--from-file", f"private_key={tmp_path / 'venue.pem'}")
    ran = ssmd("key", "set", "venue", *(a.format(**files) for a in args), *rest)
    assert ran.code == 2
    assert said in ran.err
    assert "hello-canary" not in ran.err
    assert sorted(p.name for p in desk.iterdir()) == ["desk.yaml"]


def test_usage_errors_name_the_fields_and_never_repeat_a_value(ssmd: Ssmd, desk: Path, tmp_path: Path) -> None:
    cases = [
        (("set", "venue", "--token", "hunter2"), "it has key_id, private_key"),
        (("set", "desk", "venue", "hunter2"), "write [ENV] KEY"),
        (("set", "venue", "--key-id", "hunter2", "--from-env", "key_id=HOME"), "twice"),
        (("set", "venue", "--from-env", "key_id=NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE is not set"),
        (("set", "venue", "--from-file", f"key_id={tmp_path}/no"), "No such file"),
        (("set", "venue", "--from-file", "hunter2"), "write FIELD=WHERE"),
        (("set", "venue", "--key-id", ""), "is empty"),
        (("set", "venue"), "no terminal"),
        (("set", "hook", "--url", "hunter2"), "SSMD_HOOK_URL"),
        (("set", "files", "--secret", "hunter2"), "/nowhere"),
        (("set", "bus", "--token", "hunter2", "--offline"), "--cert"),
        (("set", "venu", "--key-id", "hunter2"), "nearest: venue"),
    ]
    for args, said in cases:
        ran = ssmd("key", *args)
        assert (ran.code, ran.out) == (2, ""), args
        assert said in ran.err, (args, ran.err)
        assert "hunter2" not in ran.err
    assert sorted(p.name for p in desk.iterdir()) == ["desk.yaml"]


def test_sealed_for_a_cluster_without_a_journal(ssmd: Ssmd, desk: Path, tmp_path: Path, cluster: bytes) -> None:
    (tmp_path / "token").write_text("bus-token\n")
    source = f"token={tmp_path / 'token'}"
    ran = ssmd("key", "set", "bus", "--from-file", source, "--cert", tmp_path / "cluster.pem", "--offline")
    assert (ran.code, "--namespace" in ran.err) == (2, True)
    (tmp_path / "long").write_bytes(b"x" * 65_536 + b"\r\nand more")
    ran = ssmd("key", "set", "bus", "--from-file", f"token={tmp_path / 'long'}", "--cert", tmp_path / "cluster.pem", "--namespace", "md")
    assert (ran.code, "is larger than 65536 bytes" in ran.err) == (2, True)  # and not cut off
    ran = ssmd(
        "key", "set", "bus", "--from-file", source, "--cert", tmp_path / "cluster.pem", "--namespace", "md", "--offline", "--reason", "why"
    )
    assert ran.code == 0, ran.err
    assert ran.document["journalled"] is False
    text = (desk / "desk.bus.sealed.yaml").read_text()
    assert unseal(text, cluster)["token"].reveal() == "bus-token"
    assert not (tmp_path / "data").exists()  # no server was started

    state = by_name(ssmd("key", "check", "-o", "json"))["bus"]
    assert (state["status"], state["fields"], state["problems"]) == ("sealed", {"token": "sealed"}, [])
    assert state["expires_ns"] == ran.document["set_ns"] + 30 * 86_400 * 10**9

    (tmp_path / "token").write_text("second")
    ran = ssmd("key", "rotate", "bus", "--from-file", source, "--cert", tmp_path / "cluster.pem", "--grace", "2h", "--offline")
    assert ran.code == 0, ran.err
    found = unseal((desk / "desk.bus.sealed.yaml").read_text(), cluster)
    assert (found["token"].reveal(), found["token.previous"].reveal()) == ("second", "bus-token")
    assert read_sealed((desk / "desk.bus.sealed.yaml").read_text(), "x").previous_until_ns == ran.document["previous_until_ns"]

    assert len(list(desk.glob("desk.bus.pending.yaml"))) == 1
    ssmd("key", "init")
    assert set_venue(ssmd, tmp_path).code == 0  # a connected command
    assert list(desk.glob("*.pending.yaml")) == []
    facts = ssmd("key", "audit", "-o", "json").document
    assert [(f["key"], f["what"], f["why"]) for f in facts] == [("bus", "set", "why"), ("bus", "rotated", ""), ("venue", "set", "")]
    assert not any(f["detail"].get("interrupted") for f in facts)
    assert ssmd("key", "delete", "bus", "--yes").code == 0
    assert not (desk / "desk.bus.sealed.yaml").exists()


def test_without_the_journal_nothing_is_changed(ssmd: Ssmd, desk: Path, tmp_path: Path) -> None:
    ssmd("key", "init")
    ran = set_venue(ssmd, tmp_path, "--nats", "nats://127.0.0.1:1")
    assert ran.code == 2
    assert "Nothing was changed; with --offline" in ran.err
    assert sorted(p.name for p in desk.iterdir()) == ["desk.yaml"]


def test_a_certificate_says_when_it_ends_and_must_match_its_key(ssmd: Ssmd, desk: Path, tmp_path: Path, cluster: bytes) -> None:
    ssmd("key", "init")
    pair = ["--from-file", f"certificate={tmp_path / 'cluster.pem'}", "--from-file"]
    ran = ssmd("key", "set", "front", *pair, f"key={tmp_path / 'venue.pem'}")
    assert (ran.code, "key is not the private key of the certificate" in ran.err) == (2, True)
    assert ssmd("key", "set", "front", *pair, f"key={tmp_path / 'cluster.key'}").code == 0
    state = by_name(ssmd("key", "verify", "-o", "json"))["front"]
    assert (state["status"], state["problems"]) == ("expiring", [])
    assert 86_400 < (int(str(state["expires_ns"])) - int(str(state["set_ns"]))) / 10**9 <= 2 * 86_400
    written = ssmd("key", "check", "--textfile", tmp_path / "keys.prom")
    assert written.code == 1  # venue and bus are missing
    text = (tmp_path / "keys.prom").read_text()
    assert 'ssmd_key_expires_timestamp_seconds{env="desk",key="front"}' in text
    assert "venue" not in text


def test_an_expired_key_is_a_finding(ssmd: Ssmd, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "desk.yaml").write_text("name: desk\nfeed: kalshi\nkeys:\n  a: {type: webhook, fields: [url], source: env, rotation_days: 1}\n")
    monkeypatch.setenv("SSMD_A_URL", "x")
    monkeypatch.setenv("SSMD_A_SET_AT", "2026-01-01T00:00:00Z")
    ran = ssmd("key", "check", "-o", "json")
    assert (ran.code, by_name(ran)["a"]["status"]) == (1, "expired")
    assert "ssmd key rotate desk a" in ran.document[0]["problems"][0]


def test_a_source_that_cannot_be_asked_exits_2(ssmd: Ssmd, desk: Path) -> None:
    (desk / "desk.yaml").write_text(
        "name: desk\nfeed: kalshi\nkeys:\n  a: {type: webhook, fields: [url], source: \"exec:sh -c 'exit 75'\"}\n"
    )
    ran = ssmd("key", "check", "-o", "json")
    assert (ran.code, by_name(ran)["a"]["status"]) == (2, "unavailable")


def test_export_has_references_only_and_reads_back(ssmd: Ssmd, desk: Path, tmp_path: Path) -> None:
    ssmd("key", "init")
    set_venue(ssmd, tmp_path)
    ran = ssmd("key", "export")
    (desk / "other.yaml").write_text(f"name: other\nfeed: kalshi\n{ran.out}")
    assert ssmd("key", "export", "other").out == ran.out
    assert ssmd("key", "export", "-o", "json", "--env", "desk").document["keys"]["bus"]["source"] == "sealed-secret/desk-bus"
    assert KEY_ID not in ran.out


def test_the_packaged_project_is_not_written(ssmd: Ssmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = ssmd("key", "set", "kalshi-demo", "kalshi", "--key-id", KEY_ID)
    assert (ran.code, "ssmd init" in ran.err) == (2, True)


def test_commands_at_once_are_all_journalled(desk: Path, tmp_path: Path, ssmd: Ssmd) -> None:
    ssmd("key", "init")
    argv = [sys.executable, "-m", "ssmd.cli", "key", "set", "venue", "--from-file", "key_id=id", "--from-file", "private_key=../venue.pem"]
    Path("id").write_text(KEY_ID)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    running = [subprocess.Popen([*argv, "--reason", f"{n}"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(5)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert {f["why"] for f in ssmd("key", "audit", "-o", "json").document} == set("01234")
    assert list(desk.glob("*.pending.yaml")) == []


def test_killed_at_any_moment_a_key_that_was_set_is_journalled_or_waits(desk: Path, tmp_path: Path, ssmd: Ssmd) -> None:
    ssmd("key", "init")
    assert set_venue(ssmd, tmp_path).code == 0
    Path("id").write_text(KEY_ID)
    argv = [sys.executable, "-m", "ssmd.cli", "key", "set", "venue", "--from-file", "key_id=id"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    seed = random.randrange(1 << 32)
    print("seed", seed)
    draw = random.Random(seed)
    file, reasons, held = desk / "desk.venue.age", [""], 0
    for n in range(60):
        if n >= 10 and held:  # a kill came between the value and the journal: a third of them do
            break
        before = file.read_bytes()
        with subprocess.Popen([*argv, "--reason", f"{n}"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 30
            # The value is written some 0.3 s after the start: kill shortly before, or after.
            while file.read_bytes() == before and process.poll() is None and time.monotonic() < deadline and n % 3:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.02) if n % 3 else draw.uniform(0.2, 0.5))
            process.kill()
        pending = Pending(desk, "desk").waiting()
        told = {f["why"] for f in ssmd("key", "audit", "-o", "json").document}
        held += bool(pending)
        if file.read_bytes() != before:
            assert f"{n}" in told | {change.why for change in pending}, n
        reasons += [f"{n}"] if f"{n}" in told | {change.why for change in pending} else []
    assert set_venue(ssmd, tmp_path, "--reason", "last").code == 0
    facts = ssmd("key", "audit", "-o", "json").document
    assert [f["why"] for f in facts] == [*reasons, "last"]  # each once
    assert Pending(desk, "desk").waiting() == []
    assert held, "no kill came between the value and the journal"


def answered(answers: Sequence[tuple[bytes, str]]) -> tuple[bytes, bytes, int]:
    """`ssmd key init` on a terminal: what it said there, what it printed, and its exit code."""
    terminal, theirs = os.openpty()
    argv = [sys.executable, "-m", "ssmd.cli", "key", "init", "desk", "--offline", "-o", "json"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    # A session of its own, so that the terminal is the one it asks.
    process = subprocess.Popen(argv, env=environ, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, start_new_session=True)
    os.close(theirs)
    said = b""
    for wanted, answer in answers:
        while not said.endswith(wanted):
            assert select.select([terminal], [], [], 20)[0], said
            said += os.read(terminal, 1_000)
        os.write(terminal, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=60)
    os.close(terminal)
    return said, out, process.returncode


def test_prompts_do_not_echo(desk: Path, ssmd: Ssmd) -> None:
    said, out, code = answered(((b"key_id: ", KEY_ID), (b"private_key: ", "@../venue.pem"), (b"certificate: ", ""), (b"\nkey: ", "")))
    assert code == 1, said  # the bus needs a certificate
    assert KEY_ID.encode() not in said + out
    assert json.loads(out) == {"env": "desk", "set": ["venue"], "left": ["bus", "front", "hook", "files"]}
    assert by_name(ssmd("key", "verify", "-o", "json"))["venue"]["status"] == "ok"


def test_a_passphrase_is_asked_for_once(desk: Path, cluster: bytes) -> None:
    del cluster  # beside its certificate
    (desk / "desk.venue.age").write_bytes(b"age-encryption.org/v1\n-> scrypt damaged")  # a whole one takes a second to open
    skipped = (b"key_id: ", ""), (b"private_key: ", "")
    given = (b"certificate: ", "@../cluster.pem"), (b"\nkey: ", "@../cluster.key")
    said, out, _ = answered(((b"age files: ", "hunter2-hunter2"), *skipped, *given))
    assert json.loads(out)["set"] == ["front"], said
    assert "front" not in json.loads(out)["left"]
    assert b"hunter2" not in said
