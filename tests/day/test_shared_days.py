"""The days in a cache are what the aggregates are, however they are cut, and on a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.cache import MemoryCache, RedisCache
from journal.clock import WallClock
from journal.day import DayRule
from journal.memory import MemoryJournal
from journal.protocols import Cache
from journal.subjects import Stream
from ssmd import sharing
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.register import Register, facts
from ssmd.day.shared import DayState, SharedDays
from ssmd.secmaster.reading import History
from ssmd.sharing import SharedView
from tests import valkey

DAYS = (date(2026, 8, 10), date(2026, 8, 11))
_serial = itertools.count()


def sink(journal: MemoryJournal, cache: Cache) -> SharedView:
    history = History(Stream("local", domain="day"), journal)
    return SharedView(cache, "local", SharedDays("local"), history, WallClock(), draw=lambda: f"build-{next(_serial)}")


def shown(day: TradingDay) -> DayState:
    return DayState(
        day.day, day.state, day.since_ns, day.who, day.why, day.phase, day.round, day.forced, day.step, list(day.done), day.record
    )


def begin(step: str, day: TradingDay) -> None:
    day.begin_step(step, day.since_ns + 5, "r", 1)


def end(step: str, outcome: str, day: TradingDay) -> None:
    day.end_step(step, day.since_ns + 9, "r", 1, outcome, {"n": 1})


async def read(cache: Cache, name: str) -> Any:
    value = await cache.get(f"local:day:{name}")
    return None if value is None else json.loads(value)


async def assert_same(cache: Cache, register: Register, newest: str) -> None:
    for when in await register.dates():
        day = await register.get(when)
        assert await read(cache, f"{when}:state") == msgspec.to_builtins(shown(day))
        told = await facts(register.journal, "local", when)
        ended = [f for f in told if f.what == "step_ended"]
        stats = await read(cache, f"{when}:stats")
        assert stats["transitions"] == sum(f.what == "moved" for f in told)
        assert stats["notes"] == sum(f.what == "noted" for f in told)
        assert stats["steps"] == {o: n for o in ("done", "failed") if (n := sum(f.detail["outcome"] == o for f in ended))}
    assert (await cache.get("local:day:current") or b"").decode() == newest


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), run=st.integers(1, 5))
def test_days_are_as_their_aggregates(monkeypatch: pytest.MonkeyPatch, data: st.DataObject, run: int) -> None:
    monkeypatch.setattr(sharing, "RUN", run)

    async def check() -> None:
        journal, cache, newest = MemoryJournal(), MemoryCache(), ""
        register = Register(journal, WallClock(), "local", DayRule())
        for n in range(data.draw(st.integers(0, 14))):
            when = data.draw(st.sampled_from(DAYS))
            day = await register.get(when)
            what = data.draw(st.sampled_from(("move", "move", "step", "note", "fold")))
            if what == "move" and day.legal:
                to = data.draw(st.sampled_from(day.legal))
                forced, kept = data.draw(st.booleans()), data.draw(st.booleans())
                await register.move(when, to, who=f"ana{n}", why="so", forced=forced, kept=kept, result={"record": f"r{n}"})
                if to == State.ACTIVE:
                    newest = max(newest, day.day)
                elif to == State.COMPLETE and newest == day.day:
                    newest = ""
            elif what == "step" and day.phase:
                step, outcome = data.draw(st.sampled_from("abc")), data.draw(st.sampled_from(("done", "failed")))
                await register.change(when, partial(begin, step), who="r")
                if data.draw(st.booleans()):
                    await register.change(when, partial(end, step, outcome), who="r")
            elif what == "note" and day.phase:
                await register.change(when, lambda d: d.note("clock_jumped", d.since_ns, "r", {"by": 1}), who="r")
            elif what == "fold":
                await sink(journal, cache).catch_up()
                await assert_same(cache, register, newest)
        await sink(journal, cache).catch_up()
        await assert_same(cache, register, newest)

    asyncio.run(check())


def test_two_days_on_a_server_that_is_flushed(tmp_path: Path) -> None:
    async def check(server: valkey.Valkey) -> None:
        journal, cache = MemoryJournal(), RedisCache(server.url)
        register, view = Register(journal, WallClock(), "local", DayRule()), sink(journal, cache)
        await view.catch_up()
        await assert_same(cache, register, "")
        for day in DAYS:
            for state in (State.STARTING, State.ACTIVE):
                await register.move(day, state, who="ana")
            await view.catch_up()
            await assert_same(cache, register, day.isoformat())
        for state in (State.ENDING, State.COMPLETE):
            await register.move(DAYS[0], state, who="ana", result={"record": "local/_days/x.json"})
        await cache.delete_prefix("")
        await view.catch_up()
        await assert_same(cache, register, DAYS[1].isoformat())
        assert (await read(cache, f"{DAYS[0]}:state"))["record"] == "local/_days/x.json"
        for state in (State.ENDING, State.COMPLETE):
            await register.move(DAYS[1], state, who="ana")
        await view.catch_up()
        await assert_same(cache, register, "")
        await cache.close()

    with valkey.running(tmp_path) as server:
        asyncio.run(check(server))
