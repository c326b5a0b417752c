"""All recordings, imported by the command a person types, against counts and books that owe nothing to our code."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import schema
from tests.cli.conftest import Ran
from tests.gold import Books, merged
from tests.recordings import directory, gold_files

MIDNIGHT = "KXGOLD15M-26AUG102000-00"  # recorded in two files, cut at midnight UTC
AS_OF = {"2026-08-10T21:50:00Z": 1_786_398_600_000, "2026-08-11T00:00:00.05Z": 1_786_406_400_050, "2026-08-11T03:55:00Z": 1_786_420_500_000}


@pytest.mark.data
@pytest.mark.timeout(1_200)
def test_the_gold_recordings(ssmd: Callable[..., Ran]) -> None:
    gold = directory() / "kalshi" / "gold15m"
    with (gold / "MANIFEST.csv").open() as file:
        frames = sum(int(row["events"]) for row in csv.DictReader(file))
    first = ssmd("data", "import", "--feed", "kalshi", gold, "-o", "json")
    assert first.code == 0, first.err
    schema.check("import", first.document)
    assert {k: first.document[k] for k in ("frames", "unparsed", "duplicates", "symbols")} == {
        "frames": frames, "unparsed": 0, "duplicates": 0, "symbols": 31,
    }  # fmt: skip
    assert first.document["entries"] >= frames
    again = ssmd("data", "import", "--feed", "kalshi", gold, "-o", "json")
    assert again.document == first.document | {"entries": 0, "duplicates": frames}

    replayed = 0
    for day in first.document["days"]:
        ran = ssmd("replay", "--date", day, "--shard", "import", "--from", "archive", "--verify", "-o", "json")
        assert ran.code == 0, ran.err
        schema.check("replay", ran.document)
        assert ran.document["verify"]["mismatched"] == 0
        replayed += ran.document["entries"]
    assert replayed == first.document["entries"]

    for text, as_of_ms in AS_OF.items():
        books = Books()
        for recv_ms, event in merged(gold_files()):
            if recv_ms > as_of_ms:
                break
            books.apply(event)
        for symbol in sorted(books.ladders)[-6:] + [MIDNIGHT] * (MIDNIGHT in books.ladders):
            ran = ssmd("book", symbol, "--as-of", text, "-o", "json")
            assert ran.code == 0, ran.err
            schema.check("book", ran.document)
            assert ran.document["state"] == "VALID"
            assert {side: ran.document[side] for side in ("yes", "no")} == books.shown(symbol), (symbol, text)
            if ran.document["bids"] and ran.document["asks"]:
                assert ran.document["bids"][0][0] < ran.document["asks"][0][0]


def test_the_manifest_of_the_recordings_is_not_taken_for_one(tmp_path: Path, ssmd: Callable[..., Ran]) -> None:
    (tmp_path / "event.json").write_text(json.dumps({"event": {}}))
    ran = ssmd("data", "import", "--feed", "kalshi", tmp_path)
    assert ran.code == 2
    assert "no recordings" in ran.err
