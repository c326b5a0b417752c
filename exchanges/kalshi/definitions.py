"""Kalshi's REST objects as definitions of markets: of the cents era, its transition, and now.

Nothing here raises for what the venue sends. A field that is missing or of another type is left empty and named in the market's `flaws`;
only what names no market at all is none. Source: the venue's market, event and series objects as captured in January, March and September
2026.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from exchanges.kalshi.cents import settlement
from exchanges.kalshi.numbers import CENT, DOLLAR, PRICE_EXPONENT, SECOND_NS, SIZE_EXPONENT, BadFrame, amount, instant_ns
from journal.entry import canonical_json
from journal.market import MAX_SYMBOL, Market, PriceRange, Status

# Every value of a market's `status`. What is not here is `unknown` and a flaw.
VENUE_STATUS: dict[str, Status] = {
    "initialized": "pending",
    "inactive": "paused",
    "active": "active",
    "closed": "closed",
    "determined": "determined",
    "disputed": "determined",
    "amended": "determined",
    "finalized": "settled",
}
MAX_TEXT = 16_384  # the longest rules seen are 3 kB
MAX_NAME = 200
MAX_TAGS = 64
MAX_RANGES = 256  # banded structures have a few
MAX_RAW_BYTES = 256 * 1024  # an object twice in one message of 1 MB; a combination of 100 legs is 20 kB
NEEDED = ("event_ticker", "market_type", "open_time", "close_time")  # of every era
_NO_TIME = "0001-01-01"  # how the venue writes a time that was never set
_NUMBER = re.compile(r"-?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,4})?", re.ASCII)
# Escapes, one after the other: a whole surrogate pair, half of one, any other.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
_ANY = msgspec.json.Decoder(float_hook=str)  # a number with a point keeps the text the venue wrote


class SeriesFacts(NamedTuple):
    category: str = ""
    tags: tuple[str, ...] = ()


class EventFacts(NamedTuple):
    ticker: str
    series: str = ""
    title: str = ""
    category: str = ""


def _text(value: Any, most: int = MAX_TEXT) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise BadFrame("not a text, or too long")
    return value


def _name(value: Any) -> str:
    return _text(value, MAX_NAME)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadFrame("neither true nor false")
    return value


@lru_cache(1 << 12)  # markets of an event share their times
def _instant(text: str) -> int:
    return 0 if text.startswith(_NO_TIME) else instant_ns(text)


def _moment(value: Any) -> int:
    return _instant(_text(value, 40))


def _second(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 2**63 // SECOND_NS - 1:
        raise BadFrame("not a time in seconds")
    return value * SECOND_NS


def _strike(value: Any) -> str:
    """A number as it was written, whether in quotes or not."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise BadFrame("not a number")
    return text


def _custom(value: Any) -> str:
    if not isinstance(value, dict):
        raise BadFrame("not an object")
    return _text(canonical_json(value).decode())


def _functional(value: Any) -> str:
    return canonical_json(_text(value)).decode()


def _dollars(value: Any) -> int:
    return amount(_text(value, 40))


def _digits(value: Any) -> int:
    """Digits of a number of contracts, which is text with decimals or, until May 2026, whole."""
    whole = _strike(value).partition(".")[0].lstrip("0")
    if not (whole.isdecimal() or whole == ""):
        raise BadFrame("not a number of contracts")
    return len(whole)


def _ranges(value: Any) -> tuple[PriceRange, ...]:
    if not isinstance(value, list) or len(value) > MAX_RANGES or not all(isinstance(part, dict) for part in value):
        raise BadFrame("not a list of ranges")
    return _price_ranges(tuple((part.get("start"), part.get("end"), part.get("step")) for part in value))


@lru_cache(1 << 10)  # a few structures for all markets
def _price_ranges(parts: tuple[tuple[Any, Any, Any], ...]) -> tuple[PriceRange, ...]:
    return tuple(PriceRange(_dollars(start), _dollars(end), _dollars(step)) for start, end, step in parts)


def _tick(value: Any) -> tuple[PriceRange, ...]:
    """`tick_size`, whole cents, until May 2026."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 100:
        raise BadFrame("not a tick in cents")
    return (PriceRange(0, DOLLAR, value * CENT),)


# (the venue's name, ours, how it is read). Where two names are of one field the later wins: it is the newer or the finer.
_FIELDS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("market_id", "venue_id", _name),
    ("event_ticker", "event", _name),
    ("title", "title", _text),
    ("subtitle", "subtitle", _text),
    ("yes_sub_title", "subtitle", _text),
    ("market_type", "type", _name),
    ("open_time", "open_ns", _moment),
    ("close_time", "close_ns", _moment),
    ("expected_expiration_time", "expected_expiration_ns", _moment),
    ("expected_expiration_ts", "expected_expiration_ns", _second),  # of a lifecycle message
    ("expiration_time", "expiration_ns", _moment),
    ("latest_expiration_time", "expiration_ns", _moment),
    ("settlement_ts", "settled_ns", _moment),
    ("strike_type", "strike_type", _name),
    ("floor_strike", "strike_floor", _strike),
    ("cap_strike", "strike_cap", _strike),
    ("functional_strike", "strike_custom", _functional),
    ("custom_strike", "strike_custom", _custom),
    ("price_level_structure", "tick_structure", _name),
    ("tick_size", "price_ranges", _tick),
    ("price_ranges", "price_ranges", _ranges),
    ("can_close_early", "can_close_early", _flag),
    ("volume", "volume_class", _digits),
    ("volume_fp", "volume_class", _digits),
    ("result", "result", _name),
    ("settlement_value", "settlement_value", settlement),
    ("settlement_value_dollars", "settlement_value", _dollars),
    ("rules_primary", "rules", _text),
    ("rules_secondary", "rules_secondary", _text),
)


def decode_object(raw: bytes | msgspec.Raw) -> dict[str, Any] | None:
    """A JSON object, None for anything else."""
    try:
        try:
            found = _ANY.decode(raw)
        except ValueError:
            found = _ANY.decode(mended(bytes(raw)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def mended(json: bytes) -> bytes:
    """`json` with U+FFFD for what is no text: a title that is cut inside an emoji must not hide a market, nor the others of its page."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], json.decode(errors="replace").encode())


def stated(record: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What an object says of a market, as fields of `Market`, and the names of what it says wrongly."""
    fields: dict[str, Any] = {}
    flaws: list[str] = []
    for name, ours, read in _FIELDS:
        value = record.get(name)
        if value is None or value == "":
            continue
        try:
            fields[ours] = read(value)
        except (BadFrame, TypeError):  # TypeError: a price that is a list cannot be looked up
            flaws.append(name)
    return fields, flaws


def parse_definition(raw: bytes | msgspec.Raw, event: EventFacts | None = None, series: SeriesFacts | None = None) -> Market | None:
    """The market in one object; `event` and `series` are what the venue says of those it belongs to. None for what names no market."""
    record = decode_object(raw)
    symbol = record.get("ticker") if record else None
    if record is None or not isinstance(symbol, str) or not 0 < len(symbol) <= MAX_SYMBOL:
        return None
    fields, flaws = stated(record)
    flaws += [name for name in NEEDED if record.get(name) in (None, "")]
    if not fields.get("price_ranges") and "price_ranges" not in flaws:
        flaws.append("price_ranges")
    said = record.get("status")
    status = VENUE_STATUS.get(said) if isinstance(said, str) else None
    if status is None:
        flaws.append("status")
    if event is None:
        flaws.append("event")
    else:
        fields["event"] = fields.get("event") or event.ticker
        fields["title"] = fields.get("title") or event.title
        fields["series"] = event.series
    return Market(
        symbol=symbol,
        # One rule for whole lists and for changes, or the same market would seem to change between them.
        category=(series.category if series else "") or (event.category if event else ""),
        tags=series.tags if series else (),
        status=status or "unknown",
        venue_status=str(said)[:MAX_NAME] if said is not None else "",
        price_exponent=PRICE_EXPONENT,
        size_exponent=SIZE_EXPONENT,
        flaws=tuple(sorted(set(flaws))),
        **fields,
    )


def parse_event(record: dict[str, Any]) -> EventFacts | None:
    """What an event says of its markets; None for what names no event. What is not text in it is left out."""
    ticker = _lenient(record.get("event_ticker"))
    if not ticker:
        return None
    return EventFacts(
        ticker,
        _lenient(record.get("series_ticker")),
        _lenient(record.get("title"), MAX_TEXT),
        _lenient(record.get("category")),
    )


def parse_series(record: dict[str, Any]) -> tuple[str, SeriesFacts] | None:
    """A series' ticker and facts; None for what names no series. Tags that are no text are left out."""
    ticker = _lenient(record.get("ticker"))
    if not ticker:
        return None
    tags = record.get("tags")
    texts = [tag for tag in tags if isinstance(tag, str) and len(tag) <= MAX_NAME] if isinstance(tags, list) else []
    return ticker, SeriesFacts(_lenient(record.get("category")), tuple(texts[:MAX_TAGS]))


def _lenient(value: Any, most: int = MAX_NAME) -> str:
    return value if isinstance(value, str) and len(value) <= most else ""
