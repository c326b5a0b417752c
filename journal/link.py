"""One connection to a NATS server: requests, pre-rendered writes, subscriptions as raw bytes.

The only module that knows nats-py, and the only one that uses its private side (2.16 is pinned): `_ps` to receive without header
parsing, queues and tasks (they cost more than the rest of a read), `_transport` and `_pending` to send a rendered batch in one write.
Reconnecting is ours, not nats-py's: its client would keep half a batch and send it later.
"""
# ruff: noqa: SLF001 the private side, see above

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from journal.clock import Clock
from journal.errors import JournalRefused, JournalUnavailable

# (subject, reply, payload, headers) of one message; headers are None or the block that begins with ``NATS/1.0``.
Sink = Callable[[bytes, bytes, bytes, bytes | None], None]

LEAST_VERSION = (2, 14)  # atomic batches that a killed server never leaves partial
_CONNECT_TIMEOUT_S = 3
# A half-open connection is noticed after three of these.
_PING_INTERVAL_S = 5
_log = logging.getLogger("journal")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the servers are and how to be let in. Secrets do not show in its repr."""

    url: Callable[[], str]  # asked at each dial: an embedded server may have moved; several of one cluster by comma
    token: str | None = None
    user: str | None = None
    password: str | None = None
    credentials: str | None = None  # text of a .creds file
    nkey_seed: str | None = None  # text of a seed
    tls: ssl.SSLContext | None = None

    @property
    def servers(self) -> list[str]:
        """As they are now."""
        return [url.strip() for url in self.url().split(",")]

    def __repr__(self) -> str:
        return f"Access({', '.join(map(without_secret, self.servers))})"


def without_secret(url: str) -> str:
    """The URL without the part before ``@``."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


class ApiError(Exception):
    """JetStream answered with an error; `code` is its ``err_code``, `status` the HTTP-like class of it."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))
        super().__init__(f"{error.get('description', 'error')} ({self.code})")


class NoResponders(Exception):
    """Nobody listens on the subject: no such stream, no leader, or no JetStream."""


class ReplyLost(JournalUnavailable):
    """A request was sent and no reply came: it may have been carried out."""


class _Client(Client):
    """nats-py's client, with chosen subscriptions delivered as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks: dict[int, Sink] = {}
        self._ps = _Parser(self)


class _Parser(Parser):
    """Messages go straight to their sinks (1 µs each; nats-py takes 5), any other line to nats-py."""

    nc: _Client

    async def parse(self, data: bytes = b"") -> None:
        buf = bytes(self.buf) + data if self.buf else data
        sinks = self.nc.sinks
        at = 0
        try:
            while (eol := buf.find(b"\r\n", at)) >= 0:
                words = buf[at:eol].split()
                kind = words[0] if words else b""
                if kind not in (b"HMSG", b"MSG"):
                    self.buf = bytearray()
                    await super().parse(buf[at : eol + 2])
                    at = eol + 2
                    continue
                # MSG subject sid [reply] bytes, HMSG subject sid [reply] header-bytes bytes
                start = cut = eol + 2
                sink = sinks.get(int(words[2]))
                end = start + int(words[-1])
                if len(buf) < end + 2:
                    break  # at most max_payload bytes wait for the rest
                if sink is not None:
                    headers = None
                    plain = 4
                    if kind == b"HMSG":
                        cut = start + int(words[-2])
                        headers = buf[start:cut]
                        plain = 5
                    sink(words[1], words[3] if len(words) > plain else b"", buf[cut:end], headers)
                at = end + 2
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        self.buf = bytearray(buf[at:])


class Subscription:
    """A raw subscription; dead once its connection is."""

    def __init__(self, client: _Client, sid: int, lost: Callable[[], None], losts: set[Callable[[], None]]) -> None:
        self._client, self._sid, self._lost, self._losts = client, sid, lost, losts

    def cancel(self) -> None:
        """Stop delivery now; the server is told with the next write."""
        self._losts.discard(self._lost)
        if self._client.sinks.pop(self._sid, None) and not self._client.is_closed:
            self._client._remove_sub(self._sid)
            _write(self._client, b"UNSUB %d\r\n" % self._sid)


class Link:
    """A connection that is dialled again when it is needed and gone. One event loop."""

    def __init__(self, access: Access, clock: Clock, *, timeout_s: float = 5.0) -> None:
        self._access = access
        self._clock = clock
        self.timeout_s = timeout_s
        self._client: _Client | None = None
        self._dialling = asyncio.Lock()
        self._inbox = b""
        self._token = 0
        self._waiting: dict[bytes, asyncio.Future[tuple[bytes, bytes | None]]] = {}
        self._losts: set[Callable[[], None]] = set()
        self._closed = False
        self._last_error: BaseException | None = None

    @property
    def where(self) -> str:
        return ", ".join(map(without_secret, self._access.servers))

    @property
    def max_payload(self) -> int:
        """Largest message of the server last connected to: headers and payload together."""
        return self._client.max_payload if self._client else 1 << 20

    async def server_id(self) -> str:
        """Of the server at the other end, as it calls itself. Raises what `client` raises."""
        return str((await self.client())._server_info.get("server_id", ""))

    async def client(self) -> _Client:
        """The live connection, dialled if need be. Raises `JournalUnavailable`, `JournalRefused`."""
        client = self._client
        if client is None or not client.is_connected:
            async with self._dialling:
                client = self._client
                if client is None or not client.is_connected:
                    client = await self._dial()
        return client

    async def _dial(self) -> _Client:
        if self._closed:
            raise JournalUnavailable("the journal is closed")
        client = _Client()
        access = self._access
        self._last_error = None

        async def lost() -> None:
            self._lose(client)

        async def erred(error: Exception) -> None:
            self._last_error = error
            _log.debug("nats: %r", error)

        try:
            await client.connect(
                access.servers, name="ssmd", allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0.1,  # type: ignore[arg-type]
                connect_timeout=_CONNECT_TIMEOUT_S, ping_interval=_PING_INTERVAL_S, error_cb=erred, closed_cb=lost, disconnected_cb=lost,
                token=access.token, user=access.user, password=access.password, nkeys_seed_str=access.nkey_seed, tls=access.tls,
                user_credentials=RawCredentials(access.credentials) if access.credentials else None,
            )  # fmt: skip
            self._check_version(client)
            self._inbox = client.new_inbox().encode()
            await self._subscribe(client, self._inbox + b".*", self._replied)
        except BaseException as error:
            await client.close()
            if isinstance(error, nats.errors.Error | OSError | TimeoutError | ssl.SSLError):
                raise self._dial_error(error) from error
            raise
        self._client = client
        return client

    def _check_version(self, client: _Client) -> None:
        version = client.connected_server_version
        if (version.major, version.minor) < LEAST_VERSION:
            raise JournalRefused(
                f"the NATS server at {self.where} is {version.major}.{version.minor}.{version.patch}; ssmd needs"
                f" {LEAST_VERSION[0]}.{LEAST_VERSION[1]} or newer: upgrade it, or leave the URL out to use the embedded one"
            )

    def _dial_error(self, error: BaseException) -> Exception:
        reason = self._last_error or error
        text = f"{reason}".lower() + f"{error}".lower()
        if "authorization" in text or "authentication" in text or isinstance(reason, nats.errors.AuthorizationError):
            return JournalRefused(f"NATS at {self.where} refused our credentials; check the token, user, seed or credentials given for it")
        if isinstance(reason, ssl.SSLError):
            return JournalRefused(f"no TLS with NATS at {self.where}: {reason}; check its certificate and the URL's scheme")
        return JournalUnavailable(f"cannot reach NATS at {self.where} ({reason}); is it running, and is the URL right?")

    def _lose(self, client: _Client) -> None:
        if self._client is not client:
            return
        self._client = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ReplyLost(f"the connection to NATS at {self.where} was lost"))
        losts, self._losts = self._losts, set()
        for lost in losts:
            lost()

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            await self._client.close()

    async def _subscribe(self, client: _Client, subject: bytes, sink: Sink) -> int:
        # A subscription with a future starts no task; nothing can arrive before the sink is set, since nobody knows the subject.
        sub = await client.subscribe(subject.decode(), future=asyncio.get_running_loop().create_future())
        client.sinks[sub._id] = sink
        return sub._id

    async def subscribe(self, sink: Sink, lost: Callable[[], None]) -> tuple[bytes, Subscription]:
        """A new inbox (the sink gets what comes on ``INBOX.*``) and its subscription; `lost` is called when the connection goes."""
        client = await self.client()
        inbox = client.new_inbox().encode()
        sid = await self._subscribe(client, inbox + b".*", sink)
        self._losts.add(lost)
        return inbox, Subscription(client, sid, lost, self._losts)

    def _replied(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        del reply
        future = self._waiting.get(subject[subject.rfind(b".") + 1 :])
        if future is not None and not future.done():
            future.set_result((payload, headers))

    def expect(self) -> tuple[bytes, asyncio.Future[tuple[bytes, bytes | None]]]:
        """A reply subject and the future of what comes on it. Call with the connection up, then `send`, then `reply`."""
        self._token += 1
        token = b"%d" % self._token
        future: asyncio.Future[tuple[bytes, bytes | None]] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        return b"%b.%b" % (self._inbox, token), future

    def send(self, data: bytes) -> None:
        """Write rendered protocol lines. Nothing is kept for later when the connection is gone."""
        if self._client is None or not self._client.is_connected:
            raise JournalUnavailable(f"the connection to NATS at {self.where} was lost")
        _write(self._client, data)

    async def drain(self) -> None:
        """Wait until the socket has taken most of what was sent."""
        if self._client is not None and self._client._transport is not None:
            try:
                await self._client._transport.drain()  # type: ignore[no-untyped-call]
            except OSError as error:
                raise ReplyLost(f"the connection to NATS at {self.where} was lost") from error

    async def reply(self, future: asyncio.Future[tuple[bytes, bytes | None]]) -> dict[str, Any]:
        """The JSON answer. Raises `ReplyLost`, `NoResponders`, `ApiError`."""
        try:
            async with asyncio.timeout(self.timeout_s):
                payload, headers = await future
        except TimeoutError as error:
            raise ReplyLost(f"no answer from NATS at {self.where} within {self.timeout_s:g} s") from error
        finally:
            future.cancel()
        if headers and headers.startswith(b"NATS/1.0 503"):
            raise NoResponders
        answer: dict[str, Any] = json.loads(payload) if payload else {}
        if "error" in answer:
            raise ApiError(answer["error"])
        return answer

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One ``$JS.API`` request. Raises `ReplyLost`, `NoResponders`, `ApiError`, `JournalUnavailable`."""
        payload = json.dumps(body).encode() if body is not None else b""
        await self.client()
        inbox, future = self.expect()
        self.send(b"PUB $JS.API.%b %b %d\r\n%b\r\n" % (name.encode(), inbox, len(payload), payload))
        return await self.reply(future)


def _write(client: _Client, data: bytes) -> None:
    transport = client._transport
    if transport is None:
        return
    if client._pending:  # what nats-py has queued itself (subscriptions, pongs) goes first
        transport.writelines(client._pending)
        client._pending = []
        client._pending_data_size = 0
    transport.write(data)
