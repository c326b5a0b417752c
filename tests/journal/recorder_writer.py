"""A process that writes events for the tests: ``python -m tests.journal.recorder_writer race|follow URL STREAM NAME SEED UPTO``.

`race`: change one of a few aggregates, again and again, until all have `UPTO` versions, and print who won and who lost. `follow`: record
events with the tracking of what they follow from, up to `UPTO`, from where any earlier process of this kind was.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from eventsourcing.persistence import IntegrityError, StoredEvent, Tracking

from journal.recorder import JournalRecorder
from journal.subjects import Stream
from tests.journal.backends import backend

AGGREGATES = [f"agg-{n}" for n in range(3)]


def race(recorder: JournalRecorder, name: str, rng: random.Random, upto: int) -> None:
    open_ones, attempt = list(AGGREGATES), 0
    while open_ones:
        some = rng.sample(open_ones, rng.randint(1, len(open_ones)))
        events = []
        for aggregate in some:
            newest = recorder.select_events(aggregate, desc=True, limit=1)
            version = newest[0].originator_version if newest else 0
            if version >= upto:
                open_ones.remove(aggregate)
            else:
                events += [StoredEvent(aggregate, v, "t", b"{}") for v in range(version + 1, version + 1 + rng.randint(1, 3))]
        attempt += 1
        try:
            # Byte-identical events: only the `why` of the entry names its writer.
            recorder.insert_events(events, why=f"{name}/{attempt}")
        except IntegrityError:
            tell(lost=attempt)
        else:
            tell(won=attempt, events=[(e.originator_id, e.originator_version) for e in events])


def follow(recorder: JournalRecorder, name: str, rng: random.Random, upto: int) -> None:
    while (done := recorder.max_tracking_id("upstream") or 0) < upto:
        events = [StoredEvent(f"policy-{done + 1}-{n}", 1, "t", b"{}") for n in range(rng.randint(1, 20))]
        try:
            recorder.insert_events(events, tracking=Tracking("upstream", done + 1), why=f"{name}/{len(events)}")
        except IntegrityError:
            tell(lost=done + 1)
        else:
            tell(won=done + 1)


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    mode, url, stream, name, seed, upto = sys.argv[1:]
    with backend(url, timeout_s=1.0) as place:
        tell(connected=True)
        sys.stdin.readline()  # until all are
        {"race": race, "follow": follow}[mode](place.recorder(Stream.parse(stream)), name, random.Random(f"{seed}/{name}"), int(upto))


if __name__ == "__main__":
    main()
