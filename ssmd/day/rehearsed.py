"""What a rehearsal proves: the journal and the archive held against the simulator's own log of what it sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from exchanges.kalshi.conversation import CHANNEL_OF
from exchanges.simulator.oracle import Sent, read_log
from journal.archive import ArchiveReader, segments_of
from journal.day import to_date, to_int
from journal.entry import Body, Control, Gap
from journal.errors import CorruptionError, NotFound, NothingToVerify
from journal.protocols import Journal, Storage
from journal.subjects import Stream
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.register import Register
from ssmd.day.rehearsal import SERIES, Kill, Rehearsal

BOOKS = "orderbook_delta"
CHANNELS = {
    "orderbook_delta": BOOKS, "orderbook_snapshot": BOOKS, "trade": "trade", "ticker": "ticker",
    "market_lifecycle_v2": "market_lifecycle_v2", "event_lifecycle": "market_lifecycle_v2",
}  # fmt: skip
_MOST = 10  # findings of one kind that are told


class Check(NamedTuple):
    check: str
    ok: bool
    said: str


class Missing(NamedTuple):
    """Of a `Gap`: `channel` and `symbol` are "" for all. One of a market is over with the market's next frame."""

    channel: str
    symbol: str
    from_ns: int
    to_ns: int


class _Connection(msgspec.Struct):
    """Frames of one connection: a hash and place of each that carries data, and of each."""

    first_ns: int
    hashes: list[int] = []
    frames: list[tuple[int, str, str]] = []  # when, channel ("" is an answer), symbol


class _Epoch(msgspec.Struct):
    """`last_ns` is of the last entry until something else was opened: a gap begins there, and what had not been read then is in it."""

    first_ns: int
    last_ns: int = 0
    hashes: list[int] = []


class _Message(msgspec.Struct):
    market_ticker: str = ""


class _Frame(msgspec.Struct):
    type: str
    msg: msgspec.Raw = msgspec.Raw(b"{}")


_frame, _message = msgspec.json.Decoder(_Frame).decode, msgspec.json.Decoder(_Message).decode


class Journalled:
    """One pass over the market stream."""

    def __init__(self, day_of: Callable[[int], int]) -> None:
        self._day_of = day_of
        self.entries: Counter[int] = Counter()
        self.gap_entries: Counter[int] = Counter()
        self.gaps: list[Missing] = []
        self.begun: Counter[str] = Counter()  # channel -> its first sign of life: nobody says anything of what was before
        self.epochs: dict[bytes, _Epoch] = {}
        self.wrong: list[str] = []
        self.last = 0
        self._open: dict[tuple[str, str], int] = {}  # (channel, market) -> its newest gap, until its next frame

    async def read(self, journal: Journal, stream: Stream) -> None:
        seen: set[Any] = set()
        before, current = 0, _Epoch(0)
        async for records in journal.read(stream):
            for sequence, entry in records:
                if entry.id in seen:
                    self.wrong.append(f"{stream.name}:{sequence} has the id of another entry")
                seen.add(entry.id)
                if entry.day < before or entry.day != self._day_of(entry.effective_ns):
                    self.wrong.append(f"{stream.name}:{sequence} is of day {entry.day}, after {before}, at {entry.effective_ns}")
                before = entry.day
                self.entries[entry.day] += 1
                if isinstance(entry.body, Gap):
                    self.gap_entries[entry.day] += 1
                    self._open[entry.body.channel, entry.symbol] = len(self.gaps)
                    self.gaps.append(Missing(entry.body.channel, entry.symbol, entry.body.from_ns, entry.body.to_ns))
                if entry.raw and (channel := _channel(entry.body)):
                    self.begun.setdefault(channel, entry.recv_ns)
                    if entry.symbol and (at := self._open.pop((channel, entry.symbol), None)) is not None:
                        self.gaps[at] = self.gaps[at]._replace(to_ns=max(self.gaps[at].to_ns, entry.recv_ns))
                if isinstance(entry.body, Control) and entry.body.action == "opened":
                    current = _Epoch(0)  # of nobody: what came before is over
                if entry.raw:
                    current = self.epochs.setdefault(entry.epoch, _Epoch(entry.recv_ns))
                    current.hashes.append(hash(entry.raw))
                current.last_ns = entry.effective_ns
                self.last = sequence


class Comparison:
    """Every message that was sent, by what became of it."""

    def __init__(self) -> None:
        self.sent = self.stored = self.in_gaps = self.unheard = 0
        self.lost: list[str] = []
        self.strange: list[str] = []
        self.first: dict[str, bool | None] = {}  # market of the series -> its first message is journalled; None: it is in a gap

    def compare(self, logs: Iterable[Path], journalled: Journalled, *, until_ns: int) -> None:
        connections: list[_Connection] = []
        silent: list[tuple[int, str, str]] = []
        opening: dict[str, tuple[_Connection | None, int]] = {}  # market -> its first change: connection and number
        for path in sorted(logs):
            of: dict[int, _Connection] = {}
            for sent in read_log(path):
                at = _place(sent)
                conn = of.get(sent.conn)
                if not sent.conn:
                    silent.append(at)
                elif conn is None:
                    conn = of[sent.conn] = _Connection(sent.when_ns)
                    connections.append(conn)
                if conn:
                    conn.hashes.append(hash(sent.data))
                    conn.frames.append(at)
                if at[1] == BOOKS and at[2].startswith(SERIES) and sent.data.startswith(b'{"type":"orderbook_delta"'):
                    opening.setdefault(at[2], (conn, len(conn.hashes) - 1 if conn else len(silent) - 1))
        connections.sort(key=lambda c: c.first_ns)
        stored = self._match(connections, journalled)
        for number, conn in enumerate(connections):
            self._tail(conn, *stored.get(number, (0, 0)), journalled, until_ns)
        for when_ns, channel, symbol in silent:
            if channel and journalled.begun[channel] <= when_ns < until_ns:
                self.unheard += 1
                if not covered(journalled.gaps, when_ns, channel, symbol):
                    self.lost.append(f"nobody was subscribed to {symbol or channel} at {when_ns}")
        numbers = {id(c): n for n, c in enumerate(connections)}
        for symbol, (conn_, at_) in opening.items():
            when_ns = (conn_.frames if conn_ else silent)[at_][0]
            if journalled.begun[BOOKS] <= when_ns < until_ns:
                heard = conn_ is not None and at_ < stored.get(numbers[id(conn_)], (0, 0))[0]
                excused = not heard and covered(journalled.gaps, when_ns, BOOKS, symbol, _last(stored, numbers, conn_))
                self.first[symbol] = None if excused else heard

    def _match(self, connections: list[_Connection], journalled: Journalled) -> dict[int, tuple[int, int]]:
        """Which connection each epoch is a beginning of: frames that are journalled, and when the last was read."""
        stored: dict[int, tuple[int, int]] = {}
        for epoch, heard in journalled.epochs.items():
            count = len(heard.hashes)
            found = next(
                (
                    n
                    for n, c in enumerate(connections)
                    if n not in stored and c.first_ns <= heard.first_ns and c.hashes[:count] == heard.hashes
                ),
                None,
            )
            if found is None:
                self.strange.append(f"the {count} frames of connection {epoch.hex()} are not what the venue sent, each once and in order")
            else:
                stored[found] = (count, heard.last_ns)
        return stored

    def _tail(self, conn: _Connection, kept: int, last_ns: int, journalled: Journalled, until_ns: int) -> None:
        """What was sent after the last frame that is journalled."""
        for number, (when_ns, channel, symbol) in enumerate(conn.frames):
            if not channel or when_ns >= until_ns or (number >= kept and when_ns < journalled.begun[channel]):
                continue
            self.sent += 1
            if number < kept:
                self.stored += 1
            elif covered(journalled.gaps, when_ns, channel, symbol, last_ns):
                self.in_gaps += 1
            else:
                self.lost.append(f"{channel} of {symbol or 'a market'} sent at {when_ns} is not journalled and in no gap")


def covered(gaps: list[Missing], when_ns: int, channel: str, symbol: str, after_ns: int = 0) -> bool:
    """Whether a gap says so. A gap is from the last entry on, read at `after_ns`; what was on its way then is missing since."""
    return any(
        gap.channel in {"", channel} and gap.symbol in {"", symbol} and gap.from_ns <= max(when_ns, after_ns) and when_ns <= gap.to_ns
        for gap in gaps
    )


def _channel(body: Body) -> str:
    """Whose sign of life it is."""
    return body.channel if isinstance(body, Control) and body.action == "subscribed" else CHANNEL_OF.get(type(body), "")


def _last(stored: dict[int, tuple[int, int]], numbers: dict[int, int], conn: _Connection | None) -> int:
    return stored.get(numbers[id(conn)], (0, 0))[1] if conn else 0


def _place(sent: Sent) -> tuple[int, str, str]:
    frame = _frame(sent.frame)
    channel = CHANNELS.get(frame.type, "")
    return sent.when_ns, channel, _message(frame.msg).market_ticker if channel else ""


async def examine(rehearsal: Rehearsal, journal: Journal, storage: Storage, tell: Callable[[str], object]) -> dict[str, Any]:
    """The report; its ``ok`` is whether every check holds. Call it when nothing runs any more."""
    await _settle(rehearsal, journal, storage)
    stream, plan, rule = Stream(rehearsal.settings.env, shard="0"), rehearsal.plan, rehearsal.calendar.rule
    register = Register(journal, rehearsal.clock, rehearsal.settings.env, rule)
    tell("reading the journal")
    journalled = Journalled(rule.day_of)
    await journalled.read(journal, stream)
    tell("comparing it with what was sent")
    comparison = Comparison()
    comparison.compare(rehearsal.sent.glob("*.jsonl"), journalled, until_ns=rehearsal.over_ns)
    known = await register.dates()
    rows = []
    for day in plan.dates:
        tell(f"replaying {day}")
        found = await register.get(day) if day in known else None
        rows.append(_row(day, found, journalled, rehearsal) | await _parity(rehearsal, storage, stream, day))
    ends = rehearsal.ends + await crashes(rehearsal, journal)
    checks = list(_checks(rows, journalled, comparison, ends, _archived(storage, stream, journalled.last)))
    return {
        "ok": all(c.ok for c in checks), "seed": plan.seed, "speed": plan.speed, "from": plan.first.isoformat(),
        "directory": str(rehearsal.directory), "days": rows,
        "kills": [k._asdict() for k in rehearsal.kills],
        "frames": {
            "sent": comparison.sent, "journalled": comparison.stored, "in_gaps": comparison.in_gaps,
            "unheard_in_gaps": comparison.unheard - sum(x.startswith("nobody") for x in comparison.lost),
            "lost": len(comparison.lost),
        },
        "markets": {
            "of_the_series": len(comparison.first), "first_message": sum(v is True for v in comparison.first.values()),
            "opened_in_a_gap": sum(v is None for v in comparison.first.values()),
        },
        "checks": [c._asdict() for c in checks],
    }  # fmt: skip


async def _settle(rehearsal: Rehearsal, journal: Journal, storage: Storage) -> None:
    """What the archiver and the projector were stopped before."""
    from ssmd.locks import archiver_lock, held
    from ssmd.services.archiver import Archiver
    from ssmd.services.projector import Projector
    from ssmd.software import software

    settings, clock = rehearsal.settings, rehearsal.clock
    await Projector(journal, storage, Stream(settings.env, shard="0"), clock).catch_up()
    async with held(archiver_lock(settings.data_dir, settings.env), clock, waiting=lambda: None):
        await Archiver(journal, storage, settings.env, clock, software=software()).catch_up()


def _row(day: date, found: TradingDay | None, journalled: Journalled, rehearsal: Rehearsal) -> dict[str, Any]:
    number = to_int(day)
    verify = found.done.get("verify", {}) if found else {}
    return {
        "date": day.isoformat(), "state": found.state if found else "never began", "entries": journalled.entries[number],
        "gaps": journalled.gap_entries[number], "kills": sum(_of(k, rehearsal) == day for k in rehearsal.kills),
        "verified": bool(verify.get("verified")), "why": found.why if found and found.state in {State.ERROR, State.FAILED} else "",
    }  # fmt: skip


def _of(kill: Kill, rehearsal: Rehearsal) -> date:
    return to_date(rehearsal.calendar.rule.day_of(kill.at_ns))


async def _parity(rehearsal: Rehearsal, storage: Storage, stream: Stream, day: date) -> dict[str, Any]:
    """``replay --verify`` of the day, from its archive."""
    from projections.registry import create
    from replay.engine import replay
    from replay.source import ArchiveSource

    source = ArchiveSource(ArchiveReader(storage, rehearsal.settings.env, rehearsal.clock))
    try:
        result = await replay(
            source, create(), day=to_int(day), stream=stream, clock=rehearsal.clock, storage=storage, verify=True
        )  # fmt: skip
    except (NothingToVerify, NotFound, CorruptionError) as error:
        return {"digests": 0, "different": [str(error)]}
    return {"digests": result.verify.compared, "different": result.verify.differences} if result.verify else {"digests": 0, "different": []}


async def crashes(rehearsal: Rehearsal, journal: Journal) -> list[str]:
    """Of the runner's processes: those that ended by themselves."""
    from journal.entry import Event

    stream, found = Stream(rehearsal.settings.env, domain="system"), []
    async for records in journal.read(stream, subjects=[f"{stream.env}.system.processes.*"]):
        for _, entry in records:
            said = msgspec.json.decode(entry.body.data) if isinstance(entry.body, Event) else {}
            if said.get("what") == "crashed" and said.get("status") != -9:
                found.append(f"{said['process']} ended by itself with status {said.get('status')}")
    return found


def _archived(storage: Storage, stream: Stream, last: int) -> list[str]:
    """What is wrong with the archive's partition of the stream into days."""
    refs = [s.ref for s in segments_of(storage, stream, whole=False)]
    wrong = [f"the archive goes on at {b.first} after {a.last}" for a, b in pairwise(refs) if b.first != a.last + 1]
    if not refs or (refs[0].first, refs[-1].last) != (1, last):
        wrong.append(f"the archive does not reach from 1 to {last}")
    return wrong


def _checks(
    rows: list[dict[str, Any]], journalled: Journalled, comparison: Comparison, ends: list[str], archive: list[str]
) -> Iterator[Check]:
    open_ = [
        f"{r['date']} is {r['state']}" for r in rows if not (r["state"] == "COMPLETE" or (r["state"] in {"ERROR", "FAILED"} and r["why"]))
    ]
    done = sum(r["state"] == "COMPLETE" for r in rows)
    yield _check("days", open_, f"{done} of {len(rows)} are COMPLETE, the others say why not")
    different = [f"{r['date']}: {d}" for r in rows for d in r["different"]]
    yield _check("digests", different, f"{sum(r['digests'] for r in rows)} of the replay are those of the live run")
    wrong = journalled.wrong + archive
    yield _check("entries", wrong, f"{sum(journalled.entries.values())}, each once, in one day, and archived there")
    yield _check(
        "frames", comparison.strange + comparison.lost,
        f"{comparison.stored} of {comparison.sent} sent are journalled, in order; {comparison.in_gaps} are in gaps",
    )  # fmt: skip
    missed = [f"{symbol} opened unheard" for symbol, heard in comparison.first.items() if heard is False]
    if not comparison.first:
        missed = ["no market of the series opened"]
    excused = sum(v is None for v in comparison.first.values())
    yield _check("first messages", missed, f"of {len(comparison.first) - excused} markets of the series; {excused} opened in gaps")
    yield _check("processes", ends, "none ended by itself")


def _check(name: str, wrong: list[str], right: str) -> Check:
    if not wrong:
        return Check(name, True, right)
    more = f"; and {len(wrong) - _MOST} more" if len(wrong) > _MOST else ""
    return Check(name, False, f"{'; '.join(wrong[:_MOST])}{more}")
