"""Servers and programs that tests use, each in a virtual environment of its own: they pin what we do not, or are large."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from hashlib import sha256
from pathlib import Path


def environment(name: str) -> Path:
    """The ``bin`` of tool `name`, installed as ``servers/NAME.lock`` says unless it is. Raises CalledProcessError when that fails."""
    lock = Path(__file__).parent / "servers" / f"{name}.lock"
    home = Path(sys.prefix) / "tools" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    stamp, wanted = home / ".installed", sha256(lock.read_bytes()).hexdigest()
    with (home.parent / f"{name}.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            python = home / "bin" / "python"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
            uv = Path(sys.prefix) / "bin" / "uv"
            sync: list[str | Path] = [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock]
            # As in the Makefile: the second try trusts the machine's own certificates too.
            if subprocess.run(sync, check=False, capture_output=True).returncode:
                subprocess.run([*sync, "--system-certs"], check=True)
            stamp.write_text(wanted)
    return home / "bin"
