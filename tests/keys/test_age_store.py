"""The local store: to whom it is encrypted, who opens it, what it says when it does not."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest

from journal.errors import KeyRefused
from ssmd.keys.age import AgeSource, create_identity, find_identity
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found
from tests.keys.source_contract import CANARY, HOUR_NS, NOW_NS, WANTED, Home, check_silent, shown

FOUND = Found({"api_key": Secret(CANARY)}, NOW_NS, {"api_key": Secret("old")}, NOW_NS + HOUR_NS)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def add_identity(home: Home, path: Path | None = None) -> str:
    return create_identity(path or find_identity({}, home.place.home), home.clock)


def source(home: Home) -> AgeSource:
    return AgeSource("", home.place)


def test_what_is_stored_comes_back_with_its_times_and_is_nowhere_in_clear(home: Home) -> None:
    add_identity(home)
    path = source(home).store(WANTED, FOUND)
    assert path == home.place.directory / "dev.venue-1.age"
    assert source(home).fetch(WANTED) == FOUND
    for file in home.root.rglob("*"):
        assert file.is_dir() or CANARY not in file.read_text()
    assert path.read_text().startswith("-----BEGIN AGE ENCRYPTED FILE-----\n")
    assert [f.name for f in home.place.directory.iterdir()] == [path.name], "nothing temporary stays"


def test_an_identity_is_made_once_and_only_we_can_read_it(home: Home) -> None:
    public = add_identity(home)
    path = home.place.home / ".config" / "ssmd" / "identity.age"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = path.read_text()
    assert f"# public key: {public}\n" in before
    with pytest.raises(KeyRefused, match="is there; another identity"):
        add_identity(home)
    assert path.read_text() == before


def test_an_identity_that_others_can_read_is_refused(home: Home) -> None:
    add_identity(home)
    source(home).store(WANTED, FOUND)
    path = find_identity({}, home.place.home)
    path.chmod(0o640)
    with pytest.raises(KeyRefused, match=f"others may read .*run chmod 600 {path}"):
        source(home).fetch(WANTED)


def test_without_an_identity_or_a_passphrase_it_says_what_to_do(home: Home) -> None:
    with pytest.raises(KeyRefused, match=r"no identity in .*run `ssmd key init`") as refused:
        source(home).store(WANTED, FOUND)
    check_silent(refused.value)
    assert list(home.place.directory.iterdir()) == []


def test_recipients_of_the_environments_read_it_and_nobody_else_does(home: Home, tmp_path: Path) -> None:
    keys = {name: add_identity(home, tmp_path / name) for name in ("ann", "server", "gone")}
    recipients = home.place.directory / "recipients.txt"
    recipients.write_text(f"# who reads\n{keys['ann']}  # Ann\n\n{keys['server']}\n")
    home.environ["SSMD_AGE_PASSPHRASE"] = "not used: recipients go before it"
    source(home).store(WANTED, FOUND)
    for name in ("ann", "server"):
        home.environ["SSMD_AGE_IDENTITY"] = str(tmp_path / name)
        assert source(home).fetch(WANTED) == FOUND
    home.environ["SSMD_AGE_IDENTITY"] = str(tmp_path / "gone")
    with pytest.raises(KeyRefused, match=r"does not open with the identity in .*/gone .*recipients.txt") as refused:
        source(home).fetch(WANTED)
    check_silent(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age1nonsense", "line 1 is not an age public key"),
        ("# nobody\n", "has 0 public keys"),
        ("AGE-SECRET-KEY-1CANARY-7F3A", "line 1 is not"),
    ],
)
def test_recipients_that_are_none_are_refused_and_not_repeated(home: Home, text: str, message: str) -> None:
    add_identity(home)
    (home.place.directory / "recipients.txt").write_text(text)
    with pytest.raises(KeyRefused, match=message) as refused:
        source(home).store(WANTED, FOUND)
    check_silent(refused.value, CANARY, "CANARY")


def test_an_identity_file_of_nonsense_is_refused_and_not_repeated(home: Home) -> None:
    add_identity(home)
    source(home).store(WANTED, FOUND)
    path = find_identity({}, home.place.home)
    path.write_text(f"# created\n{path.read_text().splitlines()[2]}X{CANARY}\n")
    with pytest.raises(KeyRefused, match="line 2 is not an age identity") as refused:
        source(home).fetch(WANTED)
    check_silent(refused.value, CANARY, "AGE-SECRET-KEY-1" + "Q")


def test_a_passphrase_opens_it_and_no_other_one(home: Home) -> None:
    home.environ["SSMD_AGE_PASSPHRASE"] = "correct horse"
    source(home).store(WANTED, FOUND)
    add_identity(home)  # an identity does not open what a passphrase closed
    assert source(home).fetch(WANTED) == FOUND
    home.environ["SSMD_AGE_PASSPHRASE"] = "wrong-" + CANARY
    with pytest.raises(KeyRefused, match="does not open with the passphrase in SSMD_AGE_PASSPHRASE") as refused:
        source(home).fetch(WANTED)
    check_silent(refused.value)
    del home.environ["SSMD_AGE_PASSPHRASE"]
    assert source(home).needs_passphrase(WANTED)
    with pytest.raises(KeyRefused, match="opens with a passphrase: set SSMD_AGE_PASSPHRASE"):
        source(home).fetch(WANTED)


def test_a_key_that_an_identity_opens_needs_no_passphrase(home: Home) -> None:
    assert not source(home).needs_passphrase(WANTED)
    add_identity(home)
    source(home).store(WANTED, FOUND)
    assert not source(home).needs_passphrase(WANTED)


def test_a_store_that_is_refused_leaves_what_was_there(home: Home) -> None:
    add_identity(home)
    source(home).store(WANTED, FOUND)
    with pytest.raises(KeyRefused, match="larger than 65536") as refused:
        source(home).store(WANTED, Found({"api_key": Secret(CANARY * 10_000)}))
    check_silent(refused.value)
    with pytest.raises(KeyRefused, match="larger than 1048576"):
        source(home).store(WANTED, Found({f"f{n}": Secret("k" * 60_000) for n in range(20)}))
    assert source(home).fetch(WANTED) == FOUND


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (CANARY.encode(), "holds something else"),
        (
            json.dumps({"version": 1, "set_ns": 0, "previous_until_ns": 0, "values": {"a": 1}, "previous": {}}).encode(),
            "holds something else",
        ),
        (
            json.dumps({"version": 1, "set_ns": CANARY, "previous_until_ns": 0, "values": {}, "previous": {}}).encode(),
            "holds something else",
        ),
        (json.dumps({"version": 2, "set_ns": 0, "previous_until_ns": 0, "values": {}, "previous": {}}).encode(), "written by a newer ssmd"),
        (b"[" * 100_000, "holds something else"),
        (b"\xff", "holds something else"),
    ],
    ids=["text", "number", "time", "newer", "deep", "bytes"],
)
def test_a_file_that_another_program_made_is_refused(home: Home, plain: bytes, message: str) -> None:
    recipient = pyrage.x25519.Recipient.from_str(add_identity(home))
    source(home).path(WANTED).write_bytes(pyrage.encrypt(plain, [recipient]))  # not armored: that opens too
    with pytest.raises(KeyRefused, match=message) as refused:
        source(home).fetch(WANTED)
    check_silent(refused.value)


def test_a_file_of_another_key_or_environment_is_refused(home: Home) -> None:
    add_identity(home)
    path = source(home).store(WANTED, FOUND)
    for other in (replace(WANTED, env="prod"), replace(WANTED, name="other")):
        source(home).path(other).write_bytes(path.read_bytes())
        with pytest.raises(KeyRefused, match="written for another key or environment"):
            source(home).fetch(other)


def test_every_cut_and_every_flipped_byte_is_refused(home: Home) -> None:
    add_identity(home)
    path = source(home).store(WANTED, FOUND)
    whole = path.read_bytes()
    # An armor's last newline is no part of it.
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(KeyRefused):
            source(home).fetch(WANTED)
    lines = whole.splitlines(keepends=True)
    for at in range(len(lines[0]), len(whole) - len(lines[-1]) - 4, 7):
        path.write_bytes(whole[:at] + (b"B" if whole[at : at + 1] == b"A" else b"A") + whole[at + 1 :])
        with pytest.raises(KeyRefused):
            shown(source(home).fetch(WANTED))
