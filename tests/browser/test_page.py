"""The page in a real Chromium, over real processes: a simulated venue, its capture, the gateway."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.chromium import Tab, Theme, browser, tab
from tests.gateway.served import SLASHED, command, environ, seeded, stop
from tests.journal.servers import free_port

pytestmark = pytest.mark.chromium
ROWS = "#bids tr, #asks tr"


class Running:
    """`ssmd up` and a gateway; the gateway may be killed and started again on its port."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.capture = self.run("up", "--seed", "5")
        self.gateway: subprocess.Popen[bytes]

    def run(self, *args: str) -> subprocess.Popen[bytes]:
        with (self.data / f"{args[0]}.log").open("ab") as log:
            return subprocess.Popen(command(*args), env=environ(self.data), cwd=self.data, stdout=log, stderr=log)

    def serve(self) -> None:
        self.gateway = self.run("run", "gateway", "--port", str(self.port))

    def ask(self, path: str, **query: object) -> Any:
        given = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
        with urlopen(f"{self.url}{path}?{given}" if given else f"{self.url}{path}", timeout=30) as answer:  # noqa: S310  (ours)
            return json.load(answer)

    def ready(self) -> bool:
        try:
            return bool(self.ask("v1/health")["ready"]) and any(m["captured"] for m in self.ask("v1/markets")["markets"])
        except OSError:
            return False

    def busiest(self) -> str:
        """The market that is traded a while longer and whose book changed last."""
        now = datetime.now(UTC) + timedelta(seconds=90)
        open_ones = [m["symbol"] for m in self.ask("v1/markets")["markets"] if m["captured"] and m["close_time"] > now.isoformat()]
        books = [self.ask(f"v1/markets/{quote(symbol, safe='')}/book") for symbol in open_ones]
        both = [book for book in books if book["bids"] and book["asks"]]
        return str(max(both, key=lambda book: int(book["position"].rpartition(":")[2]))["symbol"])

    def log(self) -> str:
        return "\n".join(path.read_text() for path in self.data.glob("*.log"))


def until(is_true: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(data: Path) -> Iterator[Running]:
    found = Running(data)
    try:
        until(lambda: (data / "server.json").exists() or found.capture.poll() is not None, "the capture does not start")
        found.serve()
        until(found.ready, f"the gateway is not ready: {found.log()}")
        yield found
    finally:
        stop(found.gateway)
        stop(found.capture)


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as found:
        yield found


@contextmanager
def opened(chrome: Browser, venue: Running, width: int = 1_280, theme: Theme = "dark") -> Iterator[Tab]:
    """With a live book of a market."""
    with tab(chrome, f"{venue.url}#{quote(venue.busiest())}", width, 844 if width < 900 else 900, theme) as found:
        expect(found.page.locator("#when")).to_have_text("live")
        expect(found.page.locator("#book-state")).to_have_text("valid")
        expect(found.page.locator("#bids td.price").first).not_to_be_empty()
        yield found


def ladder(page: Page) -> list[list[str]]:
    found: list[list[str]] = page.eval_on_selector_all(ROWS, "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
    return found


def sides(rows: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Bids and asks, best first, price and size, of `ladder`: asks stand above bids."""
    asks, bids = rows[:10][::-1], rows[10:]
    return [r[:2] for r in bids if r[0]], [r[:2] for r in asks if r[0]]


def is_changing(page: Page) -> None:
    before = ladder(page)
    until(lambda: ladder(page) != before, "the book does not change", 30)


def go(page: Page, instant: str) -> None:
    """Type the instant, and wait until the book of then is shown."""
    page.locator("#instant").fill(instant)
    page.locator("#instant").press("Enter")
    expect(page.locator("#when")).to_have_text("past")


# --- what is served ---------------------------------------------------------------------------------------------------------


def test_it_connects_and_a_book_changes(chrome: Browser, venue: Running) -> None:
    with opened(chrome, venue) as found:
        page = found.page
        is_changing(page)
        expect(page.locator("#trades tr:visible").first).to_be_visible()
        expect(page.locator("#markets li").first.locator(".best")).to_have_text(re.compile(r"\d"))
        expect(page.locator("#health")).to_have_text("ready")
        expect(page.locator("#clients tr")).not_to_have_count(0)
        expect(page.locator("#day-states [aria-current=true]")).to_have_count(1)
        expect(page.locator("#coverage .strip").first).to_be_visible()
        prices = [row[0] for row in ladder(page) if row[0]]
        assert all(re.fullmatch(r"\d\.\d{4}", price) for price in prices), prices
        assert prices == sorted(prices, reverse=True)


def test_the_past_is_what_rest_says_it_was_and_plays_on(chrome: Browser, venue: Running) -> None:
    with opened(chrome, venue) as found:
        page = found.page
        symbol = page.inner_text("#symbol")
        is_changing(page)
        time.sleep(2)
        instant = datetime.fromtimestamp(time.time() - 2, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        then = venue.ask(f"v1/markets/{quote(symbol, safe='')}/book", as_of=instant)
        trades = venue.ask(f"v1/markets/{quote(symbol, safe='')}/trades", as_of=instant, limit=60)["trades"]
        wanted = then["bids"][:10], then["asks"][:10]
        go(page, instant)
        expect(page.locator("#book-position")).to_have_text(then["position"])
        expect(page.locator("html")).to_have_attribute("data-looking", "false")
        assert sides(ladder(page)) == wanted
        shown = page.eval_on_selector_all(
            "#trades tr:not([hidden])", "rows => rows.map(r => [r.cells[2].textContent, r.cells[3].textContent])"
        )
        assert shown == [[t["price"], t["size"]] for t in trades]
        time.sleep(1)
        assert sides(ladder(page)) == wanted, "what is live was drawn over the past"
        assert page.evaluate("location.hash").endswith(f"@{instant}")

        page.locator("#speed").select_option("5")
        page.keyboard.press("Escape")  # out of the select, and live
        go(page, instant)
        page.locator("#market").focus()
        page.keyboard.press("Space")
        expect(page.locator("#when")).to_have_text("playing")
        until(lambda: page.input_value("#instant") > instant.replace("T", " "), "it does not play", 20)
        until(lambda: page.inner_text("#book-position") != then["position"], "the book does not play on", 20)
        page.keyboard.press("Escape")
        expect(page.locator("#when")).to_have_text("live")
        is_changing(page)


def test_the_slider_and_a_link_lead_to_the_past(chrome: Browser, venue: Running) -> None:
    with opened(chrome, venue) as found:
        page = found.page
        page.locator("#slider").focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#when")).to_have_text("past")
        expect(page.locator("#slider")).to_have_attribute("aria-valuetext", re.compile("UTC"))
        until(lambda: "@" in page.evaluate("location.hash"), "the link does not name the instant")
        link = page.url
        page.locator("#live").click()
        expect(page.locator("#when")).to_have_text("live")
    with tab(chrome, link) as other:
        expect(other.page.locator("#when")).to_have_text("past")
        expect(other.page.locator("#book-position")).to_have_text(re.compile("local_md_0:"))


def test_a_past_day_that_happens_again_is_not_called_live(chrome: Browser, venue: Running) -> None:
    date = venue.ask("v1/days/today")["day"]["date"]
    port = free_port()
    symbol = quote(venue.busiest())
    again = venue.run("replay", "--date", date, "--serve-gateway", str(port), "--speed", "1")
    try:
        until(lambda: is_listening(port) or again.poll() is not None, "the past day is not served")
        with tab(chrome, f"http://127.0.0.1:{port}/#{symbol}") as found:
            page = found.page
            expect(page.locator("#when")).to_have_text("replay")
            expect(page.locator("#when-detail")).to_have_text(re.compile(f"^{date}, 1. real time$"))  # this page began it
            until(lambda: any(row[0] for row in ladder(page)), f"no book: {venue.log()}")
            page.keyboard.press(",")
            expect(page.locator("#when")).to_have_text("past")
            page.keyboard.press("Escape")
            expect(page.locator("#when")).to_have_text("replay")
            expect(page.locator("#notice")).to_be_hidden()
            found.complaints[:] = [said for said in found.complaints if "404" not in said]  # it may be of later that day
    finally:
        stop(again)


def test_a_market_of_later_that_day_is_waited_for(chrome: Browser, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as apart:  # playwright has a loop in this thread
        data, _ = apart.submit(seeded, tmp_path).result()  # where the market comes after three seconds
    port = free_port()
    args = command("replay", "--date", "today", "--serve-gateway", str(port), "--speed", "0.5")
    again = subprocess.Popen(
        args, env=environ(data), cwd=data, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: is_listening(port) or again.poll() is not None, "the past day is not served")
        with tab(chrome, f"http://127.0.0.1:{port}/#{quote(SLASHED, safe='')}") as found:
            page = found.page
            expect(page.locator("#notice")).to_have_text(re.compile(SLASHED))
            expect(page.locator("#bids td.price").first).to_have_text("0.5000")
            expect(page.locator("#notice")).to_be_hidden()
            expect(page.locator("#book-state")).to_have_text("valid")
            found.complaints[:] = [said for said in found.complaints if "404" not in said]
    finally:
        stop(again)


def test_a_key_is_asked_for_until_it_fits_and_again_when_it_is_revoked(chrome: Browser, venue: Running, tmp_path: Path) -> None:
    for folder in ("environments", "feeds", "schemas"):
        (tmp_path / "exchanges" / folder).mkdir(parents=True)
    (tmp_path / "exchanges" / "environments" / "local.yaml").write_text("name: local\nfeed: kalshi\ngateway:\n  require_key: true\n")

    def key(*args: str) -> Any:
        told = subprocess.run(command("gateway", "key", *args, "-o", "json"), env=environ(venue.data), capture_output=True, check=True)
        return json.loads(told.stdout)

    fits = key("create", "door")["key"]
    port = free_port()
    locked = venue.run("run", "gateway", "--port", str(port), "--project", str(tmp_path))
    try:
        until(lambda: is_listening(port) or locked.poll() is not None, "the gateway does not listen")
        with tab(chrome, f"http://127.0.0.1:{port}/") as found:
            page, door = found.page, found.page.locator("#door")
            page.keyboard.press("Escape")  # there is nothing behind it
            expect(door).to_be_visible()
            late: list[Route] = []
            page.route("**/v1/health*", lambda asked: late.append(asked))  # noqa: PLW0108  (it takes no built-in); not answered yet
            for typed in ("wrong", fits):
                page.locator("#door-key").press_sequentially(typed)
                page.keyboard.press("Enter")
                if typed == "wrong":
                    expect(page.locator("#door-reason")).to_have_text("no such key")
                    while not late:
                        page.wait_for_timeout(50)  # the health is asked for every five seconds
            expect(page.locator("#when")).to_have_text("live")
            expect(page.locator("#book-state")).to_have_text("valid")
            for asked in late:  # among them with the wrong key, whose answer comes now
                asked.continue_()
            page.unroute("**/v1/health*")
            expect(page.locator("#health")).to_have_text("ready")
            expect(door).not_to_be_visible()
            key("revoke", "door", "--reason", "the laptop is lost")
            expect(door).to_be_visible()
            expect(page.locator("#door-reason")).to_have_text(re.compile("revoked"))
            assert fits not in page.content()
            # The browser itself says in the console that it was refused, as is who asks for clients without the scope admin.
            found.complaints = [line for line in found.complaints if not re.search("WebSocket connection to|status of (401|403|503)", line)]
    finally:
        stop(locked)


def test_the_keyboard_is_enough(chrome: Browser, venue: Running) -> None:
    with opened(chrome, venue) as found:
        page = found.page
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.id") == "markets"
        page.keyboard.press("End")  # the busiest may be any of them, also the last one, behind which an arrow finds none
        last = page.inner_text("#symbol")
        page.keyboard.press("ArrowUp")
        assert page.inner_text("#symbol") != last, "the arrow chooses nothing"
        active = page.get_attribute("#markets", "aria-activedescendant")
        assert page.get_attribute(f"#{active}", "aria-selected") == "true"
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", "the focus is not seen"
        page.keyboard.press("/")
        page.keyboard.type("zzz no such market")
        expect(page.locator("#markets li")).to_have_count(0)
        page.keyboard.press("Escape")
        expect(page.locator("#markets li").first).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("t")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#help")).not_to_be_visible()
        page.keyboard.press(",")
        expect(page.locator("#when")).to_have_text("past")
        page.keyboard.press("Escape")
        expect(page.locator("#when")).to_have_text("live")


def test_a_slow_network_is_borne(chrome: Browser, venue: Running) -> None:
    with opened(chrome, venue) as found:
        session = found.page.context.new_cdp_session(found.page)
        session.send("Network.enable")
        slow = {"offline": False, "latency": 400, "downloadThroughput": 50_000, "uploadThroughput": 20_000}
        session.send("Network.emulateNetworkConditions", slow)
        found.page.reload()
        expect(found.page.locator("#when")).to_have_text("live")
        expect(found.page.locator("#book-state")).to_have_text("valid")
        is_changing(found.page)
        expect(found.page.locator("#when")).to_have_text("live")


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [1_280, 390])
def test_it_fits(chrome: Browser, venue: Running, width: int, theme: Theme, tmp_path: Path) -> None:
    with opened(chrome, venue, width, theme) as found:
        page = found.page
        assert page.evaluate("document.documentElement.scrollWidth") == width, "it scrolls sideways"
        places = {name: page.locator(f"#{name}").bounding_box() for name in ("chart", "depth", "slider", "spread")}
        time.sleep(1.5)  # books, trades and all panels have come
        assert places == {name: page.locator(f"#{name}").bounding_box() for name in places}, "the layout jumps"
        assert overlaps(page) == []
        background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        light = sum(int(part) for part in re.findall(r"\d+", background)[:3]) > 3 * 128
        assert light == (theme == "light")
        picture = page.screenshot(path=tmp_path / f"page-{width}-{theme}.png", full_page=True)
        assert len(picture) > 10_000
        go(page, datetime.fromtimestamp(time.time() - 1, UTC).isoformat(timespec="milliseconds"))
        expect(page.locator("html")).to_have_attribute("data-looking", "false")
        page.screenshot(path=tmp_path / f"page-{width}-{theme}-past.png", full_page=True)


def overlaps(page: Page) -> list[str]:
    """Panels that cover one another."""
    found: list[str] = page.evaluate("""() => {
        const boxes = [...document.querySelectorAll(".panel")].map(p => [p.className, p.getBoundingClientRect()]);
        return boxes.flatMap(([a, x], i) => boxes.slice(i + 1)
            .filter(([b, y]) => x.left < y.right - 1 && y.left < x.right - 1 && x.top < y.bottom - 1 && y.top < x.bottom - 1)
            .map(([b]) => `${a} and ${b}`));
    }""")
    return found


def test_what_a_venue_writes_is_text(chrome: Browser, venue: Running) -> None:
    """A title with markup is shown letter by letter; the policy would stop it, and is not needed to."""
    evil = "<img src=x onerror=alert(1)>"

    def changed(route: Any) -> None:
        answer = route.fetch()
        document = answer.json()
        for line in document["markets"]:
            line["title"] = evil
        route.fulfill(response=answer, json=document)

    with opened(chrome, venue) as found:
        found.page.route("**/v1/markets?*", changed)
        found.page.reload()
        expect(found.page.locator("#markets .title").first).to_have_text(evil)
        assert found.page.locator("#markets img").count() == 0


def test_it_comes_back_after_the_gateway_was_killed(chrome: Browser, venue: Running) -> None:
    with opened(chrome, venue) as found:
        page = found.page
        venue.gateway.kill()
        venue.gateway.wait()
        expect(page.locator("#when")).to_have_text("reconnecting")
        expect(page.locator("#when-detail")).to_have_text(re.compile("try "))
        assert any(row[0] for row in ladder(page)), "what was known is not shown any more"
        venue.serve()
        until(venue.ready, f"the gateway is not ready again: {venue.log()}")
        expect(page.locator("#when")).to_have_text("live")
        is_changing(page)
        numbers = page.eval_on_selector_all("#trades tr:not([hidden]) td.time", "cells => cells.map(cell => cell.textContent)")
        assert numbers == sorted(numbers, reverse=True)
        # The browser itself says in the console that it could not connect.
        found.complaints = [line for line in found.complaints if not re.search("WebSocket connection to|ERR_|status of 503", line)]
