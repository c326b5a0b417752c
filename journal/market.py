"""The definition of a market, whatever its venue, and the changes of it that are journalled in ``{env}_secmaster``.

A change is an entry with an `Event` of type ``changes`` on ``{env}.secmaster.changes.{symbol}``: its ``data`` is a `Change` in canonical
JSON, its `raw` the venue's object as it was read (empty for what we derived). The newest entry on a market's subject is what an append
expects, so that two synchronisations journal each change once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from journal.entry import canonical_json

# `unknown` is what a venue says that we have no name for: never a default, and an alarm.
Status = Literal["pending", "active", "paused", "closed", "determined", "settled", "unknown"]
Happening = Literal["market_added", "market_updated", "market_status_changed", "market_settled", "market_removed"]
# What other programs' tables hold: an entry with more would be folded by nobody, for ever.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
MAX_SYMBOL = 200  # characters; escaped it must still be a subject token


class PriceRange(msgspec.Struct, frozen=True, gc=False):
    """From `start` to `end` prices are multiples of `step`; integers of the market's price exponent."""

    start: Int64
    end: Int64
    step: Int64


class Market(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Definition and state of a market; no prices and volumes, which change all the time and are market messages.

    `volume_class` is how many digits the contracts traded so far had when the venue last listed it (0 none, 1 up to 9, 4 up to 9,999):
    enough to choose by, and it changes a few times in a market's life. Times are nanoseconds since 1970, 0 where the venue does not say.
    Strikes are decimal text as the venue wrote them. `flaws` names the fields that could not be understood: the market is kept, with its
    raw object, and marked.
    """

    symbol: str
    venue_id: str = ""
    event: str = ""
    series: str = ""
    title: str = ""
    subtitle: str = ""
    category: str = ""
    tags: tuple[str, ...] = ()
    type: str = ""
    status: Status = "unknown"
    venue_status: str = ""
    open_ns: Int64 = 0
    close_ns: Int64 = 0
    expected_expiration_ns: Int64 = 0
    expiration_ns: Int64 = 0
    determined_ns: Int64 = 0
    settled_ns: Int64 = 0
    strike_type: str = ""
    strike_floor: str = ""
    strike_cap: str = ""
    strike_custom: str = ""  # canonical JSON
    price_exponent: Int64 = 0
    size_exponent: Int64 = 0
    tick_structure: str = ""
    price_ranges: tuple[PriceRange, ...] = ()
    can_close_early: bool | None = None
    volume_class: Int64 = 0
    result: str = ""
    settlement_value: Int64 | None = None
    rules: str = ""
    rules_secondary: str = ""
    flaws: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that happened to a market. `fields` has what changed, as {name: [old, new]}; `market` is whole in ``market_added``.

    `derived`: nobody announced it; its time had come (`at_ns`). `source` says where it was learnt: rest, lifecycle, derived, import.
    """

    change: Happening
    symbol: str
    source: str
    at_ns: Int64 = 0
    derived: bool = False
    fields: dict[str, tuple[Any, Any]] = {}
    market: Market | None = None

    def encode(self) -> bytes:
        """As the data of its event."""
        return canonical_json(self)


FIELDS = tuple(f for f in Market.__struct_fields__ if f != "symbol")
TYPE = "changes"
_STATE: tuple[str, ...] = ("status", "venue_status", "result", "settlement_value", "settled_ns", "determined_ns")
_CHANGE = msgspec.json.Decoder(Change)
_MARKET_TYPES = {f.name: f.type for f in msgspec.structs.fields(Market)}


def decode_change(data: bytes) -> Change:
    """Inverse of `Change.encode`. Raises msgspec.MsgspecError."""
    return _CHANGE.decode(data)


def compare(old: Market | None, new: Market | None, source: str, at_ns: int) -> list[Change]:
    """The changes from `old` to `new` of one symbol: none when they are equal; None is a market that is not there (or gone).

    A change of status is told apart from what else changed, and settlement from both: each is journalled once, when the status changes.
    """
    if old is None:
        return [] if new is None else [Change(change="market_added", symbol=new.symbol, source=source, at_ns=at_ns, market=new)]
    if new is None:
        return [Change(change="market_removed", symbol=old.symbol, source=source, at_ns=at_ns)]
    if old == new:  # nearly all of a look at everything
        return []
    changed = {name: (a, b) for name in FIELDS if (a := getattr(old, name)) != (b := getattr(new, name))}
    out: list[Change] = []
    state = {name: changed.pop(name) for name in _STATE if name in changed} if "status" in changed else {}
    if changed:
        out.append(Change(change="market_updated", symbol=new.symbol, source=source, at_ns=at_ns, fields=changed))
    if state:
        what: Happening = "market_settled" if new.status == "settled" else "market_status_changed"
        out.append(Change(change=what, symbol=new.symbol, source=source, at_ns=at_ns, fields=state))
    return out


def apply(market: Market | None, change: Change) -> Market | None:
    """The market after `change`; None once it was removed. Raises ValueError for a change of a market that is not there."""
    if change.change == "market_added":
        return change.market
    if change.change == "market_removed":
        return None
    if market is None:
        raise ValueError(f"{change.change} of {change.symbol}, which was never added")
    values = {name: msgspec.convert(new, _MARKET_TYPES[name]) for name, (_, new) in change.fields.items() if name in _MARKET_TYPES}
    return msgspec.structs.replace(market, **values)
