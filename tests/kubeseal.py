"""Other people's SealedSecrets for tests: packages of npm, installed as locked in a folder of their own, run by Node."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "servers" / "kubeseal"
HOME = Path(sys.prefix) / "tools" / "kubeseal"
_FILES = ("package.json", "package-lock.json", "sealing.js")


def install() -> Path:
    """Make the folder if it is not there or not as locked; its script. Raises CalledProcessError or OSError when that fails."""
    HOME.mkdir(parents=True, exist_ok=True)
    stamp, wanted = HOME / ".installed", sha256(b"".join((SOURCE / name).read_bytes() for name in _FILES)).hexdigest()
    with (HOME.parent / "kubeseal.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            for name in _FILES:
                shutil.copyfile(SOURCE / name, HOME / name)
            # One of them asks for a newer Node than distributions have, and runs in theirs.
            argv: list[str | Path] = [
                "npm",
                "ci",
                "--prefix",
                HOME,
                "--ignore-scripts",
                "--no-fund",
                "--no-audit",
                "--engine-strict=false",
                "--loglevel=error",
            ]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            stamp.write_text(wanted)
    return HOME / "sealing.js"


def ask(action: str, **request: Any) -> Any:
    """What sealing.js answers. Raises CalledProcessError where it fails."""
    asked = json.dumps({"action": action, **request})
    answer = subprocess.run(["node", install()], input=asked, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(answer.stdout)
