from __future__ import annotations

import base64
import random
from datetime import date
from pathlib import Path

import pytest

from journal.errors import NotFound
from ssmd.metadata.leaks import find_leaks
from ssmd.metadata.problem import Finding
from ssmd.metadata.project import Project, file_hash
from ssmd.metadata.validation import check, select
from tests.metadata.starter import copy_starter, edit

TODAY = date(2026, 11, 22)
FEED, DEMO, PROD, LOCAL = "feeds/kalshi.yaml", "environments/kalshi-demo.yaml", "environments/kalshi-prod.yaml", "environments/local.yaml"
ENTRY = "schemas/entry.yaml"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_starter(tmp_path)


def found(project: Project, *, today: date = TODAY) -> list[Finding]:
    return check(project, today=today)


def add(project: Project, name: str, text: str) -> None:
    with (project.exchanges / name).open("a") as file:
        file.write(text)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, [f"{f.severity} {f}" for f in findings]
    return findings[0]


def test_the_starter_set_has_no_findings(project: Project) -> None:
    assert found(project) == []


def test_the_set_in_the_package_has_none_either() -> None:
    from ssmd.metadata.project import packaged

    assert found(packaged()) == []


# file, what is there, what is written instead, severity, line, place, words of the text
WRONG = [
    (LOCAL, "feed: kalshi", "feed: kalsi", "error", 3, "feed", ["no feed 'kalsi'", "nearest: kalshi"]),
    (LOCAL, "schema: entry", "schema: entri", "error", 4, "schema", ["no schema 'entri'", "nearest: entry"]),
    (LOCAL, "schema: entry", "schema: block", "error", 4, "schema", ["schema block", "this ssmd writes entries of"]),
    (LOCAL, "name: local", "name: locl", "error", 2, "name", ["'locl'", "'local'"]),
    (LOCAL, "schema: entry", "shcema: entry", "error", 4, "shcema", ["unknown key", "did you mean schema?"]),
    (LOCAL, "schema: entry", "schedule: {timezone: America/New_Yrok}", "error", 4, "schedule.timezone", ["unknown timezone", "New_York"]),
    (LOCAL, "schema: entry", "schedule: {day_start: '06:00', day_end: '06:00'}", "error", 4, "schedule.day_end", ["leave it out"]),
    (LOCAL, "schema: entry", "schedule: {start_cron: '0 9 * *'}", "error", 4, "schedule.start_cron", ["five fields"]),
    (LOCAL, "schema: entry", "schedule: {end_cron: '0 9 * * *', day_end: '06:00'}", "error", 4, "schedule.end_cron", ["one of them"]),
    (LOCAL, "schema: entry", "schedule: {start_cron: '0 9 * * *', day_end: '06:00'}", "error", 4, "schedule.start_cron", ["over already"]),
    (LOCAL, "schema: entry", "schedule: {start_cron: '0 9 * * *', auto_roll: false}", "warning", 4, "schedule.start_cron", ["by itself"]),
    (LOCAL, "schema: entry", "schedule: {start_cron: '0 9 * * *', end_cron: '0 8 * * *'}", "warning", 4, "schedule.end_cron", ["no day"]),
    (LOCAL, "schema: entry", "schedule: {timezone: America/New_York, day_start: '02:30'}", "warning", 4, "schedule.day_start",
     ["does not exist on 2027-03-14"]),
    (LOCAL, "schema: entry", "venue: {type: live}", "error", 4, "venue.key", ["authenticated by signature", "api_key"]),
    (LOCAL, "schema: entry", "shards: {import: {selector: {series: [A]}}}", "error", 4, "shards.import", ["imported recordings"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {tiers: [1]}}}", "error", 4, "shards.a.selector.tiers", ["tier 1", "none has any"]),
    (LOCAL, "schema: entry", "symbols: {A-1: {tier: 0}}\nshards: {a: {selector: {tiers: [1]}}}", "error", 5, "shards.a.selector.tiers",
     ["tier 1", "there are 0"]),
    (LOCAL, "schema: entry", "symbols: {A-1: {category: crypto}}\nshards: {a: {selector: {categories: [cripto]}}}", "warning", 5,
     "shards.a.selector.categories", ["'cripto'", "there are crypto"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {categories: [Crypto]}}}", None, 0, "", []),
    (LOCAL, "schema: entry", "shards: {a: {selector: {tags: [BTC]}}, b: {selector: {tags: [BTC]}}}", "error", 4, "shards.b.selector",
     ["tag BTC", "shard a"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {categories: [C]}}, b: {selector: {categories: [C]}}}", "error", 4,
     "shards.b.selector", ["category C", "shard a"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {statuses: [open]}}}", "error", 4, "shards.a.selector.statuses.0", ["'pending'"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {series: [KXA], min_volume: 2000}}}", "error", 4, "shards.a.selector.min_volume",
     ["power of ten"]),
    (LOCAL, "schema: entry", "symbols: {KXA-1: {}}\nshards: {a: {selector: {symbols: [KXA-2]}}}", "error", 5, "shards.a.selector.symbols",
     ["KXA-2", "nearest: KXA-1"]),
    (LOCAL, "schema: entry", "symbols: {KXA-1: {}}\nshards: {a: {selector: {symbols: [KXB*]}}}", "error", 5, "shards.a.selector.symbols",
     ["KXB*", "none of the 1"]),
    (LOCAL, "schema: entry", "symbols: {KXA-1: {tier: 0}}\nshards: {a: {selector: {tiers: [0]}}, b: {selector: {symbols: [KXA-*]}}}",
     "error", 5, "shards.b.selector", ["KXA-1", "shard a"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {series: [KXA]}}, b: {selector: {symbols: [KXA-1]}}}", "error", 4, "shards.b.selector",
     ["KXA-1", "shard a"]),
    (LOCAL, "schema: entry", "shards: {a: {selector: {series: [KXA]}}, b: {selector: {series: [KXB, KXA]}}}",
     "error", 4, "shards.b.selector", ["series KXA", "shard a"]),
    (LOCAL, "schema: entry", "shards: {a: {}, b: {selector: {series: [KXA]}}}", "error", 4, "shards.a.selector", ["everything"]),
    (DEMO, "fields: [key_id, private_key]", "fields: [key_id, secret]", "error", 12, "keys.kalshi.fields", ["key_id and private_key"]),
    (DEMO, "wss://external-api-ws", "https://external-api-ws", "error", 18, "venue.endpoint", ["wss"]),
    (PROD, "fields: [token]", "fields: [token, login]", None, 0, "", []),
    (PROD, "fields: [password]", "fields: [password, name]", None, 0, "", []),
    (PROD, "  token: $key:nats.token\n", "", "warning", 16, "keys.nats", ["nothing uses it"]),
    (FEED, "effective_from: 2021-07-01", "effective_from: 2027-01-01", "error", 3, "feed", ["no version in force on 2026-11-22"]),
    (FEED, "status: active", "status: disabled", "error", 3, "feed", ["disabled"]),
    (FEED, "status: active", "status: deprecated", "warning", 3, "feed", ["deprecated"]),
    (ENTRY, "status: active", "status: draft", "error", 4, "schema", ["draft", "stage is prod"]),
    (ENTRY, "status: active", "status: deprecated", "warning", 4, "schema", ["deprecated"]),
    (ENTRY, "effective_from: 2026-11-22", "effective_from: 2026-11-23", "error", 4, "schema", ["no version in force"]),
    (ENTRY, "file: entry.capnp", "file: entri.capnp", "error", 4, "file", ["cannot be read"]),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_a_wrong_line_is_one_finding_at_its_place(project: Project, wrong: tuple[str, str, str, str | None, int, str, list[str]]) -> None:
    name, old, new, severity, line, place, words = wrong
    edit(project.exchanges / name, old, new)
    # A feed or schema shows in each environment; each finding is looked for where it is expected first.
    at = {FEED: LOCAL, ENTRY: PROD if "stage" in "".join(words) else LOCAL}.get(name, name)
    if place == "file":
        at = ENTRY
    here = [f for f in found(project) if f.file == f"exchanges/{at}"]
    if severity is None:
        assert here == []
        return
    finding = only(here)
    assert (finding.severity, finding.place) == (severity, place)
    if name == at:
        assert finding.line == line
    assert all(word in finding.text for word in words), finding.text


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (
            PROD,
            "storage:\n  type: s3",
            "gateway:\n  host: $key:nats.token\nstorage:\n  type: s3",
            "gateway.host: no value of a key is put here",
        ),
        (PROD, "  replicas: 3\n", "  replicas: 3\n  tls: {ca: $key:nats.token}\n", "journal.tls.ca: no value of a key is put here"),
        (FEED, "    rest: https://external-api.kalshi.com/trade-api/v2\n", "    rest: $key:a.b\n", "a feed has no keys"),
    ],
)
def test_a_reference_stands_where_it_is_resolved_and_nowhere_else(project: Project, name: str, old: str, new: str, words: str) -> None:
    edit(project.exchanges / name, old, new)
    assert words in only([f for f in found(project) if f.file == f"exchanges/{name}"]).text


def test_drafts_are_for_dev(project: Project) -> None:
    edit(project.exchanges / ENTRY, "status: active", "status: draft")
    assert [f.file for f in found(project)] == [f"exchanges/{DEMO}", f"exchanges/{PROD}"]


def test_a_key_that_nothing_uses_is_a_warning(project: Project) -> None:
    edit(project.exchanges / PROD, "  token: $key:nats.token\n", "")
    said = only(found(project))
    assert (said.file, said.place, said.severity) == (f"exchanges/{PROD}", "keys.nats", "warning")


def test_what_is_not_done_yet_is_a_warning(project: Project) -> None:
    path = project.environments.path("local")
    path.write_text(path.read_text() + "archive:\n  retention_days: 30\n")
    (found,) = check(project, [path], today=TODAY)
    assert (found.severity, found.place) == ("warning", "archive.retention_days")
    assert "nothing deletes old days yet" in found.text


def test_an_environment_of_a_feed_that_cannot_be_read_says_so_and_nothing_else(project: Project) -> None:
    edit(project.exchanges / FEED, "type: websocket", "type: websokket")
    said = found(project)
    assert [f.file.rpartition("/")[2] for f in said] == ["kalshi-demo.yaml", "kalshi-prod.yaml", "local.yaml", "kalshi.yaml"]
    assert all("errors of its own" in f.text for f in said[:3])
    assert (said[3].line, said[3].place) == (5, "type")


def test_a_feed_whose_adapter_is_not_built_validates(project: Project) -> None:
    edit(project.exchanges / LOCAL, "feed: kalshi", "feed: kraken\nvenue: {type: live}")
    assert found(project) == []


def test_several_problems_of_a_file_come_in_the_order_of_lines(project: Project) -> None:
    (project.exchanges / LOCAL).write_text("name: local\nfeed: nope\nschema: nope\nschedule:\n  day_start: '01:00'\n  day_end: '01:00'\n")
    assert [(f.line, f.place) for f in found(project)] == [(2, "feed"), (3, "schema"), (6, "schedule.day_end")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: [", "not YAML"), (b"\xff\xfe", "not UTF-8"), (b"- a\n", "mapping"), (b"", "mapping"), (b"a: 1\na: 2\n", "not YAML"),
        (b"#" * (2 << 20), "larger than"), (b"a: &x [*x]\n", ""), (b"name: !!python/object:os.system x\n", ""),
    ],
)  # fmt: skip
def test_what_is_no_metadata_is_an_error_of_its_file(project: Project, content: bytes, words: str) -> None:
    (project.exchanges / "feeds" / "bad.yaml").write_bytes(content)
    said = found(project)
    assert said
    assert {(f.file, f.severity) for f in said} == {("exchanges/feeds/bad.yaml", "error")}
    assert any(words in f.text for f in said)


@pytest.mark.parametrize("name", ["system", "internal", "day", "UPPER", "has_underscore", "x" * 33])
def test_reserved_and_impossible_names(project: Project, name: str) -> None:
    text = (project.exchanges / FEED).read_text().replace("name: kalshi\n", f"name: {name}\n", 1)
    (project.exchanges / "feeds" / f"{name}.yaml").write_text(text)
    said = only(found(project))
    assert (said.file, said.place, said.severity) == (f"exchanges/feeds/{name}.yaml", "name", "error")


def test_overlapping_versions(project: Project) -> None:
    text = (project.exchanges / FEED).read_text()
    start, end = text.index("  - version"), text.index("calendar:")
    again = text[start:end].replace('"2"', '"3"')
    (project.exchanges / FEED).write_text(text[:end] + again + text[end:])
    said = [f for f in found(project) if f.file == f"exchanges/{FEED}"]
    assert "versions 2 and 3 overlap: both are effective from 2021-07-01" in only(said).text


# --- hashes of schema files ---------------------------------------------------------------------------------------------------------------


def hashes(project: Project) -> list[Finding]:
    return [f for f in found(project) if f.file == f"exchanges/{ENTRY}"]


def version(number: str, day: str, status: str, sha256: str, file: str = "") -> str:
    own = f"    file: {file}\n" if file else ""
    return f'  - version: "{number}"\n    effective_from: {day}\n    status: {status}\n    sha256: {sha256}\n{own}'


def test_a_changed_file_under_an_active_version_names_both_hashes_and_what_to_do(project: Project) -> None:
    file = project.exchanges / "schemas" / "entry.capnp"
    before = file_hash(file)
    file.write_text(file.read_text() + "# changed\n")
    said = only(hashes(project))
    assert (said.severity, said.place) == ("error", "versions.0.sha256")
    assert all(word in said.text for word in (before, file_hash(file), "ssmd schema add-version entry", "active version 1.0.0"))


def test_a_newer_draft_that_matches_the_changed_file_is_right(project: Project) -> None:
    file = project.exchanges / "schemas" / "entry.capnp"
    file.write_text(file.read_text() + "# changed\n")
    add(project, ENTRY, version("2.0.0", "2027-01-01", "draft", file_hash(file)))
    assert found(project) == []


def test_a_newer_draft_that_does_not_match_says_how_to_write_the_hash(project: Project) -> None:
    add(project, ENTRY, version("2.0.0", "2027-01-01", "draft", "ab" * 32))
    said = only(hashes(project))
    assert said.place == "versions.1.sha256"
    assert "ssmd schema hash entry --write" in said.text


def test_versions_with_files_of_their_own_match_them_also_old_ones(project: Project) -> None:
    old = project.exchanges / "schemas" / "old" / "entry-0.capnp"
    old.parent.mkdir()
    old.write_text("# old\n")
    add(project, ENTRY, version("0.9.0", "2020-01-01", "active", file_hash(old), "old/entry-0.capnp"))
    assert found(project) == []
    old.write_text("# other\n")
    assert only(hashes(project)).place == "versions.1.sha256"
    edit(project.exchanges / ENTRY, "effective_from: 2020-01-01\n    status: active", "effective_from: 2020-01-01\n    status: deprecated")
    assert only(hashes(project)).severity == "warning"


def test_an_empty_schema_file_is_never_right(project: Project) -> None:
    file = project.exchanges / "schemas" / "block.capnp"
    before = file_hash(file)
    file.write_bytes(b"")
    edit(project.exchanges / "schemas" / "block.yaml", before, file_hash(file))
    said = only(found(project))
    assert (said.file, said.place) == ("exchanges/schemas/block.yaml", "file")
    assert "is empty" in said.text


# --- what lies beside ---------------------------------------------------------------------------------------------------------------------

AGE = "-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24ub3Jn\n-----END AGE ENCRYPTED FILE-----\n"
SEALED = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\n"


@pytest.mark.parametrize(
    ("name", "text", "severity", "words"),
    [
        ("environments/kalshi-demo.kalshi.age", AGE, None, ""),
        ("environments/kalshi-prod.kalshi.sealed.yaml", SEALED, None, ""),
        ("environments/kalshi-prod.kalshi.pending.yaml", "events: []\n", None, ""),
        ("environments/recipients.txt", "age1xyz\n", None, ""),
        ("feeds/README.md", "about\n", None, ""),
        ("feeds/.gitkeep", "", None, ""),
        ("environments/gone.kalshi.age", AGE, "warning", "no gone.yaml"),
        ("environments/kalshi-demo.nope.age", AGE, "warning", "declares no nope"),
        ("environments/kalshi-prod.kalshi.age", AGE, "warning", "has source sealed-secret"),
        ("environments/kalshi-demo.kalshi.sealed.yaml", SEALED, "warning", "has source age"),
        ("environments/kalshi-demo.kalshi.age", "key_id: x\n", "error", "not encrypted"),
        ("environments/kalshi-prod.kalshi.sealed.yaml", "kind: Secret\n", "error", "not a SealedSecret"),
        ("environments/local.yml", "name: local\n", "warning", "rename it to .yaml"),
        ("environments/kalshi-demo.kalshi.old.age", AGE, "warning", "no metadata file"),
        ("feeds/a.b.yaml", "name: a\n", "warning", "no metadata file"),
        ("feeds/recipients.txt", "age1xyz\n", "warning", "no metadata file"),
        ("feeds/sub/kalshi.yaml", "name: kalshi\n", "warning", "no metadata file"),
        ("schemas/other.capnp", "@0xabc;\n", "warning", "no schema names it"),
    ],
)  # fmt: skip
def test_files_beside(project: Project, name: str, text: str, severity: str | None, words: str) -> None:
    path = project.exchanges / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    said = found(project)
    if severity is None:
        assert said == []
    else:
        assert (only(said).file, said[0].severity) == (f"exchanges/{name}", severity)
        assert words in said[0].text


# --- secrets in clear ---------------------------------------------------------------------------------------------------------------------

PEM = "-----BEGIN RSA PRIVATE KEY-----"
RANDOM = base64.b64encode(random.Random(7).randbytes(32)).decode()


@pytest.mark.parametrize(
    "secret",
    [
        PEM, "-----BEGIN PRIVATE KEY-----", "-----BEGIN OPENSSH PRIVATE KEY-----", RANDOM, "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0" * 3,
        "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY", "AKIAIOSFODNN7EXAMPLE", "hvs.CAESIJ1234567890abcdefghijkl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.SflKxwRJSMeKKF2QT4fw",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["description: {}", "# {}"])
def test_a_pasted_secret_is_an_error_that_does_not_repeat_it(project: Project, secret: str, where: str) -> None:
    add(project, LOCAL, where.format(f"'{secret}'") + "\n")
    said = only(found(project))
    assert (said.severity, said.line) == ("error", 5)
    assert "in clear" in said.text
    assert secret not in said.text
    assert secret[:20] not in str(said)


def test_a_private_key_in_a_strangers_file_is_found(project: Project) -> None:
    (project.exchanges / "environments" / "key.pem").write_text(PEM)
    assert sorted(f.severity for f in found(project)) == ["error", "warning"]


def test_random_keys_are_told_from_words_hashes_and_symbols() -> None:
    rng = random.Random(1)
    keys = [base64.b64encode(rng.randbytes(rng.randint(32, 300))).decode() for _ in range(500)]
    missed = [key for key in keys if not list(find_leaks(key, encoded=True))]
    assert len(missed) <= 5, missed
    assert not [key for key in keys if list(find_leaks(key, encoded=False))]
    for innocent in (
        rng.randbytes(32).hex(), "0x" + rng.randbytes(32).hex(), "KXMVESPORTSMULTIGAMEEXTENDED-S2026AB12CD34EF-0123456789AB",
        "/var/run/secrets/ssmd/Kalshi-Prod-2/Private-Key-File-Name", str(rng.getrandbits(256)), "9f86d081-884c-4d65-9a2f-eaa0c55ad015",
        "https://External-api-ws.demo.kalshi.co/trade-api/ws/v2/and/a/path/that/is/Rather/long/2026",
    ):  # fmt: skip
        assert list(find_leaks(innocent, encoded=True)) == [], innocent


# --- which files --------------------------------------------------------------------------------------------------------------------------


def test_named_files_only_and_yet_judged_by_the_others(project: Project) -> None:
    edit(project.exchanges / FEED, "status: active", "status: disabled")
    edit(project.exchanges / DEMO, "stage: test", "stage: tset")
    local = project.exchanges / LOCAL
    assert [f.file for f in check(project, [local], today=TODAY)] == [f"exchanges/{LOCAL}"]


def test_select(project: Project) -> None:
    root = project.root

    def names(*words: str, directory: Path = root) -> list[str]:
        return [path.relative_to(project.exchanges).as_posix() for path in select(project, words, directory)]

    assert len(names()) == 10
    assert names("kalshi") == ["feeds/kalshi.yaml"]
    assert names("local", "entry") == ["environments/local.yaml", "schemas/entry.yaml"]
    assert names("exchanges/feeds") == ["feeds/kalshi.yaml", "feeds/kraken.yaml", "feeds/polymarket.yaml"]
    assert names("kalshi.yaml", directory=project.exchanges / "feeds") == ["feeds/kalshi.yaml"]
    assert len(names(".")) == 10
    for word in ("kalshy", "/etc/passwd", "exchanges/feeds/nope.yaml", "pyproject.toml"):
        with pytest.raises(NotFound, match="no file, folder or name"):
            names(word)


def test_a_link_to_the_project_is_the_project(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("link") / "here"
    link.symlink_to(project.root)
    linked = Project(link)
    assert [p.name for p in select(linked, ["exchanges/environments/local.yaml"], project.root)] == ["local.yaml"]
