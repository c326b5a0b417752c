"""Names and escaping: every symbol has one token and every token one symbol."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.errors import BadSubject
from journal.subjects import RESERVED, Stream, check_name, escape, matches, parse_position, unescape

symbols = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(symbols)
def test_a_symbol_comes_back_from_its_token(symbol: str) -> None:
    token = escape(symbol)
    assert unescape(token) == symbol
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", token)  # a token of NATS, of object keys and of Redis keys


@given(symbols, symbols)
def test_two_symbols_never_share_a_token(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


domains = st.builds(lambda env, domain: Stream(env, domain=domain), st.sampled_from(["local", "a"]), st.sampled_from(["key", "day"]))
kinds = st.sampled_from(["events", "snapshots", "tracking", "changes"])
keys = st.one_of(
    symbols, st.builds("{}.{}".format, symbols, st.integers(0, 1 << 64)), st.from_regex(r"[ab.]{0,3}\.?[01²]{0,3}\n?", fullmatch=True)
)


@given(domains, kinds, keys)
def test_a_key_of_a_domain_comes_back_from_its_subject(stream: Stream, kind: str, key: str) -> None:
    subject = stream.subject(stream.domain, kind, key)
    assert stream.symbol(subject) == key
    assert matches(stream.subjects()[0], subject)


places = st.tuples(domains, kinds, keys)


@given(places, places)
def test_two_keys_of_domains_never_share_a_subject(one: tuple[Stream, str, str], other: tuple[Stream, str, str]) -> None:
    subjects = [stream.subject(stream.domain, kind, key) for stream, kind, key in (one, other)]
    assert (subjects[0] == subjects[1]) == (one == other)


@pytest.mark.parametrize(
    ("kind", "key", "subject"),
    [
        ("events", "6c1f.7", "local.key.events.6c1f.7"),
        ("events", "kalshi.api.12", "local.key.events.kalshi%2Eapi.12"),
        ("events", ".0", "local.key.events.%.0"),
        ("events", "6c1f.07", "local.key.events.6c1f%2E07"),  # no version is written so
        ("events", "6c1f", "local.key.events.6c1f"),
        ("changes", "A.7", "local.key.changes.A%2E7"),
    ],
)
def test_an_aggregates_event_has_a_token_for_its_version(kind: str, key: str, subject: str) -> None:
    assert Stream("local", domain="key").subject("key", kind, key) == subject


@given(st.text(alphabet="aZ9_-%0123456789ABCDEFabcdef.", max_size=9))
def test_what_is_not_a_token_is_refused(token: str) -> None:
    try:
        symbol = unescape(token)
    except BadSubject:
        return
    assert escape(symbol) == token


@pytest.mark.parametrize(
    ("symbol", "token"),
    [
        ("", "%"),
        ("KXGOLDH-26AUG2711-T4615.99", "KXGOLDH-26AUG2711-T4615%2E99"),
        ("XBT/USD", "XBT%2FUSD"),
        ("%", "%25"),
        ("é*>", "%C3%A9%2A%3E"),
    ],
)
def test_escaping_of_real_symbols(symbol: str, token: str) -> None:
    assert escape(symbol) == token


@pytest.mark.parametrize("token", ["a.b", "%2e", "%41", "%FF", "%%", "a%", "%2", "", " "])
def test_tokens_that_escaping_never_makes(token: str) -> None:
    with pytest.raises(BadSubject):
        unescape(token)


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a.b", "a" * 33, "é", "system", "internal", "a\n"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(BadSubject):
        check_name("env", name)


def test_names_and_subjects_of_streams() -> None:
    market, shard, domain = Stream("local", shard="0"), Stream("local", shard="import"), Stream("local", domain="system")
    assert [s.name for s in (market, shard, domain)] == ["local_md_0", "local_md_import", "local_system"]
    assert market.subject("kalshi", "trade", "A.B") == "local.kalshi.trade.A%2EB"
    assert shard.subject("kalshi", "trade", "") == "internal.local.import.kalshi.trade.%"
    assert domain.subject("system", "digest", "books") == "local.system.digest.books"
    assert (market.subjects("kalshi"), shard.subjects(), domain.subjects()) == (
        ["local.kalshi.>"],
        ["internal.local.import.>"],
        ["local.system.>"],
    )
    for stream in (market, shard, domain):
        assert Stream.parse(stream.name) == stream
    with pytest.raises(BadSubject):
        market.subjects()  # shard 0 binds its feed's subjects only
    for feed in sorted(RESERVED):
        with pytest.raises(BadSubject):
            market.subjects(feed)


@pytest.mark.parametrize("name", ["", "local", "local_", "local_nope", "local_md_", "local_md_A", "md_0"])
def test_names_that_are_no_streams(name: str) -> None:
    with pytest.raises(BadSubject):
        Stream.parse(name)


def test_positions() -> None:
    assert parse_position("local_md_0:17") == (Stream("local", shard="0"), 17)
    for text in ("local_md_0", "local_md_0:", ":1", "local_md_0:-1", "local_md_0:1x", "local_md_0:²"):
        with pytest.raises(BadSubject):
            parse_position(text)


@pytest.mark.parametrize(
    ("pattern", "subject", "matched"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a.b", True),
        ("*.b.>", "a.b", False),
    ],
)
def test_patterns(pattern: str, subject: str, *, matched: bool) -> None:
    assert matches(pattern, subject) is matched
