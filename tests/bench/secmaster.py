"""Synchronising, rebuilding and asking the security master, beside the plain way: a dict rebuilt from the venue's pages.

Alone: ``SSMD_BENCH_MARKETS=500000 python -m tests.bench secmaster``. A ratio is ours over the plain way's time: below 1 ours is faster.
Pages are made before (``SSMD_BENCH_MARKETS``, 20,000 by default) and read from files, so that both ways read the same bytes and no network.
Every figure is of a process of its own, whose peak memory is told; the journal is a real server that syncs every commit.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from exchanges.backoff import Backoff
from exchanges.kalshi.changes import derived_changes, observed_changes
from exchanges.kalshi.rest import Answer, KalshiRest
from exchanges.simulator.listing import Listing
from exchanges.simulator.market import Catalogue
from exchanges.simulator.rest import PREFIX, Rest
from exchanges.simulator.venue import Venue
from journal.block import Block
from journal.cache import RedisCache
from journal.clock import WallClock
from journal.day import DayRule
from journal.jetstream import JetStreamJournal
from projections.projection import Digester
from projections.secmaster import SecmasterProjection, change_of
from ssmd.moments import rfc3339
from ssmd.render import Silent
from ssmd.secmaster import query
from ssmd.secmaster.ledger import Ledger
from ssmd.secmaster.reading import History, catch_up
from ssmd.secmaster.shared import SharedMarkets
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.sync import Question, Sync
from ssmd.secmaster.view import View
from ssmd.sharing import SharedView
from tests import valkey
from tests.journal.servers import TOKEN, nats_server

_ROOT = Path(__file__).resolve().parents[2]
_START_MS = 1_795_000_000_000
_STREAM = secmaster("bench")
_ASKED = 200


class _Clock(WallClock):
    """The venue's time when it listed its markets: nothing opens or closes while we measure."""

    def wall_ns(self) -> int:
        return _START_MS * 1_000_000 + self.mono_ns() % 1_000_000_000


class _Pages:
    """A venue's answers in files. One that is not there yet is made, by the simulated venue."""

    def __init__(self, folder: Path, markets: int, changed: float) -> None:
        self._folder = folder
        venue = Venue(Catalogue())
        venue.now_ms = _START_MS
        self._rest = Rest(venue, Listing(7, markets, _START_MS, changed=changed, changed_ms=_START_MS))

    def get(self, url: str) -> Answer:
        parts = urlsplit(url)
        path = self._folder / sha256(f"{parts.path}?{parts.query}".encode()).hexdigest()
        if not path.exists():
            status, body = self._rest.get(PREFIX + parts.path.removeprefix(PREFIX), dict(parse_qsl(parts.query)))
            if status != 200:
                return status, body
            path.write_bytes(body)
        return 200, path.read_bytes()

    def rest(self) -> KalshiRest:
        return KalshiRest(f"https://venue{PREFIX}", _Clock(), random.Random(1), get=self.get)


def run(out: Callable[[str], None]) -> None:
    count = int(os.environ.get("SSMD_BENCH_MARKETS", "20000"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("first", "second", "nats"):
            (folder / name).mkdir()
        listed = _stage("prepare", folder, count)["markets"]
        size = sum(f.stat().st_size for f in (folder / "first").iterdir())
        out(f"{listed:,} markets, {size / 1e6:,.0f} MB of pages; seconds, markets/s, peak memory of the process, ratio to the plain way")
        with nats_server(folder / "nats") as server:
            plain = _stage("plain", folder, count)
            _line(out, "plain: a dict of the pages' objects", plain, listed)
            _line(out, "sync, all new", _stage("first", folder, count, server.url), listed, plain)
            second = _stage("second", folder, count, server.url)
            _line(out, f"sync, 1 % changed ({sum(second['counts'].values()):,} changes)", second, listed, plain)
            _line(out, "sync, nothing changed", _stage("second", folder, count, server.url), listed, plain)
            view = _stage("view", folder, count, server.url)
            _line(out, "rebuild of the view from the journal", view, listed, plain)
            fold = _stage("fold", folder, count, server.url)
            _line(out, "rebuild of the fold from the journal", fold, listed, plain)
            if view["digest"] != fold["digest"]:
                raise RuntimeError("the view is not the fold")
            with valkey.running(folder / "valkey") as redis:
                hset = _stage("hset", folder, count, "", redis.url)
                _line(out, "plain: one HSET a market of the pages", hset, listed)
                shared = _stage("redis", folder, count, server.url, redis.url)
                _line(out, "rebuild of Redis from the journal", shared, listed, hset)
                if shared["digest"] != fold["digest"]:
                    raise RuntimeError("Redis is not the fold")
            out(f"  the view's file: {view['bytes'] / listed:,.0f} bytes a market; digests of view, Redis and fold are equal")
            _asked(out, _stage("ask", folder, count, server.url), plain)


def _line(out: Callable[[str], None], what: str, figures: dict[str, Any], count: int, beside: dict[str, Any] | None = None) -> None:
    ratio = f" {figures['seconds'] / beside['seconds']:7.2f}" if beside else ""
    out(f"  {what:<44} {figures['seconds']:8.2f} s {count / figures['seconds']:10,.0f}/s {figures['rss_mb']:8,.0f} MB{ratio}")


def _asked(out: Callable[[str], None], ours: dict[str, Any], plain: dict[str, Any]) -> None:
    out("  asked, ms                                     ours p50      p99   dict p50      p99  ratio p50")
    for name, (p50, p99) in ours["asked"].items():
        beside = plain["asked"].get(name)
        plainly = f" {beside[0]:10.3f} {beside[1]:8.3f} {p50 / beside[0]:10.2f}" if beside else ""
        out(f"  {name:<44} {p50:9.3f} {p99:8.3f}{plainly}")


def _stage(name: str, folder: Path, count: int, url: str = "", redis_url: str = "") -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.secmaster", name, str(folder), str(count), url, redis_url]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _questions(symbols: list[str]) -> dict[str, Callable[[View], Any]]:
    rng = random.Random(3)
    some = [rng.choice(symbols) for _ in range(_ASKED)]
    return {
        "show a market": lambda view: query.row_of(view, rng.choice(some)),
        "list a series": lambda view: list(query.select(view, query.Filter(series=rng.choice(some).partition("-")[0]), 100)),
        "list a category, active": lambda view: list(query.select(view, query.Filter(category="Commodities", status="active"), 100)),
        "list what expires within 24 h": lambda view: list(
            query.select(view, query.Filter(expires_from_ns=_START_MS * 10**6, expires_to_ns=(_START_MS + 86_400_000) * 10**6), 100)
        ),
        "search two words": lambda view: query.search(
            view, f"{rng.choice(('copper', 'wheat', 'goals'))} {rng.choice(('Riga', 'Osaka'))}", 20
        ),
        "search a common word": lambda view: query.search(view, "above", 20),
    }


def _plain_questions(markets: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    rng = random.Random(3)
    symbols = list(markets)

    def series() -> Any:
        wanted = rng.choice(symbols).partition("-")[0] + "-"
        return sorted(s for s in markets if s.startswith(wanted))[:100]

    def words() -> Any:
        one, two = rng.choice(("copper", "wheat", "goals")), rng.choice(("riga", "osaka"))
        return [s for s, m in markets.items() if one in (text := f"{m['title']} {m.get('rules_primary', '')}".lower()) and two in text][:20]

    def expiring() -> Any:
        since, until = (rfc3339(_START_MS * 10**6 + hours * 3_600 * 10**9) for hours in (0, 24))
        wanted = [m for m in markets.values() if since <= (m.get("expected_expiration_time") or "") <= until]
        return sorted(wanted, key=lambda m: m["expected_expiration_time"])[:100]

    def common() -> Any:
        return [s for s, m in markets.items() if "above" in f"{m['title']} {m.get('rules_primary', '')}".lower()][:20]

    return {
        "show a market": lambda: markets[rng.choice(symbols)], "list a series": series, "list what expires within 24 h": expiring,
        "search two words": words, "search a common word": common,
    }  # fmt: skip


def _percentiles(ask: Callable[[], Any], times: int) -> tuple[float, float]:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken), sorted(taken)[int(len(taken) * 0.99) - 1]


async def _listed(pages: _Pages) -> int:
    return sum([len(page.markets) async for page in pages.rest().definitions()])


def _plain(folder: Path) -> dict[str, Any]:
    """What a script does: every page, every object, by its ticker."""
    started = time.perf_counter()
    markets = dict(_objects(folder))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "asked": {name: _percentiles(ask, 20) for name, ask in _plain_questions(markets).items()}}


def _objects(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in (folder / "first").iterdir():
        page = json.loads(path.read_bytes())
        for event in page.get("events") or []:
            yield from ((m["ticker"], m) for m in event.get("markets") or [])
        yield from ((m["ticker"], m) for m in page.get("markets") or [])


def _hset(folder: Path, redis_url: str) -> dict[str, Any]:
    """What a script does: each object as it is, one call after the other."""
    from redis import Redis

    redis = Redis.from_url(redis_url)
    started = time.perf_counter()
    for symbol, value in _objects(folder):
        redis.hset("plain", symbol, json.dumps(value))
    return {"seconds": time.perf_counter() - started}


async def _redis(journal: JetStreamJournal, redis_url: str) -> dict[str, Any]:
    """The hash, the sets, the sorted set, each run of them with its position; `digest` is of what is there then."""
    cache, markets = RedisCache(redis_url), SharedMarkets("bench")
    view = SharedView(cache, "bench", markets, History(_STREAM, journal), WallClock(), draw=lambda: "bench")
    started = time.perf_counter()
    await view.catch_up()
    seconds, peak_mb = time.perf_counter() - started, _peak_mb()
    symbols = set[str]()
    async for records in journal.read(_STREAM):
        symbols.update(change.symbol for r in records if (change := change_of(r.entry)))
    fold = SecmasterProjection()
    fold._known = await markets.known(cache, symbols)
    await cache.close()
    return {"seconds": seconds, "rss_mb": peak_mb, "digest": Digester(fold).digest()}


async def _synchronise(folder: Path, pages: _Pages, journal: JetStreamJournal) -> dict[str, Any]:
    clock = _Clock()
    view = View(folder / "view.sqlite")
    ledger = Ledger(journal, view, "bench", clock, Backoff(random.Random(1), 0.1, 1.0), days=DayRule(), who="bench")
    sync = Sync(ledger, clock, observed_changes, derived_changes)
    started = time.perf_counter()
    summary = await sync.run(pages.rest(), Question("kalshi", "https://venue"), "bench", full=True, meter=Silent())
    return {"seconds": time.perf_counter() - started, "counts": summary.synced.counts}


async def _view(folder: Path, journal: JetStreamJournal) -> dict[str, Any]:
    path = folder / "again.sqlite"
    started = time.perf_counter()
    view = View(path)
    await catch_up(view, History(_STREAM, journal))
    seconds = time.perf_counter() - started
    size = path.stat().st_size
    return {"seconds": seconds, "digest": view.digest(), "bytes": size}


async def _fold(journal: JetStreamJournal) -> dict[str, Any]:
    started = time.perf_counter()
    projection = SecmasterProjection()
    async for records in journal.read(_STREAM):
        projection.apply(Block.of(records))
    return {"seconds": time.perf_counter() - started, "digest": Digester(projection).digest()}


def _ask(folder: Path) -> dict[str, Any]:
    view = View(folder / "view.sqlite")
    symbols = [symbol for (symbol,) in view.query("SELECT symbol FROM markets ORDER BY random() LIMIT 1000")]
    return {"asked": {name: _percentiles(lambda ask=ask: ask(view), _ASKED) for name, ask in _questions(symbols).items()}}  # type: ignore[misc]


async def _measured(name: str, folder: Path, count: int, url: str, redis_url: str) -> dict[str, Any]:
    first, second = _Pages(folder / "first", count, 0.0), _Pages(folder / "second", count, 0.01)
    if name == "prepare":
        await _listed(second)
        return {"markets": await _listed(first)}
    if name == "plain":
        return _plain(folder)
    if name == "ask":
        return _ask(folder)
    if name == "hset":
        return _hset(folder, redis_url)
    journal = await JetStreamJournal.connect(url, WallClock(), token=TOKEN)
    try:
        if name == "view":
            return await _view(folder, journal)
        if name == "redis":
            return await _redis(journal, redis_url)
        if name == "fold":
            return await _fold(journal)
        return await _synchronise(folder, first if name == "first" else second, journal)
    finally:
        await journal.close()


def main() -> None:
    name, folder, count, url, redis_url = sys.argv[1:]
    figures = asyncio.run(_measured(name, Path(folder), int(count), url, redis_url))
    print(json.dumps({"rss_mb": _peak_mb()} | figures))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
