"""A key is rotated before the venue knows the new one: the capture goes on with the old one while its grace period lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from journal.clock import WallClock
from ssmd.keys.age import create_identity
from tests.journal.servers import free_port

KEY_ID = "5f3f1b0a-1111-4222-8333-abcdefabcdef"
ENVIRONMENT = """\
name: desk
feed: kalshi
keys:
  venue: {{type: api_key, fields: [key_id, private_key], source: age}}
venue:
  type: live
  key: venue
  endpoint: ws://127.0.0.1:{port}/trade-api/ws/v2
  rest: http://127.0.0.1:{port}/trade-api/v2
"""


def pem_of(key: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """Private and public."""
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


@pytest.mark.timeout(180)
def test_the_old_key_lets_in_until_its_grace_is_over(tmp_path: Path) -> None:
    port = free_port()
    (folder := tmp_path / "exchanges" / "environments").mkdir(parents=True)
    (tmp_path / "exchanges" / "feeds").symlink_to(Path(__file__).parents[2] / "exchanges" / "feeds")
    (folder / "desk.yaml").write_text(ENVIRONMENT.format(port=port))
    identity = tmp_path / "identity.age"
    create_identity(identity, WallClock())
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")} | {"SSMD_AGE_IDENTITY": str(identity)}
    ssmd = [sys.executable, "-m", "ssmd.cli"]

    def run(*args: str | Path, code: int = 0) -> str:
        done = subprocess.run([*ssmd, *args], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    known, public = pem_of(Ed25519PrivateKey.generate())
    (tmp_path / "public.pem").write_bytes(public)
    (tmp_path / "known.pem").write_bytes(known)
    (tmp_path / "next.pem").write_bytes(pem_of(Ed25519PrivateKey.generate())[0])
    log = tmp_path / ".ssmd" / "data" / "logs" / "connector.log"
    argv = [*ssmd, "sim", "kalshi", "--port", str(port), "--key-id", KEY_ID, "--key-file", str(tmp_path / "public.pem")]
    with subprocess.Popen(argv, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sim:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/sim/status", timeout=5):
                    break
                time.sleep(0.05)
            run("key", "set", "desk", "venue", "--key-id", KEY_ID, "--from-file", "private_key=known.pem")
            run("up", "--for", "3s")
            assert "refused" not in log.read_text()
            run("key", "rotate", "desk", "venue", "--from-file", "private_key=next.pem", "--grace", "1h")
            run("up", "--for", "3s")
            assert log.read_text().count("the venue refused the key; trying its values from before the last rotation") == 1
            run("key", "rotate", "desk", "venue", "--from-file", "private_key=next.pem", "--grace", "0s")
            assert "the key is likely wrong" in run("up", "--for", "5s", code=2)
        finally:
            sim.send_signal(signal.SIGTERM)
