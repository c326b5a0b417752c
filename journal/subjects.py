"""Names: streams, subjects, and the escaping that makes any symbol a token.

A subject is tokens joined by dots. Symbols are escaped byte by byte, so that every symbol has exactly one token
and every token exactly one symbol; the same tokens are used in object keys and Redis keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from journal.errors import BadSubject

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
# Second tokens of domain subjects; a feed of one of these names would collide with them.
RESERVED = frozenset({"internal", "secmaster", "day", "key", "dlq", "shard", "feedback", "signals", "system"})
# Types of domain entries that belong to one version of an aggregate: their symbol is ``ID.VERSION`` and their subject has a token for each.
VERSIONED = frozenset({"events", "snapshots"})
_VERSIONED_SYMBOL = re.compile(r"(.*)\.(0|[1-9][0-9]*)", re.DOTALL | re.ASCII)
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
# Of object keys: escaped tokens and file names; none begins with a dot, so none is a path trick.
_KEY_TOKEN = re.compile(r"[A-Za-z0-9_%-][A-Za-z0-9_.%-]*")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+")


def escape(symbol: str) -> str:
    """The one token of `symbol`: bytes outside ``[A-Za-z0-9_-]`` become ``%XX``; the empty symbol is ``%``."""
    if not symbol:
        return "%"
    if _PLAIN.fullmatch(symbol):  # nearly all
        return symbol
    return "".join(chr(b) if b in _SAFE else f"%{b:02X}" for b in symbol.encode())


def unescape(token: str) -> str:
    """Inverse of `escape`. Raises `BadSubject` for a token that `escape` never makes."""
    if token == "%":
        return ""
    if not _TOKEN.fullmatch(token):
        raise BadSubject(f"{token!r} is not an escaped token")
    try:
        symbol = re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), token.encode()).decode()
    except UnicodeDecodeError as error:
        raise BadSubject(f"{token!r} is not an escaped token") from error
    if escape(symbol) != token:
        raise BadSubject(f"{token!r} is not an escaped token")
    return symbol


def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name an env, feed or shard; raise `BadSubject` saying why not."""
    if name in RESERVED:
        raise BadSubject(f"{kind} name {name!r} is reserved; choose another")
    # A shard may be "0"; letters first is for env and feed, whose names begin subjects.
    if not (NAME.fullmatch(name) or (kind == "shard" and name == "0")):
        raise BadSubject(f"{kind} name {name!r}: use a lower-case letter, then up to 31 of a-z, 0-9 and '-'")
    return name


def check_key(key: str) -> str:
    """Return `key` if it may name an object; raise `BadSubject` saying why not."""
    if not all(_KEY_TOKEN.fullmatch(token) for token in key.split("/")):
        raise BadSubject(f"object key {key!r}: tokens of letters, digits, '_', '-', '%' and '.' (not first), joined by '/'")
    return key


@dataclass(frozen=True, slots=True)
class Stream:
    """One totally ordered sequence of entries.

    `shard` is set for market streams (``{env}_md_{shard}``), `domain` for the others (``{env}_{domain}``).
    """

    env: str
    shard: str = ""
    domain: str = ""

    def __post_init__(self) -> None:
        check_name("env", self.env)
        if bool(self.shard) == bool(self.domain):
            raise BadSubject("a stream has either a shard or a domain")
        if self.shard:
            check_name("shard", self.shard)
        elif self.domain not in RESERVED:
            raise BadSubject(f"unknown domain stream {self.domain!r}; known: {', '.join(sorted(RESERVED))}")

    @property
    def name(self) -> str:
        return f"{self.env}_md_{self.shard}" if self.shard else f"{self.env}_{self.domain}"

    @property
    def is_market(self) -> bool:
        return bool(self.shard)

    def subject(self, feed: str, kind: str, symbol: str) -> str:
        """Subject of an entry: (feed, type, symbol) in a market stream, (domain, type, key) elsewhere.

        The key ``ID.VERSION`` of an aggregate's event is two tokens, so that ``ID.*`` are the events of one aggregate.
        """
        if self.domain:
            if kind in VERSIONED and (parts := _VERSIONED_SYMBOL.fullmatch(symbol)):
                return f"{self.env}.{self.domain}.{kind}.{escape(parts[1])}.{parts[2]}"
            return f"{self.env}.{self.domain}.{kind}.{escape(symbol)}"
        head = self.env if self.shard == "0" else f"internal.{self.env}.{self.shard}"
        return f"{head}.{feed}.{kind}.{escape(symbol)}"

    def symbol(self, subject: str) -> str:
        """The symbol in a subject that `subject` made. Raises `BadSubject` for one without wildcards that it never makes."""
        tokens = subject.split(".")
        if self.domain and len(tokens) == 5 and tokens[2] in VERSIONED and (tokens[4] == "0" or re.fullmatch("[1-9][0-9]*", tokens[4])):
            return f"{unescape(tokens[3])}.{tokens[4]}"
        return unescape(tokens[-1])

    def subjects(self, feed: str = "") -> list[str]:
        """The subjects the stream binds; a market stream of shard 0 binds its feed's only."""
        if self.domain:
            return [f"{self.env}.{self.domain}.>"]
        if self.shard == "0":
            return [f"{self.env}.{check_name('feed', feed)}.>"]
        return [f"internal.{self.env}.{self.shard}.>"]

    @classmethod
    def parse(cls, name: str) -> Stream:
        """The stream of a name such as ``local_md_0`` or ``local_system``."""
        env, _, rest = name.partition("_")
        return cls(env, shard=rest[3:]) if rest.startswith("md_") else cls(env, domain=rest)


def parse_position(text: str) -> tuple[Stream, int]:
    """``stream:sequence`` to its parts; raises `BadSubject`."""
    name, colon, number = text.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit():
        raise BadSubject(f"position {text!r}: write it as stream:sequence, for example local_md_0:1")
    return Stream.parse(name), int(number)


def matches(pattern: str, subject: str) -> bool:
    """NATS matching: ``*`` is one token, a last ``>`` is one or more."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))
