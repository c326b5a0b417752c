"""JetStream keeps the contract, and what only a server can do wrong is survived."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from journal.clock import WallClock
from journal.codec import encode
from journal.cursor import PULL_MESSAGES, _Pull
from journal.entry import Control, Entry
from journal.errors import Fenced, HoleInStream, JournalFull, JournalRefused, JournalUnavailable
from journal.index import TRAILS
from journal.jetstream import JetStreamJournal
from journal.link import Sink
from journal.protocols import MAX_BATCH, Journal
from journal.subjects import Stream
from tests.journal.contract import EPOCH, FEED, OTHER_EPOCH, JournalContract, entries, entry, lease, new_stream, opener, sequences, take
from tests.journal.servers import TOKEN, NatsServer, Proxy, nats_server

WINDOW_S = 0.1  # the server's least


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


async def connect_to(url: str, **more: Any) -> JetStreamJournal:
    return await JetStreamJournal.connect(url, WallClock(), token=TOKEN, **{"duplicate_window_s": WINDOW_S, **more})


@contextlib.asynccontextmanager
async def handles(url: str, **more: Any) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Any]]]:
    opened: list[JetStreamJournal] = []

    async def connect() -> Journal:
        opened.append(await connect_to(url, **more))
        return opened[-1]

    try:
        yield connect
    finally:
        for journal in opened:
            await journal.close()


class TestJetStreamJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def _server(self, shared_server: NatsServer) -> None:
        self._url = shared_server.url

    def journals(self) -> Any:
        return handles(self._url)

    async def pass_window(self) -> None:
        await asyncio.sleep(2.5 * WINDOW_S)


def run(body: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await body

    asyncio.run(main())


def acknowledges(data: bytes) -> bool:
    """Whether the server says that an append is durable."""
    return b'"seq":' in data and b'"error"' not in data


@pytest.mark.parametrize("count", [1, 40])
def test_a_commit_whose_reply_is_lost_is_stored_once(shared_server: NatsServer, count: int) -> None:
    """The connection is cut at the acknowledgement: the append reads back and finds its entries."""

    async def body() -> None:
        async with Proxy(shared_server.port) as proxy, handles(shared_server.url) as connect:
            journal = await connect_to(f"nats://127.0.0.1:{proxy.port}")
            stream = new_stream()
            await journal.ensure(stream, FEED)
            await journal.append(stream, [opener()])
            for fence in (None, await journal.lease(stream, lease("w", OTHER_EPOCH))):
                last = (await sequences(journal, stream))[-1]
                proxy.lose = acknowledges
                batch = entries(last, last + count - 1)
                assert await journal.append(stream, batch, fence) == list(range(last + 1, last + count + 1))
                assert await journal.append(stream, batch, fence) == list(range(last + 1, last + count + 1))
            assert proxy.cuts == 2
            assert len(await sequences(await connect(), stream)) == 2 + 2 * count
            await journal.close()

    run(body())


def test_a_reply_that_never_comes_is_settled_by_reading(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with Proxy(shared_server.port) as proxy:
            journal = await connect_to(f"nats://127.0.0.1:{proxy.port}", timeout_s=0.3)
            stream = new_stream()
            await journal.ensure(stream, FEED)
            proxy.swallow = acknowledges
            assert await journal.append(stream, entries(1, 9)) == list(range(1, 10))
            assert proxy.cuts == 1
            await journal.close()

    run(body())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_batch_cut_on_its_way_is_not_stored(shared_server: NatsServer, share: float) -> None:
    async def body() -> None:
        async with Proxy(shared_server.port) as proxy:
            journal = await connect_to(f"nats://127.0.0.1:{proxy.port}")
            stream = new_stream()
            await journal.ensure(stream, FEED)
            await journal.append(stream, entries(0, 2))
            proxy.cut_up = lambda data: data[: int(len(data) * share)] if b"Nats-Batch" in data else None
            with pytest.raises(JournalUnavailable):
                await journal.append(stream, entries(3, 30))
            assert proxy.cuts == 1
            assert await sequences(journal, stream) == [1, 2, 3]
            assert await journal.append(stream, entries(3, 30)) == list(range(4, 32))
            await journal.close()

    run(body())


def test_a_lost_append_that_is_retried_late_is_stored_once(tmp_path: Path) -> None:
    """The reply is lost with the server; it comes back after the dedupe window."""

    async def body() -> None:
        with nats_server(tmp_path) as server:
            async with Proxy(server.port) as proxy:
                journal = await connect_to(f"nats://127.0.0.1:{proxy.port}", timeout_s=0.5)
                stream = new_stream()
                await journal.ensure(stream, FEED)
                fence = await journal.lease(stream, lease("w", OTHER_EPOCH))
                await journal.append(stream, [opener()], fence)

                def kill(data: bytes) -> bool:
                    if acknowledges(data):
                        server.stop()
                        return True
                    return False

                proxy.lose = kill
                with pytest.raises(JournalUnavailable):
                    await journal.append(stream, entries(1, 20), fence)
                await asyncio.sleep(2 * WINDOW_S)
                server.start()
                assert await journal.append(stream, entries(1, 25), fence) == list(range(3, 28))
                assert await sequences(journal, stream) == list(range(1, 28))
                await journal.close()

    run(body())


def test_a_read_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    async def body() -> None:
        with nats_server(tmp_path) as server:
            async with handles(server.url) as connect:
                writer, reader = await connect(), await connect()
                stream = new_stream()
                await writer.ensure(stream, FEED)
                await writer.append(stream, entries(1, 100))
                following = asyncio.create_task(take(reader, stream, 400))
                filtered = asyncio.create_task(take(reader, stream, 80, subjects=[f"{stream.env}.{FEED}.trade.>"]))
                await asyncio.sleep(0.1)
                for n in range(101, 401, 100):
                    server.stop()
                    with pytest.raises(JournalUnavailable):
                        await writer.append(stream, entries(n, n + 99))
                    server.start()
                    await writer.append(stream, entries(n, n + 99))
                assert [r.sequence for r in await following] == list(range(1, 401))
                assert [r.sequence for r in await filtered] == [n for n in range(1, 401) if n % 5 == 4]

    run(body())


APPENDER = """
import asyncio, sys
from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.subjects import Stream
from tests.journal.contract import entries

async def main():
    journal = await JetStreamJournal.connect(sys.argv[1], WallClock(), token=sys.argv[2])
    for n in range(0, 2000, 50):
        await journal.append(Stream.parse(sys.argv[3]), entries(n, n + 49))
    await journal.close()

asyncio.run(main())
"""


def test_following_while_another_process_appends(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            following = asyncio.create_task(take(journal, stream, 2000))
            root = str(Path(__file__).parents[2])
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", APPENDER, shared_server.url, TOKEN, stream.name, env={**os.environ, "PYTHONPATH": root}
            )
            assert await process.wait() == 0
            assert [r.entry.frame for r in await following] == list(range(2000))

    run(body())


def test_a_reader_that_does_not_read_holds_a_bounded_part(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            for n in range(0, 12_000, 1_000):
                await journal.append(stream, entries(n, n + 999))
            pull = _Pull(journal._link, stream.name)
            await pull.open(1, ())
            first = await pull.take()
            await asyncio.sleep(0.5)
            assert 0 < len(pull._buffer) <= 2 * PULL_MESSAGES
            assert [m.sequence for m in first + await pull.take()][:1500] == list(range(1, 1501))
            pull.close()
            # And paused for long between chunks, the read misses nothing.
            found = 0
            async for chunk in journal.read(stream):
                if found == 0:
                    await asyncio.sleep(0.3)
                found += len(chunk)
            assert found == 12_000

    run(body())


def test_an_undisturbed_read_stays_with_one_consumer(shared_server: NatsServer) -> None:
    """By number of messages and by their bytes: a pull that is used up is no reason to start again."""

    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            for n in range(0, 4_000, 1_000):
                await journal.append(stream, entries(n, n + 999))
            big = [Entry(Control("x"), FEED, "s", EPOCH, n, 1, 0, 0, 20261122, raw=bytes(400_000)) for n in range(5_000, 5_040)]
            await journal.append(stream, big)
            subscribe, count = journal._link.subscribe, 0

            async def counted(*args: Any) -> Any:
                nonlocal count
                count += 1
                return await subscribe(*args)

            journal._link.subscribe = counted
            assert await sequences(journal, stream) == list(range(1, 4_041))
            assert count == 1

    run(body())


def test_a_message_lost_on_the_way_is_read_again(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            await journal.append(stream, entries(1, 900))
            subscribe, dropped = journal._link.subscribe, list[bytes]()

            async def lossy(sink: Sink, lost: Callable[[], None]) -> Any:
                def some(subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
                    if b".500." in reply and not dropped:
                        dropped.append(reply)
                    else:
                        sink(subject, reply, payload, headers)

                return await subscribe(some, lost)

            journal._link.subscribe = lossy
            assert await sequences(journal, stream) == list(range(1, 901))
            assert dropped

    run(body())


def test_an_append_of_more_epochs_than_an_index_keeps_is_stored_once(shared_server: NatsServer) -> None:
    """Most are known when one more makes the index forget; a connector's reconnects and a projector's days both come to that."""

    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            first = [opener(n.to_bytes(16, "big")) for n in range(TRAILS)]
            for at in range(0, TRAILS, MAX_BATCH):
                await journal.append(stream, first[at : at + MAX_BATCH])
            again = [first[-1], entry(1, epoch=first[-1].epoch), opener(OTHER_EPOCH), opener(EPOCH)]
            assert await journal.append(stream, again) == [TRAILS, TRAILS + 1, TRAILS + 2, TRAILS + 3]
            assert await journal.append(stream, again) == [TRAILS, TRAILS + 1, TRAILS + 2, TRAILS + 3]
            assert await sequences(journal, stream) == list(range(1, TRAILS + 4))

    run(body())


def test_what_was_purged_is_a_hole(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            await journal.append(stream, entries(1, 30))
            await journal._link.api(f"STREAM.PURGE.{stream.name}", {"seq": 11})
            info = await journal.info(stream)
            assert info is not None
            assert (info.first, info.last) == (11, 30)
            with pytest.raises(HoleInStream, match="begins at 11"):
                await sequences(journal, stream)
            assert await sequences(journal, stream, start=11) == list(range(11, 31))
            assert await sequences(journal, stream, subjects=[">"]) == list(range(11, 31))
            assert await journal.seek(stream, 20_000) == 21
            assert await journal.seek(stream, 5) == 11
            await journal._link.api(f"STREAM.MSG.DELETE.{stream.name}", {"seq": 20})
            with pytest.raises(HoleInStream, match=":20 is missing"):
                await sequences(journal, stream, start=11)
            assert await journal.seek(stream, 20_000) == 20  # the place of what was deleted is as good as 21
            # What is left is still known to the journal, what was purged is not.
            assert await (await connect()).append(stream, entries(25, 31)) == [25, 26, 27, 28, 29, 30, 31]
            await journal._link.api(f"STREAM.PURGE.{stream.name}")
            info = await journal.info(stream)
            assert info is not None
            assert (info.first, info.last) == (32, 31)
            with pytest.raises(HoleInStream):
                await sequences(journal, stream)

    run(body())


def test_a_followed_stream_that_goes_back_is_corrupt(tmp_path: Path) -> None:
    async def body() -> None:
        with nats_server(tmp_path) as server:
            async with handles(server.url) as connect:
                writer, reader = await connect(), await connect()
                stream = new_stream()
                await writer.ensure(stream, FEED)
                await writer.append(stream, entries(1, 30))
                following = asyncio.create_task(take(reader, stream, 60))
                await asyncio.sleep(0.1)
                await writer._link.api(f"STREAM.DELETE.{stream.name}")
                await writer.ensure(stream, FEED)
                await writer.append(stream, entries(100, 110))
                with pytest.raises(HoleInStream, match=r"ends at \d+ but 30 was read"):
                    await following

    run(body())


def test_a_full_stream_refuses_and_takes_more_once_there_is_room(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with handles(shared_server.url, max_stream_bytes=40_000) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            await journal.append(stream, entries(1, 90))
            with pytest.raises(JournalFull, match="purge"):
                await journal.append(stream, entries(91, 180))
            for n in range(181, 300):
                try:
                    await journal.append(stream, [entry(n)])
                except JournalFull:
                    break
            else:
                pytest.fail("a full stream took 119 entries one by one")
            last = (await sequences(journal, stream))[-1]
            await journal._link.api(f"STREAM.PURGE.{stream.name}", {"seq": last})
            assert await journal.append(stream, entries(391, 400)) == list(range(last + 1, last + 11))

    run(body())


def test_a_server_with_less_room_than_a_stream_wants(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = f'jetstream {{ store_dir: "{tmp_path / "store"}", sync_interval: always, max_file_store: {7 << 29} }}'

    async def body(url: str) -> None:
        async with handles(url) as connect:
            journal = await connect()
            first, second, third = (Stream("small", shard=s) for s in ("0", "east", "west"))
            for _ in range(2):
                await journal.ensure(first, FEED)
                await journal.ensure(second, FEED)
            with pytest.raises(JournalFull, match="max_file_store"):
                await journal.ensure(third, FEED)
            await journal.ensure(Stream("small", domain="system"))
            assert await journal.append(second, entries(1, 10)) == list(range(1, 11))
            streams = [s.name for s in (first, second)] + ["small_system"]
            sizes = [(await journal._link.api(f"STREAM.INFO.{name}"))["config"]["max_bytes"] for name in streams]
            assert sizes == [2 << 30, 1 << 30, -1]

    with nats_server(tmp_path, jetstream=False, extra=store) as server:
        run(body(server.url))
    assert [r.message for r in caplog.records if "small_md_0, which has 2 GiB" in r.message]


def test_a_stream_without_atomic_batches_takes_single_appends_and_is_named_once(
    shared_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            config = {"name": stream.name, "subjects": stream.subjects(FEED), "duplicate_window": 100_000_000}
            await journal._link.api(f"STREAM.CREATE.{stream.name}", config)
            await journal.ensure(stream, FEED)
            fence = await journal.lease(stream, lease("w", OTHER_EPOCH))
            assert await journal.append(stream, entries(1, 20), fence) == list(range(2, 22))
            await asyncio.sleep(2 * WINDOW_S)
            assert await journal.append(stream, entries(15, 25), fence) == list(range(16, 27))
            other = await connect()
            await other.lease(stream, lease("w", b"n" * 16, who="next"))
            with pytest.raises(Fenced, match="next"):
                await journal.append(stream, entries(26, 30), fence)
            assert await other.append(stream, entries(20, 30)) == [*range(21, 27), *range(28, 33)]

    run(body())
    said = [r.message for r in caplog.records if "atomic batches" in r.message]
    assert len(said) == 2  # one for each handle


def test_bad_servers_are_refused_with_what_to_do(shared_server: NatsServer, tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(JournalUnavailable, match=r"cannot reach NATS at nats://127.0.0.1:9 .*is it running"):
            await connect_to("nats://127.0.0.1:9")
        with pytest.raises(JournalRefused, match="refused our credentials; check the token") as caught:
            await JetStreamJournal.connect(f"nats://wrong@127.0.0.1:{shared_server.port}", WallClock())
        assert "wrong" not in str(caught.value)
        with nats_server(tmp_path, jetstream=False) as plain, pytest.raises(JournalRefused, match="start it with -js"):
            await connect_to(plain.url)

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.10.29","max_payload":1048576,"headers":true}\r\n')
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
            writer.close()

        async with await asyncio.start_server(old, "127.0.0.1", 0) as server:
            with pytest.raises(JournalRefused, match=r"is 2\.10\.29; ssmd needs 2\.14 or newer"):
                await connect_to(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    run(body())


def test_a_server_that_is_away_is_worth_a_retry(tmp_path: Path) -> None:
    async def body() -> None:
        with nats_server(tmp_path) as server:
            async with handles(server.url) as connect:
                journal = await connect()
                stream = new_stream()
                await journal.ensure(stream, FEED)
                server.stop()
                for attempt in (journal.append(stream, entries(1, 3)), journal.info(stream), journal.streams("x"), journal.seek(stream, 1)):
                    with pytest.raises(JournalUnavailable):
                        await attempt
                server.start()
                assert await journal.append(stream, entries(1, 3)) == [1, 2, 3]

    run(body())


def test_subjects_that_another_stream_has_are_refused(shared_server: NatsServer) -> None:
    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            config = {"name": "somebody_elses", "subjects": [f"{stream.env}.>"]}
            await journal._link.api("STREAM.CREATE.somebody_elses", config)
            with pytest.raises(JournalRefused, match="overlap"):
                await journal.ensure(stream, FEED)

    run(body())


def test_other_clients_see_ordinary_messages(shared_server: NatsServer) -> None:
    """What we render by hand is what nats-py parses: subject, id and payload of each message."""

    async def body() -> None:
        async with handles(shared_server.url) as connect:
            journal = await connect()
            stream = new_stream()
            await journal.ensure(stream, FEED)
            await journal.append(stream, [entry(1)])
            await journal.append(stream, entries(2, 4))
            client = await nats.connect(shared_server.url, token=TOKEN)
            for n in range(1, 5):
                message = await client.jetstream().get_msg(stream.name, n)
                assert message.headers is not None
                assert message.headers["Nats-Msg-Id"] == entry(n).id
                assert message.subject == stream.subject(FEED, "trade" if n == 4 else "delta", "KXGOLD-26.5")
                assert message.data == encode(entry(n))
            await client.close()

    run(body())
