"""Steps as they are typed."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import pytest

from journal.errors import CallerError
from replay.pace import Stride
from ssmd.strides import Typed, parse


def test_a_line_is_a_step() -> None:
    assert parse("") == Stride(1)
    assert parse("100") == Stride(100)
    assert parse("1m30s") == Stride(ns=90 * 10**9)


@pytest.mark.parametrize("text", ["0", "-1", "huh", "1x", "9" * 40])
def test_another_line_says_what_there_is(text: str) -> None:
    with pytest.raises(CallerError, match="Enter is the next entry"):
        parse(text)


def test_who_writes_lines_faster_than_they_are_done_waits_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)

    async def run() -> None:
        typed, lines = Typed(pytest.fail), 0

        async def fill() -> None:
            nonlocal lines
            for _ in range(100):
                with suppress(BlockingIOError):
                    while lines < 1_000_000:
                        lines += os.write(into, b"7\n" * 1_000) // 2
                await asyncio.sleep(0.01)

        os.write(into, b"5\n")
        assert await typed() == Stride(5)
        await fill()
        assert lines < 60_000, "what a pipe holds (64 KiB), and what is read of it"
        os.close(into)
        for _ in range(lines):
            assert await typed() == Stride(7)
        assert (await typed()).entries > 10**12, "the rest"

    with os.fdopen(out) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        asyncio.run(run())
