"""uvicorn's HTTP protocol with bounds on what comes before a request is whole: its time and bytes, and how many come at once."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ssmd.gateway.porch import Porch
from ssmd.gateway.problem import MEDIA, Problem, encode

HEAD_S = 10.0  # from the connection, or from the end of an answer, to the next request's end of headers
TAKE_S = 20.0  # that an answer may wait for its client to take it
MAX_HEAD = 64 << 10  # bytes of a request line and headers
_SLICE = 1 << 10  # bytes that are parsed at a time: 57 of the smallest requests


class BoundedHttp(HttpToolsProtocol):
    """A connection that sends its request slowly, or does not take its answers, is closed."""

    def __init__(self, *, porch: Porch, **given: Any) -> None:
        super().__init__(**given)
        self._porch = porch
        self._rest = bytearray()  # that came and is not parsed yet
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        self._porch.enter(self, self.client[0] if self.client else "")

    @property
    def idle(self) -> bool:
        """Whether it waits for a request."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def turn_away(self) -> None:
        """Where there is no room for it: in words, unless they would have to be encrypted."""
        if self.scheme == "https":
            self.transport.abort()
        else:
            self._refuse(Problem("busy", "too many connections; come again a little later", headers={"Retry-After": "10"}))

    def handle_websocket_upgrade(self) -> None:
        self._porch.leave(self)
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._porch.leave(self)
        self._had_head()
        self._taken()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        self._porch.leave(self)  # uvloop has closed it when this returns

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taken()
        self._take_timer = self.loop.call_later(TAKE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None

    def data_received(self, data: bytes) -> None:
        self._rest += data
        self._parse()

    def _parse(self) -> None:
        """What came, until a request waits for the answer to the one before it: then no more is read either."""
        while self._rest and not self.pipeline and not self.transport.is_closing() and self in self.connections:
            some = bytes(self._rest[:_SLICE])
            del self._rest[:_SLICE]
            super().data_received(some)
            if self._head_timer is not None and not self.transport.is_closing():
                self._head_bytes += len(some)
                if self._head_bytes > MAX_HEAD:
                    self.send_400_response("The request's head is too large.")
        if self._rest and self.pipeline:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self.transport.close()  # a body that nobody reads would keep the connection for as long as it comes
        self._parse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._had_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so as everything else is, and the connection ends."""
        self._refuse(Problem("bad-request", msg))

    def _refuse(self, problem: Problem) -> None:
        body = encode(problem.document(""))
        said = {**problem.headers, "Content-Type": MEDIA, "Content-Length": len(body), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        self.transport.write(f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n{head}\r\n".encode() + body)
        self.transport.close()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEAD_S, self._late)

    def _had_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.abort()
