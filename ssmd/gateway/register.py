"""The open streams, as operators see and change them."""

from __future__ import annotations

from journal.errors import CallerError, NotFound
from ssmd.gateway import answers
from ssmd.gateway.client import Client, Subscription
from ssmd.gateway.hub import Hub
from ssmd.gateway.message import Failed
from ssmd.moments import rfc3339

_SHOWN = 20  # names of a subscription
MODES = ("realtime", "conflated", "latest")


class Register:
    """What `ssmd.gateway.desk.ClientRegister` asks for."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def _client(self, name: str) -> Client:
        if (found := self._hub.clients.get(name)) is None:
            raise NotFound("client", name, list(self._hub.clients))
        return found

    def lines(self) -> list[answers.ClientLine]:
        return [_line(client) for client in self._hub.clients.values()]

    def client(self, name: str) -> answers.Client:
        """Raises `NotFound`."""
        found = self._client(name)
        return answers.Client(client=_line(found), subscriptions=[_subscription(s) for s in found.subscriptions.values()])

    def disconnect(self, name: str, reason: str) -> None:
        """Raises `NotFound`."""
        client = self._client(name)
        client.say_last(Failed(code="disconnected", message=reason))
        client.close(1008, reason)

    def set_mode(self, name: str, mode: str, interval_ms: int, reason: str) -> None:
        """Of all its subscriptions. Raises `NotFound`, `CallerError`."""
        if mode not in MODES:
            raise CallerError(f"mode {mode!r}: write {', '.join(MODES)}")
        self._hub.set_mode(self._client(name), mode, interval_ms, reason or "an administrator changed it")


def _subscription(found: Subscription) -> answers.Subscription:
    named = {(kind, name) for _, kind, name in found.selectors} - {("symbol", "")}  # days, and gaps of everything
    of = sorted({"symbol": name, "all": "*"}.get(kind, f"{kind}:{name}") for kind, name in named)
    return answers.Subscription(
        id=found.id, channels=list(found.channels), mode=found.mode, interval_ms=found.interval_ms, names=len(of), of=of[:_SHOWN]
    )  # fmt: skip


def _line(client: Client) -> answers.ClientLine:
    messages, size, _ = client.buffer.pending
    modes = {s.mode for s in client.subscriptions.values()}
    return answers.ClientLine(
        id=client.id, who=client.who, peer=client.peer, connected_time=rfc3339(client.connected_ns), state=client.buffer.state.value,
        policy=client.buffer.policy.value, mode=", ".join(sorted(modes)), subscriptions=len(client.subscriptions),
        sent=client.sent_messages, sent_bytes=client.sent_bytes, dropped=client.buffer.dropped, conflated=client.buffer.conflated,
        waiting=messages, waiting_bytes=size,
    )  # fmt: skip
