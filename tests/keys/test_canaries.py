"""Secrets that can be recognised are put into every source; then all that the system says, writes and shows of itself is searched.

In clear, as base64 in every alignment, and in hexadecimal; and for something that must be found, so that a search that sees nothing fails.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import dataclasses
import io
import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from journal.errors import SsmdError
from ssmd.metadata.project import packaged
from ssmd.settings import Settings
from tests.journal.servers import free_port, nats_server
from tests.openbao import running

ROOT = Path(__file__).resolve().parents[2]
MARKER = f"marker{secrets.token_hex(6)}"  # not a secret: it must be found
DESK = """\
name: desk
feed: kalshi
keys:
  venue: {{type: api_key, fields: [key_id, private_key], source: age, rotation_days: 90}}
  bus: {{type: transport, fields: [token], source: sealed-secret/desk-bus}}
  hook: {{type: webhook, fields: [url], source: env}}
  disk: {{type: storage, fields: [secret], source: "file:{held}/disk"}}
  prog: {{type: database, fields: [password], source: "exec:cat {held}/prog.json"}}
venue:
  type: live
  key: venue
  endpoint: ws://127.0.0.1:{port}/trade-api/ws/v2
  rest: http://127.0.0.1:{port}/trade-api/v2
journal: {{type: jetstream, url: "nats://127.0.0.1:{nats}", token: $key:bus.token, max_stream_gib: 1}}
"""


def canary(name: str) -> str:
    return f"canary-{name}-{secrets.token_hex(12)}"


def forms(secret: bytes) -> set[bytes]:
    """What `secret` looks like wherever it is: as it is, in hexadecimal, and the middle of base64 whatever stands before it."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret)
        found.add(text[4 if before else 0 : len(text) - 4])
        found.add(found_url := text[4 if before else 0 : len(text) - 4].replace(b"+", b"-").replace(b"/", b"_"))
        assert len(found_url) > 16
    return found


def contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if path.suffix == ".zst":
        with contextlib.suppress(zstandard.ZstdError):
            yield zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()


class Desk:
    """A project, a home, and beside them what is held in clear on purpose; all that was said, and all command lines seen."""

    def __init__(self, root: Path) -> None:
        self.held, self.project, self.home = root / "held", root / "project", root / "home"
        self.said: list[bytes] = []
        self.command_lines: set[bytes] = set()
        self.secrets: dict[str, bytes] = {}
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(ROOT), "SSMD_DEBUG": "1"}
        self.environ["SSMD_SECRETS"] = str(self.held / "mount")
        for folder in ("disk", "mount/desk-bus", "nats"):
            (self.held / folder).mkdir(parents=True, mode=0o700)
        for folder in ("environments", "feeds", "schemas"):
            (self.project / "exchanges" / folder).mkdir(parents=True)
        starter = packaged().exchanges
        for path in (starter / "feeds" / "kalshi.yaml", *starter.glob("schemas/*.yaml"), *starter.glob("schemas/*.capnp")):
            (self.project / "exchanges" / path.relative_to(starter)).write_bytes(path.read_bytes())

    @property
    def folder(self) -> Path:
        return self.project / "exchanges" / "environments"

    def secret(self, name: str, text: str = "") -> str:
        text = text or canary(name)
        self.secrets[name] = text.encode()
        return text

    def hold(self, name: str, text: str) -> Path:
        path = self.held / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, *args: str | Path, code: int | None = 0, **environ: str) -> str:
        argv = [sys.executable, "-m", "ssmd.cli", *map(str, args)]
        done = subprocess.run(argv, cwd=self.project, env={**self.environ, **environ}, capture_output=True, check=False, timeout=120)
        self.said += [done.stdout, done.stderr]
        assert code is None or done.returncode == code, (args, done.stdout.decode(), done.stderr.decode())
        return done.stdout.decode()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Collect the command lines of every process while the block runs."""
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    with contextlib.suppress(OSError):
                        self.command_lines.add(path.read_bytes())
                time.sleep(0.03)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def written(self) -> Iterator[tuple[str, bytes]]:
        """Everything there is to search, by where it is."""
        yield from ((f"output {n}", said) for n, said in enumerate(self.said))
        yield from (("command line", line) for line in self.command_lines)
        places = [self.project, self.home, self.held / "nats" / "store", self.held / "nats" / "nats.log"]
        files = [p for place in places for p in [place, *place.rglob("*")] if p.is_file() and p.name != "identity.age"]
        yield from ((str(path), data) for path in files for data in contents(path))

    def search(self, secret: bytes) -> set[str]:
        wanted = forms(secret)
        return {where for where, data in self.written() if any(form in data for form in wanted)}


def rsa_key(desk: Desk) -> tuple[str, bytes]:
    """A venue's key, each of its secret numbers a canary; the PEM, and that of its public key."""
    key = generate_private_key(65_537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    lines = pem.splitlines()[1:-1]
    for number in (8, 16, len(lines) - 2):  # the first ones hold what is public
        desk.secrets[f"pem line {number}"] = lines[number]
    numbers = key.private_numbers()
    for name in ("d", "p", "q"):
        value = getattr(numbers, name)
        desk.secrets[f"rsa {name}"] = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return pem.decode(), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def fill(desk: Desk, *, nats: int, port: int) -> tuple[str, str]:
    """A secret in each source but the two that are written by commands; the PEM for one of these, and its key id."""
    (desk.folder / "desk.yaml").write_text(DESK.format(held=desk.held, port=port, nats=nats))
    desk.environ["SSMD_HOOK_URL"] = desk.secret("env")
    desk.hold("disk/secret", desk.secret("file"))
    desk.hold("prog.json", json.dumps({"password": desk.secret("exec")}))
    token = desk.secrets["sealed"].decode()
    desk.hold("mount/desk-bus/token", token)
    desk.hold("token", token)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=c", "-keyout", "c.key", "-out", "c.pem"],
        cwd=desk.held, check=True, capture_output=True,
    )  # fmt: skip
    pem, public = rsa_key(desk)
    desk.hold("venue.pem", pem)
    desk.hold("public.pem", public.decode())
    key_id = "5f3f1b0a-1111-4222-8333-abcdefabcdef"
    desk.hold("venue.id", key_id)
    return pem, key_id


def simulated(desk: Desk, port: int, key_id: str) -> subprocess.Popen[bytes]:
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "ssmd.cli",
        "sim",
        "kalshi",
        "--port",
        f"{port}",
        "--key-file",
        desk.held / "public.pem",
        "--key-id",
        key_id,
    ]
    process = subprocess.Popen(argv, cwd=desk.held, env=desk.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/sim/status", timeout=5):
            return process
        time.sleep(0.05)
    raise AssertionError("the simulated venue did not start")


def use_every_command(desk: Desk) -> None:
    """The life of keys that are right, with a capture that needs them."""
    venue = ("--from-file", f"private_key={desk.held / 'venue.pem'}", "--from-file", f"key_id={desk.held / 'venue.id'}")
    desk.run("key", "init", code=1)
    desk.secrets["identity"] = (desk.home / ".config" / "ssmd" / "identity.age").read_bytes().split()[-1]
    sealing = ("--from-file", f"token={desk.held / 'token'}", "--cert", desk.held / "c.pem", "--namespace", "md")
    desk.run("key", "set", "bus", *sealing, "--offline", "--reason", MARKER)
    desk.run("key", "set", "venue", *venue, "--reason", MARKER)
    for output in ("table", "json"):
        for command in (("list",), ("show", "venue"), ("verify",), ("check",), ("audit",), ("export",)):
            desk.run("key", *command, "-o", output)
    desk.run("key", "check", "--textfile", desk.project / "keys.prom")
    for args in (("env", "show", "desk"), ("validate", "--check-keys"), ("config", "show", "--origin")):
        desk.run(*args, code=None)
    with desk.watched():
        desk.run("up", "--for", "4s", "-o", "json")
        desk.run("key", "verify")
    desk.run("key", "rotate", "venue", *venue, "--grace", "1h")
    desk.run("key", "rotate", "bus", *sealing, "--reason", MARKER)
    desk.run("journal", "tail", "desk.key.events", "-o", "jsonl")
    desk.run("key", "delete", "bus", "--yes", "--offline")
    facts = [json.loads(line) for line in desk.run("key", "audit", "-o", "jsonl").splitlines()]
    assert [f["what"] for f in facts if f["key"] == "venue" and f["what"] != "resolved"] == ["set", "rotated"]
    used = {(f["key"], f["detail"]["outcome"]) for f in facts if f["who"].startswith("run connector@")}
    assert used == {("venue", "resolved"), ("bus", "resolved")}
    streams = {row["stream"]: row["last"] for row in json.loads(desk.run("journal", "streams", "-o", "json"))}
    assert streams["desk_md_0"] > 50  # the venue let us in: its key was used
    assert streams["desk_key"] > 5


def make_every_mistake(desk: Desk) -> None:
    """Commands that fail, with tracebacks, over values that are wrong."""
    broken = desk.secret("broken pem")
    desk.hold("broken.pem", f"-----BEGIN PRIVATE KEY-----\n{broken}\n-----END PRIVATE KEY-----\n")
    desk.hold("not-id", desk.secret("not an id"))
    key_id, venue_pem = desk.held / "venue.id", desk.held / "venue.pem"
    desk.run("key", "set", "venue", "--from-file", f"private_key={desk.held / 'broken.pem'}", "--from-file", f"key_id={key_id}", code=2)
    desk.run("key", "set", "venue", "--from-file", f"private_key={venue_pem}", "--from-file", f"key_id={desk.held / 'not-id'}", code=2)
    for args in (
        ("venue", "--token"),
        ("desk", "venue"),
        ("hook", "--url"),
        ("disk", "--secret"),
        ("venue", "--from-file"),
        ("venue", "--from-env"),
    ):
        desk.run("key", "set", *args, desk.secret(f"mistake {args}"), code=2)
    for name, text in (("broken json", '{{"password": "{}"'), ("a list", '["{}"]'), ("not text", '{{"password": ["{}"]}}')):
        desk.hold("prog.json", text.format(desk.secret(name)))
        desk.run("key", "verify", code=None)
    (desk.held / "prog.json").unlink()
    desk.run("key", "check", code=1)
    desk.run("key", "check", code=1, SSMD_AGE_IDENTITY=str(desk.hold("other.age", desk.secret("not an identity"))))
    desk.run("key", "check", code=1, SSMD_AGE_PASSPHRASE=desk.secret("passphrase"), SSMD_AGE_IDENTITY="/nowhere")
    desk.run("key", "check", code=None, SSMD_HOOK_SET_AT=desk.secret("not a time"))
    (desk.held / "disk" / "secret").write_bytes(desk.secret("not utf-8").encode() + b"\xff")
    desk.run("key", "verify", code=None)
    desk.hold("mount/desk-bus/token", desk.secret("wrong token"))
    desk.run("journal", "streams", code=2)
    desk.run("up", "--for", "1s", code=2)


def mistake_in_the_file(desk: Desk) -> None:
    """A value where a reference belongs."""
    text = (desk.folder / "desk.yaml").read_text()
    clear = desk.secret("in the environment's file")
    desk.project.joinpath("exchanges", "environments", "desk.yaml").write_text(text.replace("$key:bus.token", clear))
    for args in (("validate",), ("config", "show"), ("env", "show", "desk"), ("key", "list"), ("up", "--for", "1s")):
        desk.run(*args, code=None)
    (desk.folder / "desk.yaml").write_text(text)


def dump_settings(desk: Desk) -> None:
    """What a program, a debugger or a log would make of the objects that hold keys."""
    settings = Settings.read({}, desk.environ, desk.project)
    seen: list[Any] = [settings, settings.environment, settings.resolver]
    for name, key in settings.environment.keys.items():
        with contextlib.suppress(SsmdError):
            seen += [settings.resolver.found(name), settings.resolver.value(f"$key:{name}.{key.fields[0]}")]
    for thing in seen:
        for show in (repr, str, format, pickle.dumps, dataclasses.asdict, copy.deepcopy, lambda t: t.model_dump_json(), json.dumps):
            try:
                said = show(thing)
            except (TypeError, AttributeError) as error:
                said = repr(error)
            desk.said.append(said if isinstance(said, bytes) else str(said).encode())


@pytest.mark.timeout(280)
def test_no_secret_is_said_written_or_shown_anywhere(desk: Desk) -> None:
    port = free_port()
    token = desk.secret("sealed")
    with nats_server(desk.held / "nats", access=f'token: "{token}"') as server:
        _, key_id = fill(desk, nats=server.port, port=port)
        sim = simulated(desk, port, key_id)
        try:
            use_every_command(desk)
            dump_settings(desk)
            make_every_mistake(desk)
            dump_settings(desk)
            mistake_in_the_file(desk)
        finally:
            sim.send_signal(signal.SIGTERM)
            sim.wait()
    found = {name: where for name, secret in desk.secrets.items() if (where := desk.search(secret))}
    assert not found
    # The search sees outputs, the journal's files, the project's, and what processes were started with.
    seen = desk.search(MARKER.encode())
    assert any(where.startswith("output") for where in seen)
    assert any("/nats/store/" in where for where in seen)
    assert any(b"nats.conf" in line for line in desk.command_lines)
    assert any(b"ssmd.cli" in line and b"connector" in line for line in desk.command_lines)
    assert any(where.endswith(".zst") for where, _ in desk.written())
    assert len(desk.secrets) > 20


@pytest.mark.vault
def test_no_secret_from_a_vault_is_said_or_written(desk: Desk, tmp_path: Path) -> None:
    text = "name: desk\nfeed: kalshi\nkeys:\n  deep: {type: database, fields: [password], source: vault/secret/desk/deep}\n"
    (desk.folder / "desk.yaml").write_text(text)
    (tmp_path / "bao").mkdir()
    with running(tmp_path / "bao") as server:
        token = desk.secret("vault's token", server.make_token('path "secret/data/desk/*" { capabilities = ["read"] }'))
        server.do("POST", "secret/data/desk/deep", {"data": {"password": desk.secret("vault"), "previous": desk.secret("beside")}})
        desk.environ |= {"VAULT_ADDR": server.url, "VAULT_TOKEN": token}
        with desk.watched():
            for command in ("list", "check", "verify", "export"):
                desk.run("key", command)
            desk.run("validate", "--check-keys", code=None)
        dump_settings(desk)
        for data in ({"password": {"not a text": desk.secret("not a text")}}, {"password": desk.secret("long") * 5_000}):
            server.do("POST", "secret/data/desk/deep", {"data": data})
            desk.run("key", "verify", code=1)
        desk.run("key", "check", code=1, VAULT_TOKEN=desk.secret("wrong token"))
        desk.run("key", "check", code=1, VAULT_ADDR=server.url.replace("//", f"//user:{desk.secret('in the URL')}@"))
    desk.run("key", "check", code=2)
    desk.run("key", "set", "deep", "--from-file", f"password={desk.hold('password', desk.secret('to set'))}", code=2)
    assert not {name: where for name, secret in desk.secrets.items() if (where := desk.search(secret))}
    assert any(b'"status": "ok"' in said for said in desk.said)  # the vault was read


def test_the_search_finds_what_is_hidden_in_other_forms(desk: Desk) -> None:
    secret = desk.secret("hidden").encode()
    for hidden in (
        secret,
        secret.hex().encode(),
        *(base64.b64encode(b"x" * n + secret + b"yz") for n in range(5)),
        base64.urlsafe_b64encode(secret),
    ):
        desk.said = [b"before " + hidden + b" after"]
        assert desk.search(secret) == {"output 0"}, hidden
    desk.said = [canary("other").encode()]
    assert desk.search(secret) == set()
    (desk.project / "a.zst").write_bytes(zstandard.compress(b"xx" + secret))
    assert desk.search(secret) == {str(desk.project / "a.zst")}
