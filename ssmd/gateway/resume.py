"""A client that resumes: what its subscriptions missed, as fast as it takes it, then they go on live.

All that resume at the same time are one: what they missed comes in one order of positions, each message once, however many of them chose
it. One that joins from further back begins there; what others were told meanwhile is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from journal.errors import SsmdError
from ssmd.gateway import message as m
from ssmd.gateway.client import Client, Subscription
from ssmd.gateway.hub import Hub, failed
from ssmd.gateway.replays import ALL, Replays, Rider
from ssmd.gateway.view import MarketView

_NEARLY = 500  # messages: the rest is offered at once, if it is no quarter of the buffer


class Resume:
    """Of one client. Subscriptions `join` until it is over."""

    def __init__(self, client: Client, hub: Hub, replays: Replays) -> None:
        self._client, self._hub, self._replays = client, hub, replays
        self._riders: dict[MarketView, Rider] = {}
        self._subscriptions: list[Subscription] = []
        self._failed = False  # then snapshots follow of all
        self._task = asyncio.create_task(self._run(), name=f"resume {client.id}")
        self._task.add_done_callback(partial(ended, client))

    def join(self, subscription: Subscription, places: Iterable[tuple[MarketView, int]]) -> None:
        """What it `missed`, behind the places."""
        subscription.resume = self
        self._subscriptions.append(subscription)
        for view, sequence in places:
            rider = self._riders.setdefault(view, Rider(self._client, sequence))
            rider.join(subscription.id, subscription.missed, sequence)

    def leave(self, subscription: Subscription) -> None:
        """It is not wanted any more."""
        subscription.resume = None
        self._subscriptions.remove(subscription)
        for rider in self._riders.values():
            rider.leave(subscription.id)
        if not self._subscriptions:
            self._task.cancel()

    async def _run(self) -> None:
        client, riders, few = self._client, self._riders, min(_NEARLY, self._hub.limits.messages // 4)
        near = False
        while not near:
            for view, rider in tuple(riders.items()):
                try:
                    if rider.sequence < view.recent.since:
                        await self._replays.bring(view, rider)
                    await self._replays.remember(view, rider)
                except SsmdError as error:
                    told = f"what you missed of {view.stream.name} cannot be sent: {error}; snapshots follow instead"
                    client.tell(m.Failed(code="resume_failed", message=told))
                    del riders[view]
                    self._failed = True
            await self._replays.has_room(client)
            near = all(r.sequence >= v.recent.since and len(v.recent.behind(r.sequence, few + 1)) <= few for v, r in riders.items())
        # Nothing is awaited from here on, so nothing comes in between.
        self._hub.distribute()
        for view, rider in riders.items():
            self._replays.offer(rider, view.recent.behind(rider.sequence, ALL))
        for subscription in self._subscriptions:
            subscription.resume = None
            subscription.attached = True
        client.regroup()
        client.owe(self._hub.topics({s for one in self._subscriptions for s in one.selectors if self._failed or s not in one.missed}))


def ended(client: Client, task: asyncio.Task[None]) -> None:
    """Who waits for what a defect of the gateway has ended is not left waiting."""
    if not task.cancelled() and (error := task.exception()):
        failed(client, task.get_name(), error)
