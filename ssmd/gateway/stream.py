"""The stream's connections: WebSocket over websockets' sans-io `ServerProtocol`, which does the handshake, limits, pings and closing.

What is sent to clients is framed elsewhere, once for all that get the same (a server's frames are not masked), and written as it is. A
connection that does not take what is written is not read from either, so that its own requests cannot fill memory.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol, cast

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.protocol import OPEN, Event
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from journal.errors import CallerError
from ssmd.gateway import message as m
from ssmd.gateway.access import SUBPROTOCOL, Grant
from ssmd.gateway.buffer import Policy
from ssmd.gateway.client import Client
from ssmd.gateway.door import BURST, FRAME_BURST, FRAMES, REQUESTS, Door
from ssmd.gateway.hub import FLUSH_S
from ssmd.gateway.porch import place_of
from ssmd.gateway.problem import MEDIA, Problem, encode, problem_of
from ssmd.gateway.rates import Rates
from ssmd.gateway.request import MAX_MESSAGE, parse_url

PATH = "/v1/stream"
_WRITE_BYTES = 256 << 10  # of one connection in our memory before its buffer takes over
_SEND_BYTES = 256 << 10  # and in the kernel's
_PING_S, _PONG_S = 20.0, 20.0
_CLOSE_S = 2.0  # for what was written before the end to go out
_SHUT_S = 0.5  # where the key has ended: shut out within a second, whether it takes what was written or not
_LONG_S = 0.01  # what takes longer is followed by a rest, so many times as long, in which others are heard
_REST = 9
_REFUSED_S = 1.0  # handshakes of an address that was refused often wait so long for it,
_MOST_WAITING = 100  # so many in all: beyond that they are told nothing
_SLICE = 1 << 10  # bytes that are parsed at a time: 170 of the smallest frames
_silent = logging.getLogger("ssmd.gateway.websocket")
_silent.setLevel(logging.CRITICAL)


class Connections(Protocol):
    """The part of uvicorn's ServerState that is used."""

    connections: set[Any]


class StreamProtocol(asyncio.Protocol):
    """What uvicorn hands an upgrade to: made with its keywords, then `connection_made` and `data_received` with the whole request."""

    def __init__(self, door: Door, server_state: Connections, **_: Any) -> None:
        self._door = door
        self._state = server_state
        self._conn = ServerProtocol(
            max_size=MAX_MESSAGE, logger=_silent, select_subprotocol=_subprotocol, subprotocols=_SPOKEN, extensions=door.extensions
        )
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._client: Client | None = None
        self._came = bytearray()  # that is not parsed yet,
        self._events: deque[Event] = deque()  # and that is parsed and not done yet
        self._resting = False
        self._parts = bytearray()
        self._text = True
        self._rates = Rates(door.sessions.clock, REQUESTS, BURST)
        self._frames = Rates(door.sessions.clock, FRAMES, FRAME_BURST)
        self._deaf = False
        self._held = ExitStack()
        self._address = self._peer = self._seat = ""
        self._grant: Grant | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._paused = False
        self._heard = True

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BYTES)
        if (found := transport.get_extra_info("socket")) is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._address, self._peer = peer[0], f"{peer[0]}:{peer[1]}"
        self._state.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._deaf = True
        for timer in self._timers.values():
            timer.cancel()
        self._state.connections.discard(self)
        self._held.close()
        if self._client:
            self._client.close(1006, "")

    def eof_received(self) -> None:
        self._deaf = True
        self._conn.receive_eof()

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if not (self._resting or self._transport.is_closing()):
            self._transport.resume_reading()
        if self._client:
            self._door.sessions.hub.drain(self._client)

    def shutdown(self) -> None:
        """The server stops."""
        if self._client:
            self._client.close(1012, "the gateway stops; connect again and resume")
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._came += data
        if not self._resting:
            self._work()

    def _work(self) -> None:
        """Do what came; the rest of it later, where others would have to wait for it."""
        while (self._events or self._came) and not self._deaf:
            if not self._events:
                self._conn.receive_data(bytes(self._came[:_SLICE]))
                del self._came[:_SLICE]
                self._events.extend(self._conn.events_received())
            began_s = self._loop.time()
            if self._events:
                self._hear(self._events.popleft())
            self._send()
            if (took_s := self._loop.time() - began_s) > _LONG_S and not self._transport.is_closing():
                self._resting = True
                self._transport.pause_reading()
                self._after("rest", _REST * took_s, self._go_on)
                return

    def _go_on(self) -> None:
        self._resting = False
        if not (self._paused or self._transport.is_closing()):
            self._transport.resume_reading()
        self._work()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Handshake):
            self._handshake(event)
        elif isinstance(event, Frame):
            self._frame(event)

    def _send(self) -> None:
        """Write what the protocol wants written: pongs, closing frames."""
        for data in self._conn.data_to_send():
            if data:
                self._transport.write(data)
        if self._conn.close_expected() and not self._transport.is_closing():
            if self._client:
                self._client.close(self._conn.close_code or 1006, "")
            self._after("close", _CLOSE_S, self._transport.abort)
            self._transport.close()

    def _after(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(seconds, call)

    # --- Output -------------------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def deflates(self) -> bool:
        return bool(self._conn.extensions)

    def write(self, frame: bytes) -> None:
        if self._conn.state is OPEN:
            self._transport.write(frame)

    def close(self, code: int, reason: str) -> None:
        if self._conn.state is OPEN:
            self._conn.send_close(code if code != 1006 else 1000, reason)
            for data in self._conn.data_to_send():
                self._transport.write(data)
        if not self._transport.is_closing():
            # A client that takes nothing would keep its connection, and what was written to it, for ever.
            self._after("close", _CLOSE_S, self._transport.abort)

    # --- handshake ----------------------------------------------------------------------------------------------------------

    def _handshake(self, request: Handshake) -> None:
        try:
            response = self._admit(request)
        except (Problem, CallerError) as error:
            self._refuse(self._refusal(problem_of(error), request.path))
            return
        response = response or self._conn.accept(request)
        if response.status_code != 101:
            self._refuse(response)
            return
        self._conn.send_response(response)
        self._conn_open(request)

    def _refuse(self, response: Response) -> None:
        """At once, or a little later where that address was refused often: who tries again at once takes no core that way."""
        waiting = self._door.waiting
        self._held.close()
        if self._door.refusals.take(place_of(self._address)).allowed:
            self._shut(response)
        elif len(waiting) < _MOST_WAITING:
            waiting.add(self)
            self._held.callback(waiting.discard, self)
            self._deaf = True
            self._transport.pause_reading()  # what it goes on to send would wait in memory
            self._after("refusal", _REFUSED_S, partial(self._shut, response))
        else:
            self._transport.abort()

    def _shut(self, response: Response) -> None:
        self._conn.send_response(response)
        self._held.close()
        self._send()
        self._transport.close()

    def _admit(self, request: Handshake) -> Response | None:
        """None: let it in. Raises `Problem`, `CallerError`."""
        path, _, query = request.path.partition("?")
        if path != PATH:
            raise Problem("not-found", f"streams are at {PATH}")
        if len(request.path) > 16_384:
            raise Problem("long-target", "the URL is longer than 16,384 characters; subscribe when connected")
        parse_url(query)
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        grant = self._grant = self._door.gatekeeper.admit_stream(headers, peer=self._address)
        if not self._door.ready():
            raise Problem("unavailable", "the gateway is still starting", headers={"Retry-After": "1"})
        if len(self._door.sessions.hub.clients) >= self._door.connections:
            raise Problem("busy", "too many clients are connected", headers={"Retry-After": "10"})
        self._held.enter_context(self._door.gatekeeper.holding(grant, self._revoked, self._door.per_key))
        self._seat = self._door.seats.take(grant.who)
        self._held.callback(self._door.seats.free, self._seat)
        return None

    def _refusal(self, problem: Problem, path: str) -> Response:
        body = encode(problem.document(path.partition("?")[0][:500]))
        response = self._conn.reject(problem.status, "")
        headers = Headers({"Content-Type": MEDIA, "Content-Length": str(len(body)), "Connection": "close", **problem.headers})
        return Response(response.status_code, response.reason_phrase, headers, body)

    def _revoked(self, why: str) -> None:
        if self._client:
            self._client.say_last(m.Failed(code="not_allowed", message=why))
            self._client.close(1008, why)
            self._after("close", _SHUT_S, self._transport.abort)

    def _conn_open(self, request: Handshake) -> None:
        self._flush_handshake()
        sessions = self._door.sessions
        policy, subscribe = parse_url(request.path.partition("?")[2])
        now_ns = sessions.clock.wall_ns()
        client = Client(
            sessions.hub,
            self,
            self._door.name(),
            who=self._grant.who if self._grant else "",
            peer=self._peer,
            policy=policy or Policy.drop_oldest,
            now_ns=now_ns,
            seat=self._seat,
        )
        self._client = client
        sessions.hub.add(client)
        limits = sessions.hub.limits
        client.tell(
            m.Welcome(
                client=client.id, env=self._door.env, positions=sessions.views.positions(), heartbeat_s=sessions.hub.heartbeat_s,
                flush_ms=FLUSH_S * 1_000, policy=client.buffer.policy.value, max_messages=limits.messages, max_bytes=limits.bytes,
            )
        )  # fmt: skip
        if subscribe:
            sessions.serve(client, subscribe)
        self._after("ping", _PING_S, self._ping)

    def _flush_handshake(self) -> None:
        for data in self._conn.data_to_send():
            self._transport.write(data)

    # --- frames -------------------------------------------------------------------------------------------------------------

    def _frame(self, frame: Frame) -> None:
        if not (self._frames.take("").allowed and self._door.frames.take(self._seat).allowed):
            self._deaf = True  # what else it sends is not looked at, its goodbye neither
            if self._client:
                self._client.close(1008, "too many frames")
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            if frame.opcode is not Opcode.CONT:
                self._text = frame.opcode is Opcode.TEXT
            self._parts += frame.data
            if frame.fin:
                data, self._parts = bytes(self._parts), bytearray()
                self._message(data)

    def _message(self, data: bytes) -> None:
        client = self._client
        if client is None or client.closed:
            return
        if not (self._rates.take("").allowed and self._door.requests.take(self._seat).allowed):
            client.say_last(m.Failed(code="too_many_requests", message=f"more than {REQUESTS} requests a second; connect again later"))
            client.close(1008, "too many requests")
        elif not self._text:
            client.tell(m.Failed(code="bad_request", message="requests are text frames with JSON"))
        else:
            self._door.sessions.receive(client, data)

    def _ping(self) -> None:
        if self._conn.state is not OPEN or self._transport.is_closing():
            return
        self._heard = False
        self._conn.send_ping(b"")
        self._send()
        self._after("ping", _PONG_S, self._expect)

    def _expect(self) -> None:
        if self._heard or self._paused:  # who takes nothing is looked after by the hub
            self._ping()
        elif self._client:
            self._client.close(1011, "no pong")


_SPOKEN = [Subprotocol(SUBPROTOCOL)]


def _subprotocol(_protocol: ServerProtocol, offered: Any) -> Subprotocol | None:
    return _SPOKEN[0] if SUBPROTOCOL in offered else None
