"""Files that were made to harm: what stands for gigabytes, never ends, is waited for, or has a secret where none belongs."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from ssmd.metadata.problem import Finding
from ssmd.metadata.project import Project
from ssmd.metadata.validation import check
from tests.metadata.starter import copy_starter

_BOMB = b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12))
_LONG = b"a: &a " + b"x" * 500_000 + b"\nb: [*a, *a, *a]\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_starter(tmp_path)


def found(project: Project) -> list[Finding]:
    return check(project, today=date(2026, 11, 22))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_BOMB, "aliases"),
        (_LONG, "aliases"),
        (b"a: hush1\na: hush2\n", "duplicate key"),
        (b"a: *hush\n", "undefined alias"),
        (b"a: !hush!x y\n", "undefined tag"),
    ],
)
def test_a_damaged_file_is_one_error_that_repeats_nothing(project: Project, content: bytes, words: str) -> None:
    (project.exchanges / "feeds" / "bad.yaml").write_bytes(content)
    (said,) = found(project)
    assert (said.file, said.severity) == ("exchanges/feeds/bad.yaml", "error")
    assert words in said.text
    assert "hush" not in said.text


def test_what_is_no_file_is_not_waited_for(project: Project) -> None:
    folder = project.exchanges / "schemas"
    os.mkfifo(folder / "pipe.yaml")
    (folder / "endless.yaml").symlink_to("/dev/zero")
    (folder / "entry.capnp").unlink()
    os.mkfifo(folder / "entry.capnp")
    said = found(project)
    assert {f.file.rpartition("/")[2] for f in said} == {"pipe.yaml", "endless.yaml", "entry.yaml", "entry.capnp"}
    assert all("not a regular file" in f.text for f in said)


def test_two_keys_do_not_share_a_variable(project: Project) -> None:
    keys = "kalshi: {type: webhook, fields: [key_url, url]}\n  kalshi-key: {type: webhook, fields: [url]}"
    (project.exchanges / "environments" / "local.yaml").write_text(f"name: local\nfeed: kalshi\nkeys:\n  {keys}\n")
    (said,) = [f for f in found(project) if f.severity == "error"]
    assert (said.line, said.place) == (5, "keys.kalshi-key.fields")
    assert "url is read from SSMD_KALSHI_KEY_URL, which is kalshi.key_url already" in said.text


@pytest.mark.parametrize("url", ["nats://user:hush@h", "nats://user:hu/sh@h", "nats://a,nats://user:1#hush@h"])
def test_a_password_in_an_url_is_refused_whatever_is_in_it(project: Project, url: str) -> None:
    path = project.exchanges / "environments" / "local.yaml"
    path.write_text(f"name: local\nfeed: kalshi\njournal: {{type: jetstream, url: '{url}'}}\n")
    (said,) = found(project)
    assert (said.line, said.place) == (3, "journal.url")
    assert "is a secret in clear" in said.text
    assert "hu" not in said.text
