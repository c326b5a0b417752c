"""The checks of a rehearsal find what they are there to find."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from journal.day import DayRule
from journal.entry import Control, Entry, Gap
from journal.memory import MemoryJournal
from journal.subjects import Stream
from ssmd.day.rehearsed import Comparison, Journalled, Missing, covered

STREAM = Stream("local", shard="0")
RULE = DayRule()
START_NS = 1_795_305_600_000_000_000
MARKET = "KXSIMBTC15M-26NOV221415-15"
SECOND = 10**9


def delta(seq: int, market: str = MARKET) -> bytes:
    return b'{"type":"orderbook_delta","sid":1,"seq":%d,"msg":{"market_ticker":"%b"}}' % (seq, market.encode())


def entry(raw: bytes, number: int, seconds: float, body: Control | Gap | None = None, epoch: bytes = b"e" * 16) -> Entry:
    at_ns = START_NS + int(seconds * SECOND)
    return Entry(body or Control("x"), "kalshi", "", epoch, number, at_ns, at_ns, at_ns, RULE.day_of(at_ns), raw=raw)


def compared(tmp_path: Path, entries: Sequence[Entry], sent: Sequence[tuple[float, int, bytes]]) -> tuple[Journalled, Comparison]:
    """`sent`: seconds, connection, frame."""
    log = tmp_path / "1.jsonl"
    log.write_text(
        "".join(
            json.dumps({"when_ns": START_NS + int(s * SECOND), "conn": c, "sid": 1, "seq": 1, "fate": "send", "frame": "@"}).replace(
                '"@"', frame.decode()
            )
            + "\n"
            for s, c, frame in sent
        )
    )

    async def run() -> tuple[Journalled, Comparison]:
        journal, journalled, comparison = MemoryJournal(), Journalled(RULE.day_of), Comparison()
        await journal.ensure(STREAM, "kalshi")
        for one in entries:
            await journal.append(STREAM, [one])
        await journalled.read(journal, STREAM)
        comparison.compare([log], journalled, until_ns=START_NS + 1_000 * SECOND)
        return journalled, comparison

    return asyncio.run(run())


SENT = [(1.0 + n, 1, delta(n)) for n in range(6)]


def test_all_that_was_sent_is_there(tmp_path: Path) -> None:
    _, found = compared(tmp_path, [entry(raw, n, s + 0.1) for n, (s, _, raw) in enumerate(SENT)], SENT)
    assert (found.sent, found.stored, found.in_gaps, found.lost, found.strange) == (6, 6, 0, [], [])
    assert found.first == {MARKET: True}


def test_a_tail_is_lost_unless_a_gap_says_so(tmp_path: Path) -> None:
    kept = [entry(raw, n, s + 0.1) for n, (s, _, raw) in enumerate(SENT[:3])]
    _, found = compared(tmp_path, kept, SENT)
    assert (found.stored, found.in_gaps, len(found.lost)) == (3, 0, 3)
    gap = Gap("connector restarted", from_ns=kept[-1].recv_ns, to_ns=START_NS + 10 * SECOND)
    _, found = compared(tmp_path, [*kept, entry(b"", 9, 11, gap)], SENT)
    assert (found.stored, found.in_gaps, found.lost) == (3, 3, [])
    other = Gap("connector restarted", channel="trade", from_ns=kept[-1].recv_ns, to_ns=START_NS + 10 * SECOND)
    _, found = compared(tmp_path, [*kept, entry(b"", 9, 11, other)], SENT)
    assert len(found.lost) == 3


def test_a_hole_a_swap_and_a_repetition_are_strange(tmp_path: Path) -> None:
    raws = [raw for _, _, raw in SENT]
    for wrong in ([*raws[:2], *raws[3:]], [raws[1], raws[0], *raws[2:]], [raws[0], *raws]):
        _, found = compared(tmp_path, [entry(raw, n, 1.1 + n) for n, raw in enumerate(wrong)], SENT)
        assert len(found.strange) == 1


def test_a_market_that_opened_unheard_is_missed(tmp_path: Path) -> None:
    late = MARKET.replace("15-15", "30-30")
    unheard = [(8.0, 0, b'{"type":"orderbook_delta","msg":{"market_ticker":"%b"}}' % late.encode())]
    entries = [entry(raw, n, s + 0.1) for n, (s, _, raw) in enumerate(SENT)]
    _, found = compared(tmp_path, entries, [*SENT, *unheard])
    assert found.first == {MARKET: True, late: False}
    assert len(found.lost) == 1
    gap = Gap("down", from_ns=START_NS + 7 * SECOND, to_ns=START_NS + 9 * SECOND)
    _, found = compared(tmp_path, [*entries, entry(b"", 9, 11, gap)], [*SENT, *unheard])
    assert found.first == {MARKET: True, late: None}
    assert found.lost == []


def test_two_connections_are_told_apart(tmp_path: Path) -> None:
    ack = b'{"type":"subscribed","id":1,"msg":{"sid":1}}'
    sent = [(1.0, 1, ack), (2.0, 1, delta(1)), (5.0, 2, ack), (6.0, 2, delta(2))]
    entries = [entry(raw, n, s + 0.1, epoch=bytes([c]) * 16) for n, (s, c, raw) in enumerate(sent)]
    _, found = compared(tmp_path, entries, sent)
    assert (found.sent, found.stored, found.lost, found.strange) == (2, 2, [], [])


def test_an_entry_of_another_day_is_wrong(tmp_path: Path) -> None:
    one, two = entry(b"", 1, 1), entry(b"", 2, 2)
    two = msgspec.structs.replace(two, day=one.day - 1)
    journalled, _ = compared(tmp_path, [one, two], [])
    assert len(journalled.wrong) == 1


def test_what_was_on_its_way_is_missing_since_the_last_entry() -> None:
    gaps = [Missing("", "", 100, 200)]
    assert covered(gaps, 150, "trade", "X")
    assert not covered(gaps, 99, "trade", "X")
    assert covered(gaps, 99, "trade", "X", after_ns=100)
    assert not covered(gaps, 201, "trade", "X", after_ns=100)


def test_what_was_before_a_channel_s_first_sign_of_life_is_not_lost_and_a_channel_that_never_lived_is(tmp_path: Path) -> None:
    def trade(seconds: float) -> tuple[float, int, bytes]:
        return seconds, 0, b'{"type":"trade","msg":{"market_ticker":"%b"}}' % MARKET.encode()

    entries = [entry(raw, n, s + 0.1) for n, (s, _, raw) in enumerate(SENT)]
    sent = [*SENT, trade(3.05), trade(3.15)]
    _, found = compared(tmp_path, entries, sent)
    assert len(found.lost) == 2
    _, found = compared(tmp_path, [*entries[:2], entry(SENT[2][2], 2, 3.1, Control("subscribed", "trade")), *entries[3:]], sent)
    assert (len(found.lost), found.unheard) == (1, 1)
