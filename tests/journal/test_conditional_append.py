"""What a server or a network can do to a conditional append."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from journal.clock import WallClock
from journal.errors import JournalRefused, JournalUnavailable, Superseded
from journal.jetstream import JetStreamJournal
from tests.journal.contract import FEED, entries, new_stream, on, read_all, sequences
from tests.journal.servers import TOKEN, NatsServer, Proxy, nats_server

WINDOW_S = 0.1


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


async def connect_to(port: int, **more: Any) -> JetStreamJournal:
    url = f"nats://127.0.0.1:{port}"
    return await JetStreamJournal.connect(url, WallClock(), token=TOKEN, **{"duplicate_window_s": WINDOW_S, **more})


def run(body: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await body

    asyncio.run(main())


def acknowledges(data: bytes) -> bool:
    return b'"seq":' in data and b'"error"' not in data


@pytest.mark.parametrize("loss", ["lose", "swallow"])
@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("followed", [False, True])
def test_one_whose_reply_is_lost_is_stored_once(shared_server: NatsServer, loss: str, count: int, *, followed: bool) -> None:
    """The first call finds its entries, or says that it does not know; the same call again finds them though others went on."""

    async def body() -> None:
        async with Proxy(shared_server.port) as proxy:
            journal, other = await connect_to(proxy.port, timeout_s=0.3), await connect_to(shared_server.port)
            stream = new_stream()
            await journal.ensure(stream, FEED)
            batch, newest = [on(f"S{n}", 1) for n in range(count)], [0] * count
            await journal.append(stream, entries(1, 3))
            setattr(proxy, loss, acknowledges)
            expected = list(range(4, count + 4))
            assert await journal.append_if(stream, batch, newest) == expected
            assert proxy.cuts == 1
            if followed:
                await other.append_if(stream, [on("S0", 2)], [4])
            assert await journal.append_if(stream, batch, newest) == expected
            await journal.append(stream, entries(4, 6))
            assert len(await sequences(other, stream)) == 6 + count + followed
            await journal.close()
            await other.close()

    run(body())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_one_cut_on_its_way_is_not_stored(shared_server: NatsServer, share: float) -> None:
    async def body() -> None:
        async with Proxy(shared_server.port) as proxy:
            journal = await connect_to(proxy.port)
            stream = new_stream()
            await journal.ensure(stream, FEED)
            batch = [on(f"S{n}", 1) for n in range(30)]
            await journal.append_if(stream, batch[:1], [0])
            proxy.cut_up = lambda data: data[: int(len(data) * share)] if b"Nats-Batch" in data else None
            with pytest.raises(JournalUnavailable):
                await journal.append_if(stream, batch[1:], [0] * 29)
            assert proxy.cuts == 1
            assert await sequences(journal, stream) == [1]
            assert await journal.append_if(stream, batch[1:], [0] * 29) == list(range(2, 31))
            await journal.close()

    run(body())


def test_one_whose_server_is_killed_is_settled_when_it_is_back(tmp_path: Path) -> None:
    """The reply is lost with the server, which comes back after the dedupe window; a rival finds the place taken."""

    async def body() -> None:
        with nats_server(tmp_path) as server:
            async with Proxy(server.port) as proxy:
                journal = await connect_to(proxy.port, timeout_s=0.5)
                stream = new_stream()
                await journal.ensure(stream, FEED)

                def kill(data: bytes) -> bool:
                    if acknowledges(data):
                        server.stop()
                        return True
                    return False

                batch = [on("A", 1), on("B", 1)]
                await journal.append_if(stream, [on("C", 1)], [0])
                proxy.lose = kill
                with pytest.raises(JournalUnavailable):
                    await journal.append_if(stream, batch, [0, 0])
                await asyncio.sleep(2 * WINDOW_S)
                server.start()
                with pytest.raises(Superseded):
                    await journal.append_if(stream, [on("A", 1, size=2), on("D", 1)], [0, 0])
                assert await journal.append_if(stream, batch, [0, 0]) == [2, 3]
                assert [r.entry for r in await read_all(journal, stream)] == [on("C", 1), *batch]
                await journal.close()

    run(body())


def test_one_that_is_seen_in_part_is_waited_for(shared_server: NatsServer) -> None:
    """A batch that is being stored shows its first entries first; single appends stand in for that here."""

    async def body() -> None:
        writer, journal = await connect_to(shared_server.port), await connect_to(shared_server.port)
        stream, batch = new_stream(), [on("A", 1), on("B", 1), on("C", 1)]
        await writer.ensure(stream, FEED)
        await writer.append_if(stream, batch[:1], [0])
        waiting = asyncio.create_task(journal.append_if(stream, batch, [0, 0, 0]))
        await asyncio.sleep(0.02)
        await writer.append_if(stream, batch[1:2], [0])
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await writer.append_if(stream, batch[2:], [0])
        assert await waiting == [1, 2, 3]
        other = [on("D", 1), on("E", 1)]
        await writer.append_if(stream, other[:1], [0])
        with pytest.raises(Superseded):  # it never became whole: that was somebody else's entry alone
            await journal.append_if(stream, other, [0, 0])
        assert await sequences(journal, stream) == [1, 2, 3, 4]
        await journal.close()
        await writer.close()

    run(body())


def test_a_stream_without_atomic_batches_takes_single_entries_only(shared_server: NatsServer) -> None:
    async def body() -> None:
        plain = await nats.connect(shared_server.url, token=TOKEN)
        stream = new_stream()
        await plain.jetstream().add_stream(name=stream.name, subjects=stream.subjects(FEED))
        journal = await connect_to(shared_server.port)
        assert await journal.append_if(stream, [on("A", 1)], [0]) == [1]
        with pytest.raises(JournalRefused, match="allow_atomic"):
            await journal.append_if(stream, [on("A", 2), on("B", 1)], [1, 0])
        assert await sequences(journal, stream) == [1]
        await journal.close()
        await plain.close()

    run(body())


def test_it_does_not_read_the_stream(shared_server: NatsServer) -> None:
    """Requests to the server of one that is stored, of one that is refused, and of one done again, in a stream of thousands."""

    async def body() -> None:
        async with Proxy(shared_server.port) as proxy:
            writer, journal = await connect_to(shared_server.port), await connect_to(proxy.port)
            stream = new_stream()
            await writer.ensure(stream, FEED)
            for n in range(5):
                await writer.append(stream, entries(1_000 * n, 1_000 * n + 999))
            received = 0

            def count(data: bytes) -> bool:
                nonlocal received
                received += len(data)
                return False

            proxy.lose = count
            await journal.append_if(stream, [on("A", 1), on("B", 1)], [0, 0])
            with pytest.raises(Superseded):
                await journal.append_if(stream, [on("A", 2), on("B", 2)], [5_001, 5_001])
            assert await journal.append_if(stream, [on("A", 1), on("B", 1)], [0, 0]) == [5_001, 5_002]
            assert received < 20_000  # the stream is a megabyte
            await journal.close()
            await writer.close()

    run(body())
