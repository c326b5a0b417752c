"""What the projector journals about the end of days, copied into their manifests: closing and opening snapshots, coverage.

The journalled checkpoint is the fact; the manifest repeats it so that a day's archive can be understood by itself.
"""

from __future__ import annotations

import msgspec

from journal.archive import find_manifest
from journal.entry import Entry
from journal.errors import BadObject
from journal.manifest import Coverage, CoverageGap, CoverageInterval, Manifest, Snapshots, State, manifest_key
from journal.protocols import Storage
from journal.subjects import Stream
from projections.digests import Checkpoint, load, parse

_COVERAGE = "coverage"


class Closings:
    """Remembers closing checkpoints until the manifests of their days exist: at most one a projection, stream and day."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: dict[tuple[str, str, int], Checkpoint] = {}

    def saw(self, entry: Entry) -> None:
        """An entry of the system stream, in order."""
        try:
            found = parse(entry)
        except BadObject:
            return  # it is archived as it is; whoever folds it reports it
        if isinstance(found, Checkpoint) and found.closing:
            at = found.digest
            self._waiting[at.projection, at.stream, at.day] = found

    def copy(self) -> None:
        """Put what is remembered into the manifests that exist; safe to repeat."""
        for key, checkpoint in sorted(self._waiting.items(), key=lambda item: item[1].digest.day):
            at = checkpoint.digest
            stream = Stream.parse(at.stream)
            found = find_manifest(self._storage, stream, at.day)
            if found is None:
                continue
            folder, before = found
            after = self._with(folder, before, checkpoint)
            if after != before:
                self._storage.put(manifest_key(folder), after.encode())
            if self._waiting[key] is checkpoint:  # `saw` may have put a newer one meanwhile, from another thread
                del self._waiting[key]

    def _with(self, folder: str, manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
        at = checkpoint.digest
        closing = State(at.version, at.stream, at.sequence, at.digest, checkpoint.object)
        opening = self._opening(folder, at.projection, closing) if at.opening else None
        others = [s for s in manifest.snapshots if (s.projection, s.closing.stream) != (at.projection, at.stream)]
        snapshots = sorted([*others, Snapshots(at.projection, closing, opening)], key=lambda s: (s.projection, s.closing.stream))
        if snapshots == manifest.snapshots:
            return manifest
        manifest = msgspec.structs.replace(manifest, snapshots=snapshots)
        if at.projection != _COVERAGE:
            return manifest
        kept = [c for c in manifest.coverage if c.stream != at.stream]
        return msgspec.structs.replace(manifest, coverage=[*kept, *self._coverage(at.stream, checkpoint.object)])

    def _opening(self, folder: str, projection: str, closing: State) -> State | None:
        """The closing state of the nearest day before that has one of this version."""
        root, _, date = folder.rpartition("/")
        stream = Stream.parse(closing.stream)
        for earlier in reversed([d for d in self._storage.folders(root) if d < date]):
            found = find_manifest(self._storage, stream, int(earlier.replace("-", "")))
            for s in found[1].snapshots if found else []:
                if s.projection == projection and (s.closing.stream, s.closing.version) == (closing.stream, closing.version):
                    return s.closing
        return None

    def _coverage(self, stream: str, key: str) -> list[Coverage]:
        from projections.coverage import CoverageProjection  # loads numba, a second: only when a day ends

        projection = CoverageProjection()
        try:
            projection.restore(load(self._storage, key))
        except BadObject:
            return []  # archiving goes on; a fold from this snapshot reports it
        found = []
        for channel in projection.keys():  # noqa: SIM118  (a protocol's method, not a dict)
            c = projection.coverage(channel)
            gaps = [CoverageGap(cause, healed, n, missing) for (cause, healed), (n, missing) in c.gaps.items()]
            intervals = [
                CoverageInterval(
                    i.status, i.cause, i.healed_by, i.epoch.hex(), i.subscription, i.from_ns, i.to_ns, i.first_seq, i.last_seq, i.entries
                )
                for i in c.intervals
            ]
            found.append(Coverage(stream, channel, c.entries, gaps, c.unreported, c.disagreed, c.repeated, c.dropped, intervals))
        return found
