"""`ssmd env apply`: what is made, changed and refused; twice is once; killed anywhere, it converges."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.subjects import Stream
from tests import ministack, valkey
from tests.cli import schema
from tests.cli.conftest import Ran, Ssmd, here
from tests.journal.servers import TOKEN, NatsServer, nats_server
from tests.metadata.backends import project, write

CLOCK = WallClock()
STREAMS = {"day", "dlq", "feedback", "key", "md_0", "md_import", "secmaster", "shard", "signals", "system"}
SECRET = "canary-of-the-tests-17"
DESK = """
keys:
  nats: {{type: transport, fields: [token]}}
  archive: {{type: storage, fields: [access_key_id, secret_access_key]}}
  spare: {{type: webhook, required: false, fields: [url]}}
journal: {{type: jetstream, url: "{nats}", token: $key:nats.token, max_stream_gib: 1}}
storage:
  type: s3
  bucket: {bucket}
  endpoint: {s3}
  region: us-east-1
  access_key_id: $key:archive.access_key_id
  secret_access_key: $key:archive.secret_access_key
cache: {{type: redis, url: "{redis}"}}
shards:
  gold: {{selector: {{series: [KXGOLD]}}}}
  "0": {{selector: {{series: [KXBTC]}}}}
"""


@pytest.fixture
def ssmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ssmd:
    """Run one command line in this process, in a project of its own."""
    for name in [n for n in os.environ if n.startswith("SSMD_") and n != "SSMD_TEST"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    project(tmp_path, kalshi="stage: dev\n", kalshi_dev="stage: dev\n")

    return here(capsys)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NatsServer, ministack.Server, valkey.Valkey]]:
    place = tmp_path_factory.mktemp("servers")
    (place / "nats").mkdir()
    with nats_server(place / "nats") as nats, ministack.running(place / "s3") as s3, valkey.running(place / "valkey") as redis:
        yield nats, s3, redis


def actions(ran: Ran) -> dict[str, str]:
    schema.check("env-apply", ran.document)
    return {step["resource"]: step["action"] for step in ran.document["plan"]}


def test_everything_is_made_once(ssmd: Ssmd, tmp_path: Path) -> None:
    dry = ssmd("env", "apply", "kalshi", "--dry-run", "-o", "json")
    assert dry.code == 0, dry.err
    assert not (tmp_path / ".ssmd").exists(), "looking makes nothing, and starts no server"
    plan = actions(dry)
    assert {name for name, action in plan.items() if action == "create"} == {
        *(f"stream kalshi_{s}" for s in STREAMS), f"objects in {tmp_path / '.ssmd/data/objects'}", "configuration in the journal",
    }  # fmt: skip
    assert plan["consumers"] == "keep"
    assert (dry.document["applied"], dry.document["configuration"]) == (False, None)

    first = ssmd("env", "apply", "kalshi", "-o", "json")
    assert first.code == 0, first.err
    assert actions(first) == plan
    assert first.document["configuration"]["position"] == "kalshi_system:1"
    assert (tmp_path / ".ssmd/data/objects").is_dir()
    rows = ssmd("journal", "streams", "--env", "kalshi", "-o", "json")
    assert {row["stream"] for row in rows.document} == {f"kalshi_{s}" for s in STREAMS}

    again = ssmd("--env", "kalshi", "env", "apply", "-o", "json")
    assert set(actions(again).values()) == {"keep"}
    assert "nothing to do" in again.err
    assert again.document["applied"] is False
    assert ssmd("env", "apply", "kalshi", "--env", "kalshi-dev").code == 2


def test_a_changed_file_is_another_configuration(ssmd: Ssmd, tmp_path: Path) -> None:
    assert ssmd("env", "apply", "kalshi", "-o", "json").code == 0
    write(tmp_path, "kalshi", "stage: dev\ndescription: changed\n")
    ran = ssmd("env", "apply", "kalshi", "-o", "json")
    assert {name for name, action in actions(ran).items() if action != "keep"} == {"configuration in the journal"}
    assert ran.document["configuration"]["position"] == "kalshi_system:2"
    shown = ssmd("journal", "show", "kalshi_system:2", "--env", "kalshi", "-o", "json").document
    assert "changed" in json.dumps(shown)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("schedule: {timezone: Mars/Olympus}\n", "timezone"),
        ("stage: prod\nschema: nothing\n", "nothing"),
        ("keys: {nats: {type: transport, fields: [token, other]}}\n", "nats has no token, other; set them with `ssmd key set kalshi"),
        ("cache: {type: redis, url: 'redis://127.0.0.1:1/0'}\n", "is it running"),
    ],
)
def test_what_cannot_run_makes_nothing(ssmd: Ssmd, tmp_path: Path, text: str, match: str) -> None:
    write(tmp_path, "kalshi", text)
    ran = ssmd("env", "apply", "kalshi", "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert match in ran.err
    assert ssmd("journal", "streams", "--env", "kalshi", "-o", "json").out in ("", "[]\n"), "no stream was made"


def test_a_desk(ssmd: Ssmd, tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nats, s3, redis = servers
    write(tmp_path, "desk", DESK.format(nats=nats.url, s3=s3.endpoint, redis=redis.url, bucket="apply-desk"))
    missing = ssmd("env", "apply", "desk", "--yes")
    assert missing.code == 2
    assert "nats has no token; archive has no access_key_id, secret_access_key" in missing.err
    monkeypatch.setenv("SSMD_NATS_TOKEN", TOKEN)
    monkeypatch.setenv("SSMD_ARCHIVE_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("SSMD_ARCHIVE_SECRET_ACCESS_KEY", SECRET)

    assert set(actions(ssmd("env", "apply", "desk", "--dry-run", "-o", "json")).values()) == {"create", "keep"}
    ran = ssmd("env", "apply", "desk", "-o", "json")
    assert ran.code == 0, ran.err
    assert {n for n in actions(ran) if n.startswith("stream ")} == {f"stream desk_{s}" for s in STREAMS | {"md_gold"}}
    assert set(actions(ssmd("env", "apply", "desk", "-o", "json")).values()) == {"keep"}

    async def spoil(settings: dict[str, Any], stream: str) -> None:
        async with AsyncExitStack() as opened:
            journal = await JetStreamJournal.connect(nats.url, CLOCK, token=TOKEN)
            opened.push_async_callback(journal.close)
            config = (await journal._link.api(f"STREAM.INFO.{stream}"))["config"]
            if "storage" in settings:
                await journal._link.api(f"STREAM.DELETE.{stream}")
                await journal._link.api(f"STREAM.CREATE.{stream}", {**config, **settings})
            else:
                await journal._link.api(f"STREAM.UPDATE.{stream}", {**config, **settings})

    asyncio.run(spoil({"max_age": 3600 * 10**9, "max_bytes": 2 << 30}, "desk_md_gold"))
    asked = ssmd("env", "apply", "desk", "-o", "json")
    assert (asked.code, asked.out) == (2, "")
    assert "desk_md_gold would be changed; nothing was done: say --yes" in asked.err
    changed = ssmd("env", "apply", "desk", "--yes", "-o", "json")
    assert {n for n, a in actions(changed).items() if a == "update"} == {"stream desk_md_gold"}
    assert set(actions(ssmd("env", "apply", "desk", "-o", "json")).values()) == {"keep"}

    asyncio.run(spoil({"storage": "memory"}, "desk_day"))
    asyncio.run(spoil({"max_age": 3600 * 10**9}, "desk_md_gold"))
    refused = ssmd("env", "apply", "desk", "--yes", "-o", "json")
    assert refused.code == 2
    assert "stream desk_day has storage memory, wanted storage file (JetStream never changes it" in refused.err
    shown = ssmd("journal", "show", "desk_system:1", "--env", "desk", "-o", "json")
    assert "$key:nats.token" in shown.out
    for told in (missing, ran, asked, changed, refused, shown):
        assert SECRET not in told.out + told.err
        assert TOKEN not in told.out + told.err


def test_a_bucket_elsewhere_is_refused(ssmd: Ssmd, tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, s3, _ = servers
    monkeypatch.setenv("SSMD_ARCHIVE_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("SSMD_ARCHIVE_SECRET_ACCESS_KEY", "test")
    text = """
keys: {{archive: {{type: storage, fields: [access_key_id, secret_access_key]}}}}
storage: {{type: s3, bucket: apply-elsewhere, endpoint: "{s3}", region: {region}, access_key_id: $key:archive.access_key_id,
  secret_access_key: $key:archive.secret_access_key}}
"""
    write(tmp_path, "kalshi", text.format(s3=s3.endpoint, region="eu-west-1"))
    assert ssmd("env", "apply", "kalshi").code == 0
    write(tmp_path, "kalshi", text.format(s3=s3.endpoint, region="us-east-1"))
    ran = ssmd("env", "apply", "kalshi")
    assert ran.code == 2
    assert "bucket apply-elsewhere is in region eu-west-1, not us-east-1" in ran.err


def test_killed_at_any_moment_it_converges(ssmd: Ssmd, tmp_path: Path) -> None:
    rng = random.Random(20261122)
    command = [sys.executable, "-m", "ssmd.cli", "env", "apply", "kalshi", "-o", "json"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    began = time.monotonic()
    subprocess.run([*command[:-3], "kalshi-dev", "-o", "json"], env=environ, cwd=tmp_path, check=True, capture_output=True)
    whole_s = time.monotonic() - began
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(whole_s / 3, whole_s))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 3
    last = ssmd("env", "apply", "kalshi", "-o", "json")
    assert last.code == 0, last.err
    assert set(actions(ssmd("env", "apply", "kalshi", "-o", "json")).values()) == {"keep"}

    async def configurations() -> list[int]:
        from ssmd.settings import Settings
        from ssmd.wiring import open_journal

        async with open_journal(Settings.read({"env": "kalshi"}, {}, tmp_path), CLOCK, read_only=True) as journal:
            return [r.sequence async for rs in journal.read(Stream("kalshi", domain="system")) for r in rs]

    assert asyncio.run(configurations()) == [1], "journalled once, however often it was killed"
