"""The wheel holds the five packages, nothing else, every schema, YAML file and file of the page; and from it the page is served."""

from __future__ import annotations

import os
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
        archive.extractall(tmp_path / "installed")
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == PACKAGES
    wanted = {
        str(path.relative_to(source))
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.suffix in {".py", ".capnp", ".yaml", ".html", ".js", ".css", ".svg", ".LICENSE", ".lua"}
    }
    assert wanted <= set(names), sorted(wanted - set(names))

    def runs(*args: str) -> str:
        done = subprocess.run([sys.executable, *args], cwd=tmp_path / "installed", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert Path(runs("-c", "import ssmd; print(ssmd.__file__)").strip()).is_relative_to(tmp_path), "what is tested is not the wheel"
    served = ("-c", os.devnull, "--rootdir", str(tmp_path), "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider", "-q")
    runs("-m", "pytest", *served, str(ROOT / "tests" / "browser" / "test_page_served.py"))
