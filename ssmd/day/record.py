"""The record of a day: what it was, written once when it ends, and signed where the environment has a key to sign with.

An object ``{env}/_days/{date}/{SHA-256}.json``, canonical JSON of `body` and its signature. Its name is in the day's own events, so it
cannot be replaced unnoticed. To sign, declare a key called ``signing`` with a field ``private_key``: an Ed25519 private key, PEM.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from hashlib import sha256
from typing import Any

import msgspec

from journal.archive import ArchiveReader, find_manifest
from journal.codec import encode
from journal.day import to_int
from journal.entry import canonical_json
from journal.errors import BadObject, KeyRefused, NotFound
from journal.manifest import SegmentRef, date_name, decode, manifest_key
from journal.protocols import JournalReader, Storage
from journal.subjects import Stream
from ssmd.day.activity import Result, Work
from ssmd.day.extent import Extent, of_results
from ssmd.day.starting import Parts
from ssmd.settings import Settings
from ssmd.software import software

KEY, FIELD = "signing", "private_key"
FORMAT = 2  # 1 was of shard 0 only and named its objects, but not what is in them


async def write_record(parts: Parts, work: Work, source: Mapping[str, str] | None = None) -> Result:
    """Write it; the same bytes under the same name when it is written again. `source` is what a replayed day was made from.

    Raises `KeyRefused`, `StorageError`.
    """
    body = await _body(parts, work, source)
    data = canonical_json(await asyncio.to_thread(_signed, parts.settings, body))
    digest = sha256(data).hexdigest()
    key = f"{parts.settings.env}/_days/{work.day}/{digest}.json"
    await asyncio.to_thread(parts.storage.put, key, data)
    if await asyncio.to_thread(parts.storage.get, key) != data:
        raise BadObject(f"{key} reads back other than it was written; check {parts.settings.storage}")
    return {"record": key, "signed": KEY in parts.settings.environment.keys, "verified": body["verified"], "entries": body["entries"]}


async def _body(parts: Parts, work: Work, source: Mapping[str, str] | None) -> dict[str, Any]:
    verified = work.done.get("verify", {})
    streams = [await _stream(parts, work, found, verified.get("states", {})) for found in of_results(work.done)]
    return {
        "format": FORMAT, "env": parts.settings.env, "date": work.day.isoformat(), "ended_by": work.who, "forced": work.forced,
        "mode": "replay" if source else "live", "source": dict(source or {}), "verified": bool(verified.get("verified")),
        "digests_compared": verified.get("digests", 0), "entries": sum(s["entries"] for s in streams),
        "gaps": sum(s["gaps"] for s in streams), "software": software(), "streams": streams,
    }  # fmt: skip


async def _stream(parts: Parts, work: Work, extent: Extent, states: dict[str, dict[str, str]]) -> dict[str, Any]:
    stream, first, last, entries = extent
    found = await asyncio.to_thread(find_manifest, parts.storage, stream, to_int(work.day))
    segments = [s for s in found[1].of_stream(stream.name) if s.first <= last] if found else []
    gaps = [g for g in found[1].gaps if _within(g.position, stream.name, last)] if found else []
    return {
        "stream": stream.name, "first": first, "last": last, "entries": entries, "gaps": len(gaps), "states": states.get(stream.name, {}),
        "segments": [await _segment(parts, stream, s) for s in segments],
    }  # fmt: skip


def _within(position: str, stream: str, last: int) -> bool:
    name, _, sequence = position.rpartition(":")
    return name == stream and int(sequence) <= last


async def _segment(parts: Parts, stream: Stream, ref: SegmentRef) -> dict[str, Any]:
    """What it is; of one that may still grow also what its entries are, which is how late ones are told from a change."""
    row: dict[str, Any] = {
        "first": ref.first, "last": ref.last, "objects": [{"key": o.key, "bytes": o.bytes, "sha256": o.sha256} for o in ref.objects]
    }  # fmt: skip
    if not ref.cut:
        row["content"] = await content(ArchiveReader(parts.storage, parts.settings.env), stream, ref.first, ref.last)
    return row


async def content(reader: JournalReader, stream: Stream, first: int, last: int) -> str:
    """The SHA-256 of these entries as the journal stores them, each after its sequence and length in 8 bytes. Raises `BadObject`."""
    digest = sha256()
    async for records in reader.read(stream, start=first, end=last):
        for sequence, entry in records:
            data = encode(entry)
            digest.update(sequence.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


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


def streams_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The market streams of a record of any format."""
    if "streams" in body:
        return list(body["streams"])
    return [{**{name: body[name] for name in ("stream", "first", "last", "entries", "gaps", "states")}, "segments": []}]


def archived_streams(storage: Storage, env: str, day: int) -> list[Stream]:
    """The market streams that have something archived of the day, by name."""
    folders = (f"{env}/{feed}/{date_name(day)}" for feed in storage.folders(env) if not feed.startswith("_"))
    names = set[str]()
    for folder in folders:
        with suppress(NotFound):
            key = manifest_key(folder)
            names.update(s.stream for s in decode(storage.get(key), key).segments)
    return [Stream.parse(name) for name in sorted(names)]


async def compare(storage: Storage, env: str, day: date, recorded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of the objects that a record names: how many are named still, which segments have `grown` by late entries and hold the
    same ones besides, and what was `changed`, in words.
    """
    reader, unchanged, grown, changed = ArchiveReader(storage, env), 0, list[str](), list[str]()
    for was in recorded:
        stream = Stream.parse(was["stream"])
        found = await asyncio.to_thread(find_manifest, storage, stream, to_int(day))
        now = {s.first: s for s in found[1].of_stream(stream.name)} if found else {}
        for segment in was["segments"]:
            ref, where = now.get(segment["first"]), f"{stream.name}:{segment['first']}-{segment['last']}"
            if ref and [o.sha256 for o in ref.objects] == [o["sha256"] for o in segment["objects"]]:
                unchanged += len(ref.objects)
            elif ref is None or "content" not in segment or ref.last <= segment["last"]:
                changed.append(f"{where} is not in the archive as it was recorded")
            else:
                try:
                    same = await content(reader, stream, segment["first"], segment["last"]) == segment["content"]
                except BadObject as error:
                    changed.append(str(error))
                else:
                    (grown if same else changed).append(f"{where}, now in {ref.norm.key}" if same else f"{where} has other entries now")
    return {"unchanged": unchanged, "grown": grown, "changed": changed}
