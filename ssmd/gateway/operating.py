"""Days, coverage, streams, clients and health."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from journal.day import iso, to_date, to_int
from journal.entry import Event, canonical_json
from journal.errors import CallerError, NotFound
from journal.subjects import Stream
from projections import coverage
from ssmd.books import folded
from ssmd.day.aggregate import State
from ssmd.day.calendar import Calendar
from ssmd.day.register import Fact, facts
from ssmd.gateway import answers
from ssmd.gateway.desk import AsOf, ClientRegister, Desk
from ssmd.gateway.markets import asked
from ssmd.gateway.operation import Call, CursorText, Query
from ssmd.gateway.paging import cursor_of, place_of
from ssmd.gateway.problem import Flaw, Problem
from ssmd.gateway.room import Shelf
from ssmd.moments import parse_date, parse_duration, rfc3339
from ssmd.system import say
from ssmd.wiring import day_rule

_TIMELINE = 500
_INTERVALS = 200
_LEAST_NS, _MOST_NS = 10 * 10**6, 60 * 10**9  # of conflation


class DaysQuery(Query, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1_000, description="At most so many.")] = 30
    cursor: CursorText = None


class CoverageQuery(Query, frozen=True, kw_only=True):
    date: Annotated[str, Meta(max_length=10, description="YYYY-MM-DD, today or yesterday; the day of `as_of`, else today.")] = ""


class Disconnect(msgspec.Struct, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=500, description="Told to the client, and journalled.")] = ""
    who: Annotated[str, Meta(max_length=200, description="Who does it, as it says of itself; the key is journalled too.")] = ""


class SetMode(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["realtime", "conflated", "latest"]
    interval: Annotated[str, Meta(max_length=20, description="Of mode conflated, such as 500ms.")] = ""
    reason: Annotated[str, Meta(max_length=500)] = ""
    who: Annotated[str, Meta(max_length=200)] = ""


# --- days -------------------------------------------------------------------------------------------------------------------


async def list_days(desk: Desk, call: Call) -> answers.Days:
    query: DaysQuery = call.query
    as_of = await desk.moment(query.as_of, call.now_ns)
    before = place_of("days", query, str)
    found = await desk.now.ask(lambda shelf: facts(shelf.journal, desk.settings.env))
    calendar = Calendar(desk.settings.environment.schedule)
    now_ns = as_of.ns if as_of else call.now_ns
    kept = [f for f in found if _happened(f, as_of, now_ns)]
    today = calendar.today(now_ns).isoformat()
    dates = sorted({f.day for f in kept} | {today}, reverse=True)
    if before:
        dates = [d for d in dates if d < before]
    lines = [_day(calendar, d, [f for f in kept if f.day == d]) for d in dates[: query.limit]]
    following = cursor_of("days", query, lines[-1].date) if len(dates) > query.limit else None
    at_ns = as_of.ns if as_of else max((f.at_ns for f in kept), default=calendar.opens_ns(date.fromisoformat(today)))
    return answers.Days(**asked(at_ns), today=today, days=lines, next=following)


async def show_day(desk: Desk, call: Call) -> answers.Day:
    as_of = await desk.moment(call.query.as_of, call.now_ns)
    now_ns = as_of.ns if as_of else call.now_ns
    calendar = Calendar(desk.settings.environment.schedule)
    day = _date(desk, "date", call.path["date"], now_ns)
    found = await desk.now.ask(lambda shelf: facts(shelf.journal, desk.settings.env, day))
    kept = [f for f in found if _happened(f, as_of, now_ns)]
    if not kept and day != calendar.today(now_ns):
        known = await desk.now.ask(lambda shelf: facts(shelf.journal, desk.settings.env))
        near = sorted({f.day for f in known}, key=lambda d: abs((date.fromisoformat(d) - day).days))[:5]
        raise Problem("not-found", f"nothing ever happened to day {day}", nearest=tuple(near))
    timeline = [
        answers.DayStep(position=f.position, time=rfc3339(f.at_ns), at_ns=f.at_ns, what=f.what, who=f.who, detail=f.detail) for f in kept
    ]
    done = [f for f in kept if f.what == "moved" and f.detail.get("to") in {State.STARTING, State.ENDING}]
    since_ns = done[-1].at_ns if done else 0
    steps = [
        f.detail["step"] for f in kept if f.what == "step_ended" and f.detail["outcome"] in {"done", "skipped"} and f.at_ns >= since_ns
    ]
    record = next((f.detail.get("result", {}).get("record", "") for f in reversed(kept) if f.detail.get("to") == State.COMPLETE), "")
    at_ns = as_of.ns if as_of else max((f.at_ns for f in kept), default=calendar.opens_ns(day))
    return answers.Day(
        **asked(at_ns), day=_day(calendar, day.isoformat(), kept), done=steps, record=record, timeline=timeline[-_TIMELINE:]
    )  # fmt: skip


def _happened(fact: Fact, as_of: AsOf | None, now_ns: int) -> bool:
    if as_of and as_of.stream and as_of.stream.domain == "day":
        return int(fact.position.rpartition(":")[2]) <= as_of.sequence
    return fact.at_ns <= now_ns or as_of is None


def _day(calendar: Calendar, text: str, facts_of: list[Fact]) -> answers.DayLine:
    """A day after what happened to it: the last move says its state."""
    day = date.fromisoformat(text)
    moved = [f for f in facts_of if f.what == "moved"]
    last = moved[-1] if moved else None
    started = next((f for f in reversed(facts_of) if f.what == "step_started"), None)
    under_way = started and last and started.at_ns >= last.at_ns
    return answers.DayLine(
        date=text, state=last.detail["to"] if last else State.PENDING.value, since_time=rfc3339(last.at_ns if last else 0),
        since_ns=last.at_ns if last else 0, step=started.detail["step"] if started and under_way else "",
        forced=any(f.detail.get("forced") for f in moved), who=last.who if last else "", why=last.detail.get("why", "") if last else "",
        opens_time=rfc3339(calendar.opens_ns(day)), over_time=rfc3339(calendar.over_ns(day)), href=f"/v1/days/{text}",
    )  # fmt: skip


def _date(desk: Desk, name: str, text: str, now_ns: int) -> date:
    try:
        return to_date(parse_date(text, day_rule(desk.settings), now_ns))
    except (CallerError, ValueError) as error:
        raise Problem("bad-parameter", f"{name}: {error}", errors=(Flaw(name, str(error)),)) from None


# --- coverage and streams ---------------------------------------------------------------------------------------------------


async def show_coverage(desk: Desk, call: Call) -> answers.CoverageAnswer:
    as_of = await desk.moment(call.query.as_of, call.now_ns)
    now_ns = as_of.ns if as_of else call.now_ns
    rule = day_rule(desk.settings)
    day = to_int(_date(desk, "date", call.query.date, now_ns)) if call.query.date else rule.day_of(now_ns)

    async def work(shelf: Shelf) -> list[answers.ChannelCoverage]:
        found: list[answers.ChannelCoverage] = []
        known: set[int] = set()
        for stream in desk.streams:
            days = await shelf.source.days(stream)
            known |= set(days)
            if day not in days or day > rule.day_of(now_ns):
                continue
            upto = [d for d in days if d <= day]
            if as_of is None and day == rule.day_of(now_ns):
                fold = await shelf.coverage(stream, day, upto)
            else:
                fold = coverage.CoverageProjection()
                end = as_of.sequence if as_of and as_of.stream == stream else None
                await folded(shelf.source, shelf.storage, stream, [fold], as_of_ns=now_ns, upto=upto, end=end, ledgers=shelf.ledger)
            found += [_channel(stream, channel, fold.coverage(channel)) for channel in fold.keys()]  # noqa: SIM118  (a protocol's method)
        if not found and day != rule.day_of(call.now_ns):
            raise NotFound("day with entries:", iso(day), [iso(d) for d in sorted(known)])
        return found

    channels = await desk.past.ask(work)
    at_ns = as_of.ns if as_of else desk.seen_ns(now_ns)
    return answers.CoverageAnswer(**asked(at_ns), date=iso(day), channels=channels)


def _channel(stream: Stream, name: str, found: coverage.ChannelCoverage) -> answers.ChannelCoverage:
    intervals = [
        answers.CoverageInterval(
            status=i.status, cause=i.cause, healed_by=i.healed_by, subscription=i.subscription, from_time=rfc3339(i.from_ns),
            to_time=rfc3339(i.to_ns), first_seq=i.first_seq, last_seq=i.last_seq, entries=i.entries,
        )
        for i in found.intervals[-_INTERVALS:]
    ]  # fmt: skip
    return answers.ChannelCoverage(
        stream=stream.name, channel=name, entries=found.entries, missing=sum(missing for _, missing in found.gaps.values()),
        unreported=found.unreported, disagreed=found.disagreed, intervals=intervals,
    )  # fmt: skip


async def list_streams(desk: Desk, call: Call) -> answers.Streams:
    as_of = await desk.moment(call.query.as_of, call.now_ns)

    async def work(shelf: Shelf) -> tuple[list[answers.StreamLine], int]:
        found, seen_ns = [], 0
        for stream in await shelf.journal.streams(desk.settings.env):
            info = await shelf.journal.info(stream)
            if info is None:
                continue
            last = info.last if as_of is None else min(info.last, await shelf.history(stream).seek(as_of.ns) - 1)
            if as_of and as_of.stream == stream:
                last = min(last, as_of.sequence)
            newest_ns = 0
            if last >= info.first:
                async for records in shelf.journal.read(stream, start=last, end=last):
                    newest_ns = records[-1].entry.effective_ns
            seen_ns = max(seen_ns, newest_ns)
            size = None if as_of else info.bytes
            found.append(
                answers.StreamLine(stream=stream.name, first=info.first, last=max(0, last), bytes=size, newest_time=rfc3339(newest_ns))
            )
        return found, seen_ns

    streams, seen_ns = await desk.now.ask(work)
    return answers.Streams(**asked(as_of.ns if as_of else seen_ns or call.now_ns), streams=streams)


# --- clients ----------------------------------------------------------------------------------------------------------------


async def list_clients(desk: Desk, call: Call) -> answers.Clients:
    del call
    return answers.Clients(clients=_clients(desk).lines())


async def show_client(desk: Desk, call: Call) -> answers.Client:
    return _clients(desk).client(call.path["id"])


async def disconnect(desk: Desk, call: Call) -> answers.Done:
    clients, name, body = _clients(desk), call.path["id"], call.body
    done = await _tell(desk, call, clients.client(name).client, "disconnect")
    clients.disconnect(name, body.reason or "an administrator closed it")
    return done


async def set_mode(desk: Desk, call: Call) -> answers.Done:
    clients, name, body = _clients(desk), call.path["id"], call.body
    try:
        interval_ns = parse_duration(body.interval) if body.interval else 0
    except CallerError as error:
        raise Problem("bad-parameter", f"interval: {error}", errors=(Flaw("interval", str(error)),)) from None
    if (body.mode == "conflated") != (_LEAST_NS <= interval_ns <= _MOST_NS) or (interval_ns and body.mode != "conflated"):
        reason = "mode conflated, and no other, has an interval, from 10ms to 1m"
        raise Problem("bad-parameter", reason, errors=(Flaw("interval", reason),))
    found = clients.client(name)
    if not found.subscriptions:
        raise Problem("bad-request", f"client {name} has no subscription whose mode could be set")
    done = await _tell(desk, call, found.client, "set-mode", mode=body.mode, interval_ns=interval_ns)
    clients.set_mode(name, body.mode, interval_ns // 1_000_000, body.reason)
    return done


async def _tell(desk: Desk, call: Call, client: answers.ClientLine, action: str, **more: Any) -> answers.Done:
    """Journal the action before it is carried out: who, on which client (ids begin again with each start of a gateway), why."""
    said = call.body.who.strip()
    who = f"{said} by {call.grant.who}" if said else call.grant.who
    of = {"client": client.id, "client_who": client.who, "client_peer": client.peer, "connected_time": client.connected_time}
    data = canonical_json({"action": action, **of, "at_ns": call.now_ns, "peer": call.peer, **more})
    event = Event("gateway", data, who=who, why=call.body.reason)
    record = await say(desk.journal, desk.settings.env, client.id, event, clock=desk.clock, days=day_rule(desk.settings))
    position = f"{Stream(desk.settings.env, domain='system').name}:{record.sequence}"
    return answers.Done(client=client.id, action=action, who=who, position=position)


def _clients(desk: Desk) -> ClientRegister:
    if desk.clients is None:
        raise Problem("unavailable", "this gateway serves no streams")
    return desk.clients


# --- health -----------------------------------------------------------------------------------------------------------------


async def live(desk: Desk, call: Call) -> answers.Live:
    del desk, call
    return answers.Live(live=True)


async def ready(desk: Desk, call: Call) -> answers.Ready:
    """Names of what is not as it should be; why is for those who may read."""
    del call
    bad = [check.name for check in _checks(desk) if check.needed and not check.good]
    return answers.Ready(ready=not bad, reasons=bad)


async def health(desk: Desk, call: Call) -> answers.Health:
    del call
    checks = _checks(desk)
    ready = all(check.good for check in checks if check.needed)
    return answers.Health(live=True, ready=ready, replay=desk.replay(), checks=checks)


def _checks(desk: Desk) -> list[answers.Check]:
    keys = answers.Check(name="keys", good=not desk.gatekeeper.error, reason=desk.gatekeeper.error or "keys are followed")
    return [keys, *desk.checks()]
