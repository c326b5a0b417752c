from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from exchanges.kalshi import rest as rest_module
from exchanges.kalshi.listing import AnswerTooLarge
from exchanges.kalshi.rest import (
    MAX_PAGES,
    MAX_TRIES,
    Answer,
    KalshiRest,
    error_text,
    fetch,
    markets_path,
    parse_market,
    parse_markets,
    parse_status,
)
from exchanges.markets import Selection
from journal.clock import WallClock
from journal.errors import CallerError, VenueRefused, VenueUnavailable

URL = "https://venue/trade-api/v2/"
MARKET = {
    "ticker": "KXBTC15M-26SEP251515-15",
    "event_ticker": "KXBTC15M-26SEP251515",
    "status": "active",
    "open_time": "2026-09-25T19:00:00Z",
    "close_time": "2026-09-25T19:15:00Z",
    "result": "",
    "floor_strike": 83950.62,
    "price_ranges": [{"end": "0.1000", "start": "0.0000", "step": "0.0010"}],
    "volume_fp": "12.00",
}


class Venue:
    """Scripted answers, and what was asked."""

    rate = 1.0

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.slept: list[float] = []

    def get(self, url: str) -> Answer:
        self.asked.append(url)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wall_ns(self) -> int:
        return 0

    def mono_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    @property
    def rest(self) -> KalshiRest:
        return KalshiRest(URL, self, random.Random(1), get=self.get)

    def markets(self, **query: Any) -> list[str]:
        async def collect() -> list[str]:
            return [market.symbol async for page in self.rest.markets(**query) for market in page]

        return asyncio.run(collect())


def page(*tickers: str, cursor: str | None = "") -> Answer:
    return 200, json.dumps({"markets": [{**MARKET, "ticker": t} for t in tickers], "cursor": cursor}).encode()


def test_a_market_is_its_lifecycle() -> None:
    market = parse_market(MARKET)
    assert market
    assert (market.symbol, market.price_exponent, market.size_exponent) == ("KXBTC15M-26SEP251515-15", -6, -2)
    body = market.body
    assert (body.event, body.status, body.open_ns, body.close_ns) == ("rest", "active", 1790362800 * 10**9, 1790363700 * 10**9)
    assert (body.result, body.settlement_value) == ("", None)
    assert json.loads(body.detail)["price_ranges"] == MARKET["price_ranges"]


def test_strikes_stay_text() -> None:
    (market,) = parse_markets(page("M")[1]).markets
    assert json.loads(market.body.detail)["floor_strike"] == "83950.62"


@pytest.mark.parametrize(
    ("status", "ours"),
    [("initialized", "pending"), ("active", "active"), ("inactive", "paused"), ("closed", "closed"), ("determined", "determined"),
     ("disputed", "determined"), ("amended", "determined"), ("finalized", "settled"), ("new one", ""), (None, "")],
)  # fmt: skip
def test_every_status(status: str | None, ours: str) -> None:
    market = parse_market({**MARKET, "status": status})
    assert market
    assert market.body.status == ours


def test_a_settled_market_of_either_era() -> None:
    for fields, value in (
        ({"settlement_value_dollars": "0.3500"}, 350_000),
        ({"settlement_value": 35}, 350_000),
        ({"settlement_value": None}, None),
        ({"settlement_value": [1]}, None),
    ):
        market = parse_market({**MARKET, "status": "finalized", "result": "yes", "settlement_ts": "2026-09-25T19:20:00Z", **fields})
        assert market
        assert (market.body.settlement_value, market.body.result, market.body.settled_ns) == (value, "yes", 1790364000 * 10**9)


def test_what_is_no_market_is_left_out() -> None:
    found = parse_markets(json.dumps({"markets": [MARKET, None, {}, {"ticker": ""}, {"ticker": 5}, {"ticker": "x" * 201}]}).encode())
    assert [m.symbol for m in found.markets] == [MARKET["ticker"]]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"markets":{}}', b'{"markets":[],"cursor":5}', b"[" * 9_999, b"\xff"])
def test_what_is_no_page(body: bytes) -> None:
    with pytest.raises(VenueUnavailable, match="/markets"):
        parse_markets(body)


def test_the_exchange_status() -> None:
    assert parse_status(b'{"exchange_active":true,"trading_active":false,"exchange_estimated_resume_time":"1970-01-01T00:00:01Z"}') == (
        True,
        False,
        10**9,
    )
    assert parse_status(b'{"exchange_active":true,"trading_active":true,"exchange_estimated_resume_time":null}').resumes_ns == 0
    with pytest.raises(VenueUnavailable):
        parse_status(b'{"exchange_active":1,"trading_active":true}')


def test_paths() -> None:
    assert markets_path(series="KXA", status="open", cursor="a b&c") == ("/markets?limit=1000&series_ticker=KXA&status=open&cursor=a+b%26c")
    assert markets_path(tickers=["A.5", "B"]) == "/markets?limit=1000&tickers=A.5%2CB"
    assert markets_path(status="open") == "/markets?limit=1000&status=open&mve_filter=exclude"


def test_pages_are_followed_to_the_end() -> None:
    venue = Venue(page("U"), page("A", "B", cursor="2"), page(cursor="3"), page("C", cursor=None))
    assert venue.markets(series=["KXA"]) == ["U", "A", "B", "C"]
    assert [url.rpartition("status=")[2].split("&")[0] for url in venue.asked] == ["unopened", "open", "open", "open"]
    assert [url.rpartition("cursor=")[2] for url in venue.asked[2:]] == ["2", "3"]


def test_a_list_without_end_is_refused() -> None:
    venue = Venue(*(page(cursor=str(n)) for n in range(1, MAX_PAGES + 2)))
    with pytest.raises(VenueRefused, match="does not end"):
        venue.markets(series=["KXA"])
    assert len(venue.asked) == MAX_PAGES


def test_a_page_that_repeats_is_refused() -> None:
    venue = Venue(page("A", cursor="2"), page("B", cursor="3"), page("A", cursor="2"))
    with pytest.raises(VenueUnavailable, match="same cursor came twice"):
        venue.markets(everything=True)


def test_tickers_are_asked_for_in_parts() -> None:
    venue = Venue(page("A"), page("B"), page("C"))
    assert venue.markets(tickers=[f"M{n}" for n in range(201)]) == ["A", "B", "C"]
    assert [url.count("%2C") for url in venue.asked] == [99, 99, 0]


def test_a_busy_venue_is_asked_again_later() -> None:
    busy = (429, b'{"error":"too many requests"}')
    venue = Venue(busy, (503, b""), TimeoutError("timed out"), page("A"), page("B"))
    assert venue.markets(series=["S"]) == ["A", "B"]
    assert len(venue.slept) == 3
    assert 0.25 <= venue.slept[0] <= 0.5
    assert 1 <= venue.slept[2] <= 2
    venue = Venue(*[busy] * MAX_TRIES)
    with pytest.raises(VenueUnavailable, match=r"did not answer in 6 tries: HTTP 429 too many requests"):
        venue.markets(series=["S"])


def test_a_refusal_is_not_repeated() -> None:
    venue = Venue((404, b'{"error":{"code":"not_found","message":"no such route"}}'))
    with pytest.raises(VenueRefused, match=r"HTTP 404 not_found no such route; check the feed's REST URL"):
        venue.markets(series=["S"])


def test_errors_flat_or_nested() -> None:
    assert error_text(b'{"code":"a","message":"b","details":"c"}') == "a b c"
    assert error_text(b'{"error":{"code":"a","message":"b"}}') == "a b"
    assert error_text(b'{"error":"too many requests"}') == "too many requests"
    assert error_text(b"<html>gateway") == "<html>gateway"


def test_a_url_that_is_none() -> None:
    with pytest.raises(CallerError, match="https://"):
        KalshiRest("file:///etc/passwd", Venue(), random.Random(1))


def test_selections() -> None:
    assert Selection(series=("KXGOLD15M",)).matches("KXGOLD15M-26AUG102045-45")
    assert not Selection(series=("KXGOLD",)).matches("KXGOLD15M-26AUG102045-45")
    assert Selection(symbols=("A",)).matches("A")
    assert not Selection(symbols=("A",)).matches("B")
    assert Selection(everything=True).matches("B")


def test_no_proxy_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.handle_request, daemon=True).start()
        assert fetch(f"http://127.0.0.1:{server.server_port}/") == (200, b"here")
    with pytest.raises(OSError, match="refused"):
        fetch("http://venue.test/")


@pytest.mark.parametrize("url", ["https://me:hidden@venue/", "https://venue/?key=hidden"])
def test_a_url_with_secrets_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(CallerError) as refused:
        KalshiRest(url, WallClock(), random.Random(1))
    assert "hidden" not in str(refused.value)


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trickles(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(30):  # each byte in time, the whole never
                    self.wfile.write(b" ")
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(rest_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(rest_module, "MAX_TRIES", 2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickles) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        rest = KalshiRest(f"http://127.0.0.1:{server.server_port}", Venue(), random.Random(1))
        with pytest.raises(VenueUnavailable, match="did not answer in 2 tries: TimeoutError"):
            asyncio.run(rest.status())
        server.shutdown()


PLAIN = b'{"markets":[]}' * 1_000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (gzip.compress(PLAIN), ""),
        (gzip.compress(PLAIN)[:-20], "cut"),
        (PLAIN, "not the gzip"),
        (gzip.compress(bytes(99_999)), "larger than"),
    ],
)
def test_answers_come_compressed(body: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Compresses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Accept-Encoding"] == "gzip"
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(rest_module, "MAX_ANSWER_BYTES", 50_000)
    with HTTPServer(("127.0.0.1", 0), Compresses) as server:
        Thread(target=server.handle_request, daemon=True).start()
        if not said:
            assert fetch(f"http://127.0.0.1:{server.server_port}/") == (200, PLAIN)
            return
        with pytest.raises((OSError, AnswerTooLarge), match=said):
            fetch(f"http://127.0.0.1:{server.server_port}/")
