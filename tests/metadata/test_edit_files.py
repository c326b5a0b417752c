"""Files are replaced whole, validated first, by one edit at a time; models survive being written and read."""

from __future__ import annotations

import stat
import threading
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import BadFile, CallerError, NotFound
from ssmd.metadata import edit
from ssmd.metadata.environment import Environment
from ssmd.metadata.feed import Feed
from ssmd.metadata.model import Model
from ssmd.metadata.project import Kind, Project, check, parse
from ssmd.metadata.schema import Schema
from ssmd.metadata.spelling import block

ENV = "# An environment.\nname: lab\n\n# Whose data\nfeed:   kalshi   # the only one\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "exchanges" / "environments").mkdir(parents=True)
    (tmp_path / "exchanges" / "environments" / "lab.yaml").write_text(ENV)
    return Project(tmp_path)


def put(project: Project, path: str, value: Any) -> edit.Edit:
    return edit.update(project.environments, "lab", lambda tree: edit.put(tree, Environment, edit.parse_path(path), value), {})


def test_an_update_changes_its_line_and_keeps_the_mode(project: Project) -> None:
    path = project.environments.path("lab")
    path.chmod(0o640)
    put(project, "stage", "prod").write()
    assert path.read_text() == ENV.replace("name: lab\n", "name: lab\nstage: prod\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["lab.yaml"]


def test_an_update_through_a_link_replaces_the_file_not_the_link(project: Project, tmp_path: Path) -> None:
    path, target = project.environments.path("lab"), tmp_path / "elsewhere.yaml"
    path.rename(target)
    path.symlink_to(target)
    put(project, "stage", "prod").write()
    assert path.is_symlink()
    assert "stage: prod" in target.read_text()


def test_a_refused_update_leaves_the_file_and_names_the_place(project: Project) -> None:
    path = project.environments.path("lab")
    before = path.stat()
    with pytest.raises(BadFile) as refused:
        put(project, "stage", "production")
    assert refused.value.problems[0].startswith("exchanges/environments/lab.yaml:3: stage: ")
    assert refused.value.problems[-1] == "exchanges/environments/lab.yaml: nothing was written"
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_update_mends_a_file_that_is_wrong(project: Project) -> None:
    path = project.environments.path("lab")
    path.write_text(ENV + "stage: nonsense # here\n")
    put(project, "stage", "test").write()
    assert path.read_text() == ENV + "stage: test # here\n"


def test_nothing_to_change_writes_nothing(project: Project) -> None:
    path = project.environments.path("lab")
    before = path.stat()
    done = put(project, "feed", "kalshi")
    done.write()
    assert done.change == "unchanged"
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_the_loser_of_two_edits_is_told(project: Project) -> None:
    one, other = put(project, "stage", "prod"), put(project, "protected", value=True)
    one.write()
    with pytest.raises(CallerError, match="changed by another program meanwhile"):
        other.write()
    assert project.environments.read("lab").stage == "prod"
    new = edit.create(project.environments, "new", {"name": "new", "feed": "kalshi"}, "One.", {})
    edit.create(project.environments, "new", {"name": "new", "feed": "kraken"}, "Two.", {}).write()
    with pytest.raises(CallerError, match="meanwhile"):
        new.write()
    assert project.environments.read("new").feed == "kraken"


def test_of_many_edits_at_once_none_is_lost(project: Project) -> None:
    done: list[str] = []

    def work(number: int) -> None:
        name = f"S{number}"
        while True:
            try:
                put(project, f"symbols.{name}.tier", number).write()
            except CallerError:
                continue
            done.append(name)
            return

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(project.environments.read("lab").symbols) == sorted(done) == [f"S{n}" for n in range(8)]


def test_a_new_file_has_a_comment_the_order_of_the_fields_and_no_defaults(project: Project) -> None:
    tree: dict[str, Any] = {}
    for path, value in [("stage", "prod"), ("feed", "kalshi"), ("schedule.day_start", "09:30"), ("name", "new")]:
        edit.put(tree, Environment, edit.parse_path(path), value)
    made = edit.create(project.environments, "new", tree, "Made here.", {})
    assert made.after.decode() == '# Made here.\nname: new\nstage: prod\nfeed: kalshi\nschedule:\n  day_start: "09:30"\n'
    assert made.diff().startswith("--- /dev/null\n+++ b/exchanges/environments/new.yaml\n")
    assert not project.environments.path("new").exists()
    with pytest.raises(CallerError, match="is there already"):
        edit.create(project.environments, "lab", tree, "", {})


def test_what_is_not_there_and_what_cannot_be_read(project: Project) -> None:
    with pytest.raises(NotFound, match="nearest: lab"):
        edit.update(project.environments, "lub", lambda _tree: None, {})
    path = project.environments.path("lab")
    for content, said in [
        (b"a: [1", "not YAML"),
        (b"\xff", "not UTF-8"),
        (b"- 1\n", "must be a mapping"),
        (b"name: lab\nfeed: &f kalshi\ndescription: *f\n", "alias"),
    ]:
        path.write_bytes(content)
        with pytest.raises(BadFile, match=said):
            put(project, "stage", "prod")
        assert path.read_bytes() == content


def test_a_file_that_cannot_be_written(project: Project) -> None:
    change = put(project, "stage", "prod")
    directory = project.environments.directory
    directory.rename(directory.with_name("gone"))
    with pytest.raises(CallerError, match="cannot be written: No such file"):
        change.write()


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a[x]", 'a."b', "a[0", "a b[", "[]"])
def test_paths_that_are_none(text: str) -> None:
    with pytest.raises(CallerError, match="is no path"):
        edit.parse_path(text)


def test_paths_and_what_they_lead_to() -> None:
    assert edit.parse_path('symbols."KX.1".tier') == ("symbols", "KX.1", "tier")
    assert edit.parse_path("versions[0].endpoint") == edit.parse_path("versions.0.endpoint") == ("versions", "0", "endpoint")
    tree: dict[str, Any] = {"versions": [{"a": 1}], "x": 1}
    edit.put(tree, Feed, ("versions", "1", "a"), 2)
    assert tree["versions"] == [{"a": 1}, {"a": 2}]
    for path in [("versions", "3"), ("versions", "x"), ("x", "y")]:
        with pytest.raises(CallerError):
            edit.put(tree, Feed, path, 1)
    for absent in [("versions", "2"), ("versions", "x"), ("y",), ("x", "y")]:
        with pytest.raises(CallerError, match="not in the file"):
            edit.remove(tree, absent)
    edit.remove(tree, ("versions", "0", "a"))
    assert tree == {"versions": [{}, {"a": 2}], "x": 1}


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True).map(lambda n: f"x{n}")
field_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
times = st.times().map(lambda t: t.strftime("%H:%M"))
zones = st.sampled_from(["UTC", "America/New_York", "Asia/Tokyo"])
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6).map(lambda f: f + 0.0) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


def periods(draw: Any) -> list[dict[str, Any]]:
    days = sorted(draw(st.lists(st.dates(date(2000, 1, 1), date(2100, 1, 1)), min_size=1, max_size=3, unique=True)))
    return [{"version": f"{n}.{draw(st.integers(0, 9))}", "effective_from": day} for n, day in enumerate(days)]


def some(draw: Any, **strategies: Any) -> dict[str, Any]:
    """Each maybe."""
    return {name: draw(strategy) for name, strategy in strategies.items() if draw(st.booleans())}


@st.composite
def feeds(draw: Any) -> tuple[type[Model], dict[str, Any]]:
    versions = []
    for period in periods(draw):
        sequence = {"sequenced": True, "sequence_field": draw(words), "sequence_scope": "symbol"} if draw(st.booleans()) else {}
        versions.append(
            period
            | {"protocol": {"transport": "wss"}, "endpoint": "wss://example.com/x?y=z"}
            | some(
                draw,
                rate_limit=st.builds(dict, requests=st.integers(1, 99)),
                supports=st.dictionaries(st.sampled_from(["order_book", "trades"]), st.booleans()),
                parser=st.dictionaries(words, json_values, max_size=3),
                rest=st.just("https://example.com"),
            )
            | sequence
        )
    location: st.SearchStrategy[dict[str, Any]] = st.builds(dict, site=words, site_type=st.just("home"), provider=st.none() | words)
    return Feed, {"name": draw(names), "venue": "kalshi", "versions": versions} | some(
        draw,
        display_name=words,
        calendar=st.builds(dict, timezone=zones, holidays=st.lists(st.dates(), max_size=3), open=times, close=times),
        capture_locations=st.lists(location, max_size=3),
    )


@st.composite
def schemas(draw: Any) -> tuple[type[Model], dict[str, Any]]:
    versions = [
        period | {"sha256": draw(hashes)} | some(draw, breaking_changes=st.lists(words, max_size=2), file=st.just("b-1.capnp"))
        for period in periods(draw)
    ]
    return Schema, {"name": draw(names), "file": "a.capnp", "versions": versions} | some(draw, description=words)


@st.composite
def environments(draw: Any) -> tuple[type[Model], dict[str, Any]]:
    key = {"type": "transport", "fields": draw(st.lists(field_names, min_size=1, max_size=3, unique=True))}
    key |= some(draw, description=words, rotation_days=st.integers(1, 99), source=st.sampled_from(["age", "vault/a b", "exec:pass show x"]))
    journal = {"type": "jetstream", "url": "nats://a:1,nats://b:2", "token": f"$key:nats.{key['fields'][0]}"}
    selector = st.dictionaries(st.sampled_from(["symbols", "categories", "series"]), st.lists(words, max_size=2))
    return Environment, {"name": draw(names), "feed": draw(names), "keys": {"nats": key}} | some(
        draw,
        journal=st.just(journal),
        schedule=st.builds(dict, timezone=zones, day_start=times, day_end=st.none() | times, auto_roll=st.booleans()),
        symbols=st.dictionaries(words, st.builds(dict, tier=st.integers(0, 9), category=words), max_size=3),
        shards=st.dictionaries(names, st.builds(dict, selector=selector), max_size=2),
    )


valid = st.one_of(feeds(), schemas(), environments())


@given(valid)
@settings(max_examples=150, deadline=None)
def test_models_survive_being_written_and_read(case: tuple[type[Model], dict[str, Any]]) -> None:
    model, tree = case
    made = check(parse(written(tree), "x.yaml"), model, "x.yaml", tree["name"])
    again = made.model_dump(mode="python", by_alias=True, exclude_defaults=True)
    assert check(parse(written(again), "x.yaml"), model, "x.yaml", tree["name"]) == made


def written(tree: dict[str, Any]) -> bytes:
    return "\n".join([*block(as_lists(tree), 0), ""]).encode()


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: as_lists(v) for k, v in value.items()}
    return [as_lists(v) for v in value] if isinstance(value, tuple | list) else value


@given(valid, st.data())
@settings(max_examples=100, deadline=None)
def test_an_unknown_key_anywhere_is_refused_with_line_and_path(case: tuple[type[Model], dict[str, Any]], data: st.DataObject) -> None:
    model, tree = case
    place = data.draw(st.sampled_from([p for p in mappings(tree) if not set(p) & {"parser", "variables", "keys", "symbols", "shards"}]))
    at: Any = tree
    for step in place:
        at = at[step]
    at["zzz"] = 1
    content = written(tree)
    with pytest.raises(BadFile) as refused:
        check(parse(content, "x.yaml"), model, "x.yaml", tree["name"])
    line = next(n for n, text in enumerate(content.decode().splitlines(), 1) if "zzz: 1" in text)
    path = ".".join(map(str, (*place, "zzz")))
    assert any(p.startswith(f"x.yaml:{line}: {path}: unknown key") for p in refused.value.problems), refused.value


def mappings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if isinstance(value, dict) else []), *(p for step, inner in below for p in mappings(inner, (*path, step)))]


def test_kinds_say_what_they_are(project: Project) -> None:
    kind: Kind[Environment] = project.environments
    assert kind.shown("lab") == "exchanges/environments/lab.yaml"
