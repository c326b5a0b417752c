"""Events: groups of markets."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from msgspec import Meta

from ssmd.gateway import answers
from ssmd.gateway.desk import Desk
from ssmd.gateway.markets import Status, asked
from ssmd.gateway.operation import Call, CursorText, Limit, Query, Text
from ssmd.gateway.paging import cursor_of, place_of
from ssmd.gateway.room import Shelf
from ssmd.moments import rfc3339
from ssmd.secmaster.view import GONE


class EventsQuery(Query, frozen=True, kw_only=True):
    category: Annotated[Text, Meta(description="Of this category.")] = ""
    series: Annotated[Text, Meta(description="Of this series.")] = ""
    status: Annotated[Status | None, Meta(description="With a market in this state.")] = None
    limit: Limit = 100
    cursor: CursorText = None


async def list_events(desk: Desk, call: Call) -> answers.Events:
    query: EventsQuery = call.query
    as_of = await desk.moment(query.as_of, call.now_ns)
    after = place_of("events", query, str) or ""
    named = [(name, value) for name in ("category", "series") if (value := getattr(query, name))]
    conditions = ["event > ?", "status <> ?", *(f"{name} = ?" for name, _ in named)]
    values: list[Any] = [after, GONE, *(value for _, value in named)]
    having = "HAVING sum(status = ?) > 0" if query.status else ""
    sql = (
        "SELECT event, min(series), min(category), count(*), sum(status = 'active'), max(close_ns), min(known) FROM markets"  # noqa: S608 (columns)
        f" WHERE {' AND '.join(conditions)} GROUP BY event {having} ORDER BY event LIMIT ?"
    )

    async def work(shelf: Shelf) -> tuple[list[tuple[Any, ...]], int]:
        view = await shelf.markets(as_of.ns if as_of else None)
        rows = view.query(sql, [*values, *([query.status] if query.status else []), query.limit + 1])
        return [(*row, view.known(blob).market) for *row, blob in rows], view.place.effective_ns

    found, at_ns = await desk.read(as_of, work)
    lines = []
    for event, series, category, count, active, close_ns, market in found[: query.limit]:
        lines.append(
            answers.EventLine(
                event=event, series=series, category=category, title=market.title if market else "", markets=count, active=active,
                closes_time=rfc3339(close_ns), href=f"/v1/markets?event={quote(event, safe='')}",
            )
        )  # fmt: skip
    following = cursor_of("events", query, lines[-1].event) if len(found) > query.limit else None
    at_ns = as_of.ns if as_of else at_ns or desk.seen_ns(call.now_ns)
    return answers.Events(**asked(at_ns), events=lines, next=following)
