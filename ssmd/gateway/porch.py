"""Where connections are before anybody knows whose they are: so many of them, so fast from one address, and no longer than need be.

Nobody can keep others out: where it is full, one that asks nothing makes way, of the address that holds most, the oldest first. What is
asked faster than `per_s` from one address waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from journal.clock import Clock

MOST_GUESTS = 500  # connections that ask over HTTP, or nothing
MOST_SHAKING = 100  # in their TLS handshake
HANDSHAKE_S = 10.0
PER_S = 1_000  # connections and requests of one address: a quarter of what one core answers
_BURST_S = 2.0
_PATIENCE_S = 1.0  # how long what is too fast waits; connections that would have to wait longer are closed
_SHUTDOWN_S = 2.0
_ACCEPTED = 50  # in one turn of the loop
_REST_S = 0.1
_ADDRESSES = 10_000  # whose pace is remembered
_SPARE_FILES = 300  # of the journal, SQLite, the reader, scrapers
_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_log = logging.getLogger("ssmd.gateway")


class Guest(Protocol):
    """A connection."""

    @property
    def idle(self) -> bool:
        """Whether it has asked nothing that is not answered."""
        ...

    def turn_away(self) -> None:
        """Say that there is no room, and close."""
        ...


class Porch:
    """Takes connections from `open` to `close`."""

    def __init__(self, clock: Clock, *, per_s: float = PER_S, most: int = MOST_GUESTS) -> None:
        self._clock, self._per_s, self._most = clock, per_s, most
        self._guests: dict[str, dict[Guest, None]] = {}
        self._address: dict[Guest, str] = {}
        self._shaking: dict[socket.socket, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due_ns: OrderedDict[str, int] = OrderedDict()
        self._listener: socket.socket
        self._resting: asyncio.TimerHandle | None = None
        self._warned = False

    # --- connections --------------------------------------------------------------------------------------------------------

    def open(self, listener: socket.socket, factory: Callable[[], asyncio.Protocol], secure: ssl.SSLContext | None) -> None:
        self._listener, self._factory, self._secure = listener, factory, secure
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def close(self) -> None:
        """Take no more."""
        if self._resting:
            self._resting.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        for shaking in tuple(self._shaking):
            self._end(shaking)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._rest(error)
                return
            self._take(connection, place_of(address[0]))

    def _rest(self, error: OSError) -> None:
        """No file can be opened just now: whoever asks nothing makes way, and those who come wait in the kernel's queue."""
        if not self._warned:
            self._warned = True
            _log.warning("no connection can be taken: %s; raise the limit of open files (ulimit -n)", error.strerror)
        for _ in range(_ACCEPTED):
            self._make_way()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._resting = loop.call_later(_REST_S, loop.add_reader, self._listener, self._accept)

    def _take(self, connection: socket.socket, address: str) -> None:
        if self._wait_s(address) > _PATIENCE_S:
            connection.close()
            return
        self._step(address)
        connection.setblocking(False)
        task = asyncio.create_task(self._connect(connection), name="gateway connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._secure:
            self._shaking[connection] = address
            task.add_done_callback(lambda _: self._shaking.pop(connection, None))
            if len(self._shaking) > MOST_SHAKING:
                held: dict[str, list[socket.socket]] = {}
                for shaking, whose in self._shaking.items():
                    held.setdefault(whose, []).append(shaking)
                self._end(max(held.values(), key=len)[0])

    def _end(self, shaking: socket.socket) -> None:
        """The handshake fails; if it had just succeeded, the connection ends as any other does."""
        self._shaking.pop(shaking)
        with contextlib.suppress(OSError):
            shaking.shutdown(socket.SHUT_RDWR)

    async def _connect(self, connection: socket.socket) -> None:
        limits: dict[str, Any] = {}
        if self._secure:
            limits = {"ssl": self._secure, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": _SHUTDOWN_S}
        with contextlib.suppress(OSError):  # it went, or speaks no TLS, or too slowly
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, connection, **limits)

    # --- guests -------------------------------------------------------------------------------------------------------------

    def enter(self, guest: Guest, address: str) -> None:
        """It is connected. Another one, or itself, may be turned away."""
        if len(self._address) >= self._most and not self._make_way():
            guest.turn_away()
            return
        place = place_of(address)
        self._guests.setdefault(place, {})[guest] = None
        self._address[guest] = place

    def leave(self, guest: Guest) -> None:
        """It is gone, or known."""
        if place := self._address.pop(guest, ""):
            guests = self._guests[place]
            del guests[guest]
            if not guests:
                del self._guests[place]

    def _make_way(self) -> bool:
        for guests in sorted(self._guests.values(), key=len, reverse=True):
            for guest in guests:
                if guest.idle:
                    self.leave(guest)
                    guest.turn_away()
                    return True
        return False

    # --- pace ---------------------------------------------------------------------------------------------------------------

    def _wait_s(self, address: str) -> float:
        return (self._due_ns.get(address, 0) - self._clock.mono_ns()) / 1e9

    def _step(self, address: str) -> None:
        since_ns = self._clock.mono_ns() - int(_BURST_S * 1e9)
        self._due_ns[address] = max(self._due_ns.pop(address, 0), since_ns) + int(1e9 / self._per_s)
        if len(self._due_ns) > _ADDRESSES:
            self._due_ns.popitem(last=False)

    def paced(self, behind: ASGIApp) -> ASGIApp:
        """The application, which is asked no faster than that by one address."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            client = scope.get("client")
            place = place_of(client[0] if client else "")
            self._step(place)
            if (wait_s := self._wait_s(place)) > 0:
                await self._clock.sleep(min(wait_s, _PATIENCE_S))
            await behind(scope, receive, send)

        return call


def place_of(address: str) -> str:
    """Who is taken for one: an address, of IPv6 the network of 64 bits, which one machine can have."""
    if ":" not in address:
        return address
    found = IPv6Address(address.partition("%")[0])
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64))


def allow_files(streams: int) -> tuple[int, int]:
    """Let this process open what so many streams need, as far as it may; for how many streams and guests that is enough."""
    wanted = streams + MOST_GUESTS + MOST_SHAKING + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return streams, MOST_GUESTS
    guests = min(MOST_GUESTS, soft // 4)
    return max(min(streams, soft - guests - MOST_SHAKING - _SPARE_FILES), soft // 4), guests
