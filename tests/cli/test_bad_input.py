"""Issue by issue, what people do wrong: each time one clear message, exit 2, nothing half-written."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Ssmd
from tests.cli.recorded import market, write
from tests.journal.servers import TOKEN, nats_server

ROOT = Path(__file__).resolve().parents[2]


def refused(ran: Ran, *said: str) -> None:
    assert ran.code == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.err.startswith(("ssmd: ", "Usage: "))
    for text in said:
        assert text in ran.err, ran.err


def run(*args: str | Path, data: Path) -> Ran:
    """In a process of its own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")} | {"SSMD_DATA": str(data)}
    ran = subprocess.run(
        [sys.executable, "-m", "ssmd.cli", *map(str, args)], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("damage", ["gzip truncated", "gzip corrupt", "lines truncated", "line damaged"])
def test_a_damaged_recording_among_good_ones_imports_nothing(tmp_path: Path, damage: str) -> None:
    good = write(tmp_path / "good.ndjson", market("A"))
    data = write(tmp_path / "bad", market("B")).read_bytes()
    bad = tmp_path / "bad.ndjson.gz"
    packed = gzip.compress(data)
    bad.write_bytes(
        {
            "gzip truncated": packed[:-40],
            "gzip corrupt": packed[:100] + b"\0" * 50 + packed[150:],
            "lines truncated": data[:-50],
            "line damaged": data.replace(b'"sid":1', b'"sid":', 1),
        }[damage]
    )
    ran = run("data", "import", "--feed", "kalshi", good, bad, data=tmp_path / "data")
    refused(ran, str(bad), "nothing was imported")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_nothing_to_import(ssmd: Ssmd, tmp_path: Path) -> None:
    refused(ssmd("data", "import", "--feed", "kalshi", tmp_path / "none"), "no such file")
    refused(ssmd("data", "import", "--feed", "kalshi", write(tmp_path / "empty.ndjson", b"")), "nothing to import")
    refused(ssmd("data", "import", "--feed", "nyse", tmp_path), "kalshi")
    refused(ssmd("data", "import", tmp_path), "--feed")


@pytest.mark.parametrize(
    "args", [["journal", "tail"], ["journal", "streams"], ["journal", "show", "local_md_0:1"], ["book", "X"], ["replay", "--date", "today"]]
)
def test_an_empty_data_directory_starts_nothing(ssmd: Ssmd, tmp_path: Path, args: list[str]) -> None:
    refused(ssmd(*args), str(tmp_path / "data"), "ssmd")
    assert not (tmp_path / "data" / "nats").exists()


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nats_that_is_not_there(ssmd: Ssmd) -> None:
    url = f"nats://s3cret@127.0.0.1:{_unused_port()}"
    ran = ssmd("journal", "tail", "--nats", url)
    refused(ran, "cannot reach NATS", "is it running")
    assert "s3cret" not in ran.err
    assert ssmd("doctor", "--nats", url, "-o", "json").code == 2


@contextlib.contextmanager
def old_server(version: str) -> Iterator[str]:
    """Speaks just enough NATS to say how old it is."""
    info = {"server_id": "x", "version": version, "proto": 1, "headers": True, "max_payload": 1 << 20, "jetstream": True}
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.sendall(b"INFO " + json.dumps(info).encode() + b"\r\n")
                    while data := client.recv(4096):
                        client.sendall(b"PONG\r\n" * data.count(b"PING\r\n"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"nats://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_nats_that_is_too_old(ssmd: Ssmd) -> None:
    with old_server("2.9.10") as url:
        refused(ssmd("journal", "streams", "--nats", url), "2.9.10", "2.14", "upgrade")
        ran = ssmd("doctor", "--nats", url, "-o", "json")
        assert ran.code == 1
        assert "2.9.10" in {c["check"]: c["detail"] for c in ran.document}["journal"]


def test_replicas_on_one_server(ssmd: Ssmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMD_REPLICAS", "3")
    recording = write(tmp_path / "a.ndjson", market("A"))
    with nats_server(tmp_path) as server:
        url = server.url.replace("//", f"//{TOKEN}@")
        refused(ssmd("data", "import", "--feed", "kalshi", recording, "--nats", url), "replicas")


def test_a_data_directory_that_is_a_file(ssmd: Ssmd, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a directory")
    recording = write(tmp_path / "a.ndjson", market("A"))
    refused(ssmd("data", "import", "--feed", "kalshi", recording), str(tmp_path / "data"))
    refused(ssmd("run", "projector"), str(tmp_path / "data"))
    assert (tmp_path / "data").read_text() == "not a directory"


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(not (shutil.which("mount") and os.geteuid() == 0), reason="needs root to mount a small file system")
def test_a_full_disk_says_so_and_the_import_goes_on_when_there_is_room(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.ndjson", market("A", deltas=30_000, step_ms=1))
    disk = tmp_path / "disk"
    with mounted(disk, "size=6m"):
        ran = run("data", "import", "--feed", "kalshi", recording, data=disk / "data")
        assert (ran.code, ran.out) == (2, "")
        assert "Traceback" not in ran.err
        assert any(word in ran.err for word in ("full", "room", "space")), ran.err
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        ran = run("data", "import", "--feed", "kalshi", recording, "-o", "json", data=disk / "data")
        assert ran.code == 0, ran.err
        assert ran.document["frames"] == 36_001
        ran = run("replay", "--date", "2026-08-10", "--verify", "-o", "json", data=disk / "data")
        assert ran.code == 0, ran.err
        shown = run("journal", "streams", "-o", "json", data=disk / "data").document
        (entries,) = [s["last"] for s in shown if s["stream"] == "local_md_import"]
        assert 36_001 < entries < 36_020


@pytest.mark.skipif(not (shutil.which("mount") and os.geteuid() == 0), reason="needs root to mount a small file system")
def test_a_read_only_disk(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.ndjson", market("A"))
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m,ro"):
        refused(run("data", "import", "--feed", "kalshi", recording, data=disk / "data"), str(disk), "ead-only")
        ran = run("doctor", "-o", "json", data=disk / "data")
        assert ran.code in {1, 2}
        assert {c["check"]: c["status"] for c in ran.document}["data directory"] == "finding"


def test_a_connector_needs_its_key(ssmd: Ssmd, tmp_path: Path) -> None:
    refused(ssmd("run", "connector"), "--key-id")
    refused(ssmd("run", "connector", "--key-id", "x"), "belong together")
    key = "11111111-2222-3333-4444-555555555555"
    refused(ssmd("run", "connector", "--key-id", key, "--key-file", tmp_path / "none.pem"), "none.pem")
    (tmp_path / "bad.pem").write_text("no key")
    refused(ssmd("run", "connector", "--key-id", key, "--key-file", tmp_path / "bad.pem"), "private key")
    refused(ssmd("run", "connector", "--feed", "nyse"), "kalshi")
    assert not (tmp_path / "data").exists()


def test_a_project_where_nothing_can_be_made(ssmd: Ssmd, tmp_path: Path) -> None:
    (tmp_path / "exchanges").write_text("a file, not a folder")
    refused(ssmd("init", str(tmp_path)), f"cannot make a project in {tmp_path}: ", "exchanges/feeds: Not a directory")
    assert [p.name for p in tmp_path.iterdir()] == ["exchanges"]
