"""What the simulator knows to be true: the books, and a log of everything it sent and everything that happened unseen."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from exchanges.simulator.book import TrueBook
from journal.errors import CallerError


class Sent(msgspec.Struct, gc=False):
    """One frame. Connection 0: it happened and nobody was subscribed (`frame` then has no sid and seq).

    `fate` is `send`, or what a fault did to it; frames sent to a connection that died before they arrived are in the log too.
    """

    when_ns: int
    conn: int
    sid: int
    seq: int
    fate: str
    frame: msgspec.Raw

    @property
    def data(self) -> bytes:
        """The frame's bytes, exactly as they left."""
        return bytes(self.frame)


class Oracle:
    """`keep_bytes` of the newest frames stay in memory (0: none); `path` gets every one as a JSON line."""

    def __init__(self, *, path: Path | None = None, keep_bytes: int = 0) -> None:
        self._file = path.open("wb", buffering=1 << 20) if path else None  # 1 MiB: some 3,000 frames a write
        self._keep_bytes = keep_bytes
        self._kept: deque[Sent] = deque()  # bounded by `keep_bytes`, oldest dropped
        self._kept_bytes = 0
        self._books: Mapping[str, TrueBook] = {}
        self.active = bool(path or keep_bytes)
        self.dropped = 0  # frames no longer in memory

    def watch(self, books: Mapping[str, TrueBook]) -> None:
        """The venue hands over its books, once."""
        self._books = books

    def books(self) -> dict[str, tuple[dict[int, int], dict[int, int]]]:
        """Now: ticker -> (yes, no), each price in micro-dollars -> count in hundredths. A copy; unknown books are left out."""
        return {ticker: (dict(book.yes), dict(book.no)) for ticker, book in self._books.items() if book.known}

    def note(self, sent: Sent) -> None:
        if self._file is not None:
            self._file.write(
                b'{"when_ns":%d,"conn":%d,"sid":%d,"seq":%d,"fate":"%b","frame":%b}\n'
                % (sent.when_ns, sent.conn, sent.sid, sent.seq, sent.fate.encode(), sent.frame)
            )
        if self._keep_bytes:
            self._kept.append(sent)
            self._kept_bytes += len(memoryview(sent.frame))
            while self._kept_bytes > self._keep_bytes:
                self._kept_bytes -= len(memoryview(self._kept.popleft().frame))
                self.dropped += 1

    def sent(self) -> list[Sent]:
        """The frames still in memory, oldest first."""
        return list(self._kept)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.active = bool(self._keep_bytes)


def read_log(path: Path) -> Iterator[Sent]:
    """The frames of a log file in order. Raises `CallerError` for a line that is not one.

    A last line without an end is of a simulator that was killed, and of a frame that nobody was sent.
    """
    decoder = msgspec.json.Decoder(Sent)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise CallerError(f"{path}:{number}: not a line of a simulator's log ({error})") from error
