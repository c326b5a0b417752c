"""The record of a day: what it was, written once when it ends, and signed where the environment has a key to sign with.

An object ``{env}/_days/{date}/{SHA-256}.json``, canonical JSON of `body` and its signature. Its name is in the day's own events, so it
cannot be replaced unnoticed. To sign, declare a key called ``signing`` with a field ``private_key``: an Ed25519 private key, PEM.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

import msgspec

from journal.archive import find_manifest
from journal.day import to_int
from journal.entry import canonical_json
from journal.errors import BadObject, KeyRefused
from ssmd.day.activity import Result, Work
from ssmd.day.starting import Parts
from ssmd.settings import Settings
from ssmd.software import software

KEY, FIELD = "signing", "private_key"
FORMAT = 1


async def write_record(parts: Parts, work: Work) -> Result:
    """Write it; the same bytes under the same name when it is written again. Raises `KeyRefused`, `StorageError`."""
    body = await _body(parts, work)
    data = canonical_json(await asyncio.to_thread(_signed, parts.settings, body))
    digest = sha256(data).hexdigest()
    key = f"{parts.settings.env}/_days/{work.day}/{digest}.json"
    await asyncio.to_thread(parts.storage.put, key, data)
    if await asyncio.to_thread(parts.storage.get, key) != data:
        raise BadObject(f"{key} reads back other than it was written; check {parts.settings.storage}")
    return {"record": key, "signed": KEY in parts.settings.environment.keys, "verified": body["verified"], "entries": body["entries"]}


async def _body(parts: Parts, work: Work) -> dict[str, Any]:
    stream, drained, verified = parts.stream, work.done.get("drain", {}), work.done.get("verify", {})
    found = await asyncio.to_thread(find_manifest, parts.storage, stream, to_int(work.day))
    last = int(drained.get("last", 0))
    segments = [s for s in found[1].of_stream(stream.name) if s.first <= last] if found else []
    gaps = [g for g in found[1].gaps if int(g.position.rpartition(":")[2]) <= last] if found else []
    return {
        "format": FORMAT, "env": parts.settings.env, "date": work.day.isoformat(), "ended_by": work.who, "forced": work.forced,
        "verified": bool(verified.get("verified")), "digests_compared": verified.get("digests", 0), "states": verified.get("states", {}),
        "stream": stream.name, "first": drained.get("first", 1), "last": last, "entries": drained.get("entries", 0),
        "gaps": len(gaps), "software": software(),
        "objects": [{"key": o.key, "bytes": o.bytes, "sha256": o.sha256} for s in segments for o in s.objects],
    }  # fmt: skip


def _signed(settings: Settings, body: dict[str, Any]) -> dict[str, Any]:
    """With the signature of its canonical JSON; or saying that there is none."""
    if KEY not in settings.environment.keys:
        return {"body": body, "signed": False}
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    values = settings.resolver.values(KEY)
    if FIELD not in values:
        raise KeyRefused(f"key {KEY} of environment {settings.env} has no field {FIELD}; declare it, an Ed25519 private key in PEM")
    try:
        private = load_pem_private_key(values[FIELD].reveal().encode(), None)
    except (ValueError, TypeError):
        private = None  # what the library says may hold the value
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyRefused(f"{KEY}.{FIELD} of environment {settings.env} is no Ed25519 private key in PEM without a passphrase")
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = private.sign(canonical_json(body))
    return {
        "body": body, "signed": True, "algorithm": "Ed25519", "public_key": b64encode(public).decode(),
        "signature": b64encode(signature).decode(),
    }  # fmt: skip


def read_record(data: bytes, key: str) -> dict[str, Any]:
    """The record in `data`, found under `key`. Raises `BadObject` when it is not what its name or its signature says."""
    name = key.rpartition("/")[2].removesuffix(".json")
    if sha256(data).hexdigest() != name:
        raise BadObject(f"{key} does not match its name: the record was changed; restore it from a copy")
    try:
        record: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        body = record["body"]
        if record["signed"]:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

            public = Ed25519PublicKey.from_public_bytes(b64decode(record["public_key"]))
            try:
                public.verify(b64decode(record["signature"]), canonical_json(body))
            except InvalidSignature:
                raise BadObject(f"{key} has a signature that is not of its body: the record was changed") from None
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise BadObject(f"{key} is no record of a day: {error}") from error
    return record
