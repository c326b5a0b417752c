"""The server configuration that is shipped is one the server accepts, and as durable as the embedded one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from journal.guard import binary

ROOT = Path(__file__).resolve().parents[2]


def test_nats_accepts_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "nats.conf").read_text().replace("store_dir: /data", f"store_dir: {tmp_path}")
    config = tmp_path / "nats.conf"
    config.write_text(text)
    done = subprocess.run(
        [binary(), "-t", "-c", str(config)], env={**os.environ, "NATS_TOKEN": "t"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"sync_interval:\s*always", text)


def test_every_published_port_is_on_the_loopback() -> None:
    lists = re.findall(r"ports: \[(.+)\]", (ROOT / "docker-compose.yml").read_text())
    ports = [port.strip(' "') for found in lists for port in found.split(",")]
    assert (len(lists), len(ports)) == (3, 4)
    assert all(port.startswith("127.0.0.1:") for port in ports)
