"""What a client says and hears, without sockets: sids, numbers, acknowledgements, refusals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.simulator.channels import Connection
from exchanges.simulator.commands import Commands
from exchanges.simulator.faults import Fate, Fault, ScriptedFaults
from exchanges.simulator.feed import Delta, Lifecycle, Snapshot, Ticker, Trade
from exchanges.simulator.market import Catalogue, Market
from exchanges.simulator.oracle import Oracle
from exchanges.simulator.venue import KEPT_SETTLED, Venue

A, B, C = "KXSIM-1-A", "KXSIM-1-B", "KXSIM-2-T4615.99"
Frame = dict[str, Any]


class Talk:
    """A venue with three markets and one client."""

    def __init__(self, faults: ScriptedFaults | None = None, limit: int = 0) -> None:
        catalogue = Catalogue()
        for ticker in (A, B, C):
            event = ticker.rpartition("-")[0]
            catalogue.list_market(Market(ticker, event, "KXSIM", market_id=f"id-{ticker}", listed_ms=0, open_ms=0, close_ms=10_000))
        self.oracle = Oracle(keep_bytes=1_000_000)
        self.venue = Venue(catalogue, oracle=self.oracle, faults=faults)
        self.commands = Commands(self.venue, limit=limit)
        self.client = self.venue.connect()
        self._number = 0

    def heard(self, client: Connection | None = None) -> list[Frame]:
        client = client or self.client
        frames = [msgspec.json.decode(frame) for frame in client.out]
        client.out.clear()
        return frames

    def say(self, cmd: str, client: Connection | None = None, **params: Any) -> list[Frame]:
        self._number += 1
        message = {"id": self._number, "cmd": cmd, "params": params}
        self.commands.serve(client or self.client, msgspec.json.encode(message))
        return self.heard(client)

    def delta(self, ticker: str, price: int = 400_000, change: int = 1_000, *, no: bool = False) -> list[Frame]:
        body = msgspec.json.encode({"market_ticker": ticker, "price_dollars": f"0.{price // 100:04d}", "side": "no" if no else "yes"})
        self.venue.publish(Delta(1, ticker, body, no, price, change))
        return self.heard()


def numbered(frames: list[Frame]) -> list[tuple[str, int, int | None]]:
    return [(frame["type"], frame.get("sid", 0), frame.get("seq")) for frame in frames]


def test_one_counter_for_all_tickers_of_a_sid() -> None:
    talk = Talk()
    heard = talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A, B])
    assert numbered(heard) == [("subscribed", 0, None), ("orderbook_snapshot", 1, 1), ("orderbook_snapshot", 1, 2)]
    assert heard[0]["msg"] == {"channel": "orderbook_delta", "sid": 1}
    assert heard[0]["id"] == 1
    assert numbered(talk.delta(A) + talk.delta(B) + talk.delta(A)) == [("orderbook_delta", 1, number) for number in (3, 4, 5)]
    assert talk.delta(C) == []


def test_one_subscribed_for_each_channel_and_each_has_its_own_sid() -> None:
    talk = Talk()
    heard = talk.say("subscribe", channels=["trade", "ticker", "market_lifecycle_v2"], market_ticker=A)
    assert [frame["msg"] for frame in heard] == [
        {"channel": "trade", "sid": 1},
        {"channel": "ticker", "sid": 2},
        {"channel": "market_lifecycle_v2", "sid": 3},
    ]
    assert talk.say("list_subscriptions")[0]["msg"] == [
        {"channel": "trade", "sid": 1},
        {"channel": "ticker", "sid": 2},
        {"channel": "market_lifecycle_v2", "sid": 3},
    ]


def test_acknowledgements_use_numbers_and_ticker_frames_do_not() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    assert numbered(talk.say("update_subscription", sid=1, action="add_markets", market_ticker=B)) == [
        ("ok", 1, 2),
        ("orderbook_snapshot", 1, 3),
    ]
    assert numbered(talk.say("update_subscription", sids=[1], action="delete_markets", market_ticker=A)) == [("ok", 1, 4)]
    assert numbered(talk.delta(B)) == [("orderbook_delta", 1, 5)]
    assert numbered(talk.say("unsubscribe", sids=[1])) == [("unsubscribed", 1, 6)]
    talk.say("subscribe", channels=["ticker"], market_ticker=A)
    talk.venue.publish(Ticker(1, A, b"{}"))
    assert talk.heard() == [{"type": "ticker", "sid": 2, "msg": {}}]


def test_subscribing_again_merges_into_the_sid_and_is_no_resync() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A])
    heard = talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A, B])
    assert numbered(heard) == [("ok", 1, 2), ("orderbook_snapshot", 1, 3)]
    assert heard[0]["msg"] == {"market_tickers": [A, B], "market_ids": [f"id-{A}", f"id-{B}"]}
    assert heard[1]["msg"]["market_ticker"] == B
    assert numbered(talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A, B])) == [("ok", 1, 4)]
    assert "msg" not in talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A], skip_ticker_ack=True)[0]


def test_unsubscribe_then_subscribe_begins_anew() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    talk.delta(A)
    talk.say("unsubscribe", sids=[1])
    assert talk.delta(A) == []
    heard = talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    assert numbered(heard) == [("subscribed", 0, None), ("orderbook_snapshot", 2, 1)]
    assert heard[1]["msg"]["yes_dollars_fp"] == [["0.4000", "20.00"]]


def test_delete_and_add_gives_a_fresh_snapshot_on_the_same_sid() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A, B])
    talk.say("update_subscription", sid=1, action="delete_markets", market_ticker=A)
    assert talk.delta(A) == []
    heard = talk.say("update_subscription", sid=1, action="add_markets", market_ticker=A)
    assert numbered(heard) == [("ok", 1, 4), ("orderbook_snapshot", 1, 5)]
    assert heard[1]["msg"]["yes_dollars_fp"] == [["0.4000", "10.00"]]


def test_get_snapshot_answers_with_the_commands_id() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    talk.delta(A, no=True)
    (heard,) = talk.say("update_subscription", sid=1, action="get_snapshot", market_ticker=A)
    assert heard == {
        "type": "orderbook_snapshot",
        "id": 2,
        "sid": 1,
        "seq": 3,
        "msg": {"market_ticker": A, "market_id": f"id-{A}", "no_dollars_fp": [["0.4000", "10.00"]]},
    }


def test_unknown_tickers_are_left_out_of_the_acknowledgement() -> None:
    talk = Talk()
    assert numbered(talk.say("subscribe", channels=["orderbook_delta"], market_tickers=["NOPE"])) == [("subscribed", 0, None)]
    heard = talk.say("update_subscription", sid=1, action="add_markets", market_tickers=["NOPE", C])
    assert heard[0]["msg"]["market_tickers"] == [C]


def test_trade_without_a_filter_is_all_markets_and_lifecycle_knows_no_filter() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["trade"])
    talk.say("subscribe", channels=["market_lifecycle_v2"], market_ticker=A)
    talk.venue.publish(Trade(5, C, b'{"market_ticker":"C"}', 400_000, 100))
    talk.venue.publish(Lifecycle(6, B, b"{}", "deactivated"))
    assert numbered(talk.heard()) == [("trade", 1, 1), ("market_lifecycle_v2", 2, 1)]
    filtered = talk.venue.connect()
    talk.say("subscribe", filtered, channels=["trade"], market_ticker=A)
    talk.venue.publish(Trade(5, C, b"{}", 400_000, 100))
    assert talk.heard(filtered) == []
    talk.say("subscribe", filtered, channels=["trade"])  # widens
    talk.venue.publish(Trade(5, C, b"{}", 400_000, 100))
    assert numbered(talk.heard(filtered)) == [("trade", 1, 2)]


def test_sids_and_numbers_start_anew_on_every_connection() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    talk.delta(A)
    second = talk.venue.connect()
    assert numbered(talk.say("subscribe", second, channels=["orderbook_delta"], market_ticker=A))[1] == ("orderbook_snapshot", 1, 1)
    talk.venue.disconnect(talk.client)
    assert talk.delta(A) == []
    assert numbered(talk.heard(second)) == [("orderbook_delta", 1, 2)]


def test_ticker_can_begin_with_a_snapshot() -> None:
    talk = Talk()
    talk.delta(A, no=True)
    heard = talk.say("subscribe", channels=["ticker"], market_ids=[f"id-{A}"], send_initial_snapshot=True)
    message = heard[1]["msg"]
    assert (message["yes_bid_dollars"], message["yes_ask_dollars"], message["yes_ask_size_fp"]) == ("0.0000", "0.6000", "10.00")


def test_an_in_stream_snapshot_replaces_and_an_empty_side_has_no_key() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    talk.delta(A)
    talk.venue.publish(Snapshot(2, A, b'{"market_ticker":"KXSIM-1-A"}', {}, {}))
    assert numbered(talk.heard()) == [("orderbook_snapshot", 1, 3)]
    assert talk.oracle.books()[A] == ({}, {})
    (heard,) = talk.say("update_subscription", sid=1, action="get_snapshot", market_ticker=A)
    assert set(heard["msg"]) == {"market_ticker", "market_id"}


def test_a_delta_below_zero_never_leaves() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    assert talk.delta(A, change=-1) == []
    assert talk.venue.refused == {"delta below zero": 1}
    assert numbered(talk.delta(A, change=5)) == [("orderbook_delta", 1, 2)]
    assert talk.oracle.books()[A] == ({400_000: 5}, {})
    talk.delta(A, change=-5)
    assert talk.oracle.books()[A] == ({}, {})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", 1),
        (b"[]", 1),
        (b"\xff\xfe", 1),
        (b'{"id":1,"cmd":"subscribe"}', 2),
        (b'{"id":1,"cmd":"subscribe","params":{}}', 3),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":[]}}', 3),
        (b'{"id":1,"cmd":"unsubscribe","params":{}}', 4),
        (b'{"id":1,"cmd":"dance","params":{}}', 5),
        (b'{"id":1}', 5),
        (b'{"id":1,"cmd":"unsubscribe","params":{"sids":[9]}}', 7),
        (b'{"id":1,"cmd":"update_subscription","params":{"sid":9,"action":"add_markets","market_ticker":"x"}}', 7),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["ticker_v2"]}}', 8),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["trade",{}]}}', 8),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["trade"],"market_tickers":"x"}}', 11),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"],"market_ticker":"x","use_yes_price":true}}', 11),
        (b'{"id":1,"cmd":"update_subscription","params":{"action":"add_markets"}}', 12),
        (b'{"id":1,"cmd":"update_subscription","params":{"sids":[1,2],"action":"add_markets"}}', 12),
        (b'{"id":1,"cmd":"update_subscription","params":{"sid":1,"action":"dance","market_ticker":"x"}}', 13),
        (b'{"id":1,"cmd":"update_subscription","params":{"sid":1,"action":"get_snapshot","market_ticker":"KXSIM-1-A"}}', 13),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"]}}', 14),
        (b'{"id":1,"cmd":"update_subscription","params":{"sid":1,"action":"add_markets"}}', 14),
        (b'{"id":1,"cmd":"update_subscription","params":{"sid":1,"market_ticker":"x"}}', 15),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["cfbenchmarks_value"]}}', 24),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["ticker"],"market_tickers":["KXSIM-1-A","KXSIM-1-B","KXSIM-2-T4615.99"]}}', 26),
        (b'{"id":1,"cmd":"subscribe","params":{"channels":["pyth_value"]}}', 28),
    ],
)
def test_what_is_refused_and_with_which_code(message: bytes, code: int) -> None:
    talk = Talk(limit=2)
    talk.say("subscribe", channels=["trade"], market_ticker=A)
    talk.commands.serve(talk.client, message)
    (heard,) = talk.heard()
    assert (heard["type"], heard["msg"]["code"]) == ("error", code)
    assert heard.get("id") == (1 if code != 1 else None)
    assert talk.say("list_subscriptions")[0]["msg"] == [{"channel": "trade", "sid": 1}]


PARAMS = ("channels", "market_ticker", "market_tickers", "market_ids", "sids", "sid", "action", "use_yes_price", "skip_ticker_ack")
SCALARS = st.none() | st.booleans() | st.integers() | st.sampled_from([A, "trade", "orderbook_delta", "add_markets", "get_snapshot", ""])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PARAMS), inner, max_size=3))


@given(
    st.lists(
        st.fixed_dictionaries(
            {"cmd": st.sampled_from(["subscribe", "unsubscribe", "update_subscription", "list_subscriptions"])},
            optional={"id": VALUES, "params": st.dictionaries(st.sampled_from(PARAMS), VALUES)},
        ),
        max_size=5,
    )
)
def test_every_command_is_answered_whatever_it_holds(messages: list[dict[str, Any]]) -> None:
    talk = Talk()
    for message in messages:
        talk.commands.serve(talk.client, msgspec.json.encode(message))
        assert talk.heard()
    seqs = [sub.seq for sub in talk.client.subscriptions.values()]
    talk.delta(A)
    assert all(sub.seq - seq in {0, 1} for sub, seq in zip(talk.client.subscriptions.values(), seqs, strict=True))


def test_get_snapshot_of_a_market_that_is_not_subscribed_is_refused() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    (heard,) = talk.say("update_subscription", sid=1, action="get_snapshot", market_ticker=B)
    assert (heard["msg"]["code"], heard["msg"]["market_tickers"]) == (11, [B])


def test_a_terminal_error_ends_the_subscription() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    talk.venue.terminate(talk.client.subscriptions[1], 25)
    (heard,) = talk.heard()
    assert (heard["type"], heard["sid"], heard["msg"]["code"]) == ("error", 1, 25)
    assert talk.delta(A) == []
    assert numbered(talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A))[1] == ("orderbook_snapshot", 2, 1)


def test_a_dropped_frame_leaves_a_gap_and_a_duplicate_comes_twice() -> None:
    faults = ScriptedFaults([Fault(Fate.drop, "orderbook_delta", after=2), Fault(Fate.duplicate, "orderbook_delta", after=3)])
    talk = Talk(faults)
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    heard = [frame["seq"] for _ in range(4) for frame in talk.delta(A)]
    assert heard == [3, 4, 4, 5]
    assert [(sent.seq, sent.fate) for sent in talk.oracle.sent()[2:]] == [(2, "drop"), (3, "send"), (4, "duplicate"), (5, "send")]
    assert faults.struck == [1, 1]


def test_a_stalled_subscription_is_silent_and_uses_no_numbers() -> None:
    talk = Talk(ScriptedFaults([Fault(Fate.stall, "orderbook_delta", after=3)]))
    talk.say("subscribe", channels=["orderbook_delta", "trade"], market_ticker=A)
    assert len(talk.delta(A)) == 1
    assert talk.delta(A) == talk.delta(A) == []
    talk.venue.publish(Trade(5, A, b"{}", 400_000, 100))
    assert numbered(talk.heard()) == [("trade", 2, 1)]
    assert numbered(talk.say("unsubscribe", sids=[1])) == [("unsubscribed", 1, 3)]
    assert numbered(talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A))[1] == ("orderbook_snapshot", 3, 1)
    assert len(talk.delta(A)) == 1


def test_a_disconnect_cuts_before_the_frame() -> None:
    talk = Talk(ScriptedFaults([Fault(Fate.disconnect, "orderbook_delta", after=2)]))
    talk.say("subscribe", channels=["orderbook_delta"], market_ticker=A)
    assert talk.delta(A) == []
    assert talk.client.cut
    assert talk.delta(A) == []


def test_what_nobody_heard_is_in_the_log_once() -> None:
    talk = Talk()
    talk.venue.publish(Trade(5, A, b'{"trade_id":"x"}', 400_000, 100))
    (sent,) = talk.oracle.sent()
    assert (sent.conn, sent.data) == (0, b'{"type":"trade","msg":{"trade_id":"x"}}')


def test_the_log_in_memory_is_bounded() -> None:
    oracle = Oracle(keep_bytes=1_000)
    venue = Venue(Catalogue(), oracle=oracle)
    for number in range(100):
        venue.publish(Trade(5, A, b'{"trade_id":%d}' % number, 400_000, 100))
    kept = oracle.sent()
    assert sum(len(sent.data) for sent in kept) <= 1_000
    assert len(kept) + oracle.dropped == 100
    assert kept[-1].data.endswith(b'{"trade_id":99}}')


def test_markets_that_settled_long_ago_are_forgotten() -> None:
    talk = Talk()
    talk.say("subscribe", channels=["orderbook_delta"], market_tickers=[A, B])
    talk.venue.publish(Lifecycle(7, A, b"", "settled"))
    for number in range(KEPT_SETTLED):
        ticker = f"KXSIM-9-{number}"
        talk.venue.publish(
            Lifecycle(7, ticker, b"", "created", listing=Market(ticker, "KXSIM-9", "KXSIM", listed_ms=7, open_ms=7, close_ms=8))
        )
        talk.venue.publish(Lifecycle(8, ticker, b"", "settled"))
    assert A not in talk.venue.catalogue.markets
    assert len(talk.venue.books) == len(talk.venue.catalogue.markets) == KEPT_SETTLED + 2
    assert list(talk.client.subscriptions[1].tickers or ()) == [B]
