from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exchanges.kalshi.adapter import KalshiAdapter
from exchanges.kalshi.cents import CENTS_END_NS
from exchanges.kalshi.cold import COLD, ERRORS
from exchanges.kalshi.decode import MAX_NAMES, Decoder
from exchanges.kalshi.numbers import BadFrame, amount, fixed, instant_ns, price, size
from journal.codec import decode as decode_entry
from journal.codec import encode
from journal.entry import Book, Change, Control, Delta, Entry, Lifecycle, Ticker, Trade, Unparsed

NOW = 1_787_838_990_000_000_000  # 2026-08-27
BEFORE = CENTS_END_NS - 1
DELTA = {
    "type": "orderbook_delta",
    "sid": 1,
    "seq": 2,
    "msg": {
        "market_ticker": "KXGOLDH-26AUG2711-T4615.99",
        "market_id": "",
        "price_dollars": "0.0100",
        "delta_fp": "-10.25",
        "side": "yes",
        "ts": "2026-08-27T13:56:23.996443Z",
        "ts_ms": 1787838983996,
    },
}
SNAPSHOT = {
    "type": "orderbook_snapshot",
    "sid": 1,
    "seq": 1,
    "msg": {"market_ticker": "M", "market_id": "", "yes_dollars_fp": [["0.0100", "1410.00"]], "no_dollars_fp": [["0.0200", "2500.50"]]},
}
TRADE = {
    "type": "trade",
    "sid": 2,
    "seq": 46766,
    "msg": {
        "trade_id": "f3da3b8e-d251-64db-7c20-21190b1e1dd7",
        "market_ticker": "M",
        "yes_price_dollars": "0.4000",
        "no_price_dollars": "0.6000",
        "count_fp": "11.69",
        "taker_side": "yes",
        "taker_outcome_side": "yes",
        "taker_book_side": "bid",
        "is_block_trade": True,
        "ts": 1786408243,
        "ts_ms": 1786408243098,
    },
}
TICKER = {
    "type": "ticker",
    "sid": 4,
    "msg": {
        "market_ticker": "M",
        "price_dollars": "0.0000",
        "yes_bid_dollars": "0.0100",
        "yes_ask_dollars": "0.9800",
        "volume_fp": "0.00",
        "yes_bid_size_fp": "1410.00",
        "ts": 1787838990,
        "ts_ms": 1787838990880,
    },
}


def one(frame: Any, recv_ns: int = NOW) -> Any:
    item, _ = Decoder().decode(frame if isinstance(frame, bytes) else json.dumps(frame).encode(), recv_ns)
    return item


def changed(frame: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The frame with fields of its msg set, or removed where the value is `...`."""
    msg = {**frame["msg"], **fields}
    return {**frame, "msg": {name: value for name, value in msg.items() if value is not ...}}


# -- the current form ----------------------------------------------------------------------------------------------------


def test_a_delta() -> None:
    item = one(DELTA)
    assert item.body == Delta((Change(10_000, -1_025, 0, 0),))
    assert (item.symbol, item.venue_ns, item.venue_seq, item.subscription) == ("KXGOLDH-26AUG2711-T4615.99", 1787838983996 * 10**6, 2, 1)
    assert (item.price_exponent, item.size_exponent, item.own) == (-6, -2, False)
    assert one(changed(DELTA, side="no")).body == Delta((Change(990_000, -1_025, 1, 0),))
    assert one(changed(DELTA, ts_ms=...)).venue_ns == 1787838983996443000


def test_a_snapshot_in_the_venues_order_and_empty_sides() -> None:
    assert one(SNAPSHOT).body == Book((Change(10_000, 141_000, 0, 1), Change(980_000, 250_050, 1, 1)))
    assert one(changed(SNAPSHOT, no_dollars_fp=...)).body == Book((Change(10_000, 141_000, 0, 1),))
    assert one(changed(SNAPSHOT, yes_dollars_fp=..., no_dollars_fp=...)).body == Book(())
    assert one({**SNAPSHOT, "id": 7}).body == one(SNAPSHOT).body


def test_a_trade_and_who_took() -> None:
    item = one(TRADE)
    assert item.body == Trade(400_000, 1_169, 1, 1, "f3da3b8e-d251-64db-7c20-21190b1e1dd7")
    assert item.venue_ns == 1786408243098 * 10**6
    said: list[tuple[dict[str, Any], int]] = [
        ({"taker_outcome_side": "no"}, 2),
        ({"taker_outcome_side": ..., "taker_book_side": "ask"}, 2),
        ({"taker_outcome_side": ..., "taker_book_side": ..., "taker_side": "yes"}, 1),
        ({"taker_outcome_side": ..., "taker_book_side": ..., "taker_side": ...}, 0),
    ]
    for fields, aggressor in said:
        assert one(changed(TRADE, **fields)).body.aggressor == aggressor
    assert one(changed(TRADE, is_block_trade=...)).body.block == 2
    assert one(changed(TRADE, is_block_trade=False)).body.block == 0


def test_a_ticker_keeps_what_was_not_sent_apart() -> None:
    item = one(TICKER)
    assert item.body == Ticker(last=0, bid=10_000, ask=980_000, bid_size=141_000, volume=0)
    assert (item.venue_seq, item.subscription, item.venue_ns) == (0, 4, 1787838990880 * 10**6)
    assert one(changed(TICKER, dollar_volume=12, dollar_open_interest=3)).body.dollar_volume == 12


@pytest.mark.parametrize(
    ("msg", "body"),
    [
        (
            {"event_type": "determined", "determination_ts": 1784501722, "result": "no", "settlement_value": "0.0000"},
            Lifecycle("determined", "determined", determined_ns=1784501722 * 10**9, settlement_value=0, result="no"),
        ),
        ({"event_type": "settled", "settled_ts": 1784500206}, Lifecycle("settled", "settled", settled_ns=1784500206 * 10**9)),
        (
            {"event_type": "created", "open_ts": 1, "close_ts": 2, "additional_metadata": {"floor_strike": 83950.62, "a": [1, None]}},
            Lifecycle(
                "created",
                "pending",
                open_ns=10**9,
                close_ns=2 * 10**9,
                detail='{"additional_metadata":{"a":[1,null],"floor_strike":"83950.62"}}',
            ),
        ),
        ({"event_type": "deactivated", "is_deactivated": True}, Lifecycle("deactivated", "paused", detail='{"is_deactivated":true}')),
        ({"event_type": "close_date_updated", "close_ts": 5}, Lifecycle("close_date_updated", "", close_ns=5 * 10**9)),
        ({"event_type": "never_heard_of"}, Lifecycle("never_heard_of")),
    ],
)
def test_lifecycle(msg: dict[str, Any], body: Lifecycle) -> None:
    frame = {"type": "market_lifecycle_v2", "sid": 3, "seq": 9, "msg": {"market_ticker": "M", **msg}}
    item = one(frame)
    assert (item.body, item.symbol, item.subscription, item.venue_seq) == (body, "M", 3, 9)
    assert one({**frame, "type": "multivariate_market_lifecycle"}).body == body


def test_lifecycle_of_events() -> None:
    item = one({"type": "event_lifecycle", "sid": 1, "msg": {"event_ticker": "E", "title": "t"}})
    assert (item.body, item.symbol) == (Lifecycle("event_lifecycle", detail='{"title":"t"}'), "E")
    fee = one({"type": "event_fee_update", "sid": 1, "seq": 4, "msg": {"event_ticker": "E", "fee_multiplier_override": 0.5}})
    assert fee.body == Lifecycle("event_fee_update", detail='{"fee_multiplier_override":"0.5"}')


def test_replies() -> None:
    decoder = Decoder()

    def reply(frame: dict[str, Any]) -> tuple[Any, Any]:
        return decoder.decode(json.dumps(frame).encode(), NOW)

    item, said = reply({"type": "subscribed", "id": 1, "msg": {"channel": "trade", "sid": 5}})
    assert (item.body.action, item.body.channel, item.subscription, said.sid, said.id) == ("subscribed", "trade", 5, 5, 1)
    item, said = reply({"type": "ok", "id": 2, "sid": 1, "seq": 108, "msg": {"market_tickers": ["A", "B"], "market_ids": []}})
    assert (item.body.action, item.venue_seq, said.symbols) == ("ok", 108, ["A", "B"])
    item, said = reply({"type": "ok", "id": 2, "sid": 1, "seq": 109})
    assert said.symbols is None
    item, said = reply({"type": "ok", "id": 4, "msg": [{"channel": "trade", "sid": 5}]})
    assert item.body.action == "ok"
    item, said = reply({"type": "unsubscribed", "id": 3, "sid": 2, "seq": 102})
    assert (item.body.action, item.subscription, item.venue_seq) == ("unsubscribed", 2, 102)
    for code in [*ERRORS, 999]:
        item, said = reply({"type": "error", "id": 3, "sid": 2, "seq": 7, "msg": {"code": code, "msg": "said"}})
        assert (item.body.action, said.code, said.message, item.venue_seq) == ("error", code, "said", 7)
    assert decoder.unparsed == 0


def test_account_and_index_messages_are_kept() -> None:
    kept = [name for name, meaning in COLD.items() if meaning.__name__ == "_kept"]
    assert {"fill", "user_orders", "pyth_value", "cfbenchmarks_value_5hz"} <= set(kept)
    for name in kept:
        item = one({"type": name, "sid": 8, "seq": 1, "msg": {"market_ticker": "M", "source_ts_ms": 17}})
        assert (item.body, item.symbol, item.venue_ns, item.venue_seq) == (Control("data", name), "M", 17_000_000, 1)


# -- the cents era -------------------------------------------------------------------------------------------------------

CENTS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "orderbook_delta", "sid": 1, "seq": 3, "msg": {"market_ticker": "M", "price": 96, "delta": -54, "side": "no"}},
     Delta((Change(40_000, -5_400, 1, 0),))),
    ({"type": "orderbook_snapshot", "sid": 1, "seq": 3, "msg": {"market_ticker": "M", "yes": [[8, 300]], "no": [[54, 20]]}},
     Book((Change(80_000, 30_000, 0, 1), Change(460_000, 2_000, 1, 1)))),
    ({"type": "orderbook_snapshot", "sid": 1, "seq": 3,
      "msg": {"market_ticker": "M", "yes": [[8, 300]], "yes_dollars": [["0.0805", 300]], "no": None}},
     Book((Change(80_500, 30_000, 0, 1),))),
    ({"type": "trade", "sid": 2, "seq": 1, "msg": {"market_ticker": "M", "yes_price": 36, "no_price": 64, "count": 136, "taker_side": "no",
                                                   "ts": 1669149841}},
     Trade(360_000, 13_600, 2, 2, "")),
    ({"type": "trade", "sid": 2, "seq": 1, "msg": {"market_ticker": "M", "no_price": 64, "count": 1}}, Trade(360_000, 100, 0, 2, "")),
    ({"type": "ticker", "sid": 3, "msg": {"market_ticker": "M", "price": 48, "yes_bid": 45, "yes_ask": 53, "volume": 33896,
                                          "open_interest": 20422, "dollar_volume": 16948, "dollar_open_interest": 10211, "ts": 1669149841,
                                          "Clock": 13281241747}},
     Ticker(480_000, 450_000, 530_000, None, None, None, 3_389_600, 2_042_200, 16_948, 10_211)),
    # the transition: both forms at once, the finer one wins
    ({"type": "orderbook_delta", "sid": 1, "seq": 3,
      "msg": {"market_ticker": "M", "price": 37, "price_dollars": "0.3725", "delta": 5, "delta_fp": "5.50", "side": "yes"}},
     Delta((Change(372_500, 550, 0, 0),))),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "body"), CENTS)
@pytest.mark.parametrize("recv_ns", [BEFORE, CENTS_END_NS, NOW])
def test_the_cents_era_on_both_sides_of_its_end(frame: dict[str, Any], body: Any, recv_ns: int) -> None:
    item = one(frame, recv_ns)
    assert item.body == body
    assert item.symbol == "M"


@pytest.mark.parametrize("frame", [DELTA, SNAPSHOT, TRADE, TICKER])
def test_the_current_form_before_the_end_of_cents(frame: dict[str, Any]) -> None:
    assert one(frame, BEFORE) == one(frame, NOW)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "orderbook_delta", "sid": 1, "seq": 3, "msg": {"market_ticker": "M", "price": 101, "delta": 5, "side": "yes"}},
        {"type": "orderbook_delta", "sid": 1, "seq": 3, "msg": {"market_ticker": "M", "price": 1, "side": "yes"}},
        {"type": "orderbook_delta", "sid": 1, "seq": 3, "msg": {"market_ticker": "M", "delta": 1, "side": "yes"}},
        {"type": "orderbook_snapshot", "sid": 1, "seq": 3, "msg": {"market_ticker": "M", "yes": [[8, -300]]}},
        {"type": "trade", "sid": 2, "seq": 3, "msg": {"market_ticker": "M", "yes_price": 5, "count": -1}},
        {"type": "trade", "sid": 2, "seq": 3, "msg": {"market_ticker": "M", "count": 1}},
    ],
)
def test_what_cents_cannot_be(frame: dict[str, Any]) -> None:
    for recv_ns in (BEFORE, NOW):
        item = one(frame, recv_ns)
        assert isinstance(item.body, Unparsed)
        assert (item.symbol, item.venue_seq) == ("M", 3)


# -- what is not understood ----------------------------------------------------------------------------------------------


def test_unknown_fields_are_counted_and_the_rest_is_used() -> None:
    decoder = Decoder()
    frame = json.dumps({**changed(DELTA, new_field=1, other="x"), "extra": 0}).encode()
    for _ in range(3):
        item, _ = decoder.decode(frame, NOW)
        assert item.body == Delta((Change(10_000, -1_025, 0, 0),))
    assert decoder.unknown == {"orderbook_delta.new_field": 3, "orderbook_delta.other": 3, "orderbook_delta.extra": 3}
    assert decoder.fresh == ["orderbook_delta.new_field", "orderbook_delta.other", "orderbook_delta.extra"]
    assert decoder.unparsed == 0


def test_a_renamed_side_does_not_read_as_an_empty_book() -> None:
    for value in ([["0.0100", "1.00"]], [], {"0.0100": "1.00"}):
        item = one(changed(SNAPSHOT, yes_dollars_fp=..., yes_levels=value))
        assert isinstance(item.body, Unparsed)
        assert "yes_levels" in item.body.error
        assert (item.symbol, item.subscription, item.venue_seq) == ("M", 1, 1)
    assert one(changed(SNAPSHOT, ts_ms=5)).body == one(SNAPSHOT).body


def test_unknown_types_and_bounded_names() -> None:
    decoder = Decoder()
    item, _ = decoder.decode(b'{"type":"orderbook_delta_v3","sid":1,"seq":5,"msg":{"market_ticker":"M"}}', NOW)
    assert item.body == Unparsed("unknown message type 'orderbook_delta_v3'")
    assert (item.symbol, item.subscription, item.venue_seq) == ("M", 1, 5)
    for n in range(MAX_NAMES + 10):
        decoder.decode(b'{"type":"t%d"}' % n, NOW)
    assert len(decoder.unknown) == MAX_NAMES + 1
    assert decoder.unknown["…"] == 11


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"type":"trade"', "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "no message type"),
        (b'{"type":1}', "no message type"),
        (b'{"type":"trade","sid":2,"seq":1}', "trade: Object missing required field `msg`"),
        (b'{"type":"subscribed","id":1,"msg":{}}', "channel or sid is missing"),
        (json.dumps(changed(DELTA, price_dollars="0.01000001")).encode(), "more than 6 decimals"),
        (json.dumps(changed(DELTA, delta_fp="1.005")).encode(), "more than 2 decimals"),
        (json.dumps(changed(DELTA, price_dollars="1.01")).encode(), "not between 0 and 1 dollar"),
        (json.dumps(changed(DELTA, price_dollars="1e-2")).encode(), "not a decimal number"),
        (json.dumps(changed(DELTA, price_dollars=1)).encode(), "Expected `str"),
        (json.dumps(changed(DELTA, side="maybe")).encode(), "Invalid enum value"),
        (json.dumps(changed(DELTA, market_ticker="")).encode(), "length >= 1"),
        (json.dumps(changed(DELTA, market_ticker="x" * 201)).encode(), "length <= 200"),
        (json.dumps({**DELTA, "seq": -1}).encode(), ">= 0"),
        (json.dumps({**DELTA, "sid": 2**32}).encode(), "<= "),
        (json.dumps(changed(DELTA, ts_ms=2**63)).encode(), "ts_ms"),
        (b'{"type":"pyth_value","sid":1,"x":' + b"9" * 5_000 + b"}", "not JSON"),
    ],
)
def test_what_does_not_parse(data: bytes, says: str) -> None:
    item = one(data)
    assert isinstance(item.body, Unparsed)
    assert says in item.body.error
    assert len(item.body.error) <= 300


def test_a_number_literal_is_as_exact_as_its_text() -> None:
    assert one(json.dumps(DELTA).replace('"0.0100"', "0.0100").encode()) == one(DELTA)


def test_sid_and_seq_are_found_in_what_does_not_parse() -> None:
    item = one(json.dumps(changed(DELTA, price_dollars="x")).encode())
    assert (item.subscription, item.venue_seq, item.symbol) == (1, 2, "KXGOLDH-26AUG2711-T4615.99")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    [
        *("market_ticker", "price_dollars", "delta_fp", "side", "yes", "no", "yes_dollars_fp", "ts_ms", "count_fp", "yes_price_dollars"),
        *("code", "msg", "sid", "channel", "event_type", "settlement_value", "open_ts", "market_tickers"),
    ]
)
_FRAMES = st.fixed_dictionaries(
    {"type": st.sampled_from([*COLD, "orderbook_delta", "orderbook_snapshot", "trade", "ticker", "other"])},
    optional={"sid": _JSON, "seq": _JSON, "id": _JSON, "msg": _JSON | st.dictionaries(_FIELDS, _JSON, max_size=8)},
)


def check_any(data: bytes) -> None:
    for recv_ns in (BEFORE, NOW):
        for filtered in (False, True):
            adapter = KalshiAdapter(["M"], filtered=filtered)
            output = adapter.frame(data, recv_ns)
            (item,) = [item for item in output.items if not item.own]
            entry = Entry(
                item.body, "kalshi", item.symbol, bytes(16), 0, 1, 1, 1, 20260827, item.venue_ns, item.venue_seq, item.subscription, 0, 1,
                item.price_exponent, item.size_exponent, data,
            )  # fmt: skip
            assert decode_entry(encode(entry)) == entry  # whatever comes back can be journalled


@given(st.binary(max_size=60))
@example(b'{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"\\ud800"}}')
@example(b'{"type":"ok","msg":{"market_tickers":["\\u0000"]}}')
def test_any_bytes_come_back_as_one_item(data: bytes) -> None:
    check_any(data)


@given(_FRAMES)
def test_any_json_comes_back_as_one_item(frame: Any) -> None:
    check_any(json.dumps(frame).encode())


@given(st.sampled_from([DELTA, SNAPSHOT, TRADE, TICKER, *(f for f, _ in CENTS)]), st.data())
def test_damaged_frames_come_back_as_one_item(frame: dict[str, Any], data: st.DataObject) -> None:
    raw = bytearray(json.dumps(frame).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check_any(bytes(raw))


# -- numbers -------------------------------------------------------------------------------------------------------------

_DECIMALS = st.from_regex(r"\A-?[0-9]{1,9}(\.[0-9]{1,9})?\Z")


@given(_DECIMALS, st.integers(0, 8))
@example("-0.10", 2)
@example("0.370000000", 2)
def test_numbers_are_exact_or_refused(text: str, decimals: int) -> None:
    exact = Decimal(text).scaleb(decimals)
    if exact == exact.to_integral_value():
        assert fixed(text, decimals) == int(exact)
    else:
        with pytest.raises(BadFrame, match="more than"):
            fixed(text, decimals)


@given(st.text(max_size=6))
@example("٣")
@example("1_0")
@example("+1")
@example(" 1")
@example("1\n")
@example(".5")
@example("5.")
@example("NaN")
def test_only_decimal_text_is_a_number(text: str) -> None:
    try:
        value = fixed(text, 6)
    except BadFrame:
        return
    assert text.isascii()
    assert not set(text) - set("-.0123456789")
    assert value == int(Decimal(text).scaleb(6))


def test_bounds_of_numbers() -> None:
    assert price("1.000000") == 1_000_000
    assert size("-999999999999999.99") == -(10**17) + 1
    with pytest.raises(BadFrame):
        price("-0.01")
    with pytest.raises(BadFrame):
        amount("9300000000000.00")
    with pytest.raises(BadFrame):
        size("1000000000000000.00")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-08-11T00:30:42.445624Z", 1786408242_445624_000),
        ("2026-08-11T02:30:42+02:00", 1786408242_000000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
    ],
)
def test_instants(text: str, ns: int) -> None:
    assert instant_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "2026-08-11", "2026-13-11T00:00:00Z", "0001-01-01T00:00:00Z", "2026-08-11T00:00:00", "9999-01-01T00:00:00Z"]
)
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(BadFrame):
        instant_ns(text)


def test_the_fast_path_is_the_careful_path() -> None:
    """A frame with one more field takes the careful path and must mean the same."""
    for frame in (DELTA, SNAPSHOT, TRADE, TICKER):
        assert one({**frame, "unlisted": None}) == one(frame)
    assert msgspec.json.encode(one(DELTA).symbol)
