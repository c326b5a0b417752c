"""Every error ssmd raises on purpose, split by who must act.

::

    SsmdError
    ├── CallerError            the caller asked for something that cannot be (exit 2)
    │   ├── BadSubject         a name or subject breaks the rules
    │   ├── EntryTooLarge      an entry exceeds the server's message limit; nothing was sent
    │   ├── NotFound           no such symbol, date, position or stream; carries the nearest names
    │   ├── BadFile            a file of the user's is not what it must be; carries every problem
    │   ├── KeyRefused         a key is missing, unreadable or not what it must be; never carries a value
    │   └── NothingToVerify    a verification had nothing to compare
    ├── VenueError             the venue refused or failed
    │   ├── VenueRefused       final: wrong key, wrong clock, wrong path
    │   └── VenueUnavailable   worth a retry
    ├── StoreError             the journal or the object storage
    │   ├── JournalUnavailable worth a retry: no answer, no leader, connection lost
    │   ├── JournalFull        the stream or the disk refuses more
    │   ├── JournalRefused     final: server too old, unsafe settings, no permission
    │   ├── Fenced             another instance of this writer holds the lease
    │   ├── Superseded         an append expected a subject's newest entry to be another one
    │   ├── KeyUnavailable     a key's source does not answer; worth a retry
    │   ├── CacheError         the cache does not answer or takes no more
    │   └── StorageError       objects could not be read or written
    └── CorruptionError        stored data is not what it must be; never retried
        ├── HoleInStream       an unfiltered read was not contiguous
        ├── IdConflict         one id, two contents
        └── BadObject          an object does not match its hash or its format
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property

_COMPARED = 128  # names that one is compared with
_COMPARED_CHARACTERS = 200


class SsmdError(Exception):
    """Root of the tree. The message says what happened and what to do next."""


class CallerError(SsmdError):
    """The request cannot be carried out as it stands."""


class BadSubject(CallerError):
    """A name, token or subject breaks the rules of `journal.subjects`."""


class EntryTooLarge(CallerError):
    """An encoded entry exceeds the journal's limit; nothing was sent."""


class NotFound(CallerError):
    """No such thing; `nearest` holds up to five similar names, `hint` says what to do where those do not.

    Names are compared when they are asked for, and only so many that it holds up no event loop: of a long `known` those
    that sort next to `name`.
    """

    def __init__(self, what: str, name: str, known: Sequence[str] = (), *, hint: str = "") -> None:
        self.what = what
        self.name = name
        self.hint = hint
        self._known = known
        super().__init__(what, name)

    @cached_property
    def nearest(self) -> list[str]:
        known = sorted(self._known)
        at = bisect_left(known, self.name)
        some = known[max(0, at - _COMPARED // 2) : at + _COMPARED // 2] if len(known) > _COMPARED else known
        return get_close_matches(self.name[:_COMPARED_CHARACTERS], some, n=5, cutoff=0.4) or known[:5]

    def __str__(self) -> str:
        nearest = f"nearest: {', '.join(self.nearest)}" if self.nearest else ""
        return "; ".join(filter(None, (f"no {self.what} {self.name!r}", nearest, self.hint)))


class BadFile(CallerError):
    """A file is not what it must be. `problems` are lines of text, each with the file and the place in it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class KeyRefused(CallerError):
    """A key is missing, unreadable or not what it must be. The message never holds a value."""


class NothingToVerify(CallerError):
    """A verification found nothing to compare with."""


class VenueError(SsmdError):
    """The venue refused or failed."""


class VenueRefused(VenueError):
    """Final: wrong key, wrong clock or wrong path. Retrying does not help."""


class VenueUnavailable(VenueError):
    """The venue did not answer; worth a retry."""


class StoreError(SsmdError):
    """The journal or the object storage failed."""


class JournalUnavailable(StoreError):
    """No answer, no leader or no connection; worth a retry."""


class JournalFull(StoreError):
    """The stream or its disk refuses more."""


class JournalRefused(StoreError):
    """The server cannot be used: too old, unsafe settings, no permission."""


class Fenced(StoreError):
    """Another instance of this writer took the lease; `successor` names it."""

    def __init__(self, message: str, successor: str = "") -> None:
        self.successor = successor
        super().__init__(message)


class Superseded(StoreError):
    """The newest entry on `subject` is not the one the append expected; nothing was stored. Look again and decide anew."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"{subject} has changed since it was read; read it again")


class KeyUnavailable(StoreError):
    """A key's source does not answer; worth a retry."""


class CacheError(StoreError):
    """The cache does not answer, or takes no more; what is in it can be made again."""


class StorageError(StoreError):
    """Objects could not be read or written."""


class CorruptionError(SsmdError):
    """Stored data is not what it must be."""


class HoleInStream(CorruptionError):
    """An unfiltered read met a missing sequence."""


class IdConflict(CorruptionError):
    """The same entry id was appended with other content."""


class BadObject(CorruptionError):
    """An object does not match its hash or its format."""
