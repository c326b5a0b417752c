"""The commands on recordings, as a person uses them: one data directory with an embedded server, made once."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.cli import schema
from tests.cli.conftest import Ssmd
from tests.cli.recorded import MIDNIGHT_MS, START_MS, market, write

SECOND = "KXTEST-26AUG10.5-B"  # a symbol that must be escaped in a subject


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two markets on one day, the second into the next."""
    from ssmd.cli import main

    folder = tmp_path_factory.mktemp("commands")
    write(folder / "rec" / "a.ndjson.gz", market("KXTEST-A"))
    write(folder / "rec" / "b.ndjson", market(SECOND, start_ms=MIDNIGHT_MS - 1_050))
    assert main(["--data-dir", str(folder / "data"), "data", "import", "--feed", "kalshi", str(folder / "rec"), "-o", "json"]) == 0
    return folder


@pytest.fixture
def ask(ssmd: Ssmd, imported: Path) -> Ssmd:
    return lambda *args: ssmd(*args, "--data-dir", imported / "data")


def test_import_again(ask: Ssmd, imported: Path) -> None:
    ran = ask("data", "import", "--feed", "kalshi", imported / "rec", "-o", "json")
    assert ran.code == 0
    schema.check("import", ran.document)
    assert ran.document == {
        "frames": 50, "entries": 0, "unparsed": 0, "duplicates": 50, "symbols": 2, "days": ["2026-08-10", "2026-08-11"],
    }  # fmt: skip


@pytest.mark.parametrize("origin", ["archive", "journal", "auto"])
def test_replay_verifies_from_everywhere(ask: Ssmd, origin: str) -> None:
    ran = ask("replay", "--date", "2026-08-10", "--from", origin, "--verify", "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    schema.check("replay", ran.document)
    assert ran.document["symbols"] == 2
    assert ran.document["first_recv_ns"] == START_MS * 10**6
    assert ran.document["verify"]["mismatched"] == 0
    assert ran.document["verify"]["compared"] >= 5
    alias = ask("data", "replay", "--date", "2026-08-10", "-o", "json").document
    assert alias["digests"] == ran.document["digests"]
    assert alias["verify"] is None


def test_a_day_that_opens_in_the_middle_of_a_market(ask: Ssmd) -> None:
    ran = ask("replay", "--date", "2026-08-11", "--shard", "import", "--verify", "-o", "json")
    assert ran.code == 0
    assert ran.document["symbols"] == 1
    assert ran.document["verify"]["mismatched"] == 0


def test_replay_of_one_symbol_until_a_time_and_step_by_step(ask: Ssmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    args = ["replay", "--date", "2026-08-10", "--symbol", "KXTEST-A", "--until", "2026-08-10T23:46:18Z", "-o", "json"]
    whole, stepped = ask(*args), ask(*args, "--speed", "step")
    assert whole.document["symbols"] == 1
    assert whole.document["last_recv_ns"] <= (START_MS + 749) * 10**6
    assert {k: v for k, v in whole.document.items() if k not in {"elapsed_s", "entries_per_s"}} == {
        k: v for k, v in stepped.document.items() if k not in {"elapsed_s", "entries_per_s"}
    }
    assert "KXTEST-A" in stepped.err
    assert ask(*args, "--speed", "1000").document["digests"] == whole.document["digests"]


def test_verify_with_nothing_to_compare_exits_2(ask: Ssmd) -> None:
    ran = ask("replay", "--date", "2026-08-10", "--verify", "--symbol", "KXTEST-A", "--until", "2026-08-10T23:46:18Z")
    assert ran.code == 2
    assert "to compare" in ran.err


def test_book_as_of(ask: Ssmd) -> None:
    ran = ask("book", "KXTEST-A", "--as-of", "2026-08-10T23:46:17.300Z", "-o", "json")
    assert ran.code == 0
    schema.check("book", ran.document)
    assert ran.document == {
        "symbol": "KXTEST-A", "as_of_ns": 1_786_405_577_300_000_000, "state": "VALID", "position": ran.document["position"],
        "bids": [["0.4100", "12.00"], ["0.4000", "100.00"]], "asks": [["0.4500", "7.50"]],
        "yes": [["0.4100", "12.00"], ["0.4000", "100.00"]], "no": [["0.5500", "7.50"]],
    }  # fmt: skip


def test_book_now_is_the_independent_fold(ask: Ssmd) -> None:
    yes: dict[str, Decimal] = {}
    no: dict[str, Decimal] = {}
    for record in market(SECOND):
        message = record["event"]["msg"]
        if record["event"]["type"] == "orderbook_snapshot":
            yes = {p: Decimal(s) for p, s in message["yes_dollars_fp"]}
            no = {p: Decimal(s) for p, s in message["no_dollars_fp"]}
        elif record["event"]["type"] == "orderbook_delta":
            side = yes if message["side"] == "yes" else no
            side[message["price_dollars"]] = side.get(message["price_dollars"], Decimal(0)) + Decimal(message["delta_fp"])
    ran = ask("book", SECOND, "-o", "json")
    assert ran.document["state"] == "VALID"
    assert {p: Decimal(s) for p, s in ran.document["yes"]} == yes
    assert {p: Decimal(s) for p, s in ran.document["no"]} == no
    assert [Decimal(p) for p, _ in ran.document["asks"]] == sorted(1 - Decimal(p) for p in no)


def test_a_book_that_follows_nothing_is_shown_with_its_state(ask: Ssmd, imported: Path) -> None:
    late = market("KXLATE")[1:]
    write(imported / "late" / "late.ndjson", late)
    assert ask("data", "import", "--feed", "kalshi", imported / "late").code == 0
    ran = ask("book", "KXLATE", "-o", "json")
    assert ran.code == 0
    schema.check("book", ran.document)
    assert (ran.document["state"], ran.document["bids"]) == ("SYNCING", [])


def test_data_replay_is_replay(ask: Ssmd) -> None:
    asked = ("--date", "2026-08-10", "--verify", "-o", "json")
    documents = [ask(*noun, *asked).document for noun in (("replay",), ("data", "replay"))]
    schema.check("replay", documents[1])
    one, other = ({k: v for k, v in d.items() if k not in {"elapsed_s", "entries_per_s"}} for d in documents)
    assert one == other


def test_tables_are_for_people(ask: Ssmd) -> None:
    assert "VALID" in ask("book", "KXTEST-A", "-o", "table").out
    assert "entries_per_s" in ask("replay", "--date", "2026-08-10", "-o", "table").out
    assert "local_md_import" in ask("journal", "streams", "-o", "table").out
    assert "sync" in ask("doctor", "-o", "table").out


def test_journal_tail(ask: Ssmd) -> None:
    everything = ask("journal", "tail", "-o", "jsonl").lines
    for line in everything:
        schema.check("entry", line)
    positions = [int(e["position"].rpartition(":")[2]) for e in everything]
    assert positions == list(range(1, len(everything) + 1))
    assert ask("journal", "tail", "--limit", "3", "-o", "jsonl").lines == everything[-3:]
    trades = [e for e in everything if e["type"] == "trade"]
    assert ask("journal", "tail", "internal.local.import.kalshi.trade", "-o", "jsonl").lines == trades
    assert ask("journal", "tail", "internal.local.import.kalshi.trade", "--limit", "2", "-o", "jsonl").lines == trades[-2:]
    of_second = ask("journal", "tail", "internal.*.import.kalshi.*.KXTEST-26AUG10%2E5-B", "-o", "jsonl").lines
    assert of_second == [e for e in everything if e["symbol"] == SECOND]
    assert trades[0]["body"] == {
        "price": "0.4100", "size": "1.25", "aggressor": "buy", "block": trades[0]["body"]["block"],
        "trade_id": "00000000-0000-4000-8000-000000000004",
    }  # fmt: skip


def test_journal_tail_by_time(ask: Ssmd) -> None:
    since = ask("journal", "tail", "--since", "2026-08-11", "--limit", "4", "-o", "jsonl").lines
    assert since[0]["effective_ns"] >= MIDNIGHT_MS * 10**6
    assert len(since) == 4
    upto = ask("journal", "tail", "--since", "2026-08-10", "--until", "2026-08-10T23:46:18Z", "-o", "jsonl").lines
    assert upto == [e for e in ask("journal", "tail", "-o", "jsonl").lines if e["effective_ns"] <= (START_MS + 749) * 10**6]
    followed = ask("journal", "tail", "--follow", "--limit", "5", "-o", "jsonl").lines
    assert followed == ask("journal", "tail", "--limit", "5", "-o", "jsonl").lines


def test_journal_tail_of_the_digests(ask: Ssmd) -> None:
    found = ask("journal", "tail", "local.system", "-o", "jsonl").lines
    for line in found:
        schema.check("entry", line)
    assert {e["type"] for e in found} == {"digest", "checkpoint"}
    assert {e["body"]["data"]["stream"] for e in found} == {"local_md_import"}


def test_journal_show(ask: Ssmd) -> None:
    (book,) = ask("journal", "tail", "internal.local.import.kalshi.book.KXTEST-A", "-o", "jsonl").lines
    shown = ask("journal", "show", book["position"], "-o", "json").document
    schema.check("record", shown)
    schema.check("streams", ask("journal", "streams", "-o", "json").document)
    assert {k: shown[k] for k in book} == book
    assert shown["raw"] == market("KXTEST-A")[0]["event"]
    assert shown["subject"] == "internal.local.import.kalshi.book.KXTEST-A"


def test_csv(ask: Ssmd) -> None:
    head, *rows = ask("journal", "tail", "--limit", "2", "-o", "csv").out.splitlines()
    assert head.startswith("position,recv_ns,")
    assert len(rows) == 2
    assert ask("journal", "streams", "-o", "csv").out.startswith("stream,first,last,bytes,newest")


def test_doctor_holds_here(ask: Ssmd) -> None:
    ran = ask("doctor", "-o", "json")
    assert ran.code == 0, ran.out
    schema.check("doctor", ran.document)
    found = {c["check"]: c for c in ran.document}
    assert "2." in found["journal"]["detail"]
    assert found["local_md_import"]["status"] == "ok"
    assert "sync_interval: always" in found["sync"]["detail"]
    assert "power cut" in found["sync"]["detail"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["book", "KXTEST-B"], "nearest: KXTEST-A"),
        (["book", "KXTEST-A", "--as-of", "2026-08-01"], "KXTEST-A"),
        (["replay", "--date", "2026-08-12"], "2026-08-11"),
        (["replay", "--date", "2026-08-32"], "not a date"),
        (["replay", "--date", "2026-08-10", "--symbol", "KXTEST-X"], "KXTEST-A"),
        (["replay", "--date", "2026-08-10", "--speed", "fast"], "step"),
        (["replay", "--date", "2026-08-10", "--shard", "west"], "local_md_west"),
        (["journal", "show", "local_md_import:999999"], "local_md_import:"),
        (["journal", "show", "local_md_imported:1"], "local_md_import"),
        (["journal", "show", "local_md_import"], "stream:sequence"),
        (["journal", "tail", "--since", "5 minutes"], "not a time"),
        (["journal", "tail", "local.day.events"], "local.system"),
        (["journal", "tail", "local..x"], "no subject"),
        (["journal", "tail", "--env", "other"], "other"),
    ],
)
def test_what_is_not_there_names_the_nearest(ask: Ssmd, args: list[str], said: str) -> None:
    ran = ask(*args)
    assert ran.code == 2, ran
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_an_archived_object_that_was_changed_is_found(ask: Ssmd, imported: Path) -> None:
    norm = min((imported / "data" / "objects" / "local" / "kalshi" / "2026-08-11" / "norm").iterdir())
    whole = norm.read_bytes()
    norm.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    try:
        ran = ask("replay", "--date", "2026-08-11", "--from", "archive")
    finally:
        norm.write_bytes(whole)
    assert ran.code == 2
    assert norm.name in ran.err
    assert "Traceback" not in ran.err


def test_an_archive_without_its_journal_still_replays(ask: Ssmd, ssmd: Ssmd, imported: Path, tmp_path: Path) -> None:
    there = ask("replay", "--date", "2026-08-11", "--from", "archive", "-o", "json").document
    ran = ssmd("replay", "--date", "2026-08-11", "--storage", imported / "data" / "objects", "-o", "json", "--verify")
    assert (ran.code, ran.document["digests"]) == (0, there["digests"])
    assert json.loads(ssmd("book", SECOND, "--storage", imported / "data" / "objects").out)["state"] == "VALID"
    assert not (tmp_path / "data" / "nats").exists()
