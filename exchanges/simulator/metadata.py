"""What markets a recording is about: from ``GET /events/{ticker}`` answers beside it, or inferred from its frames."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from exchanges.simulator.book import price_micros
from exchanges.simulator.feed import Lifecycle, determined, settled
from exchanges.simulator.market import Catalogue, Fields, Market, iso
from journal.errors import CallerError

# fields of a settled market that say what was not known while it traded, or what the simulator works out itself
_FUTURE = ("settlement_value_dollars", "settlement_ts", "liquidity_dollars")
_TIMES = ("latest_expiration_time", "expected_expiration_time", "expiration_time", "occurrence_datetime", "strike_date", "last_updated_ts")
_NO_END_MS = 24 * 3_600_000  # a market whose end was not recorded closes a day after its last frame


class _Seen(msgspec.Struct):
    first_ms: int
    last_ms: int
    market_id: str = ""
    ended: bool = False


class _Message(msgspec.Struct):
    market_ticker: str = ""
    market_id: str = ""
    yes_dollars_fp: Any = None
    no_dollars_fp: Any = None


_decode = msgspec.json.Decoder(_Message).decode


class Listings:
    """Gathers metadata and frames, then makes a catalogue of them."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()
        self._events: dict[str, Fields] = {}
        self._markets: dict[str, Fields] = {}
        self._seen: dict[str, _Seen] = {}

    def look_near(self, recording: Path) -> None:
        """Read ``metadata/*.json`` beside the recording or up to two folders above it."""
        for folder in recording.resolve().parents[:3]:
            if folder in self._folders:
                continue
            self._folders.add(folder)
            for path in sorted((folder / "metadata").glob("*.json")):
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            document = msgspec.json.decode(path.read_bytes())
            answer = document.get("response", document)
            event = dict(answer["event"])
            markets = answer.get("markets") or event.pop("markets", [])
            self._events[event["event_ticker"]] = event
            self._markets.update({market["ticker"]: market for market in markets})
        except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            raise CallerError(f"{path}: not an answer of GET /events/TICKER ({error!r}); remove or mend it") from error

    def complete(self) -> bool:
        """Whether every market seen so far has metadata."""
        return self._seen.keys() <= self._markets.keys()

    def infer(self, recv_ms: int, kind: str, body: bytes) -> None:
        """Learn from one frame that its market exists."""
        message = _decode(body)
        if not message.market_ticker:
            return
        seen = self._seen.get(message.market_ticker)
        if seen is None:
            seen = self._seen[message.market_ticker] = _Seen(recv_ms, recv_ms)
        seen.last_ms = recv_ms
        seen.market_id = seen.market_id or message.market_id
        if kind.startswith("orderbook_"):
            seen.ended = kind == "orderbook_snapshot" and message.yes_dollars_fp is None and message.no_dollars_fp is None

    def catalogue(self, shift_ms: int, from_ms: int) -> tuple[Catalogue, list[Lifecycle]]:
        """Markets with all times moved, and what was later said of their ends (from recorded time `from_ms` on), by time."""
        catalogue = Catalogue()
        endings: list[Lifecycle] = []
        for ticker, fields in sorted(self._markets.items()):
            if ticker not in self._seen:  # metadata of recordings that are not played
                continue
            event = self._events[fields["event_ticker"]]
            close_ms, settled_ms = parse_ms(fields["close_time"]), parse_ms(fields.get("settlement_ts", ""))
            result, value = fields.get("result", ""), price_micros(fields.get("settlement_value_dollars") or "0")
            market = Market(
                ticker,
                fields["event_ticker"],
                event.get("series_ticker") or ticker.partition("-")[0],
                market_id=self._seen[ticker].market_id,
                # from the start, as a venue lists tomorrow's markets: nobody would learn of them otherwise
                listed_ms=min(parse_ms(fields["created_time"]), from_ms) + shift_ms,
                open_ms=parse_ms(fields["open_time"]) + shift_ms,
                close_ms=close_ms + shift_ms,
                known=False,
                fields=_moved({key: value for key, value in fields.items() if key not in _FUTURE}, shift_ms),
            )
            market.determined = bool(settled_ms and settled_ms < from_ms)
            if market.determined:
                market.result, market.settlement_value, market.settled_ms = result, value, settled_ms + shift_ms
            elif settled_ms:
                endings += determined(ticker, settled_ms + shift_ms, result, value), settled(ticker, settled_ms + shift_ms)
            catalogue.list_market(market, _moved(event, shift_ms))
        for ticker, seen in sorted(self._seen.items()):
            if ticker not in self._markets:
                market = Market(
                    ticker,
                    ticker.rpartition("-")[0] or ticker,
                    ticker.partition("-")[0],
                    market_id=seen.market_id,
                    listed_ms=from_ms + shift_ms,
                    open_ms=seen.first_ms + shift_ms,
                    close_ms=seen.last_ms + shift_ms + (0 if seen.ended else _NO_END_MS),
                    known=False,
                )
                catalogue.list_market(market)
        return catalogue, sorted(endings, key=lambda ending: ending.at_ms)


def parse_ms(text: str) -> int:
    """RFC 3339 to Unix ms, 0 for nothing and for the venue's zero time (year 1)."""
    if not text or text.startswith("0001-"):
        return 0
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _moved(fields: Fields, shift_ms: int) -> Fields:
    moved: dict[str, Any] = dict(fields)
    for key in _TIMES:
        if (text := moved.get(key)) and (ms := parse_ms(text)):
            moved[key] = iso(ms + shift_ms)
    return moved
