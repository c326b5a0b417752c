"""Markets that an earlier run of a writer captured and did not finish: this one goes on with them, or finishes them."""

from __future__ import annotations

from journal.entry import Control, Record
from journal.protocols import JournalReader
from journal.subjects import Stream
from ssmd.services.predecessor import detail_of

CHOSEN, FINALISED = "chosen", "finalised"
DEFINITION = "definition"
_RUNS = 16  # that were killed one after the other before they chose


async def find(journal: JournalReader, stream: Stream, feed: str, lease: Record) -> list[str]:
    """Of the run that took `lease`, or of the one before it where that had not come to choose. What a run inherits it names as chosen."""
    controls = stream.subject(feed, "control", "").rpartition(".")[0] + ".*"
    chosen: dict[str, None] = {}
    for _ in range(_RUNS):
        said = False
        async for records in journal.read(stream, start=lease.sequence, subjects=[controls]):
            for _, entry in records:
                body = entry.body
                if entry.epoch != lease.entry.epoch or not isinstance(body, Control):
                    continue
                if body.action == CHOSEN:
                    said = True
                    chosen.update(dict.fromkeys(detail_of(body).get("symbols", ())))
                elif body.action == FINALISED:
                    chosen.pop(entry.symbol, None)
        previous = detail_of(lease.entry.body).get("previous", 0)
        info = await journal.info(stream)
        if said or not info or previous < info.first:
            break
        async for records in journal.read(stream, start=previous, end=previous):
            lease = records[-1]
    return list(chosen)
