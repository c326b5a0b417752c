"""Is every entry there? Derived again from the entries alone, acknowledgements included, to hold the adapter's gaps against.

A subscription's numbered entries are `proved` while each number is its predecessor plus one; entries of a subscription without numbers
are `probable`; those of a filtered recording `unknown` (its holes mean nothing). A `gap` entry must name exactly the numbers that
are missing here: `unreported` counts jumps that no gap entry announced, `disagreed` gap entries that name others.

The key is the channel. Counts and intervals are the day's: `day_opened` starts them anew.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from journal.block import Block
from journal.entry import Control, Entry, Gap, Kind
from journal.errors import BadObject, NotFound
from projections import kernels as k
from projections.rows import Cursor, Names, cold_entry, detail_of, epoch_meant

STATUS = {k.PROVED: "proved(seq)", k.PROBABLE: "probable", k.UNKNOWN: "unknown"}
# Channel of a subscription that no acknowledgement named (imports, the acknowledgement race).
_CHANNEL_OF_KIND = {Kind.trade: "trade", Kind.book: "book", Kind.delta: "book", Kind.ticker: "ticker", Kind.lifecycle: "lifecycle"}
NO_CHANNEL = "*"
# As in the venue trackers: a few repeats are tolerated, then the count has begun again.
_BEHIND_IS_RESTART = 8
# A connection has a dozen subscriptions; beyond this the one that was silent longest is forgotten.
_MAX_LINKS = 4_096
# A day of a feed that loses something every minute; beyond this the oldest goes and is counted.
_MAX_INTERVALS = 1_440
_WORDS = struct.Struct("<7q")


class Interval(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """`status` is a value of `STATUS` or ``gap``; sequence numbers are the venue's, 0 where there are none; times are effective."""

    status: str
    cause: str
    healed_by: str
    epoch: bytes
    subscription: int
    from_ns: int
    to_ns: int
    first_seq: int
    last_seq: int
    entries: int


class ChannelCoverage(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The day so far. `gaps` maps (cause, healed_by) to (gaps, numbers missing); `dropped` intervals were too many to keep."""

    entries: dict[str, int]
    gaps: dict[tuple[str, str], tuple[int, int]]
    unreported: int
    disagreed: int
    repeated: int
    restarts: int
    dropped: int
    intervals: list[Interval]


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    day: int
    sequence: int
    counted_day: int
    filtered: list[bytes]
    links: list[tuple[bytes, int, str, list[int]]]
    channels: list[tuple[str, _Channel]]


class _Channel(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    entries: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])  # by status, of finished intervals
    gaps: list[tuple[str, str, int, int]] = msgspec.field(default_factory=list)  # sorted
    unreported: int = 0
    disagreed: int = 0
    repeated: int = 0
    restarts: int = 0
    dropped: int = 0
    intervals: list[Interval] = msgspec.field(default_factory=list)

    def keep(self, interval: Interval) -> None:
        self.intervals.append(interval)
        if len(self.intervals) > _MAX_INTERVALS:
            del self.intervals[0]
            self.dropped += 1

    def add_gap(self, interval: Interval) -> None:
        missing = interval.last_seq - interval.first_seq + 1 if interval.last_seq else 0
        gaps = {(c, h): (n, m) for c, h, n, m in self.gaps}
        count, total = gaps.get((interval.cause, interval.healed_by), (0, 0))
        gaps[interval.cause, interval.healed_by] = (count + 1, total + missing)
        self.gaps = sorted((c, h, n, m) for (c, h), (n, m) in gaps.items())
        self.keep(interval)


_SAVED = msgspec.msgpack.Decoder(_Saved)


@dataclass
class _Links:
    """Live subscriptions: one row of `table` each; `channel` and `at` go with it."""

    table: Any = field(default_factory=lambda: np.zeros((64, k.L_COLUMNS), np.int64))
    channel: list[str] = field(default_factory=list)
    at: dict[int, int] = field(default_factory=dict)

    def add(self, link: int, channel: str) -> int:
        at = len(self.channel)
        if at == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[at] = 0
        self.table[at, k.L_LINK] = link
        self.channel.append(channel)
        self.at[link] = at
        return at

    def remove(self, at: int) -> None:
        last = len(self.channel) - 1
        del self.at[int(self.table[at, k.L_LINK])]
        if at != last:
            self.table[at] = self.table[last]
            self.channel[at] = self.channel[last]
            self.at[int(self.table[at, k.L_LINK])] = at
        self.channel.pop()


class CoverageProjection:
    name = "coverage"
    version = 1

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()
        self._clear()

    def _clear(self) -> None:
        self._cursor = Cursor()
        self._counted_day = 0
        self._filtered: set[bytes] = set()  # of recordings whose end was not seen
        self._links = _Links()
        self._channels: dict[str, _Channel] = {}
        self._touched: set[str] = set()

    # --- fold ---------------------------------------------------------------------------------------------------------------

    def apply(self, block: Block) -> None:
        rows = self._cursor.take(block)
        stop = len(rows)
        if not stop:
            return
        epochs = self._names.epochs(block)
        kinds = rows["kind"]
        at = 0
        for cold in np.flatnonzero((kinds == Kind.control) | (kinds == Kind.gap)).tolist():
            self._fold(rows, at, cold, epochs)
            entry = cold_entry(block, rows[cold])
            if isinstance(entry.body, Control):
                self._count(rows[cold], epochs, acknowledgement=True)
                self._control(entry, entry.body)
            elif isinstance(entry.body, Gap):
                self._gap(entry, entry.body)
            at = cold + 1
        self._fold(rows, at, stop, epochs)

    def _fold(self, rows: Any, at: int, stop: int, epochs: Any) -> None:
        while (at := k.fold_links(rows, at, stop, epochs, self._links.table, len(self._links.channel))) < stop:
            self._count(rows[at], epochs, acknowledgement=False)
            at += 1

    def _count(self, row: Any, epochs: Any, *, acknowledgement: bool) -> None:
        """One row that begins something or breaks a run."""
        subscription, seq, now_ns = int(row["subscription"]), int(row["venue_seq"]), int(row["effective_ns"])
        if not subscription or row["part"] or (acknowledgement and not seq):
            return
        number = int(epochs[row["epoch"]])
        filtered = self._names.epoch_list[number] in self._filtered
        at = self._links.at.get(number << 32 | subscription)
        if at is None:
            at = self._open(number << 32 | subscription, _CHANNEL_OF_KIND.get(Kind(int(row["kind"])), NO_CHANNEL), filtered=filtered)
        link = self._links.table[at]
        channel = self._channel(self._links.channel[at])
        status = k.UNKNOWN if filtered else k.PROVED if seq else k.PROBABLE
        expected = int(link[k.L_NEXT])
        if status == k.PROVED and seq > expected > 0:
            self._finish(at)
            channel.unreported += 1
            since_ns = int(link[k.L_TO_NS]) or now_ns
            channel.add_gap(Interval("gap", "unreported", "", *self._identity(at), since_ns, now_ns, expected, seq - 1, 0))
        elif 0 < seq < expected:
            if row["kind"] == Kind.unparsed and seq == expected - 1:
                return  # the gap before it said that this number's frame was not understood
            channel.repeated += 1
            link[k.L_BEHIND] += 1
            if seq == expected - 1 if filtered else link[k.L_BEHIND] < _BEHIND_IS_RESTART:
                return
            channel.restarts += 1
            self._finish(at)
        if link[k.L_STATUS] != status:
            self._finish(at)
            link[k.L_STATUS] = status
        if not link[k.L_ENTRIES]:
            link[k.L_FROM_NS], link[k.L_FIRST] = now_ns, seq
        link[k.L_ENTRIES] += 1
        link[k.L_TO_NS] = now_ns
        link[k.L_BEHIND] = 0
        if seq:
            link[k.L_LAST], link[k.L_NEXT] = seq, seq + 1

    def _channel(self, name: str) -> _Channel:
        self._touched.add(name)
        return self._channels.setdefault(name, _Channel())

    def _open(self, link: int, channel: str, *, filtered: bool) -> int:
        links = self._links
        if len(links.channel) >= _MAX_LINKS:
            self._end(min(range(len(links.channel)), key=lambda i: (int(links.table[i, k.L_TO_NS]), *self._identity(i))))
        at = links.add(link, channel)
        links.table[at, k.L_NEXT] = 0 if filtered else 1
        self._channel(channel)
        return at

    def _identity(self, at: int) -> tuple[bytes, int]:
        link = int(self._links.table[at, k.L_LINK])
        return self._names.epoch_list[link >> 32], link & 0xFFFFFFFF

    def _running(self, at: int) -> Interval:
        link = self._links.table[at].tolist()
        return Interval(
            STATUS[link[k.L_STATUS]], "", "", *self._identity(at),
            link[k.L_FROM_NS], link[k.L_TO_NS], link[k.L_FIRST], link[k.L_LAST], link[k.L_ENTRIES],
        )  # fmt: skip

    def _finish(self, at: int) -> None:
        """End the run of link `at`, if it has one."""
        link = self._links.table[at]
        if link[k.L_ENTRIES]:
            channel = self._channel(self._links.channel[at])
            channel.entries[int(link[k.L_STATUS])] += int(link[k.L_ENTRIES])
            channel.keep(self._running(at))
        link[k.L_ENTRIES] = link[k.L_FIRST] = link[k.L_LAST] = 0

    def _end(self, at: int) -> None:
        self._finish(at)
        self._links.remove(at)

    def _of(self, epoch: bytes, subscription: int) -> list[int]:
        """Links of a connection, highest row first, so that they may be removed in that order."""
        found = [i for i in range(len(self._links.channel)) if self._identity(i)[0] == epoch]
        return sorted((i for i in found if not subscription or self._identity(i)[1] == subscription), reverse=True)

    def _control(self, entry: Entry, body: Control) -> None:
        detail = detail_of(entry)
        if body.action == "opened" and detail.get("filtered") is True:
            self._filtered.add(entry.epoch)
        elif body.action == "subscribed" and entry.subscription:
            self._subscribed(entry, body.channel or NO_CHANNEL)
        elif body.action in ("closed", "imported") or (body.action == "unsubscribed" and entry.subscription and not entry.symbol):
            epoch = epoch_meant(entry)
            for at in sorted(self._of(epoch, entry.subscription), key=self._identity):
                self._finish(at)  # in an order that does not depend on the rows'
            for at in self._of(epoch, entry.subscription):
                self._links.remove(at)
            if not entry.subscription:
                self._filtered.discard(epoch)
        elif body.action == "day_opened":
            day = detail.get("day", entry.day)
            if isinstance(day, int) and day > self._counted_day:
                self._new_day(day)

    def _subscribed(self, entry: Entry, channel: str) -> None:
        link = self._names.epoch(entry.epoch) << 32 | entry.subscription
        at = self._links.at.get(link)
        if at is None:
            self._open(link, channel, filtered=entry.epoch in self._filtered)
        elif self._links.channel[at] != channel:
            self._finish(at)
            self._links.channel[at] = channel
            self._channel(channel)

    def _new_day(self, day: int) -> None:
        self._counted_day = day
        self._touched.update(self._channels)
        self._channels = {name: _Channel() for name in sorted({*self._channels, *self._links.channel})}
        for column in (k.L_ENTRIES, k.L_FIRST, k.L_LAST):
            self._links.table[:, column] = 0

    def _gap(self, entry: Entry, gap: Gap) -> None:
        epoch, missing = epoch_meant(entry), gap.last_missing > 0
        whole = not entry.symbol or entry.symbol.startswith("epoch-")
        links = sorted(self._of(epoch, entry.subscription), key=self._identity)
        if gap.channel and not entry.subscription:
            links = [at for at in links if self._links.channel[at] == gap.channel]
        for at in links:
            link = self._links.table[at]
            channel = self._channel(self._links.channel[at])
            if whole:
                self._finish(at)
                if missing and link[k.L_NEXT] not in (0, gap.first_missing):
                    channel.disagreed += 1
                link[k.L_NEXT] = gap.last_missing + 1 if missing else 0
                link[k.L_BEHIND] = 0
            channel.add_gap(self._gap_interval(entry, gap, *self._identity(at)))
        if not links:
            self._channel(gap.channel or NO_CHANNEL).add_gap(self._gap_interval(entry, gap, epoch, entry.subscription))

    def _gap_interval(self, entry: Entry, gap: Gap, epoch: bytes, subscription: int) -> Interval:
        return Interval(
            "gap", gap.reason, gap.healed_by, epoch, subscription, gap.from_ns, gap.to_ns or entry.effective_ns,
            gap.first_missing, gap.last_missing, 0,
        )  # fmt: skip

    # --- questions ----------------------------------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        return sorted(self._channels)

    def coverage(self, channel: str) -> ChannelCoverage:
        """The channel's day so far, intervals that go on last. Raises `NotFound`."""
        if channel not in self._channels:
            raise NotFound("channel", channel, list(self._channels))
        c = self._channels[channel]
        entries = self._entries(channel)
        running = [i for i, name in enumerate(self._links.channel) if name == channel and self._links.table[i, k.L_ENTRIES]]
        return ChannelCoverage(
            {text: entries[status] for status, text in STATUS.items()},
            {(cause, healed): (n, m) for cause, healed, n, m in c.gaps},
            c.unreported, c.disagreed, c.repeated, c.restarts, c.dropped,
            [*c.intervals, *(self._running(at) for at in sorted(running, key=self._identity))],
        )  # fmt: skip

    def _entries(self, channel: str) -> list[int]:
        entries = list(self._channels[channel].entries)
        for at, name in enumerate(self._links.channel):
            if name == channel:
                entries[int(self._links.table[at, k.L_STATUS])] += int(self._links.table[at, k.L_ENTRIES])
        return entries

    def canonical(self, key: str) -> bytes:
        c = self._channels[key]
        out = [_WORDS.pack(*self._entries(key)[1:], c.unreported, c.disagreed, c.repeated, c.restarts)]
        for cause, healed, count, missing in c.gaps:
            out += [len(t).to_bytes(8, "little") + t for t in (cause.encode(), healed.encode())]
            out.append(struct.pack("<2q", count, missing))
        return b"".join(out)

    def keep(self, keys: Collection[str]) -> None:
        """Everything: its keys are channels, and what is proved of one is proved by the messages of all symbols."""

    def take_touched(self) -> set[str]:
        count = len(self._links.channel)
        for at in np.flatnonzero(self._links.table[:count, k.L_TOUCHED]).tolist():
            self._touched.add(self._links.channel[at])
        self._links.table[:count, k.L_TOUCHED] = 0
        touched, self._touched = self._touched, set()
        return touched

    # --- snapshots ----------------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        links = []
        for at, channel in enumerate(self._links.channel):
            row = self._links.table[at].tolist()
            row[k.L_LINK] = row[k.L_TOUCHED] = 0
            links.append((*self._identity(at), channel, row))
        channels = [(name, self._channels[name]) for name in sorted(self._channels)]
        saved = _Saved(self._cursor.day, self._cursor.sequence, self._counted_day, sorted(self._filtered), sorted(links), channels)
        return msgspec.msgpack.encode(saved)

    def restore(self, snapshot: bytes) -> None:
        try:
            saved = _SAVED.decode(snapshot)
            rows = np.array([row for *_, row in saved.links], np.int64).reshape(-1, k.L_COLUMNS)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadObject(f"not a snapshot of {self.name} {self.version}: {error}; rebuild from the journal") from error
        self._clear()
        self._cursor = Cursor(saved.day, saved.sequence)
        self._counted_day = saved.counted_day
        self._filtered = set(saved.filtered)
        self._channels = dict(saved.channels)
        self._touched = set(self._channels)
        for (epoch, subscription, channel, _), row in zip(saved.links, rows, strict=True):
            at = self._links.add(self._names.epoch(epoch) << 32 | subscription, channel)
            self._links.table[at, k.L_STATUS :] = row[k.L_STATUS :]
