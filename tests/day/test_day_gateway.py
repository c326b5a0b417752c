"""The step that starts the gateway: skipped where there is none; else done when it says that it can serve."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from journal.clock import WallClock
from journal.errors import StoreError
from ssmd.day.activity import Result, Work
from ssmd.day.answering import address, ask_ready
from ssmd.day.starting import Parts, plan_start
from ssmd.metadata.environment import Environment, Gateway
from ssmd.services.supervisor import Supervisor
from tests.day.captures import Capture


class Told:
    """Processes that are said to run."""

    def __init__(self) -> None:
        self.started: list[str] = []

    async def ensure(self, name: str) -> Result:
        self.started.append(name)
        return {"pid": 7, "already_ran": False}


@contextmanager
def serving(statuses: list[int]) -> Iterator[int]:
    """A server that answers with each status once, and then with the last; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def carried_out(tmp_path: Path, gateway: dict[str, Any]) -> tuple[Result, list[str], Parts]:
    async def run() -> tuple[Result, list[str], Parts]:
        c, processes = Capture(tmp_path), Told()
        fields = {"name": "local", "feed": "kalshi", "gateway": gateway}
        object.__setattr__(c.settings, "environment", Environment.model_validate(fields))
        parts = Parts(c.settings, c.clock, c.journal, c.storage, processes)  # type: ignore[arg-type]
        step = next(s for s in plan_start(parts) if s.name == "gateway")
        return await step.run(Work(date(2026, 8, 10), "key", "ana", forced=False)), processes.started, parts

    return asyncio.run(run())


def test_without_a_gateway_it_is_skipped(tmp_path: Path) -> None:
    result, started, parts = carried_out(tmp_path, {})
    assert result == {"skipped": "gateway.enabled is false"}
    assert started == []
    assert "gateway" not in parts.needed


def test_it_is_done_when_the_gateway_can_serve(tmp_path: Path) -> None:
    with serving([503, 503, 200]) as port:
        result, started, parts = carried_out(tmp_path, {"enabled": True, "port": port, "host": "127.0.0.1"})
    assert (result["url"], started) == (f"http://127.0.0.1:{port}/v1/health/ready", ["gateway"])
    assert "gateway" in parts.needed, "and runs again with the runner"


def test_one_that_does_not_answer_or_cannot_serve_is_an_error() -> None:
    with serving([503]) as port, pytest.raises(StoreError, match="is not ready: 503 /v1/health/ready"):
        ask_ready(Gateway(enabled=True, port=port))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(StoreError, match=r"does not answer at http://127.0.0.1:\d+/v1/health/ready"):
            ask_ready(Gateway(enabled=True, host="0.0.0.0", port=free.getsockname()[1]))  # noqa: S104
    assert address(Gateway(enabled=True, host="::")) == "http://[::1]:8080/v1/health/ready"


@pytest.mark.parametrize("vital", [True, False])
def test_a_gateway_that_cannot_run_is_tried_again_and_ends_no_capture(tmp_path: Path, vital: bool) -> None:
    async def run() -> None:
        clock = WallClock()
        supervisor = Supervisor(clock, tmp_path, {})
        child = await supervisor.start("gateway", ["run", "no-such-service"], vital=vital)
        try:
            async with asyncio.timeout(60):
                while child.restarts < 1 and not supervisor.failed.done():
                    await clock.sleep(0.05)
        finally:
            await supervisor.stop()
        assert supervisor.failed.done() is vital
        assert "no-such-service" in supervisor.log("gateway").read_text()

    asyncio.run(run())
