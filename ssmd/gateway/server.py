"""The gateway as one process: views, clients, REST, and the server that they are reached by. Part of the composition root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, cast

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from journal.clock import Clock
from journal.errors import CallerError, SsmdError
from journal.protocols import Keeper, Storage
from ssmd.gateway import message as m
from ssmd.gateway.access import Gatekeeper
from ssmd.gateway.annex import Annex, Past
from ssmd.gateway.answers import Replay
from ssmd.gateway.buffer import Limits
from ssmd.gateway.desk import Desk
from ssmd.gateway.door import Door
from ssmd.gateway.http import BoundedHttp
from ssmd.gateway.hub import Hub
from ssmd.gateway.measures import Measures
from ssmd.gateway.pages import Pages
from ssmd.gateway.porch import PER_S, Porch, allow_files
from ssmd.gateway.probe import Probe
from ssmd.gateway.rates import Rates
from ssmd.gateway.register import Register
from ssmd.gateway.replays import Archives
from ssmd.gateway.rest import Rest
from ssmd.gateway.room import Room
from ssmd.gateway.session import Sessions
from ssmd.gateway.stream import StreamProtocol
from ssmd.gateway.traffic import Traffic
from ssmd.gateway.views import Views
from ssmd.metadata.environment import GatewayTls
from ssmd.secmaster.reading import path_of
from ssmd.secmaster.view import View as Markets
from ssmd.settings import Settings
from ssmd.wiring import open_journal, open_objects, open_quotes

_NOW_AT_ONCE, _NOW_S = 4, 10.0
_GRACE_S = 2
_BACKLOG = 1_024
_SERVING = "serving"


class Gateway:
    """`run` until cancelled or stopped."""

    def __init__(
        self, settings: Settings, clock: Clock, *, host: str | None = None, port: int | None = None, named_by: str = "--host and --port"
    ) -> None:
        spec = settings.environment.gateway
        self.settings = settings
        self.clock = clock
        self.host = host or spec.host
        self._named_by = named_by
        self.port = spec.port if port is None else port  # the one that is listened on, once `run` listens; 0: any
        self._phase = "starting"
        self.replay: Replay | None = None  # set by who serves a past day
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()
        self.hub: Hub
        self.views: Views

    def stop(self) -> None:
        """Make `run` return."""
        self.stopping.set()

    async def run(self) -> None:
        """Raises `CallerError` for an address that cannot be listened on, `StoreError`, `CorruptionError`."""
        try:
            async with AsyncExitStack() as stack:
                await self._run(stack)
        except* SsmdError as group:
            raise _first(group) from None

    async def _run(self, stack: AsyncExitStack) -> None:
        settings, clock, spec = self.settings, self.clock, self.settings.environment.gateway
        listener = stack.enter_context(contextlib.closing(_listen(self.host, self.port, self._named_by)))
        self.port = listener.getsockname()[1]
        journal = await stack.enter_async_context(open_journal(settings, clock))
        gatekeeper = Gatekeeper(settings.env, settings.feed, self.host, clock, require_key=spec.require_key, origins=spec.origins)
        await stack.enter_async_context(gatekeeper.following(journal))
        gatekeeper.check_bind()
        limits = spec.limits
        now = await stack.enter_async_context(Room("now", settings, clock, at_once=_NOW_AT_ONCE, limit_s=_NOW_S).opened())
        annex = await stack.enter_async_context(Annex(settings, clock, at_once=limits.past_at_once, limit_s=limits.past_s).opened())
        markets = stack.enter_context(contextlib.closing(Markets(path_of(settings.data_dir, settings.env))))
        shards = list(settings.environment.shards) or ["0"]
        self.views = Views(settings.env, settings.feed, shards, clock, markets=markets, refresh=lambda: now.ask(lambda s: s.markets()))
        self.hub = Hub(self.views, clock, limits=Limits(limits.buffer_messages, limits.buffer_mib << 20))
        storage = open_objects(settings)
        sessions = Sessions(
            self.hub, self.views, Archives(journal, storage), clock, feed=settings.feed, subscriptions=limits.subscriptions,
            begins=self.replay is not None,
        )  # fmt: skip
        streams, guests = allow_files(limits.connections)
        door = Door(
            sessions, gatekeeper, env=settings.env, connections=streams, per_key=limits.connections_per_key,
            compression=spec.compression,
        )  # fmt: skip
        probe = Probe(journal, self.views.shards, clock)
        shared = await stack.enter_async_context(open_quotes(settings, clock, journal, self.views.shards))
        registry = CollectorRegistry()
        registry.register(Traffic(self.hub, self.views))
        measures = Measures(registry)
        desk = Desk(
            settings, clock, journal, gatekeeper, now, Past(), Rates(clock, limits.requests, limits.burst),
            views=self.views.shards, clients=Register(self.hub), annex=annex,
            checks=lambda: [*probe.checks(), *(view.check() for view in shared)], metrics=measures.text,
            replay=lambda: self.replay,
        )  # fmt: skip
        porch = Porch(clock, per_s=max(PER_S, 4 * limits.requests), most=guests)
        server = _server(porch, porch.paced(Pages(Rest(desk, measures))), door, spec.tls)
        tasks = [
            asyncio.create_task(work, name=f"gateway {name}")
            for name, work in (
                ("server", server.serve([listener])),
                ("views", self._follow(journal, storage)),
                ("clients", self.hub.watch()),
                ("probe", probe.run()),
                *(("cache", view.run()) for view in shared),
            )
        ]
        stopped = asyncio.create_task(self.stopping.wait())
        self.listening.set()
        try:
            await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._phase = "stopping"
            server.should_exit = True
            for task in (*tasks[1:], stopped):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _follow(self, journal: Keeper, storage: Storage) -> None:
        started_ns = self.clock.mono_ns()
        self._phase = "folding what is journalled"
        await self.views.start(journal, storage)
        took_s = (self.clock.mono_ns() - started_ns) / 1e9
        self._phase = f"{_SERVING} {self.url}, ready after {took_s:.1f} s at {', '.join(self.views.positions())}"
        await self.views.run(journal, storage, self.hub.publish, self._dismiss)

    def _dismiss(self, why: str) -> None:
        """Clients come back to what is there then, and are told that it does not go on from what they had."""
        for client in tuple(self.hub.clients.values()):
            client.say_last(m.Failed(code="begun_again", message=why))
            client.close(1012, "the view is begun again; connect again and resume")

    @property
    def status(self) -> str:
        """For the operator."""
        if self._phase.startswith(_SERVING):
            return next((f"folding again: {view.broken}" for view in self.views.shards if not view.ready), self._phase)
        return self._phase

    @property
    def url(self) -> str:
        """Of REST; the stream's is the same with ws."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.settings.environment.gateway.tls else ''}://{host}:{self.port}"


class _Server(uvicorn.Server):
    """Signals are the command's; connections come by the porch."""

    def __init__(self, config: uvicorn.Config, porch: Porch) -> None:
        super().__init__(config)
        self._porch = porch

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        http: Any = self.config.http_protocol_class
        made = partial(http, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        for listener in sockets or ():
            self._porch.open(listener, made, self.config.ssl)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._porch.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(porch: Porch, answers: ASGIApp, door: Door, tls: GatewayTls | None) -> _Server:
    stream: Any = partial(_stream, door)
    http: Any = partial(BoundedHttp, porch=porch)
    config = uvicorn.Config(
        answers, http=http, ws=stream, lifespan="off", log_config=None, log_level="warning", access_log=False, proxy_headers=False,
        server_header=False, timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=tls.certificate if tls else None, ssl_keyfile=tls.key if tls else None,
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        said = f"{tls.certificate}, {tls.key}" if tls else ""
        raise CallerError(f"gateway.tls: {said}: {error.strerror or error}; name readable PEM files that belong together") from None
    return _Server(config, porch)


def _stream(door: Door, *, server_state: Any, **_: object) -> StreamProtocol:
    return StreamProtocol(door, server_state)


def _listen(host: str, port: int, named_by: str) -> socket.socket:
    """Raises `CallerError`."""
    try:
        [family, kind, number, _, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listener = socket.socket(family, kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CallerError(f"{host}:{port} cannot be listened on: {error.strerror or error}; name another with {named_by}") from None
    listener.setblocking(False)
    return listener


def _first(group: BaseExceptionGroup[SsmdError]) -> SsmdError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("SsmdError", error)
