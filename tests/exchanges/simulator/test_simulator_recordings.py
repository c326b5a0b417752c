"""Recordings as a feed: order, times, markets, and what is wrong with a file."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exchanges.simulator.commands import Commands
from exchanges.simulator.feed import Delta, Happening, Lifecycle, Snapshot, Ticker, Trade
from exchanges.simulator.market import Market
from exchanges.simulator.oracle import Oracle
from exchanges.simulator.recording import RecordingFeed
from exchanges.simulator.venue import Venue
from journal.errors import CallerError
from tests import gold
from tests.recordings import gold_files

A, B = "KXSIM15M-26AUG101815-15", "KXSIM15M-26AUG101830-30"
T0 = 1_785_901_540_000  # 2026-08-05T03:45:40Z
START = T0 + 3_600_123


def line(recv_ms: int, kind: str, **msg: Any) -> bytes:
    return json.dumps({"recv_ms": recv_ms, "event": {"type": kind, "sid": 7, "seq": 1, "msg": msg}}).encode() + b"\n"


def snapshot(recv_ms: int, ticker: str = A, **sides: Any) -> bytes:
    return line(recv_ms, "orderbook_snapshot", market_ticker=ticker, market_id="id", **sides)


def delta(recv_ms: int, ticker: str = A, price: str = "0.4100", change: str = "1.50", side: str = "yes") -> bytes:
    return line(
        recv_ms, "orderbook_delta", market_ticker=ticker, price_dollars=price, delta_fp=change, side=side,
        ts="2026-08-05T03:45:40.722003Z", ts_ms=1_785_901_540_722,
    )  # fmt: skip


def written(path: Path, *lines: bytes) -> Path:
    data = b"".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def played(*paths: Path, keep_times: bool = False) -> tuple[RecordingFeed, Venue, list[Happening]]:
    feed = RecordingFeed(paths, keep_times=keep_times)
    venue = Venue(feed.catalogue(START), feed.books(), Oracle(keep_bytes=1_000_000))
    happenings = list(feed.play())
    for happening in happenings:
        venue.publish(happening)
    return feed, venue, happenings


def test_files_merge_by_receive_time_then_file_then_line(tmp_path: Path) -> None:
    written(tmp_path / "a.ndjson", delta(T0 + 5, change="1.00"), delta(T0 + 7, change="2.00"), delta(T0 + 7, change="3.00"))
    written(tmp_path / "b.ndjson.gz", delta(T0 + 4, change="4.00"), delta(T0 + 7, change="5.00"), delta(T0 + 3, change="6.00"))
    _, _, happenings = played(tmp_path)
    assert [happening.change // 100 for happening in happenings if isinstance(happening, Delta)] == [4, 1, 2, 3, 5, 6]
    times = [happening.at_ms for happening in happenings]
    assert times == sorted(times)
    assert times[0] == START  # the first frame is now
    assert times[-1] == START + 3


def test_every_venue_time_moves_by_the_same_constant(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.ndjson",
        snapshot(T0),
        delta(T0 + 800),
        line(T0 + 900, "trade", market_ticker=A, yes_price_dollars="0.4100", count_fp="1.00", ts=1_785_901_540, ts_ms=1_785_901_540_722),
        line(T0 + 900, "ticker", market_ticker=A, ts=1_785_901_540, ts_ms=1_785_901_540_722, time="2026-08-05T03:45:40.7Z"),
        line(T0 + 900, "market_lifecycle_v2", market_ticker=A, event_type="close_date_updated", close_ts=1_785_902_000),
    )
    shift = START - T0
    _, venue, happenings = played(path)
    bodies = [msgspec.json.decode(happening.body) for happening in happenings]
    assert bodies[1]["ts_ms"] == bodies[2]["ts_ms"] == bodies[3]["ts_ms"] == 1_785_901_540_722 + shift
    assert bodies[1]["ts"] == "2026-08-05T04:45:40.845003Z"
    assert bodies[2]["ts"] == (1_785_901_540_722 + shift) // 1000
    assert bodies[3]["time"] == "2026-08-05T04:45:40.823Z"
    assert bodies[4]["close_ts"] == (1_785_902_000_000 + shift) // 1000
    assert venue.catalogue.markets[A].close_ms == bodies[4]["close_ts"] * 1000
    _, _, kept = played(path, keep_times=True)
    recorded = [json.loads(text)["event"]["msg"] for text in path.read_bytes().splitlines()]
    assert [msgspec.json.decode(happening.body) for happening in kept] == recorded
    assert kept[0].at_ms == T0
    assert [type(happening) for happening in kept] == [Snapshot, Delta, Trade, Ticker, Lifecycle]


def test_a_recorded_snapshot_replaces_and_goes_out_in_the_stream(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.ndjson",
        snapshot(T0, yes_dollars_fp=[["0.4000", "12.61"]]),
        delta(T0 + 1),
        snapshot(T0 + 2, no_dollars_fp=[["0.0100", "3.00"], ["0.5000", "4.00"]]),
    )
    feed = RecordingFeed([path])
    venue = Venue(feed.catalogue(START), feed.books(), Oracle())
    client = venue.connect()
    Commands(venue).serve(
        client, msgspec.json.encode({"id": 1, "cmd": "subscribe", "params": {"channels": ["orderbook_delta"], "market_ticker": A}})
    )
    for happening in feed.play():
        venue.publish(happening)
    frames = [json.loads(frame) for frame in client.out]
    assert [(frame["type"], frame.get("seq")) for frame in frames[1:]] == [
        ("orderbook_snapshot", 1),  # of the subscription: nothing is known yet
        ("orderbook_snapshot", 2),
        ("orderbook_delta", 3),
        ("orderbook_snapshot", 4),
    ]
    assert venue.oracle.books() == {A: ({}, {10_000: 300, 500_000: 400})}


def test_deltas_before_the_first_snapshot_are_left_out_and_counted(tmp_path: Path) -> None:
    _, venue, _ = played(written(tmp_path / "a.ndjson", delta(T0), snapshot(T0 + 1), delta(T0 + 2)))
    assert venue.refused == {"delta before the market's first snapshot": 1}
    assert venue.oracle.books() == {A: ({410_000: 150}, {})}


def test_markets_are_inferred_from_the_frames(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ndjson", snapshot(T0), delta(T0 + 100), delta(T0 + 200, B), snapshot(T0 + 900))
    _, venue, _ = played(path)
    ended, open_ended = venue.catalogue.markets[A], venue.catalogue.markets[B]
    assert (ended.open_ms, ended.close_ms, ended.market_id) == (START, START + 900, "id")
    assert open_ended.close_ms > START + 3_600_000
    assert (ended.event_ticker, ended.series_ticker) == ("KXSIM15M-26AUG101815", "KXSIM15M")


def event(ticker: str) -> bytes:
    market = {
        "ticker": ticker, "event_ticker": ticker.rpartition("-")[0], "created_time": "2026-08-04T00:01:12.518832Z",
        "open_time": "2026-08-05T03:45:00Z", "close_time": "2026-08-05T04:00:00Z", "expected_expiration_time": "2026-08-05T04:05:00Z",
        "status": "finalized", "result": "no", "settlement_ts": "2026-08-05T04:00:04.828502Z", "settlement_value_dollars": "0.0000",
        "floor_strike": 4128.56, "expiration_value": "4128.40", "last_price_dollars": "0.2800",
    }  # fmt: skip
    answer = {
        "event": {"event_ticker": market["event_ticker"], "series_ticker": "KXSIM15M", "strike_date": "2026-08-05T04:00:00Z"},
        "markets": [market],
    }
    return json.dumps({"fetched_at_ms": 1, "response": answer}).encode()


def test_metadata_lists_the_market_without_telling_its_future(tmp_path: Path) -> None:
    close_ms = T0 - 40_000 + 900_000
    path = written(tmp_path / "events" / A / "day.ndjson.gz", snapshot(T0), delta(T0 + 1), snapshot(close_ms + 20))
    written(tmp_path / "metadata" / "one.json", event(A))
    written(tmp_path / "metadata" / "unplayed.json", event(B))
    feed = RecordingFeed([path])
    venue = Venue(feed.catalogue(START))
    shift = START - T0
    market = venue.catalogue.markets[A]
    assert list(venue.catalogue.markets) == [A]
    assert (market.open_ms, market.close_ms) == (T0 - 40_000 + shift, close_ms + shift)

    def record(market: Market) -> dict[str, Any]:
        return market.record(venue.books[A], venue.now_ms)

    statuses = []
    for happening in feed.play():
        venue.publish(happening)
        shown = record(market)
        statuses.append(shown["status"])
        if shown["status"] in {"active", "closed"}:
            assert (shown["result"], shown["expiration_value"]) == ("", "")
            assert "settlement_value_dollars" not in shown
    assert statuses == ["active", "active", "closed", "determined", "finalized"]
    assert (shown["result"], shown["settlement_value_dollars"], shown["expiration_value"]) == ("no", "0.0000", "4128.40")
    assert shown["floor_strike"] == 4128.56
    assert shown["expected_expiration_time"] == "2026-08-05T05:05:00.123Z"


def test_lines_of_other_types_are_counted(tmp_path: Path) -> None:
    feed, _, happenings = played(written(tmp_path / "a.ndjson", line(T0, "subscribed"), snapshot(T0), line(T0, "fill", market_ticker=A)))
    assert feed.skipped == {"type subscribed": 1, "type fill": 1}
    assert len(happenings) == 1


def corrupt(path: Path) -> str:
    with pytest.raises(CallerError) as error:
        played(path)
    return str(error.value)


MANY = [snapshot(T0), *(delta(T0 + n, change=f"{n}.07") for n in range(1, 3_000))]


def test_a_truncated_gzip_names_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ndjson.gz", *MANY)
    path.write_bytes(path.read_bytes()[:-2_000])
    said = corrupt(path)
    number = int(said.removeprefix(f"{path}:").partition(":")[0])
    assert 500 < number < 3_000
    assert "truncated" in said


def test_a_corrupt_gzip_names_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ndjson.gz", *MANY)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert str(path) in corrupt(path)
    path.write_bytes(b"not gzip at all\n")
    assert f"{path}:1: the gzip stream is corrupt" in corrupt(path)


@pytest.mark.parametrize(
    "bad",
    [
        b"{}\n",
        b"[1]\n",
        b'{"recv_ms":1,"event":{"type":"orderbook_delta","msg":{}}}\n',
        delta(T0, price="0.41000001"),
        delta(T0, change="x"),
        delta(T0, side="maybe"),
        snapshot(T0, yes_dollars_fp=[["0.4", "-1.00"]]),
        b"\xff\xfe\n",
        delta(T0)[:-20],
    ],
)
def test_a_bad_line_names_file_and_line(tmp_path: Path, bad: bytes) -> None:
    assert corrupt(written(tmp_path / "a.ndjson", *MANY[:700], bad)).startswith(f"{tmp_path / 'a.ndjson'}:701: ")


def test_what_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in corrupt(tmp_path / "nowhere")
    assert "holds no recording" in corrupt(tmp_path)
    assert "is empty" in corrupt(written(tmp_path / "a.ndjson"))
    written(tmp_path / "b.ndjson", snapshot(T0))
    written(tmp_path / "metadata" / "bad.json", b"{")
    assert "bad.json: not an answer of GET /events" in corrupt(tmp_path / "b.ndjson")


def hundredths(ladder: dict[Decimal, Decimal]) -> dict[int, int]:
    return {int(price * 1_000_000): int(count * 100) for price, count in ladder.items()}


@pytest.mark.data
def test_gold_what_was_sent_folds_to_the_true_books_and_to_an_independent_fold_of_the_files() -> None:
    files = gold_files()
    feed = RecordingFeed(files)
    venue = Venue(feed.catalogue(START), feed.books(), Oracle())
    assert len(venue.catalogue.markets) == 31
    client = venue.connect()
    params = {"channels": ["orderbook_delta", "trade"], "market_tickers": list(venue.catalogue.markets)}
    Commands(venue).serve(client, msgspec.json.encode({"id": 1, "cmd": "subscribe", "params": params}))
    assert len(client.out) == 2 + 31
    client.out.clear()
    seqs = {1: 31, 2: 0}
    recorded = gold.Books()
    source = gold.merged(files)
    heard = 0
    for number, happening in enumerate(feed.play()):
        venue.publish(happening)
        if not isinstance(happening, Delta | Snapshot | Trade):
            continue
        heard += 1
        (data,) = client.out
        client.out.clear()
        frame = msgspec.json.decode(data)
        seqs[frame["sid"]] += 1
        assert frame["seq"] == seqs[frame["sid"]]
        _, event = next(source)
        # frame by frame what was sent is what was recorded, times aside: so both fold to the same
        sent, told = frame["msg"], event["msg"]
        for moved in ("ts", "ts_ms"):
            assert (moved in sent) == (moved in told)
            sent[moved] = told.get(moved)
        told |= {"ts": told.get("ts"), "ts_ms": told.get("ts_ms")}
        assert (frame["type"], sent) == (event["type"], told)
        recorded.apply(event)
        if number % 100_000 == 0 or isinstance(happening, Snapshot):
            yes, no = venue.oracle.books()[happening.ticker]
            ladders = recorded.ladders[happening.ticker]
            assert (hundredths(ladders["yes"]), hundredths(ladders["no"])) == (yes, no)
    assert next(source, None) is None
    assert heard == 1_408_687
    for ticker, (yes, no) in venue.oracle.books().items():
        assert (hundredths(recorded.ladders[ticker]["yes"]), hundredths(recorded.ladders[ticker]["no"])) == (yes, no)
    assert not venue.refused
    assert not feed.skipped
    assert {market.status(venue.now_ms) for market in venue.catalogue.markets.values()} == {"finalized"}
