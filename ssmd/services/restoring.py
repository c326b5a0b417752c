"""Where a fold goes on: the newest place of a stream that has a whole checkpoint of every projection asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import NamedTuple, Protocol, TypeVar

from journal.errors import BadObject, HoleInStream
from journal.protocols import JournalReader, Storage
from journal.subjects import Stream
from projections.digests import Digest
from projections.runner import Runner
from replay.engine import snapshots
from replay.ledger import Ledger
from replay.source import JournalSource

_T = TypeVar("_T")


class Attempt(Protocol):
    """Awaits what it is given, again where that is worth it."""

    async def __call__(self, work: Callable[[], Awaitable[_T]], /) -> _T: ...


class Restored(NamedTuple):
    """`runner` is at the checkpoint's place, or at the beginning where there was none. `notes`: why others were passed over."""

    runner: Runner
    notes: list[str]


async def once(work: Callable[[], Awaitable[_T]], /) -> _T:
    """An `Attempt` that is not repeated."""
    return await work()


async def restore_newest(
    journal: JournalReader,
    storage: Storage,
    stream: Stream,
    make: Callable[[], Runner],
    attempt: Attempt = once,
    *,
    first: int = 1,
    upto: int | None = None,
) -> Restored:
    """A runner of `make` at the newest such place from which the fold can go on with entry `first` or a later one, not behind `upto`.

    Raises `StoreError` where `attempt` lets it.
    """
    runner, notes = make(), list[str]()
    ledger = await attempt(lambda: Ledger.read(JournalSource(journal), stream))
    info = await attempt(lambda: journal.info(stream))
    last = info.last if info else 0
    purged = False
    for checkpoints in ledger.resumable(runner.projections):
        place = next(iter(checkpoints.values())).digest
        if place.sequence > last:
            notes.append(f"checkpoint {stream.name}:{place.sequence} is beyond the stream's end, {last}")
            continue
        if upto is not None and place.sequence > upto:
            continue
        if place.sequence < first - 1:
            if not purged:
                notes.append(f"checkpoint {stream.name}:{place.sequence} is of no use: entries before {first} are not there any more")
            purged = True
            continue
        if not await attempt(lambda c=checkpoints: _is_of(journal, stream, [x.digest for x in c.values()])):  # type: ignore[misc]
            notes.append(f"checkpoint {stream.name}:{place.sequence} is of another entry: the stream was made anew or restored since")
            continue
        try:
            states = await attempt(lambda c=checkpoints: snapshots(storage, c))  # type: ignore[misc]
            runner.restore(states)
        except BadObject as error:
            notes.append(str(error))
            runner = make()
        else:
            break
    return Restored(runner, notes)


async def _is_of(journal: JournalReader, stream: Stream, places: list[Digest]) -> bool:
    """Whether the entry that checkpoints of one place were taken behind is the one that is there, as far as it is there."""
    at = places[0].sequence
    with suppress(HoleInStream):  # it was purged
        async with aclosing(journal.read(stream, start=at, end=at)) as reads:  # type: ignore[type-var]
            async for records in reads:
                return {place.effective_ns for place in places} == {records[0].entry.effective_ns}
    return True
