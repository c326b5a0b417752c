"""What the streams carry, for Prometheus: ``ssmd_gateway_clients{state}``, ``ssmd_gateway_published_messages_total`` (each once, however
many get it), ``ssmd_gateway_sent_messages_total``, ``ssmd_gateway_sent_bytes_total``, ``ssmd_gateway_dropped_messages_total``,
``ssmd_gateway_conflated_messages_total``, ``ssmd_gateway_view_sequence{stream}``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ssmd.gateway.buffer import State
from ssmd.gateway.hub import Hub
from ssmd.gateway.views import Views


class Traffic(Collector):
    """Collected in the scraper's thread: it copies before it counts."""

    def __init__(self, hub: Hub, views: Views) -> None:
        self._hub = hub
        self._views = views

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        clients = GaugeMetricFamily("ssmd_gateway_clients", "Connected streams by the state of their buffer.", labels=["state"])
        states = Counter(client.buffer.state for client in tuple(self._hub.clients.values()))
        for state in State:
            clients.add_metric([state.value], states[state])
        yield clients
        totals = {"published_messages": self._hub.published, **self._hub.totals()}
        for name, total in totals.items():
            yield CounterMetricFamily(f"ssmd_gateway_{name}", f"{name.replace('_', ' ').capitalize()} since the start.", value=total)
        sequences = GaugeMetricFamily("ssmd_gateway_view_sequence", "How far each market stream is folded.", labels=["stream"])
        for view in self._views.shards:
            sequences.add_metric([view.stream.name], view.position)
        yield sequences
