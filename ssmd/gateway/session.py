"""What a client asks for, done: subscriptions, snapshots, resuming from a position. It reads no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from math import ceil

from journal.clock import Clock
from journal.errors import BadSubject, CallerError, SsmdError
from journal.subjects import parse_position
from ssmd.gateway import message as m
from ssmd.gateway.client import Client
from ssmd.gateway.hub import Hub
from ssmd.gateway.marks import Marks
from ssmd.gateway.message import STATE_CHANNELS
from ssmd.gateway.rates import Rates
from ssmd.gateway.replays import Archives, Replays
from ssmd.gateway.request import Configure, Ping, Request, Selector, Snapshot, Subscribe, Unsubscribe, id_of, parse, selectors
from ssmd.gateway.resume import Resume, ended
from ssmd.gateway.view import MarketView
from ssmd.gateway.views import Views

MAX_REPLAY = 5_000_000  # entries that are folded again for one client
_WIDE_S, _WIDE = 2_000, 50_000  # names and states that requests of one seat may take, a second and at once; or these parts of all symbols
_WIDE_S_PART, _WIDE_PART = 0.1, 10
_LOOK = 4  # for each thing that waits when a subscription ends: whether it was of that one
_STRANGE_S, _STRANGE = 200, 4_000  # unknown names of one key, on all its connections, a second and at once; then only requests of few names
_FEW, _NEAR_COST = 50, 50  # which they are; and what looking for names like one costs
_NEAR_FOR = 5  # unknown symbols for which like ones are looked for: each costs milliseconds
MAX_CHOSEN = 20_000  # symbols times channels that one client's subscriptions may name


class Sessions:
    """Serves the requests of all clients."""

    def __init__(
        self, hub: Hub, views: Views, archives: Archives, clock: Clock, *, feed: str, subscriptions: int = 100, begins: bool = False
    ) -> None:
        """`begins`: a day begins here, whose markets are not known yet: who names them waits for them."""
        self.hub = hub
        self.views = views
        self.clock = clock
        self.max_subscriptions = subscriptions
        self._begins = begins
        self._marks = Marks(archives.journal, views.shards)
        self._comparing: dict[asyncio.Task[None], Client] = {}
        self._replays = Replays(archives, clock, feed=feed, kinds=views.kinds)
        self._wide = Rates(clock, _WIDE_S, _WIDE)
        self._strange = Rates(clock, _STRANGE_S, _STRANGE)

    def receive(self, client: Client, data: bytes) -> None:
        """One message of the client's. What cannot be done is told to it."""
        try:
            request = parse(data)
        except CallerError as error:
            client.tell(m.Failed(code="bad_request", message=str(error), id=id_of(data)))
        else:
            self.serve(client, request)

    def serve(self, client: Client, request: Request) -> None:
        """The same of one that was parsed."""
        self._telling(client, request.id, partial(self._serve, client, request))

    def _telling(self, client: Client, number: str, work: Callable[[], None]) -> None:
        """What cannot be done is told."""
        try:
            work()
        except SsmdError as error:
            code = "bad_request" if isinstance(error, CallerError) else "unavailable"
            client.tell(m.Failed(code=code, message=str(error), id=number))

    def _serve(self, client: Client, request: Request) -> None:
        match request:
            case Subscribe(mark=mark) if mark and request.positions:
                self._compare(client, request)
            case Subscribe():
                self._subscribe(client, request)
            case Unsubscribe():
                self._unsubscribe(client, request)
            case Snapshot():
                self._snapshot(client, request)
            case Configure():
                client.buffer.policy = request.policy
                client.tell(m.Configured(id=request.id, policy=request.policy.value))
            case Ping():
                now_ns = self.clock.wall_ns()
                client.tell(m.Pong(id=request.id, mark=self.views.mark(), time=m.when(now_ns), time_ns=now_ns))

    # --- subscribing --------------------------------------------------------------------------------------------------------

    def _compare(self, client: Client, asked: Subscribe) -> None:
        """Subscribe as soon as it is known whether the streams are those of the mark."""
        if sum(one.seat == client.seat for one in self._comparing.values()) >= self.max_subscriptions:
            raise CallerError(f"{self.max_subscriptions} of your marks are being compared; wait for the answers")

        async def work() -> None:
            why = await self._marks.refuted(asked.mark)
            if not client.closed:
                self._telling(client, asked.id, partial(self._subscribe, client, asked, why))

        task = asyncio.create_task(work(), name=f"mark of {client.id}")
        self._comparing[task] = client
        task.add_done_callback(self._comparing.pop)
        task.add_done_callback(partial(ended, client))

    def _subscribe(self, client: Client, asked: Subscribe, refuted: str = "") -> None:
        """`refuted`: why its positions are of other streams."""
        if len(client.subscriptions) >= self.max_subscriptions:
            raise CallerError(f"you have {self.max_subscriptions} subscriptions; unsubscribe from some first")
        chosen = selectors(asked)
        known, unknown = self._known(client, chosen)
        if not (known or self._begins):
            raise CallerError("; ".join(map(str, unknown[:5])))
        if client.chosen + len(chosen) > MAX_CHOSEN:
            raise CallerError(f"your subscriptions would name more than {MAX_CHOSEN:,} things; choose series, a category or all")
        self.hub.distribute()
        resumes = [self._place(position) for position in asked.positions]
        refused = [position for view, sequence, position in resumes if refuted or not self._within(view, sequence)]
        subscription = client.add(asked.channels, chosen, asked.mode, asked.interval_ms)
        if resumes and not refused:
            replayed = {s for s in chosen if asked.mode == "realtime" or s[0] not in STATE_CHANNELS}
            subscription.missed = frozenset(s for s in replayed if s[0] != "day")  # of the others the present is enough
        client.tell(
            m.Subscribed(
                subscription=subscription.id, id=asked.id, channels=list(asked.channels), mode=asked.mode,
                interval_ms=subscription.interval_ms, symbols=self._count(known), positions=self.views.positions(), unknown=unknown,
                resumed=not refused if resumes else None,
                resume_from=[f"{v.stream.name}:{max(v.recent.since, v.resumable)}" for v, _, _ in resumes] if refused else [],
                reason=refuted or next((v.broken for v, n, _ in resumes if n <= v.resumable and v.broken), "") if refused else "",
                mark=self.views.mark(),
            )
        )  # fmt: skip
        if subscription.missed:
            client.regroup()
            others = (s.resume for s in client.subscriptions.values() if s.resume)
            resume = next(others, None) or Resume(client, self.hub, self._replays)
            resume.join(subscription, [(view, sequence) for view, sequence, _ in resumes])
        else:
            subscription.attached = True
            client.regroup()
            client.owe(self.hub.topics(chosen))

    def _known(self, client: Client, chosen: frozenset[Selector]) -> tuple[frozenset[Selector], list[m.Unknown]]:
        """What of it there is. Each name, and each state of all, is work that others wait for. Raises `CallerError` for too much of it."""
        symbols = {name for _, kind, name in chosen if kind == "symbol" and name}
        names = {name for *_, name in chosen}
        guessed = self._strange.take(client.who, 0)
        if len(names) > _FEW and guessed.left < _STRANGE // 4:
            raise _too_much((_STRANGE // 4 - guessed.left) / _STRANGE_S)
        self._pay(client, len(names) + sum(self._states(kind, name) for channel, kind, name in chosen if channel in STATE_CHANNELS))
        strange = self.views.strange(symbols)
        unknown = [m.Unknown(name) for name in sorted(strange)]
        for group in m.GROUPS:  # their markets may still come
            unknown += [m.Unknown(name, kind=group) for name in self.views.lacking(group, {n for _, kind, n in chosen if kind == group})]
        self._strange.take(client.who, min(guessed.left, len(unknown)))
        for one in unknown[:_NEAR_FOR]:
            if not self._strange.take(client.who, _NEAR_COST).allowed:
                break
            if one.kind == "symbol":
                one.known_as = self.views.group_of(one.name) or ""
            if not one.known_as:
                one.near = self.views.near(one.name, one.kind)
        return frozenset(s for s in chosen if s[1] != "symbol" or s[2] not in strange), unknown

    def _pay(self, client: Client, cost: int) -> None:
        """Raises `CallerError` for what is too much just now."""
        everything = len(self.views.symbols())
        self._wide.per_s, self._wide.burst = max(_WIDE_S, int(_WIDE_S_PART * everything)), max(_WIDE, _WIDE_PART * everything)
        taken = self._wide.take(client.seat, cost)
        if not taken.allowed:
            raise _too_much(taken.wait_s)

    def _states(self, kind: str, name: str) -> int:
        """How many a selector chooses of one channel."""
        if kind == "symbol":
            return 1
        return len(self.views.symbols() if kind == "all" else self.views.members(kind, name))

    def _count(self, chosen: frozenset[Selector]) -> int | None:
        """Of symbols, where they are named."""
        if any(kind != "symbol" for _, kind, _ in chosen):
            return None
        return len({name for _, _, name in chosen if name})

    def _unsubscribe(self, client: Client, asked: Unsubscribe) -> None:
        subscription = client.subscriptions.get(asked.subscription)
        if subscription is None:
            known = ", ".join(client.subscriptions) or "none"
            raise CallerError(f"you have no subscription {asked.subscription!r}; you have {known}")
        self._pay(client, _LOOK * sum(client.buffer.pending[::2]))
        self.hub.distribute()
        client.remove(subscription)
        client.tell(m.Unsubscribed(subscription=subscription.id, id=asked.id))

    def _snapshot(self, client: Client, asked: Snapshot) -> None:
        chosen, unknown = self._known(client, selectors(Subscribe(channels=asked.channels, symbols=asked.symbols)))
        client.tell(m.Snapshots(id=asked.id, positions=self.views.positions(), unknown=unknown))
        self.hub.distribute()
        client.owe(self.hub.topics(chosen))

    # --- resuming -----------------------------------------------------------------------------------------------------------

    def _place(self, position: str) -> tuple[MarketView, int, str]:
        try:
            stream, sequence = parse_position(position)
        except BadSubject as error:
            raise CallerError(f"resume: {error}") from None
        for view in self.views.shards:
            if view.stream == stream:
                return view, sequence, position
        known = ", ".join(view.stream.name for view in self.views.shards)
        raise CallerError(f"resume: {position} is of no stream that is served here; served: {known}")

    def _within(self, view: MarketView, sequence: int) -> bool:
        """Whether what came behind `sequence` can be told: not too much, still in the journal, and of the stream as it is now."""
        return sequence >= max(view.first - 1, view.resumable) and view.position - MAX_REPLAY <= sequence <= view.position


def _too_much(wait_s: float) -> CallerError:
    return CallerError(f"that is too much so soon after what you asked before: ask again in {ceil(wait_s)} s, or for less")
