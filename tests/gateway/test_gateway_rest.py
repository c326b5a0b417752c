"""REST of a real gateway: what it answers about the present and the past, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from journal.market import Market
from ssmd.gateway import answers
from ssmd.moments import rfc3339
from tests.gateway.served import DOTTED, GOLD, HIDDEN, SLASHED, Served, gateway, seeded


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("rest"))
    with gateway(data, told) as found:
        yield found


def path(symbol: str, rest: str = "") -> str:
    return f"/v1/markets/{quote(symbol, safe='')}{rest}"


def pages(served: Served, first: str, items: str) -> list[Any]:
    """All items, page by page."""
    found, cursor = [], ""
    for _ in range(20):
        answer = served.good(first + (f"&cursor={cursor}" if cursor else ""))
        found += answer[items]
        cursor = answer["next"]
        if cursor is None:
            return found
    raise AssertionError("pages without end")


# --- markets ----------------------------------------------------------------------------------------------------------------


def test_markets_are_those_of_the_security_master_and_those_that_are_captured(served: Served) -> None:
    found = {line["symbol"]: line for line in served.good("/v1/markets")["markets"]}
    assert list(found) == [SLASHED, GOLD, DOTTED, HIDDEN]
    assert [line["captured"] for line in found.values()] == [True, True, True, False]
    assert [line["status"] for line in found.values()] == ["unknown", "active", "closed", "active"]
    assert found[SLASHED]["href"] == "/v1/markets/BTC%2FUSD"
    for line in found.values():
        assert served.good(line["href"])["symbol"] == line["symbol"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_pages_are_the_whole_list_once_and_in_order(served: Served, limit: int) -> None:
    assert [line["symbol"] for line in pages(served, f"/v1/markets?limit={limit}", "markets")] == [SLASHED, GOLD, DOTTED, HIDDEN]


def test_filters_choose_and_a_cursor_is_of_its_filters(served: Served) -> None:
    def symbols(query: str) -> list[str]:
        return [line["symbol"] for line in served.good(f"/v1/markets?{query}")["markets"]]

    assert symbols("series=KXGOLD") == [GOLD, DOTTED]
    assert symbols("series=KXGOLD&status=active") == [GOLD]
    assert symbols("event=KXSILVER-26NOV22") == [HIDDEN]
    assert symbols("category=Sports") == []
    assert symbols("status=unknown") == [SLASHED]
    assert symbols("status=unknown&limit=1") == [SLASHED]
    cursor = served.good("/v1/markets?series=KXGOLD&limit=1")["next"]
    assert symbols(f"series=KXGOLD&cursor={cursor}") == [DOTTED]
    refused = served.ask(f"/v1/markets?series=KXSILVER&cursor={cursor}")
    assert (refused.status, refused.kind) == (400, "bad-parameter")
    assert "other parameters" in refused.json["detail"]


def test_markets_are_found_by_words(served: Served) -> None:
    def symbols(query: str) -> list[str]:
        return [line["symbol"] for line in served.good(f"/v1/markets?{query}")["markets"]]

    assert symbols("q=kxsil") == [HIDDEN]
    assert set(symbols("q=kxgold")) == {GOLD, DOTTED}
    assert symbols("q=kxgold&status=active") == [GOLD]
    assert len(symbols("q=kxgold&limit=1")) == 1
    assert symbols("q=btc") == [SLASHED], "captured, and unknown to the security master"
    assert symbols("q=nothing-like-it") == []
    for text in ('"', "%27%20OR%201%3D1--", "*", "NEAR(", "%20", "symbol:x"):
        assert served.ask(f"/v1/markets?q={text}").status == 200
    for more in ("as_of=1m", "cursor=x"):
        refused = served.ask(f"/v1/markets?q=kxgold&{more}")
        assert (refused.status, refused.kind) == (400, "bad-parameter")
        assert refused.json["errors"][0]["name"] == more.partition("=")[0]


def test_a_definition_has_every_field_of_a_market(served: Served) -> None:
    assert set(answers.Definition.__struct_fields__) == set(Market.__struct_fields__)
    assert served.good(path(GOLD))["definition"]["title"]


def test_markets_as_they_were(served: Served) -> None:
    before = served.told.times["closed"] - 1
    for text in (str(before), rfc3339(before), f"local_md_0:{served.told.positions['delta']}"):
        found = served.good(f"/v1/markets?as_of={text}&series=KXGOLD")["markets"]
        assert [(line["symbol"], line["status"]) for line in found] == [(GOLD, "active"), (DOTTED, "active")]
        assert served.good(f"{path(DOTTED)}?as_of={text}")["status"] == "active"
    assert served.good(path(DOTTED))["status"] == "closed"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are looked at in /proc")
def test_markets_of_many_times_leave_no_files(served: Served) -> None:
    start, end = served.told.times["snapshot"], served.told.times["closed"]
    for as_of in (start, end - 1, end, start, end):
        assert len(served.good(f"/v1/markets?as_of={as_of}&series=KXGOLD")["markets"]) == 2
    kept = [link.readlink() for link in Path(f"/proc/{served.reader}/fd").iterdir() if link.is_symlink()]
    folders = {path.parent for path in kept if "ssmd-gateway-" in str(path)}
    assert 1 <= sum(1 for folder in folders for _ in folder.glob("*.sqlite")) <= 2


def test_a_market_has_definition_prices_book_gaps_and_links(served: Served) -> None:
    found = served.good(path(GOLD))
    assert found["definition"]["title"] == "Market 0"
    assert found["prices"]["last"] == "0.4200"
    assert found["prices"]["volume"] == "1234.56"
    assert (found["book"]["state"], found["captured"]) == ("VALID", True)
    assert [(gap["reason"], gap["first_missing"], gap["last_missing"]) for gap in found["gaps"]] == [("lost", 5, 7)]
    for name in ("self", "book", "trades", "candles", "event"):
        served.good(found["links"][name])
    hidden = served.good(path(HIDDEN))
    assert (hidden["captured"], hidden["book"]) == (False, None)
    assert served.good(path(SLASHED))["definition"] is None


def test_an_unknown_market_is_not_found_with_near_names(served: Served) -> None:
    for rest in ("", "/book", "/trades", "/candles", "?as_of=1m", "/book?as_of=1m"):
        answer = served.ask(path("KXGOLD-26NOV22-B2601", rest))
        assert (answer.status, answer.kind) == (404, "not-found"), rest
        assert GOLD in answer.json["nearest"]


# --- books ------------------------------------------------------------------------------------------------------------------

AFTER = ([["0.4100", "15.00"], ["0.4000", "10.00"], ["0.3900", "25.00"]], [["0.4300", "2.50"]])
BEFORE = ([["0.4000", "10.00"], ["0.3900", "25.00"]], [["0.4200", "5.00"]])


def sides(book: Any) -> tuple[Any, Any]:
    return book["bids"], book["asks"]


def test_the_book_now_and_then(served: Served) -> None:
    times, positions = served.told.times, served.told.positions
    assert sides(served.good(path(GOLD, "/book"))) == AFTER
    assert sides(served.good(path(GOLD, f"/book?as_of={times['delta']}"))) == AFTER
    assert sides(served.good(path(GOLD, f"/book?as_of={times['delta'] - 1}"))) == BEFORE
    assert sides(served.good(path(GOLD, f"/book?as_of={rfc3339(times['trade 2'])}"))) == BEFORE
    assert sides(served.good(path(GOLD, f"/book?as_of=local_md_0:{positions['delta']}"))) == AFTER
    then = served.good(path(GOLD, f"/book?as_of=local_md_0:{positions['delta'] - 1}"))
    assert sides(then) == BEFORE
    assert then["position"] == f"local_md_0:{positions['snapshot']}"
    assert served.ask(path(GOLD, f"/book?as_of={times['snapshot'] - 1}")).status == 404


def test_the_depth_of_a_book(served: Served) -> None:
    found = served.good(path(GOLD, "/book?depth=1"))
    assert sides(found) == (AFTER[0][:1], AFTER[1][:1])
    assert found["levels"] == [3, 1]


def test_symbols_with_dots_and_slashes(served: Served) -> None:
    assert served.good(path(DOTTED, "/book"))["bids"] == [["0.1000", "7.00"]]
    assert served.good(path(SLASHED, "/book"))["asks"] == [["0.5100", "2.00"]]
    assert served.good(path(SLASHED, "/book?as_of=now"))["asks"] == [["0.5100", "2.00"]]
    assert served.ask("/v1/markets/BTC/USD/book").kind == "not-found"


# --- trades and candles -----------------------------------------------------------------------------------------------------


def ids(trades: list[Any]) -> list[str]:
    return [trade["trade_id"] for trade in trades]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_trades_page_by_page_in_both_orders(served: Served, limit: int) -> None:
    assert ids(pages(served, path(GOLD, f"/trades?limit={limit}"), "trades")) == ["t4", "t3", "t2", "t1"]
    assert ids(pages(served, path(GOLD, f"/trades?limit={limit}&order=oldest"), "trades")) == ["t1", "t2", "t3", "t4"]


def test_trades_of_a_time(served: Served) -> None:
    times = served.told.times
    for query, wanted in (
        (f"since={times['trade 2']}", ["t2", "t3", "t4"]),
        (f"since={times['trade 2']}&until={times['trade 3']}", ["t2", "t3"]),
        (f"until={times['trade 2'] - 1}", ["t1"]),
        (f"as_of={times['trade 3']}", ["t3", "t2", "t1"]),
        (f"as_of=local_md_0:{served.told.positions['trade 2']}", ["t2", "t1"]),
    ):
        assert ids(served.good(path(GOLD, f"/trades?{query}"))["trades"]) == wanted, query
    (trade,) = served.good(path(GOLD, "/trades?limit=1&order=oldest"))["trades"]
    assert (trade["price"], trade["size"], trade["aggressor"]) == ("0.4100", "3.00", "buy")
    assert served.good(path(HIDDEN, "/trades"))["trades"] == []


def test_candles_of_trades(served: Served) -> None:
    times = served.told.times
    minute = 60 * 10**9
    found = served.good(path(GOLD, f"/candles?interval=1m&since={times['trade 1']}"))
    prices = {"t1": 410_000, "t2": 420_000, "t3": 400_000, "t4": 405_000}
    wanted: dict[int, list[int]] = {}
    for number, name in enumerate(prices, 1):
        wanted.setdefault(times[f"trade {number}"] // minute * minute, []).append(prices[name])
    assert [candle["start_ns"] for candle in found["candles"]] == list(wanted)
    for candle, of in zip(found["candles"], wanted.values(), strict=True):
        said = [float(candle[n]) * 10**6 for n in ("open", "high", "low", "close")]
        assert said == pytest.approx([of[0], max(of), min(of), of[-1]])
        assert candle["trades"] == len(of)
    assert sum(float(candle["volume"]) for candle in found["candles"]) == pytest.approx(7.0)
    before = served.good(path(GOLD, f"/candles?interval=7d&since={times['trade 1']}&as_of={times['trade 2']}"))
    assert [candle["trades"] for candle in before["candles"]] == [2]


@pytest.mark.parametrize("query", ["interval=0s", "interval=8d", "interval=1s&since=2020-01-01", "interval=1x", "interval=1m&limit=3"])
def test_candles_are_bounded(served: Served, query: str) -> None:
    assert served.ask(path(GOLD, f"/candles?{query}")).kind == "bad-parameter"


# --- the rest ---------------------------------------------------------------------------------------------------------------


def test_events_days_coverage_and_streams(served: Served) -> None:
    events = served.good("/v1/events")["events"]
    assert [(e["event"], e["markets"], e["active"]) for e in events] == [("KXGOLD-26NOV22", 2, 1), ("KXSILVER-26NOV22", 1, 1)]
    assert [e["event"] for e in pages(served, "/v1/events?limit=1", "events")] == [e["event"] for e in events]
    days = served.good("/v1/days")
    assert [(d["date"], d["state"]) for d in days["days"]] == [(days["today"], "PENDING")]
    assert served.good("/v1/days/today")["day"]["date"] == days["today"]
    assert served.ask("/v1/days/2020-02-02").kind == "not-found"
    assert served.ask("/v1/days/2020-02-31").kind == "bad-parameter"
    coverage = served.good("/v1/coverage")
    assert (coverage["date"], {c["stream"] for c in coverage["channels"]}) == (days["today"], {"local_md_0"})
    streams = {line["stream"]: line for line in served.good("/v1/streams")["streams"]}
    assert streams["local_md_0"]["last"] == served.told.positions["trade 4"]
    then = {line["stream"]: line for line in served.good(f"/v1/streams?as_of={served.told.times['delta']}")["streams"]}
    assert then["local_md_0"]["last"] == served.told.positions["delta"]


def test_health_says_what_is_ready_and_metrics_count(served: Served) -> None:
    assert served.good("/v1/health/live") == {"live": True}
    assert served.good("/v1/health/ready") == {"ready": True, "reasons": []}
    assert {check["name"] for check in served.good("/v1/health")["checks"]} >= {"keys", "view local_md_0", "journal"}
    text = served.ask("/metrics").data.decode()
    assert 'ssmd_gateway_requests_total{operation="isReady",status="200"}' in text
    assert GOLD not in text


def test_what_has_not_changed_is_not_sent_again(served: Served) -> None:
    for target in (path(GOLD, "/book"), "/v1/markets", path(GOLD, "/trades"), f"{path(GOLD)}?as_of={served.told.times['delta']}"):
        tag = served.ask(target).headers["etag"]
        again = served.ask(target, If_None_Match=f'"other", {tag}')
        assert (again.status, again.data) == (304, b""), target
        assert served.ask(target, If_None_Match='"other"').status == 200
    one, other = (served.ask(path(symbol, "/book")).headers["etag"] for symbol in (GOLD, DOTTED))
    assert one != other


def test_head_is_get_without_a_body(served: Served) -> None:
    answer = served.ask(path(GOLD), "HEAD")
    assert (answer.status, answer.data) == (200, b"")
    assert answer.headers["etag"] == served.ask(path(GOLD)).headers["etag"]


@pytest.mark.parametrize(
    ("target", "status", "name"),
    [
        ("/v1/markets?limt=1", 400, "limt"), ("/v1/markets?limit=x", 400, "limit"), ("/v1/markets?limit=1001", 400, "limit"),
        ("/v1/markets?limit=1&limit=2", 400, "limit"), ("/v1/markets?status=open", 400, "status"), ("/v1/markets?cursor=x", 400, "cursor"),
        ("/v1/markets?as_of=2999-01-01", 400, "as_of"), ("/v1/markets?as_of=yesterday", 400, "as_of"),
        ("/v1/markets?as_of=other_md_0:1", 400, "as_of"), ("/v1/markets?category=%01", 400, "category"),
        ("/v1/coverage?date=x", 400, "date"), ("/v1/clients?as_of=1m", 400, "as_of"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_wrong_is_named(served: Served, target: str, status: int, name: str) -> None:
    answer = served.ask(target)
    assert (answer.status, answer.kind) == (status, "bad-parameter")
    assert [flaw["name"] for flaw in answer.json["errors"]] == [name]
    assert answer.json["instance"] == target.partition("?")[0]


def test_what_is_wrong_reads_as_a_sentence_and_says_what_would_do(served: Served) -> None:
    assert served.ask("/v1/markets?foo=1").json["detail"].startswith("foo is not a parameter of this path; known: as_of, ")
    assert "a position, such as local_md_0:123, does as well" in served.ask("/v1/markets?as_of=yesterday").json["detail"]


def test_an_unknown_parameter_or_path_comes_with_near_ones(served: Served) -> None:
    assert served.ask("/v1/markets?limt=1").json["nearest"] == ["limit"]
    assert served.ask("/v1/marketz").json["nearest"][0] == "/v1/markets"
    assert served.ask(path(GOLD, "/book?as_of=local_md_0:999999")).kind == "not-found"
