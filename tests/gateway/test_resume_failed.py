"""A resume that cannot be: holes, outages and defects reach each client that waits, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from journal.errors import BadObject, HoleInStream, JournalUnavailable, SsmdError
from ssmd.gateway.marks import mark_of
from ssmd.gateway.request import Subscribe
from ssmd.services.projector import Projector
from tests.gateway.bringing import DATA, SHARDS, SOME, Gateway, Line, Quick, Rides, gateway_of
from tests.gateway.follower import sequence
from tests.gateway.rig import until

ERRORS = [JournalUnavailable("it is away"), HoleInStream("a hole"), BadObject("not what it was"), MemoryError(), KeyError("a defect")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [0, 1_500])
def test_a_run_that_fails_is_told_to_all_who_wait_and_snapshots_follow(error: Exception, at: int, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with gateway_of(6, 2_000) as gateway:
            gateway.journal.error, gateway.journal.at = error, at
            riders = [gateway.client() for _ in range(8)]
            for number, (client, _) in enumerate(riders):
                gateway.resume(client, f"local_md_0:{200 * number}")
            await gateway.quiet()
            assert gateway.journal.reads < 30, "it does not go on and on"
            for _, line in riders:
                [failed] = line.of("error")
                assert failed["code"] == "resume_failed"
                assert {m["symbol"] for m in line.of("book") if m["kind"] == "snapshot"} == set(gateway.markets[0].symbols)
            gateway.journal.error = None
            before = [len(line.of("trade")) for _, line in riders]
            await gateway.write(200)
            await until(lambda: all(len(line.of("trade")) > n for n, (_, line) in zip(before, riders, strict=True)), "they are live")

    caplog.set_level("ERROR")
    asyncio.run(run())
    assert [r.levelname for r in caplog.records] == ([] if isinstance(error, SsmdError) else ["ERROR"] * len(caplog.records))
    assert bool(caplog.records) == (not isinstance(error, SsmdError))


def test_who_is_before_a_hole_is_told_and_others_go_on_from_a_checkpoint_behind_it() -> None:
    async def run() -> None:
        async with gateway_of(7, 1_000) as gateway:
            [view] = gateway.views.shards
            await Projector(gateway.journal, gateway.storage, view.stream, Quick()).catch_up()
            for _ in range(3):
                await gateway.write(500)
            await until(lambda: view.position == len(gateway.journal.records(view.stream)), "memory has moved on")
            (before, before_line), (behind, behind_line) = gateway.client(), gateway.client()
            gateway.resume(before, "local_md_0:10")
            gateway.resume(behind, f"local_md_0:{view.position - 1_000}")
            await gateway.journal.purge(view.stream, 900)
            gateway.journal.entries = 0
            await gateway.quiet()
            [failed] = before_line.of("error")
            assert failed["code"] == "resume_failed"
            assert "is not there any more" in failed["message"]
            assert before_line.of("book")
            assert not behind_line.of("error")
            Rides(behind, behind_line, view.position - 1_000, ("*",), SOME).check(gateway.expected(0, 0))
            assert gateway.journal.entries < 2_000, "what is behind a hole is not looked at for one that is before it"

    asyncio.run(run())


@pytest.mark.parametrize("at", [0, 700])
def test_a_stream_that_is_shorter_than_it_was_ends_a_resume(at: int) -> None:
    async def run() -> None:
        async with gateway_of(8, 1_500) as gateway:
            [view] = gateway.views.shards
            client, line = gateway.client()
            gateway.resume(client, f"local_md_0:{at}")
            await gateway.journal.delete(view.stream)
            await gateway.journal.ensure(view.stream)
            await gateway.write(500)
            await gateway.quiet()
            [failed] = line.of("error")
            assert failed["code"] == "resume_failed"
            assert "made anew or restored" in failed["message"]
            assert gateway.journal.reads < 10

    asyncio.run(run())


def of_shard(rider: Rides, gateway: Gateway, shard: int, after: int) -> Rides:
    """As if the client had asked for that shard only."""
    found = Line()
    found.told = [m for m in rider.line.told if m["type"] in DATA and m["position"].startswith(f"local_md_{SHARDS[shard]}:")]
    return Rides(rider.client, found, after, ("*",), SOME)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("hole", [None, 0, 1])
def test_two_shards_are_resumed_each_from_its_place(order: tuple[int, int], hole: int | None) -> None:
    async def run() -> None:
        async with gateway_of(9, 1_500, SHARDS) as gateway:
            after = {0: 100, 1: 1_400}
            for shard, view in enumerate(gateway.views.shards):
                await gateway.write(500, shard)
                await until(lambda view=view: view.position == 2_000, "memory has moved on")
            rider = Rides(*gateway.client(), 0, ("*",), SOME)
            gateway.resume(rider.client, *(f"local_md_{SHARDS[shard]}:{after[shard]}" for shard in order))
            if hole is not None:
                await gateway.journal.purge(gateway.views.shards[hole].stream, 1_450)
            await gateway.quiet()
            for shard in (0, 1):
                await gateway.write(100, shard)
            await until(lambda: all(v.position == 2_100 for v in gateway.views.shards), "all is folded")
            await gateway.quiet()
            assert len(rider.line.of("error")) == (hole is not None)
            for shard in {0, 1} - {hole}:
                found = of_shard(rider, gateway, shard, after[shard])
                if hole is not None:  # snapshots of this one come too: what is told of it is as of them already
                    found.line.told = [m for m in found.line.told if m.get("kind") != "snapshot"]
                every = [m for m in gateway.expected(shard, 0) if hole is None or m.get("kind") != "snapshot"]
                found.check(every)
            if hole is not None:
                [failed] = rider.line.of("error")
                assert f"local_md_{SHARDS[hole]}" in failed["message"]
                told = of_shard(rider, gateway, hole, 0).line.told
                assert {m["symbol"] for m in told if m.get("kind") == "snapshot"} == set(gateway.markets[hole].symbols)
                assert sequence(told[-1]["position"]) > 2_000, "it goes on live"

    asyncio.run(run())


def test_a_defect_while_memory_is_told_ends_the_connection_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    def kinds(symbol: str) -> tuple[str, str]:
        raise RuntimeError(f"a defect at {symbol}")

    async def run() -> None:
        async with gateway_of(10, 500) as gateway:
            gateway.sessions._replays._kinds = kinds
            [view] = gateway.views.shards
            await gateway.write(100)
            await until(lambda: view.position == 600, "they are in memory")
            client, line = gateway.client()
            gateway.sessions.serve(client, Subscribe(channels=("trade",), series=("KXA",), resume="local_md_0:500"))
            await until(lambda: client.closed, "it is closed", 20)
            assert line.closed == (1011, "the gateway failed; connect again")
            [failed] = line.of("error")
            assert failed["code"] == "unavailable"
            assert "RuntimeError" in failed["message"]
            await gateway.quiet()

    caplog.set_level("ERROR")
    asyncio.run(run())
    [record] = caplog.records
    assert "resume c1" in record.getMessage()
    assert record.exc_info


def test_a_mark_that_goes_on_and_on_is_not_looked_up() -> None:
    async def run() -> None:
        async with gateway_of(11, 500) as gateway:
            client, line = gateway.client()
            mark = mark_of(gateway.views.shards)
            for given in (mark, f"{mark},{mark}"):
                gateway.sessions.serve(client, Subscribe(symbols=("*",), resume="local_md_0:500", mark=given))
            await until(lambda: len(line.of("subscribed")) == 2, "it is answered", 20)
            whole, long = sorted(line.of("subscribed"), key=lambda m: not m["resumed"])
            assert (whole["resumed"], long["resumed"]) == (True, False)
            assert long["reason"] == "the mark is of 2 streams; this gateway has 1"
            assert gateway.journal.reads == 1

    asyncio.run(run())
