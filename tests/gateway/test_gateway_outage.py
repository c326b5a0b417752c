"""The journal goes away and comes back: what is known is served, the rest is refused at once, and health says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.gateway.served import GOLD, Served, gateway, seed
from tests.journal.servers import TOKEN, NatsServer

BOOK = f"/v1/markets/{GOLD}/book"


def wait_ready(served: Served, *, ready: bool) -> list[str]:
    deadline = time.monotonic() + 60
    while True:
        answer = served.ask("/v1/health/ready")
        if answer.json["ready"] is ready:
            assert answer.status == (200 if ready else 503)
            return list(answer.json["reasons"])
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)


def test_an_outage_of_the_journal(tmp_path: Path) -> None:
    for name in ("nats", "data"):
        (tmp_path / name).mkdir()
    server = NatsServer(tmp_path / "nats")
    server.start()
    variables = {"SSMD_NATS": server.url, "SSMD_NATS_TOKEN": TOKEN}
    try:
        told = asyncio.run(seed(tmp_path / "data", variables))
        with gateway(tmp_path / "data", told, variables=variables) as served:
            assert wait_ready(served, ready=True) == []
            before = served.good(BOOK)
            server.stop()
            assert wait_ready(served, ready=False) == ["journal"]
            assert served.good("/v1/health/live") == {"live": True}
            assert served.good(BOOK) == before
            for path in ("/v1/markets", f"{BOOK}?as_of=1m", "/v1/streams", "/v1/days", "/v1/coverage"):
                started = time.monotonic()
                answer = served.ask(path)
                assert (answer.status, answer.kind) in {(503, "unavailable"), (504, "too-long")}, answer
                assert TOKEN not in answer.data.decode()
                assert time.monotonic() - started < 45
            server.start()
            assert wait_ready(served, ready=True) == []
            assert served.good(f"{BOOK}?as_of={told.times['delta']}")["bids"] == before["bids"]
            assert served.good("/v1/markets")["markets"]
            assert TOKEN not in served.log
    finally:
        server.stop()
