"""Every venue ssmd knows: a name and where its parts are. Nothing is imported until it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from journal.errors import NotFound


@dataclass(frozen=True, slots=True)
class Venue:
    """Each part as ``module:name``."""

    adapter: str
    rest: str
    signer: str
    # What changes a market: a newer definition of it, a message about it, the time.
    observed: str
    told: str
    due: str
    websocket_url: str
    rest_url: str


VENUES: dict[str, Venue] = {
    "kalshi": Venue(
        adapter="exchanges.kalshi.adapter:KalshiAdapter",
        rest="exchanges.kalshi.rest:KalshiRest",
        signer="exchanges.kalshi.signing:load_signer",
        observed="exchanges.kalshi.changes:observed_changes",
        told="exchanges.kalshi.changes:lifecycle_changes",
        due="exchanges.kalshi.changes:derived_changes",
        websocket_url="wss://external-api-ws.kalshi.com/trade-api/ws/v2",
        rest_url="https://external-api.kalshi.com/trade-api/v2",
    ),
}


def venue(name: str) -> Venue:
    """The venue's entry. Raises `NotFound` with the known names."""
    try:
        return VENUES[name]
    except KeyError:
        raise NotFound("venue", name, list(VENUES)) from None


def load(target: str) -> Any:
    """What a ``module:name`` of a `Venue` points to."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
