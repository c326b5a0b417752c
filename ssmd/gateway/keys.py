"""Keys of clients: aggregates in stream ``{env}_key``. A key is shown once, when it is made; the journal has the SHA-256 of its secret.

A key is ``ssmd_ID_SECRET``: 12 and 64 hexadecimal digits. 256 random bits need no slow hash: nobody can try them all.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Any

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
    """Fold one entry of the key stream into `keys`; the key it was about, None where it was about another kind of key."""
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
    else:
        found = msgspec.structs.replace(keys[name], revoked_ns=state["at_ns"], revoked_by=event.who, revoked_why=event.why)
    keys[name] = found
    return found


async def read_keys(journal: JournalReader, env: str) -> dict[str, ClientKey]:
    """Every key there ever was, by id, oldest first. Raises `StoreError`."""
    found: dict[str, ClientKey] = {}
    if await journal.info(stream_of(env)) is not None:
        async for records in journal.read(stream_of(env), subjects=[f"{env}.key.events.>"]):
            for record in records:
                learn(found, record)
    return found
