"""Real frames. Every number of a sample of the recordings is compared with an independent reading by `json` and `decimal`."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.kalshi.decode import Decoder
from journal.entry import Book, Control, Delta, Gap, Lifecycle, Ticker, Trade
from tests.recordings import directory, gold_files


class Line(msgspec.Struct):
    recv_ms: int
    event: msgspec.Raw


LINES = msgspec.json.Decoder(Line)


def frames(path: Path) -> Iterator[tuple[bytes, int]]:
    with gzip.open(path) as lines:
        for text in lines:
            line = LINES.decode(text)
            yield bytes(line.event), line.recv_ms * 1_000_000


def scaled(text: str, decimals: int) -> int:
    value = Decimal(text).scaleb(decimals)
    assert value == value.to_integral_value()
    return int(value)


def reading(event: dict[str, Any]) -> Any:
    """What the frame says, read another way: (kind, symbol, sid, seq, venue ms, numbers)."""
    msg = event["msg"]
    numbers: list[tuple[int, ...]] = []
    if event["type"] == "orderbook_delta":
        yes = msg["side"] == "yes"
        at = scaled(msg["price_dollars"], 6)
        numbers = [(at if yes else 1_000_000 - at, scaled(msg["delta_fp"], 2), not yes, 0)]
    elif event["type"] == "orderbook_snapshot":
        numbers = [(scaled(at, 6), scaled(size, 2), 0, 1) for at, size in msg.get("yes_dollars_fp", [])]
        numbers += [(1_000_000 - scaled(at, 6), scaled(size, 2), 1, 1) for at, size in msg.get("no_dollars_fp", [])]
    else:
        assert event["type"] == "trade"
        numbers = [(scaled(msg["yes_price_dollars"], 6), scaled(msg["count_fp"], 2), 1 if msg["taker_side"] == "yes" else 2)]
    return event["type"], msg["market_ticker"], event["sid"], event["seq"], msg.get("ts_ms", 0), numbers


def ours(item: Any) -> Any:
    body = item.body
    if isinstance(body, Delta):
        kind, numbers = "orderbook_delta", [tuple(c) for c in body.changes]
    elif isinstance(body, Book):
        kind, numbers = "orderbook_snapshot", [tuple(c) for c in body.levels]
    else:
        assert isinstance(body, Trade), body
        kind, numbers = "trade", [(body.price, body.size, body.aggressor)]
    return kind, item.symbol, item.subscription, item.venue_seq, item.venue_ns // 1_000_000, numbers


@pytest.mark.data
@pytest.mark.parametrize("nth", [0, 9, 18, 31])
def test_every_number_of_a_recording(nth: int) -> None:
    path = gold_files()[nth]
    adapter = KalshiAdapter(filtered=True)
    count = 0
    for data, recv_ns in frames(path):
        output = adapter.frame(data, recv_ns)
        own = [item for item in output.items if item.own]
        assert all(isinstance(item.body, Gap) and item.body.reason == "recording restarted" for item in own)
        assert ours(output.items[-1]) == reading(json.loads(data))
        count += 1
    assert count > 0
    assert (adapter.decoder.unparsed, adapter.decoder.unknown) == (0, {})


@pytest.mark.data
def test_single_frames_of_every_kind() -> None:
    lines = (directory() / "kalshi" / "frames" / "frames.jsonl").read_text().splitlines()
    decoder = Decoder()
    kinds: Counter[type] = Counter()
    for line in lines:
        frame = json.dumps(json.loads(line)["frame"]).encode()
        item, _ = decoder.decode(frame, 1_787_838_990_000_000_000)
        kinds[type(item.body)] += 1
        assert item.subscription == json.loads(frame).get("sid", item.subscription)
    assert kinds == {Control: 3, Book: 2, Delta: 1, Ticker: 1, Lifecycle: 5}
    assert (decoder.unparsed, decoder.unknown) == (0, {})
