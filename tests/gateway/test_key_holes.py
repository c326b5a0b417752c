"""A stream of keys that is not what was read any more: nobody is let in with what a revocation that is lost may have ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from journal.clock import WallClock
from journal.day import DayRule
from journal.jetstream import JetStreamJournal
from ssmd.gateway.access import Gatekeeper
from ssmd.gateway.keydesk import KeyDesk, Shown
from ssmd.gateway.keys import read_keys, stream_of
from ssmd.gateway.problem import Problem
from tests.gateway.rig import journal_of, until
from tests.journal.servers import NatsServer, nats_server

KEYS = stream_of("local")


def desk_of(journal: JetStreamJournal) -> KeyDesk:
    return KeyDesk(journal, WallClock(), "local", random.Random(), DayRule())


def opens(keeper: Gatekeeper, shown: Shown) -> bool:
    try:
        keeper.admit({"authorization": f"Bearer {shown.text.reveal()}"}, "read")
    except Problem:
        return False
    return True


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[tuple[NatsServer, JetStreamJournal, KeyDesk, list[Shown], Gatekeeper]]:
    """A gatekeeper that follows a stream of three keys."""
    with nats_server(folder) as server:
        async with journal_of(server) as journal, journal_of(server) as followed:
            await journal.ensure(KEYS)
            desk = desk_of(journal)
            shown = [await desk.issue(f"key-{n}", who="t") for n in range(3)]
            keeper = Gatekeeper("local", "kalshi", "0.0.0.0", WallClock())  # noqa: S104
            async with keeper.following(followed):
                assert all(opens(keeper, one) for one in shown)
                yield server, journal, desk, shown, keeper


async def anew(server: NatsServer, journal: JetStreamJournal, keys: int) -> tuple[list[Shown], str]:
    """The stream deleted and made again with other keys; the first of them is revoked at once, and its id."""
    await journal.delete(KEYS)
    async with journal_of(server) as again:
        await again.ensure(KEYS)
        desk = desk_of(again)
        shown = [await desk.issue(f"new-{n}", who="t") for n in range(keys)]
        await desk.revoke("new-0", who="t")
    return shown, shown[0].key.id


def test_a_stream_that_is_made_anew_ends_the_keys_of_the_old_one(tmp_path: Path) -> None:
    async def run(keys: int) -> None:
        async with kept(tmp_path / str(keys)) as (server, journal, _, old, keeper):
            closed: list[str] = []
            grant = keeper.admit({"authorization": f"Bearer {old[0].text.reveal()}"}, "read")
            with keeper.holding(grant, closed.append, 1):
                new, revoked = await anew(server, journal, keys)
                await until(lambda: opens(keeper, new[1]), "the new keys are known")
                assert closed
            assert not any(opens(keeper, one) for one in old)
            assert [opens(keeper, one) for one in new] == [one.key.id != revoked for one in new]
            async with journal_of(server) as again:
                await desk_of(again).revoke("new-1", who="t")
            await until(lambda: not opens(keeper, new[1]), "what is revoked then is heard of")

    for keys in (2, 5):  # with the revocation fewer entries than the old one had by then, and more
        (tmp_path / str(keys)).mkdir()
        asyncio.run(run(keys))


def test_a_revocation_that_is_lost_opens_nothing(tmp_path: Path) -> None:
    """Its entry is gone before it is read. Keys made before it are not known any more, also by who starts then."""

    async def run() -> None:
        async with kept(tmp_path) as (server, journal, desk, shown, keeper):
            await desk.revoke("key-1", who="t")
            await until(lambda: not opens(keeper, shown[1]), "it is heard of")
            await journal._link.api(f"STREAM.MSG.DELETE.{KEYS.name}", {"seq": 4})
            late = await desk.issue("late", who="t")
            async with journal_of(server) as other:
                started = Gatekeeper("local", "kalshi", "0.0.0.0", WallClock())  # noqa: S104
                async with started.following(other):
                    assert [opens(started, one) for one in (*shown, late)] == [False, False, False, True]
            assert [key.name for key in (await read_keys(journal, "local")).values()] == ["late"]
            assert not opens(keeper, shown[1])

    asyncio.run(run())


def test_purged_beneath_who_does_not_look(tmp_path: Path) -> None:
    async def run() -> None:
        async with kept(tmp_path) as (server, _, _, shown, keeper):
            server.stop()
            assert opens(keeper, shown[0])  # it cannot hear of anything: it goes on with what it knows
            server.start()
            async with journal_of(server) as again:
                desk = desk_of(again)
                await desk.revoke("key-0", who="t")
                late = await desk.issue("late", who="t")
                await again.purge(KEYS, 5)
                await until(lambda: opens(keeper, late), "what is there then is known")
                await desk.revoke("late", who="t")
                await until(lambda: not opens(keeper, late), "it follows on")
                assert not opens(keeper, shown[0])

    asyncio.run(run())
