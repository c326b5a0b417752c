"""The steps that start a day."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from journal.clock import Clock
from journal.entry import Control, Kind, Lifecycle
from journal.errors import CallerError, StorageError, StoreError, VenueUnavailable
from journal.protocols import Journal, Storage
from journal.subjects import Stream
from ssmd.day.activity import Processes, Result, Step, Work
from ssmd.day.calendar import Calendar
from ssmd.day.extent import shards_of
from ssmd.services.predecessor import detail_of
from ssmd.settings import Settings

_FIRST_FRAME_S = 30.0
_THIN_NS = 300 * 10**9  # markets that were not silent a moment ago may be thin
_GATEWAY_S = 60.0  # it folds what the newest checkpoint has not
_SETTLE_S = 0.1
_PROBE = b"written when a trading day starts, read back, and deleted"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the steps work with."""

    settings: Settings
    clock: Clock
    journal: Journal
    storage: Storage
    processes: Processes | None  # None: no process of the day is ours, so none can be started

    @property
    def streams(self) -> list[Stream]:
        """The market streams of a day that is captured: one for each shard."""
        return [Stream(self.settings.env, shard=shard) for shard in shards_of(self.settings)]

    def names(self, kind: str) -> list[str]:
        """The processes of this kind: one for each shard."""
        return [process_name(kind, shard) for shard in shards_of(self.settings)]

    @property
    def needed(self) -> list[str]:
        """The processes that a day needs as long as it is ACTIVE."""
        gateway = ["gateway"] if self.settings.environment.gateway.enabled else []
        return ["archiver", *self.names("projector"), *self.names("connector"), *gateway]


def process_name(kind: str, shard: str) -> str:
    """``connector`` and ``projector`` of shard 0, ``connector-NAME`` of another."""
    return kind if shard == "0" else f"{kind}-{shard}"


def process_of(name: str) -> tuple[str, str]:
    """The kind and shard of a process."""
    kind, _, shard = name.partition("-")
    return kind, shard or "0"


def plan_start(parts: Parts) -> Sequence[Step]:
    steps = _Start(parts)
    return (
        Step("configuration", steps.configuration),
        Step("secmaster", steps.secmaster, quiet_s=300),
        Step("storage", steps.storage),
        Step("connector", steps.connector, volatile=True),
        Step("archiver", steps.archiver, volatile=True),
        Step("projector", steps.projector, volatile=True),
        Step("gateway", steps.gateway, volatile=True, tries=1),  # which takes its time
        Step("health", steps.health, volatile=True, tries=2),
    )


class _Start:
    def __init__(self, parts: Parts) -> None:
        self._p = parts

    async def configuration(self, work: Work) -> Result:
        """Validated, and journalled as what is in force. Raises `CallerError` with every error."""
        from ssmd.configuration import journal_configuration
        from ssmd.metadata.validation import check

        settings, project = self._p.settings, self._p.settings.project
        today = Calendar(settings.environment.schedule).today(self._p.clock.wall_ns())  # also where a day long gone is made
        findings = [] if project.packaged else await asyncio.to_thread(check, project, today=today)
        # Another environment's errors are not this day's.
        others = {project.shown(project.environments.path(n)) for n in project.environments.names() if n != settings.env}
        findings = [f for f in findings if f.file not in others]
        if errors := [f for f in findings if f.severity == "error"]:
            raise CallerError("\n".join(["the configuration has errors; see `ssmd validate`", *map(str, errors[:20])]))
        found = await journal_configuration(self._p.journal, settings, self._p.clock, who=work.who, why=f"day {work.day}")
        return {"sha256": found.sha256, "position": found.position, "warnings": len(findings)}

    async def secmaster(self, work: Work) -> Result:
        """The venue's markets as it has them now; a sync that was interrupted goes on. Raises `VenueError`."""
        import random

        from exchanges.venues import load
        from ssmd.secmaster.access import open_definitions, open_ledger
        from ssmd.secmaster.sync import Question, Sync

        settings, clock = self._p.settings, self._p.clock
        rest_url = await self._processes().rest_url()
        venue = open_definitions(settings, clock, feed=settings.feed, rest_url=rest_url or None)
        async with open_ledger(settings, clock, self._p.journal) as ledger:
            sync = Sync(ledger, clock, load(venue.parts.observed), load(venue.parts.due))
            # The simulated venue's address is another one each time, and it is the same venue.
            question = Question(settings.feed, "simulated" if rest_url else venue.url, ())
            name = random.SystemRandom().randbytes(8).hex()
            summary = await sync.run(venue.source, question, name, full=False, meter=_Beats(work))
        synced = summary.synced
        alarms = {"unknown": len(summary.unknown), "nameless": summary.nameless, "flawed": summary.flawed, "missing": summary.missing}
        return {"markets": synced.markets, "pages": synced.pages, "changes": dict(synced.counts), **{k: v for k, v in alarms.items() if v}}

    async def storage(self, work: Work) -> Result:
        """The journal takes appends (it has just taken one) and the storage keeps what it is given."""
        storage, env = self._p.storage, self._p.settings.env
        last = {s.name: info.last if (info := await self._p.journal.info(s)) else 0 for s in self._p.streams}

        def probe() -> None:
            if not storage.exists():
                storage.create()
            key = f"{env}/_days/{work.day}/probe"
            storage.put(key, _PROBE)
            if storage.get(key) != _PROBE:
                raise StorageError(f"{key} reads back other than it was written; check {self._p.settings.storage}")
            storage.delete(key)

        await asyncio.to_thread(probe)
        return {"journal": ", ".join(f"{name} to {at}" for name, at in last.items()), "storage": self._p.settings.storage}

    async def connector(self, work: Work) -> Result:
        del work
        after = {s.shard: info.last if (info := await self._p.journal.info(s)) else 0 for s in self._p.streams}
        return {**await self._ensure(*self._p.names("connector")), "after": after}

    async def archiver(self, work: Work) -> Result:
        del work
        return await self._ensure("archiver")

    async def projector(self, work: Work) -> Result:
        del work
        return await self._ensure(*self._p.names("projector"))

    async def gateway(self, work: Work) -> Result:
        """It runs and can serve, where the environment has one. Raises `StoreError` otherwise."""
        from ssmd.day.answering import address, ask_ready

        spec = self._p.settings.environment.gateway
        if not spec.enabled:
            return {"skipped": "gateway.enabled is false"}
        result, since_ns = await self._ensure("gateway"), self._p.clock.mono_ns()
        while True:
            try:
                await asyncio.to_thread(ask_ready, spec)
            except StoreError as error:
                if self._p.clock.mono_ns() - since_ns > _GATEWAY_S * 1e9:
                    raise
                work.beat(str(error))
                await self._p.clock.sleep(_SETTLE_S)
            else:
                return {**result, "url": address(spec)}

    async def _ensure(self, *names: str) -> Result:
        """All of them run; of one shard its pid, and which of them ran already."""
        found = {name: await self._processes().ensure(name) for name in names}
        pids = {name: one["pid"] for name, one in found.items()}
        ran = ", ".join(name for name, one in found.items() if one["already_ran"])
        return {"pid": ", ".join(map(str, pids.values())), "pids": pids} | ({"already_ran": ran} if ran else {})

    def _processes(self) -> Processes:
        if self._p.processes is None:
            raise CallerError("no runner: nothing can be started from here; use `ssmd day run`")
        return self._p.processes

    async def health(self, work: Work) -> Result:
        """The first message about a market of each shard since its connector was started; or silence that the connector expects.

        Of a connector that ran before, one of the last five minutes will do. Raises `VenueUnavailable` otherwise.
        """
        done = work.done.get("connector", {})
        after, again = done.get("after", {}), str(done.get("already_ran", "")).split(", ")
        looks = [
            self._first_frame(work, s, int(after.get(s.shard, 0)), again=process_name("connector", s.shard) in again)
            for s in self._p.streams
        ]
        found: dict[str, Result] = {}
        for stream, one in zip(self._p.streams, await asyncio.gather(*looks, return_exceptions=True), strict=True):
            if isinstance(one, BaseException):
                raise one
            found[stream.shard] = one
        return next(iter(found.values())) if len(found) == 1 else {"shards": found}

    async def _first_frame(self, work: Work, stream: Stream, after: int, *, again: bool) -> Result:
        seen, name = _Seen(), process_name("connector", stream.shard)
        subject = stream.subject(self._p.settings.feed, "control", "silence-connector")
        if again and (said := await self._p.journal.last(stream, subject)):
            seen.take(said.entry.body)
        try:
            async with asyncio.timeout(_FIRST_FRAME_S):
                runs = self._p.journal.read(stream, start=after + 1, follow=True)
                async with aclosing(runs) as records:  # type: ignore[type-var]
                    async for some in records:
                        for number, entry in some:
                            seen.take(entry.body)
                            if entry.raw and not isinstance(entry.body, Control):  # acknowledgements are no market data
                                return {"first_frame": f"{stream.name}:{number}", "symbols": seen.symbols}
                            if entry.raw and seen.silence:
                                return {"silence": seen.silence}
                        work.beat(f"{seen.symbols} symbols, no frame yet")
        except TimeoutError:
            pass
        running = again and self._p.processes and self._p.processes.running(name)
        if running and seen.silence:
            return {"silence": seen.silence}
        if running and (before_ns := await self._newest_ns(stream)) > self._p.clock.wall_ns() - _THIN_NS:
            ago_s = (self._p.clock.wall_ns() - before_ns) // 10**9
            return {"silence": f"no frame within {_FIRST_FRAME_S:g} s; the last one came {ago_s} s ago"}
        what = "the connection is open, and silence is not expected" if seen.opened or running else "no connection was opened"
        raise VenueUnavailable(f"no frame within {_FIRST_FRAME_S:g} s: {what}; see logs/{name}.log in the data directory")

    async def _newest_ns(self, stream: Stream) -> int:
        """When the last message about a market came, 0 if none did."""
        feed, found = self._p.settings.feed, []
        for kind in (Kind.book, Kind.delta, Kind.trade, Kind.ticker):
            pattern = stream.subject(feed, kind.name, "").rpartition(".")[0] + ".*"
            found.append(await self._p.journal.last(stream, pattern))
        return max((record.entry.recv_ns for record in found if record), default=0)


class _Beats:
    """A meter whose every unit says that the step lives."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._units = 0

    def stage(self, name: str, total: int) -> None:
        del total
        self._units = 0
        self._work.beat(name)

    def advance(self, units: int) -> None:
        self._units += units
        self._work.beat(f"{self._units} markets")


class _Seen:
    def __init__(self) -> None:
        self.opened = False
        self.silence = ""  # why the connector expects none
        self.symbols = 0

    def take(self, body: object) -> None:
        if isinstance(body, Control) and body.action == "opened":
            self.opened = self.opened or detail_of(body).get("kind") == "connection"
        elif isinstance(body, Control) and body.action == "silence":
            self.silence = str(detail_of(body).get("reason", ""))
        elif isinstance(body, Lifecycle):
            self.symbols += 1
