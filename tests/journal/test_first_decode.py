"""Types that several threads may be the first to decode: msgspec learns a type at its first use, and crashes where two threads do."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
import msgspec
sys.setswitchinterval(1e-6)
from journal import manifest
from journal.subjects import Stream
data = msgspec.json.encode(manifest.new(Stream("local", shard="0"), "kalshi", 20260810, "software"))
barrier, found = threading.Barrier(8), []
def decode():
    barrier.wait()
    found.append(manifest.decode(data, "key").env)
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == ["local"] * 8, found
"""


def test_manifests_may_be_decoded_by_threads_from_the_first_on() -> None:
    for _ in range(8):  # each of which crashed in three of eight runs
        ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
