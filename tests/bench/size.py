"""Bytes a frame in the archive, against gzip of the same JSON; and what writing and reading it costs."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Sequence
from statistics import median

from exchanges.kalshi.decode import Decoder
from journal.entry import Entry, Kind, Record
from journal.segment import LIMITS, Built, SegmentBuilder, read_raw, read_segment
from tests.bench.frames import frames

FRAMES = 262_144  # four segments
RUNS = 5
# A monotonic clock that began somewhere else and is steered a little against the wall clock.
_MONO_NS = 123_456_789_012_345


def records(given: Sequence[tuple[int, bytes]]) -> list[Record]:
    """The frames as the connector would journal them."""
    decoder, found, epoch = Decoder(), [], bytes(range(16))
    for n, (recv_ns, raw) in enumerate(given):
        item, _ = decoder.decode(raw, recv_ns)
        mono_ns = recv_ns - 1_780_000_000_000_000_000 + _MONO_NS + n // 1_000
        entry = Entry(
            item.body, "kalshi", item.symbol, epoch, n, recv_ns, mono_ns, recv_ns, 20260810, item.venue_ns, item.venue_seq,
            item.subscription, 0, 1, item.price_exponent, item.size_exponent, raw,
        )  # fmt: skip
        found.append(Record(n + 1, entry))
    return found


def write(given: Sequence[Record]) -> list[Built]:
    out = []
    for at in range(0, len(given), LIMITS.entries):
        builder = SegmentBuilder("local_md_0", given[at].sequence)
        for record in given[at : at + LIMITS.entries]:
            builder.add(record)
        out.append(builder.build()[0])
    return out


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def run(out: Callable[[str], None]) -> None:
    """Print the table."""
    source, given = frames(FRAMES)
    stored = records(given)
    n = len(stored)
    segments = write(stored)
    # What a recorder that writes JSON lines to gzip would keep.
    raw_lines = b"".join(b'{"recv_ns":%d,"frame":%b}\n' % (recv_ns, raw) for recv_ns, raw in given)
    bare = b"\n".join(raw for _, raw in given)
    gz = len(gzip.compress(raw_lines, 6))
    norm, raw = (sum(len(s[i]) for s in segments) for i in (0, 1))
    entries = sum(1 for r in stored if r.entry.kind != Kind.unparsed)
    out(f"{n} {source} frames, {entries} of them normalised")
    out(f"{'bytes a frame':<52}{'':>8}{'of gzip':>9}")
    for name, size in (
        ("JSON as received", len(bare)),
        ("the same with receive time, a line each", len(raw_lines)),
        ("  gzip -6 of that", gz),
        ("  gzip -6 of the frames alone", len(gzip.compress(bare, 6))),
        ("archive, raw (all clocks, ids and positions)", raw),
        ("archive, normalised (the same, and every field)", norm),
        ("archive, both", raw + norm),
    ):
        out(f"{name:<52}{size / n:>8.1f}{size / gz:>9.2f}")
    wrote = _seconds(lambda: write(stored))
    normal = _seconds(lambda: [block.rows["sequence"].sum() for s in segments for block in read_segment(s.norm)])
    lines = _seconds(lambda: [sum(1 for _ in read_raw(s.raw)) for s in segments])
    zipped = gzip.compress(raw_lines, 6)
    gunzip = _seconds(lambda: gzip.decompress(zipped).count(b"\n"))
    out(f"{'median of five':<36}{'µs a frame':>12}{'M frames/s':>12}")
    for name, seconds in (
        ("write both", wrote), ("read normalised (columns)", normal), ("read raw (parsed lines)", lines), ("gunzip (unparsed)", gunzip)
    ):  # fmt: skip
        out(f"{name:<36}{seconds / n * 1e6:>12.2f}{n / seconds / 1e6:>12.2f}")
