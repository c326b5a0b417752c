"""The seam for faults: asked about every frame that is about to leave."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec


class Fate(Enum):
    send = "send"
    drop = "drop"  # the number is used up: the client sees a gap
    duplicate = "duplicate"
    disconnect = "disconnect"  # the connection is cut before this frame
    stall = "stall"  # this subscription goes silent without using numbers, until it is subscribed anew


class Faults(Protocol):
    def fate(self, connection: int, sid: int, channel: str, ticker: str, seq: int) -> Fate:
        """What becomes of a frame. `seq` is 0 for frames without one, `sid` 0 for replies without one."""
        ...


class Fault(msgspec.Struct):
    """Let `after` matching frames pass, then strike the next `times`. Empty `channel` or `ticker` and 0 `connection` match any."""

    fate: Fate
    channel: str = ""
    ticker: str = ""
    connection: int = 0
    after: int = 0
    times: int = 1


class ScriptedFaults:
    """Faults by counting frames: the first that strikes decides. `struck` tells how often each has."""

    def __init__(self, script: Sequence[Fault]) -> None:
        self._script = list(script)
        self._seen = [0] * len(self._script)
        self.struck = [0] * len(self._script)

    def fate(self, connection: int, sid: int, channel: str, ticker: str, seq: int) -> Fate:
        del sid, seq
        for index, fault in enumerate(self._script):
            if fault.channel not in {"", channel} or fault.ticker not in {"", ticker} or fault.connection not in {0, connection}:
                continue
            self._seen[index] += 1
            if self._seen[index] > fault.after and self.struck[index] < fault.times:
                self.struck[index] += 1
                return fault.fate
        return Fate.send
