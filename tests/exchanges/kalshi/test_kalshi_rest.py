from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from threading import Thread

import pytest

from exchanges.kalshi import rest as rest_module
from exchanges.kalshi.listing import AnswerTooLarge
from exchanges.kalshi.rest import (
    MAX_TRIES,
    Answer,
    KalshiRest,
    error_text,
    fetch,
    parse_trading,
)
from exchanges.markets import Selection
from journal.clock import WallClock
from journal.errors import CallerError, VenueRefused, VenueUnavailable

URL = "https://venue/trade-api/v2/"


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

    def series(self, *names: str) -> list[str]:
        """The markets of each."""

        async def collect() -> list[str]:
            return [market.symbol async for page in self.rest.definitions(series=names) for market, _ in page.markets]

        return asyncio.run(collect())


SERIES = 200, b'{"series":{"ticker":"S","category":"Sports"}}'


def page(*tickers: str) -> Answer:
    event = {"event_ticker": "S-1", "series_ticker": "S", "markets": [{"ticker": t, "event_ticker": "S-1"} for t in tickers]}
    return 200, json.dumps({"events": [event], "cursor": ""}).encode()


def test_whether_the_exchange_trades() -> None:
    assert parse_trading(b'{"exchange_active":true,"trading_active":true,"exchange_estimated_resume_time":null}')
    assert not parse_trading(b'{"exchange_active":true,"trading_active":false}')


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"trading_active":1}', b"[" * 9_999, b"\xff"])
def test_what_is_no_status(body: bytes) -> None:
    with pytest.raises(VenueUnavailable, match="/exchange/status"):
        parse_trading(body)


def test_a_busy_venue_is_asked_again_later() -> None:
    busy = (429, b'{"error":"too many requests"}')
    venue = Venue(busy, (503, b""), TimeoutError("timed out"), SERIES, page("A", "B"))
    assert venue.series("S") == ["A", "B"]
    assert len(venue.slept) == 3
    assert 0.25 <= venue.slept[0] <= 0.5
    assert 1 <= venue.slept[2] <= 2
    venue = Venue(*[busy] * MAX_TRIES)
    with pytest.raises(VenueUnavailable, match=r"did not answer in 6 tries: HTTP 429 too many requests"):
        venue.series("S")


def test_a_refusal_is_not_repeated() -> None:
    venue = Venue(SERIES, (404, b'{"error":{"code":"not_found","message":"no such route"}}'))
    with pytest.raises(VenueRefused, match=r"HTTP 404 not_found no such route; check the feed's REST URL"):
        venue.series("S")


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
            asyncio.run(rest._answer("/series"))
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
    ids=["whole", "cut", "plain", "large"],
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
