"""The security master's stream: its entries, and who is next on a market's subject."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from journal.entry import Entry, Event, canonical_json
from journal.market import TYPE, Change
from journal.subjects import Stream

FEED = "secmaster"
SYNCS = "syncs"  # events of synchronisations, one subject a source
NAMELESS = "nameless"  # objects of the venue that name no market, one subject an object
# An entry is at most a message of the server, 1 MiB by default: a larger object is not journalled, nor one beside a larger change.
_MAX_RAW = 256 << 10
_MAX_DATA = 640 << 10


class Synced(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A synchronisation that came to its end. `since_ns`: only markets updated since then were asked for, 0 for all."""

    run: str
    source: str
    started_ns: int
    finished_ns: int
    since_ns: int = 0
    pages: int = 0
    markets: int = 0
    counts: dict[str, int] = {}

    @property
    def full(self) -> bool:
        return not self.since_ns


def secmaster(env: str) -> Stream:
    return Stream(env, domain=FEED)


def change_entry(
    change: Change,
    frame: int,
    *,
    effective_ns: int,
    recv_ns: int,
    mono_ns: int,
    day: int,
    raw: bytes,
    who: str,
    causation: str = "",
    correlation: str = "",
) -> Entry:
    """Change number `frame` of its market, from 0. `raw` is what the venue said, as it was read; left out where it is too large."""
    epoch = blake2b(f"secmaster:{change.symbol}".encode(), digest_size=16).digest()
    data = change.encode()
    body = Event(TYPE, data, who, causation=causation, correlation=correlation)
    raw = raw if len(raw) <= _MAX_RAW and len(data) <= _MAX_DATA else b""
    return Entry(body, FEED, change.symbol, epoch, frame, recv_ns, mono_ns, effective_ns, day, raw=raw)


def sync_entry(synced: Synced, feed: str, frame: int, *, effective_ns: int, mono_ns: int, day: int, who: str) -> Entry:
    """Synchronisation number `frame` of a feed, from 0."""
    epoch = blake2b(f"secmaster:{SYNCS}:{feed}".encode(), digest_size=16).digest()
    return Entry(Event(SYNCS, canonical_json(synced), who), FEED, feed, epoch, frame, synced.finished_ns, mono_ns, effective_ns, day)


def nameless_entry(raw: bytes, *, effective_ns: int, recv_ns: int, mono_ns: int, day: int, who: str) -> Entry:
    """What the venue sent in a list of markets and is none. One object, one entry, however often it is sent."""
    raw = raw[:_MAX_RAW]
    name = blake2b(raw, digest_size=16).digest()
    epoch = blake2b(b"secmaster:nameless:" + name, digest_size=16).digest()
    return Entry(Event(NAMELESS, who=who), FEED, name.hex(), epoch, 0, recv_ns, mono_ns, effective_ns, day, raw=raw)


_SYNCED = msgspec.json.Decoder(Synced)  # made once, since two threads that are the first to decode a type may crash


def synced_of(entry: Entry) -> Synced | None:
    """The synchronisation that an entry is the end of."""
    body = entry.body
    if not isinstance(body, Event) or body.type != SYNCS:
        return None
    try:
        return _SYNCED.decode(body.data)
    except msgspec.MsgspecError:
        return None
