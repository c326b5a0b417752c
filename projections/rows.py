"""What every fold needs of a block: which rows are new, which need a decoded body, and small integers for its names."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from journal.block import Block
from journal.codec import decode
from journal.entry import Control, Entry, Gap
from journal.errors import BadObject

_EPOCH_BYTES = 16
_NO_EPOCH = b""
_T = TypeVar("_T")


class Versioned(Protocol):
    """What a snapshot is of."""

    name: str
    version: int


class Cursor:
    """How far a fold has come: trading day, then sequence within it.

    Days count first because an import's stream interleaves days and is folded day by day; in a live stream the days rise with
    the sequence and this is stream order.
    """

    __slots__ = ("day", "sequence")

    def __init__(self, day: int = 0, sequence: int = 0) -> None:
        self.day = day
        self.sequence = sequence

    def take(self, block: Block) -> Any:
        """The rows of `block` behind the cursor, which moves past them; rows at or before it are redeliveries and left out."""
        rows = block.rows
        if not len(rows):
            return rows
        days = rows["day"]
        day = int(days[-1])
        # A block is usually of one day and wholly new.
        if (days == day).all() and (day > self.day or (day == self.day and int(rows["sequence"][0]) > self.sequence)):
            self.day, self.sequence = day, int(rows["sequence"][-1])
            return rows
        top = np.maximum.accumulate(np.maximum(days, np.uint32(self.day)))
        rows = rows[(days == top) & ((days > self.day) | (rows["sequence"] > self.sequence))]
        if len(rows):
            self.day, self.sequence = int(rows["day"][-1]), int(rows["sequence"][-1])
        return rows


class Names:
    """Small integers for symbols and epochs, from 1 for epochs and 0 for symbols, in order of first sight.

    They index the folds' arrays and never enter a snapshot or a digest. One table serves all projections of a runner, so a
    block's dictionary is looked up once. Grows by one entry a symbol or connection, for the process's life.
    """

    def __init__(self) -> None:
        self._symbols: dict[str, int] = {}
        self._epochs: dict[bytes, int] = {_NO_EPOCH: 0}
        self.symbol_list: list[str] = []
        self.epoch_list: list[bytes] = [_NO_EPOCH]
        self._last_symbols: tuple[list[str], Any] = ([], np.zeros(0, np.int64))
        self._last_epochs: tuple[list[bytes], Any] = ([], np.zeros(0, np.int64))

    def symbol(self, name: str) -> int:
        at = self._symbols.get(name)
        if at is None:
            at = self._symbols[name] = len(self.symbol_list)
            self.symbol_list.append(name)
        return at

    def find(self, name: str) -> int | None:
        """The symbol's integer if it was ever seen."""
        return self._symbols.get(name)

    def epoch(self, epoch: bytes) -> int:
        at = self._epochs.get(epoch)
        if at is None:
            at = self._epochs[epoch] = len(self.epoch_list)
            self.epoch_list.append(epoch)
        return at

    def symbols(self, block: Block) -> Any:
        """Array: the block's symbol number to ours. Slices of one block share its dictionary, so the last answer is kept."""
        if self._last_symbols[0] is not block.symbols:
            self._last_symbols = (block.symbols, np.array([self.symbol(s) for s in block.symbols], np.int64))
        return self._last_symbols[1]

    def epochs(self, block: Block) -> Any:
        """Array: the block's epoch number to ours."""
        if self._last_epochs[0] is not block.epochs:
            self._last_epochs = (block.epochs, np.array([self.epoch(e) for e in block.epochs], np.int64))
        return self._last_epochs[1]


def cold_entry(block: Block, row: Any) -> Entry:
    """The entry of a row of a cold kind, without raw bytes."""
    return decode(block.cold[int(row["body"])])


def unpacked(snapshot: bytes, decoder: msgspec.msgpack.Decoder[_T], fold: Versioned) -> _T:
    """What `fold` has packed. Raises `BadObject` for another's snapshot. A decoder is made at import: two threads that are the first to
    decode a type may crash.
    """
    try:
        return decoder.decode(snapshot)
    except msgspec.MsgspecError as error:
        raise BadObject(f"not a snapshot of {fold.name} {fold.version}: {error}; rebuild from the journal") from error


def detail_of(entry: Entry) -> dict[str, Any]:
    """The body's JSON detail; empty where there is none or it is not an object."""
    body = entry.body
    text = body.detail if isinstance(body, Control | Gap) else ""
    if not text:
        return {}
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def epoch_meant(entry: Entry) -> bytes:
    """The connection an entry is about: its detail's ``epoch`` (a successor speaks of a dead one), else its own."""
    named = detail_of(entry).get("epoch")
    if isinstance(named, str):
        try:
            epoch = bytes.fromhex(named)
        except ValueError:
            return entry.epoch
        if len(epoch) == _EPOCH_BYTES:
            return epoch
    return entry.epoch
