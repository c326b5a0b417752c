"""The simulated venue on a port: WebSocket and REST, fed by a recording or a synthetic market.

One task plays the feed at its pace; frames that are due within the same wake-up leave in one write per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
from email.utils import formatdate
from itertools import chain
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from exchanges.kalshi.signing import KEY_HEADER
from exchanges.simulator.authority import Authority
from exchanges.simulator.book import count_text, price_text
from exchanges.simulator.channels import Connection
from exchanges.simulator.commands import Commands
from exchanges.simulator.faults import Faults
from exchanges.simulator.feed import Feed
from exchanges.simulator.listing import Listing
from exchanges.simulator.oracle import Oracle
from exchanges.simulator.rest import PREFIX, Rest
from exchanges.simulator.rest_faults import RestFaults
from exchanges.simulator.venue import Venue
from journal.clock import Clock

WS_PATH = "/trade-api/ws/v2"
PING = b"\x89\x09heartbeat"  # a whole WebSocket Ping frame
PING_S = 10.0  # of real time at any speed
GOODBYE_S = 2.0  # for clients at the server's end; then their sockets are cut
SETTLE_S = 0.2  # clients subscribe channel by channel
WAKE_S = 0.002  # a wake-up costs 0.1 ms: 5 % of a core at this rate
BURST = 256  # frames between two looks at the sockets: about 90 kB, 2 ms
# what a connection may have unsent: 5 s of 20,000 frames of 330 bytes; a client that reads slower gets error 25
BUFFER_BYTES = 32 * 1024 * 1024
# at full speed the feed waits for the sockets instead: below this they are never idle
FULL_SPEED_BYTES = 1024 * 1024
PATIENCE_S = 10.0  # at full speed, for a client that reads nothing at all; then error 25
MAX_COMMAND_BYTES = 16 * 1024 * 1024  # a subscribe for 500,000 tickers


class SimulatorServer:
    """Use as ``async with``; the feed starts at once, whether or not anyone listens, unless `hold` is set.

    With `hold` it starts at `release()`, or when a client has subscribed and said nothing more for `SETTLE_S`. `speed` is of the clock's
    calendar time, so that 1 is real time for all who share the clock, at whatever rate it runs; None is as fast as clients read.
    `authority` checks the upgrade and any REST request with a key header; None asks for no key. `buffer_bytes` may wait for a connection's
    client; then its subscriptions end with error 25. `limit`: most markets of one subscription, 0 for no limit. `listing`: markets that
    REST lists beside those of the feed; they do not trade. `rest_faults` strike REST's answers. `begun_ms`: the venue began then and comes
    back now, at speed 1: what happened meanwhile is made up for before it serves, and sent to nobody.
    """

    def __init__(
        self,
        feed: Feed,
        clock: Clock,
        *,
        speed: float | None = 1.0,
        port: int = 0,
        oracle: Oracle | None = None,
        faults: Faults | None = None,
        authority: Authority | None = None,
        hold: bool = False,
        buffer_bytes: int = BUFFER_BYTES,
        limit: int = 0,
        listing: Listing | None = None,
        rest_faults: RestFaults | None = None,
        begun_ms: int | None = None,
    ) -> None:
        self._feed = feed
        self._clock = clock
        self._speed = speed
        self._port = port
        self._authority = authority
        self._buffer_bytes = buffer_bytes
        self._opened_ns = clock.mono_ns()
        start_ms = self._start_ms = clock.wall_ns() // 1_000_000
        self.oracle = oracle or Oracle()
        self.venue = Venue(feed.catalogue(begun_ms or start_ms), feed.books(), self.oracle, faults)
        self._commands = Commands(self.venue, limit=limit)
        self.venue.now_ms = start_ms
        self._rest = Rest(self.venue, listing)
        self._rest_faults = rest_faults
        self._begun = begun_ms is not None
        self._happenings = feed.play()
        self._sockets: dict[Connection, ServerConnection] = {}
        self._released = asyncio.Event()
        self._hold = hold
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._player: asyncio.Task[None] | None = None
        self._playing = False
        self.overflows = 0

    async def __aenter__(self) -> Self:
        if self._begun:
            self._make_up()
        self._server = await serve(
            self._converse,
            "127.0.0.1",
            self._port,
            process_request=self._request,
            compression=None,  # frames are written ready-made
            ping_interval=None,  # the venue's own pings below
            max_size=MAX_COMMAND_BYTES,
            server_header="ssmd-simulator",
            close_timeout=1,
            logger=_quiet(),
        )
        self._port = next(iter(self._server.sockets)).getsockname()[1]
        if not self._hold:
            self._released.set()
        self._player = asyncio.create_task(self._play())
        self._tasks = [self._player, asyncio.create_task(self._ping())]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            for socket in self._sockets.values():
                if socket.transport.get_write_buffer_size():
                    socket.transport.abort()  # it does not read: it would not say goodbye either
            self._server.close()
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._server.wait_closed()
            except TimeoutError:
                for connection in self._server.all_connections:
                    connection.transport.abort()
                await self._server.wait_closed()
        self.oracle.close()

    @property
    def port(self) -> int:
        return self._port

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}{WS_PATH}"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}{PREFIX}"

    def release(self) -> None:
        """Start a feed that was held, at once."""
        self._hold = False
        self._released.set()

    async def finished(self) -> None:
        """Return when the feed has ended and all is written to the sockets. Raises what ended the feed early."""
        if self._player is None:
            raise RuntimeError("enter the server first")
        await asyncio.shield(self._player)

    # --- playing

    def _make_up(self) -> None:
        """What happened before this venue came back; nobody saw it, and an earlier log has it."""
        active, self.oracle.active = self.oracle.active, False
        for happening in self._happenings:
            if happening.at_ms > self._clock.wall_ns() // 1_000_000:
                self._happenings = chain((happening,), self._happenings)
                break
            self.venue.publish(happening)
        self.oracle.active = active

    async def _play(self) -> None:
        await self._released.wait()
        await self._settled()
        venue, clock = self.venue, self._clock
        first_ms: int | None = None
        pace = None if self._speed is None else self._speed * clock.rate
        # At another rate every client's time is the clock's, so the venue's is too, however long it took to get here.
        start_ns = self._opened_ns if self._begun or (clock.rate != 1 and not self._hold) else clock.mono_ns()
        horizon_ms = 0  # of venue time: what is due by now
        burst = 0
        self._playing = True
        venue.now_ns = clock.wall_ns()
        for happening in self._happenings:
            at_ms = happening.at_ms
            if first_ms is None:
                first_ms = horizon_ms = self._start_ms if self._begun else min(at_ms, self._start_ms)
            if pace is not None and at_ms > horizon_ms:
                self._flush()
                burst = 0
                while True:
                    horizon_ms = first_ms + int((clock.mono_ns() - start_ns) * pace / 1_000_000)
                    if at_ms <= horizon_ms:
                        break
                    venue.now_ms = max(venue.now_ms, horizon_ms)
                    await clock.sleep(max((at_ms - horizon_ms) / 1000 / pace, WAKE_S))
                venue.now_ns = clock.wall_ns()
            venue.publish(happening)
            burst += 1
            if burst == BURST:
                burst = 0
                self._flush()
                await self._breathe()
                venue.now_ns = clock.wall_ns()
        self._flush()
        self.oracle.flush()
        waited = 0.0
        while waited < PATIENCE_S and any(
            conn.subscriptions and socket.transport.get_write_buffer_size() for conn, socket in self._sockets.items()
        ):
            await clock.sleep(0.005)
            waited += 0.005

    async def _settled(self) -> None:
        """A held feed that a subscription released: wait for the client's other subscriptions too."""
        served = 0
        while self._hold and served != self._commands.subscribed:
            served = self._commands.subscribed
            await self._clock.sleep(SETTLE_S)

    async def _breathe(self) -> None:
        """Let the sockets work; at full speed until every client has read enough or has had its time."""
        await self._clock.sleep(0)
        if self._speed is not None:
            return
        waited = 0.0
        while slow := [conn for conn, socket in self._sockets.items() if socket.transport.get_write_buffer_size() > FULL_SPEED_BYTES]:
            await self._clock.sleep(0.001)
            waited += 0.001
            if waited > PATIENCE_S:
                for conn in slow:
                    self._overflow(conn)
                return

    def _flush(self) -> None:
        """Write what is pending, one write per connection; the log first, so that it has all that anybody saw, whatever ends us."""
        self.oracle.flush()
        while self.venue.changed:  # again for the errors of those that overflowed
            conn = self.venue.changed.pop()
            socket = self._sockets.get(conn)
            if socket is None:
                continue
            if conn.out and socket.state is State.OPEN:  # a closing one may have sent its end already
                socket.transport.write(_framed(conn.out))
            conn.out.clear()
            if conn.cut:
                socket.transport.abort()
            elif conn.subscriptions and socket.transport.get_write_buffer_size() > self._buffer_bytes:
                self._overflow(conn)

    def _overflow(self, conn: Connection) -> None:
        if conn.subscriptions:
            self.overflows += 1
            for sub in list(conn.subscriptions.values()):
                self.venue.terminate(sub, 25)

    async def _ping(self) -> None:
        while True:
            await self._clock.sleep(PING_S)
            for socket in self._sockets.values():
                # a client that reads nothing needs no more pings
                if socket.state is State.OPEN and socket.transport.get_write_buffer_size() <= self._buffer_bytes:
                    socket.transport.write(PING)

    # --- talking

    async def _converse(self, socket: ServerConnection) -> None:
        conn = self.venue.connect()
        self._sockets[conn] = socket
        try:
            with contextlib.suppress(ConnectionClosed):
                async for message in socket:
                    self.venue.now_ns = self._clock.wall_ns()
                    self._commands.serve(conn, message)
                    self._flush()
                    if self._commands.subscribed:
                        self._released.set()
        finally:
            self._sockets.pop(conn, None)
            self.venue.disconnect(conn)

    async def _request(self, socket: ServerConnection, request: Request) -> Response | None:
        del socket
        now_ns = self._clock.wall_ns()
        url = urlsplit(request.path)
        path = unquote(url.path)
        upgrade = path == WS_PATH
        if self._authority is not None and (upgrade or KEY_HEADER in request.headers):
            wrong = self._authority.objection("GET", url.path, request.headers)
            if wrong:
                body = {"error": {"code": "authentication_error", "message": wrong}}
                return _response(http.HTTPStatus.UNAUTHORIZED, msgspec.json.encode(body), now_ns)
        if upgrade:
            return None
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if path == "/sim/status":
            return _response(http.HTTPStatus.OK, msgspec.json.encode(self.status()), now_ns)
        if path == "/sim/books":
            return _response(http.HTTPStatus.OK, msgspec.json.encode(self._true_books()), now_ns)
        status, answer = self._rest.get(path, query)
        if self._rest_faults is not None:
            delay_s, status, answer = self._rest_faults.strike(path.removeprefix(PREFIX), status, answer)
            if delay_s:
                await self._clock.sleep(delay_s)
        return _response(http.HTTPStatus(status), answer, now_ns)

    def status(self) -> dict[str, object]:
        """For people and for tests in other processes: ``GET /sim/status``, which Kalshi does not have."""
        return {
            "playing": self._playing and not self._ended,
            "finished": self._ended,
            "venue_ms": self.venue.now_ms,
            "connections": len(self._sockets),
            "frames": self.venue.frames,
            "happened": dict(self.venue.happened),
            "refused": dict(self.venue.refused),
            "skipped": dict(self._feed.skipped),
            "overflows": self.overflows,
        }

    @property
    def _ended(self) -> bool:
        return self._player is not None and self._player.done()

    def _true_books(self) -> dict[str, object]:
        self.oracle.flush()
        return {
            ticker: {
                "yes": [(price_text(price), count_text(count)) for price, count in sorted(yes.items())],
                "no": [(price_text(price), count_text(count)) for price, count in sorted(no.items())],
            }
            for ticker, (yes, no) in sorted(self.oracle.books().items())
        }


def _framed(texts: list[bytes]) -> bytes:
    """Unmasked WebSocket text frames (RFC 6455, 5.2), one after the other."""
    parts: list[bytes] = []
    for text in texts:
        size = len(text)
        if size < 126:
            parts.append(b"\x81%c" % size)
        elif size < 65_536:
            parts.append(b"\x81\x7e" + size.to_bytes(2, "big"))
        else:
            parts.append(b"\x81\x7f" + size.to_bytes(8, "big"))
        parts.append(text)
    return b"".join(parts)


def _quiet() -> logging.Logger:
    """A client that leaves in the middle of a handshake is not worth a traceback."""
    logger = logging.getLogger("ssmd.simulator.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger


def _response(status: http.HTTPStatus, body: bytes, now_ns: int) -> Response:
    headers = Headers()
    headers["Date"] = formatdate(now_ns // 1_000_000_000, usegmt=True)
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    return Response(status.value, status.phrase, headers, body)
