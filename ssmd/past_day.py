"""A past day as the gateway serves a present one: a journal of its own in a temporary directory, where the day happens again.

Part of the composition root. Everything behind that journal (views, answers, clients, the page) is what serves live, and cannot see what
has not been released yet. What is live is only read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from journal.clock import Clock
from journal.day import iso, to_date
from journal.embedded import embedded_server, server_status
from journal.errors import CallerError
from journal.subjects import Stream
from replay.clock import FollowingClock
from replay.pace import Pace, Step, Times
from ssmd.gateway.answers import Replay
from ssmd.gateway.client import Client
from ssmd.gateway.server import Gateway
from ssmd.keys.secret import Secret
from ssmd.metadata import environment as spec
from ssmd.moments import rfc3339
from ssmd.release import Lane, Release
from ssmd.rerun import Rerun
from ssmd.secmaster.reading import History
from ssmd.settings import Settings
from ssmd.wiring import choose_streams, day_rule, open_journal, open_objects, open_readers, source_of

HOST = "127.0.0.1"
_BESIDE = ("secmaster", "day")  # streams that are released with the market
_GONE_S, _POLL_S, _TAKEN_S = 15.0, 0.1, 0.002
_WAITING, _WAITING_BYTES = 500, 256 << 10  # for a client


@dataclass(frozen=True)
class Chosen:
    """`clients`: how many must have subscribed before it begins."""

    day: int
    pace: Pace
    shard: str | None = None
    origin: str = "auto"
    until_ns: int | None = None
    clients: int = 1
    symbols: tuple[str, ...] = ()  # none: all


class PastDay:
    """`run` until stopped."""

    def __init__(self, settings: Settings, clock: Clock, chosen: Chosen, port: int | None) -> None:
        if settings.environment.gateway.require_key:
            raise CallerError(
                f"gateway.require_key of {settings.env}: a past day is served without keys, to whoever is on this machine ({HOST}); "
                "unset it in the environment's file to serve it all the same"
            )
        self._settings, self._clock, self._chosen, self._port = settings, clock, chosen, port
        self._phase = "opening the day"
        self._whole = True  # whether the day has ended
        self._stopping = asyncio.Event()
        self.gateway: Gateway | None = None

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    @property
    def status(self) -> str:
        """For the operator."""
        return f"{self.gateway.status}; {self._phase}" if self.gateway else self._phase

    async def run(self) -> None:
        """Raises `NotFound` for a day that is not there, and what the gateway raises."""
        working = asyncio.create_task(self._run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.gateway and not working.done():
                self.gateway.stop()
                await asyncio.wait({working})
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.wait({working, stopping})
        if not working.cancelled():
            working.result()

    async def _run(self) -> None:
        settings, chosen, now = self._settings, self._chosen, FollowingClock()
        rule = day_rule(settings)
        opens_ns, ends_ns = (rule.opens_ns(to_date(chosen.day) + timedelta(days=n)) for n in (0, 1))
        self._whole = ends_ns <= self._clock.wall_ns()
        async with AsyncExitStack() as stack:
            journal, archive = await stack.enter_async_context(open_readers(settings, self._clock, chosen.origin))
            reader = journal or archive
            assert reader is not None  # noqa: S101  `open_readers` says that there is one

            def history(stream: Stream) -> History:
                return History(stream, reader, archive if journal else None)

            source = source_of(journal, archive, chosen=True)
            streams = await choose_streams(source, settings, chosen.shard, chosen.day)
            apart = await stack.enter_async_context(apart_from(settings, self._clock, streams))
            target = await stack.enter_async_context(open_journal(apart, self._clock))
            objects = open_objects(settings), open_objects(apart)
            release = Release(
                [Rerun(source, history(s), target, objects=objects, day=chosen.day, symbols=chosen.symbols) for s in streams],
                [Lane(history(Stream(settings.env, domain=name)), target) for name in _BESIDE],
                now,
                opens_ns=opens_ns - 1,
                ends_ns=min(ends_ns - 1, ends_ns if chosen.until_ns is None else chosen.until_ns),
                symbols=chosen.symbols,
            )
            stack.push_async_callback(release.close)
            await release.open(settings.feed)
            self.gateway = gateway = Gateway(apart, now, host=HOST, port=self._port, named_by="--serve-gateway PORT")
            self._say("waiting")
            await _both(gateway.run(), self._release(release, gateway))

    def _say(self, state: Literal["waiting", "running", "over"]) -> None:
        """In the gateway's health."""
        chosen = self._chosen
        if self.gateway:
            self.gateway.replay = Replay(date=iso(chosen.day), speed=str(chosen.pace), symbols=list(chosen.symbols), state=state)

    async def _release(self, release: Release, gateway: Gateway) -> None:
        chosen, day = self._chosen, iso(self._chosen.day)
        await gateway.listening.wait()
        while not gateway.views.ready:
            await self._clock.sleep(_POLL_S)
        wanted = "a client has" if chosen.clients == 1 else f"{chosen.clients} clients have"
        self._phase = f"{day} opens at {release.positions} and begins when {wanted} subscribed"
        while sum(bool(c.subscriptions) for c in gateway.hub.clients.values()) < chosen.clients:
            await self._clock.sleep(_POLL_S)
        self._say("running")
        self._phase = f"{day} happens again, from {release.positions} on"
        stepping = isinstance(chosen.pace, Step)

        released = [0] * len(release.reruns)

        async def taken() -> None:
            """What was released before the newest run: the journal writes that one meanwhile."""
            for at, (rerun, view) in enumerate(zip(release.reruns, gateway.views.shards, strict=True)):
                while view.position < (rerun.last if stepping else released[at]):
                    await self._clock.sleep(_TAKEN_S)
                released[at] = rerun.last
            await self._clock.sleep(0)  # to the clients' buffers
            while any(_busy(client) for client in gateway.hub.clients.values()):
                await self._clock.sleep(_TAKEN_S)
            if stepping:
                self._phase = f"{day} is at {release.positions}, {rfc3339(gateway.clock.wall_ns())}"

        async def untaken() -> None:
            """Who cannot keep the pace is treated as ever."""

        await release.run(chosen.pace, untaken if isinstance(chosen.pace, Times) else taken)
        await taken()
        self._say("over")
        ended = "is over" if self._whole else "is over as far as it was journalled by then,"
        self._phase = f"{day} {ended} at {release.positions}, and is served until Ctrl-C"


def _busy(client: Client) -> bool:
    """Whether it has to take something first. Far from where its buffer would say that it lags."""
    messages, size, _ = client.buffer.pending
    return client.paused or messages > _WAITING or size > _WAITING_BYTES


async def _both(serving: Coroutine[Any, Any, None], releasing: Coroutine[Any, Any, None]) -> None:
    """Until `serving` ends, or `releasing` fails."""
    tasks = [asyncio.create_task(work) for work in (serving, releasing)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] in done:
            tasks[1].result()
        await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def apart_from(settings: Settings, clock: Clock, streams: Sequence[Stream]) -> AsyncIterator[Settings]:
    """Settings of the same environment with a journal, objects and a data directory that are gone with the block, and these shards."""
    with TemporaryDirectory(prefix="ssmd-replay-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        objects = data / "objects"
        objects.mkdir(parents=True)
        try:
            async with embedded_server(data, clock) as server:
                narrowed = settings.environment.model_copy(
                    update={
                        "journal": spec.Journal(), "storage": spec.Storage(), "cache": spec.Cache(), "keys": {},
                        "shards": {stream.shard: spec.Shard() for stream in streams},
                    }
                )  # fmt: skip
                # By address, since the annex reads the environment's file, which may name another journal and storage.
                yield replace(
                    settings, data_dir=data, environment=narrowed, nats_url=server.url, nats_token=Secret(server.token), replicas=1,
                    storage_url=str(objects),
                )  # fmt: skip
        finally:
            await _gone(data, clock)


async def _gone(data: Path, clock: Clock) -> None:
    """A server goes two seconds after its last user; without its directory it never would."""
    deadline_ns = clock.mono_ns() + int(_GONE_S * 1e9)
    while server_status(data) is not None and clock.mono_ns() < deadline_ns:
        await clock.sleep(_POLL_S)
