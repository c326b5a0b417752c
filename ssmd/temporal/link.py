"""The connection to Temporal: where it is, and what is said when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from journal.errors import CallerError, SsmdError, StoreError
from ssmd.keys.secret import Secret

CONNECT_S = 5.0


class TemporalUnavailable(StoreError):
    """It does not answer."""


@dataclass(frozen=True)
class Target:
    """`shown` is the address for people: it may be the value of a key."""

    address: str
    shown: str
    namespace: str = "default"
    tls: TLSConfig | None = None
    api_key: Secret = field(default_factory=lambda: Secret(""))


@asynccontextmanager
async def connected(target: Target, timeout_s: float = CONNECT_S) -> AsyncIterator[Client]:
    """Raises `TemporalUnavailable` within `timeout_s`, and `CallerError` for a namespace that is not there."""
    # Its threads end with it: those of the library's own runtime may still run when the interpreter ends, and crash it then.
    runtime = Runtime(telemetry=TelemetryConfig(logging=None), worker_heartbeat_interval=None)
    try:
        async with asyncio.timeout(timeout_s):
            client = await Client.connect(
                target.address,
                namespace=target.namespace,
                tls=target.tls or False,
                api_key=target.api_key.reveal() or None,
                runtime=runtime,
            )
            await _check_namespace(client, target)
    except (TimeoutError, RuntimeError, RPCError) as error:
        if isinstance(error, RPCError) and error.status not in {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED}:
            raise refused(error, target) from error
        raise unavailable(target) from error
    yield client


def unavailable(target: Target) -> TemporalUnavailable:
    return TemporalUnavailable(
        f"Temporal does not answer at {target.shown}, and it alone carries out trading days here: start it, or correct scheduler.address "
        "in the environment's file; to do without it set scheduler.type: embedded there, then `ssmd day run`. Nothing was asked or changed"
    )


def refused(error: RPCError, target: Target) -> SsmdError:
    """What the server says no to, in our words."""
    if error.status is RPCStatusCode.NOT_FOUND:
        return CallerError(
            f"Temporal at {target.shown} has no namespace {target.namespace!r}: make it with `temporal operator namespace create -n "
            f"{target.namespace}`, or correct scheduler.namespace"
        )
    if error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}:
        return CallerError(f"Temporal at {target.shown} does not let us in ({error.message}): check scheduler.api_key and scheduler.tls")
    return StoreError(f"Temporal at {target.shown} says {error.status.name}: {error.message}")


async def _check_namespace(client: Client, target: Target) -> None:
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=target.namespace), timeout=timedelta(seconds=CONNECT_S)
        )
    except RPCError as error:
        # Who may work in a namespace need not be allowed to ask about it.
        if error.status is not RPCStatusCode.PERMISSION_DENIED:
            raise


@contextmanager
def answered(target: Target) -> Iterator[None]:
    """Errors of the block's calls as ours."""
    try:
        yield
    except RPCError as error:
        if error.status in {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED}:
            raise TemporalUnavailable(
                f"Temporal at {target.shown} has stopped answering; what was asked is in the journal and goes on when it is back: see "
                "`ssmd day status`"
            ) from error
        raise refused(error, target) from error
