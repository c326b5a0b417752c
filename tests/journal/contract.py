"""What every journal promises: one body of tests, run over each back end by a subclass.

A back end that is only read runs `ReaderContract`; one that is written runs `JournalContract` as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any
from uuid import uuid4

import pytest

from journal.entry import Book, Change, Control, Delta, Entry, Event, Record, Trade
from journal.errors import CallerError, EntryTooLarge, Fenced, IdConflict, Superseded
from journal.protocols import Journal, JournalReader
from journal.subjects import Stream

FEED = "kalshi"
EPOCH = bytes(range(16))
OTHER_EPOCH = bytes(range(16, 32))
DAY = 20261122


def entry(
    frame: int, *, epoch: bytes = EPOCH, symbol: str = "KXGOLD-26.5", size: int = 1, effective_ns: int | None = None, **more: Any
) -> Entry:
    """An entry of `frame`; `size` varies the content. Every fifth is a trade, so that there are two types."""
    body = Trade(410_000, size, 1, 0, f"t{frame}") if frame % 5 == 4 else Delta((Change(410_000, size, 0, 0),))
    at = 1_000 * frame if effective_ns is None else effective_ns
    return Entry(body, FEED, symbol, epoch, frame, at + 1, 5, at, DAY, raw=b'{"frame":%d}' % frame, **more)


def entries(first: int, last: int, **more: Any) -> list[Entry]:
    return [entry(n, **more) for n in range(first, last + 1)]


def opener(epoch: bytes = EPOCH) -> Entry:
    return Entry(Control("opened", detail="{}"), FEED, f"epoch-{epoch.hex()}", epoch, 0, 1, 0, 0, DAY)


def lease(writer: str, epoch: bytes, *, who: str = "") -> Entry:
    return Entry(Control("lease", detail=who), FEED, f"writer-{writer}", epoch, 1, 1, 0, 0, DAY)


def on(symbol: str, version: int, *, size: int = 1) -> Entry:
    """An entry of its own subject and id: `version` of `symbol`."""
    return entry(5 * version, epoch=symbol.encode().ljust(16, b"."), symbol=symbol, size=size)


def new_stream() -> Stream:
    return Stream(f"t{uuid4().hex[:12]}", shard="0")


async def read_all(reader: JournalReader, stream: Stream, **how: Any) -> list[Record]:
    found: list[Record] = []
    async for chunk in reader.read(stream, **how):
        assert chunk, "runs are never empty"
        found += chunk
    return found


async def sequences(reader: JournalReader, stream: Stream, **how: Any) -> list[int]:
    return [r.sequence for r in await read_all(reader, stream, **how)]


async def take(reader: JournalReader, stream: Stream, count: int, **how: Any) -> list[Record]:
    """The first `count` records of a read that may never end."""
    found: list[Record] = []
    async with asyncio.timeout(20), aclosing(reader.read(stream, follow=True, **how)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            found += chunk
            if len(found) >= count:
                break
    return found[:count]


class ReaderContract:
    """Subclasses give `reading`: a reader of one stream that holds exactly the given entries, from sequence 1."""

    def reading(self, stream: Stream, stored: Sequence[Entry]) -> AbstractAsyncContextManager[JournalReader]:
        raise NotImplementedError

    def _read(self, stored: Sequence[Entry], body: Callable[[JournalReader, Stream], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            stream = new_stream()
            async with self.reading(stream, stored) as reader:
                await body(reader, stream)

        asyncio.run(main())

    def test_entries_come_back_as_they_were(self) -> None:
        stored = [
            opener(),
            *entries(1, 30),
            entry(31, symbol="", price_exponent=-6, size_exponent=-2, venue_ns=7, venue_seq=8, subscription=9),
            Entry(Book((Change(1, 2, 0, 1), Change(3, 4, 1, 1))), FEED, "X/Y", EPOCH, 32, 1, 2, 32_000, DAY, parts=2, raw=b"\0\xff"),
            Entry(Book(()), FEED, "Z", EPOCH, 32, 1, 2, 32_000, DAY, part=1, parts=2, raw_hash=b"h" * 32),
        ]

        async def body(reader: JournalReader, stream: Stream) -> None:
            assert await read_all(reader, stream) == [Record(n, e) for n, e in enumerate(stored, 1)]

        self._read(stored, body)

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (1, None, range(1, 41)),
            (7, None, range(7, 41)),
            (7, 7, [7]),
            (39, 100, [39, 40]),
            (40, None, [40]),
            (8, 7, []),
            (41, None, []),
            (41, 50, []),
            (1, 0, []),
        ],
    )
    def test_reads_from_position_to_position(self, start: int, end: int | None, expected: Sequence[int]) -> None:
        async def body(reader: JournalReader, stream: Stream) -> None:
            assert await sequences(reader, stream, start=start, end=end) == list(expected)

        self._read(entries(1, 40), body)

    def test_reads_only_the_subjects_asked_for(self) -> None:
        stored = [entry(n, symbol=f"S{n % 3}") for n in range(1, 61)]

        async def body(reader: JournalReader, stream: Stream) -> None:
            env = stream.env
            trades = [n for n in range(1, 61) if n % 5 == 4]
            assert await sequences(reader, stream, subjects=[f"{env}.{FEED}.trade.>"]) == trades
            assert await sequences(reader, stream, subjects=[f"{env}.{FEED}.*.S1"]) == [n for n in range(1, 61) if n % 3 == 1]
            both = [f"{env}.{FEED}.trade.*", f"{env}.*.trade.S1", f"{env}.{FEED}.delta.S0"]
            expected = [n for n in range(1, 61) if n in trades or n % 3 == 0]
            assert await sequences(reader, stream, subjects=both) == expected
            assert await sequences(reader, stream, subjects=both, start=10, end=30) == [n for n in expected if 10 <= n <= 30]
            assert await sequences(reader, stream, subjects=[f"{env}.{FEED}.gap.>"]) == []

        self._read(stored, body)

    def test_several_reads_at_once(self) -> None:
        async def body(reader: JournalReader, stream: Stream) -> None:
            found = await asyncio.gather(*(sequences(reader, stream, start=n) for n in range(1, 9)))
            assert found == [list(range(n, 41)) for n in range(1, 9)]

        self._read(entries(1, 40), body)

    def test_seeks_by_effective_time(self) -> None:
        times = [10, 10, 20, 20, 20, 30]
        stored = [entry(n, effective_ns=t) for n, t in enumerate(times, 1)]

        async def body(reader: JournalReader, stream: Stream) -> None:
            assert [await reader.seek(stream, t) for t in (9, 10, 15, 20, 29, 30, 31)] == [1, 3, 3, 6, 6, 7, 7]

        self._read(stored, body)

    def test_knows_the_streams_bounds_and_newest(self) -> None:
        async def body(reader: JournalReader, stream: Stream) -> None:
            info = await reader.info(stream)
            assert info is not None
            assert (info.stream, info.first, info.last) == (stream, 1, 12)
            assert info.bytes > 0
            assert await reader.streams(stream.env) == [stream]
            assert await reader.last(stream, stream.subject(FEED, "trade", "KXGOLD-26.5")) == Record(9, entry(9))
            assert await reader.last(stream, stream.subject(FEED, "gap", "KXGOLD-26.5")) is None

        self._read(entries(1, 12), body)

    def test_the_newest_of_a_pattern(self) -> None:
        stored = [entry(n, symbol=f"S{n % 3}") for n in range(1, 15)]

        async def body(reader: JournalReader, stream: Stream) -> None:
            env = stream.env
            for pattern, newest in ((f"{env}.>", 14), (f"{env}.{FEED}.trade.*", 14), (f"{env}.*.*.S1", 13), (f"{env}.*.delta.S0", 12)):
                found = await reader.last(stream, pattern)
                assert found == Record(newest, stored[newest - 1]), pattern
            assert await reader.last(stream, f"{env}.{FEED}.gap.*") is None

        self._read(stored, body)

    def test_a_stream_that_is_not_there_reads_as_empty(self) -> None:
        async def body(reader: JournalReader, stream: Stream) -> None:
            del stream
            other = new_stream()
            assert await read_all(reader, other) == []
            assert await reader.info(other) is None
            assert await reader.last(other, "a.b") is None
            assert await reader.seek(other, 5) == 1
            assert await reader.streams(other.env) == []

        self._read(entries(1, 3), body)


class JournalContract(ReaderContract):
    """Subclasses give `journals`: a way to open handles on one journal whose dedupe window `pass_window` outlasts."""

    def journals(self) -> AbstractAsyncContextManager[Callable[[], Coroutine[Any, Any, Journal]]]:
        raise NotImplementedError

    async def pass_window(self) -> None:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def reading(self, stream: Stream, stored: Sequence[Entry]) -> AsyncIterator[JournalReader]:
        async with self.journals() as connect:
            journal = await connect()
            await journal.ensure(stream, FEED)
            await journal.append(stream, stored)
            yield journal

    def _write(self, body: Callable[[Callable[[], Coroutine[Any, Any, Journal]], Stream], Coroutine[Any, Any, None]]) -> None:
        """Run `body` with a way to open handles and a stream that the journal has."""

        async def main() -> None:
            async with self.journals() as connect:
                stream = new_stream()
                await (await connect()).ensure(stream, FEED)
                await body(connect, stream)

        asyncio.run(main())

    def test_appending_gives_sequences_and_order(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            assert await journal.append(stream, []) == []
            assert await journal.append(stream, entries(1, 3)) == [1, 2, 3]
            assert await journal.append(stream, [entry(4)]) == [4]
            assert await journal.append(stream, entries(5, 6)) == [5, 6]
            assert await read_all(journal, stream) == [Record(n, entry(n)) for n in range(1, 7)]

        self._write(body)

    def test_making_a_stream_twice_changes_nothing(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            await journal.append(stream, entries(1, 3))
            await journal.ensure(stream, FEED)
            assert await sequences(await connect(), stream) == [1, 2, 3]

        self._write(body)

    def test_a_stream_must_be_made_first(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            del stream
            with pytest.raises(CallerError, match="does not exist"):
                await (await connect()).append(new_stream(), entries(1, 3))

        self._write(body)

    @pytest.mark.parametrize("opened", [True, False])
    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize("same", [True, False])
    def test_appending_again_gives_the_first_sequences(self, *, opened: bool, late: bool, same: bool) -> None:
        """By the same handle and by another, inside and beyond the dedupe window, with and without an opener."""

        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            stored = [opener() if opened else entry(0), *entries(1, 9)]
            await journal.append(stream, entries(1, 3, epoch=OTHER_EPOCH))
            first = await journal.append(stream, stored)
            await journal.append(stream, entries(4, 6, epoch=OTHER_EPOCH))
            if late:
                await self.pass_window()
            again = journal if same else await connect()
            assert first == list(range(4, 14))
            assert await again.append(stream, stored) == first
            assert await again.append(stream, stored[3:5]) == first[3:5]
            assert await again.append(stream, [stored[2]]) == first[2:3]
            # Partly known: those that are there keep their places, the rest is appended.
            assert await again.append(stream, [*stored[8:], *entries(10, 12)]) == [12, 13, 17, 18, 19]
            assert await again.append(stream, [entry(13), stored[5], entry(14)]) == [20, 9, 21]
            assert await again.append(stream, [entry(15), entry(15)]) == [22, 22]
            assert await sequences(again, stream) == list(range(1, 23))

        self._write(body)

    @pytest.mark.parametrize("late", [False, True])
    def test_ids_that_come_in_no_order_are_stored_once(self, *, late: bool) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            assert await journal.append(stream, [entry(n) for n in (5, 3, 9)]) == [1, 2, 3]
            assert await journal.append(stream, [entry(n) for n in (4, 9, 1)]) == [4, 3, 5]
            if late:
                await self.pass_window()
            assert await journal.append(stream, [entry(n) for n in (9, 1, 5, 2)]) == [3, 5, 1, 6]
            assert await (await connect()).append(stream, [entry(n) for n in (3, 2, 7, 4)]) == [2, 6, 7, 4]

        self._write(body)

    def test_parts_of_a_frame_are_entries_of_their_own(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            parts = [entry(1, part=n, parts=3) for n in range(3)]
            assert await (await connect()).append(stream, parts) == [1, 2, 3]
            assert await (await connect()).append(stream, [*parts[1:], entry(2)]) == [2, 3, 4]

        self._write(body)

    def test_two_handles_writing_one_epoch_store_each_entry_once(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            for n in range(0, 40, 4):
                assert await one.append(stream, entries(n, n + 3)) == list(range(n + 1, n + 5))
                await self.pass_window()
                assert await two.append(stream, entries(n, n + 3)) == list(range(n + 1, n + 5))

        self._write(body)

    def test_a_leased_writer_that_writes_a_shared_epoch_too_stores_each_entry_once(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            fence = await one.lease(stream, lease("w", b"a" * 16))
            assert await one.append(stream, entries(0, 3)) == [2, 3, 4, 5]
            assert await two.append(stream, entries(4, 6)) == [6, 7, 8]
            assert await one.append(stream, entries(0, 5, epoch=OTHER_EPOCH), fence) == [9, 10, 11, 12, 13, 14]
            await self.pass_window()
            assert await one.append(stream, entries(4, 8)) == [6, 7, 8, 15, 16]

        self._write(body)

    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize("same", [True, False])
    def test_the_same_id_with_other_content_is_fatal(self, *, late: bool, same: bool) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            await journal.append(stream, [opener(), *entries(1, 5)])
            if late:
                await self.pass_window()
            again = journal if same else await connect()
            with pytest.raises(IdConflict, match=r"\.3\.0 is already at .*_md_0:4 "):
                await again.append(stream, [entry(3, size=2)])
            with pytest.raises(IdConflict, match="already at"):
                await again.append(stream, [entry(6), entry(4, symbol="OTHER"), entry(7)])
            with pytest.raises(IdConflict):
                await again.append(stream, [entry(8), entry(8, size=2)])
            assert await sequences(again, stream) == [1, 2, 3, 4, 5, 6]

        self._write(body)

    def test_a_second_instance_of_a_writer_fences_the_first(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            first = await one.lease(stream, lease("capture", b"a" * 16, who="one"))
            assert await one.append(stream, entries(1, 3), first) == [2, 3, 4]
            second = await two.lease(stream, lease("capture", b"b" * 16, who="two@host"))
            assert (first.writer, first.subject, first.sequence) == ("capture", stream.subject(FEED, "control", "writer-capture"), 1)
            assert second == first._replace(sequence=5)
            for batch in (entries(4, 6), entries(4, 4), entries(1, 3)):  # fenced even when there is nothing to store
                with pytest.raises(Fenced, match="two@host") as caught:
                    await one.append(stream, batch, first)
                assert caught.value.successor == "two@host"
            assert await two.append(stream, entries(3, 6), second) == [4, 6, 7, 8]
            assert await sequences(two, stream) == list(range(1, 9))

        self._write(body)

    def test_two_writers_do_not_disturb_each_other(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            a = await one.lease(stream, lease("a", b"a" * 16))
            b = await two.lease(stream, lease("b", b"b" * 16))
            for n in range(1, 20):
                await one.append(stream, entries(2 * n, 2 * n + 1, epoch=b"c" * 16), a)
                await two.append(stream, entries(2 * n, 2 * n + 1, epoch=b"d" * 16), b)
            assert await sequences(one, stream) == list(range(1, 2 + 4 * 19 + 1))

        self._write(body)

    def test_taking_a_lease_twice_is_taking_it_once(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            first = await journal.lease(stream, lease("w", b"a" * 16))
            await journal.append(stream, entries(1, 2), first)
            await self.pass_window()
            assert await (await connect()).lease(stream, lease("w", b"a" * 16)) == first
            with pytest.raises(IdConflict):
                await journal.lease(stream, lease("w", b"a" * 16, who="someone else"))

        self._write(body)

    def test_a_conditional_append_is_stored_if_nobody_was_faster(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            assert await one.append_if(stream, [], []) == []
            assert await one.append_if(stream, [on("A", 1)], [0]) == [1]
            assert await two.append_if(stream, [on("A", 2), on("B", 1), on("C", 1)], [1, 0, 0]) == [2, 3, 4]
            assert await one.append_if(stream, [on("B", 2)], [3]) == [5]
            assert await one.append_if(stream, [on("C", 2), on("D", 1)], [4, 0]) == [6, 7]
            expected = [on("A", 1), on("A", 2), on("B", 1), on("C", 1), on("B", 2), on("C", 2), on("D", 1)]
            assert await read_all(two, stream) == [Record(n, e) for n, e in enumerate(expected, 1)]

        self._write(body)

    @pytest.mark.parametrize("late", [False, True])
    def test_a_conditional_append_is_refused_whole_if_a_subject_has_changed(self, *, late: bool) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            await one.append_if(stream, [on("A", 1), on("B", 1), on("C", 1)], [0, 0, 0])
            await one.append_if(stream, [on("B", 2)], [2])
            if late:
                await self.pass_window()
            refused: list[tuple[list[Entry], list[int], str]] = [
                ([on("A", 2)], [0], "A"),  # the newest is 1
                ([on("A", 2)], [3], "A"),  # it never was
                ([on("A", 2), on("B", 3), on("C", 2)], [1, 2, 3], "B"),
                ([on("B", 3), on("A", 2), on("C", 2)], [2, 1, 3], "B"),
                ([on("A", 2), on("C", 2), on("B", 3)], [1, 3, 2], "B"),
                ([on("A", 1, size=2)], [0], "A"),  # an id that is there, with other content
                ([on("A", 2), on("B", 1, size=2)], [1, 0], "B"),
                ([on("B", 2), on("A", 2)], [2, 1], "B"),  # the first is there, but alone
            ]
            for journal in (one, two):
                for batch, newest, name in refused:
                    with pytest.raises(Superseded) as caught:
                        await journal.append_if(stream, batch, newest)
                    assert caught.value.subject == stream.subject(FEED, "delta", name)
            assert await sequences(two, stream) == [1, 2, 3, 4]

        self._write(body)

    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_a_conditional_append_done_again_gives_the_first_sequences(self, *, late: bool, count: int) -> None:
        """As after a lost reply: by any handle, inside and beyond the dedupe window, though others have appended since."""

        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            batch, newest = [on(f"S{n}", 2) for n in range(count)], list(range(1, count + 1))
            await one.append_if(stream, [on(f"S{n}", 1) for n in range(count)], [0] * count)
            first = await one.append_if(stream, batch, newest)
            assert first == list(range(count + 1, 2 * count + 1))
            for _ in range(2):
                if late:
                    await self.pass_window()
                assert await one.append_if(stream, batch, newest) == first
                assert await two.append_if(stream, batch, newest) == first
                if (info := await one.info(stream)).last == 2 * count:
                    await two.append_if(stream, [on("S0", 3)], [count + 1])
            assert info.last == 2 * count + 1

        self._write(body)

    def test_conditional_appends_that_cannot_be(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            with pytest.raises(CallerError, match=r"delta\.A is twice"):
                await journal.append_if(stream, [on("B", 1), on("A", 1), on("A", 2)], [0, 0, 0])
            for newest in ([], [0, 0], [-1]):
                with pytest.raises(CallerError, match="one for each"):
                    await journal.append_if(stream, [on("A", 1)], newest)
            with pytest.raises(CallerError, match="1001"):
                await journal.append_if(stream, [on(f"S{n}", 1) for n in range(1_001)], [0] * 1_001)
            with pytest.raises(CallerError, match="does not exist"):
                await journal.append_if(new_stream(), [on("A", 1)], [0])
            with pytest.raises(CallerError, match=r"\.5\.0 is twice"):
                await journal.append_if(stream, [entry(5, symbol="A"), entry(5, symbol="B")], [0, 0])
            large = Entry(Control("x"), FEED, "s", EPOCH, 2, 1, 0, 0, DAY, raw=bytes(await journal.largest(stream) + 4_096))
            with pytest.raises(EntryTooLarge):
                await journal.append_if(stream, [on("A", 1), large], [0, 0])
            await journal.append_if(stream, [on("A", 1)], [0])
            with pytest.raises(IdConflict):  # the id is there, and it is not what is expected to be stored now
                await journal.append_if(stream, [on("A", 1)], [1])
            assert await sequences(journal, stream) == [1]

        self._write(body)

    def test_a_thousand_entries_are_one_conditional_append(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            batch = [on(f"S{n}", 1) for n in range(1_000)]
            assert await journal.append_if(stream, batch, [0] * 1_000) == list(range(1, 1_001))
            with pytest.raises(Superseded, match=r"S999 "):
                await journal.append_if(stream, [on(f"S{n}", 2) for n in range(1_000)], [*range(1, 1_000), 7])
            assert await (await connect()).append_if(stream, batch, [0] * 1_000) == list(range(1, 1_001))
            assert await sequences(journal, stream) == list(range(1, 1_001))

        self._write(body)

    @pytest.mark.parametrize("leased", [False, True])
    def test_conditional_and_other_appends_share_a_stream(self, *, leased: bool) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            one, two = await connect(), await connect()
            fence = await one.lease(stream, lease("w", b"a" * 16)) if leased else None
            await one.append(stream, [opener()], fence)
            conditional: list[Entry] = []
            places: list[int] = []
            for n in range(1, 13):
                last = (await two.info(stream)).last
                assert await one.append(stream, entries(10 * n, 10 * n + 2), fence) == [last + 1, last + 2, last + 3]
                conditional += [on("A", n), on("B", n)]
                places += await (two if n % 3 else one).append_if(stream, conditional[-2:], places[-2:] or [0, 0])
                if n % 4 == 0:
                    await self.pass_window()
                assert await one.append(stream, entries(10 * n, 10 * n + 2), fence) == [last + 1, last + 2, last + 3]
                if n == 12:  # its own, after the window
                    assert await one.append(stream, conditional[-2:], fence) == places[-2:]
                # Ids are ids, whichever way they were stored. (What a leased writer appends is its own; these are the other's too.)
                assert await one.append(stream, conditional) == places
            assert len(places) == 24
            found = await read_all(two, stream)
            assert len({r.entry.id for r in found}) == len(found) == leased + 1 + 5 * 12

        self._write(body)

    def test_of_many_who_append_on_one_subject_one_wins(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            handles = [await connect() for _ in range(4)]

            async def attempt(writer: int, version: int, newest: list[int]) -> list[int] | None:
                epoch = bytes([writer + 1]) * 16
                batch = [entry(5 * version, part=n, epoch=epoch, symbol=s, size=writer + 1) for n, s in enumerate("AB")]
                with contextlib.suppress(Superseded):
                    return list(await handles[writer % 4].append_if(stream, batch, newest))
                return None

            newest = [0, 0]
            for version in range(12):
                results = await asyncio.gather(*(attempt(w, version, newest) for w in range(8)))
                (newest,) = [r for r in results if r]
                assert newest == [2 * version + 1, 2 * version + 2]
            assert await sequences(handles[0], stream) == list(range(1, 25))

        self._write(body)

    def test_a_conditional_append_cancelled_half_way_is_there_whole_or_not_at_all(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            for attempt in range(12):
                batch, newest = [on(f"S{attempt}-{n}", 1) for n in range(100)], [0] * 100
                task = asyncio.create_task(journal.append_if(stream, batch, newest))
                for _ in range(attempt):  # cut at ever later points
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                places = await journal.append_if(stream, batch, newest)
                assert places == list(range(places[0], places[0] + 100))
            found = await read_all(journal, stream)
            assert len(found) == len({r.entry.id for r in found}) == 1_200

        self._write(body)

    def test_a_thousand_entries_are_one_append_and_no_more(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            assert await journal.append(stream, entries(1, 1_000)) == list(range(1, 1_001))
            with pytest.raises(CallerError, match="1001"):
                await journal.append(stream, entries(1_001, 2_001))
            assert await (await connect()).append(stream, entries(1, 1_000)) == list(range(1, 1_001))
            assert await sequences(journal, stream) == list(range(1, 1_001))

        self._write(body)

    def test_an_entry_too_large_is_refused_before_anything_is_sent(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            most = await journal.largest(stream)
            huge = Entry(Control("x"), FEED, "s", EPOCH, 2, 1, 0, 0, DAY, raw=bytes(most + 4_096))
            for batch in ([huge], [entry(1), huge, entry(3)]):
                with pytest.raises(EntryTooLarge, match=r"\.2\.0 "):
                    await journal.append(stream, batch)
            assert await sequences(journal, stream) == []
            assert await journal.append(stream, entries(1, 3)) == [1, 2, 3]

        self._write(body)

    def test_the_largest_entry_is_taken_and_read_back_whole(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            most = await journal.largest(stream)
            large = Entry(Control("x"), FEED, "s", EPOCH, 2, 1, 0, 0, DAY, raw=bytes(most - 256))
            assert await journal.append(stream, [entry(1), large, entry(3)]) == [1, 2, 3]
            assert [r.entry.raw async for chunk in journal.read(stream, start=2, end=2) for r in chunk] == [large.raw]

        self._write(body)

    def test_an_append_cancelled_half_way_is_there_whole_or_not_at_all(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            done = 0
            for round_number in range(12):
                batch = entries(100 * round_number + 1, 100 * round_number + 100)
                task = asyncio.create_task(journal.append(stream, batch))
                for _ in range(round_number):  # cut at ever later points
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                other = await connect()
                async with asyncio.timeout(5):  # a batch that is being stored just now may be seen in part, and must become whole
                    while len(await sequences(other, stream)) not in (done, done + 100):  # noqa: ASYNC110 a server does it
                        await asyncio.sleep(0.02)
                assert await journal.append(stream, batch) == list(range(done + 1, done + 101))
                done += 100

        self._write(body)

    def test_appends_at_once_are_each_stored_once(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            batches = [entries(10 * n + 1, 10 * n + 10, epoch=bytes([n]) * 16) for n in range(8)]
            places = await asyncio.gather(*(journal.append(stream, b) for b in [*batches, *batches]))
            assert places[:8] == places[8:]
            assert sorted(n for p in places[:8] for n in p) == list(range(1, 81))

        self._write(body)

    def test_following_sees_what_is_appended_later(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            writer, reader = await connect(), await connect()
            await writer.append(stream, entries(1, 5))
            following = asyncio.create_task(take(reader, stream, 50, start=3))
            bounded = asyncio.create_task(sequences(reader, stream, start=2, end=30, follow=True))
            filtered = asyncio.create_task(
                sequences(reader, stream, end=31, follow=True, subjects=[stream.subject(FEED, "trade", "KXGOLD-26.5")])
            )
            for n in range(6, 60, 3):
                await writer.append(stream, entries(n, n + 2))
                await asyncio.sleep(0.005)
            assert [r.sequence for r in await following] == list(range(3, 53))
            async with asyncio.timeout(20):
                assert await bounded == list(range(2, 31))
                assert await filtered == [4, 9, 14, 19, 24, 29]  # it ends at 31 though 31 is not for it

        self._write(body)

    def test_following_waits_for_the_stream_to_be_made(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            del stream
            stream = new_stream()
            reader, writer = await connect(), await connect()
            following = asyncio.create_task(take(reader, stream, 4))
            await asyncio.sleep(0.15)
            assert not following.done()
            await writer.ensure(stream, FEED)
            await asyncio.sleep(0.15)
            assert not following.done()
            await writer.append(stream, entries(1, 4))
            assert [r.sequence for r in await following] == [1, 2, 3, 4]

        self._write(body)

    def test_an_empty_stream_has_empty_ranges(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            assert await read_all(journal, stream) == []
            assert await read_all(journal, stream, start=5, end=9) == []
            info = await journal.info(stream)
            assert (info.first, info.last) == (1, 0)
            assert await journal.seek(stream, 5) == 1
            assert await journal.last(stream, stream.subject(FEED, "trade", "A")) is None

        self._write(body)

    def test_streams_of_one_environment_only(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            await journal.ensure(Stream(stream.env, domain="system"))
            await journal.ensure(Stream(stream.env, shard="import"))
            await journal.ensure(Stream(stream.env + "-x", shard="0"), FEED)
            names = [s.name for s in await journal.streams(stream.env)]
            assert names == [f"{stream.env}_md_0", f"{stream.env}_md_import", f"{stream.env}_system"]

        self._write(body)

    def test_domain_events_by_type_and_key(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal = await connect()
            system = Stream(stream.env, domain="system")
            await journal.ensure(system)
            events = [
                Entry(Event("digest", b'{"n":%d}' % n), "system", f"books.{n % 2}", bytes([n]) * 16, n, n, 0, n, DAY) for n in range(1, 9)
            ]
            assert await journal.append(system, events) == list(range(1, 9))
            assert await (await connect()).append(system, events[2:5]) == [3, 4, 5]
            newest = await journal.last(system, system.subject("system", "digest", "books.1"))
            assert newest == Record(7, events[6])
            assert newest.sequence == 7
            assert await sequences(journal, system, subjects=[f"{stream.env}.system.digest.books%2E0"]) == [2, 4, 6, 8]

        self._write(body)

    def test_events_of_aggregates_by_id_and_version(self) -> None:
        async def body(connect: Any, stream: Stream) -> None:
            journal, key = await connect(), Stream(stream.env, domain="key")
            await journal.ensure(key)
            names = ["a.b", "a", "a.b", "x/1", "a.b"]
            events = [Entry(Event("events"), "key", f"{a}.{n}", bytes([n]) * 16, n, n, 0, n, DAY) for n, a in enumerate(names, 9)]
            assert await journal.append_if(key, events, [0] * 5) == [1, 2, 3, 4, 5]
            assert await journal.last(key, f"{stream.env}.key.events.a%2Eb.11") == Record(3, events[2])
            assert await journal.last(key, f"{stream.env}.key.events.a%2Eb.*") == Record(5, events[4])
            assert await sequences(journal, key, subjects=[f"{stream.env}.key.events.a%2Eb.*"]) == [1, 3, 5]
            assert await sequences(journal, key, subjects=[f"{stream.env}.key.events.a.*"]) == [2]
            assert await sequences(journal, key, subjects=[f"{stream.env}.key.events", f"{stream.env}.key.events.>"]) == [1, 2, 3, 4, 5]

        self._write(body)
