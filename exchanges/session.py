"""One WebSocket session for every venue: connect, read with the time of the socket read, send, close, and when to try again.

The library's client does the protocol, TLS, proxies (``HTTPS_PROXY``, ``NO_PROXY``; none to this machine), pings and size limits. Data
frames go from its parser into our own queue: its `recv` costs 5 to 6 µs a frame and knows the time of the call, this 3.4 µs and knows the
time of the read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from ssl import SSLCertVerificationError

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State

from exchanges.backoff import Backoff
from exchanges.proxies import is_direct
from journal.clock import Clock
from journal.errors import VenueError, VenueRefused, VenueUnavailable

Received = tuple[bytes, int, int]  # one message, and the wall and monotonic ns of the read that completed it
# Clocks this far from the venue's make its signatures suspect; HTTP dates have whole seconds.
_SKEW_S = 5


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How to talk to one venue."""

    url: str
    open_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    # Our own pings find a half-open connection; venues that ping us are answered by the library.
    ping_s: float = 20.0
    max_message_bytes: int = 64 << 20  # Kalshi's limit since 2026-09-24
    # Read but not yet taken: 0.3 s of 20,000 frames of 330 bytes; beyond it the socket is not read.
    max_queue_bytes: int = 2 << 20
    compression: bool = False  # inflating costs more than the loopback or a data centre's line
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0

    @property
    def where(self) -> str:
        """The URL as it may be shown and journalled: without user, password and query, which may be secrets."""
        scheme, mark, rest = self.url.partition("://")
        authority, slash, path = rest.partition("?")[0].partition("/")
        return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


class _Connect(connect):
    """Follows no redirect: our headers are signed for one host and path."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Socket(ClientConnection):
    """The library's connection with data frames put into a queue of ours, each with the time of its read."""

    def __init__(self, protocol: ClientProtocol, clock: Clock, max_queue_bytes: int, **options: object) -> None:
        super().__init__(protocol, **options)  # type: ignore[arg-type]
        self._clock = clock
        self._max_bytes = max_queue_bytes
        self._read_ns = (0, 0)
        self._fragments: list[bytes] = []  # of the message being received; the protocol bounds their sum
        self.queue: list[Received] = []
        self.queued_bytes = 0
        self.wake = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._read_ns = (self._clock.wall_ns(), self._clock.mono_ns())
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        if self.response is None or not isinstance(event, Frame) or event.opcode > Opcode.BINARY:
            super().process_event(event)
            return
        data = bytes(event.data)
        if not event.fin or self._fragments:
            self._fragments.append(data)
            if not event.fin:
                return
            data = b"".join(self._fragments)
            self._fragments.clear()
        self.queue.append((data, *self._read_ns))
        self.queued_bytes += len(data)
        if self.queued_bytes > self._max_bytes:
            self.transport.pause_reading()
        if not self.wake.is_set():
            self.wake.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.wake.set()

    def take(self) -> list[Received]:
        taken, self.queue = self.queue, []
        if self.queued_bytes > self._max_bytes:
            self.transport.resume_reading()
        self.queued_bytes = 0
        self.wake.clear()
        return taken


class Connection:
    """An open connection. `receive` is for one task; `send` may be called meanwhile."""

    def __init__(self, socket: _Socket) -> None:
        self._socket = socket

    async def receive(self) -> list[Received]:
        """Every message that has arrived, at least one, in order. Raises `VenueUnavailable` when the connection has ended and all was
        taken.
        """
        socket = self._socket
        while not socket.queue:
            if socket.state is State.CLOSED:
                raise VenueUnavailable(f"connection lost: {socket.close_exc}")
            socket.wake.clear()
            await socket.wake.wait()
        return socket.take()

    @property
    def waiting_bytes(self) -> int:
        """Read from the socket and not yet taken."""
        return self._socket.queued_bytes

    async def send(self, data: bytes) -> None:
        """Send one text message. Raises `VenueUnavailable` when the connection has ended."""
        try:
            await self._socket.send(data, text=True)
        except ConnectionClosed as error:
            raise VenueUnavailable(f"connection lost: {error}") from error

    async def close(self) -> None:
        """Close, politely for a while. What was not taken is dropped."""
        self._socket.queue.clear()
        self._socket.transport.resume_reading()  # else the venue's closing frame is never seen
        await self._socket.close(CloseCode.NORMAL_CLOSURE)


class Session:
    """Opens connections to one venue. `headers` is called for each, with the wall time, so that signatures are fresh.

    `another_key` is asked when the venue refuses the key: True when `headers` signs with another from now on.
    """

    def __init__(
        self,
        config: SessionConfig,
        clock: Clock,
        rng: random.Random,
        headers: Callable[[int], Mapping[str, str]] = lambda _: {},
        another_key: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config = config
        self._another_key = another_key
        self._clock = clock
        self._headers = headers
        self.backoff = Backoff(rng, config.backoff_first_s, config.backoff_most_s)

    async def connect(self) -> Connection:
        """One attempt. Raises `VenueRefused` when another would fail too, `VenueUnavailable` when it may not."""
        config = self.config
        headers = dict(self._headers(self._clock.wall_ns()))

        def make(protocol: ClientProtocol, **options: object) -> _Socket:
            return _Socket(protocol, self._clock, config.max_queue_bytes, **options)

        try:
            socket = await _Connect(
                config.url,
                additional_headers=headers,
                compression="deflate" if config.compression else None,
                open_timeout=config.open_timeout_s,
                close_timeout=config.close_timeout_s,
                ping_interval=config.ping_s,
                ping_timeout=config.ping_s,
                max_size=config.max_message_bytes,
                proxy=None if is_direct(config.url) else True,
                create_connection=make,  # type: ignore[arg-type]
            )
        except InvalidStatus as error:
            answer = error.response
            said = dict(answer.headers.raw_items())
            if answer.status_code in {401, 403} and headers and self._another_key():
                return await self.connect()
            raise refusal(config.where, answer.status_code, said, self._clock.wall_ns(), signed=bool(headers)) from error
        except (InvalidURI, InvalidProxy) as error:  # their texts hold the whole URL
            what = "its proxy" if isinstance(error, InvalidProxy) else config.where
            raise VenueRefused(f"{what} is not a valid URL: {error.msg}; check the feed's URL and HTTPS_PROXY") from error
        except ImportError as error:  # websockets wants python-socks for such a proxy
            raise VenueRefused(f"{error}: pip install python-socks, or name an HTTP proxy in HTTPS_PROXY") from error
        except SSLCertVerificationError as error:
            raise VenueRefused(
                f"{config.where}: its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE may name a CA"
            ) from error
        except (OSError, InvalidHandshake, WebSocketException, EOFError) as error:
            raise VenueUnavailable(f"cannot connect to {config.where}: {str(error) or type(error).__name__}") from error
        except ValueError as error:  # a port that is no number, a host that is none
            raise VenueRefused(f"{config.where} is not a valid URL; check the feed's URL") from error
        assert isinstance(socket, _Socket)  # noqa: S101  (made by `make`)
        return Connection(socket)


def refusal(url: str, status: int, headers: Mapping[str, str], wall_ns: int, *, signed: bool = True) -> VenueError:
    """What an HTTP status instead of an upgrade means, with the likely reason. `signed`: whether a key was used."""
    said = f"{url} answered HTTP {status}"
    if status in {401, 403} and not signed:
        return VenueRefused(f"{said}: it wants a key and none was given")
    if status in {401, 403}:
        skew_s = _skew_s(headers, wall_ns)
        if skew_s is not None and abs(skew_s) >= _SKEW_S:
            ahead = "ahead of" if skew_s > 0 else "behind"
            return VenueRefused(f"{said}: this machine's clock is {abs(skew_s)} s {ahead} the venue's; set the clock")
        clock = "the clock agrees" if skew_s is not None else "the venue sent no date to compare the clock with"
        return VenueRefused(
            f"{said}: the key is likely wrong ({clock}); check the key id, that the private key belongs to it, and that it is a key of this"
            " environment, not of the demo or of production"
        )
    if status in {400, 404, 405, 410, 426} or 300 <= status < 400:
        return VenueRefused(f"{said}: the path is likely wrong; check the feed's URL")
    return VenueUnavailable(said)


def _skew_s(headers: Mapping[str, str], wall_ns: int) -> int | None:
    """Our clock minus the venue's in seconds, by the answer's Date; None without one."""
    date = next((value for name, value in headers.items() if name.lower() == "date"), "")
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    return wall_ns // 1_000_000_000 - int(theirs.replace(tzinfo=theirs.tzinfo or UTC).timestamp())
