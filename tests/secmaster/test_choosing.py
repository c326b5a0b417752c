"""Markets chosen from a security master that has 2,000."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from exchanges.markets import DefinitionPage, Selection
from journal.clock import WallClock
from journal.errors import NotFound, VenueUnavailable
from journal.market import Market
from journal.memory import MemoryJournal
from ssmd.render import Silent
from ssmd.secmaster.choosing import FRESH_NS, Choice, Listed
from ssmd.secmaster.importing import import_markets
from tests.choices import choice_of, ledger_of

CLOCK = WallClock()


def market(number: int, **fields: Any) -> Market:
    """2,000 of them: 20 series of 100, in four categories; a tenth in each state; volumes of up to four digits."""
    series, status = f"KXS{number // 100:02}", STATES[number % 10]
    values: dict[str, Any] = {
        "symbol": f"{series}-E-{number:04}", "series": series, "event": f"{series}-E", "status": status, "price_exponent": -6,
        "size_exponent": -2, "category": CATEGORIES[number // 100 % 4], "tags": ("BTC",) if number // 100 == 7 else (),
        "volume_class": number % 5,
    }  # fmt: skip
    return Market(**values | fields)


STATES = ("pending", "active", "active", "active", "active", "paused", "closed", "determined", "settled", "unknown")
CATEGORIES = ("Crypto", "Sports", "Economics", "World")


class Source:
    """A venue's lists; counts what it is asked."""

    def __init__(self, markets: Sequence[Market]) -> None:
        self.markets = list(markets)
        self.asked: list[tuple[Sequence[str], int]] = []
        self.down = False

    async def definitions(self, *, series: Sequence[str] = (), since_ns: int = 0, cursor: str = "") -> AsyncIterator[DefinitionPage]:
        del cursor
        self.asked.append((tuple(series), since_ns))
        if self.down:
            raise VenueUnavailable("the venue is down")
        found = [(m, b"{}") for m in self.markets if not series or m.series in series]
        for at in range(0, len(found), 500):
            yield DefinitionPage(found[at : at + 500], "", min(at + 500, len(found)))


class Clock(WallClock):
    ahead_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.ahead_ns


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory, self.journal, self.clock = directory, MemoryJournal(), Clock()
        self.source = Source([market(n) for n in range(2_000)])

    def choice(self, *, changing: bool = False, **selected: Any) -> Choice:
        return choice_of(self.journal, self.directory, "", self.clock, Selection(**selected), changing=changing, source=self.source)

    async def chosen(self, choice: Choice) -> set[str]:
        await choice.open()
        return {listed.symbol async for page in choice.pages() for listed in page}

    def expected(self, judge: Callable[[Market], bool]) -> set[str]:
        return {m.symbol for m in self.source.markets if judge(m)}

    async def change(self, *markets: Market) -> None:
        """By another process."""
        await import_markets(ledger_of(self.journal, self.directory, self.clock), self.clock, markets, Silent())


def standing(m: Market) -> bool:
    return m.status in {"pending", "active", "paused", "unknown"}


CHOICES: tuple[tuple[dict[str, Any], Callable[[Market], bool]], ...] = (
    ({"everything": True}, standing),
    ({"series": ("KXS03",)}, lambda m: m.series == "KXS03" and standing(m)),
    ({"categories": ("Sports",)}, lambda m: m.category == "Sports" and standing(m)),
    ({"tags": ("BTC",)}, lambda m: m.series == "KXS07" and standing(m)),
    ({"symbols": ("KXS00-E-0001",)}, lambda m: m.symbol == "KXS00-E-0001"),
    ({"symbols": ("KXS00-E-0001",), "series": ("KXS03",), "tags": ("BTC",)},
     lambda m: standing(m) and (m.symbol == "KXS00-E-0001" or m.series in {"KXS03", "KXS07"})),
    ({"everything": True, "statuses": frozenset(["active"])}, lambda m: m.status == "active"),
    ({"everything": True, "statuses": frozenset(["settled", "closed"])}, lambda m: m.status in {"settled", "closed"}),
    ({"everything": True, "min_volume": 1}, lambda m: standing(m) and m.volume_class >= 1),
    ({"categories": ("Crypto",), "min_volume": 100}, lambda m: standing(m) and m.category == "Crypto" and m.volume_class >= 3),
    ({"categories": ("Chess",)}, lambda _: False),
)  # fmt: skip


@pytest.mark.parametrize(("selected", "judge"), CHOICES, ids=range(len(CHOICES)))
def test_what_is_chosen(tmp_path: Path, selected: dict[str, Any], judge: Callable[[Market], bool]) -> None:
    async def body() -> None:
        place = Place(tmp_path)
        assert await place.chosen(place.choice(**selected)) == place.expected(judge)

    asyncio.run(body())


def test_an_unknown_symbol_is_refused_with_near_names(tmp_path: Path) -> None:
    async def body() -> None:
        place = Place(tmp_path)
        with pytest.raises(NotFound, match="KXS01-E-0190x") as caught:
            await place.choice(symbols=("KXS01-E-0190x",)).open()
        assert "KXS01-E-0190" in caught.value.nearest
        assert place.source.asked == [(("KXS01",), 0)]  # of its series only

    asyncio.run(body())


def test_the_venue_is_asked_where_it_was_not_a_short_while_ago(tmp_path: Path) -> None:
    async def body() -> None:
        place = Place(tmp_path)
        await place.choice(everything=True).open()
        await place.choice(series=("KXS01",)).open()  # all of them are known
        assert len(place.source.asked) == 1
        # A symbol that is not known may be newer than that.
        place.source.markets.append(market(1_999, symbol="KXS19-E-NEW", series="KXS19"))
        assert await place.chosen(place.choice(symbols=("KXS19-E-NEW",))) == {"KXS19-E-NEW"}
        assert len(place.source.asked) == 2
        place.clock.ahead_ns = FRESH_NS + 10**9
        await place.choice(everything=True).open()
        assert place.source.asked[2][1] > 0  # what has changed since
        # A venue that is down now leaves what is known.
        place.clock.ahead_ns += FRESH_NS + 10**9
        place.source.down = True
        stale = place.choice(series=("KXS03",))
        assert len(await place.chosen(stale)) == 70
        assert "the venue is down" in stale.trouble
        # One that is simulated has other markets each time.
        place.source.down = False
        place.source.markets = [market(5)]
        assert await place.chosen(place.choice(everything=True, changing=True)) == {market(5).symbol}

    asyncio.run(body())


def test_a_venue_that_was_never_asked_is_waited_for(tmp_path: Path) -> None:
    async def body() -> None:
        place = Place(tmp_path)
        place.source.down = True
        choice = place.choice(everything=True)
        with pytest.raises(VenueUnavailable):
            await choice.open()
        place.source.down = False
        assert await place.chosen(choice) == place.expected(standing)

    asyncio.run(body())


async def after(changes: AsyncIterator[list[Listed]], symbol: str) -> Listed:
    async with asyncio.timeout(10):
        async for some in changes:
            for listed in some:
                if listed.symbol == symbol:
                    return listed
    raise AssertionError


def test_changes_follow_and_an_announced_market_has_the_category_of_its_series(tmp_path: Path) -> None:
    async def body() -> None:
        place = Place(tmp_path)
        choice = place.choice(categories=("Sports",))
        await choice.open()
        changes = choice.changes()
        new = Market(symbol="KXS01-E-NEW", series="KXS01", status="pending")  # as a message tells it
        await place.change(new)
        listed = await after(changes, new.symbol)
        assert listed.market
        assert listed.market.category == "Sports"
        assert choice.selection.begins(listed.market)
        assert listed.sequence == int(choice.position.rpartition(":")[2])
        await place.change(replace(new, status="closed"))
        listed = await after(changes, new.symbol)
        assert listed.market
        assert not choice.selection.begins(listed.market)
        assert choice.selection.covers(listed.market)
        # A whole look again finds all.
        await choice.again()
        assert {x.symbol async for page in choice.pages() for x in page} == place.expected(lambda m: m.category == "Sports" and standing(m))
        assert [x.symbol for x in await choice.look(["KXS01-E-NEW", "KXNOT"])] == ["KXS01-E-NEW"]

    asyncio.run(body())
