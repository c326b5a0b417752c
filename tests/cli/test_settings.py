from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from journal.errors import BadSubject, CallerError
from ssmd.settings import Settings, shown


def test_nothing_said_means_local_and_embedded() -> None:
    settings = Settings.read({}, {})
    assert (settings.env, settings.nats_url, settings.storage_url, settings.feed) == ("local", "", "", "kalshi")
    assert settings.data_dir == Path.cwd() / ".ssmd" / "data"
    assert settings.storage == str(settings.data_dir / "objects")


def test_flags_over_variables_over_defaults() -> None:
    environ = {"SSMD_ENV": "desk", "SSMD_DATA": "/a", "SSMD_STORAGE": "s3://b/c"}
    assert Settings.read({}, environ).env == "desk"
    settings = Settings.read({"env": "other", "data": "/b"}, environ)
    assert (settings.env, settings.data_dir, settings.storage) == ("other", Path("/b"), "s3://b/c")


def test_they_refuse_to_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().env = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "kept", "token"),
    [
        ("nats://h:4333", "nats://h:4333", ""),
        ("h", "nats://h:4222", ""),
        ("nats://secret@h", "nats://h:4222", "secret"),
        ("tls://secret@[::1]:1", "tls://[::1]:1", "secret"),
        ("nats://user:pass@h", "nats://user:pass@h", ""),
        ("nats://secret@a, nats://secret@b:1", "nats://a:4222,nats://b:1", "secret"),
        ("nats://user:pass@a,nats://user:pass@b", "nats://user:pass@a,nats://user:pass@b", ""),
    ],
)
def test_a_token_in_the_url_leaves_it(url: str, kept: str, token: str) -> None:
    settings = Settings.read({"nats": url}, {})
    assert (settings.nats_url, settings.nats_token) == (kept, token)
    assert "secret" not in repr(settings)
    assert "pass" not in shown(settings.nats_url)


def test_the_token_variable() -> None:
    assert Settings.read({}, {"SSMD_NATS": "nats://h", "SSMD_NATS_TOKEN": "t"}).nats_token == "t"


def test_a_child_reads_the_same() -> None:
    settings = Settings.read({"env": "desk", "data": "/a", "nats": "nats://t@h:1", "storage": "s3://b"}, {"SSMD_REPLICAS": "3"})
    assert settings.replicas == 3
    assert Settings.read({}, settings.environ()) == settings


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
