"""Any number of seeded synthetic definitions, made when they are asked for: nothing is kept, however many there are.

They are listed beside the markets that trade, and do not trade themselves. Everything about market `n` follows from the seed, the start and
`n`; its state from the venue's time.
"""

from __future__ import annotations

from collections.abc import Iterator

from exchanges.simulator.book import DOLLAR
from exchanges.simulator.market import Fields, Market, iso
from exchanges.simulator.series import STRUCTURES, price_ranges

PER_EVENT = 5
PER_SERIES = 50  # events
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
DETERMINED_MS = 10 * MINUTE_MS  # after the close
SETTLED_MS = 60 * MINUTE_MS
CATEGORIES = ("Climate and Weather", "Commodities", "Companies", "Crypto", "Economics", "Elections", "Entertainment", "Financials",
              "Health", "Politics", "Science and Technology", "Sports", "Transportation", "World")  # fmt: skip
THINGS = ("rainfall", "copper", "earnings", "bitcoin", "unemployment", "turnout", "box office", "treasury yields", "flu admissions",
          "approval", "launches", "goals", "passengers", "migration", "wheat", "mentions")  # fmt: skip
PLACES = ("Chicago", "Denver", "Lisbon", "Nairobi", "Osaka", "Quito", "Riga", "Seattle", "Tampa", "Utrecht", "Vienna", "Warsaw", "Xalapa",
          "York", "Zagreb", "Accra", "Bergen")  # fmt: skip
_STRUCTURES = tuple(STRUCTURES)
_MASK = (1 << 64) - 1


class Listing:
    """`markets` definitions at `start_ms`. `changed`: the share of them that the venue has changed at `changed_ms`, 0.01 for 1 %."""

    def __init__(self, seed: int, markets: int, start_ms: int, *, changed: float = 0.0, changed_ms: int = 0) -> None:
        self._seed = seed
        self._start_ms = start_ms // MINUTE_MS * MINUTE_MS
        self._markets = markets
        self._changed = int(changed * 10_000)
        self._changed_ms = changed_ms

    def __len__(self) -> int:
        return self._markets

    @property
    def events(self) -> int:
        return -(-self._markets // PER_EVENT)

    @property
    def series(self) -> int:
        return -(-self.events // PER_SERIES)

    def market(self, number: int, now_ms: int) -> Market:
        """Market `number` as it is at `now_ms`."""
        event = number // PER_EVENT
        dice = self._dice(number)
        open_ms, close_ms = self._times(event)
        strike = 1_000 + dice % 900_000
        market = Market(
            f"{self.event_ticker(event)}-T{number % PER_EVENT}",
            self.event_ticker(event),
            self.series_ticker(event // PER_SERIES),
            listed_ms=self._listed_ms(open_ms),
            open_ms=open_ms,
            close_ms=close_ms,
            fields=self._fields(event, strike, close_ms)
            | ({"yes_sub_title": f"Above {strike / 100} (revised)"} if self._is_changed(dice) else {}),
        )
        market.updated_ms = self.updated_ms(number, now_ms)
        market.paused = dice >> 32 & 63 == 0
        if now_ms >= close_ms + DETERMINED_MS:
            yes = bool(dice >> 40 & 1)
            market.determined, market.result, market.settlement_value = True, "yes" if yes else "no", DOLLAR if yes else 0
        if now_ms >= close_ms + SETTLED_MS:
            market.settled_ms = close_ms + SETTLED_MS
        return market

    def updated_ms(self, number: int, now_ms: int) -> int:
        """When the venue last changed it: cheap, for those who look for the few that were."""
        open_ms, close_ms = self._times(number // PER_EVENT)
        moments = (self._listed_ms(open_ms), open_ms, close_ms, close_ms + DETERMINED_MS, close_ms + SETTLED_MS)
        last = max((at for at in moments if at <= now_ms), default=0)
        return max(last, self._changed_ms) if self._is_changed(self._dice(number)) else last

    def event(self, number: int) -> Fields:
        series = number // PER_SERIES
        return {
            "event_ticker": self.event_ticker(number),
            "series_ticker": self.series_ticker(series),
            "title": self._subject(number),
            "sub_title": f"No. {number}",
            "collateral_return_type": "",
            "mutually_exclusive": False,
            "category": CATEGORIES[series % len(CATEGORIES)],
            "exchange_index": 0,
        }

    def series_record(self, number: int) -> Fields:
        category = CATEGORIES[number % len(CATEGORIES)]
        return {
            "ticker": self.series_ticker(number),
            "frequency": "custom",
            "title": self._subject(number * PER_SERIES),
            "category": category,
            "categories": [category],
            "tags": [THINGS[number % len(THINGS)], PLACES[number % len(PLACES)]],
            "settlement_sources": [],
            "contract_url": "",
            "contract_terms_url": "",
            "fee_type": "quadratic",
            "fee_multiplier": 1,
            "exchange_index": 0,
        }

    def of_event(self, number: int) -> range:
        """Numbers of an event's markets."""
        return range(number * PER_EVENT, min((number + 1) * PER_EVENT, self._markets))

    def of_series(self, number: int) -> range:
        """Numbers of a series' events."""
        return range(number * PER_SERIES, min((number + 1) * PER_SERIES, self.events))

    def all_series(self) -> Iterator[Fields]:
        return map(self.series_record, range(self.series))

    def series_ticker(self, number: int) -> str:
        return f"KXL{number:05d}"

    def event_ticker(self, number: int) -> str:
        return f"{self.series_ticker(number // PER_SERIES)}-E{number:06d}"

    def find_series(self, ticker: str) -> int | None:
        number = int(ticker[3:]) if ticker[3:].isdecimal() else -1
        return number if 0 <= number < self.series and self.series_ticker(number) == ticker else None

    def find_event(self, ticker: str) -> int | None:
        tail = ticker.rpartition("-E")[2]
        number = int(tail) if tail.isdecimal() else -1
        return number if 0 <= number < self.events and self.event_ticker(number) == ticker else None

    def find_market(self, ticker: str) -> int | None:
        parent, _, tail = ticker.rpartition("-T")
        event = self.find_event(parent)
        if event is None or not tail.isdecimal() or f"{int(tail)}" != tail:
            return None
        number = event * PER_EVENT + int(tail)
        return number if number in self.of_event(event) else None

    def _dice(self, number: int) -> int:
        """64 bits of market `number`: splitmix64, a few hundred ns."""
        x = (number + self._seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
        return x ^ x >> 31

    def _is_changed(self, dice: int) -> bool:
        return (dice >> 48) % 10_000 < self._changed

    def _times(self, event: int) -> tuple[int, int]:
        """Open and close: opened in the last 30 days or the next seven, for one to sixty days."""
        dice = self._dice(~event)
        open_ms = self._start_ms - 30 * DAY_MS + dice % (37 * 24 * 60) * MINUTE_MS
        return open_ms, open_ms + DAY_MS + (dice >> 32) % (59 * 24 * 60) * MINUTE_MS

    def _listed_ms(self, open_ms: int) -> int:
        """A day before it opens; all are there a day before the start."""
        return min(open_ms, self._start_ms) - DAY_MS

    def _subject(self, event: int) -> str:
        dice = self._dice(event ^ 0x5EED)
        return f"Will {THINGS[dice % len(THINGS)]} in {PLACES[(dice >> 8) % len(PLACES)]} exceed the forecast of round {event % 97}?"

    def _fields(self, event: int, strike: int, close_ms: int) -> Fields:
        subject = self._subject(event)
        structure = _STRUCTURES[event % len(_STRUCTURES)]
        level = strike / 100
        return {
            "title": subject,
            "yes_sub_title": f"Above {level}",
            "no_sub_title": f"Not above {level}",
            "strike_type": "greater",
            "floor_strike": level,
            "custom_strike": {"round_digits": "2"},
            "expected_expiration_time": iso(close_ms + 5 * MINUTE_MS),
            "latest_expiration_time": iso(close_ms + 7 * DAY_MS),
            "price_level_structure": structure,
            "price_ranges": price_ranges(structure),
            "rules_primary": f"{subject} If the figure published for the period that ends at {iso(close_ms)} is above {level}, then the"
            " market resolves to Yes. The figure is taken as first published by the source agency; revisions after the expiration do not"
            " count.",
            "rules_secondary": "If the source agency publishes no figure by the latest expiration, the market resolves to No. Figures are"
            " rounded to two decimal places, halves away from zero. Should the method of the source agency change materially before the"
            " expiration, the market resolves by the method that was in force when the market was listed, as far as the agency still"
            " publishes it, and otherwise by the new one. Persons employed by the source agency are not permitted to trade.",
        }
