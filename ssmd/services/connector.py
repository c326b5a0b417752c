"""The connector: one venue's frames into one journal stream, each once, in order, with the time it was read.

Which markets is the security master's to say (`Roster`), when the capture begins and whenever it changes.

Two epochs write: the run's (lease, days, market definitions, what is said about a dead predecessor) and the connection's (``opened``, the
venue's frames and our decisions about them, ``closed``). A new connection is a new epoch. What was missed between connections is a ``gap``
of each channel, from the last entry before to the channel's first sign of life.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from exchanges.adapter import Adapter, Output
from exchanges.session import Connection, Received, Session
from journal.clock import Clock
from journal.day import DayRule
from journal.entry import Body, Control, Gap, Lifecycle, Unparsed, control
from journal.errors import JournalUnavailable, VenueRefused, VenueUnavailable
from journal.protocols import Journal
from journal.subjects import Stream
from journal.writer import MAX_PENDING_BYTES
from ssmd.secmaster.choosing import Choice
from ssmd.services.captured import Captured
from ssmd.services.lag import Lag
from ssmd.services.ledger import Ledger
from ssmd.services.roster import GRACE_S, Roster

TICK_S = 1.0
_SILENT_NS = 5 * 10**9
_SPECIAL = frozenset((Unparsed, Gap, Lifecycle, Control))  # counted, or may come with more than themselves (a refusal)
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
    silence: str = ""  # why no frame is to be expected; "": one is
    silent: bool = True  # no frame of late
    security_master: str = ""  # what keeps us from following it
    finalised: int = 0  # markets whose capture has come to its end
    frames: int = 0
    entries: int = 0  # durable
    unparsed: int = 0
    gaps: int = 0
    connections: int = 0
    pending_bytes: int = 0  # not yet durable
    lost: int = 0  # entries that were not durable when it stopped: the journal was away for longer than a stop waits
    unread_bytes: int = 0  # read from the socket, not yet decoded
    last_frame_ns: int = 0
    lag: Lag = field(default_factory=Lag)  # from socket read to durable

    def told(self) -> str:
        """For people, in a line."""
        state = f"{self.state}: {self.message}" if self.message else self.state
        quiet = f"silence is expected: {self.silence}" if self.silent and self.silence and self.state == "capturing" else ""
        return "; ".join(part for part in (state, quiet, self.security_master) if part)


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
        choice: Choice,
        grace_s: float = GRACE_S,
        writer: str = "connector",
        instance: str = "",
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self._clock = clock
        self._session = session
        self._adapters = adapters
        self._ledger = Ledger(
            journal, stream, clock, rng, feed=feed, days=days, writer=writer, instance=instance,
            max_pending_bytes=max_pending_bytes,
        )  # fmt: skip
        self.status = ConnectorStatus(lag=self._ledger.lag)
        self._connection = self._ledger.connection()
        self._adapter = adapters((), 0)
        self._outbox: deque[bytes] = deque()  # commands of one output: a few, or one a market
        self._roster = Roster(choice, self._ledger, journal, stream, clock, feed=feed, grace_s=grace_s)
        self._wake = asyncio.Event()  # the open connection has something to send
        self._open = False
        self._since_ns = 0  # data is missing from here; 0: nothing is known to be
        self._late: dict[str, int] = {}  # markets that are to be heard from then on, of which no connection has said whether they were

    @property
    def roster(self) -> Captured:
        """The markets that are captured; read it at any time."""
        return self._roster.captured

    async def run(self) -> None:
        """Capture until cancelled.

        Raises `Fenced` (another instance took over), `VenueRefused`, `NotFound` (a symbol the venue does not know), or what the
        journal cannot recover from.
        """
        status = self.status
        following: list[asyncio.Task[None]] = []
        try:
            self._since_ns = await self._ledger.open(self._waiting)
            status.state = "discovering"
            await self._patiently(self._roster.open)
            following = [asyncio.create_task(self._follow()), asyncio.create_task(self._tend())]
            while True:
                status.state = "connecting"
                connection = await self._patiently(self._session.connect)
                await self._capture(connection, following)
        except asyncio.CancelledError:
            status.message = status.message or "stopped"
            raise
        except Exception as error:
            status.message = str(error)
            raise
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            status.state = "stopped"
            await self._ledger.close(status.message)
            status.lost = self._ledger.pending
            self._measure()

    def _measure(self) -> None:
        self.status.entries, self.status.pending_bytes = self._ledger.durable, self._ledger.pending_bytes

    def _waiting(self, why: str) -> None:
        self.status.message = why

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """The result of `attempt`, tried again for as long as the venue or the journal is merely unavailable."""
        while True:
            try:
                return await attempt()
            except (VenueUnavailable, JournalUnavailable) as error:
                self.status.message = str(error)
                await self._ledger.room()  # a lost lease ends the waiting too
                await self._clock.sleep(self._session.backoff.next_s())

    # -- which markets -----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Join what the security master says begins to be ours. Never ends by itself."""
        async for fresh in self._roster.follow():
            self._join(fresh)
            await self._ledger.room()

    async def _tend(self) -> None:
        """Let go of what is over, say when silence is to be expected, and turn the day, also while the venue is away."""
        while True:
            if (now_ns := self._clock.wall_ns()) >= self._ledger.next_day_ns:
                self._ledger.turn_day(now_ns)
            await self._roster.tend(self._leave)
            status, roster = self.status, self._roster
            status.symbols, status.silence, status.finalised = len(roster.captured), roster.silence, roster.finalised
            status.security_master = roster.trouble
            status.silent = self._clock.wall_ns() - status.last_frame_ns > _SILENT_NS * self._clock.rate
            await self._clock.sleep(TICK_S)
            await self._ledger.room()

    def _join(self, fresh: dict[str, int]) -> None:
        self.status.symbols = len(self._roster.captured)
        if self._open:
            self._subscribe(fresh)
        else:
            self._late |= {symbol: since_ns for symbol, since_ns in fresh.items() if since_ns}

    def _subscribe(self, fresh: dict[str, int]) -> None:
        """Markets, each with the time since when it is to be heard, or 0."""
        for since_ns in sorted(set(fresh.values())):
            now_ns, symbols = self._clock.wall_ns(), [s for s, since in fresh.items() if since == since_ns]
            self._keep(self._adapter.subscribe(symbols, now_ns, since_ns=since_ns), b"", now_ns, self._clock.mono_ns())
            self._wake.set()

    def _leave(self, symbols: list[str]) -> None:
        if symbols and self._open:
            now_ns = self._clock.wall_ns()
            self._keep(self._adapter.unsubscribe(symbols, now_ns), b"", now_ns, self._clock.mono_ns())
            self._wake.set()

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _capture(self, connection: Connection, following: list[asyncio.Task[None]]) -> None:
        """Until the connection ends. Raises what ends the run, `following` included."""
        status, clock = self.status, self._clock
        now_ns, mono_ns = clock.wall_ns(), clock.mono_ns()
        self._ledger.turn_day(now_ns)
        writer = self._connection = self._ledger.connection()
        status.state, status.epoch, status.message = "capturing", writer.epoch.hex(), ""
        status.connections += 1
        opened: dict[str, object] = {
            "kind": "connection", "writer": self._ledger.writer, "instance": self._ledger.instance, "url": self._session.config.where,
        }  # fmt: skip
        self._note(control("opened", opened), now_ns, f"epoch-{status.epoch}")
        adapter = self._adapter = self._adapters(self._roster.captured.subscribed(), self._since_ns)
        tasks: list[asyncio.Task[None]] = []
        reason = "stopped"
        try:
            self._keep(adapter.opened(now_ns), b"", now_ns, mono_ns)
            self._open = True
            late, self._late = self._late, {}
            self._subscribe({symbol: since_ns for symbol, since_ns in late.items() if symbol in self._roster.captured})
            await self._send(connection)
            tasks = [asyncio.create_task(part(connection, adapter)) for part in (self._read, self._tick, self._push)]
            await self._first_end([*tasks, *following])
        except VenueUnavailable as error:
            reason = str(error)
        except BaseException as error:
            reason = str(error) or "stopped"
            raise
        finally:
            self._open = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._outbox.clear()
            if not self._ledger.failed:
                self._note(control("closed", {"reason": reason}), clock.wall_ns(), "")
            self._since_ns = adapter.missing_since_ns or status.last_frame_ns or self._since_ns
            self._late |= adapter.late
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
                await self._ledger.room()
                await self._clock.sleep(0)

    def _take(self, frames: list[Received], adapter: Adapter) -> None:
        frame, entry, post = adapter.frame, self._connection.entry, self._ledger.post
        for data, recv_ns, mono_ns in frames:
            if recv_ns >= self._ledger.next_day_ns:
                self._ledger.turn_day(recv_ns)
            output = frame(data, recv_ns)
            items = output.items
            if len(items) != 1 or output.send or len(data) > self._ledger.large_bytes or type(items[0].body) in _SPECIAL:
                self._keep(output, data, recv_ns, mono_ns)
                continue
            (item,) = items
            post(
                entry(
                    item.body, recv_ns=recv_ns, mono_ns=mono_ns, symbol=item.symbol, venue_ns=item.venue_ns, venue_seq=item.venue_seq,
                    subscription=item.subscription, price_exponent=item.price_exponent, size_exponent=item.size_exponent, raw=data,
                )
            )  # fmt: skip
        status = self.status
        status.frames += len(frames)
        status.last_frame_ns = frames[-1][1]
        self._measure()

    def _keep(self, output: Output, data: bytes, recv_ns: int, mono_ns: int) -> None:
        """Post an output's entries, in order, and take its commands. Raises what it asks for."""
        if recv_ns >= self._ledger.next_day_ns:
            self._ledger.turn_day(recv_ns)
        fresh: dict[str, int] = {}
        for item in output.items:
            entry = self._connection.entry(
                item.body, recv_ns=recv_ns, mono_ns=mono_ns, symbol=item.symbol, venue_ns=item.venue_ns, venue_seq=item.venue_seq,
                subscription=item.subscription, price_exponent=item.price_exponent, size_exponent=item.size_exponent,
                raw=b"" if item.own else data,
            )  # fmt: skip
            if len(entry.raw) > self._ledger.large_bytes:
                entry = self._ledger.fitting(entry)
            self._ledger.post(entry)
            body = item.body
            if isinstance(body, Unparsed):
                self.status.unparsed += 1
            elif isinstance(body, Gap):
                self.status.gaps += 1
            elif isinstance(body, Lifecycle) and (since_ns := self._roster.announced(item.symbol, body, recv_ns)) is not None:
                fresh[item.symbol] = since_ns
        self._outbox += output.send
        if fresh:
            self.status.symbols = len(self._roster.captured)
            self._subscribe(fresh)
        if output.error:
            raise VenueRefused(output.error)
        if output.reconnect:
            raise VenueUnavailable(output.reconnect)

    async def _tick(self, connection: Connection, adapter: Adapter) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            await self._ledger.room()  # raises what stopped the journal, also when the venue is silent
            now_ns = self._clock.wall_ns()
            self.status.unread_bytes = connection.waiting_bytes
            self._measure()
            self._keep(adapter.tick(now_ns), b"", now_ns, self._clock.mono_ns())
            await self._send(connection)

    async def _push(self, connection: Connection, adapter: Adapter) -> None:
        """Send what others than the reader have to say, at once."""
        del adapter
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send(connection)

    async def _send(self, connection: Connection) -> None:
        while self._outbox:
            await connection.send(self._outbox.popleft())

    def _note(self, body: Body, recv_ns: int, symbol: str) -> None:
        """Post an entry of the connection's own history."""
        self._ledger.post(self._connection.entry(body, recv_ns=recv_ns, symbol=symbol))
