"""The end of a day that is journalled already: verified, found out, forced, signed, late."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from journal import manifest
from journal.entry import Entry, canonical_json
from journal.errors import BadObject
from ssmd.day.activity import Result, Step, Work
from ssmd.day.aggregate import State, TradingDay
from ssmd.day.documents import summary, timeline, whole
from ssmd.day.embedded import EmbeddedDriver
from ssmd.day.ending import plan_end
from ssmd.day.record import read_record
from ssmd.day.register import facts
from ssmd.day.verifying import counted
from ssmd.keys.secret import Variables
from ssmd.services.archiver import Archiver
from tests.cli.schema import check
from tests.day.captures import STREAM, Capture
from tests.replay.test_replay import market

DAY = date(2026, 8, 10)


async def journalled(c: Capture, entries: list[Entry]) -> None:
    await c.journal.ensure(STREAM, "kalshi")
    for at in range(0, len(entries), 500):
        await c.journal.append(STREAM, entries[at : at + 500])


async def ended(c: Capture, *, forced: bool = False, before_verify: Any = None) -> TradingDay:
    register = c.register()
    if not await register.dates():
        for to in (State.STARTING, State.ACTIVE):
            await register.move(DAY, to, who="ana")
    await register.move(DAY, State.ENDING, who="ana", forced=forced)
    plan = list(plan_end(c.parts(), register))
    if before_verify:

        async def meddle(work: Work) -> Result:
            del work
            before_verify()
            return {}

        plan.insert(3, Step("meddle", meddle))
    return await EmbeddedDriver(register, c.clock, "runner@test").run(DAY, plan)


async def shown(c: Capture) -> dict[str, Any]:
    register = c.register()
    document = await whole(await register.get(DAY), await facts(c.journal, "local", DAY), c.calendar, c.journal, c.storage)
    check("day_show", document)
    return document


@pytest.mark.parametrize("days", [1, 2])
def test_a_day_is_verified_and_its_record_says_what_it_was(tmp_path: Path, days: int) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        await journalled(c, market(600, days=days))
        assert (await ended(c)).state == "COMPLETE"
        document = await shown(c)
        body = document["record"]["body"]
        (stream,) = body["streams"]
        assert (stream["first"], stream["last"], body["entries"]) == (1, 600 // days + 1, 600 // days + 1)
        assert (body["mode"], document["mode"], document["record"]["objects"]) == (
            "live",
            "live",
            {"unchanged": 1, "grown": [], "changed": []},
        )
        assert (body["verified"], body["forced"], body["ended_by"]) == (True, False, "ana")
        assert body["digests_compared"] >= 5
        assert stream["states"].keys() == {"book", "coverage", "status", "ticker", "trades"}
        assert document["record"]["signed"] is False
        assert document["late_entries"] == 0
        assert [r["what"] for r in timeline(document)][-1].startswith("ENDING → COMPLETE")

    asyncio.run(run())


def test_an_object_that_is_not_what_it_was_fails_the_day_until_it_is_restored(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        await journalled(c, market(300, days=1))
        kept: dict[str, bytes] = {}

        def tamper() -> None:
            key = next(o.key for o in c.storage.list("local/kalshi/") if "/raw/" in o.key or "/norm/" in o.key)
            kept[key] = c.storage.get(key)
            c.storage.put(key, kept[key][:-1] + b"!")

        found = await ended(c, before_verify=tamper)
        (key,) = kept
        assert found.state == "FAILED"
        assert key in found.why
        assert found.record == ""
        c.storage.put(key, kept[key])
        assert (await ended(c)).state == "COMPLETE"

    asyncio.run(run())


def test_a_manifest_that_counts_otherwise_is_a_finding(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        await journalled(c, market(300, days=1))

        def miscount() -> None:
            key = next(o.key for o in c.storage.list("local/kalshi/") if o.key.endswith("manifest.json"))
            found = manifest.decode(c.storage.get(key), key)
            segments = [msgspec.structs.replace(s, last=s.last - 1) for s in found.segments]
            c.storage.put(key, msgspec.structs.replace(found, segments=segments).encode())

        found = await ended(c, before_verify=miscount)
        assert found.state == "FAILED"
        what = (await facts(c.journal, "local", DAY))[-1].detail["result"]
        assert any("local_md_0" in line for line in what["findings"])

    asyncio.run(run())


def test_what_is_wrong_with_counts() -> None:
    assert counted(STREAM, [(5, 9, 5), (10, 12, 3)], 5, 12) == []
    assert counted(STREAM, [(5, 9, 5), (10, 14, 5)], 5, 12) == [], "more at the end is late"
    assert counted(STREAM, [(5, 8, 4), (10, 12, 3)], 5, 12) == ["local_md_0: the archive goes on at 10, and should at 9"]
    assert counted(STREAM, [(5, 9, 4)], 5, 9) == ["local_md_0: the manifest counts 4 entries from 5 to 9, the journal 5"]
    assert counted(STREAM, [(5, 9, 5)], 5, 10) == ["local_md_0: the archive of the day ends at 9, the journal's at 10"]
    assert counted(STREAM, [], 5, 6) == ["local_md_0: the archive of the day ends at 4, the journal's at 6"]


def test_force_skips_the_verification_and_says_so_for_ever(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        await journalled(c, market(300, days=1))
        found = await ended(c, forced=True)
        assert (found.state, found.forced) == ("COMPLETE", True)
        assert found.done["verify"] == {"skipped": "forced by ana", "verified": False}
        document = await shown(c)
        body = document["record"]["body"]
        assert (body["forced"], body["verified"], body["streams"][0]["states"]) == (True, False, {})
        assert "(forced)" in " ".join(r["what"] for r in timeline(document))

    asyncio.run(run())


def test_what_comes_after_the_record_is_late(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        entries = market(300, days=1)
        await journalled(c, entries[:200])
        await ended(c)
        await journalled(c, entries[200:])
        await Archiver(c.journal, c.storage, "local", c.clock).catch_up()
        document = await shown(c)
        assert (document["late_entries"], document["record"]["body"]["streams"][0]["last"]) == (len(entries) - 200, 200)
        assert document["record"]["objects"]["changed"] == []
        assert len(document["record"]["objects"]["grown"]) == 1, "the open tail was replaced, and has the same entries besides"
        assert "1 replaced by larger ones with the same entries and late ones" in summary(document)["objects of record"]

    asyncio.run(run())


def test_a_record_is_signed_where_there_is_a_key(tmp_path: Path) -> None:
    async def run() -> None:
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        c = Capture(tmp_path, keys={"signing": {"type": "tls", "fields": ["private_key"], "variables": {"private_key": "PEM"}}})
        object.__setattr__(c.settings, "variables", Variables({"PEM": pem}))
        await journalled(c, market(100, days=1))
        found = await ended(c)
        assert (found.state, found.done["record"]["signed"]) == ("COMPLETE", True)
        data = c.storage.get(found.record)
        assert read_record(data, found.record)["algorithm"] == "Ed25519"
        assert pem.splitlines()[1].encode() not in data
        forged = data.replace(b'"gaps":0', b'"gaps":9')
        with pytest.raises(BadObject, match="does not match its name"):
            read_record(forged, found.record)
        c.storage.put(found.record, forged)
        assert "does not match its name" in (await shown(c))["record"]["error"]
        renamed = f"x/{sha256(forged).hexdigest()}.json"
        with pytest.raises(BadObject, match="signature that is not of its body"):
            read_record(forged, renamed)

    asyncio.run(run())


def test_a_key_that_is_none_is_said_without_its_value(tmp_path: Path) -> None:
    async def run() -> None:
        c = Capture(tmp_path, keys={"signing": {"type": "tls", "fields": ["private_key"], "variables": {"private_key": "PEM"}}})
        object.__setattr__(c.settings, "variables", Variables({"PEM": "sesame-sesame"}))
        await journalled(c, market(100, days=1))
        found = await ended(c)
        assert found.state == "ERROR"
        assert "signing.private_key of environment local is no Ed25519 private key" in found.why
        assert "sesame" not in str(await facts(c.journal, "local", DAY))

    asyncio.run(run())


@pytest.mark.parametrize("harm", ["gone", "changed", "forged"])
def test_a_record_that_is_not_what_was_written_is_said_and_shows_the_rest(tmp_path: Path, harm: str) -> None:
    async def run() -> None:
        c = Capture(tmp_path)
        await journalled(c, market(300, days=1))
        key = (await ended(c)).record
        record = msgspec.json.decode(c.storage.get(key))
        record["body"]["entries"] = 7
        if harm == "gone":
            c.storage.delete(key)
        elif harm == "changed":
            c.storage.put(key, canonical_json(record))
        else:  # signed by somebody, under the name that it has in the day's events
            private = Ed25519PrivateKey.generate()
            public = private.public_key().public_bytes_raw()
            signature = private.sign(canonical_json(record["body"]))
            record |= {"signed": True, "public_key": b64encode(public).decode(), "signature": b64encode(signature).decode()}
            c.storage.put(key, canonical_json(record))
        document = await shown(c)
        assert document["state"] == "COMPLETE"
        assert key in str(document["record"])
        assert "body" not in document["record"]

    asyncio.run(run())
