"""One connection's conversation with Kalshi, sans-io: frames in, journal bodies and commands out.

What the entries of one connection look like, beyond the venue's own messages (all journalled, one entry a frame):

- acks are `Control` (``subscribed``, ``unsubscribed``, ``ok``, ``error``) with what was asked in the detail;
- ``gap`` entries (own) stand before the frame that revealed them: a hole in a sid's numbers, a count that began again, a frame on the
  book's sid that we could not read, a subscription that the venue ended, the time from `since_ns` to a channel's first sign of life, and
  for markets beyond the first chunk the time from then on until they are added;
- a frame whose number had passed already is kept as ``Control(action="duplicate")`` with its bytes: folds skip it;
- own decisions: ``resync`` and ``resynced`` (steps of `recovery`), ``missing`` (asked for, not acknowledged), ``unknown`` (first sight of
  an unlisted type or field), and a ``gap`` for the book of a market that we dropped.

`filtered` is for recordings cut out of a shared subscription: holes are not gaps, nothing is sent, and numbers that go back
mean that the recorder had reconnected: a gap, after which the books wait for their next snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from exchanges.adapter import Normalised, Output
from exchanges.kalshi import commands
from exchanges.kalshi.cold import Reply
from exchanges.kalshi.conversation import (
    BOOKS,
    CHANNEL_OF,
    CHANNELS,
    COMMAND_NS,
    FATAL,
    FIRST_SNAPSHOT_NS,
    MAX_TRIES,
    RETRY,
    TERMINAL,
    UNFILTERED,
    Channel,
    Command,
    Draft,
)
from exchanges.kalshi.decode import Decoder
from exchanges.kalshi.pending import Pending
from exchanges.kalshi.recovery import Recovery
from exchanges.kalshi.tracker import Finding, Tracker
from journal.entry import Book, Control, Delta, Gap, Lifecycle, Ticker, Trade, Unparsed, canonical_json

_PLAIN = frozenset((Delta, Trade, Ticker, Lifecycle))
DISTRUST_NS = 10_000_000_000  # between recoveries of books whose frames we cannot read: a new snapshot may not help


class KalshiAdapter:
    """See `exchanges.adapter.Adapter`. Make a new one for each connection.

    `since_ns`: data before this connection is missing from here (0: nothing is known to be missing). `pace`: seconds of the times given
    here in one of the machine's, of which it has patience (`journal.clock.Clock.rate`).
    """

    def __init__(
        self,
        symbols: Sequence[str] = (),
        channels: Sequence[str] = CHANNELS,
        *,
        filtered: bool = False,
        since_ns: int = 0,
        pace: float = 1.0,
    ) -> None:
        self._pace = pace
        self.decoder = Decoder()
        self._decode = self.decoder.decode
        self._fresh = self.decoder.fresh
        self._tracker = Tracker(filtered=filtered)
        self._observe = self._tracker.observe
        self._live = not filtered
        self._wanted = dict.fromkeys(symbols)
        self._channels = {name: Channel(name, since_ns) for name in channels}
        self._by_sid: dict[int, Channel] = {}
        self._pending = Pending(pace)
        self._recovery = Recovery(pace)
        self._first: dict[str, int] = {}  # book symbols that wait for their first snapshot -> deadline
        self._distrusted: dict[str, None] = {}  # books with an unread frame, until the next tick may recover them
        self._distrust_after_ns = 0

    def _patience(self, ns: int) -> int:
        return int(ns * self._pace)

    @property
    def missing_since_ns(self) -> int:
        return min((channel.since_ns for channel in self._channels.values() if channel.since_ns), default=0)

    @property
    def late(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for channel in self._channels.values():
            for symbol, since_ns in channel.late.items():
                found[symbol] = min(since_ns, found.get(symbol, since_ns))
        return found

    def opened(self, recv_ns: int) -> Output:
        draft = Draft(recv_ns)
        if self._live:
            for channel in self._channels.values():
                self._start(channel, draft)
        return draft.output()

    def frame(self, data: bytes, recv_ns: int) -> Output:
        item, reply = self._decode(data, recv_ns)
        sid = item.subscription
        channel = self._by_sid.get(sid)
        if channel is None or reply is not None or type(item.body) not in _PLAIN or self._fresh:
            return self._attend(item, reply, recv_ns)
        seq = item.venue_seq
        if seq and (finding := self._observe(sid, seq)):
            return self._attend(item, None, recv_ns, finding)
        channel.last_ns = recv_ns
        return Output((item,))

    def tick(self, now_ns: int) -> Output:
        draft = Draft(now_ns)
        if not self._live:
            return draft.output()
        for command in self._pending.overdue(now_ns):
            if command.kind != "get_snapshot":  # those are the recovery's business
                draft.reconnect = f"no answer to {command.kind} {command.channel} in {COMMAND_NS // 10**9} s"
        for command in self._pending.again(now_ns):
            self._send(command, draft)
        if self._distrusted and now_ns >= self._distrust_after_ns:
            self._distrust_after_ns = now_ns + self._patience(DISTRUST_NS)
            self._recover(list(self._distrusted), draft, "unread frames")
            self._distrusted.clear()
        if self._recovery.overdue(now_ns):
            self._step(self._recovery.escalate(now_ns), draft)
        if late := [symbol for symbol, at in self._first.items() if now_ns >= at]:
            for symbol in late:
                del self._first[symbol]
            self._missing(BOOKS, late, "no snapshot", draft)
        return draft.output()

    def subscribe(self, symbols: Sequence[str], now_ns: int, *, since_ns: int = 0) -> Output:
        draft = Draft(now_ns)
        self._wanted.update(dict.fromkeys(symbols))
        for channel in self._channels.values():
            if channel.name in UNFILTERED or not self._live:
                continue
            if since_ns:
                channel.late.update(dict.fromkeys(symbols, since_ns))
            if channel.sid:
                self._add(channel, draft)
            elif not channel.busy:
                self._start(channel, draft)
        return draft.output()

    def unsubscribe(self, symbols: Sequence[str], now_ns: int) -> Output:
        draft = Draft(now_ns)
        gone = [s for s in symbols if s in self._wanted]
        for symbol in gone:
            del self._wanted[symbol]
            self._first.pop(symbol, None)
            self._distrusted.pop(symbol, None)
        self._finish(self._recovery.drop(gone), draft)
        for channel in self._channels.values():
            if channel.name in UNFILTERED or not channel.sid or not gone:
                continue
            channel.asked.difference_update(gone)
            for symbol in gone:
                channel.late.pop(symbol, None)
            if channel.name == BOOKS:
                for symbol in gone:  # a book that nobody follows any more is not a valid one
                    draft.own(Gap("unsubscribed", BOOKS, from_ns=now_ns, to_ns=now_ns), symbol=symbol, sid=channel.sid)
            if not self._wanted:
                self._send(Command("unsubscribe", channel.name), draft)
                continue
            for chunk in commands.chunks(gone):
                self._send(Command("delete_markets", channel.name, chunk), draft)
        return draft.output()

    def _attend(self, item: Normalised, reply: Reply | None, recv_ns: int, finding: Finding | None = None) -> Output:
        draft = Draft(recv_ns)
        for name in self._fresh:
            draft.decide("unknown", name.partition(".")[0], name=name)
        self._fresh.clear()
        sid, seq = item.subscription, item.venue_seq
        channel = self._by_sid.get(sid) or self._meet(item, reply, draft)
        if sid and seq and finding is None:
            finding = self._observe(sid, seq)
        if finding and finding.kind == "duplicate":
            name = channel.name if channel else ""
            item.body = Control("duplicate", name, canonical_json({"kind": type(item.body).__name__.lower()}).decode())
            draft.items.append(item)
            return draft.output()
        if finding:
            reason = "sequence gap" if finding.kind == "gap" else "sequence restarted" if self._live else "recording restarted"
            gap = Gap(reason, first_missing=finding.first_missing, last_missing=finding.last_missing)
            self._gap(channel, sid, gap, draft)
        if isinstance(item.body, Unparsed) and channel and channel.name == BOOKS:
            self._distrust(channel, item, draft)
        if isinstance(item.body, Book) and channel:  # it overtook the ack: after its snapshot a gap would make the book stale again
            channel.told((item.symbol,), draft)
        draft.items.append(item)
        if channel and not (reply and reply.kind == "error"):  # errors are not activity
            channel.last_ns = recv_ns
        if isinstance(item.body, Book):
            self._first.pop(item.symbol, None)
            self._distrusted.pop(item.symbol, None)
            self._finish(self._recovery.arrived(item.symbol, recv_ns), draft)
            self._ask(draft)
        if reply and self._live:
            self._answer(reply, item, draft)
        return draft.output()

    def _meet(self, item: Normalised, reply: Reply | None, draft: Draft) -> Channel | None:
        """The first frame of a sid: an ack, or data that overtook it."""
        sid = item.subscription
        name = reply.channel if reply and reply.kind == "subscribed" else CHANNEL_OF.get(type(item.body), "")
        if reply and reply.kind == "ok" and (command := self._pending.get(reply.id)) and command.kind == "subscribe":
            name = command.channel  # merged into a subscription we did not know (S3)
        if not sid or not name:
            return None
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name)
        self._by_sid[sid] = channel
        channel.lives(sid, self._wanted if self._live and name not in UNFILTERED else (), draft)
        return channel

    def _gap(self, channel: Channel | None, sid: int, gap: Gap, draft: Draft, symbol: str = "") -> None:
        name = channel.name if channel else ""
        since = channel.last_ns if channel else 0
        body = Gap(gap.reason, name, gap.first_missing, gap.last_missing, since, draft.now_ns, detail=gap.detail)
        draft.own(body, symbol=symbol, sid=sid)
        if self._live and name == BOOKS and not symbol and gap.reason.startswith("sequence"):
            self._recover(list(self._wanted), draft, gap.reason)

    def _distrust(self, channel: Channel, item: Normalised, draft: Draft) -> None:
        """A frame on the book's sid that we could not read: its book, or every book, may be wrong."""
        symbol = item.symbol
        affected = [symbol] if symbol else list(self._wanted)
        if self._live and all(s in self._distrusted or s in self._recovery for s in affected):
            return  # known to be wrong already; a format we cannot read would write a gap for each frame
        seq = item.venue_seq
        self._gap(channel, item.subscription, Gap("frame not understood", "", seq, seq), draft, symbol)
        if self._live:
            self._distrusted.update(dict.fromkeys(affected))

    def _answer(self, reply: Reply, item: Normalised, draft: Draft) -> None:
        command = self._pending.answered(reply.id)
        detail: dict[str, Any] = {"id": reply.id}
        if command:
            detail |= {"command": command.kind, "symbols": list(command.symbols)}
        channel = self._by_sid.get(reply.sid) or self._channels.get(reply.channel or (command.channel if command else ""))
        if reply.kind == "error":
            item.body = Control("error", channel.name if channel else "", item.body.detail)  # type: ignore[union-attr]
            self._refused(reply, command, channel, draft)
            return
        if channel is None:
            return
        item.body = Control(reply.kind, channel.name, canonical_json(detail).decode())
        if reply.kind == "unsubscribed":
            self._close(channel, reply.sid, draft)
            return
        if command is None or command.kind not in ("subscribe", "add_markets"):
            return
        channel.busy = channel.busy and command.kind != "subscribe"
        if channel.name == BOOKS:
            self._first.update(dict.fromkeys(command.symbols, draft.now_ns + self._patience(FIRST_SNAPSHOT_NS)))
        if reply.symbols is not None:
            listed = set(reply.symbols)
            if lacking := [s for s in command.symbols if s not in listed]:
                self._missing(channel.name, lacking, "not in the venue's list", draft)
        if command.kind == "subscribe":
            self._add(channel, draft)
            channel.since_ns = 0
        else:
            channel.told(command.symbols, draft)

    def _refused(self, reply: Reply, command: Command | None, channel: Channel | None, draft: Draft) -> None:
        code = reply.code
        said = f"code {code}: {reply.message}"
        if code in TERMINAL or (code == 7 and command and command.kind != "unsubscribe"):
            if channel and channel.sid:
                self._ended(channel, said, draft)
            elif not command or command.kind == "subscribe":
                draft.reconnect = f"the venue ended a subscription ({said})"
        elif command is None:
            return
        elif command.kind == "unsubscribe":  # most likely gone already
            self._close(self._channels[command.channel], command.sid, draft)
        elif code in RETRY:
            if command.tries >= MAX_TRIES:
                draft.reconnect = f"{command.kind} {command.channel} refused {command.tries} times ({said})"
            else:
                self._pending.refused(command, draft.now_ns)
        elif command.kind == "get_snapshot":
            if self._recovery.step == "get_snapshot":
                self._step(self._recovery.escalate(draft.now_ns), draft)
        elif command.kind == "subscribe" and code in FATAL:
            draft.error = f"Kalshi refuses to subscribe {command.channel} ({said}); check the key's permissions and the feed's channels"
        elif command.kind != "delete_markets":
            self._not_captured(command, code == 26, said, draft)

    def _not_captured(self, command: Command, limit: bool, said: str, draft: Draft) -> None:
        channel = self._channels[command.channel]
        if command.kind == "subscribe":
            channel.busy = False
        if limit and len(command.symbols) > 1 and not channel.full:
            self._halve(command, draft)
            return
        channel.full = channel.full or limit
        self._missing(command.channel, command.symbols, said, draft)

    def _halve(self, command: Command, draft: Draft) -> None:
        """The subscription's market limit is not published: fill it by halves."""
        middle = len(command.symbols) // 2
        if command.kind == "subscribe":
            channel = self._channels[command.channel]
            channel.busy, channel.asked = True, set(command.symbols[:middle])
            self._send(Command("subscribe", command.channel, command.symbols[:middle]), draft)
            return  # the rest is added when that is acknowledged
        for half in (command.symbols[:middle], command.symbols[middle:]):
            self._send(Command(command.kind, command.channel, half), draft)

    def _close(self, channel: Channel, sid: int, draft: Draft) -> None:
        """A subscription is over; if it was the channel's, the channel begins anew with what is wanted."""
        self._by_sid.pop(sid, None)
        self._tracker.forget(sid)
        if channel.sid == sid:
            channel.ended()
            self._start(channel, draft)

    def _ended(self, channel: Channel, said: str, draft: Draft) -> None:
        """The venue killed the subscription: what is missed from here on is missing until the new one lives."""
        item = draft.items.pop()  # the error itself: the gap stands before it
        self._gap(channel, channel.sid, Gap("subscription ended by the venue", detail=canonical_json({"said": said}).decode()), draft)
        draft.items.append(item)
        channel.since_ns = draft.now_ns
        channel.deaths += 1
        if channel.deaths > MAX_TRIES:
            draft.reconnect = f"{channel.name} was ended {channel.deaths} times ({said})"
        elif channel.name == BOOKS:
            self._recovery.begin(self._wanted, draft.now_ns)
            self._step(self._recovery.go("resubscribe", draft.now_ns), draft)
        else:
            self._send(Command("unsubscribe", channel.name), draft)

    def _recover(self, symbols: Sequence[str], draft: Draft, why: str) -> None:
        idle = not self._recovery.step
        self._recovery.begin(symbols, draft.now_ns)
        if idle and self._recovery.step:
            sid = self._channels[BOOKS].sid
            draft.decide("resync", BOOKS, sid=sid, step=self._recovery.step, why=why, books=len(self._recovery))
        self._ask(draft)

    def _step(self, step: str, draft: Draft) -> None:
        channel = self._channels[BOOKS]
        draft.decide("resync", BOOKS, sid=channel.sid, step=step, books=len(self._recovery))
        if step == "readd":
            for chunk in commands.chunks(self._recovery.waiting):
                self._send(Command("delete_markets", BOOKS, chunk), draft)
                self._send(Command("add_markets", BOOKS, chunk), draft)
        elif step == "resubscribe":
            channel.since_ns = channel.since_ns or channel.last_ns
            if channel.sid:
                self._send(Command("unsubscribe", BOOKS), draft)
            elif not channel.busy:
                self._start(channel, draft)
        elif step == "reconnect":
            draft.reconnect = "books could not be recovered on this connection"

    def _finish(self, recovered: bool, draft: Draft) -> None:
        if recovered and (channel := self._channels.get(BOOKS)):
            draft.decide("resynced", BOOKS, sid=channel.sid)

    def _ask(self, draft: Draft) -> None:
        for symbol in self._recovery.ask():
            self._send(Command("get_snapshot", BOOKS, (symbol,)), draft)

    def _missing(self, channel: str, symbols: Sequence[str], why: str, draft: Draft) -> None:
        draft.decide("missing", channel, symbols=list(symbols), why=why)
        if channel == BOOKS:
            for symbol in symbols:
                self._first.pop(symbol, None)
            self._finish(self._recovery.drop(symbols), draft)

    def _start(self, channel: Channel, draft: Draft) -> None:
        """Subscribe a channel that has no sid, with the first chunk of symbols; `_add` brings the rest when it is acknowledged."""
        first = () if channel.name in UNFILTERED else tuple(islice(self._wanted, commands.CHUNK))
        if first or channel.name in UNFILTERED:
            channel.busy = True
            channel.asked = set(first)
            self._send(Command("subscribe", channel.name, first), draft)

    def _add(self, channel: Channel, draft: Draft) -> None:
        for chunk in commands.chunks([s for s in self._wanted if s not in channel.asked] if channel.name not in UNFILTERED else ()):
            channel.asked.update(chunk)
            self._send(Command("add_markets", channel.name, chunk), draft)

    def _send(self, command: Command, draft: Draft) -> None:
        self._pending.send(command, self._channels[command.channel].sid, draft)
