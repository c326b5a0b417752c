"""Conversations: what the venue says, what the adapter journals and answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exchanges.adapter import Adapter, Output
from exchanges.kalshi import adapter as kalshi
from exchanges.kalshi import commands
from exchanges.kalshi.adapter import DISTRUST_NS, KalshiAdapter
from exchanges.kalshi.conversation import CHANNELS, COMMAND_NS, FIRST_SNAPSHOT_NS, MAX_TRIES, RETRY_NS
from exchanges.kalshi.recovery import STEP_NS
from exchanges.kalshi.tracker import BEHIND_IS_RESTART
from journal.entry import Book, Control, Delta, Gap, Lifecycle, Ticker, Trade, Unparsed

T = 1_787_838_990_000_000_000
SECOND = 1_000_000_000


class Talk:
    """One conversation: the adapter, and a venue whose frames are numbered for us."""

    def __init__(self, *symbols: str, channels: tuple[str, ...] = ("orderbook_delta",), **options: Any) -> None:
        self.adapter = KalshiAdapter(symbols, channels, **options)
        self.now = T
        self.seq: dict[int, int] = {}
        self.sent: list[dict[str, Any]] = []
        self.items: list[Any] = []
        self.last = Output()

    def did(self, output: Output) -> Any:
        self.sent += [json.loads(text) for text in output.send]
        self.items += output.items
        self.last = output
        return output

    def says(self, kind: str, msg: Any = None, *, sid: int = 0, seq: int | None = None, number: int = 0) -> Any:
        """The venue sends a frame; with a sid it gets that sid's next number unless `seq` says otherwise (0: none)."""
        frame: dict[str, Any] = {"type": kind}
        if number:
            frame["id"] = number
        if sid:
            frame["sid"] = sid
            if seq is None:
                seq = self.seq.get(sid, 0) + 1
            if seq:
                frame["seq"] = seq
                self.seq[sid] = max(self.seq.get(sid, 0), seq)
        if msg is not None:
            frame["msg"] = msg
        self.now += 1_000
        return self.did(self.adapter.frame(json.dumps(frame).encode(), self.now))

    def delta(self, symbol: str = "A", *, sid: int = 1, seq: int | None = None) -> Any:
        return self.says(
            "orderbook_delta", {"market_ticker": symbol, "price_dollars": "0.5000", "delta_fp": "1.00", "side": "yes"}, sid=sid, seq=seq
        )

    def book(self, symbol: str = "A", *, sid: int = 1, seq: int | None = None, number: int = 0) -> Any:
        return self.says("orderbook_snapshot", {"market_ticker": symbol, "market_id": ""}, sid=sid, seq=seq, number=number)

    def subscribed(self, channel: str = "orderbook_delta", sid: int = 1) -> Any:
        number = next(c["id"] for c in reversed(self.sent) if c["cmd"] == "subscribe" and c["params"]["channels"] == [channel])
        return self.says("subscribed", {"channel": channel, "sid": sid}, number=number)

    def refuses(self, code: int, *, sid: int = 0, number: int | None = None, **more: Any) -> Any:
        number = self.sent[-1]["id"] if number is None else number
        return self.says("error", {"code": code, "msg": "no", **more}, sid=sid, seq=0, number=number)

    def tick(self, later_ns: int = SECOND) -> Any:
        self.now += later_ns
        return self.did(self.adapter.tick(self.now))

    def gap(self, size: int = 1, *, sid: int = 1) -> Any:
        """`size` frames are lost, then comes a delta."""
        self.seq[sid] += size
        return self.delta(sid=sid)

    def commands(self) -> list[tuple[str, ...]]:
        """What was sent since the last call, shortly."""
        short = []
        for command in self.sent:
            params = command["params"]
            what = params.get("action") or command["cmd"]
            short.append((what, *params.get("channels", []), *params.get("market_tickers", []), *map(str, params.get("sids", []))))
        self.sent.clear()
        return short


def live(*symbols: str, **options: Any) -> Talk:
    """A books-only conversation with snapshots received."""
    talk = Talk(*(symbols or ("A",)), **options)
    talk.did(talk.adapter.opened(T))
    talk.subscribed()
    for symbol in symbols or ("A",):
        talk.book(symbol)
    talk.items.clear()
    talk.sent.clear()
    return talk


def bodies(output: Output) -> list[type]:
    return [type(item.body) for item in output.items]


def own(output: Output, kind: type) -> list[Any]:
    return [item for item in output.items if item.own and isinstance(item.body, kind)]


def test_it_is_an_adapter() -> None:
    adapter: Adapter = KalshiAdapter()
    assert adapter.opened(T).send


# -- opening -------------------------------------------------------------------------------------------------------------


def test_opening_subscribes_each_channel_with_its_own_command() -> None:
    talk = Talk("A", "B", channels=CHANNELS)
    talk.did(talk.adapter.opened(T))
    assert talk.sent == [
        {
            "id": 1,
            "cmd": "subscribe",
            "params": {"channels": ["orderbook_delta"], "market_tickers": ["A", "B"], "use_yes_price": False},
        },
        {"id": 2, "cmd": "subscribe", "params": {"channels": ["trade"], "market_tickers": ["A", "B"]}},
        {"id": 3, "cmd": "subscribe", "params": {"channels": ["ticker"], "market_tickers": ["A", "B"], "send_initial_snapshot": True}},
        {"id": 4, "cmd": "subscribe", "params": {"channels": ["market_lifecycle_v2"]}},
    ]
    assert talk.items == []


def test_without_markets_only_the_channel_of_all_markets_is_subscribed() -> None:
    talk = Talk(channels=CHANNELS)
    talk.did(talk.adapter.opened(T))
    assert talk.commands() == [("subscribe", "market_lifecycle_v2")]
    talk.did(talk.adapter.subscribe(["A"], T))
    assert talk.commands() == [("subscribe", "orderbook_delta", "A"), ("subscribe", "trade", "A"), ("subscribe", "ticker", "A")]


def test_acks_are_controls_and_consume_numbers() -> None:
    talk = Talk("A", channels=("orderbook_delta", "trade"))
    talk.did(talk.adapter.opened(T))
    (item,) = talk.subscribed().items
    assert item.body == Control("subscribed", "orderbook_delta", '{"command":"subscribe","id":1,"symbols":["A"]}')
    assert (item.subscription, item.venue_seq, item.own) == (1, 0, False)
    talk.book()
    talk.did(talk.adapter.subscribe(["B"], talk.now))
    assert talk.sent[-1]["params"] == {"action": "add_markets", "market_tickers": ["B"], "sids": [1]}
    output = talk.says("ok", {"market_tickers": ["A", "B"], "market_ids": []}, sid=1, number=3)
    (item,) = output.items
    assert (item.body.action, item.subscription, item.venue_seq) == ("ok", 1, 2)
    assert bodies(talk.delta("B")) == [Delta]  # S2: 3 follows the ack's 2


def test_more_markets_than_a_chunk_are_added_when_the_first_are_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "CHUNK", 2)
    talk = Talk("A", "B", "C", "D", "E")
    talk.did(talk.adapter.opened(T))
    assert talk.commands() == [("subscribe", "orderbook_delta", "A", "B")]
    talk.did(talk.adapter.subscribe(["F"], T))
    assert talk.commands() == []  # the subscribe is on its way: they go with the rest
    talk.sent.append({"id": 1, "cmd": "subscribe", "params": {"channels": ["orderbook_delta"]}})
    talk.subscribed()
    talk.sent.pop(0)
    assert talk.commands() == [("add_markets", "C", "D", "1"), ("add_markets", "E", "F", "1")]


def test_data_may_overtake_the_ack() -> None:
    talk = Talk("A")
    talk.did(talk.adapter.opened(T))
    assert bodies(talk.book(sid=7)) == [Book]
    assert bodies(talk.subscribed(sid=7)) == [Control]
    assert bodies(talk.delta(sid=7)) == [Delta]


def test_markets_that_the_ack_lacks_are_missing() -> None:
    talk = live("A")
    talk.did(talk.adapter.subscribe(["B", "NONE"], talk.now))
    output = talk.says("ok", {"market_tickers": ["A", "B"]}, sid=1, number=talk.sent[-1]["id"])
    assert bodies(output) == [Control, Control]
    assert output.items[1].own
    assert output.items[1].body == Control("missing", "orderbook_delta", '{"symbols":["NONE"],"why":"not in the venue\'s list"}')


def test_a_book_without_a_first_snapshot_is_missing_once() -> None:
    talk = Talk("A", "B")
    talk.did(talk.adapter.opened(T))
    talk.subscribed()
    talk.book("A")
    assert talk.tick(FIRST_SNAPSHOT_NS - SECOND).items == []
    (item,) = talk.tick(SECOND).items
    assert item.body == Control("missing", "orderbook_delta", '{"symbols":["B"],"why":"no snapshot"}')
    assert talk.tick().items == []


def test_all_channels_and_their_bodies() -> None:
    talk = Talk("A", channels=CHANNELS)
    talk.did(talk.adapter.opened(T))
    for sid, channel in enumerate(CHANNELS, 1):
        talk.subscribed(channel, sid)
    trade = {"trade_id": "t", "market_ticker": "A", "yes_price_dollars": "0.5", "count_fp": "1"}
    ticker = {"market_ticker": "A", "price_dollars": "0.5", "yes_bid_dollars": "0.4", "yes_ask_dollars": "0.6"}
    assert bodies(talk.book(sid=1)) == [Book]
    assert bodies(talk.says("trade", trade, sid=2)) == [Trade]
    assert bodies(talk.says("ticker", ticker, sid=3, seq=0)) == [Ticker]
    assert bodies(talk.says("market_lifecycle_v2", {"market_ticker": "A", "event_type": "activated"}, sid=4)) == [Lifecycle]
    assert bodies(talk.says("event_lifecycle", {"event_ticker": "E"}, sid=4)) == [Lifecycle]


# -- what was missed before ----------------------------------------------------------------------------------------------


def test_an_outage_is_a_gap_of_each_channel_until_its_first_sign_of_life() -> None:
    talk = Talk("A", channels=("orderbook_delta", "trade"), since_ns=T - 5 * SECOND)
    talk.did(talk.adapter.opened(T))
    output = talk.subscribed("trade", 2)
    assert bodies(output) == [Gap, Control]
    gap = output.items[0]
    assert gap.own
    assert (gap.body.reason, gap.body.channel, gap.body.from_ns, gap.body.to_ns) == ("not subscribed", "trade", T - 5 * SECOND, talk.now)
    assert gap.subscription == 2
    assert bodies(talk.book(sid=1)) == [Gap, Book]  # before the data that overtook the ack: after it the book would be stale
    assert bodies(talk.subscribed("orderbook_delta", 1)) == [Control]


def test_what_is_still_missing_when_a_connection_ends_early() -> None:
    talk = Talk("A", channels=("orderbook_delta", "trade"), since_ns=T - SECOND)
    talk.did(talk.adapter.opened(T))
    talk.subscribed("orderbook_delta", 1)
    assert talk.adapter.missing_since_ns == T - SECOND
    talk.subscribed("trade", 2)
    assert talk.adapter.missing_since_ns == 0
    talk.refuses(25, sid=2, number=0)
    assert talk.adapter.missing_since_ns == talk.now


def test_markets_beyond_the_first_chunk_were_missed_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "CHUNK", 1)
    talk = Talk("A", "B", channels=("orderbook_delta", "trade"), since_ns=T - SECOND)
    talk.did(talk.adapter.opened(T))
    for sid, channel in enumerate(("orderbook_delta", "trade"), 1):
        output = talk.subscribed(channel, sid)
        assert [(type(i.body).__name__, i.symbol) for i in output.items] == [("Gap", ""), ("Control", "")]
        output = talk.says("ok", {"market_tickers": ["A", "B"]}, sid=sid, number=talk.sent[-1]["id"])
        assert [(type(i.body).__name__, i.symbol) for i in output.items] == [("Control", ""), ("Gap", "B")]


def test_at_the_first_connection_markets_beyond_the_first_chunk_are_missing_from_their_channel_s_first_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "CHUNK", 1)
    talk = Talk("A", "B", channels=CHANNELS)
    talk.did(talk.adapter.opened(T))
    assert bodies(talk.book("A", sid=1)) == [Book]  # overtook the ack
    living = talk.now
    assert own(talk.subscribed("orderbook_delta", 1), Gap) == []
    added = talk.sent[-1]["id"]
    overtaking = talk.book("B", sid=1)
    assert bodies(overtaking) == [Gap, Book]  # after its snapshot a gap would make the book stale again
    assert (overtaking.items[0].symbol, overtaking.items[0].body) == (
        "B", Gap("not subscribed", "orderbook_delta", from_ns=living, to_ns=talk.now),
    )  # fmt: skip
    assert own(talk.says("ok", {"market_tickers": ["A", "B"]}, sid=1, number=added), Gap) == []
    assert own(talk.subscribed("trade", 2), Gap) == []
    acknowledged = talk.now
    assert talk.adapter.late == {"B": acknowledged}  # the connection may end before it is added
    (gap,) = own(talk.says("ok", {"market_tickers": ["A", "B"]}, sid=2, number=talk.sent[-1]["id"]), Gap)
    assert (gap.symbol, gap.body) == ("B", Gap("not subscribed", "trade", from_ns=acknowledged, to_ns=talk.now))
    assert own(talk.subscribed("market_lifecycle_v2", 4), Gap) == []
    assert talk.adapter.late == {}


# -- gaps ----------------------------------------------------------------------------------------------------------------


def test_a_gap_comes_before_its_frame_and_every_book_is_asked_for() -> None:
    talk = live("A", "B")
    before = talk.now
    output = talk.gap(3)
    assert bodies(output) == [Gap, Control, Delta]
    gap, resync, _ = output.items
    assert gap.own
    assert gap.body == Gap("sequence gap", "orderbook_delta", 3, 5, before, talk.now)
    assert (gap.subscription, gap.symbol) == (1, "")
    assert resync.body.action == "resync"
    assert talk.commands() == [("get_snapshot", "A", "1"), ("get_snapshot", "B", "1")]
    assert bodies(talk.book("A", number=2)) == [Book]
    output = talk.book("B", number=3)
    assert bodies(output) == [Book, Control]
    assert output.items[1].body == Control("resynced", "orderbook_delta")
    assert talk.tick(100 * SECOND).reconnect == ""


def test_a_gap_on_another_channel_is_told_and_nothing_can_be_asked() -> None:
    talk = Talk("A", channels=("trade",))
    talk.did(talk.adapter.opened(T))
    talk.subscribed("trade", 2)
    trade = {"trade_id": "t", "market_ticker": "A", "yes_price_dollars": "0.5", "count_fp": "1"}
    talk.says("trade", trade, sid=2)
    talk.sent.clear()
    output = talk.says("trade", trade, sid=2, seq=4)
    assert bodies(output) == [Gap, Trade]
    assert (output.items[0].body.first_missing, output.items[0].body.last_missing, output.items[0].subscription) == (2, 3, 2)
    assert talk.sent == []


def test_a_gap_is_found_by_an_ack_too() -> None:
    talk = live("A")
    talk.did(talk.adapter.subscribe(["B"], talk.now))
    talk.seq[1] += 2
    output = talk.says("ok", {"market_tickers": ["A", "B"]}, sid=1, number=talk.sent[-1]["id"])
    assert bodies(output) == [Gap, Control, Control]
    assert [i.body.action for i in output.items[1:]] == ["resync", "ok"]


def test_a_market_that_was_to_be_heard_before_its_subscription_is_acknowledged_has_a_gap_and_its_neighbours_have_none() -> None:
    talk = live("A")
    opens = {"B": T - SECOND, "C": 0, "D": talk.now + SECOND}
    for symbol, since_ns in opens.items():
        assert own(talk.did(talk.adapter.subscribe([symbol], talk.now, since_ns=since_ns)), Gap) == []
    gaps = []
    for symbol, command in zip(opens, talk.sent[-3:], strict=True):
        gaps += own(talk.says("ok", {"market_tickers": ["A", symbol]}, sid=1, number=command["id"]), Gap)
    assert [(g.symbol, g.body.channel, g.body.from_ns) for g in gaps] == [(s, "orderbook_delta", T - SECOND) for s in "B"]
    assert talk.adapter.late == {}
    talk.did(talk.adapter.subscribe(["F"], talk.now, since_ns=talk.now + 500))  # opens while the command is on its way
    (gap,) = own(talk.says("ok", {"market_tickers": ["A", "F"]}, sid=1, number=talk.sent[-1]["id"]), Gap)
    assert (gap.symbol, gap.body.from_ns, gap.body.to_ns) == ("F", talk.now - 500, talk.now)


def test_what_a_late_market_lacks_is_said_when_its_channel_begins_to_live_or_by_the_next_connection() -> None:
    talk = Talk("A", channels=("orderbook_delta", "trade"))
    talk.did(talk.adapter.opened(T))
    assert own(talk.did(talk.adapter.subscribe(["A", "B"], T, since_ns=T - SECOND)), Gap) == []  # nothing is acknowledged yet
    assert talk.adapter.late == {"A": T - SECOND, "B": T - SECOND}
    books = own(talk.subscribed(), Gap)
    books += own(talk.says("ok", {"market_tickers": ["A", "B"]}, sid=1, number=talk.sent[-1]["id"]), Gap)
    assert [(g.symbol, g.body.channel, g.body.from_ns) for g in books] == [(s, "orderbook_delta", T - SECOND) for s in "AB"]
    trades = own(talk.subscribed("trade", 2), Gap)
    assert [(g.symbol, g.body.channel, g.body.from_ns) for g in trades] == [("A", "trade", T - SECOND)]
    assert talk.adapter.late == {"B": T - SECOND}  # its trades: asked for, not acknowledged; the connection may end here
    added = next(c["id"] for c in reversed(talk.sent) if c["params"].get("action") == "add_markets" and c["params"]["sids"] == [2])
    (last,) = own(talk.says("ok", {"market_tickers": ["A", "B"]}, sid=2, number=added), Gap)
    assert (last.symbol, last.body.channel, talk.adapter.late) == ("B", "trade", {})


@pytest.mark.parametrize(("pace", "patient"), [(1.0, False), (1440.0, True)])
def test_patience_is_of_the_machine_s_time(pace: float, patient: bool) -> None:
    talk = Talk("A", pace=pace)
    talk.did(talk.adapter.opened(T))
    assert bool(talk.tick(60 * SECOND).reconnect) is not patient
    assert talk.tick(int(pace) * 60 * SECOND).reconnect or not patient


def test_the_ladder_to_its_end() -> None:
    talk = live("A", "B")
    talk.gap()
    talk.book("A")
    talk.commands()
    talk.tick(STEP_NS)
    assert talk.commands() == [("delete_markets", "B", "1"), ("add_markets", "B", "1")]
    talk.says("ok", {"market_tickers": ["A"]}, sid=1, number=4)
    talk.tick(STEP_NS - 2 * SECOND)
    assert talk.commands() == []
    talk.says("ok", {"market_tickers": ["A", "B"]}, sid=1, number=5)
    talk.tick(2 * SECOND)
    assert talk.commands() == [("unsubscribe", "1")]
    talk.says("unsubscribed", sid=1, number=6)
    assert talk.commands() == [("subscribe", "orderbook_delta", "A", "B")]
    output = talk.says("subscribed", {"channel": "orderbook_delta", "sid": 9}, number=7)
    assert bodies(output) == [Gap, Control]  # books were not trusted, and nobody watched them meanwhile
    output = talk.tick(STEP_NS)
    assert output.reconnect == "books could not be recovered on this connection"


def test_delete_and_add_may_be_the_cure() -> None:
    talk = live("A")
    talk.gap()
    talk.tick(STEP_NS)
    talk.says("ok", {"market_tickers": []}, sid=1, number=3)
    talk.says("ok", {"market_tickers": ["A"]}, sid=1, number=4)
    output = talk.book("A")
    assert [type(i.body) for i in output.items] == [Book, Control]
    assert output.items[1].body.action == "resynced"
    assert not talk.tick(60 * SECOND).reconnect


def test_a_refused_get_snapshot_takes_the_next_step_at_once() -> None:
    talk = live("A")
    talk.gap()
    talk.refuses(13)
    assert talk.commands()[-2:] == [("delete_markets", "A", "1"), ("add_markets", "A", "1")]


def test_a_repeated_frame_is_kept_but_not_meant_again() -> None:
    talk = live("A")
    talk.delta()
    (item,) = talk.delta(seq=2).items
    assert item.body == Control("duplicate", "orderbook_delta", '{"kind":"delta"}')
    assert (item.symbol, item.venue_seq, item.subscription, item.own) == ("A", 2, 1, False)
    assert bodies(talk.delta()) == [Delta]
    assert talk.sent == []


def test_a_count_that_begins_again_is_a_gap() -> None:
    talk = live("A")
    for _ in range(20):
        talk.delta()
    for seq in range(1, BEHIND_IS_RESTART):
        assert bodies(talk.delta(seq=seq)) == [Control]
    output = talk.delta(seq=BEHIND_IS_RESTART)
    assert bodies(output) == [Gap, Control, Delta]
    assert output.items[0].body.reason == "sequence restarted"
    assert talk.commands() == [("get_snapshot", "A", "1")]


# -- frames that are not understood ----------------------------------------------------------------------------------------


def test_an_unreadable_delta_makes_its_book_wrong_until_a_snapshot() -> None:
    talk = live("A", "B")
    bad = {"market_ticker": "A", "price_dollars": "x", "delta_fp": "1", "side": "yes"}
    output = talk.says("orderbook_delta", bad, sid=1)
    assert bodies(output) == [Gap, Unparsed]
    gap = output.items[0]
    assert (gap.body.reason, gap.symbol, gap.subscription, gap.body.first_missing) == ("frame not understood", "A", 1, 3)
    assert bodies(talk.says("orderbook_delta", bad, sid=1)) == [Unparsed]  # told once
    talk.tick()
    assert talk.commands() == [("get_snapshot", "A", "1")]
    output = talk.book("A")
    assert output.items[-1].body.action == "resynced"
    assert bodies(talk.says("orderbook_delta", bad, sid=1)) == [Gap, Unparsed]
    talk.tick()
    assert talk.commands() == []  # a format we cannot read is not asked for every second
    talk.tick(DISTRUST_NS)
    assert talk.commands() == [("get_snapshot", "A", "1")]


def test_an_unknown_type_on_the_book_sid_makes_every_book_wrong() -> None:
    talk = live("A", "B")
    output = talk.says("orderbook_delta_v2", {"x": 1}, sid=1)
    assert bodies(output) == [Control, Gap, Unparsed]
    assert output.items[0].body == Control("unknown", "orderbook_delta_v2", '{"name":"orderbook_delta_v2"}')
    assert (output.items[1].symbol, output.items[1].subscription) == ("", 1)
    talk.tick()
    assert talk.commands() == [("get_snapshot", "A", "1"), ("get_snapshot", "B", "1")]


def test_an_unknown_field_is_named_once() -> None:
    talk = live("A")
    msg = {"market_ticker": "A", "price_dollars": "0.5", "delta_fp": "1", "side": "yes", "new": 1}
    assert bodies(talk.says("orderbook_delta", msg, sid=1)) == [Control, Delta]
    assert bodies(talk.says("orderbook_delta", msg, sid=1)) == [Delta]
    assert talk.adapter.decoder.unknown == {"orderbook_delta.new": 2}


# -- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [10, 25])
def test_a_subscription_that_the_venue_ends_is_made_anew(code: int) -> None:
    talk = live("A")
    ended = talk.now
    output = talk.refuses(code, sid=1, number=0)
    kinds = [(i.body.reason if isinstance(i.body, Gap) else i.body.action) for i in output.items]
    assert kinds == ["subscription ended by the venue", "error", "resync"]
    assert talk.commands() == [("unsubscribe", "1")]
    talk.refuses(7, number=2)  # it is gone already
    assert talk.commands() == [("subscribe", "orderbook_delta", "A")]
    output = talk.says("subscribed", {"channel": "orderbook_delta", "sid": 2}, number=3)
    assert bodies(output) == [Gap, Control]
    assert output.items[0].body.from_ns > ended
    assert output.items[0].subscription == 2
    assert talk.book(sid=2).items[-1].body.action == "resynced"


def test_an_ended_trade_subscription_is_made_anew_and_its_gap_told() -> None:
    talk = Talk("A", channels=("trade",))
    talk.did(talk.adapter.opened(T))
    talk.subscribed("trade", 2)
    talk.commands()
    assert bodies(talk.refuses(25, sid=2, number=0)) == [Gap, Control]
    assert talk.commands() == [("unsubscribe", "2")]
    talk.says("unsubscribed", sid=2, number=2)
    assert talk.commands() == [("subscribe", "trade", "A")]
    output = talk.says("subscribed", {"channel": "trade", "sid": 5}, number=3)
    assert bodies(output) == [Gap, Control]


def test_a_subscription_that_is_ended_again_and_again_reconnects() -> None:
    talk = live("A")
    for _ in range(MAX_TRIES):
        assert talk.refuses(25, sid=1, number=0).reconnect == ""
        talk.commands()
    assert "was ended 6 times" in talk.refuses(25, sid=1, number=0).reconnect


@pytest.mark.parametrize("code", [1, 18, 27])
def test_what_is_refused_for_now_is_said_again(code: int) -> None:
    talk = Talk("A")
    talk.did(talk.adapter.opened(T))
    for tries in range(1, MAX_TRIES):
        assert talk.refuses(code).reconnect == ""
        talk.sent.clear()
        talk.tick(RETRY_NS * tries - 1)
        assert talk.sent == []
        talk.tick(1)
        assert [c["cmd"] for c in talk.sent] == ["subscribe"]
    assert f"code {code}" in talk.refuses(code).reconnect


@pytest.mark.parametrize("code", [2, 3, 9, 11])
def test_what_cannot_be_said_otherwise_ends_the_run(code: int) -> None:
    talk = Talk("A")
    talk.did(talk.adapter.opened(T))
    output = talk.refuses(code)
    assert f"code {code}" in output.error
    assert bodies(output) == [Control]


def test_an_unknown_channel_is_missing_and_the_rest_goes_on() -> None:
    talk = Talk("A", channels=("orderbook_delta", "ticker_v2"))
    talk.did(talk.adapter.opened(T))
    output = talk.refuses(8)
    assert output.error == output.reconnect == ""
    assert [i.body.action for i in output.items] == ["error", "missing"]
    assert bodies(talk.subscribed()) == [Control]


def test_a_full_subscription_is_filled_by_halves() -> None:
    talk = live("A")
    talk.did(talk.adapter.subscribe(["B", "C", "D"], talk.now))
    talk.refuses(26)
    assert talk.commands() == [("add_markets", "B", "C", "D", "1"), ("add_markets", "B", "1"), ("add_markets", "C", "D", "1")]
    talk.says("ok", {"market_tickers": ["A", "B"]}, sid=1, number=3)
    talk.refuses(26, number=4)
    assert talk.commands() == [("add_markets", "C", "1"), ("add_markets", "D", "1")]
    output = talk.refuses(26, number=5)
    assert output.items[-1].body == Control("missing", "orderbook_delta", '{"symbols":["C"],"why":"code 26: no"}')
    output = talk.refuses(26, number=6)
    assert output.items[-1].body.action == "missing"
    assert talk.commands() == []


def test_a_first_chunk_that_is_too_large_is_halved() -> None:
    talk = Talk("A", "B", "C")
    talk.did(talk.adapter.opened(T))
    talk.refuses(26)
    assert talk.commands() == [("subscribe", "orderbook_delta", "A", "B", "C"), ("subscribe", "orderbook_delta", "A")]
    talk.says("subscribed", {"channel": "orderbook_delta", "sid": 1}, number=2)
    assert talk.commands() == [("add_markets", "B", "C", "1")]


def test_a_command_without_an_answer_reconnects() -> None:
    talk = Talk("A")
    talk.did(talk.adapter.opened(T))
    assert talk.tick(COMMAND_NS - 1).reconnect == ""
    assert talk.tick(1).reconnect == "no answer to subscribe orderbook_delta in 10 s"


def test_every_error_code_is_survived() -> None:
    for code in range(30):
        for number in (0, 1, 99):
            for sid in (0, 1, 5):
                talk = Talk("A")
                talk.did(talk.adapter.opened(T))
                output = talk.refuses(code, sid=sid, number=number)
                assert next(i for i in output.items if not i.own).body.action == "error"
                talk.tick()


# -- dropping markets ------------------------------------------------------------------------------------------------------


def test_dropping_a_market_makes_its_book_nobodys() -> None:
    talk = live("A", "B")
    output = talk.did(talk.adapter.unsubscribe(["B", "never"], talk.now))
    assert [(i.body.reason, i.symbol, i.subscription) for i in output.items] == [("unsubscribed", "B", 1)]
    assert talk.commands() == [("delete_markets", "B", "1")]
    output = talk.did(talk.adapter.unsubscribe(["A"], talk.now))
    assert talk.commands() == [("unsubscribe", "1")]
    talk.says("unsubscribed", sid=1, number=3)
    assert talk.commands() == []  # nothing is wanted any more
    talk.did(talk.adapter.subscribe(["C"], talk.now))
    assert talk.commands() == [("subscribe", "orderbook_delta", "C")]


# -- recordings ------------------------------------------------------------------------------------------------------------


def test_a_recording_is_read_without_a_word() -> None:
    talk = Talk("A", filtered=True)
    assert talk.did(talk.adapter.opened(T)) == Output([], [])
    assert bodies(talk.book(sid=1, seq=539251)) == [Book]
    assert bodies(talk.delta(sid=1, seq=539255)) == [Delta]
    assert bodies(talk.says("ok", {"market_tickers": ["A"]}, sid=1, seq=539260, number=4)) == [Control]
    assert bodies(talk.says("error", {"code": 25, "msg": ""}, sid=1, seq=0)) == [Control]
    assert talk.tick(10**12) == Output([], [])
    assert talk.did(talk.adapter.subscribe(["B"], T)).send == []
    assert talk.sent == []


def test_a_recording_whose_numbers_go_back_had_reconnected() -> None:
    talk = Talk("A", filtered=True)
    talk.book(sid=1, seq=2_423_500)
    talk.delta(sid=1, seq=2_423_548)
    output = talk.book(sid=1, seq=22)
    assert bodies(output) == [Gap, Book]
    gap = output.items[0]
    assert (gap.body.reason, gap.subscription, gap.symbol, gap.own) == ("recording restarted", 1, "", True)
    assert gap.body.from_ns < gap.body.to_ns == talk.now


def test_module_says_what_its_entries_are() -> None:
    for action in ("duplicate", "missing", "resync", "resynced", "unknown"):
        assert action in (kalshi.__doc__ or "")
