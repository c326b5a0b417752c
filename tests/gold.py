"""A small fold of the recordings that shares nothing with the product: json, dicts and `decimal`, straight from the venue's messages."""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

Ladder = dict[Decimal, Decimal]


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(recv_ms, event) of one file, in file order."""
    with gzip.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            yield row["recv_ms"], row["event"]


def merged(paths: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
    """All files by receive time, then by file, then by line."""

    def keyed(index: int, path: Path) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
        for number, (recv_ms, event) in enumerate(lines(path)):
            yield recv_ms, index, number, event

    for recv_ms, _, _, event in heapq.merge(*(keyed(i, p) for i, p in enumerate(paths)), key=lambda row: row[:3]):
        yield recv_ms, event


class Books:
    """Yes and no ladders by ticker."""

    def __init__(self) -> None:
        self.ladders: dict[str, dict[str, Ladder]] = {}
        self.trades: dict[str, int] = {}

    def apply(self, event: dict[str, Any]) -> None:
        msg = event["msg"]
        ticker = msg.get("market_ticker", "")
        if event["type"] == "orderbook_snapshot":
            self.ladders[ticker] = {side: {Decimal(p): Decimal(c) for p, c in msg.get(f"{side}_dollars_fp", [])} for side in ("yes", "no")}
        elif event["type"] == "orderbook_delta":
            ladder = self.ladders[ticker][msg["side"]]
            price = Decimal(msg["price_dollars"])
            left = ladder.get(price, Decimal(0)) + Decimal(msg["delta_fp"])
            assert left >= 0, (ticker, msg)
            if left:
                ladder[price] = left
            else:
                ladder.pop(price, None)
        elif event["type"] == "trade":
            self.trades[ticker] = self.trades.get(ticker, 0) + 1

    def shown(self, ticker: str) -> dict[str, list[list[str]]]:
        """Both ladders best first, as the venue writes numbers: the `yes` and `no` of ``ssmd book -o json``."""
        return {
            side: [[f"{p:.4f}", f"{c:.2f}"] for p, c in sorted(ladder.items(), reverse=True)]
            for side, ladder in self.ladders.get(ticker, {"yes": {}, "no": {}}).items()
        }
