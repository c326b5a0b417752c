"""What all connections of the stream share: who is let in and how much they may ask, and how frames are deflated."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from itertools import count

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.typing import ExtensionParameter

from ssmd.gateway.access import Gatekeeper
from ssmd.gateway.rates import Rates, Seats
from ssmd.gateway.session import Sessions

REQUESTS, BURST = 20, 100  # a second of one connection, and at once
FRAMES, FRAME_BURST = 100, 500  # of any kind: pings and empty fragments are no requests, and cost 20 µs each
_REFUSED, _REFUSED_BURST = 20, 50  # handshakes of one address that are refused at once, a second and in one go
_ANEW = 3  # times so many at once of all connections that have one seat after the other


class Door:
    """What connections need: one for all of them."""

    def __init__(
        self, sessions: Sessions, gatekeeper: Gatekeeper, *, env: str, connections: int, per_key: int, compression: bool = False
    ) -> None:
        self.sessions = sessions
        self.gatekeeper = gatekeeper
        self.env = env
        self.connections, self.per_key = connections, per_key
        self.extensions = [Deflate()] if compression else []
        self.refusals = Rates(sessions.clock, _REFUSED, _REFUSED_BURST)
        self.waiting: set[object] = set()  # for their refusal
        self.ready: Callable[[], bool] = lambda: sessions.views.ready
        self.seats = Seats()
        self.requests = Rates(sessions.clock, REQUESTS, _ANEW * BURST)
        self.frames = Rates(sessions.clock, FRAMES, _ANEW * FRAME_BURST)
        self._numbers = count(1)

    def name(self) -> str:
        return f"c{next(self._numbers)}"


class Deflate(ServerPerMessageDeflateFactory):
    """permessage-deflate without a memory of earlier messages, on both sides: a frame is deflated once for all, and an idle connection
    costs nothing. What a client deflates is inflated up to the size of a message and no further.
    """

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        answer, agreed = super().process_request_params(params, accepted_extensions)
        if agreed.local_max_window_bits != zlib.MAX_WBITS:
            raise NegotiationError("frames are deflated with the largest window")  # the client goes on without, or with its next offer
        return answer, agreed
