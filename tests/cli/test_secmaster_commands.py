"""`ssmd secmaster` as a person uses it: one data directory with an embedded server, made once; a venue that is simulated."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.clock import WallClock
from journal.market import Market
from projections.secmaster import Known
from ssmd.moments import rfc3339
from ssmd.secmaster.export import row
from ssmd.secmaster.query import Found
from tests.cli import schema
from tests.cli.conftest import Ssmd
from tests.secmaster.listing import market

SOON_NS = 1_800_000_000 * 10**9
MARKETS = [market(n, close_ns=SOON_NS) for n in range(120)]
GOLD = market(
    1_000, symbol="KXGOLD.X-26AUG10-T4600", series="KXGOLD", title="Gold above 4600 on Monday?", category="Metals", close_ns=SOON_NS
)


def lines(markets: list[Market]) -> str:
    return "".join(json.dumps(row(Found(m.symbol, Known(m, 1, 1, 1), m))) + "\n" for m in markets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """121 markets, then one of them changed; `before` is a time between."""
    from ssmd.cli import main

    folder = tmp_path_factory.mktemp("secmaster")
    (folder / "one.jsonl").write_text(lines([*MARKETS, GOLD]))
    (folder / "two.jsonl").write_text(lines([replace(GOLD, status="paused", venue_status="inactive", title="Gold on Monday?")]))
    assert main(["--data-dir", str(folder / "data"), "secmaster", "import", "local", str(folder / "one.jsonl"), "-o", "json"]) == 0
    (folder / "before").write_text(rfc3339(WallClock().wall_ns()))
    assert main(["--data-dir", str(folder / "data"), "secmaster", "import", "local", str(folder / "two.jsonl"), "-o", "json"]) == 0
    return folder


@pytest.fixture
def ask(ssmd: Ssmd, folder: Path) -> Ssmd:
    return lambda verb, *args: ssmd("secmaster", verb, "local", *args, "--data-dir", folder / "data")


def test_list(ask: Ssmd) -> None:
    ran = ask("list", "-o", "json")
    assert ran.code == 0
    schema.check("markets", ran.document)
    assert len(ran.document) == 100
    assert "first 100" in ran.err
    ran = ask("list", "--series", "KXS3", "--category", "Economics", "--status", "active", "-o", "jsonl")
    assert [r["symbol"] for r in ran.lines] == sorted(m.symbol for m in MARKETS if m.series == "KXS3" and m.category == "Economics")
    assert ask("list", "--status", "settled", "-o", "json").document == []
    assert "no markets" in ask("list", "--status", "settled", "-o", "table").out
    assert ask("list", "--status", "open").code == 2
    assert "nearest: Economics" in ask("list", "--category", "economics").err
    assert "nearest: KXGOLD" in ask("list", "--series", "KXGLOD").err


def test_list_what_expires_soon(ask: Ssmd) -> None:
    def within(duration: str) -> int:
        return len(ask("list", "--as-of", "now", "--expiring-within", duration, "--limit", "1000", "-o", "json").document)

    days = (SOON_NS - WallClock().wall_ns()) // (86_400 * 10**9)
    assert within("1h") == 0
    assert within(f"{days + 1}d") == 121


def test_as_of_and_history(ask: Ssmd, folder: Path) -> None:
    before = (folder / "before").read_text()
    now = ask("show", GOLD.symbol, "-o", "json").document
    schema.check("market", now)
    assert (now["status"], now["title"], now["changes"]) == ("paused", "Gold on Monday?", 3)
    assert now["price_ranges"] == [["0", "1", "0.01"]]
    then = ask("show", GOLD.symbol, "--as-of", before, "-o", "json").document
    schema.check("market", then)
    assert (then["status"], then["title"], then["changes"]) == ("active", GOLD.title, 1)
    listed = {at: ask("list", "--series", "KXGOLD", *how, "-o", "json").document for at, how in ((1, ("--as-of", before)), (2, ()))}
    assert [d[0]["status"] for d in listed.values()] == ["active", "paused"]
    assert ask("stats", "--as-of", before, "-o", "json").document["by_status"] == {"active": 121}
    assert ask("list", "--as-of", "2026-01-01", "-o", "json").document == []
    ran = ask("show", GOLD.symbol, "--as-of", "2026-01-01")
    assert ran.code == 2
    assert "not known yet" in ran.err
    history = ask("show", GOLD.symbol, "--history", "-o", "json").document
    for document in history:
        schema.check("market_change", document)
    assert [d["change"] for d in history] == ["market_added", "market_updated", "market_status_changed"]
    assert history[1]["fields"] == {"title": [GOLD.title, "Gold on Monday?"]}
    table = ask("show", GOLD.symbol, "--history", "-o", "table").out
    assert "title: Gold above 4600 on Monday? -> Gold on Monday?" in table


def test_an_unknown_symbol_has_near_names(ask: Ssmd) -> None:
    ran = ask("show", "KXGOLD.X-26AUG10-T4700")
    assert ran.code == 2
    assert GOLD.symbol in ran.err
    ran = ask("show", "kxs3-26aug10-t1133")
    assert ran.code == 2
    assert "KXS3-26AUG10-T113" in ran.err


def test_the_environment_may_be_left_out(ssmd: Ssmd, folder: Path) -> None:
    where = ("--data-dir", folder / "data", "-o", "json")
    assert ssmd("secmaster", "show", GOLD.symbol, *where).document["symbol"] == GOLD.symbol
    assert ssmd("secmaster", "show", GOLD.symbol, "--env", "local", *where).document["symbol"] == GOLD.symbol
    assert ssmd("secmaster", "search", "gold", *where).document[0]["symbol"] == GOLD.symbol
    assert ssmd("secmaster", "list", "--series", "KXGOLD", *where).document[0]["symbol"] == GOLD.symbol
    assert ssmd("secmaster", "show", "local", GOLD.symbol, "more", *where).code == 2
    assert "nowhere" in ssmd("secmaster", "list", "nowhere", *where).err


def test_search_ranks(ask: Ssmd) -> None:
    ran = ask("search", "gold", "mon", "-o", "json")
    schema.check("markets", ran.document)
    assert [r["symbol"] for r in ran.document] == [GOLD.symbol]
    assert ask("search", "above 4600", "-o", "json").document[0]["symbol"] != GOLD.symbol  # the title has changed; what is left is a guess
    assert ask("search", 'things" OR (', "thing", "113", "-o", "json").code == 0
    assert ask("search", "thing 113", "-o", "json").document[0]["symbol"] == "KXS3-26AUG10-T113"
    assert ask("search", "!!!", "-o", "json").document == []


def test_changes(ask: Ssmd, folder: Path) -> None:
    ran = ask("changes", "--limit", "2", "-o", "jsonl")
    for document in ran.lines:
        schema.check("market_change", document)
    assert [d["change"] for d in ran.lines] == ["market_updated", "market_status_changed"]
    assert {d["source"] for d in ran.lines} == {"import"}
    assert len(ask("changes", "--since", (folder / "before").read_text(), "-o", "csv").out.splitlines()) == 3
    assert len(ask("changes", "--since", "1h", "--limit", "7").lines) == 7
    assert [d["symbol"] for d in ask("changes", "--symbol", "KXS3-26AUG10-T113").lines] == ["KXS3-26AUG10-T113"]
    assert "no changes" in ask("changes", "--symbol", "NONE").err


def test_stats(ask: Ssmd) -> None:
    document = ask("stats", "-o", "json").document
    schema.check("secmaster_stats", document)
    assert (document["markets"], document["by_status"]) == (121, {"active": 120, "paused": 1})
    assert document["unknown"] == []


def test_a_state_without_a_name_is_an_alarm(ssmd: Ssmd, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text(lines([replace(GOLD, symbol="KX\x1b[31m", status="unknown", venue_status="frozen"), *MARKETS[:3]]))
    assert ssmd("secmaster", "import", "local", tmp_path / "new.jsonl").code == 0
    ran = ssmd("secmaster", "stats", "local", "--textfile", tmp_path / "markets.prom", "-o", "json")
    assert (ran.code, ran.document["unknown"]) == (0, ["KX\x1b[31m"])
    assert "1 markets in a state that has no name here: KX\\x1b[31m;" in ran.err
    assert 'ssmd_secmaster_markets{env="local",status="unknown"} 1.0' in (tmp_path / "markets.prom").read_text().splitlines()
    assert ssmd("secmaster", "stats", "local", "--textfile", tmp_path / "x.prom", "--as-of", "1h").code == 2
    assert ssmd("secmaster", "stats", "local", "--textfile", tmp_path / "none" / "x.prom").code == 2
    for args in (("changes", "local", "-o", "table"), ("show", "local", "KX\x1b[3m"), ("list", "local", "-o", "table")):
        ran = ssmd("secmaster", *args)  # nobody's terminal is told what to do
        assert "\x1b[31m" not in ran.out + ran.err
        assert "\\x1b[31m" in ran.out + ran.err


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_is_exported_is_the_same_market_again(ask: Ssmd, ssmd: Ssmd, folder: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"markets.{form}"
    assert ask("export", "--format", form, "--to", file).code == 0
    elsewhere = ("--data-dir", tmp_path / "other")
    dry = ssmd("secmaster", "import", "local", file, "--dry-run", "-o", "json", *elsewhere)
    assert dry.document == {"file": str(file), "markets": 121, "changes": {}}
    ran = ssmd("secmaster", "import", "local", file, "-o", "json", *elsewhere)
    schema.check("secmaster_import", ran.document)
    assert ran.document["changes"] == {"market_added": 121}

    def told(out: str) -> list[dict[str, Any]]:
        documents = [json.loads(line) for line in out.splitlines()]
        for document in documents[:3]:
            schema.check("market_export", document)
        return [{k: v for k, v in d.items() if k not in {"first_seen_ns", "changed_ns"}} for d in documents]

    assert told(ask("export").out) == told(ssmd("secmaster", "export", "local", *elsewhere).out)


def test_parquet_columns_are_times_and_exact_integers(ask: Ssmd, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    ask("export", "--format", "parquet", "--to", tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    kinds = {f.name: str(f.type) for f in table.schema}
    assert (kinds["open_ns"], kinds["settlement_value"], kinds["tags"]) == ("timestamp[ns, tz=UTC]", "int64", "list<element: string>")
    assert table["settled_ns"].null_count == 121
    assert ask("export", "--format", "parquet").code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"symbol":"A","status":"open"}\n', "line 1.*status"),
        ('{"symbol":"A","status":"active"}\nnonsense\n', "line 2: no JSON"),
        ('{"symbol":"A"}\n', "line 1: A has no status"),
        ('{"symbol":""}\n', "symbol of 0 characters"),
        (f'{{"symbol":"{"x" * 201}"}}\n', "symbol of 201 characters"),
        ('{"symbol":"A","open_ns":9223372036854775808}\n', "line 1.*open_ns"),  # it would be folded by nobody, for ever
        ('{"symbol":"A","settlement_value":-9223372036854775809}\n', "line 1.*settlement_value"),
        ('{"symbol":"A","price_ranges":[{"start":0,"end":18446744073709551616,"step":1}]}\n', "line 1.*price_ranges"),
        (f'{{"symbol":"A","title":"{"x" * 300_000}"}}\n', "A is larger than"),
        ('{"symbol":"A","colour":"red"}\n', "unknown fields colour"),
        ("[1]\n", "line 1: no object"),
    ],
)
def test_a_file_with_a_fault_changes_nothing(ask: Ssmd, tmp_path: Path, text: str, said: str) -> None:
    import re

    (tmp_path / "bad.jsonl").write_text(text)
    ran = ask("import", tmp_path / "bad.jsonl")
    assert ran.code == 2
    assert re.search(said, ran.err)
    (tmp_path / "bad.parquet").write_text("no parquet")
    assert ask("import", tmp_path / "bad.parquet").code == 2


def test_where_nothing_is_known(ssmd: Ssmd, tmp_path: Path) -> None:
    ran = ssmd("secmaster", "list", "local")
    assert ran.code == 2  # no journal: a read-only command starts no server
    ran = ssmd("secmaster", "sync", "local")
    assert ran.code == 2
    assert "--rest-url" in ran.err
    assert ssmd("secmaster", "sync", "local", "--rest-url", "http://user@127.0.0.1/").code == 2


@pytest.fixture
def venue() -> Iterator[str]:
    """The REST of a simulated venue."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    url: list[str] = []

    async def serve() -> None:
        async with SimulatorServer(SyntheticFeed(7, markets=12, rate=50.0, frames=50), WallClock(), speed=None, hold=True) as sim:
            url.append(sim.rest_url)
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(20)
    yield url[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_sync_with_a_venue(ssmd: Ssmd, venue: str) -> None:
    first = ssmd("secmaster", "sync", "local", "--rest-url", venue, "-o", "json")
    assert (first.code, first.err) == (0, "")
    schema.check("secmaster_sync", first.document)
    assert first.document["kind"] == "full"
    count = first.document["changes"]["market_added"]
    assert count == first.document["markets"] > 0
    assert first.document["unknown"] == []
    again = ssmd("secmaster", "sync", "local", "--rest-url", venue, "-o", "json").document
    assert again["kind"] == "incremental"
    full = ssmd("secmaster", "sync", "local", "--full", "--rest-url", venue, "-o", "json").document
    assert (full["kind"], full["markets"], full["missing"]) == ("full", count, 0)
    assert "market_added" not in full["changes"]
    found = ssmd("secmaster", "search", "local", "bitcoin", "-o", "json").document
    assert found
    shown = ssmd("secmaster", "show", "local", found[0]["symbol"], "-o", "json").document
    assert shown["raw"]["ticker"] == found[0]["symbol"]
    assert ssmd("secmaster", "stats", "local", "-o", "json").document["syncs"][0]["source"].startswith("kalshi http://127.0.0.1:")
