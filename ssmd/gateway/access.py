"""Who may ask: keys as the journal has them, followed, so that one that was revoked is closed within a second, its open streams too.

On loopback nobody needs a key, unless the environment says so; whoever shows one is held to it all the same. A request that came through a
proxy is not from this machine, and a page on another site could make a browser here ask: neither passes for loopback.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from journal.clock import Clock, pause
from journal.errors import CallerError, HoleInStream, JournalUnavailable, StoreError
from journal.protocols import JournalReader
from ssmd.gateway.keys import ClientKey, learn, parse_key, read_all, stream_of
from ssmd.gateway.problem import Problem

LOOPBACK = "loopback"  # who asks without a key
SUBPROTOCOL = "ssmd.v1"  # of the stream; a browser adds the key to it as one of its own, because it cannot send headers
_KEY_PROTOCOL = "ssmd.key."
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_NOBODY = ClientKey("", "", "0" * 64, (), (), 0, "")  # what the secret of an unknown key is compared with
_EXPIRY_S = 0.5
_AGAIN_S = 1.0
_FIRST_S = 10.0  # for an entry that is there


_Closing = dict[str, set[Callable[[str], object]]]  # by key


class Grant(NamedTuple):
    """What one client may do. `feeds` empty: all."""

    key: str  # its id, or LOOPBACK
    name: str
    scopes: tuple[str, ...]
    feeds: tuple[str, ...]

    @property
    def who(self) -> str:
        """As histories name it."""
        return self.key if self.key == LOOPBACK else f"{self.name} (key {self.key})"

    def allows(self, scope: str, feed: str) -> bool:
        """`admin` may do all that `read` may."""
        return (scope in self.scopes or "admin" in self.scopes) and (not self.feeds or feed in self.feeds)


OPEN = Grant("", "", (), ())  # of what everybody may ask


class Gatekeeper:
    """Admits requests and streams. Keys are followed while `following` is entered."""

    def __init__(self, env: str, feed: str, host: str, clock: Clock, *, require_key: bool = False, origins: tuple[str, ...] = ()) -> None:
        self._env, self._feed, self._clock = env, feed, clock
        self._keyless = is_loopback(host) and not require_key
        self._host = host
        self._origins = frozenset(origins)
        self._keys: dict[str, ClientKey] = {}
        self._open: _Closing = {}
        self._asked: _Closing = {}
        self.ready = asyncio.Event()
        self.error = ""

    @asynccontextmanager
    async def following(self, journal: JournalReader) -> AsyncIterator[None]:
        """Know every key there is when the block begins, and what becomes of them while it lasts. Raises `StoreError`."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._follow(journal)), asyncio.create_task(self._expire(stop))]
        waits: asyncio.Task[Any] = asyncio.create_task(self.ready.wait())
        try:
            await asyncio.wait({*tasks, waits}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
                task.add_done_callback(self._ended)
            yield
        finally:
            stop.set()
            for task in (*tasks, waits):
                task.cancel()
            await asyncio.gather(*tasks, waits, return_exceptions=True)

    def check_bind(self) -> None:
        """Raise `CallerError` where anybody who reaches this server would be let in, or nobody could."""
        now_ns = self._clock.wall_ns()
        if not self._keyless and not any(k.state(now_ns) == "valid" for k in self._keys.values()):
            where = f"{self._host} can be reached from other machines" if not is_loopback(self._host) else "gateway.require_key is set"
            raise CallerError(
                f"{where}, and there is no key: `ssmd gateway key create NAME --env {self._env}` makes one; or listen on 127.0.0.1"
            )

    # --- admitting ----------------------------------------------------------------------------------------------------------

    def admit(self, headers: Mapping[str, str], scope: str, *, feed: str = "", peer: str = "") -> Grant:
        """Who asks, if that one may. `headers` by lower-case name. Raises `Problem`."""
        authorization = headers.get("authorization", "")
        kind, _, text = authorization.partition(" ")
        if authorization and kind.lower() != "bearer":
            raise _challenge("wrong-key", "write `Authorization: Bearer KEY`; other schemes are not known here")
        grant = self._grant(text.strip() if authorization else None, headers, peer)
        return self._allowed(grant, scope, feed or self._feed)

    def admit_stream(self, headers: Mapping[str, str], *, peer: str = "") -> Grant:
        """As `admit`, for a WebSocket: of a browser the key is one of its subprotocols, ``ssmd.key.KEY`` beside ``ssmd.v1``."""
        self.check_origin(headers)
        if "authorization" in headers:
            return self.admit(headers, "read", peer=peer)
        offered = [p.strip() for p in headers.get("sec-websocket-protocol", "").split(",")]
        text = next((p.removeprefix(_KEY_PROTOCOL) for p in offered if p.startswith(_KEY_PROTOCOL)), None)
        return self._allowed(self._grant(text, headers, peer), "read", self._feed)

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse what a page from elsewhere asks, unless the environment names its origin. Programs send no origin. Raises `Problem`."""
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return
        if (found := _host_of(origin)) and found == headers.get("host", "").lower():
            return
        raise Problem("wrong-origin", f"pages of {origin[:200]} are not let in; `gateway.origins` of the environment names those that are")

    def shares(self, origin: str) -> bool:
        """Whether pages of `origin` may read answers (CORS)."""
        return origin in self._origins

    def _grant(self, text: str | None, headers: Mapping[str, str], peer: str) -> Grant:
        if text is None:
            if not self._keyless:
                raise _challenge("no-key", "send `Authorization: Bearer KEY`; `ssmd gateway key create NAME` makes a key")
            self._check_near(headers, peer)
            return Grant(LOOPBACK, LOOPBACK, ("read", "admin"), ())
        if self.error:
            raise Problem("unavailable", "keys cannot be checked just now", headers={"Retry-After": "5"})
        number, secret = parse_key(text) or ("", "")
        key = self._keys.get(number, _NOBODY)
        opened = key.opened_by(secret)
        state = key.state(self._clock.wall_ns())
        if not opened or state != "valid":
            # Only who has the secret is told what became of the key.
            raise _challenge("wrong-key", f"this key is {state}; ask for another one" if opened else "no such key")
        return Grant(key.id, key.name, key.scopes, key.feeds)

    def _check_near(self, headers: Mapping[str, str], peer: str) -> None:
        """That a request without a key is from this machine and was meant for it."""
        if through := next((name for name in _PROXIED if name in headers), ""):
            raise _challenge("no-key", f"a proxy sent this ({through}), so it may be from anywhere: a key is needed")
        if peer and not is_loopback(peer):
            raise _challenge("no-key", "without a key only this machine is let in")
        host = _name_of(headers.get("host", ""))
        if not is_loopback(host):
            # A name that was made to lead here: a page of that name would be let in by the browser (DNS rebinding).
            raise Problem("wrong-host", f"without a key this server is 127.0.0.1, [::1] or localhost, not {host[:200]!r}")

    def _allowed(self, grant: Grant, scope: str, feed: str) -> Grant:
        if not grant.allows(scope, feed):
            missing = f"scope {scope}" if scope not in grant.scopes and "admin" not in grant.scopes else f"feed {feed}"
            has = ", ".join([*(f"scope {scope}" for scope in grant.scopes), *(f"feed {feed}" for feed in grant.feeds)])
            raise Problem("not-allowed", f"key {grant.key} has no {missing}; it has {has}")
        return grant

    # --- what is open -------------------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self, grant: Grant, close: Callable[[str], object], most: int) -> Iterator[None]:
        """While a client has a stream open: `close` is called, with why, when its key ends. Raises `Problem` beyond `most` of one key."""
        if len(self._open.get(grant.key, ())) >= most:
            whose = f"key {grant.key}" if grant.key != LOOPBACK else "all who come without a key together"
            told = f"{whose} may have {most} streams open (limits.connections_per_key); close some first"
            raise Problem("too-many-requests", told, headers={"Retry-After": "10"})
        with _held(self._open, grant.key, close):
            yield

    @asynccontextmanager
    async def answering(self, grant: Grant) -> AsyncIterator[None]:
        """While a question is answered: it is given up when its key ends. Raises `Problem` then."""
        ended: list[str] = []
        try:
            async with asyncio.timeout(None) as limit:

                def close(why: str) -> None:
                    ended.append(why)
                    limit.reschedule(0)

                with _held(self._asked, grant.key, close):
                    yield
        except TimeoutError:
            if not ended:
                raise
        if ended:
            raise _challenge("wrong-key", ended[0])

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Keys are not followed any more: nobody is let in with what may be old."""
        if not task.cancelled() and (error := task.exception()):
            self._shut(f"{type(error).__name__}: {error}")

    def _shut(self, why: str) -> None:
        self.error = why
        for key in {*self._open, *self._asked} - {"", LOOPBACK}:
            self._close(key, "keys cannot be checked just now")

    def _close(self, key: str, why: str) -> None:
        for close in (*self._open.get(key, ()), *self._asked.get(key, ())):
            close(why)

    # --- following ----------------------------------------------------------------------------------------------------------

    async def _follow(self, journal: JournalReader) -> None:
        """Where the stream has a hole, or is another one than was read, nobody is let in until it is read again from its beginning."""
        while True:
            try:
                await self._know(journal)
            except HoleInStream as error:
                self._shut(str(error))
            except StoreError:
                if not self.ready.is_set():
                    raise
            await self._clock.sleep(_AGAIN_S)

    async def _know(self, journal: JournalReader) -> None:
        """Until cancelled. Raises `HoleInStream`, `StoreError`."""
        stream = stream_of(self._env)
        self._keys, newest, start = await read_all(journal, self._env)
        for number in {*self._open, *self._asked} - self._keys.keys() - {"", LOOPBACK}:
            self._close(number, "the key is not known any more")
        for key in self._keys.values():
            self._end(key)
        self.error = ""
        self.ready.set()
        # From the last one on, by which the stream is known again. All of it, or a hole would not be seen.
        read = journal.read(stream, start=newest.sequence if newest else start, follow=True)
        try:
            async with asyncio.timeout(_FIRST_S if newest else None) as limit, aclosing(read) as reads:  # type: ignore[type-var]
                async for records in reads:
                    limit.reschedule(None)
                    if newest and records[0].sequence == newest.sequence and records[0] != newest:
                        raise HoleInStream(f"{stream.name}:{newest.sequence} is another entry than was read: the stream was made anew")
                    for record in records:
                        if (changed := learn(self._keys, record)) is not None:
                            self._end(changed)
        except TimeoutError:
            raise JournalUnavailable(f"{stream.name}:{start - 1} is not read again within {_FIRST_S:g} s") from None

    def _end(self, key: ClientKey) -> None:
        if key.revoked_ns:
            self._close(key.id, "the key was revoked")

    async def _expire(self, stop: asyncio.Event) -> None:
        while True:
            await pause(self._clock, _EXPIRY_S, stop)
            now_ns = self._clock.wall_ns()
            for number in {*self._open, *self._asked}:
                key = self._keys.get(number)
                if key and key.state(now_ns) == "expired":
                    self._close(number, "the key has expired")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _held(of: _Closing, key: str, close: Callable[[str], object]) -> Iterator[None]:
    held = of.setdefault(key, set())
    held.add(close)
    try:
        yield
    finally:
        held.discard(close)
        if not held and of.get(key) is held:
            del of[key]


def _host_of(url: str) -> str | None:
    """``host:port`` as a Host header has it; None for what is no URL."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """The name or address of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _challenge(kind: str, detail: str) -> Problem:
    return Problem(kind, detail, headers={"WWW-Authenticate": 'Bearer realm="ssmd"'})
