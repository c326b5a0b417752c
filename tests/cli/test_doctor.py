"""What `ssmd doctor` says of servers that would lose what they acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from journal.clock import WallClock
from journal.link import Access, Link
from tests.cli.conftest import Ran, Ssmd
from tests.journal.servers import TOKEN, free_port, nats_server


def asked(ran: Ran, check: str) -> tuple[str, str]:
    return next((c["status"], c["detail"]) for c in ran.document if c["check"] == check)


@pytest.mark.parametrize(
    ("sync", "status", "says"),
    [
        ("sync_interval: always", "ok", "a power cut costs nothing acknowledged"),
        ("", "finding", "fsyncs every 120 s"),
        ("sync_interval: 10s", "finding", "fsyncs every 10 s"),
    ],
)
def test_the_sync_setting_of_a_server_with_a_monitoring_port(ssmd: Ssmd, tmp_path: Path, sync: str, status: str, says: str) -> None:
    monitor = free_port()
    extra = f'http: "127.0.0.1:{monitor}"\njetstream {{ store_dir: "{tmp_path}/store"\n{sync} }}'
    with nats_server(tmp_path, jetstream=False, extra=extra) as server:
        url = server.url.replace("//", f"//{TOKEN}@")
        ran = ssmd("doctor", "--nats", url, "--monitor", f"http://127.0.0.1:{monitor}", "-o", "json")
    found, detail = asked(ran, "sync")
    assert (found, ran.code) == (status, int(status == "finding")), ran
    assert says in detail
    assert TOKEN not in ran.out


def test_a_monitoring_port_that_is_away_or_anothers(ssmd: Ssmd, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    monitor = free_port()
    extra = f'http: "127.0.0.1:{monitor}"'
    with nats_server(tmp_path) as server, nats_server(tmp_path / "other", extra=extra):
        url = server.url.replace("//", f"//{TOKEN}@")
        for port, says in ((free_port(), "does not answer"), (monitor, "another server")):
            ran = ssmd("doctor", "--nats", url, "--monitor", f"http://127.0.0.1:{port}", "-o", "json")
            status, detail = asked(ran, "sync")
            assert (status, ran.code) == ("note", 0)
            assert says in detail


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"persist_mode": "async"}, "persist_mode async: a power cut loses"),
        ({"storage": "memory", "allow_atomic": True}, "gone when the server stops"),
        ({"max_age": 3_600_000_000_000, "allow_atomic": True}, "age limit"),
        ({"discard": "old", "allow_atomic": True}, "deletes the oldest"),
        ({}, "no atomic batches"),
    ],
)
def test_a_stream_that_breaks_a_promise(ssmd: Ssmd, tmp_path: Path, config: dict[str, Any], says: str) -> None:
    async def make(url: str) -> None:
        link = Link(Access(lambda: url, TOKEN), WallClock())
        wanted = {"name": "local_md_0", "subjects": ["local.kalshi.>"], "storage": "file", "discard": "new", **config}
        await link.api("STREAM.CREATE.local_md_0", wanted)
        await link.close()

    with nats_server(tmp_path) as server:
        asyncio.run(make(server.url))
        ran = ssmd("doctor", "--nats", server.url.replace("//", f"//{TOKEN}@"), "-o", "json")
    status, detail = asked(ran, "local_md_0")
    assert (status, ran.code) == ("finding", 1)
    assert says in detail
