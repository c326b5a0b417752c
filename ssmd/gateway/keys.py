"""Keys of clients: aggregates in stream ``{env}_key``. A key is shown once, when it is made; the journal has the SHA-256 of its secret.

A key is ``ssmd_ID_SECRET``: 12 and 64 hexadecimal digits. 256 random bits need no slow hash: nobody can try them all.
"""

from __future__ import annotations

import hmac
import re
from contextlib import aclosing
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from journal.entry import Event, Record
from journal.protocols import JournalReader
from journal.subjects import Stream

SCOPES = ("read", "admin")
_TOPIC = "gateway_key."
_TEXT = re.compile(r"ssmd_([0-9a-f]{12})_([0-9a-f]{64})")


class ClientKey(msgspec.Struct, frozen=True):
    """A key as the journal knows it. `feeds` empty: all; times in ns, 0: never."""

    id: str
    name: str
    digest: str  # SHA-256 of the secret, hexadecimal
    scopes: tuple[str, ...]
    feeds: tuple[str, ...]
    created_ns: int
    created_by: str
    why: str = ""
    expires_ns: int = 0
    revoked_ns: int = 0
    revoked_by: str = ""
    revoked_why: str = ""

    def state(self, now_ns: int) -> str:
        """valid, expired or revoked."""
        if self.revoked_ns:
            return "revoked"
        return "expired" if self.expires_ns and self.expires_ns <= now_ns else "valid"

    def opened_by(self, secret: str) -> bool:
        """Whether `secret` is the key's; takes as long whatever it is."""
        return hmac.compare_digest(digest_of(secret), self.digest)


def digest_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def parse_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key's text; None for what is none."""
    found = _TEXT.fullmatch(text)
    return (found[1], found[2]) if found else None


def stream_of(env: str) -> Stream:
    return Stream(env, domain="key")


def learn(keys: dict[str, ClientKey], record: Record) -> ClientKey | None:
    """Fold one entry of the key stream into `keys`; the key it was about, if it is a known key of a client."""
    event = record.entry.body
    if not isinstance(event, Event):
        return None
    said = msgspec.json.decode(event.data)
    what = str(said.get("topic", ""))
    if not what.startswith(_TOPIC):
        return None
    state: dict[str, Any] = said["state"]
    name = str(state["key_id"])
    if what == f"{_TOPIC}created":
        found = ClientKey(
            name, state["label"], state["digest"], tuple(state["scopes"]), tuple(state["feeds"]), state["at_ns"], event.who, event.why,
            expires_ns=state["expires_ns"],
        )  # fmt: skip
    elif name not in keys:  # its beginning was purged
        return None
    else:
        found = msgspec.structs.replace(keys[name], revoked_ns=state["at_ns"], revoked_by=event.who, revoked_why=event.why)
    keys[name] = found
    return found


class Known(NamedTuple):
    """Every key there ever was, by id, oldest first, and the last entry that was read; the next one is `next`."""

    keys: dict[str, ClientKey]
    newest: Record | None
    next: int


async def read_all(journal: JournalReader, env: str) -> Known:
    """Keys made before a hole are not known: that they were revoked may be what is missing. Raises `StoreError`."""
    found, newest, stream = dict[str, ClientKey](), None, stream_of(env)
    if (info := await journal.info(stream)) is None:
        return Known(found, None, 1)
    at = info.first - 1
    async with aclosing(journal.read(stream, end=info.last, subjects=[f"{env}.key.>"])) as reads:  # type: ignore[type-var]
        async for records in reads:  # filtered, though by nothing: so holes are passed over
            for newest in records:
                if newest.sequence != at + 1:
                    found.clear()
                learn(found, newest)
                at = newest.sequence
    if at < info.last:
        found.clear()
    return Known(found, newest, at + 1)


async def read_keys(journal: JournalReader, env: str) -> dict[str, ClientKey]:
    """Every key that is known, by id, oldest first. Raises `StoreError`."""
    return (await read_all(journal, env)).keys
