"""Prometheus metrics of ssmd's processes, served on loopback for a scraper, or written to a file for a cron job.

``ssmd_key_expires_timestamp_seconds{env,key}``: when a key expires, in seconds since 1970; none for a key of which it is not known:
without `rotation_days` or certificate, never set, or its source does not say when it was.

``ssmd_secmaster_markets{env,status}``: how many markets are in a state, `unknown` among them even if there is none;
``ssmd_secmaster_synced_timestamp_seconds{env}``: when the newest synchronisation of them began. Of the process that keeps them up to date
(`ssmd run secmaster`), or written by ``ssmd secmaster stats --textfile``; none while there is no view of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from journal.clock import Clock
from journal.errors import CallerError, StoreError
from ssmd.keys.check import KeyState, examine

if TYPE_CHECKING:
    from ssmd.secmaster.glance import Glance
    from ssmd.settings import Settings

REFRESH_NS = 3_600 * 10**9  # keys change rarely, and asking a vault costs it something
EXPIRES = "ssmd_key_expires_timestamp_seconds"
MARKETS = "ssmd_secmaster_markets"
SYNCED = "ssmd_secmaster_synced_timestamp_seconds"


class KeyExpiry(Collector):
    """The gauge, from a look at the keys that is at most an hour old. `look` is called in the scraper's thread, and may wait."""

    def __init__(self, env: str, look: Callable[[], Sequence[KeyState]], clock: Clock) -> None:
        self._env = env
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._due_ns = clock.mono_ns()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with self._lock:
            if self._clock.mono_ns() >= self._due_ns:
                self._refresh(self._look())
                self._due_ns = self._clock.mono_ns() + REFRESH_NS
            family = GaugeMetricFamily(EXPIRES, "When a key expires; absent where it is not known.", labels=["env", "key"])
            for name, end_ns in self._known.items():
                family.add_metric([self._env, name], end_ns / 1e9)
        return [family]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        # Registering must not look at the keys.
        return [GaugeMetricFamily(EXPIRES, "When a key expires.", labels=["env", "key"])]

    def _refresh(self, states: Sequence[KeyState]) -> None:
        # A source that does not answer just now does not silence the alarm of its key.
        kept = {s.name: self._known[s.name] for s in states if s.status in {"refused", "unavailable"} and s.name in self._known}
        self._known = kept | {s.name: s.expires_ns for s in states if s.expires_ns}


class MarketStates(Collector):
    """How many markets are in which state, and how old that is. `look` is called in the scraper's thread at each scrape."""

    def __init__(self, env: str, look: Callable[[], Glance | None]) -> None:
        self._env = env
        self._look = look

    def collect(self) -> Iterable[GaugeMetricFamily]:
        markets, synced = self.describe()
        if glance := self._look():
            for status, count in ({"unknown": 0} | glance.by_status).items():
                markets.add_metric([self._env, status], count)
            if glance.synced_ns:
                synced.add_metric([self._env], glance.synced_ns / 1e9)
        return [markets, synced]

    def describe(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(MARKETS, "Markets that are there, by state.", labels=["env", "status"]),
            GaugeMetricFamily(SYNCED, "When the newest synchronisation with a venue began.", labels=["env"]),
        )


def market_states(settings: Settings) -> MarketStates:
    """Those of the environment's view on this machine."""
    from ssmd.secmaster.glance import glance_at
    from ssmd.secmaster.reading import path_of

    path = path_of(settings.data_dir, settings.env)
    return MarketStates(settings.env, lambda: glance_at(path))


def registry_of(settings: Settings, *, markets: bool = False) -> CollectorRegistry:
    """What a process of this environment has to say; with `markets` one that keeps them up to date."""
    from ssmd.keys.resolve import Resolver

    environment = settings.environment
    place = settings.place()
    registry = CollectorRegistry()

    def look() -> Sequence[KeyState]:
        return examine(environment, Resolver(settings.env, environment.keys, place), place)

    registry.register(KeyExpiry(settings.env, look, place.clock))
    if markets:
        registry.register(market_states(settings))
    return registry


@contextmanager
def serve_metrics(bind: str, registry: CollectorRegistry) -> Iterator[int]:
    """Serve ``/metrics`` at HOST:PORT, in a thread, until the block ends; the port. Raises `CallerError`."""
    host, _, port = bind.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise CallerError(f"--metrics {bind}: write HOST:PORT, such as 127.0.0.1:9464")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except OSError as error:
        raise CallerError(f"--metrics {bind}: {error.strerror or error}; name another port") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_textfile(path: Path, collector: Collector) -> None:
    """Its gauges, whole or not at all, for node_exporter's textfile collector. Raises `StoreError`."""
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
