"""Writing keys beside the environment: what is kept, what is replaced, what is dropped when its time is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.errors import KeyRefused
from ssmd.keys.age import create_identity, find_identity
from ssmd.keys.seal import unseal
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found, Wanted, open_key_source
from ssmd.keys.store import Sealing, check_writable, remove, store
from tests.keys.sealing import make_certificate, private_pem
from tests.keys.source_contract import HOUR_NS, NOW_NS, Home

WANTED = Wanted("dev", "venue", ("id", "pem"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    create_identity(find_identity(made.place.environ, made.place.home), made.clock)
    return made


def put(home: Home, *, grace_ns: int = 0, **values: str) -> None:
    now_ns = home.clock.now_ns
    secrets = {name: Secret(text) for name, text in values.items()}
    store("age", WANTED, home.place, secrets, sealing=Sealing(), set_ns=now_ns, previous_until_ns=now_ns + grace_ns if grace_ns else 0)


def texts(home: Home) -> tuple[dict[str, str], dict[str, str]]:
    found: Found = open_key_source("age", home.place).fetch(WANTED)
    return {n: s.reveal() for n, s in found.values.items()}, {n: s.reveal() for n, s in found.previous.items()}


def test_old_values_stay_valid_for_their_time_and_are_then_dropped_by_the_next_write(home: Home) -> None:
    put(home, id="1", pem="a")
    put(home, grace_ns=HOUR_NS, pem="b")
    assert texts(home) == ({"id": "1", "pem": "b"}, {"pem": "a"})
    home.clock.now_ns += HOUR_NS - 1
    put(home, id="2")
    assert texts(home) == ({"id": "2", "pem": "b"}, {"pem": "a"})
    home.clock.now_ns += 1
    assert texts(home)[1] == {}
    put(home, id="3")
    home.clock.now_ns = NOW_NS  # what the file no longer has does not come back
    assert texts(home) == ({"id": "3", "pem": "b"}, {})


def test_what_nobody_here_can_open_is_replaced_as_a_whole_only(home: Home) -> None:
    put(home, id="1", pem="a")
    find_identity(home.place.environ, home.place.home).unlink()
    create_identity(find_identity(home.place.environ, home.place.home), home.clock)
    with pytest.raises(KeyRefused, match="does not open"):
        put(home, id="2")
    with pytest.raises(KeyRefused, match="does not open"):
        put(home, grace_ns=HOUR_NS, id="2", pem="b")
    put(home, id="2", pem="b")
    assert texts(home) == ({"id": "2", "pem": "b"}, {})


def test_a_key_is_removed_once(home: Home) -> None:
    put(home, id="1", pem="a")
    assert remove("age", WANTED, home.place) == home.place.directory / "dev.venue.age"
    assert texts(home) == ({}, {})
    assert remove("age", WANTED, home.place) is None
    (home.place.directory / "dev.venue.age").mkdir()
    with pytest.raises(KeyRefused, match=r"dev\.venue\.age cannot be removed"):
        remove("age", WANTED, home.place)


def test_a_sealed_key_moves_to_another_namespace_as_a_whole_only(home: Home) -> None:
    def seal(namespace: str, **values: str) -> Path:
        secrets = {name: Secret(text) for name, text in values.items()}
        sealing = Sealing(make_certificate(), namespace)
        return store("sealed-secret/dev-venue", WANTED, home.place, secrets, sealing=sealing, set_ns=NOW_NS)

    path = seal("one", id="1", pem="a")
    seal("", pem="b")  # where it was
    assert {n: s.reveal() for n, s in unseal(path.read_text(), private_pem()).items() if n in WANTED.fields} == {"id": "1", "pem": "b"}
    with pytest.raises(KeyRefused, match="set all fields anew"):
        seal("two", pem="c")
    seal("two", id="2", pem="c")
    assert "namespace: two" in path.read_text()
    assert remove("sealed-secret/dev-venue", WANTED, home.place) == path
    assert remove("sealed-secret/dev-venue", WANTED, home.place) is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("env", "SSMD_VENUE_ID and SSMD_VENUE_PEM"),
        ("file:/run/secrets", "in /run/secrets"),
        ("vault/secret/venue", "vault kv put secret/venue id=@FILE pem=@FILE"),
        ("exec:pass show x", "`pass show x` only reads"),
    ],
)
def test_other_sources_say_where_values_are_put(source: str, said: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        check_writable(source, WANTED)
    assert said in str(refused.value)
