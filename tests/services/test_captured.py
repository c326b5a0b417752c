"""Which markets are captured, and how each ends: without a clock, a venue or a journal."""

from __future__ import annotations

import pytest

from ssmd.services.captured import Captured, Leaving

GRACE_NS = 600


def captured(**states: str) -> Captured:
    found = Captured(GRACE_NS)
    for symbol, status in states.items():
        assert found.join(symbol, status)
    return found


def test_a_market_joins_once() -> None:
    markets = captured(A="pending")
    assert not markets.join("A", "active")
    assert (len(markets), list(markets), "A" in markets, "B" in markets) == (1, ["A"], True, False)


def test_a_settled_market_goes_after_its_grace_period_and_not_before() -> None:
    markets = captured(A="active", B="active")
    markets.told("A", "settled", 1_000)
    assert markets.subscribed() == ["B"]  # what a new connection asks for
    assert markets.due(1_599) == []
    assert "A" in markets
    assert markets.due(1_600) == [Leaving("A", "settled")]
    assert list(markets) == ["B"]
    assert markets.due(9_999) == []


def test_what_was_taken_back_stays_and_what_the_venue_has_settled_does_not() -> None:
    markets = captured(A="active", B="active")
    markets.leave("A", "not chosen any more", 0)
    markets.told("B", "settled", 0)
    for symbol in "AB":
        markets.news(symbol, "active", told=False)  # learnt before the message was
        markets.stay(symbol)
    assert markets.due(GRACE_NS) == [Leaving("B", "settled")]


def test_the_stream_is_told_what_it_does_not_have_in_the_venues_words() -> None:
    markets = captured(A="pending")
    assert markets.news("A", "pending", told=True)  # its definition, whatever it comes from
    assert not markets.news("A", "pending", told=False)
    assert markets.news("A", "active", told=False)  # opened: nobody announces it
    markets.told("A", "paused", 1)
    assert not markets.news("A", "paused", told=True)
    assert not markets.news("A", "paused", told=False)
    markets.told("A", "determined", 2)
    assert not markets.news("A", "closed", told=False)  # late
    assert markets.news("A", "settled", told=False)  # its message was lost


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ({}, "no market is chosen"),
        ({"A": "active"}, ""),
        ({"A": "pending"}, "the one market is pending"),
        ({"A": "pending", "B": "active"}, ""),
        ({"A": "pending", "B": "unknown"}, ""),
        ({"A": "pending", "B": "closed", "C": "pending"}, "of 3 markets none is active: 2 pending, 1 closed"),
    ],
)
def test_silence_is_expected_where_no_market_trades(states: dict[str, str], reason: str) -> None:
    assert captured(**states).silence(1) == reason


def test_silence_follows_the_states() -> None:
    markets = captured(A="pending", B="settled")
    assert markets.silence(1)
    markets.told("A", "active", 1)
    assert not markets.silence(1)
    markets.leave("A", "removed", 1)
    markets.told("A", "settled", 1)
    markets.due(GRACE_NS + 1)
    assert markets.silence(1) == "the one market is settled"


def test_a_market_whose_time_has_come_is_open_whatever_was_said() -> None:
    markets = captured()
    markets.join("A", "pending", 1_000)
    assert markets.silence(999) == "the one market is pending"
    assert not markets.silence(1_000)
    markets.news("A", "pending", 2_000, told=False)  # put off
    assert markets.silence(1_000)
