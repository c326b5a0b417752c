"""What `ssmd day` prints."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec

from journal.archive import find_manifest
from journal.day import to_int
from journal.entry import Event
from journal.errors import NotFound, SsmdError
from journal.protocols import JournalReader, Storage
from journal.subjects import Stream
from ssmd.day.aggregate import OPEN, State, TradingDay
from ssmd.day.calendar import Calendar
from ssmd.day.extent import of_results
from ssmd.day.processes import TYPE
from ssmd.day.record import archived_streams, compare, read_record, streams_of
from ssmd.day.register import Fact
from ssmd.moments import rfc3339
from ssmd.settings import IMPORT

_CRASHES_NS, _MANY_CRASHES = 600_000_000_000, 3  # within ten minutes
_MAX_WHY = 60  # characters of a reason in a table
_MAX_PROCESSES = 500  # the newest ones of a day


def line(day: TradingDay, now_ns: int, *, runner: bool | None = None, failing: Sequence[str] = ()) -> dict[str, Any]:
    """A day in a row. `runner` says whether one lives; None: not asked. `failing` are processes that crash, in words."""
    row: dict[str, Any] = {
        "date": day.day, "state": day.state, "since": rfc3339(day.since_ns), "step": day.step, "done": list(day.done), "by": day.who,
        "why": day.why, "forced": day.forced, "mode": day.mode,
    }  # fmt: skip
    if runner is not None:
        row["runner"] = "lives" if runner else "none"
        row["failing"] = "; ".join(failing) if day.state in OPEN and day.mode == "live" else ""
        row["for_s"] = max(0, now_ns - day.since_ns) // 10**9 if day.since_ns else 0
    return row


def brief(day: TradingDay, facts: list[Fact]) -> dict[str, Any]:
    """A day in `ssmd day history`."""
    moves = [f for f in facts if f.day == day.day and f.what == "moved"]
    first = {f.detail["to"]: f for f in reversed(moves)}
    active, ended = first.get(State.ACTIVE), moves[-1] if moves and moves[-1].detail["to"] not in OPEN else None
    return {
        "date": day.day, "state": day.state, "started_by": moves[0].who if moves else "", "active": rfc3339(active.at_ns if active else 0),
        "ended": rfc3339(ended.at_ns if ended else 0), "ended_by": next((f.who for f in moves if f.detail["to"] == State.ENDING), ""),
        "forced": day.forced, "mode": day.mode, "shards": [e.stream.shard for e in of_results(day.done)],
        "entries": sum(e.entries for e in of_results(day.done)), "record": day.record, "why": day.why,
    }  # fmt: skip


def readable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `line` or `brief` for people, without columns that say nothing."""
    shown = [_readable(row) for row in rows]
    return [{name: value for name, value in row.items() if any(other[name] != "" for other in shown)} for row in shown]


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people: times to the second, steps counted, the beginning of a reason, whether there is a record."""
    shown = {name: f"{len(v)} steps" if name == "done" else ", ".join(v) if name == "shards" else v for name, v in row.items()}
    for name in {"since", "active", "ended"} & shown.keys():
        shown[name] = str(shown[name]).partition(".")[0].replace("T", " ")
    if "record" in shown:
        shown["record"] = "yes" if shown["record"] else ""
    why = str(shown["why"]).partition("\n")[0]
    shown["why"] = why if len(why) <= _MAX_WHY else why[: _MAX_WHY - 1] + "…"
    shown["forced"] = "yes" if shown["forced"] else ""
    return shown


async def failing(journal: JournalReader, env: str, now_ns: int) -> list[str]:
    """Processes that crashed within the last minutes and are not known to be well: the last that happened to them, or too often."""
    stream, crashes, last = Stream(env, domain="system"), Counter[str](), dict[str, str]()
    if await journal.info(stream) is None:
        return []
    start = await journal.seek(stream, now_ns - _CRASHES_NS)
    async for records in journal.read(stream, start=start, subjects=[f"{env}.system.{TYPE}.*"]):
        for _, entry in records:
            if isinstance(entry.body, Event):
                said = msgspec.json.decode(entry.body.data)
                last[entry.symbol] = said.get("what", "")
                crashes[entry.symbol] += last[entry.symbol] == "crashed"
    ill = [name for name, count in sorted(crashes.items()) if count and (last[name] == "crashed" or count >= _MANY_CRASHES)]
    return [f"{name} crashed {crashes[name]} times in {_CRASHES_NS // 60_000_000_000} minutes, see logs/{name}.log" for name in ill]


async def whole(day: TradingDay, facts: list[Fact], calendar: Calendar, journal: JournalReader, storage: Storage) -> dict[str, Any]:
    """Everything about a day: its timeline, its processes, its archive and its record, which is checked."""
    when = date.fromisoformat(day.day)
    recorded = await asyncio.to_thread(_record, storage, day.record) if day.record else None
    archive = await asyncio.to_thread(_archive, storage, day.env, to_int(when))
    streams = streams_of(recorded["body"]) if recorded and "body" in recorded else []
    if recorded and "body" in recorded:
        recorded["objects"] = await compare(storage, day.env, when, streams)
    return {
        "env": day.env, "date": day.day, "state": day.state, "mode": day.mode, "source": day.source, "since_ns": day.since_ns,
        "by": day.who, "why": day.why, "forced": day.forced, "opens_ns": calendar.opens_ns(when), "over_ns": calendar.over_ns(when),
        "step": day.step,
        "timeline": [{"position": f.position, "at_ns": f.at_ns, "what": f.what, "who": f.who, **f.detail} for f in facts],
        "processes": await _processes(journal, day.env, to_int(when)),
        "archive": archive,
        "record": recorded,
        "late_entries": _late(archive, streams) if streams else 0,
    }  # fmt: skip


def _late(archive: list[dict[str, Any]], recorded: list[dict[str, Any]]) -> int:
    """Entries that were archived after the record was written."""
    known = {r["stream"]: r["entries"] for r in recorded}
    return sum(max(0, a["entries"] - known.get(a["stream"], 0)) for a in archive if a["stream"] in known or not _imported(a["stream"]))


def _imported(stream: str) -> bool:
    return Stream.parse(stream).shard == IMPORT


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """The day without its parts, for people."""
    archive, record = document["archive"], document["record"] or {}
    gaps = [gap for a in archive for gap in a["gaps"]]
    reasons = {gap["reason"] for gap in gaps}
    counts = Counter[str]()
    for a in archive:
        counts.update(a["counts"])
    return {
        **{name: document[name] for name in ("env", "date", "state", "mode", "by", "why", "forced")},
        **({"source": ", ".join(document["source"].values())} if document["source"] else {}),
        "since": rfc3339(document["since_ns"]),
        "opens": rfc3339(document["opens_ns"]),
        "over": rfc3339(document["over_ns"]),
        "step": document["step"],
        "shards": ", ".join(f"{Stream.parse(a['stream']).shard} ({a['entries']:,} entries)" for a in archive),
        "entries": ", ".join(f"{count:,} {kind}" for kind, count in counts.items()),
        "gaps": f"{len(gaps)}: {', '.join(sorted(reasons))}" if gaps else "0",
        "archive": "; ".join(f"{a['objects']} objects, {a['object_bytes']:,} bytes in {a['folder']}" for a in archive),
        "record": record.get("key", ""),
        "objects of record": _shown(record["objects"]) if "objects" in record else record.get("error", ""),
        "digests compared": record.get("body", {}).get("digests_compared", ""),
        "late entries": document["late_entries"],
    }


def _shown(objects: dict[str, Any]) -> str:
    """What became of what the record names."""
    parts = [f"{objects['unchanged']} unchanged"] if objects["unchanged"] else []
    parts += [f"{len(objects['grown'])} replaced by larger ones with the same entries and late ones"] if objects["grown"] else []
    parts += [f"CHANGED: {'; '.join(objects['changed'])}"] if objects["changed"] else []
    return ", ".join(parts)


def timeline(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The timeline as rows for people."""
    rows = []
    for fact in [*document["timeline"], *({**p, "what": "process"} for p in document["processes"])]:
        if fact["what"] == "moved":
            text = f"{fact['was']} → {fact['to']}{' (forced)' if fact['forced'] else ''}"
            text += f": {fact['why']}" if fact["why"] else ""
        elif fact["what"] == "step_ended":
            plain = {k: v for k, v in fact["result"].items() if isinstance(v, str | int)}
            text = f"{fact['phase']} {fact['step']}: {fact['outcome']}  {', '.join(f'{k} {v}' for k, v in plain.items())}"
        elif fact["what"] == "process":
            text = f"{fact['process']} {fact['happened']}, pid {fact['pid']}"
        elif fact["what"] == "step_started":
            continue
        else:
            text = f"{fact['what']} {msgspec.json.encode(fact.get('detail', {})).decode()}"
        seconds = f"{fact['duration_ns'] / 1e9:.1f}" if fact.get("duration_ns") else ""
        at = rfc3339(fact["at_ns"]).partition("T")[2][:12]
        rows.append((fact["at_ns"], {"at": at, "what": text, "took_s": seconds, "who": fact["who"]}))
    return [row for _, row in sorted(rows, key=lambda r: r[0])]


async def _processes(journal: JournalReader, env: str, day: int) -> list[dict[str, Any]]:
    stream, found = Stream(env, domain="system"), list[dict[str, Any]]()
    if await journal.info(stream) is None:
        return found
    async for records in journal.read(stream, subjects=[f"{env}.system.{TYPE}.*"]):
        for number, entry in records:
            if entry.day == day and isinstance(entry.body, Event):
                said = msgspec.json.decode(entry.body.data)
                happened = said.pop("what", "")
                row = {"position": f"{stream.name}:{number}", "at_ns": entry.effective_ns, "who": entry.body.who, "happened": happened}
                found.append({**row, **said})
        del found[:-_MAX_PROCESSES]
    return found


def _archive(storage: Storage, env: str, day: int) -> list[dict[str, Any]]:
    """What is archived of the day, a market stream each."""
    rows = []
    for stream in archived_streams(storage, env, day):
        found = find_manifest(storage, stream, day)
        if not found:
            continue
        folder, manifest = found
        segments = manifest.of_stream(stream.name)
        counts = Counter[str]()
        for segment in segments:
            counts.update(segment.counts)
        objects = [o for s in segments for o in s.objects]
        rows.append({
            "stream": stream.name, "folder": folder, "status": manifest.status, "entries": sum(s.entries for s in segments),
            "counts": dict(counts), "first": segments[0].first, "last": segments[-1].last, "objects": len(objects),
            "object_bytes": sum(o.bytes for o in objects),
            "gaps": [msgspec.to_builtins(g) for g in manifest.gaps if g.position.rpartition(":")[0] == stream.name],
            "snapshots": [msgspec.to_builtins(s) for s in manifest.snapshots if s.closing.stream == stream.name],
        })  # fmt: skip
    return rows


def _record(storage: Storage, key: str) -> dict[str, Any]:
    """The record, or what is wrong with it."""
    try:
        return {"key": key, **read_record(storage.get(key), key)}
    except NotFound:
        return {"key": key, "error": "the object is gone; restore it from a copy"}
    except SsmdError as error:
        return {"key": key, "error": str(error)}
