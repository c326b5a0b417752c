"""Frames to measure with: recorded ones where the recordings are, else seeded ones of the same shape."""

from __future__ import annotations

import gzip
import random
from uuid import UUID

import msgspec

from tests.recordings import gold_files

_MS_NS = 1_000_000


class _Line(msgspec.Struct):
    recv_ms: int
    event: msgspec.Raw


def frames(most: int) -> tuple[str, list[tuple[int, bytes]]]:
    """Where they are from, and up to `most` frames as (receive time in ns, bytes) in order of receipt.

    Recordings have milliseconds; the nanoseconds below are drawn, as a live capture would have them, or times would compress too well.
    """
    rng = random.Random(15)
    try:
        paths = gold_files()
    except FileNotFoundError:
        return "synthetic", _synthetic(rng, most)
    decode = msgspec.json.Decoder(_Line).decode
    found: list[tuple[int, int, int, bytes]] = []
    for file, path in enumerate(paths):
        with gzip.open(path) as lines:
            found += [(line.recv_ms, file, n, bytes(line.event)) for n, line in enumerate(map(decode, lines))]
        if len(found) >= 4 * most:
            break
    found.sort(key=lambda f: f[:3])
    return "recorded", [(ms * _MS_NS + rng.randrange(_MS_NS), raw) for ms, _, _, raw in found[-most:]]


def _synthetic(rng: random.Random, most: int) -> list[tuple[int, bytes]]:
    markets = [(f"KXGOLD15M-26AUG10{20 + n // 4}{n % 4 * 15:02}-{n % 4 * 15:02}", str(UUID(int=rng.getrandbits(128)))) for n in range(12)]
    at, found, seq = 1_786_000_000_000_000_000, [], [0, 0]
    for _ in range(most):
        at += int(rng.expovariate(1 / 3_000_000))
        ticker, market_id = rng.choice(markets)
        ms, price, size = at // _MS_NS - rng.randrange(40), rng.randrange(1, 100), rng.randrange(1, 50_000)
        if rng.random() < 0.03:
            seq[1] += 1
            frame = (
                f'{{"type":"trade","sid":2,"seq":{seq[1]},"msg":{{"trade_id":"{UUID(int=rng.getrandbits(128))}","market_ticker":"{ticker}",'
                f'"yes_price_dollars":"{price / 100:.4f}","no_price_dollars":"{1 - price / 100:.4f}","count_fp":"{size / 100:.2f}",'
                f'"taker_side":"yes","ts":{ms // 1000},"ts_ms":{ms}}}}}'
            )
        else:
            seq[0] += 1
            side, change = rng.choice(("yes", "no")), rng.choice((1, -1)) * size
            frame = (
                f'{{"type":"orderbook_delta","sid":1,"seq":{seq[0]},"msg":{{"market_ticker":"{ticker}","market_id":"{market_id}",'
                f'"price_dollars":"{price / 100:.4f}","delta_fp":"{change / 100:.2f}","side":"{side}",'
                f'"ts":"{ms // 1000}","ts_ms":{ms}}}}}'
            )
        found.append((at, frame.encode()))
    return found
