"""Rendering appends as NATS protocol bytes: a batch is one write.

Headers: every message has ``Nats-Msg-Id``; the messages of an atomic batch have ``Nats-Batch-Id`` and ``Nats-Batch-Sequence``, the last one
``Nats-Batch-Commit``. An expectation about the stream or about a lease is on the first message and on no other; expectations about the
messages' own subjects are on each (two about one subject are error 10164). The first and the last are sent with a reply subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from journal.codec import body_kind_name
from journal.entry import Entry
from journal.errors import CallerError, EntryTooLarge
from journal.subjects import Stream


class Message(NamedTuple):
    """An encoded entry on its way. `epoch` is ``feed.HEX``, `key` (frame, part); with them the id ``feed.HEX.frame.part``."""

    subject: bytes
    id: bytes
    payload: bytes
    epoch: bytes
    key: tuple[int, int]


def subject_of(stream: Stream, entry: Entry) -> str:
    """Where the entry goes in `stream`."""
    return stream.subject(entry.feed, body_kind_name(entry.body), entry.symbol)


def distinct_subjects(stream: Stream, entries: Sequence[Entry], newest: Sequence[int]) -> list[str]:
    """Subjects of the entries of a conditional append. Raises `CallerError` when they are not as `Journal.append_if` wants them."""
    if len(entries) != len(newest) or any(n < 0 for n in newest):
        raise CallerError(f"{len(entries)} entries with newest sequences {list(newest)}: give one for each, 0 for none yet")
    subjects = [subject_of(stream, e) for e in entries]
    for names in (subjects, [e.id for e in entries]):  # the server's errors 10164 and 10201
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise CallerError(f"{twice} is twice in one conditional append: append one entry a subject, each with its own id")
    return subjects


def expect_subject(sequence: int) -> bytes:
    """Refuse unless `sequence` is the newest on the message's own subject (0: none yet)."""
    return b"Nats-Expected-Last-Subject-Sequence:%d\r\n" % sequence


def expect_lease(subject: str, sequence: int) -> bytes:
    """Refuse unless `sequence` is the newest on `subject` (0: none yet)."""
    return b"Nats-Expected-Last-Subject-Sequence:%d\r\nNats-Expected-Last-Subject-Sequence-Subject:%b\r\n" % (sequence, subject.encode())


def expect_last(sequence: int) -> bytes:
    """Refuse unless `sequence` is the stream's last."""
    return b"Nats-Expected-Last-Sequence:%d\r\n" % sequence


def render_one(message: Message, expectation: bytes, reply: bytes, limit: int) -> bytes:
    """An ordinary publish. Raises `EntryTooLarge` above `limit` bytes of headers and payload."""
    subject, entry_id, payload, _, _ = message
    head = b"NATS/1.0\r\nNats-Msg-Id:%b\r\n%b\r\n" % (entry_id, expectation)
    total = len(head) + len(payload)
    if total > limit:
        raise _too_large(message, total, limit)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(head), total, head, payload)


def render_batch(
    messages: Sequence[Message], batch_id: bytes, expectations: Sequence[bytes], replies: tuple[bytes, bytes], limit: int
) -> bytes:
    """Two messages or more as one atomic batch; `expectations` of the first messages. Raises `EntryTooLarge` when any exceeds `limit`."""
    tail = b"\r\nNats-Batch-Id:%b\r\nNats-Batch-Sequence:" % batch_id
    last, expecting = len(messages), len(expectations)
    out: list[bytes] = []
    add = out.append
    for number, message in enumerate(messages, 1):
        subject, entry_id, payload, _, _ = message
        extra = expectations[number - 1] if number <= expecting else b""
        if 1 < number < last:
            head = b"NATS/1.0\r\nNats-Msg-Id:%b%b%d\r\n%b\r\n" % (entry_id, tail, number, extra)
            total = len(head) + len(payload)
            add(b"HPUB %b %d %d\r\n%b" % (subject, len(head), total, head))
        else:
            if number == last:
                extra += b"Nats-Batch-Commit:1\r\n"
            head = b"NATS/1.0\r\nNats-Msg-Id:%b%b%d\r\n%b\r\n" % (entry_id, tail, number, extra)
            total = len(head) + len(payload)
            add(b"HPUB %b %b %d %d\r\n%b" % (subject, replies[number > 1], len(head), total, head))
        if total > limit:
            raise _too_large(message, total, limit)
        add(payload)
        add(b"\r\n")
    return b"".join(out)


def message_id(headers: bytes | None) -> bytes:
    """The ``Nats-Msg-Id`` of a stored message, empty when it has none."""
    if headers is None:
        return b""
    at = headers.find(b"\r\nNats-Msg-Id:")
    return headers[at + 14 : headers.index(b"\r\n", at + 14)].strip() if at >= 0 else b""


def _too_large(message: Message, total: int, limit: int) -> EntryTooLarge:
    return EntryTooLarge(
        f"entry {message.id.decode()} takes {total} bytes with its headers; the server takes {limit}: nothing was sent."
        " Raise max_payload (and the stream's max_msg_size) on the server"
    )
