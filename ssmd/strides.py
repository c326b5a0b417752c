"""How far to go on, as somebody types it into a terminal, or a program into a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from journal.errors import CallerError
from replay.pace import Stride
from ssmd.moments import parse_duration

KEYS = "Enter is the next entry; 100 so many entries; 10s so much of the day"
_MOST = 10**15
_READ = 4_096
_WAITING = 100  # lines that were read and not done: beyond that whoever writes them waits


class Typed:
    """Lines of stdin, each a stride. They are read by a thread that ends with the process, so that nothing waits for a last Enter, and no
    faster than they are done, so that a program may write any number of them.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._room = threading.Semaphore(_WAITING)
        self._reading = False

    async def __call__(self) -> Stride:
        """The next one; once stdin has ended, all the rest."""
        if not self._reading:
            self._reading = True
            threading.Thread(target=_read, args=(asyncio.get_running_loop(), self._lines, self._room), daemon=True).start()
        while True:
            line = await self._lines.get()
            self._room.release()
            if line is None:
                self._lines.put_nowait(None)
                return Stride(_MOST)
            try:
                return parse(line.strip())
            except CallerError as error:
                self._tell(str(error))


def parse(text: str) -> Stride:
    """Raises `CallerError`."""
    if not text:
        return Stride(1)
    if text.isascii() and text.isdigit() and 0 < int(text[:16]) <= _MOST:
        return Stride(int(text[:16]))
    try:
        return Stride(ns=parse_duration(text))
    except CallerError:
        raise CallerError(f"{text[:40]!r} is no step: {KEYS}") from None


def _read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None], room: threading.Semaphore) -> None:
    with suppress(RuntimeError):  # nobody waits any more
        waiting = b""
        with suppress(OSError, ValueError, AttributeError):  # there is no stdin, or no more
            # Not by Python's buffer, whose lock a thread that waits would hold when the process ends.
            while data := os.read(sys.stdin.fileno(), _READ):
                *ended, waiting = (waiting + data).split(b"\n")
                for line in ended:
                    room.acquire()
                    loop.call_soon_threadsafe(lines.put_nowait, line.decode(errors="replace"))
                waiting = waiting[-_READ:]
        loop.call_soon_threadsafe(lines.put_nowait, None)
