"""Markets and their changes as commands print and export them: exact numbers as decimal strings, times RFC 3339 for people."""

from __future__ import annotations

from typing import Any

import msgspec

from journal.entry import Event, Record
from journal.market import Change, Market
from journal.subjects import Stream
from projections.secmaster import change_of, expires_ns
from ssmd.moments import rfc3339
from ssmd.render import decimal_text, plain
from ssmd.secmaster.past import Past

_LIST_TITLE = 60
_NARROW = ("symbol", "status", "expires", "title")
_WIDE = 160


def line(symbol: str, market: Market) -> dict[str, Any]:
    """One market of a list."""
    return {
        "symbol": symbol, "status": market.status, "category": market.category, "series": market.series,
        "open": _short(market.open_ns), "close": _short(market.close_ns), "expires": _short(expires_ns(market)), "result": market.result,
        "title": market.title,
    }  # fmt: skip


def shortened(row: dict[str, Any], width: int) -> dict[str, Any]:
    """For a table on a terminal of `width` columns: on a narrow one what tells markets apart."""
    title = row["title"]
    shown = row if width >= _WIDE else {name: row[name] for name in _NARROW} | {"expires": row["expires"][:16]}
    return {**shown, "title": title if len(title) <= _LIST_TITLE else f"{title[: _LIST_TITLE - 1]}…"}


def whole(market: Market) -> dict[str, Any]:
    """Every field; times as nanoseconds."""
    document: dict[str, Any] = {}
    for name in Market.__struct_fields__:
        value = getattr(market, name)
        if name == "price_ranges":
            value = [[decimal_text(n, market.price_exponent) for n in (r.start, r.end, r.step)] for r in value]
        elif name == "settlement_value" and value is not None:
            value = decimal_text(value, market.price_exponent)
        elif name == "strike_custom":
            value = _json(value.encode())
        document[name] = msgspec.to_builtins(value)
    return document


def shown(symbol: str, past: Past, stream: Stream) -> dict[str, Any]:
    """One market with when it was first seen and last changed, and what the venue said last."""
    known, sequence, raw = past
    head = {"symbol": symbol, "status": "removed"} if known.market is None else whole(known.market)
    return head | {
        "first_seen_ns": known.first_ns, "changed_ns": known.changed_ns, "changes": known.changes,
        "position": f"{stream.name}:{sequence}",
        "raw": _json(raw),
    }  # fmt: skip


def readable(document: dict[str, Any]) -> dict[str, Any]:
    """The same for people: times in words, nothing that is not said."""
    return {
        name.removesuffix("_ns"): rfc3339(value) if name.endswith("_ns") else value
        for name, value in document.items()
        if value not in ("", 0, None, [], (), {}) and name != "raw"
    }


def change(stream: Stream, record: Record) -> dict[str, Any] | None:
    """One change; None for an entry that is none."""
    sequence, entry = record
    found = change_of(entry)
    if found is None or not isinstance(entry.body, Event):
        return None
    return {
        "position": f"{stream.name}:{sequence}", "effective_ns": entry.effective_ns, "at_ns": found.at_ns, "symbol": found.symbol,
        "change": found.change, "source": found.source, "derived": found.derived, "fields": _fields(found), "who": entry.body.who,
        "causation": entry.body.causation, "correlation": entry.body.correlation,
    }  # fmt: skip


def change_line(document: dict[str, Any]) -> str:
    """One change as a line for people."""
    said = " ".join(_changed(name, old, new) for name, (old, new) in document["fields"].items())
    mark = " (derived)" if document["derived"] else ""
    what = f"{document['change'].removeprefix('market_')}{mark}"
    return f"{_short(document['at_ns'])}  {plain(document['symbol']):<34} {what:<16} {document['source']:<9} {said}".rstrip()


def _json(text: bytes) -> Any:
    """As JSON; as text what is none, None what is empty."""
    try:
        return msgspec.json.decode(text) if text else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text.decode(errors="replace")


def _fields(found: Change) -> dict[str, Any]:
    if found.market is not None:
        return {"status": [None, found.market.status], "title": [None, found.market.title]}
    return {name: list(pair) for name, pair in found.fields.items()}


def _changed(name: str, old: Any, new: Any) -> str:
    if name.endswith("_ns"):
        return f"{name.removesuffix('_ns')}: {_short(old) or 'null'} -> {_short(new) or 'null'}"
    return f"{name}: {_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    text = plain(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _short(ns: int) -> str:
    """To the second."""
    return rfc3339(ns)[:19] + "Z" if ns else ""
