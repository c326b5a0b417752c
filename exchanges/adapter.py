"""What a venue's adapter is: frames in, normalised bodies and commands out.

An adapter is sans-io. It opens no socket, reads no clock and logs nothing; the connector gives it each frame with the time
it was read, journals what comes back in order, and sends the commands. Live capture, import of recordings, the simulator's tests and
re-normalising a raw archive all call the same adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from journal.entry import Body


class Normalised(msgspec.Struct, gc=False):
    """One body and what the frame said about it. `own`: our own decision (a gap, a resync), not part of the frame."""

    body: Body
    symbol: str = ""
    venue_ns: int = 0
    venue_seq: int = 0
    subscription: int = 0
    price_exponent: int = 0
    size_exponent: int = 0
    own: bool = False


class Output(msgspec.Struct):
    """`items` in journal order (an own gap comes before the frame that revealed it); `send` are text frames for the venue.

    `error` is set when the venue refused for good (the connector stops and shows it); `reconnect` asks for a new connection.
    """

    items: Sequence[Normalised] = ()
    send: Sequence[bytes] = ()
    error: str = ""
    reconnect: str = ""


class Adapter(Protocol):
    """One connection's conversation with a venue, from `opened` to the connection's end. Make a new one for each connection."""

    @property
    def missing_since_ns(self) -> int:
        """Since when data is missing of a channel that is not subscribed yet, or no longer; 0: of none. Asked when the connection ends."""
        ...

    @property
    def late(self) -> Mapping[str, int]:
        """Markets that were subscribed with a `since_ns` of which no gap says so yet. Asked when the connection ends."""
        ...

    def opened(self, recv_ns: int) -> Output:
        """The connection is up: what to send first."""
        ...

    def frame(self, data: bytes, recv_ns: int) -> Output:
        """One message as read. Never raises for what the venue sent: what does not parse comes back as `Unparsed`."""
        ...

    def tick(self, now_ns: int) -> Output:
        """Time passed (about every second): command timeouts, liveness, the next step of a resync."""
        ...

    def subscribe(self, symbols: Sequence[str], now_ns: int, *, since_ns: int = 0) -> Output:
        """Add symbols to what is captured, which are to be heard since `since_ns`: it may be to come; 0: nothing is owed of before."""
        ...

    def unsubscribe(self, symbols: Sequence[str], now_ns: int) -> Output:
        """Remove symbols."""
        ...
