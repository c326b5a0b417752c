from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from journal.errors import BadSubject, CallerError, KeyRefused, NotFound
from ssmd.keys.secret import Secret
from ssmd.settings import Settings, shown
from ssmd.wiring import day_rule, journal_access

PROJECT = """name: {name}
feed: kalshi
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With the starter feeds left out: settings read environments only."""
    for name in ("desk", "other", "local"):
        path = tmp_path / "exchanges" / "environments" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROJECT.format(name=name))
    return tmp_path


def test_nothing_said_means_local_and_embedded(tmp_path: Path) -> None:
    settings = Settings.read({}, {}, tmp_path)
    assert settings.project.packaged
    assert (settings.env, settings.embedded, settings.storage_url, settings.feed) == ("local", True, "", "kalshi")
    assert settings.data_dir == tmp_path / ".ssmd" / "data"
    assert settings.storage == str(settings.data_dir / "objects")


def test_flags_over_variables_over_defaults(project: Path) -> None:
    environ = {"SSMD_ENV": "desk", "SSMD_DATA": "/a", "SSMD_STORAGE": "s3://b/c"}
    assert Settings.read({}, environ, project).env == "desk"
    settings = Settings.read({"env": "other", "data": "/b"}, environ, project)
    assert (settings.env, settings.data_dir, settings.storage) == ("other", Path("/b"), "s3://b/c")


def test_they_refuse_to_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().env = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "kept", "token"),
    [
        ("nats://h:4333", "nats://h:4333", ""),
        ("h", "nats://h:4222", ""),
        ("nats://hush@h", "nats://h:4222", "hush"),
        ("tls://hush@[::1]:1", "tls://[::1]:1", "hush"),
        ("nats://user:pass@h", "nats://user:pass@h", ""),
        ("nats://hush@a, nats://hush@b:1", "nats://a:4222,nats://b:1", "hush"),
        ("nats://user:pass@a,nats://user:pass@b", "nats://user:pass@a,nats://user:pass@b", ""),
    ],
)
def test_a_token_in_the_url_leaves_it(url: str, kept: str, token: str) -> None:
    settings = Settings.read({"nats": url}, {})
    assert (settings.nats_url, settings.nats_token) == (kept, Secret(token))
    assert "hush" not in repr(settings)
    assert "pass" not in shown(settings.nats_url)


def test_the_token_variable() -> None:
    assert Settings.read({}, {"SSMD_NATS": "nats://h", "SSMD_NATS_TOKEN": "t"}).nats_token == Secret("t")


def test_a_child_reads_the_same(project: Path) -> None:
    settings = Settings.read({"env": "desk", "data": "/a", "nats": "nats://t@h:1", "storage": "s3://b"}, {"SSMD_REPLICAS": "3"}, project)
    assert settings.replicas == 3
    assert Settings.read({}, settings.environ()) == settings
    assert Settings.read({}, settings.environ()).project.root == project


def test_the_project_is_found_above_and_its_data_is_in_it(project: Path) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    settings = Settings.read({}, {}, below)
    assert (settings.project.root, settings.env, settings.data_dir) == (project, "local", project / ".ssmd" / "data")
    assert Settings.read({"project": str(project)}, {}, Path("/")).project.root == project
    with pytest.raises(CallerError, match="ssmd init"):
        Settings.read({"project": str(below)}, {})


def test_the_environment_is_the_named_one_the_only_one_or_local(project: Path) -> None:
    with pytest.raises(NotFound, match="nearest: desk"):
        Settings.read({"env": "deks"}, {}, project)
    folder = project / "exchanges" / "environments"
    (folder / "local.yaml").unlink()
    with pytest.raises(CallerError, match=r"which environment.*desk, other"):
        Settings.read({}, {}, project)
    (folder / "other.yaml").unlink()
    assert Settings.read({}, {}, project).env == "desk"


def test_what_the_environment_names_is_used_and_a_flag_instead_of_it(project: Path) -> None:
    (project / "exchanges" / "environments" / "desk.yaml").write_text(
        "name: desk\nfeed: kalshi\nschedule: {timezone: America/New_York, day_start: '17:00'}\n"
        "keys: {bus: {type: transport, fields: [token]}, s3: {type: storage, fields: [id, secret]}}\n"
        "journal: {type: jetstream, url: 'nats://h:1', token: $key:bus.token}\n"
        "storage: {type: s3, bucket: data, prefix: a, access_key_id: $key:s3.id, secret_access_key: $key:s3.secret}\n"
    )
    environ = {"SSMD_ENV": "desk"}
    settings = Settings.read({}, environ, project)
    assert (settings.embedded, settings.storage, settings.local_objects) == (False, "s3://data/a", None)
    with pytest.raises(KeyRefused, match=r"key bus of environment desk: env has no token; see `ssmd key check desk`"):
        journal_access(settings)
    access = journal_access(Settings.read({}, {**environ, "SSMD_BUS_TOKEN": "hush"}, project))
    assert (access.url(), access.token) == ("nats://h:1", "hush")
    assert "hush" not in repr(access)
    other = Settings.read({"nats": "nats://t@g", "storage": "/elsewhere"}, environ, project)
    assert (journal_access(other).url(), journal_access(other).token, other.storage) == ("nats://g:4222", "t", "/elsewhere")
    assert day_rule(settings).day_of(1_795_392_000_000_000_000) == 20261122


@pytest.mark.parametrize(
    "flags", [{"nats": "http://h"}, {"nats": "nats://h:port"}, {"nats": "nats://"}, {"env": "Local"}, {"env": "system"}]
)
def test_bad_values_are_refused(flags: dict[str, str]) -> None:
    with pytest.raises((CallerError, BadSubject)):
        Settings.read(dict(flags), {})


@pytest.mark.parametrize(("nats", "replicas"), [("nats://h", "2"), ("nats://h", "three"), ("", "3")])
def test_replicas_that_cannot_be(nats: str, replicas: str) -> None:
    with pytest.raises(CallerError, match="SSMD_REPLICAS"):
        Settings.read({"nats": nats}, {"SSMD_REPLICAS": replicas})


@pytest.mark.parametrize(
    "said",
    [
        {"storage": "s3://id:hu/sh@bucket"},
        {"storage": "https://user:hush@host/x"},
        {"storage": "s3://bucket?endpoint=http://user:hush@host"},
        {"nats": "nats://user:1/hush@h"},
        {"nats": "nats://user:1#hush@h"},
        {"nats": "nats://user:hush#1@h"},
        {"nats": "nats://user:hush@[::1"},
        {"project": "~nobody-of-that-name/x"},
        {"data": "~nobody-of-that-name"},
    ],
)
def test_what_cannot_be_is_refused_and_no_secret_of_it_repeated(project: Path, said: dict[str, str]) -> None:
    with pytest.raises(CallerError) as refused:
        Settings.read({"env": "desk", **said}, {}, project)
    assert "hu" not in str(refused.value).replace("such user", "")
    assert refused.value.__cause__ is None
