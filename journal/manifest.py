"""Manifests: what the archive holds of one feed (or domain stream) and day. The archiver's only checkpoint.

An object counts when a manifest names it. A manifest is canonical JSON without a time of writing: the same archive, the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec

from journal.codec import SCHEMA_PATH
from journal.entry import canonical_json
from journal.errors import BadObject
from journal.segment import GapNote, Summary
from journal.subjects import Stream, escape

FORMAT = 1
MARKET = "market"


class ObjectRef(msgspec.Struct, frozen=True):
    key: str
    bytes: int
    sha256: str


class SegmentRef(msgspec.Struct, frozen=True):
    """One segment. `cut` says why it is closed (entries, bytes, day, feed); "" is the open tail, which is replaced as it grows."""

    stream: str
    first: int
    last: int
    cut: str
    entries: int
    raw_bytes: int
    counts: dict[str, int]
    first_recv_ns: int
    last_recv_ns: int
    min_effective_ns: int
    max_effective_ns: int
    norm: ObjectRef
    raw: ObjectRef | None = None  # None: no entry has raw bytes

    @property
    def objects(self) -> list[ObjectRef]:
        return [self.norm, self.raw] if self.raw else [self.norm]


class Range(msgspec.Struct, frozen=True):
    """Contiguous positions of a stream, both ends inclusive."""

    stream: str
    first: int
    last: int


class State(msgspec.Struct, frozen=True):
    """A projection's state after `sequence`: its digest, and the snapshot object that holds it."""

    version: int
    stream: str
    sequence: int
    digest: str
    object: str


class Snapshots(msgspec.Struct, frozen=True):
    """A projection's states around the day. `opening` is the `closing` of the stream's day before; None for its first day."""

    projection: str
    closing: State
    opening: State | None = None


class CoverageGap(msgspec.Struct, frozen=True):
    """Gaps of one cause: how many, and how many sequence numbers they miss."""

    cause: str
    healed_by: str
    gaps: int
    missing: int


class CoverageInterval(msgspec.Struct, frozen=True):
    """What is known of one connection's subscription between two effective times; `epoch` is hexadecimal."""

    status: str
    cause: str
    healed_by: str
    epoch: str
    subscription: int
    from_ns: int
    to_ns: int
    first_seq: int
    last_seq: int
    entries: int


class Coverage(msgspec.Struct, frozen=True):
    """A channel's day, as the coverage projection found it: entries by proved(seq), probable and unknown. No coverage: not folded yet."""

    stream: str
    channel: str
    entries: dict[str, int]
    gaps: list[CoverageGap]
    unreported: int
    disagreed: int
    repeated: int
    dropped: int  # intervals that were too many to keep
    intervals: list[CoverageInterval]


class Manifest(msgspec.Struct, frozen=True):
    """`data_type` is ``market``, or the domain of the stream (then `feed` is ""). `status` is ``closed`` when every stream in it has
    gone on to another day; a closed day opens again when entries of that day are appended later, as imports may.
    """

    env: str
    feed: str
    date: str
    data_type: str
    schemas: dict[str, str]  # file name: SHA-256
    software: str
    status: str = "open"
    entries: int = 0
    counts: dict[str, int] = {}
    raw_bytes: int = 0  # of the frames as received
    object_bytes: int = 0  # of all objects
    first_recv_ns: int = 0
    last_recv_ns: int = 0
    ranges: list[Range] = []
    gaps: list[GapNote] = []
    coverage: list[Coverage] = []
    snapshots: list[Snapshots] = []
    segments: list[SegmentRef] = []
    format: int = FORMAT

    def of_stream(self, stream: str) -> list[SegmentRef]:
        """The stream's segments, in order."""
        return [s for s in self.segments if s.stream == stream]

    def with_segment(self, ref: SegmentRef, gaps: Iterable[GapNote], software: str) -> Manifest:
        """With `ref` in place of the open tail that it continues, totals recomputed."""
        segments = [s for s in self.segments if s.stream != ref.stream or s.first < ref.first]
        segments.append(ref)
        segments.sort(key=lambda s: (s.stream, s.first))
        kept = [g for g in self.gaps if not _within(g.position, ref.stream, ref.first)]
        counts: dict[str, int] = {}
        for s in segments:
            for kind, n in s.counts.items():
                counts[kind] = counts.get(kind, 0) + n
        newest = {s.stream: s.cut for s in segments}
        return msgspec.structs.replace(
            self,
            software=software,
            status="closed" if set(newest.values()) <= {"day", "feed"} else "open",
            entries=sum(s.entries for s in segments),
            counts=dict(sorted(counts.items())),
            raw_bytes=sum(s.raw_bytes for s in segments),
            object_bytes=sum(o.bytes for s in segments for o in s.objects),
            first_recv_ns=min(s.first_recv_ns for s in segments),
            last_recv_ns=max(s.last_recv_ns for s in segments),
            ranges=_ranges(segments),
            gaps=[*kept, *gaps],
            segments=segments,
        )

    def encode(self) -> bytes:
        return canonical_json(self)


def segment_ref(summary: Summary, stream: str, cut: str, norm: ObjectRef, raw: ObjectRef | None) -> SegmentRef:
    return SegmentRef(
        stream, summary.first, summary.last, cut, summary.entries, summary.raw_bytes, summary.counts, summary.first_recv_ns,
        summary.last_recv_ns, summary.min_effective_ns, summary.max_effective_ns, norm, raw,
    )  # fmt: skip


def new(stream: Stream, feed: str, day: int, software: str) -> Manifest:
    """The empty manifest of `day`."""
    return Manifest(
        env=stream.env, feed=feed if stream.is_market else "", date=date_name(day), data_type=stream.domain or MARKET,
        schemas=schema_hashes(), software=software,
    )  # fmt: skip


# Made here, once: where two threads are the first to decode a type, msgspec may read what it has not finished, and the process dies.
_DECODER = msgspec.json.Decoder(Manifest)


def decode(data: bytes, key: str) -> Manifest:
    """The manifest in `data`. Raises `BadObject` naming `key`."""
    try:
        manifest = _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise BadObject(f"{key} is not a manifest: {error}; restore it from a copy, or delete the day and archive it again") from error
    if manifest.format != FORMAT:
        raise BadObject(f"{key} has format {manifest.format}, this ssmd reads {FORMAT}; use a newer ssmd")
    return manifest


def root(stream: Stream, feed: str = "") -> str:
    """Where the days of a domain stream, or of a market stream's feed, are."""
    if not stream.is_market:
        return f"{stream.env}/_domain/{stream.name}"
    name = escape(feed)
    # Folders that begin with "_" are not feeds.
    return f"{stream.env}/%5F{name[1:]}" if name.startswith("_") else f"{stream.env}/{name}"


def folder(stream: Stream, feed: str, day: int) -> str:
    return f"{root(stream, feed)}/{date_name(day)}"


def date_name(day: int) -> str:
    """``20260810`` as ``2026-08-10``; never refuses, or one entry with a day that is none would stop the archive."""
    return f"{day // 10_000:04}-{day // 100 % 100:02}-{day % 100:02}"


def manifest_key(folder: str) -> str:
    return f"{folder}/manifest.json"


def object_key(folder: str, kind: str, stream: str, first: int, last: int) -> str:
    """`kind` is ``norm`` or ``raw``."""
    suffix = "capnp.zst" if kind == "norm" else "jsonl.zst"
    return f"{object_prefix(folder, kind, stream, first)}{last:020}.{suffix}"


def object_prefix(folder: str, kind: str, stream: str, first: int) -> str:
    return f"{folder}/{kind}/{stream}-{first:020}-"


@cache
def schema_hashes() -> dict[str, str]:
    """SHA-256 of the schema files that this process reads and writes with."""
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in (SCHEMA_PATH, SCHEMA_PATH.with_name("block.capnp"))}


def json_schema() -> dict[str, Any]:
    """JSON Schema of a manifest."""
    return msgspec.json.schema(Manifest)


def _within(position: str, stream: str, first: int) -> bool:
    name, _, sequence = position.rpartition(":")
    return name == stream and int(sequence) >= first


def _ranges(segments: list[SegmentRef]) -> list[Range]:
    ranges: list[Range] = []
    for s in segments:
        if ranges and ranges[-1].stream == s.stream and ranges[-1].last + 1 == s.first:
            ranges[-1] = Range(s.stream, ranges[-1].first, s.last)
        else:
            ranges.append(Range(s.stream, s.first, s.last))
    return ranges
