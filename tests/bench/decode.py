"""Decoding frames: ours, to exact integers, against json to a dict, the same with exact numbers, and msgspec to typed text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from statistics import median
from typing import Any

import msgspec

from exchanges.kalshi import wire
from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.kalshi.decode import Decoder
from tests.bench.frames import frames

FRAMES = 50_000
RUNS = 5
Sample = list[tuple[int, bytes]]


def _json(sample: Sample) -> int:
    return sum(len(json.loads(data)) for _, data in sample)


def _exact(frame: dict[str, Any]) -> list[tuple[int, int]]:
    """The numbers that ours has, by the textbook."""
    msg = frame["msg"]
    if frame["type"] == "orderbook_delta":
        pairs = [(msg["price_dollars"], msg["delta_fp"])]
    elif frame["type"] == "trade":
        pairs = [(msg["yes_price_dollars"], msg["count_fp"])]
    else:
        pairs = [*msg.get("yes_dollars_fp", ()), *msg.get("no_dollars_fp", ())]
    return [(int(Decimal(at).scaleb(6)), int(Decimal(size).scaleb(2))) for at, size in pairs]


def _json_exact(sample: Sample) -> int:
    return sum(len(_exact(json.loads(data))) for _, data in sample)


def _msgspec(sample: Sample) -> int:
    decode = msgspec.json.Decoder(wire.Frame).decode
    return sum(decode(data).sid for _, data in sample)


def _ours(sample: Sample) -> int:
    decode = Decoder().decode
    return sum(decode(data, recv_ns)[0].subscription for recv_ns, data in sample)


def _adapter(sample: Sample) -> int:
    frame = KalshiAdapter(filtered=True).frame
    return sum(len(frame(data, recv_ns).items) for recv_ns, data in sample)


WAYS: tuple[tuple[str, Callable[[Sample], int]], ...] = (
    ("json to dict, numbers left as text", _json),
    ("json to dict, numbers exact by decimal", _json_exact),
    ("msgspec to structs, numbers left as text", _msgspec),
    ("ours: decoder, exact integers, all eras", _ours),
    ("ours: adapter, with sequence tracking", _adapter),
)


def run(out: Callable[[str], None]) -> None:
    """Print the table."""
    source, sample = frames(FRAMES)
    out(f"{len(sample)} {source} frames, {sum(len(data) for _, data in sample) / len(sample):.0f} bytes each, median of {RUNS}")
    times: dict[str, list[float]] = {name: [] for name, _ in WAYS}
    for _ in range(RUNS):  # side by side: every way in each round
        for name, way in WAYS:
            start = time.perf_counter()
            way(sample)
            times[name].append((time.perf_counter() - start) / len(sample) * 1e6)
    ours = median(times["ours: decoder, exact integers, all eras"])
    for name, _ in WAYS:
        micros = median(times[name])
        out(f"  {name:44} {micros:6.2f} us a frame {1e6 / micros:11,.0f}/s   {micros / ours:5.2f} x our decoder's time")
