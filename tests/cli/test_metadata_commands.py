"""ssmd init, feed, schema, env: from nothing to files, and a thousand edits of files that people wrote."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, date, datetime
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ssmd.cli import main
from ssmd.commands import fields
from ssmd.metadata.environment import Environment, Key
from ssmd.metadata.feed import CaptureLocation, Feed, FeedVersion
from ssmd.metadata.model import Model
from ssmd.metadata.project import Project, file_hash
from ssmd.metadata.schema import Schema, SchemaVersion
from tests.cli.conftest import Ran

Run = Callable[..., Ran]

FEED = """\
# 1 Kalshi, as somebody typed it.

name:   kalshi     # 2 the file's
venue: 'kalshi'    # 3
status: active
# 4 versions, newest last
versions:
      # 5 before the move
    - version: "1"      # 6
      effective_from:  2021-07-01
      effective_to: 2023-12-31   # 7 a Sunday
      protocol: {transport: wss,   message: json}   # 8 in brackets
      endpoint: wss://old.example.com/v1

      # 9 about supports
      supports:
          order_book: true   # 10
          trades:   yes_no_is_text_so_this_is_replaced


    -
      # 11 the dash stands alone
      version: '2'
      effective_from: 2024-01-01
      protocol:
            # 12 deep
            transport: wss
            message: json # 13
      endpoint: "wss://external-api-ws.kalshi.com/trade-api/ws/v2"  # 14
      sequenced: true
      sequence_field: seq   # 15
      sequence_scope: subscription
      parser: {}  # 16 none
calendar:
   timezone: America/New_York   # 17
   holidays: [2026-12-25, # 18 Christmas
              2027-01-01]
# 19 where
capture_locations:
- site: ny4
  site_type: colocation  # 20
  clock: ptp

# 21 end
""".replace("yes_no_is_text_so_this_is_replaced", "false  # 22")

ENVIRONMENT = """\
# 1 A desk.
name: desk
description: >-
   Folded over
   two lines
feed: kalshi   # 2
stage:   'dev'   # 3

# 4 keys first
keys:
    nats:   # 5
        type: transport
        # 6 one
        fields:
        - token   # 7
        source: "vault/desk/nats"
    kalshi: {type: api_key, fields: [key_id, private_key]}   # 8
schedule: # 9
  timezone: America/New_York
  day_start:   "17:00" # 10
journal:
    type: jetstream
    url: nats://a:4222,nats://b:4222   # 11
    token: $key:nats.token
    # 12 three
    replicas: 3
symbols:
  KXBTC15M-A: {tier: 1,   category: crypto}  # 13
  "KX.1":   # 14
     category: 'metals'
     # 15
     tier: 2
shards:
  btc:
    selector: {series: [KXBTC15M,   # 16
                        KXETH15M]}
  rest:   # 17
    selector:
      tiers:
        - 1
        - 2  # 18
    resources: {cpu: "500m"}
# 19 the end"""


def run(*args: str) -> Ran:
    """Without pytest's capture, which hypothesis cannot share."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(args))
    return Ran(code, out.getvalue(), err.getvalue())


def leaf(kind: Any) -> st.SearchStrategy[str]:
    """Text for an option of this type, mostly of the right kind."""
    if get_origin(kind) is Literal:
        return st.sampled_from([str(a) for a in get_args(kind)])
    if get_origin(kind) is dict:
        return st.builds(
            "{}={}".format, st.sampled_from(["depth", "token", "a.b"]), st.sampled_from(["1", "text", "[1, {a: b}]", "NATS_T"])
        )
    if get_origin(kind) is tuple:
        return leaf(fields._bare(get_args(kind)[0]))
    if kind is date:
        return st.dates(date(2019, 1, 1), date(2030, 1, 1)).map(str)
    if kind is int:
        return st.integers(0, 40).map(str)
    return st.sampled_from(
        ["crypto", "two words", "it's: # odd", "09:30", "23:59", "UTC", "Asia/Tokyo", "wss://example.com/a", "https://example.com", "1.2",
         "nats://c:4222", "$key:nats.token", "", "yes", "kalshi", "ünï", "bucket-1", "tail ", "[x]", "512Mi"]
    )  # fmt: skip


def options(model: Any, *without: str) -> st.SearchStrategy[list[str]]:
    """One or two options of a model, given."""
    found: list[st.SearchStrategy[list[str]]] = []
    for path, kind, _ in fields._leaves(model, without):
        name = ".".join(path).replace("_", "-")
        if kind is bool:
            found.append(st.sampled_from([[f"--{name}"], [f"--no-{name}"]]))
        else:
            found.append(leaf(kind).map(lambda value, name=name: [f"--{name}", value]))  # type: ignore[misc]
    return st.lists(st.one_of(found), min_size=1, max_size=2).map(lambda lists: [word for words in lists for word in words])


SETS = st.sampled_from(
    ["symbols.KXBTC15M-A.tier=3", 'symbols."KX.1".category=energy', "symbols.NEW={tier: 0, category: 'x y'}",
     "shards.btc.selector.series=[A]",
     "shards.btc.selector.series.0=B-1", "shards.btc.selector.series.2=KXSOL15M", "shards.rest.selector.tiers=[3, 4]", "journal.replicas=5",
     "shards.rest.selector.tiers.2=9", "shards.new.selector.symbols=['KX*']", "keys.nats.rotation_days=90", "keys.kalshi.source=age",
     "schedule={timezone: UTC}", "symbols={}", "shards={all: {}}", "storage={type: s3, bucket: b-1}", "cache.type=none", "nonsense=1",
     "description=A: b", "journal.token=hunter2", "shards.rest.resources.memory=1Gi", "keys.nats.fields.1=extra"]
)  # fmt: skip
UNSETS = st.sampled_from(
    ["symbols.KXBTC15M-A", 'symbols."KX.1".tier', "symbols", "shards.btc", "shards.rest.selector.tiers.0", "shards.btc.selector.series[1]",
     "shards.rest.resources", "description", "schedule.day_start", "journal.replicas", "journal.token", "journal", "keys.kalshi", "stage",
     "feed", "archive.retention_days", "storage", "keys.nats.source"]
)  # fmt: skip
FEED_SETS = st.sampled_from(
    ["calendar.holidays=[]", "calendar.holidays.0=2026-07-04", "calendar.holidays.2=2027-07-04", "versions.0.supports.trades=true",
     "versions.1.version='3'", "versions.1.parser.levels=[1, 2]", "capture_locations.0.provider=equinix",
     "versions.0.effective_to=2024-02-01",
     "versions.1.protocol.message=fix", "versions.1.recovery=null"]
)  # fmt: skip
FEED_UNSETS = st.sampled_from(
    ["calendar.holidays[0]", "calendar", "capture_locations", "capture_locations.0.clock", "versions.0", "versions.0.supports", "venue",
     "versions.0.effective_to", "versions.0.protocol.message", "versions.1.parser", "status"]
)  # fmt: skip
ENV_EDITS = st.one_of(
    options(Environment, "name").map(lambda words: ["env", "update", "desk", *words]),
    SETS.map(lambda text: ["env", "update", "desk", "--set", text]),
    SETS.map(lambda text: ["env", "update", "desk", "--set", text]),
    UNSETS.map(lambda text: ["env", "update", "desk", "--unset", text]),
    st.builds(
        lambda key, words: ["env", "add-key", "desk", key, "--type", "tls", "--fields", "pem", *words],
        st.sampled_from(["tls", "web-hook", "nats"]),
        options(Key, "type", "fields"),
    ),
)
FEED_EDITS = st.one_of(
    options(Feed, "name").map(lambda words: ["feed", "update", "kalshi", *words]),
    st.builds(
        lambda version, words: ["feed", "update", "kalshi", "--version", version, *words],
        st.sampled_from(["1", "2", "2", "9"]),
        options(FeedVersion, "version"),
    ),
    FEED_SETS.map(lambda text: ["feed", "update", "kalshi", "--set", text]),
    FEED_UNSETS.map(lambda text: ["feed", "update", "kalshi", "--unset", text]),
    st.builds(
        lambda version, day, words: ["feed", "add-version", "kalshi", "--version", version, "--effective-from", str(day), *words],
        st.sampled_from(["3", "3.1", "4", "0"]),
        st.dates(date(2019, 1, 1), date(2030, 1, 1)),
        options(FeedVersion, "version", "effective_from"),
    ),
    st.builds(
        lambda site, words: ["feed", "add-location", "kalshi", "--site", site, "--site-type", "cloud", *words],
        st.sampled_from(["a", "b: c", "ny4"]),
        options(CaptureLocation, "site", "site_type"),
    ),
)
EXAMPLES, STEPS = 50, 20  # a thousand edits


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SSMD_ENV", "SSMD_PROJECT", "SSMD_DATA", "SSMD_NATS", "SSMD_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    assert run("init").code == 0
    return tmp_path


def git(directory: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args], cwd=directory, check=True, capture_output=True, text=True
    ).stdout


counts = {"made": 0, "unchanged": 0, "refused": 0}


@pytest.mark.parametrize(("name", "text", "edits"), [("environments/desk", ENVIRONMENT, ENV_EDITS), ("feeds/kalshi", FEED, FEED_EDITS)])
def test_a_thousand_edits_keep_comments_and_change_only_their_lines(
    project: Path, name: str, text: str, edits: st.SearchStrategy[list[str]]
) -> None:
    file = project / "exchanges" / f"{name}.yaml"
    counts.update(made=0, unchanged=0, refused=0)

    @given(st.lists(edits, min_size=STEPS, max_size=STEPS))
    @settings(max_examples=EXAMPLES // 2, deadline=None)
    def check(many: list[list[str]]) -> None:
        file.write_text(text)
        # A thread's own stack is short: at the depth of hypothesis below pytest, CPython 3.11 maps and unmaps a chunk of it at every call.
        list(thread.map(lambda words: one_edit(project, file, words), many))

    with ThreadPoolExecutor(1) as thread:
        check()
    assert counts["made"] > 100, counts
    assert run("validate", str(file)).code in {0, 1}
    git(project, "add", "-A")
    git(project, "commit", "-qm", "after")


def one_edit(project: Path, file: Path, words: list[str]) -> None:
    before, old = file.read_text(), file.stat()
    ran = run(*words)
    after = file.read_text()
    if ran.code:
        assert ran.code == 2, ran
        assert "defect" not in ran.err, ran
        assert (after, file.stat().st_ino) == (before, old.st_ino)
        assert "hunter2" not in ran.err
        counts["refused"] += 1
        return
    kind = Project(project).feeds if file.stem == "kalshi" else Project(project).environments
    assert kind.read(file.stem).name == file.stem
    if tree_of(before) == tree_of(after):
        assert after == before, words
        counts["unchanged"] += 1
        return
    counts["made"] += 1
    changed = changed_paths(tree_of(before), tree_of(after))
    touched = {line for path in changed for line in lines_of(before, path)}
    new = {line for path in changed for line in lines_of(after, path)}
    old_lines, new_lines = before.splitlines(), after.splitlines()
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old_lines, new_lines, autojunk=False).get_opcodes():
        if tag != "equal":
            # A container that becomes empty is `{}` on the line of its key, the line above; likewise when it was.
            assert i2 - i1 <= len(touched) + len(changed) + 1, (words, before, after)
            assert j2 - j1 <= len(new) + len(changed) + 1, (words, before, after)
    lost = comments(before) - comments(after)
    # A comment on its own line goes with what is around it.
    alone = {n for n, line in enumerate(old_lines) if line.lstrip().startswith("#") and {n - 1, n + 1} <= touched}
    inside = {c for n in touched | alone for c in comments(old_lines[n])}
    assert lost <= inside, (words, before, after)


@lru_cache(4)
def tree_of(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@lru_cache(4)
def root_of(text: str) -> Any:
    return YAML(typ="safe", pure=True).compose(text)


def comments(text: str) -> set[str]:
    return set(re.findall(r"# \d+", text))


def changed_paths(old: Any, new: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The deepest keys whose values differ; lists whose length differs are compared as one."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [p for k in [*old, *(k for k in new if k not in old)] for p in changed_paths(old.get(k, ...), new.get(k, ...), (*path, k))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [p for i, (a, b) in enumerate(zip(old, new, strict=True)) for p in changed_paths(a, b, (*path, i))]
    return [path] if type(old) is not type(new) or old != new else []


def lines_of(text: str, path: tuple[Any, ...]) -> Iterator[int]:
    """The lines, from 0, from the key at `path` to the end of its value; none where it is not there."""
    start = node = root_of(text)
    for step in path:
        if isinstance(step, int):
            if step >= len(node.value):
                return
            start = node = node.value[step]
        else:
            pair = next(((k, v) for k, v in node.value if k.value == step), None)
            if pair is None:
                return
            start, node = pair
    yield from range(start.start_mark.line, max(last_line(node), start.start_mark.line) + 1)


def last_line(node: Any) -> int:
    if isinstance(node.value, list) and not node.flow_style and node.value:
        last = node.value[-1]
        return last_line(last[1] if isinstance(last, tuple) else last)
    line: int = node.end_mark.line
    return line - (1 if node.end_mark.column == 0 else 0)


def test_init_in_a_fresh_repository_a_folder_of_one_and_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bare = run("init", "bare")
    assert bare.code == 0
    assert "Not in a git repository" in bare.err
    assert (tmp_path / "bare" / ".gitignore").read_text() == ".ssmd/\n"
    assert (tmp_path / "bare" / ".ssmd").stat().st_mode & 0o077 == 0
    assert run("validate", "--project", "bare").code == 0

    repository = tmp_path / "r"
    (repository / "below").mkdir(parents=True)
    git(repository, "init", "-q")
    (repository / "below" / ".gitignore").write_text("*.pyc")
    made = run("init", str(repository / "below"), "-o", "json")
    assert made.code == 0
    assert str(repository) in made.err
    assert {"file": "exchanges/schemas/entry.capnp", "change": "created"} in made.document
    assert (repository / "below" / ".gitignore").read_text() == "*.pyc\n.ssmd/\n"
    git(repository, "add", "-A")
    assert ".ssmd" not in git(repository, "ls-files").replace(".gitignore", "")

    mine = repository / "below" / "exchanges" / "feeds" / "kalshi.yaml"
    mine.write_text(mine.read_text() + "# mine\n")
    again = run("init", str(repository / "below"))
    assert "kept      exchanges/feeds/kalshi.yaml" in again.out
    assert "created" not in again.out
    assert mine.read_text().endswith("# mine\n")
    assert (repository / "below" / ".gitignore").read_text() == "*.pyc\n.ssmd/\n"
    forced = run("init", str(repository / "below"), "--force")
    assert "replaced  exchanges/feeds/kalshi.yaml" in forced.out
    assert not mine.read_text().endswith("# mine\n")


def test_without_a_project_edits_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("env", "list", "-o", "json").code == 0
    refused = run("env", "create", "lab", "--feed", "kalshi")
    assert refused.code == 2
    assert "ssmd init" in refused.err
    assert run("feed", "list", "--project", "nowhere").code == 2


def test_a_feed_from_nothing(project: Path) -> None:
    made = run("feed", "create", "bitstamp", "--endpoint", "wss://ws.bitstamp.net", "--supports.trades", "--effective-from", "2026-01-01")
    assert made == (0, "exchanges/feeds/bitstamp.yaml: created\n", "")
    assert (project / "exchanges" / "feeds" / "bitstamp.yaml").read_text() == (
        '# Feed bitstamp.\nname: bitstamp\nvenue: bitstamp\ntype: websocket\nversions:\n  - version: "1"\n    effective_from: 2026-01-01\n'
        "    protocol:\n      transport: wss\n    endpoint: wss://ws.bitstamp.net\n    supports:\n      trades: true\n"
    )
    assert run("feed", "create", "bitstamp", "--endpoint", "wss://x").code == 2
    for name in ["Bitstamp", "../../x", "x.y", "a/b", "internal", ""]:
        refused = run("feed", "create", name, "--endpoint", "wss://x")
        assert (refused.code, refused.err.startswith("ssmd: feed name ")) == (2, True), refused
    added = run("feed", "add-version", "bitstamp", "--version", "2", "--effective-from", "2026-06-01", "--rest", "https://b.example")
    assert added.code == 0
    old = run("feed", "show", "bitstamp", "--as-of", "2026-05-31", "-o", "json").document["version"]
    new = run("feed", "show", "bitstamp", "--as-of", "2026-06-01", "-o", "json").document["version"]
    assert (old["version"], old["rest"]) == ("1", None)
    assert (new["version"], new["rest"], new["endpoint"]) == ("2", "https://b.example", "wss://ws.bitstamp.net")
    before = run("feed", "show", "bitstamp", "--as-of", "2025-12-31")
    assert before.code == 2
    assert "1 from 2026-01-01, 2 from 2026-06-01" in before.err
    overlap = run("feed", "add-version", "bitstamp", "--version", "3", "--effective-from", "2026-06-01")
    assert overlap.code == 2
    assert "overlap" in overlap.err
    assert run("feed", "add-location", "bitstamp", "--site", "home", "--site-type", "home").code == 0
    assert "has the location home already" in run("feed", "add-location", "bitstamp", "--site", "home", "--site-type", "home").err
    listed = run("feed", "list", "-o", "json").document
    assert [row["name"] for row in listed] == ["bitstamp", "kalshi", "kraken", "polymarket"]
    assert run("feed", "update", "bitstamp", "--endpoint", "wss://y").code == 2  # which version?
    assert run("feed", "update", "bitstamp", "--version", "1", "--endpoint", "wss://y").code == 0
    assert "nearest: bitstamp" in run("feed", "show", "bitstmp").err


def test_a_dry_run_prints_the_difference_and_writes_nothing(project: Path) -> None:
    git(project, "add", "-A")
    git(project, "commit", "-qm", "one")
    shown = run("feed", "update", "kalshi", "--display-name", "K", "--dry-run")
    assert git(project, "status", "--porcelain") == ""
    assert run("feed", "update", "kalshi", "--display-name", "K").code == 0
    real = git(project, "diff").split("\n", 2)[2]
    assert shown.out == real
    assert run("feed", "update", "kalshi", "--display-name", "K").out == "exchanges/feeds/kalshi.yaml: unchanged\n"
    created = run("env", "create", "lab", "--feed", "kalshi", "--dry-run")
    assert created.out.startswith("--- /dev/null\n+++ b/exchanges/environments/lab.yaml\n")
    assert not (project / "exchanges" / "environments" / "lab.yaml").exists()


def test_an_option_that_is_wrong_is_named(project: Path) -> None:
    refused = run("feed", "update", "kalshi", "--rate-limit.requests", "0")
    assert refused.code == 2
    assert "--rate-limit.requests: " in refused.err
    refused = run("env", "update", "local", "--set", "journal.token=hunter2")
    assert "--set journal.token: " in refused.err
    assert "hunter2" not in refused.err
    refused = run("env", "create", "lab", "--feed", "kalshi", "--schedule.timezone", "America/New_Yrok")
    assert "--schedule.timezone: unknown timezone; nearest: America/New_York" in refused.err
    for words in [["--set", "a"], ["--set", "a=[1"], ["--set", "=1"], ["--unset", "a..b"], ["--unset", "nothing"], ["--symbols", "x"]]:
        assert run("env", "update", "local", *words).code == 2
    assert "nearest: kalshi" in run("env", "create", "lab", "--feed", "kashi").err
    assert "no schema" in run("env", "update", "local", "--schema", "nothing").err


def test_an_environment_by_commands_only(project: Path) -> None:
    assert run("env", "create", "lab", "--feed", "kalshi").code == 0
    assert (project / "exchanges" / "environments" / "lab.yaml").read_text() == "# Environment lab.\nname: lab\nfeed: kalshi\n"
    key = ["env", "add-key", "lab", "nats", "--type", "transport", "--fields", "token", "--variables", "token=NATS_TOKEN"]
    assert run(*key).code == 0
    assert "has a key nats already" in run(*key).err
    journal = ["--journal.type", "jetstream", "--journal.url", "nats://a:1,nats://b:2", "--journal.token", "$key:nats.token"]
    assert run("env", "update", "lab", *journal, "--protected", "--set", "shards.a.selector.series=[KXBTC15M]").code == 0
    assert (project / "exchanges" / "environments" / "lab.yaml").read_text() == (
        "# Environment lab.\nname: lab\nprotected: true\nfeed: kalshi\nkeys:\n  nats:\n    type: transport\n    fields: [token]\n"
        "    variables:\n      token: NATS_TOKEN\njournal:\n  type: jetstream\n  url: nats://a:1,nats://b:2\n  token: $key:nats.token\n"
        "shards:\n  a:\n    selector:\n      series: [KXBTC15M]\n"
    )
    shown = run("env", "show", "lab", "--as-of", "2026-11-22", "-o", "json").document
    assert shown["journal"]["token"] == "$key:nats.token"
    assert (shown["feed_version"]["version"], shown["schema_version"]["version"]) == ("2", "1.0.0")
    yaml = run("env", "show", "lab", "-o", "yaml").out
    assert tree_of(yaml) == {k: v for k, v in run("env", "show", "--env", "lab", "-o", "json").document.items() if k in shown}
    assert run("env", "validate", "lab").code == 0
    assert run("env", "update", "lab", "--feed", "kraken", "--status", "x").code == 2
    (project / "exchanges" / "environments" / "broken.yaml").write_text("name: broken\nfed: kalshi\n")
    listed = run("env", "list", "-o", "json")
    assert listed.code == 1
    assert "broken.yaml:2: fed: unknown key; did you mean feed?" in listed.err
    assert "lab" in [row["name"] for row in listed.document]
    assert run("env", "validate", "broken").code == 1
    assert run("env", "validate", "lub").code == 2


def test_what_an_environment_ran_with_is_in_its_journal(project: Path) -> None:
    assert run("env", "create", "lab", "--feed", "kalshi", "--stage", "test").code == 0
    today = str(datetime.now(UTC).date())
    before = run("env", "show", "lab", "--as-of", today, "-o", "json")
    assert (before.code, before.err, before.document["configuration"]) == (0, "", None)
    assert run("env", "apply", "lab", "--yes").code == 0
    assert run("env", "update", "lab", "--stage", "dev").code == 0
    shown = run("env", "show", "lab", "--as-of", today, "-o", "json").document
    assert (shown["stage"], shown["configuration"]["document"]["environment"]["stage"]) == ("dev", "test")
    assert run("env", "show", "lab", "--as-of", today, "--files-only", "-o", "json").document["configuration"] is None
    early = run("env", "show", "lab", "--as-of", "2020-01-01", "-o", "json").document
    assert (early["feed_version"], early["schema_version"], early["configuration"]) == (None, None, None)


def test_schemas_have_the_hash_of_their_file(project: Path) -> None:
    folder = project / "exchanges" / "schemas"
    assert run("schema", "hash", "entry").code == 0
    assert run("schema", "register", "ticks", "--file", "ticks.capnp").code == 2
    assert run("schema", "register", "ticks", "--file", "../feeds/kalshi.yaml").code == 2
    shutil.copy(folder / "entry.capnp", folder / "ticks.capnp")
    assert run("schema", "register", "ticks", "--file", "ticks.capnp", "--effective-from", "2026-01-01").code == 0
    found = run("schema", "show", "ticks", "-o", "json").document
    assert (found["format"], found["versions"][0]["status"]) == ("capnp", "draft")
    assert found["versions"][0]["sha256"] == file_hash(folder / "ticks.capnp")

    with (folder / "ticks.capnp").open("a") as file:
        file.write("# changed\n")
    assert run("schema", "hash", "ticks", "-o", "json").code == 1
    assert "hash ticks --write" in run("schema", "set-status", "ticks", "1.0.0", "active").err
    assert run("schema", "hash", "ticks", "--write").code == 0
    assert run("schema", "hash", "ticks").document[0]["holds"] is True
    assert run("schema", "set-status", "ticks", "1.0.0", "active").code == 0
    assert "nearest: 1.0.0" in run("schema", "set-status", "ticks", "1.0", "active").err

    with (folder / "ticks.capnp").open("a") as file:
        file.write("# and again\n")
    assert "not a draft" in run("schema", "hash", "ticks", "--write").err
    version = ["schema", "add-version", "ticks", "--version", "1.1.0", "--effective-from", "2026-06-01", "--compatible-with", "1.0.0"]
    assert "changed under version 1.0.0" in run(*version).err
    shutil.copy(folder / "ticks.capnp", folder / "ticks-1.1.capnp")
    assert run(*version, "--file", "ticks-1.1.capnp").code == 0
    assert run("schema", "show", "ticks", "--as-of", "2026-06-01", "-o", "json").document["version"]["file"] == "ticks-1.1.capnp"
    assert [row["version"] for row in run("schema", "list", "-o", "json").document if row["name"] == "ticks"] == ["1.1.0"]


@pytest.mark.parametrize("feed", ["polymarket", "kraken"])
@pytest.mark.parametrize("venue", ["simulated", "live"])
def test_a_feed_whose_adapter_is_not_built_validates_and_is_refused_by_name(project: Path, feed: str, venue: str) -> None:
    assert run("env", "create", "other", "--feed", feed, "--venue.type", venue).code == 0
    assert run("validate", "other", feed).code == 0
    for command in (["up", "--for", "1s"], ["run", "connector"]):
        ran = run(*command, "--env", "other")
        assert ran.code == 2
        assert f"the adapter of venue '{feed}' is not built yet; built: kalshi" in ran.err
    assert not (project / ".ssmd" / "data" / "nats").exists()


def test_a_disabled_feed_is_not_captured(project: Path) -> None:
    assert run("feed", "update", "kalshi", "--status", "disabled").code == 0
    for command in (["up", "--for", "1s"], ["run", "connector"]):
        ran = run(*command, "--env", "local")
        assert (ran.code, ran.err) == (2, "ssmd: feed kalshi is disabled; exchanges/feeds/kalshi.yaml says so\n")
    assert not (project / ".ssmd" / "data" / "nats").exists()


def leaves(model: type[Model], path: str = "") -> Iterator[str]:
    """Options of a model's fields, as the specification names them: but for maps and lists of models, which have commands or --set."""
    for name, field in model.model_fields.items():
        option = f"{path}{field.alias or name}".replace("_", "-")
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        if below := next((kind for kind in kinds if issubclass(kind, Model)), None):
            if get_origin(field.annotation) not in {dict, tuple}:
                yield from leaves(below, f"{option}.")
        else:
            yield f"--{option}"


@pytest.mark.parametrize(
    ("command", "models", "without"),
    [
        ("feed create", [Feed, FeedVersion], {"--name"}),
        ("feed update", [Feed, FeedVersion], {"--name"}),
        ("feed add-version", [FeedVersion], set()),
        ("feed add-location", [CaptureLocation], set()),
        ("schema register", [Schema, SchemaVersion], {"--name", "--sha256"}),
        ("schema add-version", [SchemaVersion], {"--sha256"}),
        ("env create", [Environment], {"--name"}),
        ("env update", [Environment], {"--name"}),
        ("env add-key", [Key], set()),
    ],
)
def test_every_field_is_an_option(command: str, models: list[type[Model]], without: set[str]) -> None:
    helped = set(re.findall(r"(?<!\S)--[a-z0-9.-]+", run(*command.split(), "--help").out))
    wanted = {option for model in models for option in leaves(model)} - without
    assert len(wanted) > 4
    assert wanted <= helped, wanted - helped
