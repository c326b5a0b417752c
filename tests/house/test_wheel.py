"""The wheel holds the five packages, nothing else, and every schema and YAML file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"ssmd", "journal", "projections", "exchanges", "replay"}


def test_the_wheel_holds_what_the_tree_holds(tmp_path: Path) -> None:
    subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True
    )  # the tree is a checkout; a wheel is built from its files only
    source = tmp_path / "source"
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    (source / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("ssmd_stream-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == PACKAGES
    wanted = {
        str(path.relative_to(source))
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.suffix in {".py", ".capnp", ".yaml", ".html", ".lua"}
    }
    assert wanted <= set(names), sorted(wanted - set(names))
