"""The alert rules, by Prometheus' own promtool: they fire when they should, and the test notices when they do not."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
HOME = Path(sys.prefix) / "tools" / "promtool"


def promtool() -> str:
    """The machine's, else Debian's, unpacked beside the other tools; no daemon is installed."""
    if found := shutil.which("promtool"):
        return found
    binary = HOME / "usr" / "bin" / "promtool"
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not binary.exists():
            subprocess.run(["apt-get", "download", "prometheus"], cwd=HOME, check=True, capture_output=True)
            (package,) = HOME.glob("prometheus_*.deb")
            subprocess.run(["dpkg", "-x", package, HOME], check=True)
            package.unlink()
    return str(binary)


def run(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    subprocess.run([promtool(), "check", "rules", f"{name}.rules.yml"], cwd=folder, check=True, capture_output=True)
    return subprocess.run([promtool(), "test", "rules", f"{name}.rules.test.yml"], cwd=folder, check=False, capture_output=True, text=True)


# What is wrong when a word of the rules is another one.
SEEDED = {
    "keys": (("14 * 86400", "13 * 86400"), ("time() <= 0", "time() < -600"), ("min by", "max by"), ("warning", "notice")),
    "secmaster": (
        ("> 0", "> 3"),
        ('status="unknown"', 'status="active"'),
        ("2 * 3600", "3 * 3600"),
        ("max by", "min by"),
        ("for: 5m", "for: 15m"),
    ),
}


@pytest.mark.promtool
@pytest.mark.parametrize("name", SEEDED)
def test_the_alerts_fire_when_they_should(tmp_path: Path, name: str) -> None:
    shutil.copytree(RULES, tmp_path, dirs_exist_ok=True)
    done = run(tmp_path, name)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = tmp_path / f"{name}.rules.yml"
    text = rules.read_text()
    for said, instead in SEEDED[name]:
        assert said in text
        rules.write_text(text.replace(said, instead))
        assert run(tmp_path, name).returncode, f"nobody notices {instead}"


def test_the_rules_are_about_metrics_that_there_are() -> None:
    from ssmd.metrics import EXPIRES, MARKETS, SYNCED

    metrics = {"keys": {EXPIRES}, "secmaster": {MARKETS, SYNCED}}
    for file in RULES.glob("*.yml"):
        assert set(re.findall(r"\bssmd_\w+", file.read_text())) == metrics[file.name.partition(".")[0]]
