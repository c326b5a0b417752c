"""Commands to Kalshi as text frames: ``{"id", "cmd", "params"}``, id from 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from journal.entry import canonical_json

# Tickers of one command: about 40 kB of JSON. The venue's own limit per subscription is not published (error 26).
CHUNK = 1_000


def _command(number: int, name: str, **params: Any) -> bytes:
    return canonical_json({"id": number, "cmd": name, "params": params})


def subscribe(number: int, channel: str, symbols: Sequence[str]) -> bytes:
    """Subscribe `channel`; no symbols means no filter, which only channels without one may use."""
    params: dict[str, Any] = {"channels": [channel]}
    if symbols:
        params["market_tickers"] = list(symbols)
    if channel == "ticker":
        params["send_initial_snapshot"] = True
    if channel == "orderbook_delta":
        params["use_yes_price"] = False  # said explicitly: its default is announced to flip, and we invert the no side ourselves
    return _command(number, "subscribe", **params)


def unsubscribe(number: int, sid: int) -> bytes:
    return _command(number, "unsubscribe", sids=[sid])


def update(number: int, sid: int, action: str, symbols: Sequence[str]) -> bytes:
    """`action` is add_markets, delete_markets or get_snapshot."""
    return _command(number, "update_subscription", sids=[sid], action=action, market_tickers=list(symbols))


def chunks(symbols: Sequence[str]) -> list[tuple[str, ...]]:
    """`symbols` in runs of at most `CHUNK`."""
    return [tuple(symbols[i : i + CHUNK]) for i in range(0, len(symbols), CHUNK)]
