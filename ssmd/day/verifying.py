"""Is what was archived of a day what was journalled, and does it fold to the states of the live run?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from journal.archive import ArchiveReader, segments_of
from journal.day import to_int
from journal.errors import BadObject, CorruptionError, HoleInStream, NothingToVerify
from journal.subjects import Stream
from ssmd.day import extent
from ssmd.day.activity import Finding, Result, Work
from ssmd.day.extent import Extent
from ssmd.day.starting import Parts


async def verify_day(parts: Parts, work: Work) -> Result:
    """Object for object, sequence for sequence, digest for digest. Raises `Finding`.

    A forced end verifies nothing, and says so.
    """
    if work.forced:
        return {"skipped": f"forced by {work.who}", "verified": False}
    findings: list[str] = []
    states: dict[str, dict[str, str]] = {}
    digests = 0
    extents = [e for e in extent.of_results(work.done) if e.entries]
    for found in extents:
        try:
            folded = await _fold(parts, work, found, findings)
        except (BadObject, HoleInStream, NothingToVerify) as error:
            findings.append(str(error))
        else:
            digests += folded.compared
            states[found.stream.name] = folded.digests
    try:
        await _others(parts, work)
    except (BadObject, HoleInStream) as error:
        findings.append(str(error))
    if findings:
        raise Finding(findings)
    return {"verified": True, "entries": sum(e.entries for e in extents), "digests": digests, "states": states}


class _Folded:
    def __init__(self, compared: int, digests: dict[str, str]) -> None:
        self.compared = compared
        self.digests = digests


async def _fold(parts: Parts, work: Work, found: Extent, findings: list[str]) -> _Folded:
    from projections.registry import create
    from replay.engine import replay
    from replay.source import ArchiveSource

    stream, storage, day = found.stream, parts.storage, to_int(work.day)
    segments = await asyncio.to_thread(segments_of, storage, stream, day)
    archived = [(s.ref.first, s.ref.last, s.ref.entries) for s in segments]
    findings += counted(stream, archived, found.first, found.last) if found.contiguous else []
    source = ArchiveSource(ArchiveReader(storage, parts.settings.env, parts.clock))
    result = await replay(
        source, create(), day=day, stream=stream, clock=parts.clock, storage=storage, verify=True,
        on_block=lambda block: work.beat(f"{stream.name}: folded {len(block)} more"),
    )  # fmt: skip
    verified = result.verify
    if verified is None:
        raise CorruptionError("a verification without a result")  # replay promises one
    findings += verified.differences
    if result.entries < found.entries:
        findings.append(f"{stream.name}: the archive of {work.day} folds {result.entries} entries, the journal has {found.entries}")
    return _Folded(verified.compared, result.digests)


async def _others(parts: Parts, work: Work) -> None:
    """The day's objects of the domain streams. Raises `BadObject`, `HoleInStream`."""
    for other in await parts.journal.streams(parts.settings.env):
        if not other.is_market:
            work.beat(other.name)
            await asyncio.to_thread(segments_of, parts.storage, other)
            await ArchiveReader(parts.storage, parts.settings.env).prove(other, to_int(work.day))


def counted(stream: Stream, archived: Sequence[tuple[int, int, int]], first: int, last: int) -> list[str]:
    """What is wrong with segments (first, last, entries) that should hold each of `first` to `last`, once. More at the end is late."""
    findings, following = [], first
    for start, end, entries in archived:
        if start != following:
            findings.append(f"{stream.name}: the archive goes on at {start}, and should at {following}")
        if entries != end - start + 1:
            findings.append(f"{stream.name}: the manifest counts {entries} entries from {start} to {end}, the journal {end - start + 1}")
        following = end + 1
    if following <= last:
        findings.append(f"{stream.name}: the archive of the day ends at {following - 1}, the journal's at {last}")
    return findings
