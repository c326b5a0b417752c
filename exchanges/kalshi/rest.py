"""Kalshi's public REST: which markets there are (`listing` knows what is asked) and what state the exchange is in.

GETs of market data need no key and cost no tokens, so nothing here is signed. Books are not read this way: the venue's CDN caches them for
up to 15 s.
"""

from __future__ import annotations

import asyncio
import random
import urllib.error
import urllib.request
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec

from exchanges.backoff import Backoff
from exchanges.bucket import TokenBucket
from exchanges.kalshi import listing
from exchanges.kalshi.listing import AnswerTooLarge
from exchanges.kalshi.numbers import SECOND_NS
from exchanges.markets import DefinitionPage
from exchanges.proxies import is_direct
from journal.clock import Clock
from journal.errors import CallerError, VenueRefused, VenueUnavailable

TIMEOUT_S = 15.0  # of silence
ANSWER_S = 60.0  # of an answer that trickles; /series is 20 MB
MAX_ANSWER_BYTES = 32 << 20  # a page of 1,000 markets with their rules is about 3 MB
MAX_TRIES = 6  # about 15 s of waiting in all
_ANY = msgspec.json.Decoder(float_hook=str)
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "ssmd"}

Answer = tuple[int, bytes]


def parse_trading(body: bytes) -> bool:
    """Whether the exchange trades, as ``/exchange/status`` says. Raises `VenueUnavailable` for what is not a status."""
    path = "/exchange/status"
    try:
        answer = _ANY.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise VenueUnavailable(f"{path} answered with something that is not JSON ({error})") from error
    trading = answer.get("trading_active") if isinstance(answer, dict) else None
    if not isinstance(trading, bool):
        raise VenueUnavailable(f"{path} answered without saying whether it trades")
    return trading


def error_text(body: bytes) -> str:
    """What an error answer says: flat as in the specification, or nested under ``error`` as really sent."""
    try:
        answer = _ANY.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return body[:200].decode(errors="replace")
    inner = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(inner, dict):
        return " ".join(str(inner[name]) for name in ("code", "message", "details") if inner.get(name))[:200]
    return str(inner)[:200]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(url: str) -> Answer:
    """One GET, blocking, through the environment's proxies unless `url` is of this machine.

    Raises `OSError` or `HTTPException` when there is no answer, `AnswerTooLarge`.
    """
    direct = [urllib.request.ProxyHandler({})] if is_direct(url) else []
    opener = urllib.request.build_opener(_NoRedirect, *direct)
    request = urllib.request.Request(url, headers=_HEADERS)  # noqa: S310  (checked by KalshiRest)
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, _limited(answer, answer.headers["Content-Encoding"])
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _limited(error, error.headers["Content-Encoding"])


def _limited(answer: IO[bytes], encoding: str | None) -> bytes:
    body = answer.read(MAX_ANSWER_BYTES + 1)
    if encoding == "gzip":  # a tenth of the bytes
        unpacker = zlib.decompressobj(wbits=31)
        try:
            body = unpacker.decompress(body, MAX_ANSWER_BYTES + 1)
        except zlib.error as error:
            raise OSError(f"the answer is not the gzip that it says it is ({error})") from error
        if not unpacker.eof and len(body) <= MAX_ANSWER_BYTES:
            raise OSError("the answer was cut")
    if len(body) > MAX_ANSWER_BYTES:
        raise AnswerTooLarge(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return body


class KalshiRest:
    """The venue's REST at `url` (with ``/trade-api/v2``). `get` is the blocking transport, called in a thread.

    `limit`: how often the venue may be asked; None leaves it to the venue's 429.
    """

    def __init__(
        self, url: str, clock: Clock, rng: random.Random, *, get: Callable[[str], Answer] = fetch, limit: TokenBucket | None = None
    ) -> None:
        if "@" in url or "?" in url:
            raise CallerError("the REST URL has a user or a query: such secrets are not for URLs; name the address alone")
        if urlsplit(url).scheme not in {"http", "https"}:
            raise CallerError(f"REST URL {url!r}: it must begin with https:// (or http://)")
        self._url = url.rstrip("/")
        self._clock = clock
        self._rng = rng
        self._get = get
        self._limit = limit
        self._facts = listing.Facts(self._answer)

    def definitions(self, *, series: Sequence[str] = (), since_ns: int = 0, cursor: str = "") -> AsyncIterator[DefinitionPage]:
        """As `exchanges.markets.DefinitionSource`; see `listing` for what is asked."""
        if since_ns > 0:
            return listing.changed(self._answer, self._facts, series, since_ns // SECOND_NS, cursor)
        return listing.whole(self._answer, self._facts, series, cursor)

    async def _answer(self, path: str, *, absent_ok: bool = False) -> bytes:
        delays = Backoff(self._rng, 0.5, 8.0)
        said = ""
        for attempt in range(MAX_TRIES):
            if attempt:
                await self._clock.sleep(delays.next_s())  # 429 comes without a Retry-After
            if self._limit is not None:
                await self._limit.take()
            try:
                async with asyncio.timeout(ANSWER_S):
                    status, body = await asyncio.to_thread(self._get, self._url + path)
            except (OSError, HTTPException) as error:
                said = str(error) or type(error).__name__
                continue
            if status == 200:
                return body
            if status == 404 and absent_ok:
                return b""
            said = f"HTTP {status} {error_text(body)}".rstrip()
            if status == 429 and self._limit is not None:
                self._limit.empty()
            if status != 429 and status < 500:
                raise VenueRefused(f"{self._url}{path.partition('?')[0]} answered {said}; check the feed's REST URL")
        raise VenueUnavailable(f"{self._url}{path.partition('?')[0]} did not answer in {MAX_TRIES} tries: {said}")
