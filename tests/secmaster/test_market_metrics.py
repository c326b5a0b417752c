"""The gauges of markets, as a scraper gets them over HTTP beside whoever writes the view."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from prometheus_client import CollectorRegistry

from ssmd.metrics import MARKETS, SYNCED, MarketStates, serve_metrics
from ssmd.secmaster.glance import glance_at
from tests.secmaster.listing import NOON_NS, Listing, ledger_of, market, synchronise


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_states_are_counted_and_one_without_a_name_is_seen(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    path = ledger.view.path
    registry = CollectorRegistry()
    registry.register(MarketStates("prod", lambda: glance_at(path)))
    markets = [market(n) for n in range(20)]
    with serve_metrics("127.0.0.1:0", registry) as port:
        assert scrape(port) == {f'{MARKETS}{{env="prod",status="unknown"}}': 0}  # nothing is known of when
        asyncio.run(synchronise(ledger, Listing(markets)))
        synced = {f'{SYNCED}{{env="prod"}}': NOON_NS / 1e9}
        active = f'{MARKETS}{{env="prod",status="active"}}'
        unknown = f'{MARKETS}{{env="prod",status="unknown"}}'
        assert scrape(port) == synced | {unknown: 0, active: 20}
        asyncio.run(synchronise(ledger, Listing([market(0, status="unknown", venue_status="frozen"), *markets[1:19]])))
        with ledger.view.change():  # somebody is writing
            assert scrape(port) == synced | {unknown: 1, active: 18}


def test_without_a_view_nothing_is_said(tmp_path: Path) -> None:
    assert glance_at(tmp_path / "none" / "view.sqlite") is None
    assert not (tmp_path / "none").exists()
    (tmp_path / "bad 100%?.sqlite").write_text("no database")
    assert glance_at(tmp_path / "bad 100%?.sqlite") is None
