"""What `ssmd journal tail` reads: which streams a subject means, their last entries, and several followed at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from journal.entry import Record
from journal.errors import BadSubject, NotFound
from journal.protocols import JournalReader
from journal.subjects import RESERVED, Stream, check_name
from ssmd.settings import IMPORT

if TYPE_CHECKING:
    from ssmd.querying import Wanted

_WINDOW = 1_024  # sequences looked at first when the last entries of a subject are sought, then four times as many, and so on
_QUEUED = 16  # runs of records waiting to be printed; the readers wait beyond it
_SHOWN_FIRST = 10  # entries `--follow` begins with, as `tail -f` does


def sought(stream: Stream) -> bool:
    """Whether effective times never decrease in the stream, so that a time can be searched for. Others have several writers."""
    return stream.domain == "secmaster" or (stream.is_market and stream.shard != IMPORT)


class Span(NamedTuple):
    """Which entries: of a subject ("" for all), from and to an effective time, at most so many, and what else is `wanted` of them."""

    subject: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int | None = None
    wanted: Wanted | None = None

    @property
    def narrow(self) -> bool:
        """Whether it may be few of a stream's entries."""
        return bool(self.subject or self.wanted)

    def patterns(self, stream: Stream) -> list[str]:
        """What the server is asked for."""
        return self.wanted.patterns(stream) if self.wanted else patterns(self.subject)


def patterns(subject: str) -> list[str]:
    """A short subject stands for itself and everything below it; none for all."""
    if not subject or subject.endswith(">"):
        return [subject] if subject else []
    return [subject, f"{subject}.>"]


async def streams(journal: JournalReader, env: str, subject: str, *, follow: bool, domain: bool = False) -> list[Stream]:
    """The streams that can hold the subject; without one, the market streams of `env`, or with `domain` the others.

    Raises `NotFound`, `BadSubject`.
    """
    if not subject:
        found = [s for s in await journal.streams(env) if s.is_market != domain]
        if not found and (domain or not follow):
            raise NotFound(f"{'domain' if domain else 'market'} stream in environment", env)
        return found or [Stream(env, shard="0")]
    tokens = _tokens(subject)
    named = _env(tokens)
    env = env if named in {"*", ">"} else named
    known = await journal.streams(check_name("env", env))
    found = [s for s in known if _may_hold(s, tokens)]
    if not found and not follow:
        raise NotFound("stream for subject", subject, [s.subjects("feed")[0] for s in known])
    return found or [_named(env, tokens)]


def holding(known: Sequence[Stream], env: str, subject: str) -> list[Stream]:
    """Those of the streams `known` of `env` that can hold the subject. Raises `BadSubject`."""
    tokens = _tokens(subject)
    if (named := _env(tokens)) not in {env, "*", ">"}:
        raise BadSubject(f"{subject!r} is of environment {named!r}, and this is {env!r}; name it with --env")
    return [s for s in known if _may_hold(s, tokens)]


def _tokens(subject: str) -> list[str]:
    tokens = subject.split(".")
    if not all(tokens) or any(c.isspace() for c in subject) or ">" in tokens[:-1]:
        raise BadSubject(f"{subject!r} is no subject: tokens joined by dots, '*' for one token, a last '>' for all below")
    if len(tokens) == 1 and "_" in subject:  # no environment's name has one
        below = Stream.parse(subject).subjects("kalshi")[0].removesuffix(".>")
        raise BadSubject(f"{subject!r} is a stream's name; its subjects begin as {below}")
    return tokens


def _env(tokens: Sequence[str]) -> str:
    return tokens[1] if tokens[0] == "internal" and len(tokens) > 1 else tokens[0]


def _may_hold(stream: Stream, tokens: Sequence[str]) -> bool:
    bound = [stream.env, "*"] if stream.shard == "0" else stream.subjects()[0].split(".")[:-1]
    for have, want in zip(bound, tokens, strict=False):
        if want == ">":
            return True
        if have != want and "*" not in (have, want):
            return False
    return not (stream.shard == "0" and len(tokens) > 1 and tokens[1] in RESERVED)


def _named(env: str, tokens: Sequence[str]) -> Stream:
    """The stream that will hold the subject once it exists."""
    if tokens[0] == "internal":
        return Stream(env, shard=tokens[2] if len(tokens) > 2 else "0")
    domain = tokens[1] if len(tokens) > 1 and tokens[1] in RESERVED else ""
    return Stream(env, domain=domain) if domain else Stream(env, shard="0")


async def stored(journal: JournalReader, found: Sequence[Stream], span: Span) -> AsyncIterator[tuple[Stream, list[Record]]]:
    """What is there, stream by stream. `limit` without `since` means the last entries, over all streams the latest."""
    left = span.limit
    if left is not None and span.since_ns is None:
        newest = [(s, r) for s in found for r in await _last(journal, s, span, left)]
        kept = sorted(newest, key=lambda n: n[1].entry.effective_ns)[-left:]
        for stream in found:
            if records := [r for r in (r for s, r in newest if s == stream) if (stream, r) in kept]:
                yield stream, records
        return
    for stream in found:
        start, end = await _bounds(journal, stream, span)
        async for read in journal.read(stream, start=start, end=end, subjects=span.patterns(stream)):
            records = _within(stream, read, span)
            yield stream, records if left is None else records[:left]
            if left is not None and (left := left - len(records)) <= 0:
                return


async def follow(journal: JournalReader, found: Sequence[Stream], span: Span) -> AsyncIterator[tuple[Stream, list[Record]]]:
    """What is there and what comes, until `limit` entries or for ever."""
    queue: asyncio.Queue[tuple[Stream, list[Record]]] = asyncio.Queue(_QUEUED)

    async def read(stream: Stream) -> None:
        if span.since_ns is None:
            first = await _last(journal, stream, span, min(span.limit or _SHOWN_FIRST, _SHOWN_FIRST))
            info = await journal.info(stream)
            start, end = first[0].sequence if first else info.last + 1 if info else 1, None
        else:
            start, end = await _bounds(journal, stream, span)
        async for records in journal.read(stream, start=start, end=end, subjects=span.patterns(stream), follow=True):
            await queue.put((stream, _within(stream, records, span)))

    left = span.limit
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(s)) for s in found]
        while left is None or left > 0:
            stream, records = await queue.get()
            yield stream, records[:left]
            if left is not None:
                left -= len(records)
        for reader in readers:
            reader.cancel()


def _within(stream: Stream, records: list[Record], span: Span) -> list[Record]:
    """The wanted ones; of a stream that is not in order of time, those of the span: others are sought."""
    if span.wanted:
        records = [r for r in records if span.wanted.takes(stream, r)]
    if sought(stream):
        return records
    since_ns, until_ns = span.since_ns or 0, span.until_ns if span.until_ns is not None else 1 << 63
    return [r for r in records if since_ns <= r.entry.effective_ns <= until_ns]


async def _bounds(journal: JournalReader, stream: Stream, span: Span) -> tuple[int, int | None]:
    info = await journal.info(stream)
    start = info.first if info else 1
    if not sought(stream):
        return start, None
    if span.since_ns is not None:
        start = max(start, await journal.seek(stream, span.since_ns - 1))
    return start, None if span.until_ns is None else await journal.seek(stream, span.until_ns) - 1


async def _last(journal: JournalReader, stream: Stream, span: Span, count: int) -> list[Record]:
    """The last `count` records, in order; looks at ever larger windows from the end."""
    info = await journal.info(stream)
    if not info or info.last < info.first:
        return []
    end = info.last if span.until_ns is None or not sought(stream) else await journal.seek(stream, span.until_ns) - 1
    window = count if not span.narrow else max(_WINDOW, count)
    found: list[Record] = []
    while end >= info.first and len(found) < count:
        start = max(info.first, end - window + 1)
        part: list[Record] = []
        chunks = journal.read(stream, start=start, end=end, subjects=span.patterns(stream))
        async for read in chunks:
            records = _within(stream, read, span)
            part = (part + records)[-count:]
        found = (part + found)[-count:]
        end, window = start - 1, window * 4
    return found
