"""How the page's files are served, and that they ask nobody else for anything."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ssmd.gateway.pages
from ssmd.gateway.pages import Pages

FOLDER = Path(ssmd.gateway.pages.__file__).parent / "page"


async def _behind(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"behind"})


def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def call() -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "method": method, "headers": named}
        await Pages(_behind)(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(call())
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, sent[1]["body"]


def test_the_page_has_a_strict_policy_and_a_tag() -> None:
    status, headers, body = ask("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert body == (FOLDER / "index.html").read_bytes()
    again, _, nothing = ask("/", if_none_match=headers["etag"])
    assert (again, nothing) == (304, b"")
    assert ask("/", "HEAD")[2] == b""


def test_packed_for_who_asks_for_it() -> None:
    _, headers, body = ask("/page/vendor/uplot.js", accept_encoding="gzip, br")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == (FOLDER / "vendor" / "uplot.js").read_bytes()
    assert ask("/page/vendor/uplot.js", if_none_match=headers["etag"], accept_encoding="gzip")[0] == 304


def test_what_is_no_file_of_the_page_is_behind_it() -> None:
    for path in ("/v1/markets", "/page/../pages.py", "/page/", "/page/vendor/uplot.LICENSE", "/page/index.html"):
        assert ask(path)[0] == 418, path
    assert ask("/", "POST")[0] == 418


def test_every_file_that_is_named_is_there_and_none_is_elsewhere() -> None:
    ours = [path for path in FOLDER.glob("*.*") if path.suffix in {".js", ".css", ".html"}]
    for path in ours:
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|https?://(?!www\.w3\.org/2000/svg)", text), (
            path
        )
        for name in re.findall(r'from "\./([^"]+)"', text):
            assert (FOLDER / name).is_file(), f"{path.name}: {name}"
    html = (FOLDER / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="(/[^"]*)"', html):
        assert ask(name)[0] == 200, name
    wanted = {name for path in ours if path.suffix == ".js" for name in re.findall(r'\bfind\("([\w-]+)"\)', path.read_text())}
    assert wanted - set(re.findall(r'id="([\w-]+)"', html)) == set()
    assert (FOLDER / "vendor" / "uplot.LICENSE").read_text().startswith("The MIT License")


def test_words_are_told_from_their_ground() -> None:
    """4.5 to 1, as WCAG AA asks of small text; in light and in dark."""
    style = (FOLDER / "style.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", style))
    pairs = [(word, ground) for word in ("text", "dim", "bid", "ask", "warn", "focus") for ground in ("panel", "ground", "raised")]
    pairs += [("dim", "bid-bar"), ("dim", "ask-bar"), ("bid", "bid-bar"), ("ask", "ask-bar"), ("warn", "warn-bar"), ("focus", "replay-bar")]
    for word, ground in pairs:
        for one, other in zip(colours[word].split(", "), colours[ground].split(", "), strict=True):
            high, low = sorted([luminance(one), luminance(other)], reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{word} on {ground}: {one} on {other}"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
