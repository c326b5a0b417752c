"""Recordings on disk: plain, gzip or zstd, one JSON record a line; checked whole before anything is made of them.

Two forms are known: ``{"recv_ms", "event"}`` and the archive's own raw lines ``{"pos", "recv_ns", "mono_ns", "epoch", "frame", "text" or
"b64"}``. A line that is JSON of another shape, or no JSON at all, is unknown and kept as it is; one that begins as a record and does
not end as one is damage, and so is a broken compressed stream: those are refused, with file and line.
"""

from __future__ import annotations

import zlib
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappop, heappush, heapreplace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import zstandard

from journal.errors import BadObject, CallerError

SUFFIXES = (".ndjson", ".ndjson.gz", ".ndjson.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst")
# Compressed bytes read at once. JSON shrinks twentyfold in the recordings at hand, so an open file holds about 300 kB of lines.
_CHUNK = 16 << 10
# A line becomes one entry, whose levels take 24 bytes for at least 17 of JSON: with its frame that fits a default server's 1 MiB.
MAX_LINE = 400_000
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MS_NS = 1_000_000
_Millis = Annotated[int, msgspec.Meta(ge=0, le=9_223_372_036_854)]
_Nanos = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Recorded(msgspec.Struct):
    recv_ms: _Millis
    event: msgspec.Raw


class _RawLine(msgspec.Struct):
    recv_ns: _Nanos
    epoch: str
    frame: int
    mono_ns: _Nanos = 0
    text: str | None = None
    b64: str | None = None


_recorded = msgspec.json.Decoder(_Recorded).decode
_raw_line = msgspec.json.Decoder(_RawLine).decode


class Line(NamedTuple):
    """One line as a frame. `error` says why the line is unknown; `order_ns` never decreases within a file."""

    order_ns: int
    file: int
    number: int  # from 1
    recv_ns: int
    mono_ns: int
    epoch: str  # the connection it says it came from; "" in recordings
    data: bytes
    error: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that was read to its end and holds."""

    path: Path
    sha256: bytes  # of the decompressed bytes
    lines: int
    bytes: int
    first_ns: int  # receive time of the first known line


def find(paths: Iterable[Path]) -> list[Path]:
    """The files of `paths`, folders searched for recordings, each once, in order. Raises `CallerError`."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
            if not inside:
                raise CallerError(f"{path}: no recordings in this folder (looked for {', '.join(f'*{s}' for s in SUFFIXES)})")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise CallerError(f"{path}: no such file or folder")
    return list(found)


def begins(path: Path) -> bool:
    """Whether a line at the beginning of the file is known, or it has none."""
    with suppress(CallerError):
        for text in _decompressed(path, lambda _: None):
            if text.lines:
                return any(not _parse(path, number, line, ended=text.ended)[4] for number, line in enumerate(text.lines, 1))
        return True
    return False


def sound(folder: Path, known: Mapping[Path, bool]) -> list[Path]:
    """The largest folders at or below `folder` of whose files all are `known`, and single ones."""
    inside = [f for f in known if f.is_relative_to(folder)]
    if all(known[f] for f in inside):
        return [folder]
    if folder in known:
        return []
    below = dict.fromkeys(folder / f.relative_to(folder).parts[0] for f in inside)
    return [found for path in below for found in sound(path, known)]


def examine(path: Path, advance: Callable[[int], None]) -> Recording:
    """Read the whole file and check every line. Raises `CallerError` for damage; memory is bounded by `_CHUNK` and `MAX_LINE`."""
    digest, first_ns, last, number, size = sha256(), None, b"", 0, 0
    example = ""
    for text in _decompressed(path, advance):
        digest.update(text.data)
        size += len(text.data)
        for last in text.lines:
            number += 1
            recv_ns, *_, error = _parse(path, number, last, ended=text.ended)
            if error:
                example = example or f"line {number}: {error}"
            elif first_ns is None:
                first_ns = recv_ns
    if number and first_ns is None:
        raise CallerError(f"{path}: not a recording, no line of it is known ({example}); nothing was imported")
    return Recording(path, digest.digest(), number, size, first_ns or 0)


def merged(recordings: list[Recording]) -> Iterator[Line]:
    """All lines by receive time, then in the order of the files; a file is open only from its first line to its last."""
    waiting = sorted(((r.first_ns, i) for i, r in enumerate(recordings) if r.lines), reverse=True)
    heap: list[tuple[Line, Iterator[Line]]] = []
    while waiting or heap:
        while waiting and (not heap or waiting[-1] <= heap[0][0][:2]):
            _, index = waiting.pop()
            lines = _lines(index, recordings[index])
            heappush(heap, (next(lines), lines))
        line, lines = heap[0]
        yield line
        if (following := next(lines, None)) is None:
            heappop(heap)
        else:
            heapreplace(heap, (following, lines))


def _lines(index: int, recording: Recording) -> Iterator[Line]:
    order_ns, recv_ns, epoch, number, size = recording.first_ns, recording.first_ns, "", 0, 0
    for text in _decompressed(recording.path, lambda _: None):
        size += len(text.data)
        for data in text.lines:
            number += 1
            at_ns, mono_ns, origin, frame, error = _parse(recording.path, number, data, ended=text.ended)
            if not error:  # an unknown line came about when, and from where, its neighbour did
                recv_ns, epoch = at_ns, origin
            order_ns = max(order_ns, recv_ns)
            yield Line(order_ns, index, number, recv_ns, mono_ns, epoch, frame, error)
    if (number, size) != (recording.lines, recording.bytes):
        raise BadObject(f"{recording.path} changed while it was imported; run the import again when nothing writes to it")


def _parse(path: Path, number: int, line: bytes, *, ended: bool) -> tuple[int, int, str, bytes, str]:
    """(receive time, monotonic time, epoch, frame bytes, error)."""
    try:
        recorded = _recorded(line)
        return recorded.recv_ms * _MS_NS, 0, "", bytes(recorded.event), ""
    except msgspec.DecodeError:
        pass
    try:
        raw = _raw_line(line)
        if (raw.text is None) != (raw.b64 is None):
            data = raw.text.encode() if raw.text is not None else b64decode(raw.b64 or "", validate=True)
            return raw.recv_ns, raw.mono_ns, raw.epoch, data, ""
    except (msgspec.DecodeError, Base64Error):
        pass
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if line.lstrip().startswith(b"{") or b"\0" in line or not ended:
            what = "is damaged" if ended else "ends in the middle of a record: the file is truncated"
            raise CallerError(
                f"{path}, line {number}, {what} ({error}); nothing was imported. Repair or remove the line, or fetch the file again."
            ) from None
        return 0, 0, "", line, "not JSON"
    return 0, 0, "", line, "no known record"


class _Text(NamedTuple):
    data: bytes
    lines: list[bytes]
    ended: bool  # False: the file ends without a newline, and this is what was left


def _decompressed(path: Path, advance: Callable[[int], None]) -> Iterator[_Text]:
    rest, number = b"", 0
    for data in _chunks(path, advance):
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        number += len(lines)
        if len(rest) > MAX_LINE or (lines and max(map(len, lines)) > MAX_LINE):
            raise CallerError(
                f"{path}: a line near {number + 1} is longer than {MAX_LINE:,} bytes, which no venue sends; nothing was imported"
            )
        yield _Text(data, lines, ended=True)
    if rest:
        yield _Text(b"", [rest], ended=False)


def _chunks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            make: Callable[[], Any] | None = None
            if head.startswith(_GZIP):
                make = lambda: zlib.decompressobj(wbits=31)  # noqa: E731
            elif head == _ZSTD:
                make = zstandard.ZstdDecompressor().decompressobj
            part: Any = make() if make else None
            begun = False
            while data := file.read(_CHUNK):
                advance(len(data))
                if not make:
                    yield data
                    continue
                while data:  # several members or frames may follow each other
                    if part.eof:
                        data = data.lstrip(b"\0") if head.startswith(_GZIP) else data  # tapes pad gzip with zeros
                        if not data:
                            break
                        part = make()
                    begun = True
                    yield part.decompress(data)
                    data = part.unused_data
            if begun and not part.eof:
                raise CallerError(f"{path}: the compressed file is truncated; nothing was imported. Fetch it again.")
    except (zlib.error, zstandard.ZstdError) as error:
        raise CallerError(f"{path}: the compressed file is corrupt ({error}); nothing was imported. Fetch it again.") from None
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror or error}; nothing was imported") from None
