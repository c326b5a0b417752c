"""The connector: one venue's frames into one journal stream, each once, in order, with the time it was read.

Two epochs write: the run's (lease, days, market definitions, what is said about a dead predecessor) and the connection's (``opened``, the
venue's frames and our decisions about them, ``closed``). A new connection is a new epoch. What was missed between connections is a ``gap``
of each channel, from the last entry before to the channel's first sign of life.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from typing import TypeVar

import msgspec

from exchanges.adapter import Adapter, Output
from exchanges.markets import MarketSource, Selection
from exchanges.session import Connection, Received, Session
from journal.clock import Clock
from journal.codec import encode
from journal.day import DayRule, iso, to_date
from journal.entry import Body, Control, Entry, Gap, Lifecycle, Unparsed, canonical_json
from journal.errors import JournalUnavailable, NotFound, VenueRefused, VenueUnavailable
from journal.protocols import Fence, Journal
from journal.subjects import Stream
from journal.writer import MAX_PENDING_BYTES, EpochWriter, GroupCommit, Stamper
from ssmd.services import predecessor
from ssmd.services.lag import Lag

TICK_S = 1.0
STOP_S = 10.0  # to make durable what is pending when stopped; a journal that is away longer loses what was not acknowledged
MAX_ENTRY_BYTES = 1 << 20  # NATS's default message limit
_LEASE_RETRY_S = 0.5
_NEW = frozenset(("created", "activated"))
_SPECIAL = frozenset((Unparsed, Gap, Lifecycle))
_GOOD_NS = 30_000_000_000  # a connection that lasted this long was a good one
# Frames between turns of the event loop: about 5 ms, so that a batch in flight and the socket are served meanwhile.
RUN = 256
_T = TypeVar("_T")

AdapterFactory = Callable[[Sequence[str], int], Adapter]  # (symbols, data is missing since this time or 0)


@dataclass(slots=True)
class ConnectorStatus:
    """Where the connector is; read it at any time. Counters are of this run."""

    state: str = "starting"  # starting, discovering, connecting, capturing, waiting, stopped
    message: str = ""
    epoch: str = ""
    symbols: int = 0
    frames: int = 0
    entries: int = 0
    unparsed: int = 0
    gaps: int = 0
    connections: int = 0
    pending_bytes: int = 0  # not yet durable
    unread_bytes: int = 0  # read from the socket, not yet decoded
    last_frame_ns: int = 0
    lag: Lag = field(default_factory=Lag)  # from socket read to durable


class Connector:
    """One writer of one market stream. `run` until cancelled; it raises what retrying cannot mend.

    `instance` says who this is to a successor's operator (host and process id).
    """

    def __init__(
        self,
        journal: Journal,
        stream: Stream,
        clock: Clock,
        rng: random.Random,
        *,
        feed: str,
        days: DayRule,
        session: Session,
        adapters: AdapterFactory,
        markets: MarketSource,
        selection: Selection,
        writer: str = "connector",
        instance: str = "",
        max_pending_bytes: int = MAX_PENDING_BYTES,
        max_entry_bytes: int = MAX_ENTRY_BYTES,
    ) -> None:
        self.status = ConnectorStatus()
        self._journal = journal
        self._stream = stream
        self._clock = clock
        self._rng = rng
        self._feed = feed
        self._days = days
        self._session = session
        self._adapters = adapters
        self._markets = markets
        self._selection = selection
        self._writer = writer
        self._instance = instance
        self._max_entry_bytes = max_entry_bytes
        self._large_bytes = max_entry_bytes // 3  # a snapshot's levels take 24 bytes each and at least 19 in the frame
        self._stamper = Stamper(days)
        self._run_writer = EpochWriter(feed, rng.randbytes(16), self._stamper)
        self._connection = self._run_writer  # until there is one
        self._adapter = adapters((), 0)
        self._outbox: deque[bytes] = deque()  # commands of one output: a few, or one a market
        self._group = GroupCommit(journal, stream, clock, rng, max_pending_bytes=max_pending_bytes, on_durable=self._on_durable)
        self._symbols: dict[str, None] = {}
        self._next_day_ns = 0
        self._since_ns = 0  # data is missing from here; 0: nothing is known to be
        self._known_day = 0  # opened in the stream already

    async def run(self) -> None:
        """Capture until cancelled.

        Raises `Fenced` (another instance took over), `VenueRefused`, `NotFound` (a symbol the venue does not know), or what the
        journal cannot recover from.
        """
        status = self.status
        try:
            await self._journal.ensure(self._stream, self._feed)
            await self._take_lease()
            status.state = "discovering"
            await self._patiently(self._discover)
            while True:
                status.state = "connecting"
                connection = await self._patiently(self._session.connect)
                await self._capture(connection)
        except asyncio.CancelledError:
            status.message = status.message or "stopped"
            raise
        except Exception as error:
            status.message = str(error)
            raise
        finally:
            status.state = "stopped"
            await self._stop()

    # -- starting and stopping ---------------------------------------------------------------------------------------

    async def _take_lease(self) -> None:
        name, now_ns = f"writer-{self._writer}", self._clock.wall_ns()
        subject = self._stream.subject(self._feed, "control", name)
        before = await self._journal.last(self._stream, subject)
        info = await self._journal.info(self._stream)
        if info and info.last >= info.first:
            async for records in self._journal.read(self._stream, start=info.last, end=info.last):
                self._stamper.stamp(records[-1].entry.effective_ns)  # never before what is there
        run = self._run_writer
        opened = canonical_json({"kind": "run", "writer": self._writer, "instance": self._instance}).decode()
        first = run.entry(Control("opened", detail=opened), recv_ns=now_ns, symbol=f"epoch-{run.epoch.hex()}")
        claim = canonical_json({"instance": self._instance, "run": run.epoch.hex()}).decode()
        lease = run.entry(Control("lease", detail=claim), recv_ns=now_ns, symbol=name)
        self._group.fence = await self._until_available(first, lease)
        self._group.start()
        found = predecessor.Predecessor([], 0)
        if before:
            found = await predecessor.find(self._journal, self._stream, self._feed, self._writer, before)
        self._known_day = await self._last_opened_day(now_ns)
        self._turn_day(now_ns)
        for epoch in found.dead:
            of = canonical_json({"epoch": epoch}).decode()
            self._say(Gap("connector restarted", from_ns=found.last_ns, to_ns=now_ns, detail=of), now_ns)
            ended = canonical_json({"epoch": epoch, "reason": "its connector died"}).decode()
            self._say(Control("closed", detail=ended), now_ns)
        if found.last_ns and not found.dead:
            self._say(Gap("connector was stopped", from_ns=found.last_ns, to_ns=now_ns), now_ns)
        self._since_ns = found.last_ns

    async def _until_available(self, first: Entry, lease: Entry) -> Fence:
        while True:
            try:
                await self._journal.append(self._stream, [first])
                return await self._journal.lease(self._stream, lease)
            except JournalUnavailable as error:
                self.status.message = str(error)
                await self._clock.sleep(_LEASE_RETRY_S)

    async def _last_opened_day(self, now_ns: int) -> int:
        day = self._days.day_of(now_ns)
        subject = self._stream.subject(self._feed, "control", f"day-{iso(day)}")
        return day if await self._journal.last(self._stream, subject) else 0

    async def _stop(self) -> None:
        if self._group.fence is None:
            return
        reason = canonical_json({"reason": self.status.message}).decode()
        with contextlib.suppress(Exception):  # what stopped us is already on its way to the caller
            if not self._group.failed:
                self._say(Control("closed", detail=reason), self._clock.wall_ns())
            async with asyncio.timeout(STOP_S):
                await self._group.close()

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `attempt`, tried again for as long as the venue is merely unavailable."""
        while True:
            try:
                return await attempt()
            except VenueUnavailable as error:
                self.status.message = str(error)
                await self._group.room()  # a lost lease ends the waiting too
                await self._clock.sleep(self._session.backoff.next_s())

    # -- which markets -----------------------------------------------------------------------------------------------

    async def _discover(self) -> None:
        chosen = self._selection
        async for page in self._markets.markets(series=chosen.series, tickers=chosen.symbols, everything=chosen.everything):
            now_ns = self._clock.wall_ns()
            for market in page:
                self._symbols[market.symbol] = None
                self._group.post(
                    self._run_writer.entry(
                        market.body, recv_ns=now_ns, symbol=market.symbol,
                        price_exponent=market.price_exponent, size_exponent=market.size_exponent,
                    )
                )  # fmt: skip
            self.status.symbols = len(self._symbols)
            await self._group.room()
        for symbol in chosen.symbols:
            if symbol not in self._symbols:
                raise NotFound("market", symbol, await self._neighbours(symbol))

    async def _neighbours(self, symbol: str) -> list[str]:
        found: list[str] = []
        with contextlib.suppress(VenueUnavailable):
            async for page in self._markets.markets(series=[symbol.partition("-")[0]]):
                found += [market.symbol for market in page]
        return found

    async def _rediscover(self, connection: Connection, adapter: Adapter) -> None:
        """After an outage: markets announced meanwhile. The capture of the known ones does not wait for it."""
        known = set(self._symbols)
        await self._patiently(self._discover)
        if fresh := [s for s in self._symbols if s not in known]:
            now_ns = self._clock.wall_ns()
            self._keep(adapter.subscribe(fresh, now_ns), b"", now_ns, self._clock.mono_ns())
            await self._send(connection)

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _capture(self, connection: Connection) -> None:
        """Until the connection ends. Raises what ends the run."""
        status, clock = self.status, self._clock
        now_ns, mono_ns = clock.wall_ns(), clock.mono_ns()
        self._turn_day(now_ns)
        writer = self._connection = EpochWriter(self._feed, self._rng.randbytes(16), self._stamper)
        status.state, status.epoch, status.message = "capturing", writer.epoch.hex(), ""
        status.connections += 1
        url = self._session.config.url
        opened = canonical_json({"kind": "connection", "writer": self._writer, "instance": self._instance, "url": url}).decode()
        self._post(Control("opened", detail=opened), now_ns, mono_ns, f"epoch-{status.epoch}")
        adapter = self._adapter = self._adapters(list(self._symbols), self._since_ns)
        tasks: list[asyncio.Task[None]] = []
        reason = "stopped"
        try:
            self._keep(adapter.opened(now_ns), b"", now_ns, mono_ns)
            await self._send(connection)
            tasks = [asyncio.create_task(self._read(connection, adapter)), asyncio.create_task(self._tick(connection, adapter))]
            if status.connections > 1:
                tasks.append(asyncio.create_task(self._rediscover(connection, adapter)))
            await self._first_end(tasks)
        except VenueUnavailable as error:
            reason = str(error)
        except BaseException as error:
            reason = str(error) or "stopped"
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._outbox.clear()
            if not self._group.failed:
                detail = canonical_json({"reason": reason}).decode()
                self._post(Control("closed", detail=detail), clock.wall_ns(), clock.mono_ns(), "")
            self._since_ns = status.last_frame_ns or self._since_ns
            await connection.close()
        status.state, status.message = "waiting", reason
        if clock.mono_ns() - mono_ns > _GOOD_NS:
            self._session.backoff.reset()
        await clock.sleep(self._session.backoff.next_s())

    async def _first_end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for the reader or the ticker, which only end by raising; or for any task's failure."""
        waiting = set(tasks)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _read(self, connection: Connection, adapter: Adapter) -> None:
        while True:
            frames = await connection.receive()
            for at in range(0, len(frames), RUN):
                self._take(frames[at : at + RUN], adapter)
                if self._outbox:
                    await self._send(connection)
                await self._group.room()
                await self._clock.sleep(0)

    def _take(self, frames: list[Received], adapter: Adapter) -> None:
        frame, entry, post = adapter.frame, self._connection.entry, self._group.post
        for data, recv_ns, mono_ns in frames:
            if recv_ns >= self._next_day_ns:
                self._turn_day(recv_ns)
            output = frame(data, recv_ns)
            items = output.items
            if len(items) != 1 or output.send or len(data) > self._large_bytes or type(items[0].body) in _SPECIAL:
                self._keep(output, data, recv_ns, mono_ns)
                continue
            (item,) = items
            post(
                entry(
                    item.body, recv_ns=recv_ns, mono_ns=mono_ns, symbol=item.symbol, venue_ns=item.venue_ns, venue_seq=item.venue_seq,
                    subscription=item.subscription, price_exponent=item.price_exponent, size_exponent=item.size_exponent, raw=data,
                )
            )  # fmt: skip
            self.status.entries += 1
        status = self.status
        status.frames += len(frames)
        status.last_frame_ns = frames[-1][1]
        status.pending_bytes = self._group.pending_bytes

    def _keep(self, output: Output, data: bytes, recv_ns: int, mono_ns: int) -> None:
        """Post an output's entries, in order, and take its commands. Raises what it asks for."""
        if recv_ns >= self._next_day_ns:
            self._turn_day(recv_ns)
        fresh: list[str] = []
        for item in output.items:
            entry = self._connection.entry(
                item.body, recv_ns=recv_ns, mono_ns=mono_ns, symbol=item.symbol, venue_ns=item.venue_ns, venue_seq=item.venue_seq,
                subscription=item.subscription, price_exponent=item.price_exponent, size_exponent=item.size_exponent,
                raw=b"" if item.own else data,
            )  # fmt: skip
            if len(entry.raw) > self._large_bytes:
                entry = self._fitting(entry)
            self._group.post(entry)
            self.status.entries += 1
            body = item.body
            if isinstance(body, Unparsed):
                self.status.unparsed += 1
            elif isinstance(body, Gap):
                self.status.gaps += 1
            elif isinstance(body, Lifecycle) and self._joins(item.symbol, body):
                fresh.append(item.symbol)
        self._outbox += output.send
        if fresh:
            self._keep(self._adapter.subscribe(fresh, recv_ns), b"", recv_ns, mono_ns)
        if output.error:
            raise VenueRefused(output.error)
        if output.reconnect:
            raise VenueUnavailable(output.reconnect)

    def _joins(self, symbol: str, body: Lifecycle) -> bool:
        """Whether the venue just announced a market of ours. A settled one is not subscribed again after a reconnect."""
        if body.status == "settled":
            self._symbols.pop(symbol, None)
        if body.event not in _NEW or symbol in self._symbols or not self._selection.matches(symbol):
            return False
        self._symbols[symbol] = None
        self.status.symbols = len(self._symbols)
        return True

    def _fitting(self, entry: Entry) -> Entry:
        """The entry, or what can be said of it when the journal would not take it."""
        size = len(encode(entry))
        if size <= self._max_entry_bytes:
            return entry
        hash_ = blake2b(entry.raw, digest_size=32).hexdigest()
        self._say(Gap("frame too large", first_missing=entry.venue_seq, last_missing=entry.venue_seq, to_ns=entry.recv_ns), entry.recv_ns)
        said = f"frame of {len(entry.raw)} bytes, BLAKE2b-256 {hash_}: its entry of {size} bytes exceeds {self._max_entry_bytes}, not kept"
        return msgspec.structs.replace(entry, body=Unparsed(said), raw=b"")

    async def _tick(self, connection: Connection, adapter: Adapter) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            await self._group.room()  # raises what stopped the journal, also when the venue is silent
            now_ns = self._clock.wall_ns()
            self.status.pending_bytes, self.status.unread_bytes = self._group.pending_bytes, connection.waiting_bytes
            self._keep(adapter.tick(now_ns), b"", now_ns, self._clock.mono_ns())
            await self._send(connection)

    async def _send(self, connection: Connection) -> None:
        while self._outbox:
            await connection.send(self._outbox.popleft())

    # -- entries of our own ------------------------------------------------------------------------------------------

    def _post(self, body: Body, recv_ns: int, mono_ns: int, symbol: str) -> None:
        """An entry of the connection's epoch."""
        self._group.post(self._connection.entry(body, recv_ns=recv_ns, mono_ns=mono_ns, symbol=symbol))
        self.status.entries += 1

    def _say(self, body: Body, recv_ns: int, symbol: str = "") -> None:
        """An entry of the run's epoch."""
        self._group.post(self._run_writer.entry(body, recv_ns=recv_ns, symbol=symbol))
        self.status.entries += 1

    def _turn_day(self, recv_ns: int) -> None:
        """Write ``day_opened`` if the entry received at `recv_ns` is the first of its day in this stream."""
        _, day = self._stamper.stamp(recv_ns)
        self._next_day_ns = self._days.opens_ns(to_date(day) + timedelta(days=1))
        if day != self._known_day:
            self._known_day = day
            self._say(Control("day_opened", detail=canonical_json({"day": day}).decode()), recv_ns, f"day-{iso(day)}")

    def _on_durable(self, entries: list[Entry], positions: list[int]) -> None:
        del positions
        now_ns, lag = self._clock.mono_ns(), self.status.lag
        at, times = 0, 0
        for entry in entries:  # frames of one read share its time
            if entry.mono_ns == at:
                times += 1
                continue
            if at:
                lag.add(now_ns - at, times)
            at, times = entry.mono_ns, 1
        if at:
            lag.add(now_ns - at, times)
