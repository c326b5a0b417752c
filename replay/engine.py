"""Replay: a source, a clock, a pace and the runner that live uses too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np

from journal.block import Block
from journal.clock import Clock
from journal.day import iso
from journal.errors import NotFound
from journal.protocols import Storage
from journal.subjects import Stream
from projections.digests import Checkpoint, Digest, load
from projections.projection import Projection
from projections.runner import Runner, listed
from replay.clock import SimulatedClock
from replay.ledger import Ledger
from replay.pace import Max, Pace
from replay.source import Source, known_day, market_symbols, until
from replay.verify import Verified, Verifier

COVERAGE = "coverage"  # means nothing without all entries of a subscription


class ReplayResult(msgspec.Struct):
    """`first_recv_ns` and `last_recv_ns` are the least and greatest, 0 without entries; `symbols` those of market messages.

    `digests` are of the final state; with some symbols only, of those keys.
    """

    date: str
    entries: int
    symbols: int
    first_recv_ns: int
    last_recv_ns: int
    elapsed_s: float
    entries_per_s: float
    digests: dict[str, str]
    verify: Verified | None


async def replay(
    source: Source,
    projections: Sequence[Projection],
    *,
    day: int,
    stream: Stream,
    clock: Clock,
    storage: Storage | None = None,
    symbols: Collection[str] | None = None,
    until_ns: int | None = None,
    pace: Pace | None = None,
    simulated: SimulatedClock | None = None,
    verify: bool = False,
    on_block: Callable[[Block], None] | None = None,
) -> ReplayResult:
    """Fold `day` from its opening snapshot, or from nothing where there is none.

    `storage` holds the snapshots; without it the day opens with nothing. `simulated` follows the entries' effective time, and
    `on_block` sees each piece after it was folded. With `symbols`, the coverage projection is left out.

    Raises `NotFound` for a day or symbol without entries, `NothingToVerify`, `BadObject` for a damaged snapshot.
    """
    await known_day(source, stream, day)
    if symbols is not None:
        projections = [p for p in projections if p.name != COVERAGE]
    pace = pace or Max(clock)
    started_ns = clock.mono_ns()
    last = await source.last(stream)  # what comes later is not of this replay
    ledger = await Ledger.read(source, stream)
    openings = {p.name: c for p in projections if storage and (c := ledger.opening(p, day))}
    verifier = None
    if verify:
        await source.prove(stream, day)
        digests = {p.name: openings[p.name].digest.digest if p.name in openings else "" for p in projections}
        verifier = Verifier(
            ledger, projections, digests, day, first=await source.first(stream), last=last, symbols=symbols, storage=storage
        )
    runner = Runner(projections, stream.name, mark=listed(verifier.marks if verifier else []), crossing=True)
    if storage and openings:
        runner.restore(await snapshots(storage, openings), day=day)

    tally = _Tally()
    async for read in source.blocks(stream, day=day, end=last, symbols=symbols):
        block = read if until_ns is None else until(read, until_ns)
        async for span in pace.spans(block.rows["effective_ns"]):
            piece = block.slice(span.start, span.stop)
            if not len(piece):
                continue
            tally.add(piece)
            if simulated:
                simulated.advance(int(piece.rows["effective_ns"].max()))
            for _ in runner.apply(piece):
                if verifier:
                    verifier.check(runner)
            if on_block:
                on_block(piece)
    if verifier and until_ns is None and verifier.marks:
        for _ in runner.finish(verifier.marks[-1]):
            verifier.check(runner)
    if symbols is not None and (unknown := sorted(set(symbols) - tally.symbols - _held(projections))):
        raise NotFound("symbol", unknown[0], sorted(tally.symbols | await symbols_of(source, stream, day)))

    elapsed_s = (clock.mono_ns() - started_ns) / 1e9
    return ReplayResult(
        iso(day), tally.entries, len(tally.symbols), tally.first_recv_ns, tally.last_recv_ns,
        elapsed_s, tally.entries / elapsed_s if elapsed_s else 0.0,
        {p.name: runner.digest(p.name, symbols) for p in projections},
        verifier.result() if verifier else None,
    )  # fmt: skip


async def snapshots(storage: Storage, checkpoints: dict[str, Checkpoint]) -> dict[str, tuple[Digest, bytes]]:
    """The checkpoints' snapshots, ready for `Runner.restore`; read in a thread. Raises `BadObject`."""
    return {name: (c.digest, await asyncio.to_thread(load, storage, c.object)) for name, c in checkpoints.items()}


class _Tally:
    def __init__(self) -> None:
        self.entries = 0
        self.symbols: set[str] = set()
        self.first_recv_ns = 0
        self.last_recv_ns = 0

    def add(self, block: Block) -> None:
        received = block.rows["recv_ns"]
        least, most = int(np.min(received)), int(np.max(received))
        self.first_recv_ns = min(self.first_recv_ns, least) if self.entries else least
        self.last_recv_ns = max(self.last_recv_ns, most)
        self.entries += len(block)
        self.symbols |= market_symbols(block)


def _held(projections: Sequence[Projection]) -> set[str]:
    return {key for p in projections for key in p.keys()}  # noqa: SIM118  (a protocol's method, not a dict)


async def symbols_of(source: Source, stream: Stream, day: int) -> set[str]:
    """Symbols that the day has market messages of; reads the whole day."""
    found: set[str] = set()
    async for block in source.blocks(stream, day=day):
        found |= market_symbols(block)
    return found
