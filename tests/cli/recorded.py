"""Small recordings in Kalshi's current format, made for tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

START_MS = 1_786_405_577_251  # 2026-08-10T23:46:17.251Z
MIDNIGHT_MS = 1_786_406_400_000


def snapshot(at_ms: int, symbol: str, seq: int, yes: list[list[str]], no: list[list[str]], *, sid: int = 1) -> dict[str, Any]:
    message: dict[str, Any] = {"market_ticker": symbol, "market_id": "6aee5007-b5b2-4299-944d-1ad3393a9a17"}
    message |= {"yes_dollars_fp": yes} if yes else {}
    message |= {"no_dollars_fp": no} if no else {}
    return {"recv_ms": at_ms, "event": {"type": "orderbook_snapshot", "sid": sid, "seq": seq, "msg": message}}


def delta(at_ms: int, symbol: str, seq: int, side: str, price: str, *, size: str, sid: int = 1) -> dict[str, Any]:
    message = {
        "market_ticker": symbol, "market_id": "6aee5007-b5b2-4299-944d-1ad3393a9a17", "price_dollars": price, "delta_fp": size,
        "side": side, "ts": "2026-08-10T23:46:17.241218Z", "ts_ms": at_ms - 10,
    }  # fmt: skip
    return {"recv_ms": at_ms, "event": {"type": "orderbook_delta", "sid": sid, "seq": seq, "msg": message}}


def trade(at_ms: int, symbol: str, seq: int, price: str, size: str, *, number: int, sid: int = 2) -> dict[str, Any]:
    message = {
        "trade_id": f"00000000-0000-4000-8000-{number:012x}", "market_ticker": symbol, "yes_price_dollars": price,
        "no_price_dollars": f"{1 - float(price):.4f}", "count_fp": size, "taker_side": "yes", "taker_outcome_side": "yes",
        "taker_book_side": "bid", "ts": at_ms // 1000, "ts_ms": at_ms - 10,
    }  # fmt: skip
    return {"recv_ms": at_ms, "event": {"type": "trade", "sid": sid, "seq": seq, "msg": message}}


def market(symbol: str, *, start_ms: int = START_MS, deltas: int = 20, step_ms: int = 100, seq: int = 1_000) -> list[dict[str, Any]]:
    """A snapshot, deltas on both sides and a trade after every fifth."""
    made = [snapshot(start_ms, symbol, seq, [["0.4000", "100.00"], ["0.4100", "12.00"]], [["0.5500", "7.50"]])]
    at_ms = start_ms
    for n in range(deltas):
        at_ms += step_ms
        made.append(delta(at_ms, symbol, seq + 2 * n + 1, "no" if n % 2 else "yes", f"0.{30 + n % 9:02d}00", size=f"{n + 1}.25"))
        if n % 5 == 4:
            made.append(trade(at_ms, symbol, seq + n, "0.4100", "1.25", number=n))
    return made


def write(path: Path, records: list[dict[str, Any]] | bytes) -> Path:
    """The records as JSON lines, or bytes as they are; gzip by the name."""
    data = records if isinstance(records, bytes) else b"".join(json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path
