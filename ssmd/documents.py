"""Entries as documents: what `ssmd journal` prints, exact numbers as decimal strings."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from journal.codec import body_kind_name
from journal.day import iso
from journal.entry import Aggressor, Book, Change, Control, Delta, Entry, Event, Gap, Lifecycle, Op, Record, Side, Ticker, Trade
from journal.subjects import Stream
from ssmd.moments import rfc3339
from ssmd.render import LEAST_DECIMALS, decimal_text

_SIZES = {"bid_size", "ask_size", "last_size", "volume", "open_interest", "dollar_volume", "dollar_open_interest"}


def head(stream: Stream, record: Record) -> dict[str, Any]:
    """The fields every entry has."""
    sequence, e = record
    return {
        "position": f"{stream.name}:{sequence}",
        "recv_ns": e.recv_ns,
        "effective_ns": e.effective_ns,
        "venue_ns": e.venue_ns,
        "day": iso(e.day) if e.day else "",
        "feed": e.feed,
        "type": body_kind_name(e.body),
        "symbol": e.symbol,
        "epoch": e.epoch.hex(),
        "frame": e.frame,
        "part": e.part,
        "parts": e.parts,
        "subscription": e.subscription,
        "venue_seq": e.venue_seq,
    }


def line(stream: Stream, record: Record) -> dict[str, Any]:
    """One entry as `journal tail` shows it: without its frame."""
    return {**head(stream, record), "body": body(record.entry)}


def whole(stream: Stream, record: Record) -> dict[str, Any]:
    """One entry with everything it holds."""
    e = record.entry
    document = line(stream, record)
    document |= {"mono_ns": e.mono_ns, "price_exponent": e.price_exponent, "size_exponent": e.size_exponent}
    document["subject"] = stream.subject(e.feed, document["type"], e.symbol)
    document["raw"] = _raw(e.raw)
    document["raw_hash"] = e.raw_hash.hex()
    return document


def row(stream: Stream, record: Record) -> str:
    """One entry as a line for people."""
    e = record.entry
    kind = body_kind_name(e.body)
    return f"{stream.name}:{record.sequence:<9} {rfc3339(e.recv_ns):<30} {kind:<9} {e.symbol or '-':<28} {_summary(e)}"


def body(e: Entry) -> dict[str, Any]:
    """The body; prices and sizes as decimal strings."""
    b = e.body
    if isinstance(b, Trade):
        return {
            "price": _price(e, b.price), "size": _size(e, b.size), "aggressor": Aggressor(b.aggressor).name,
            "block": (False, True, None)[b.block], "trade_id": b.trade_id,
        }  # fmt: skip
    if isinstance(b, Book):
        return {"bids": _levels(e, b.levels, Side.bid), "asks": _levels(e, b.levels, Side.ask)}
    if isinstance(b, Delta):
        return {
            "changes": [
                {"side": Side(c.side).name, "op": Op(c.op).name, "price": _price(e, c.price), "size": _size(e, c.size)} for c in b.changes
            ]
        }
    if isinstance(b, Ticker):
        found = {n: getattr(b, n) for n in Ticker.__struct_fields__}
        return {n: (_size if n in _SIZES else _price)(e, v) for n, v in found.items() if v is not None}
    document: dict[str, Any] = msgspec.to_builtins(b)
    if isinstance(b, Lifecycle) and b.settlement_value is not None:
        document["settlement_value"] = _price(e, b.settlement_value)
    if isinstance(b, Event):
        document["data"] = _json(b.data)
    if isinstance(b, (Control, Lifecycle, Gap)) and b.detail:
        document["detail"] = _json(b.detail.encode())
    return document


def _price(e: Entry, value: int) -> str:
    return decimal_text(value, e.price_exponent, LEAST_DECIMALS.get(e.feed, (0, 0))[0])


def _size(e: Entry, value: int) -> str:
    return decimal_text(value, e.size_exponent, LEAST_DECIMALS.get(e.feed, (0, 0))[1])


def _levels(e: Entry, levels: tuple[Change, ...], side: Side) -> list[list[str]]:
    found = sorted((c for c in levels if c.side == side), key=lambda c: -c.price if side == Side.bid else c.price)
    return [[_price(e, c.price), _size(e, c.size)] for c in found]


def _json(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text.decode(errors="replace")


def _raw(raw: bytes) -> Any:
    """The frame: JSON as JSON, other text as text, anything else as ``{"b64"}``; None when there is none."""
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"b64": b64encode(raw).decode()}


def _summary(e: Entry) -> str:
    b, document = e.body, body(e)
    if isinstance(b, Trade):
        return f"{document['aggressor']} {document['size']} at {document['price']}"
    if isinstance(b, Delta):
        return ", ".join(f"{c['side']} {c['price']} {'=' if c['op'] == 'set' else ''}{c['size']}" for c in document["changes"])
    if isinstance(b, Book):
        bids, asks = document["bids"], document["asks"]
        return f"{len(bids)} bids, {len(asks)} asks, best {bids[0][0] if bids else '-'} / {asks[0][0] if asks else '-'}"
    return " ".join(f"{k}={_short(v)}" for k, v in document.items() if v not in ("", 0, None))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 100 else f"{text[:99]}…"
