"""``ssmd_gateway_requests_total{operation,status}`` and ``ssmd_gateway_request_seconds{operation}``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

# From a look into memory to the longest fold of the past that is waited for.
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class Measures:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests = Counter("ssmd_gateway_requests", "Requests answered.", ["operation", "status"], registry=registry)
        self._seconds = Histogram(
            "ssmd_gateway_request_seconds", "From the request's head to its answer.", ["operation"], registry=registry, buckets=_BOUNDS_S
        )

    def answered(self, operation: str, status: int, seconds: float) -> None:
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' format. May wait: collectors may ask a vault."""
        return generate_latest(self._registry)
