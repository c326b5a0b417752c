"""The live table fits the terminal: a number is shown whole or not at all."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress
from types import SimpleNamespace

import pytest
from rich.console import Console

from journal.clock import WallClock
from journal.entry import Body, Book, Change, Entry, Trade
from journal.memory import MemoryJournal
from journal.subjects import Stream
from ssmd.live import LiveView
from ssmd.local_run import LocalRun
from tests.journal.contract import DAY, EPOCH, FEED

_SYMBOL = "KXSIMETH5M-26NOV221703-B2637.90"  # 31 characters
_LEVELS = (Change(410_000, 125_050, 0, 0), Change(420_000, 61_814, 1, 0))


async def shown(width: int) -> list[str]:
    """The lines of a table of one book and one trade."""
    clock, stream = WallClock(), Stream("local", shard="0")
    journal = MemoryJournal()
    bodies: tuple[Body, ...] = (Book(_LEVELS), Trade(415_000, 14_100, 1, 0, "t"))
    written = [Entry(body, FEED, _SYMBOL, EPOCH, n, n + 1, 5, n, DAY, price_exponent=-6, size_exponent=-2) for n, body in enumerate(bodies)]
    await journal.ensure(stream, FEED)
    await journal.append(stream, written)
    view = LiveView(journal, stream, clock, FEED)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await view.run()
    assert view.entries == len(written)
    out = io.StringIO()
    Console(file=out, width=width).print(view.render(width=width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 113, 114, 200])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    row = next(line for line in asyncio.run(shown(width)) if "KXSIMETH" in line)
    assert len(row) <= width
    assert [number in row for number in ("0.4100", "1250.50", "0.4200", "618.14", "0.4150")] == [True] * 5, row
    assert (_SYMBOL in row) is (width >= 80)
    assert ("141.00" in row) is (width >= 114), "the least telling columns go first"


def test_what_is_cut_short_is_the_symbol() -> None:
    assert any("KXSIM" in line and "…" in line for line in asyncio.run(shown(60)))


def test_processes_that_do_not_fit_one_line_go_on_in_the_next_whole() -> None:
    local = LocalRun.__new__(LocalRun)
    names = ("projector", "archiver", "sim", "connector", "secmaster", "gateway")
    local.supervisor = SimpleNamespace(children={n: SimpleNamespace(name=n, process=Started(), restarts=0) for n in names})  # type: ignore[assignment]
    out = io.StringIO()
    Console(file=out, width=80).print(local._processes())
    assert all(f"{name} 123456" in out.getvalue() for name in names), out.getvalue()


class Started:
    pid, returncode = 123_456, None
