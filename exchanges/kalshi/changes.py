"""What changes a Kalshi market: its lifecycle messages, the time, and a newer definition of it.

A market's `venue_status` is what the venue last said; its `status` is that, moved on by the times at which the venue opens and closes
without saying so. So a definition which still says "initialized" a moment after the opening (answers come from a cache, up to 15 s old)
does not undo it, and a market that the venue opens late shows by the difference of the two.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from exchanges.kalshi.definitions import MAX_TEXT, VENUE_STATUS, EventFacts, decode_object, stated
from exchanges.kalshi.numbers import PRICE_EXPONENT, SECOND_NS, SIZE_EXPONENT, BadFrame, instant_ns
from journal.entry import Entry, Lifecycle
from journal.market import Change, Market, Status, apply, compare

# Event of a message -> the status that REST then shows; "" where it leaves that as it is.
EVENTS = {
    "created": "",
    "activated": "active",
    "deactivated": "inactive",
    "close_date_updated": "",
    "determined": "determined",
    "settled": "finalized",
    "price_level_structure_updated": "",
    "metadata_updated": "",
}
# Entries of the same kind that are no messages about one market: definitions that we journal, and what is of an event.
_OTHERS = frozenset({"rest", "definition", "event_lifecycle", "event_fee_update"})
COMBINATION = (
    "KXMVE"  # how series of combinations begin: millions of markets, which definitions leave out and messages did not until March 2026
)
_RANK: dict[Status, int] = {"unknown": 0, "pending": 1, "active": 1, "paused": 1, "closed": 1, "determined": 2, "settled": 3}
_TIMES = ("open_ns", "close_ns", "determined_ns", "settled_ns")
_NEEDED = {"event_ticker": "event", "open_ts": "open_ns", "close_ts": "close_ns", "price_ranges": "price_ranges"}


def derived_changes(market: Market, now_ns: int) -> list[Change]:
    """What nobody announces: opened when the open time was reached, closed at the close time. `at_ns` is that time."""
    out: list[Change] = []
    status = market.status
    for before, after, at_ns in (("pending", "active", market.open_ns), ("active", "closed", market.close_ns)):
        if status == before and 0 < at_ns <= now_ns:
            fields = {"status": (before, after)}
            out.append(
                Change(change="market_status_changed", symbol=market.symbol, source="derived", at_ns=at_ns, derived=True, fields=fields)
            )
            status = after  # type: ignore[assignment]  # both are statuses
    return out


def lifecycle_changes(market: Market | None, entry: Entry) -> list[Change]:
    """What a message of ``market_lifecycle_v2`` changes, after what was due before it; none for other entries.

    A message about a market that nobody has defined changes nothing, unless it creates it: the next synchronisation knows more of it. One
    that says what has no name here marks the market, until a definition of it is read again.
    """
    body = entry.body
    if not isinstance(body, Lifecycle) or body.event in _OTHERS:
        return []
    at_ns = entry.effective_ns
    if market is None:
        if body.event != "created":
            return []
        new = _created(entry.symbol, body)
        if new.series.startswith(COMBINATION):
            return []
        return [*compare(None, new, "lifecycle", at_ns), *derived_changes(new, at_ns)]
    due = derived_changes(market, at_ns)
    now = _after(market, due)
    if body.event not in EVENTS:
        marked = replace(now, flaws=tuple(sorted({*now.flaws, "event_type"})))
        return [*due, *compare(now, marked, "lifecycle", at_ns)]
    return [*due, *compare(now, _told(now, body, at_ns), "lifecycle", at_ns)]


def observed_changes(old: Market | None, new: Market, raw: bytes, now_ns: int, source: str = "rest") -> list[Change]:
    """What the definition `new` (object `raw`, read at `now_ns`) changes of `old`, after what was due before it.

    Unlike `journal.market.compare` it keeps what a definition cannot say (when it was determined), and what is newer than the definition.
    """
    if old is None:
        return [*compare(None, new, source, now_ns), *derived_changes(new, now_ns)]
    due = derived_changes(old, now_ns)
    now = _after(old, due)
    return [*due, *compare(now, _kept(now, new, raw, now_ns), source, now_ns)]


def _after(market: Market, changes: list[Change]) -> Market:
    for change in changes:
        market = apply(market, change) or market
    return market


def _timed(market: Market, now_ns: int) -> Market:
    return _after(market, derived_changes(market, now_ns))


def _created(symbol: str, body: Lifecycle) -> Market:
    fields, flaws = _said(body)
    flaws += [name for name, ours in _NEEDED.items() if not fields.get(ours)]
    event = EventFacts(fields.get("event", ""))
    return Market(
        symbol=symbol,
        # The message does not name it. Where the guess is wrong the next synchronisation mends it, and adds category and tags.
        series=event.ticker.partition("-")[0],
        status="pending",
        venue_status="initialized",
        price_exponent=PRICE_EXPONENT,
        size_exponent=SIZE_EXPONENT,
        flaws=tuple(sorted(set(flaws))),
        **fields,
    )


def _told(market: Market, body: Lifecycle, at_ns: int) -> Market:
    """The market after a message about it."""
    fields, flaws = _said(body)
    said = _word(market, body.event, at_ns)
    for name in _TIMES:
        if fields.get(name) == getattr(market, name) // SECOND_NS * SECOND_NS:
            del fields[name]  # messages count in seconds, definitions are finer
    if flaws:
        fields["flaws"] = tuple(sorted({*market.flaws, *flaws}))
    return _timed(replace(market, status=VENUE_STATUS.get(said, "unknown"), venue_status=said, **fields), at_ns)


def _word(market: Market, event: str, at_ns: int) -> str:
    """The venue's status after an event. A message that comes late does not take a settlement back."""
    said = "initialized" if event == "activated" and market.open_ns > at_ns else EVENTS[event]
    late = _RANK[VENUE_STATUS.get(said, "unknown")] < _RANK[market.status]
    return market.venue_status if late else said


def _said(body: Lifecycle) -> tuple[dict[str, Any], list[str]]:
    """Fields of `Market` that a message gives."""
    detail = decode_object(body.detail.encode()) or {}
    more = detail.get("additional_metadata")
    fields, flaws = stated({**detail, **(more if isinstance(more, dict) else {})})
    called = more.get("name") if isinstance(more, dict) else None
    if "title" not in fields and isinstance(called, str):
        fields["title"] = called[:MAX_TEXT]
    for name in (*_TIMES, "result"):
        if value := getattr(body, name):
            fields[name] = value
    if body.settlement_value is not None:
        fields["settlement_value"] = body.settlement_value
    return fields, flaws


def _kept(now: Market, new: Market, raw: bytes, now_ns: int) -> Market:
    """`new` with what `now` knows beyond it."""
    new = replace(new, venue_id=new.venue_id or now.venue_id)
    if (
        now.status in {"determined", "settled"}
        and _RANK[new.status] < _RANK[now.status]
        and _older(raw, max(now.determined_ns, now.settled_ns))
    ):
        state = {
            name: getattr(now, name) for name in ("status", "venue_status", "result", "settlement_value", "determined_ns", "settled_ns")
        }
        return replace(new, **state)
    if _RANK[new.status] >= _RANK["determined"]:
        new = replace(new, determined_ns=new.determined_ns or now.determined_ns)
    if new.status == "settled":
        new = replace(new, settled_ns=new.settled_ns or now.settled_ns)
    return _timed(new, now_ns)


def _older(raw: bytes, than_ns: int) -> bool:
    """Whether the object says it was last changed before `than_ns` (a venue's time); not where it does not say."""
    updated = (decode_object(raw) or {}).get("updated_time")
    try:
        return isinstance(updated, str) and 0 < instant_ns(updated) < than_ns
    except BadFrame:
        return False
