"""Every route of the REST interface, declared once."""

from __future__ import annotations

import asyncio
from functools import cache

from ssmd.gateway import answers, events, markets, operating, tape
from ssmd.gateway.desk import Desk
from ssmd.gateway.operation import Call, Operation, Query
from ssmd.gateway.problem import encode


async def _metrics(desk: Desk, call: Call) -> bytes:
    del call
    return await asyncio.to_thread(desk.metrics)  # it may ask a vault when keys expire


async def _openapi(desk: Desk, call: Call) -> bytes:
    del desk, call
    return documents()[0]


async def _asyncapi(desk: Desk, call: Call) -> bytes:
    del desk, call
    return documents()[1]


@cache
def documents() -> tuple[bytes, bytes]:
    """OpenAPI and AsyncAPI, as JSON."""
    from ssmd.gateway import asyncapi, openapi

    return encode(openapi.describe(OPERATIONS)), encode(asyncapi.describe())


OPERATIONS: tuple[Operation, ...] = (
    Operation("listMarkets", "/v1/markets", "Markets by symbol, or by words.", markets.list_markets, answers.Markets, markets.MarketsQuery),
    Operation("showMarket", "/v1/markets/{symbol}", "Its definition, prices, book, gaps.", markets.show_market, answers.Market, Query),
    Operation(
        "showBook", "/v1/markets/{symbol}/book", "Its order book, now or at any past moment.", markets.show_book, answers.BookAnswer,
        markets.BookQuery,
    ),
    Operation("listTrades", "/v1/markets/{symbol}/trades", "Its trades.", tape.list_trades, answers.Trades, tape.TradesQuery),
    Operation(
        "listCandles", "/v1/markets/{symbol}/candles", "Candles of its trades, by the time they were journalled for.", tape.list_candles,
        answers.Candles, tape.CandlesQuery,
    ),
    Operation("listEvents", "/v1/events", "Events: groups of markets.", events.list_events, answers.Events, events.EventsQuery),
    Operation("listDays", "/v1/days", "Trading days, newest first.", operating.list_days, answers.Days, operating.DaysQuery),
    Operation("showDay", "/v1/days/{date}", "One trading day and what happened to it.", operating.show_day, answers.Day, Query),
    Operation(
        "showCoverage", "/v1/coverage", "What of a day is proved to be there, by channel.", operating.show_coverage,
        answers.CoverageAnswer, operating.CoverageQuery,
    ),
    Operation("listStreams", "/v1/streams", "The journal's streams and their bounds.", operating.list_streams, answers.Streams, Query),
    Operation("listClients", "/v1/clients", "Open streams.", operating.list_clients, answers.Clients, scope="admin"),
    Operation("showClient", "/v1/clients/{id}", "One open stream.", operating.show_client, answers.Client, scope="admin"),
    Operation(
        "disconnectClient", "/v1/clients/{id}", "Close a stream.", operating.disconnect, answers.Done, body=operating.Disconnect,
        method="DELETE", scope="admin",
    ),
    Operation(
        "setClientMode", "/v1/clients/{id}/mode", "Change how a stream is served.", operating.set_mode, answers.Done,
        body=operating.SetMode, method="POST", scope="admin",
    ),
    Operation("showHealth", "/v1/health", "Each part of the gateway, and why it is not ready.", operating.health, answers.Health),
    Operation("isLive", "/v1/health/live", "Whether the process answers.", operating.live, answers.Live, scope=""),
    Operation("isReady", "/v1/health/ready", "200 if it can serve, else 503.", operating.ready, answers.Ready, scope="", unready=True),
    Operation("metrics", "/metrics", "Prometheus metrics.", _metrics, str, media="text/plain; version=0.0.4; charset=utf-8"),
    Operation("openapi", "/openapi.json", "This description.", _openapi, dict, scope="", media="application/json"),
    Operation("asyncapi", "/asyncapi.json", "The stream's description.", _asyncapi, dict, scope="", media="application/json"),
)  # fmt: skip
