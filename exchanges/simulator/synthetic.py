"""A feed from a seeded synthetic market: several series of binary markets that open, trade, close and settle.

Each market is quoted around a fair value that follows its underlying. The model is in floats; every price and count that leaves it is an
integer on the market's own grid. The same seed and start give the same frames. Books are never crossed and never negative.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from uuid import UUID

import msgspec

from exchanges.simulator.book import DOLLAR, TrueBook, count_text, price_text
from exchanges.simulator.feed import Delta, Happening, Lifecycle, Snapshot, Ticker, Trade, determined, settled
from exchanges.simulator.market import Catalogue, Market, precise_iso
from exchanges.simulator.series import SERIES, Series, price_ranges, step_at, tick_below

SECOND = 1_000_000  # the feed's own time is in microseconds
LISTED_S = 60.0  # a market is listed this long before it opens
DEPTH = 12  # levels a side is filled with at its opening
MOST_LEVELS = 26  # beyond, the farthest level goes: keeps books real and the best price cheap to find
MOVE_US = SECOND // 4  # underlyings move at most this often


class Quoted:
    """One market in the generator: its own book and its own copy of the market's statistics."""

    __slots__ = ("book", "close_us", "ended", "market", "prefix", "priced_us", "series", "strike", "targets")

    def __init__(self, market: Market, series: Underlying, strike: int, close_us: int) -> None:
        self.market = market
        self.series = series
        self.strike = strike  # cents of the underlying
        self.close_us = close_us
        self.book = TrueBook()
        self.prefix = f'{{"market_ticker":"{market.ticker}","market_id":"{market.market_id}","price_dollars":"'
        self.ended = False
        self.priced_us = -1
        self.targets = (0, 0)

    def target(self, no: bool, now_us: int) -> int:
        """Where the best bid of a side belongs, half a cent from fair; 0 for none. Worked out anew when the underlying has moved."""
        if self.priced_us != self.series.moved_us:
            self.priced_us = self.series.moved_us
            fair = self.fair(now_us)
            structure = self.series.kind.structure
            self.targets = (tick_below(structure, int(fair * DOLLAR) - 5_000), tick_below(structure, int((1.0 - fair) * DOLLAR) - 5_000))
        return self.targets[no]

    def fair(self, now_us: int) -> float:
        """Probability that the underlying ends at or above the strike."""
        left_s = max((self.close_us - now_us) / SECOND, 1.0)
        deviation = self.series.spot * self.series.kind.volatility * math.sqrt(left_s)
        return 0.5 + 0.5 * math.erf((self.series.spot - self.strike) / (deviation * math.sqrt(2)))


class Underlying:
    __slots__ = ("kind", "moved_us", "spot", "strikes")

    def __init__(self, kind: Series, strikes: int) -> None:
        self.kind = kind
        self.strikes = strikes
        self.spot = float(kind.spot)
        self.moved_us = 0

    def move(self, now_us: int, rng: Random) -> None:
        elapsed_s = (now_us - self.moved_us) / SECOND
        self.moved_us = now_us
        self.spot = max(self.spot * (1.0 + rng.gauss(0.0, self.kind.volatility * math.sqrt(elapsed_s))), 1.0)


class SyntheticFeed:
    """`markets` are open at any time; `rate` frames a second of venue time; ends after `frames` (None: never).

    Markets are announced `announced_s` before they open.
    """

    def __init__(
        self, seed: int, *, markets: int = 20, rate: float = 200.0, frames: int | None = None, announced_s: float = LISTED_S
    ) -> None:
        self._announced_us = int(announced_s * SECOND)
        self._rng = Random(seed)  # noqa: S311 - a simulation, not a secret
        self._gap_us = SECOND / rate
        self._frames = frames
        self._start_ms = 0
        self._open: list[Quoted] = []
        self._schedule: list[tuple[int, int, Callable[[int], Iterator[Happening]]]] = []  # a few entries per listed market
        self._order = count()
        self.skipped: Counter[str] = Counter()
        self._underlyings = [Underlying(kind, strikes) for kind, strikes in zip(SERIES, split(markets), strict=True) if strikes]

    def catalogue(self, start_ms: int) -> Catalogue:
        self._start_ms = start_ms
        catalogue = Catalogue()
        for underlying in self._underlyings:
            kind = underlying.kind
            close_us = kind.first_close_s * SECOND
            for market in self._list_event(underlying, close_us - kind.length_s * SECOND, close_us, now_us=-kind.length_s * SECOND):
                catalogue.list_market(market, kind.event_record(market.event_ticker), kind.record())
        for quoted in self._open:  # quoted since before anyone looked
            for _ in self._fill(quoted, 0):
                pass
        return catalogue

    def books(self) -> dict[str, TrueBook]:
        return {quoted.market.ticker: copy.deepcopy(quoted.book) for quoted in self._open}

    def play(self) -> Iterator[Happening]:
        sent = 0
        now_us = 0
        moved_us = 0
        random = self._rng.random
        while True:
            due_us = now_us + int(-math.log(1.0 - random()) * self._gap_us)
            while self._schedule and self._schedule[0][0] <= due_us:
                at_us, _, act = heapq.heappop(self._schedule)
                now_us = max(at_us, now_us)
                for happening in act(now_us):
                    yield happening
                    sent += 1
                    if sent == self._frames:
                        return
            now_us = max(due_us, now_us)
            if now_us - moved_us >= MOVE_US:
                moved_us = now_us
                for underlying in self._underlyings:
                    underlying.move(now_us, self._rng)
            if not self._open:
                if not self._schedule:
                    return
                continue
            skew = random()  # some markets are busy, many are thin
            quoted = self._open[int(len(self._open) * skew * skew)]
            extra = -1
            for happening in self._quote(quoted, now_us):
                yield happening
                extra += 1
                sent += 1
                if sent == self._frames:
                    return
            now_us += int(max(extra, 0) * self._gap_us)

    # --- schedule

    def _at(self, at_us: int, act: Callable[[int], Iterator[Happening]]) -> None:
        heapq.heappush(self._schedule, (at_us, next(self._order), act))

    def _list_event(self, underlying: Underlying, open_us: int, close_us: int, now_us: int) -> list[Market]:
        """Make the markets of one event and schedule their lives and the listing of the next event."""
        rng, kind = self._rng, underlying.kind
        close_ms = self._start_ms + close_us // 1000
        event = kind.event_ticker(close_ms)
        strikes = [round(underlying.spot)]
        if kind.letter:
            reach = 2.5 * underlying.spot * kind.volatility * math.sqrt(kind.length_s)
            spacing = max(int(2 * reach / underlying.strikes), 1)
            strikes = [strikes[0] + spacing * (index - underlying.strikes // 2) for index in range(underlying.strikes)]
        listed: list[Market] = []
        group: list[Quoted] = []
        for strike in strikes:
            dollars = f"{strike // 100}.{strike % 100:02d}"
            suffix = f"{kind.letter}{dollars}" if kind.letter else event[-2:]
            market = Market(
                f"{event}-{suffix}",
                event,
                kind.ticker,
                market_id=str(UUID(int=rng.getrandbits(128), version=4)),
                listed_ms=self._start_ms + now_us // 1000,
                open_ms=self._start_ms + open_us // 1000,
                close_ms=close_ms,
                fields={
                    "title": kind.title,
                    "yes_sub_title": f"{dollars} or above",
                    "no_sub_title": f"below {dollars}",
                    "strike_type": "greater_or_equal",
                    "floor_strike": strike / 100,  # a JSON number on this venue, for people only
                    "price_level_structure": kind.structure,
                    "price_ranges": price_ranges(kind.structure),
                    "rules_primary": "Settles on the simulator's own price.",
                },
            )
            listed.append(market)
            group.append(Quoted(copy.copy(market), underlying, strike, close_us))
        if open_us > 0:
            self._at(open_us, lambda at_us: self._open_event(group, at_us))
        else:
            self._open += group
        self._at(close_us, lambda at_us: self._close_event(group, at_us))
        next_close_us = close_us + kind.length_s * SECOND
        self._at(max(close_us - self._announced_us, 0), lambda at_us: self._announce(underlying, close_us, next_close_us, at_us))
        if rng.random() < 0.3:  # a pause
            paused = rng.choice(group)
            pause_us = max(open_us, 0) + int((close_us - max(open_us, 0)) * (0.2 + 0.4 * rng.random()))
            self._at(pause_us, lambda at_us: self._pause(paused, True, at_us))
            self._at(pause_us + (close_us - pause_us) // 4, lambda at_us: self._pause(paused, False, at_us))
        return listed

    def _announce(self, underlying: Underlying, open_us: int, close_us: int, now_us: int) -> Iterator[Happening]:
        kind = underlying.kind
        for index, market in enumerate(self._list_event(underlying, open_us, close_us, now_us)):
            at_ms = self._start_ms + now_us // 1000
            event = kind.event_record(market.event_ticker)
            if index == 0:
                keys = ("event_ticker", "title", "collateral_return_type", "series_ticker", "exchange_index")
                body = msgspec.json.encode({key: event[key] for key in keys} | {"subtitle": event["sub_title"]})
                yield Lifecycle(at_ms, "", body, "", type="event_lifecycle")
            created = {
                "market_ticker": market.ticker,
                "event_type": "created",
                "open_ts": market.open_ms // 1000,
                "close_ts": market.close_ms // 1000,
                "exchange_index": 0,
                "price_level_structure": kind.structure,
                "price_ranges": price_ranges(kind.structure),
                "additional_metadata": {
                    "name": market.fields["yes_sub_title"],
                    "title": kind.title,
                    "yes_sub_title": market.fields["yes_sub_title"],
                    "no_sub_title": market.fields["no_sub_title"],
                    "rules_primary": market.fields["rules_primary"],
                    "rules_secondary": "",
                    "can_close_early": True,
                    "event_ticker": market.event_ticker,
                    "expected_expiration_ts": market.close_ms // 1000 + 300,
                    "strike_type": market.fields["strike_type"],
                    "floor_strike": market.fields["floor_strike"],
                },
            }
            yield Lifecycle(
                at_ms,
                market.ticker,
                msgspec.json.encode(created),
                "created",
                listing=market,
                event_fields=event,
                series_fields=kind.record(),
            )

    def _open_event(self, group: list[Quoted], now_us: int) -> Iterator[Happening]:
        self._open += group
        for quoted in group:
            yield from self._fill(quoted, now_us)

    def _close_event(self, group: list[Quoted], now_us: int) -> Iterator[Happening]:
        """No lifecycle message: the venue sends an empty snapshot and leaves the rest to the close time."""
        at_ms = self._start_ms + now_us // 1000
        for quoted in group:
            quoted.ended = True
            if quoted in self._open:
                self._open.remove(quoted)
            quoted.book.replace({}, {})
            market = quoted.market
            body = msgspec.json.encode({"market_ticker": market.ticker, "market_id": market.market_id})
            yield Snapshot(at_ms, market.ticker, body, {}, {})
        up = [quoted.series.spot >= quoted.strike for quoted in group]
        determined_us = now_us + int((3 + 5 * self._rng.random()) * SECOND)
        self._at(determined_us, lambda at_us: self._determine(group, up, at_us))
        self._at(determined_us + int((2 + 3 * self._rng.random()) * SECOND), lambda at_us: self._settle(group, at_us))

    def _determine(self, group: list[Quoted], up: list[bool], now_us: int) -> Iterator[Happening]:
        at_ms = self._start_ms + now_us // 1000
        for quoted, won in zip(group, up, strict=True):
            yield determined(quoted.market.ticker, at_ms, *(("yes", DOLLAR) if won else ("no", 0)))

    def _settle(self, group: list[Quoted], now_us: int) -> Iterator[Happening]:
        at_ms = self._start_ms + now_us // 1000
        for quoted in group:
            yield settled(quoted.market.ticker, at_ms)

    def _pause(self, quoted: Quoted, pause: bool, now_us: int) -> Iterator[Happening]:
        if quoted.ended or pause != (quoted in self._open):
            return
        if pause:
            self._open.remove(quoted)
        else:
            self._open.append(quoted)
        event = "deactivated" if pause else "activated"
        body = msgspec.json.encode({"market_ticker": quoted.market.ticker, "event_type": event, "is_deactivated": pause})
        yield Lifecycle(self._start_ms + now_us // 1000, quoted.market.ticker, body, event)

    # --- quotes

    def _fill(self, quoted: Quoted, now_us: int) -> Iterator[Happening]:
        for no in (False, True):
            price = quoted.target(no, now_us)
            for _ in range(DEPTH):
                if price <= 0:
                    break
                yield self._change(quoted, no, price, self._size(), now_us)
                price = tick_below(quoted.series.kind.structure, price - 1)

    def _quote(self, quoted: Quoted, now_us: int) -> Iterator[Happening]:
        """One thing that happens in a market: a fill, a cancellation or a new quote."""
        random = self._rng.random
        book, structure = quoted.book, quoted.series.kind.structure
        no = random() < 0.5
        ladder, other = (book.no, book.yes) if no else (book.yes, book.no)
        target = quoted.target(no, now_us)
        best = max(ladder, default=0)
        over = (best - target) // step_at(structure, best)  # ticks that the best bid is above its place
        chance = random()
        if best and (chance < 0.06 or (over > 2 and chance < 0.5)):
            yield from self._fill_order(quoted, no, best, now_us)
            return
        if best and over > 1:
            yield self._change(quoted, no, best, -ladder[best], now_us)
            return
        if len(ladder) > MOST_LEVELS:
            price = min(ladder)
            yield self._change(quoted, no, price, -ladder[price], now_us)
            return
        depth = int(-math.log(1.0 - random()) * 4)  # most orders rest near the best price
        price = tick_below(structure, target - depth * step_at(structure, target)) or step_at(structure, 0)
        opposite = max(other, default=0)
        resting = ladder.get(price, 0)
        if opposite and price + opposite >= DOLLAR:  # it would trade: the stale quote on the other side goes first
            yield self._change(quoted, not no, opposite, -other[opposite], now_us)
        elif resting and random() < 0.5:
            yield self._change(quoted, no, price, -resting if random() < 0.4 else -max(int(resting * random()), 1), now_us)
        else:
            yield self._change(quoted, no, price, self._size(), now_us)
        if chance > 0.97:
            yield self._ticker(quoted, now_us)

    def _fill_order(self, quoted: Quoted, no: bool, price: int, now_us: int) -> Iterator[Happening]:
        """A taker hits the best bid of a ladder: its delta, the trade and a ticker. Hitting no bids is buying yes."""
        ladder = quoted.book.no if no else quoted.book.yes
        size = min(self._size(), ladder[price])
        yield self._change(quoted, no, price, -size, now_us)
        yes_price = DOLLAR - price if no else price
        at_ms = self._start_ms + now_us // 1000
        quoted.market.trade(yes_price, size)
        side, book_side = ("yes", "bid") if no else ("no", "ask")
        body = (
            f'{{"trade_id":"{UUID(int=self._rng.getrandbits(128), version=4)}","market_ticker":"{quoted.market.ticker}",'
            f'"yes_price_dollars":"{price_text(yes_price)}","no_price_dollars":"{price_text(DOLLAR - yes_price)}",'
            f'"count_fp":"{count_text(size)}","taker_side":"{side}","taker_outcome_side":"{side}","taker_book_side":"{book_side}",'
            f'"is_block_trade":false,"ts":{at_ms // 1000},"ts_ms":{at_ms}}}'
        ).encode()
        yield Trade(at_ms, quoted.market.ticker, body, yes_price, size)
        yield self._ticker(quoted, now_us)

    def _change(self, quoted: Quoted, no: bool, price: int, change: int, now_us: int) -> Delta:
        quoted.book.apply(no, price, change)
        at_us = self._start_ms * 1000 + now_us
        at_ms = at_us // 1000
        body = (
            f'{quoted.prefix}{price_text(price)}","delta_fp":"{count_text(change)}","side":"{"no" if no else "yes"}",'
            f'"ts":"{precise_iso(at_us)}","ts_ms":{at_ms}}}'
        ).encode()
        return Delta(at_ms, quoted.market.ticker, body, no, price, change)

    def _ticker(self, quoted: Quoted, now_us: int) -> Ticker:
        at_ms = self._start_ms + now_us // 1000
        return Ticker(at_ms, quoted.market.ticker, msgspec.json.encode(quoted.market.ticker_message(quoted.book, at_ms)))

    def _size(self) -> int:
        """Hundredths of a contract: mostly whole contracts, a third fractional."""
        random = self._rng.random
        return 1 + int(random() * 20_000) if random() < 0.33 else 100 * (1 + int(random() * 500))


def split(markets: int) -> tuple[int, int, int]:
    """How many markets each series has open: one up/down market, the rest halved between the strike ladders."""
    if markets < 1:
        return 0, 0, 0
    ladders = markets - 1
    return 1, (ladders + 1) // 2, ladders // 2
