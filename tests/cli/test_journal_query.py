"""`ssmd journal query` on a real journal: each answer is compared with a plain fold over what `journal tail` prints."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from journal.clock import WallClock
from journal.entry import Entry, Event, canonical_json
from journal.errors import BadSubject
from journal.subjects import Stream
from ssmd import tailing
from ssmd.loading import SCHEMAS
from ssmd.settings import Settings
from ssmd.sql import Session
from ssmd.wiring import open_journal
from tests.cli import schema
from tests.cli.conftest import Ssmd
from tests.cli.recorded import MIDNIGHT_MS, START_MS, market, write

Holds = Callable[[dict[str, Any]], bool]
SECOND = "KXTEST-26AUG10.5-B"
MS = 10**6
PEOPLE = ("alice@desk", "bob@desk", "run connector@host:1")


def event(domain: str, symbol: str, n: int, data: bytes, effective_ms: int) -> Entry:
    kind = "events" if domain == "day" else "changes"
    body = Event(kind, data, PEOPLE[n % 3], "because 'it' was time", f"cause-{n}", f"run-{n % 4}")
    return Entry(
        body, domain, symbol, n.to_bytes(16, "big"), n, effective_ms * MS + 7, n, effective_ms * MS + 7,
        20260810 if effective_ms < MIDNIGHT_MS else 20260811,
    )  # fmt: skip


async def add_events(data_dir: Path) -> None:
    """Days, whose writers keep their own times, and changes of markets in order of time; data that is JSON, almost JSON and none."""
    day, changes = Stream("local", domain="day"), Stream("local", domain="secmaster")
    days = [
        event("day", f"local-2026-08-1{n % 2}.{n // 2}", n, canonical_json({"n": n}), START_MS + n * 7_919 % 100_000) for n in range(40)
    ]
    texts = [b'{"price": 0.4100}', b"{broken", b"\xff\xfe", b'"text"', b""]
    symbols = ("KXTEST-A", SECOND, "KX'; DROP TABLE events; --")
    named = [event("secmaster", symbols[n % 3], n, texts[n % 5], START_MS + n * 40_000) for n in range(30)]
    async with open_journal(Settings(data_dir=data_dir), WallClock()) as journal:
        for stream, made in ((day, days), (changes, named)):
            await journal.ensure(stream)
            await journal.append(stream, made)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ssmd.cli import main

    folder = tmp_path_factory.mktemp("query")
    write(folder / "rec" / "a.ndjson", market("KXTEST-A"))
    write(folder / "rec" / "b.ndjson", market(SECOND, start_ms=MIDNIGHT_MS - 1_050))
    assert main(["--data-dir", str(folder / "data"), "data", "import", "--feed", "kalshi", str(folder / "rec"), "-o", "json"]) == 0
    asyncio.run(add_events(folder / "data"))
    return folder


@pytest.fixture
def ask(ssmd: Ssmd, recorded: Path) -> Ssmd:
    return lambda *args: ssmd("journal", *args, "--data-dir", recorded / "data")


@pytest.fixture(scope="module")
def everything(recorded: Path) -> list[dict[str, Any]]:
    """All entries as `journal tail` prints them, stream by stream."""
    from ssmd.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for subject in ("local.day", "internal.local.import", "local.secmaster", "local.system"):
            assert main(["--data-dir", str(recorded / "data"), "journal", "tail", subject, "-o", "jsonl"]) == 0
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def test_without_filters_it_is_all_there_is(ask: Ssmd, everything: list[dict[str, Any]]) -> None:
    ran = ask("query")
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == everything
    for line in ran.lines:
        schema.check("entry", line)
    assert ask("query", "--limit", "7", "-o", "jsonl").lines == everything[:7]


@pytest.mark.parametrize(
    ("args", "holds"),
    [
        (["--symbol", "KXTEST-A"], lambda e: e["symbol"] == "KXTEST-A"),
        (["--symbol", SECOND, "--type", "trade"], lambda e: e["symbol"] == SECOND and e["type"] == "trade"),
        (["--symbol", SECOND, "--symbol", "KXTEST-A"], lambda e: e["symbol"] in {SECOND, "KXTEST-A"}),
        (["--symbol", "local-2026-08-11"], lambda e: e["symbol"].startswith("local-2026-08-11.")),
        (["--symbol", "local-2026-08-11.3"], lambda e: e["symbol"] == "local-2026-08-11.3"),
        (["--type", "changes", "--type", "book"], lambda e: e["type"] in {"changes", "book"}),
        (["--who", "alice@desk"], lambda e: e["body"].get("who") == "alice@desk"),
        (["--who", "*@desk"], lambda e: e["body"].get("who", "").endswith("@desk")),
        (["--who", "alice"], lambda e: False),
        (["--correlation", "run-2", "--who", "b*"], lambda e: e["body"].get("correlation") == "run-2" and e["body"]["who"][0] == "b"),
        (["--stream", "day"], lambda e: e["position"].startswith("local_day:")),
        (["--stream", "local_day", "--stream", "md_import"], lambda e: e["position"].startswith(("local_day:", "local_md_import:"))),
        (["--subject", "local.day.events"], lambda e: e["position"].startswith("local_day:")),
        (["--subject", "*.secmaster.*.KXTEST-A"], lambda e: e["type"] == "changes" and e["symbol"] == "KXTEST-A"),
        (["--subject", "internal.local.import.kalshi.trade", "--symbol", SECOND], lambda e: e["type"] == "trade" and e["symbol"] == SECOND),
        (["--date", "2026-08-11"], lambda e: e["day"] == "2026-08-11"),
        (["--since", "2026-08-11"], lambda e: e["effective_ns"] >= MIDNIGHT_MS * MS),
        (["--until", "2026-08-10T23:59:59.950Z", "--since", "2026-08-10T23:50:00Z"],
         lambda e: 1_786_405_800 * 10**9 <= e["effective_ns"] <= (MIDNIGHT_MS - 50) * MS),
        (["--symbol", "no such"], lambda e: False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("origin", ["auto", "archive", "journal"])
def test_filters(ask: Ssmd, everything: list[dict[str, Any]], args: list[str], holds: Holds, origin: str) -> None:
    if origin == "archive":  # an import archives what it wrote, and the events were appended behind it
        everything = [e for e in everything if not e["position"].startswith(("local_day", "local_secmaster"))]
        if args[0] in {"--stream", "--subject"} and "internal" not in args[1]:
            return
    ran = ask("query", *args, "--from", origin)
    assert ran.code == 0, ran.err
    assert ran.lines == [e for e in everything if holds(e)]
    assert bool(ran.err) == (not ran.lines)


@pytest.mark.parametrize(
    "at_ms", [START_MS - 1, START_MS, START_MS + 749, START_MS + 50_000, MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 950, MIDNIGHT_MS * 2]
)
def test_as_of_is_the_plain_fold(ask: Ssmd, everything: list[dict[str, Any]], at_ms: int) -> None:
    then = [e for e in everything if e["effective_ns"] <= at_ms * MS]
    at = ("--as-of", str(at_ms * MS))
    assert ask("query", *at, "-o", "jsonl").lines == then
    counted = ask("query", "SELECT stream, type, who, count(*) n, max(effective_ns) last FROM events GROUP BY ALL", *at).lines
    fold: dict[tuple[str, ...], list[int]] = {}
    for e in then:
        if not e["position"].startswith("local_md_"):
            fold.setdefault((e["position"].split(":")[0], e["type"], e["body"]["who"]), []).append(e["effective_ns"])
    assert {(r["stream"], r["type"], r["who"]): (r["n"], r["last"]) for r in counted} == {k: (len(v), max(v)) for k, v in fold.items()}
    sizes: Counter[str] = Counter()
    for e in then:
        if e["type"] == "trade":
            sizes[e["symbol"]] += Decimal(e["body"]["size"])  # type: ignore[assignment]
    traded = ask(
        "query", "SELECT symbol, sum(size) size, any_value(size_exponent) exponent FROM entries WHERE type = 'trade' GROUP BY 1", *at
    ).lines
    assert {r["symbol"]: Decimal(r["size"]).scaleb(r["exponent"]) for r in traded} == sizes
    assert ask("query", "FROM entries", *at, "--until", "1970-01-02").out == ""


def test_sql_sees_what_the_filters_leave(ask: Ssmd, everything: list[dict[str, Any]]) -> None:
    ran = ask("query", "SELECT position FROM events ORDER BY stream, sequence", "--who", "bob*", "--type", "events")
    assert [r["position"] for r in ran.lines] == [
        e["position"] for e in everything if e["type"] == "events" and e["body"]["who"] == PEOPLE[1]
    ]
    assert "loading what matches of" in ran.err
    joined = ask("query", "SELECT count(*) n FROM events v JOIN entries e USING (symbol) WHERE e.kind = 'book'")
    books = Counter(e["symbol"] for e in everything if e["type"] == "book")
    assert joined.lines == [{"n": sum(books[e["symbol"]] for e in everything if e["type"] == "changes")}]
    assert "loading 149 entries of local_day, local_md_import, local_secmaster, local_system" in joined.err


def test_data_is_json_whatever_was_journalled(ask: Ssmd) -> None:
    ran = ask("query", "SELECT data, data->>'$.price' price FROM events WHERE stream = 'local_secmaster' ORDER BY sequence LIMIT 5")
    assert [r["data"] for r in ran.lines] == [{"price": 0.41}, "{broken", "\ufffd\ufffd", "text", ""]
    assert '{"price":0.4100}' in ran.out  # a number is printed as it was written
    assert [r["price"] for r in ran.lines] == ["0.41", None, None, None, None]


def test_entries_in_parquet_keep_integers_exponents_and_nanoseconds(ask: Ssmd, everything: list[dict[str, Any]], tmp_path: Path) -> None:
    by_filter, by_sql = tmp_path / "filter.parquet", tmp_path / "sql.parquet"
    assert ask("query", "--stream", "md_import", "--out", by_filter).code == 0
    ran = ask("query", "FROM entries ORDER BY sequence", "--out", by_sql)
    assert (ran.code, ran.out) == (0, "")
    table = pq.read_table(by_sql)
    assert table.equals(pq.read_table(by_filter))
    for name in ("effective_time", "recv_time", "venue_time"):
        assert table.schema.field(name).type == pa.timestamp("ns", "UTC")
    expected = [e for e in everything if e["position"].startswith("local_md_import")]
    plain = table.drop_columns(["effective_time", "recv_time", "venue_time"]).to_pylist()
    assert table["effective_time"].cast(pa.int64()).to_pylist() == [e["effective_ns"] for e in expected]
    assert table["venue_time"].cast(pa.int64()).to_pylist() == [e["venue_ns"] or None for e in expected]
    for row, e in zip(plain, expected, strict=True):
        same = ("position", "recv_ns", "effective_ns", "venue_ns", "feed", "type", "symbol", "epoch", "frame", "part", "parts", "venue_seq")
        assert {n: row[n] for n in same} == {n: e[n] for n in same}
        assert row["day"] == date.fromisoformat(e["day"])
        body = e["body"]
        if e["type"] == "trade":
            assert Decimal(row["price"]).scaleb(row["price_exponent"]) == Decimal(body["price"])
            assert Decimal(row["size"]).scaleb(row["size_exponent"]) == Decimal(body["size"])
            assert (row["aggressor"], row["trade_id"], row["block_trade"]) == (body["aggressor"], body["trade_id"], body["block"])
        if e["type"] == "delta":
            assert [
                (c["side"], c["op"], Decimal(c["price"]).scaleb(row["price_exponent"]), Decimal(c["size"]).scaleb(row["size_exponent"]))
                for c in row["changes"]
            ] == [(c["side"], c["op"], Decimal(c["price"]), Decimal(c["size"])) for c in body["changes"]]
        if e["type"] == "control":
            assert json.loads(row["data"]) == body
    assert sorted(p.name for p in tmp_path.iterdir()) == ["filter.parquet", "sql.parquet"]


def test_every_format(ask: Ssmd, tmp_path: Path) -> None:
    sql = "SELECT type, type, count(*) n, max(effective_time) newest, sum(1.25) s FROM events GROUP BY 1 ORDER BY 1"
    (first, *_) = rows = ask("query", sql, "-o", "json").document
    assert list(first) == ["type", "type_1", "n", "newest", "s"]
    for row in rows:
        schema.check("query", row)
    assert (first["type"], first["n"], first["s"]) == ("changes", 30, "37.50")
    assert first["newest"] == "2026-08-11T00:05:37.251000007Z"
    assert ask("query", sql).lines == rows
    assert ask("query", sql, "-o", "yaml").out == "".join(f"- {json.dumps(row, separators=(',', ':'))}\n" for row in rows)
    text = ask("query", sql, "-o", "csv").out
    assert [{k: str(v) for k, v in row.items()} for row in rows] == list(csv.DictReader(io.StringIO(text)))
    for name in ("a.csv", "a.jsonl"):
        assert ask("query", sql, "--out", tmp_path / name).err.endswith(f"ssmd: {len(rows)} rows in {tmp_path / name}\n")
    assert (tmp_path / "a.csv").read_text() == text
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows
    assert "37.50" in ask("query", sql, "-o", "table").out
    assert ask("query", "SELECT 1 AS one WHERE false", "-o", "csv").out == "one\n"
    assert ask("query", "SELECT 1 AS one WHERE false", "-o", "json").document == []
    limited = ask("query", "SELECT range FROM range(10000)", "--limit", "2500")
    assert [r["range"] for r in limited.lines] == list(range(2500))
    assert "stopped at 2,500 rows" in limited.err


@pytest.mark.parametrize(
    ("sql", "loaded"),
    [
        ("SELECT 1", []),
        ("WITH events AS (SELECT 1) FROM events", []),
        ("SELECT 'entries' FROM Events", ["events"]),
        ("FROM query('FROM ' || 'entries')", ["entries"]),
        ("SELECT 1 WHERE EXISTS (FROM memory.main.entries) OR (SELECT count(*) FROM events) > 0", ["entries", "events"]),
        ("WITH entries AS (FROM events) FROM entries", ["events"]),
        ("DESCRIBE entries", ["entries"]),
        ("EXPLAIN SELECT * FROM events", ["events"]),
    ],
)
def test_only_what_sql_reads_is_loaded(sql: str, loaded: list[str]) -> None:
    with Session(WallClock(), time_limit_s=10) as session:
        assert sorted(session.ask(sql, SCHEMAS)) == loaded


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("170141183460469231731687303715884105727::HUGEINT", 2**127 - 1),
        ("0.10::DECIMAL(5, 2)", "0.10"),
        ("'nan'::DOUBLE", None),
        ("timestamptz '2026-08-10 00:00:00.000001+02'", "2026-08-09T22:00:00.000001000Z"),
        ("timestamp '2026-08-10 00:00:00'", "2026-08-10T00:00:00.000000000"),
        ("'infinity'::TIMESTAMP", "9223372036854775807000 ns"),
        ("date '2026-08-10'", "2026-08-10"),
        ("'infinity'::DATE", "2147483647 days"),
        ("time '10:00:00.5'", "10:00:00.500000"),
        ("'\\x01'::BLOB", {"b64": "AQ=="}),
        ("[{'at': date '2026-08-10', 'd': 0.5::DECIMAL(3, 1)}, NULL]", [{"at": "2026-08-10", "d": "0.5"}, None]),
        ("MAP{'a': date '2026-08-10'}", {"a": "2026-08-10"}),
        ("'{\"a\":\n 1.50}'::JSON", {"a": 1.5}),
        ("[]::TIMESTAMP[]", []),
        ("NULL", None),
        ("true", True),
        ("'' || chr(10) || '\"'", '\n"'),
    ],
)
def test_values_of_every_kind(ask: Ssmd, sql: str, value: Any) -> None:
    ran = ask("query", f"SELECT {sql} AS v")
    assert ran.lines == [{"v": value}], ran.err


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("COPY events TO '{dir}/x.csv'", "one SELECT"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{dir}/x.csv'", "disabled"),
        ("SELECT * FROM read_csv('{dir}/canary')", "disabled"),
        ("SELECT * FROM read_text('{dir}/canary')", "disabled"),
        ("SELECT * FROM read_blob('{dir}/*')", "disabled"),
        ("SELECT * FROM '{dir}/canary.csv'", "disabled"),
        ("SELECT * FROM glob('{dir}/*')", "disabled"),
        ("SELECT * FROM parquet_scan('{dir}/canary')", "disabled"),
        ("SELECT * FROM query('FROM read_text(''{dir}/canary'')')", "disabled"),
        ("SELECT * FROM read_csv('https://example.com/x')", "disabled"),
        ("SELECT * FROM read_text('/proc/self/environ')", "disabled"),
        ("SELECT getenv('CANARY')", "getenv"),
        ("ATTACH '{dir}/x.db' AS x", "one SELECT"),
        ("ATTACH ':memory:' AS x", "one SELECT"),
        ("INSTALL httpfs", "one SELECT"),
        ("LOAD httpfs", "one SELECT"),
        ("PRAGMA database_list", "one SELECT"),
        ("SET enable_external_access = true", "one SELECT"),
        ("RESET lock_configuration", "one SELECT"),
        ("CALL enable_logging()", "one SELECT"),
        ("CREATE TABLE mine AS SELECT 1", "one SELECT"),
        ("DELETE FROM events", "one SELECT"),
        ("SELECT 1; DROP TABLE events", "one SELECT"),
        ("EXPORT DATABASE '{dir}/x'", "one SELECT"),
        ("/* nothing */", "one SELECT"),
        ("SELEC", "syntax error"),
        ("SELECT * FROM nothing", "nothing does not exist"),
        ("SELECT nothing FROM events", "nothing"),
        ("SELECT type::INT FROM events", "Conversion Error"),
        ("SELECT * FROM settings", "settings"),
        ("SELECT repeat('x', 2000000000)", "Out of Memory"),
        ("SELECT range(1000000000)", "Out of Memory"),
        ("SELECT list(range) FROM range(1000000000)", "Out of Memory"),
    ],
)
def test_hostile_sql_ends_with_2_and_touches_nothing(
    ask: Ssmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str, said: str
) -> None:
    monkeypatch.setenv("CANARY", "canary-in-the-environment")
    for name in ("canary", "canary.csv"):
        (tmp_path / name).write_text("canary-in-a-file")
    ran = ask("query", sql.format(dir=tmp_path))
    assert (ran.code, ran.out) == (2, ""), ran
    assert said in ran.err
    assert "canary-in" not in ran.err
    assert "Traceback" not in ran.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["canary", "canary.csv"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT pg_sleep(3600)",
        "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",  # hears no interrupt for a minute
    ],
)
def test_a_time_limit(ask: Ssmd, sql: str) -> None:
    began = time.monotonic()
    ran = ask("query", sql, "--time-limit", "500ms")
    assert ran.code == 2
    assert "not answered within 0.5 s" in ran.err
    assert time.monotonic() - began < 10


def test_a_time_limit_after_rows_were_printed(ask: Ssmd) -> None:
    ran = ask("query", "SELECT CASE WHEN range < 100000 THEN 0 ELSE pg_sleep(3600) END AS v FROM range(1000000)", "--time-limit", "1s")
    assert ran.code == 2
    assert "not answered within 1 s" in ran.err


def test_more_entries_than_allowed_are_not_loaded(ask: Ssmd) -> None:
    ran = ask("query", "SELECT count(*) FROM entries", "--limit-entries", "58")
    assert (ran.code, ran.out) == (2, "")
    assert "59 entries to load, and at most 58 are" in ran.err
    assert "loading" not in ran.err
    assert ask("query", "SELECT count(*) n FROM entries", "--limit-entries", "59").lines == [{"n": 59}]
    narrow = ("query", "SELECT count(*) n FROM entries", "--type", "trade", "--limit-entries")
    assert "more than 7 entries to load" in ask(*narrow, "7").err
    assert ask(*narrow, "8").lines == [{"n": 8}]


# Between us and the command: a child's peak begins at that of the process it was forked from, and ours is that of all tests before.
MEASURED = """
import resource, subprocess, sys
with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as process:
    size = sum(len(part) for part in iter(lambda: process.stdout.read(1 << 20), b""))
print(process.returncode, size, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_large_answer_is_not_held(recorded: Path) -> None:
    sql = "SELECT range AS n, repeat('x', 1000) AS text FROM range(300000)"
    command = [sys.executable, "-m", "ssmd.cli", "journal", "query", sql, "--data-dir", str(recorded / "data"), "-o", "jsonl"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, check=True)
    code, size, peak_kib = map(int, done.stdout.split())
    assert code == 0
    assert size > 300_000_000
    assert peak_kib < 400 << 10


def test_sql_ends_with_who_asked(recorded: Path) -> None:
    command = [sys.executable, "-m", "ssmd.cli", "journal", "query", "SELECT pg_sleep(3600)", "--data-dir", str(recorded / "data")]
    with subprocess.Popen(command, start_new_session=True) as process:
        worker = children(process.pid)
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while Path(f"/proc/{worker}/stat").exists() and Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def children(pid: int) -> int:
    """The first child of a process, once it is there and busy for a moment."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            if "sql_worker" in Path(f"/proc/{child}/cmdline").read_text():
                time.sleep(1)
                return child
        time.sleep(0.05)
    raise AssertionError("no process for SQL")


def test_the_process_for_sql_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMD_NATS_TOKEN", "canary")
    with Session(WallClock(), time_limit_s=60) as session:
        assert session.ask("SELECT 1", {}) == []
        environ = Path(f"/proc/{session._process.pid}/environ").read_bytes()
        assert b"canary" not in environ
        assert resource.prlimit(session._process.pid, resource.RLIMIT_DATA)[1] == 2 << 30
        spill = Path(session._spill.name)
        assert [list(b["1"].to_pylist()) for b in session.answer().batches] == [[1]]
    assert not spill.exists()


def test_tables_beyond_the_memory_go_to_disk() -> None:
    count, rows, rng = 300, 2_000, random.Random(1)
    with Session(WallClock(), time_limit_s=60, memory_bytes=64 << 20) as session:

        def spilled() -> int:
            return sum(p.stat().st_size for p in Path(session._spill.name).rglob("*") if p.is_file())

        most = 0
        (table,) = session.ask("SELECT count(*) n, sum(frame)::BIGINT s, max(length(data)) l FROM entries", SCHEMAS)
        with session.table(SCHEMAS[table]) as load:
            for at in range(count):
                texts = [f'"{rng.randbytes(100).hex()}"' for _ in range(rows)]  # what repeats would be packed and fit
                values = {"frame": range(at * rows, (at + 1) * rows), "data": texts}
                load(pa.RecordBatch.from_pydict({f.name: pa.array(values.get(f.name, [None] * rows), f.type) for f in SCHEMAS[table]}))
                most = max(most, spilled())
        (batch,) = session.answer().batches
        assert batch.to_pylist() == [{"n": count * rows, "s": sum(range(count * rows)), "l": 202}]
        assert max(most, spilled()) > 20 << 20


def test_an_archive_without_its_journal_is_asked_just_so(ask: Ssmd, ssmd: Ssmd, recorded: Path, tmp_path: Path) -> None:
    args = ("query", "SELECT * FROM entries ORDER BY sequence", "--until", "2026-08-10T23:59:59.950Z")
    there = ask(*args)
    ran = ssmd("journal", *args, "--storage", recorded / "data" / "objects")
    assert (ran.code, ran.out) == (0, there.out)
    assert not (tmp_path / "data" / "nats").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--stream", "md_imported"], "local_md_import"),
        (["--subject", "other.day.events"], "--env"),
        (["--subject", "local..x"], "no subject"),
        (["--subject", "local.shard.events"], "local.system"),
        (["--type", "a.b"], "is no type"),
        (["--date", "2026-08-32"], "not a date"),
        (["--as-of", "noon"], "not a time"),
        (["--env", "other"], "other"),
        (["--out", "x.xlsx"], ".parquet"),
        (["--out", "/no/such/folder/x.jsonl"], "No such file"),
        (["SELECT interval 1 day", "--out", "x.parquet"], "VARCHAR"),
    ],
)
def test_what_cannot_be_asked(ask: Ssmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    ran = ask("query", *args)
    assert ran.code == 2, ran
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not list(tmp_path.glob("*x.*"))


def test_tail_by_symbol_type_and_actor(ask: Ssmd, everything: list[dict[str, Any]]) -> None:
    def expected(holds: Holds) -> list[dict[str, Any]]:
        return [e for e in everything if holds(e)]

    trades = expected(lambda e: e["type"] == "trade" and e["symbol"] == SECOND)
    assert ask("tail", "--symbol", SECOND, "--type", "trade", "-o", "jsonl").lines == trades
    assert ask("tail", "--symbol", SECOND, "--type", "trade", "--limit", "2", "-o", "jsonl").lines == trades[-2:]
    assert ask("tail", "--symbol", SECOND, "--type", "trade", "--follow", "--limit", "2", "-o", "jsonl").lines == trades[-2:]
    by_bob = expected(lambda e: e["body"].get("who") == "bob@desk")
    assert ask("tail", "--who", "bob*", "-o", "jsonl").lines == by_bob
    of_day = [e for e in by_bob if e["position"].startswith("local_day")]
    assert ask("tail", "local.day", "--who", "bob@desk", "--limit", "3", "-o", "jsonl").lines == of_day[-3:]
    assert ask("tail", "--type", "no type").code == 2
    early = [e for e in everything if e["position"].startswith("local_day") and e["effective_ns"] <= (START_MS + 30_000) * MS]
    upto = ("--until", str((START_MS + 30_000) * MS), "-o", "jsonl")  # the writers of days keep their own times
    assert ask("tail", "local.day", *upto).lines == early
    assert ask("tail", "local.day", "--limit", "4", *upto).lines == early[-4:]


def test_the_name_of_a_stream_is_no_subject_and_the_subjects_are_told() -> None:
    for name, subject in (("local_md_0", "local.kalshi"), ("local_md_import", "internal.local.import"), ("local_system", "local.system")):
        with pytest.raises(BadSubject, match=f"{name}.* is a stream's name; its subjects begin as {subject}$"):
            tailing.holding([], "local", name)
