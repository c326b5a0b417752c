"""What a client gets wrong is told with what would do: names, words, ids."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from journal.errors import CallerError
from ssmd.gateway.operating import SetMode
from ssmd.gateway.operation import read_body, read_segment
from ssmd.gateway.problem import Problem
from ssmd.gateway.request import id_of, parse, parse_url
from tests.gateway.rig import Market, client_of, gateway_of, journal_of, messages, next_of, send, write
from tests.journal.servers import nats_server


def test_a_series_named_as_a_symbol_is_told_apart_and_an_unknown_one_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        with nats_server(tmp_path) as server:
            async with journal_of(server) as journal:
                await write(journal, Market(random.Random(1), 4), 200)
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port) as ws:
                    await next_of(ws, "welcome")
                    await send(ws, op="subscribe", id="a", symbols=["KXA"])
                    failed = await next_of(ws, "error")
                    assert (failed["id"], failed["message"]) == ("a", "KXA is a series and no symbol: name it as `series`")
                    await send(ws, op="subscribe", id="b", symbols=["KXA", "KXA-1"])
                    assert (await next_of(ws, "subscribed"))["unknown"] == [{"name": "KXA", "known_as": "series"}]
                    await send(ws, op="snapshot", id="c", symbols=["KXA"])
                    assert (await next_of(ws, "snapshots"))["unknown"] == [{"name": "KXA", "known_as": "series"}]
                    await send(ws, op="subscribe", id="d", series=["KXA", "KXAA"], category="Weather")
                    acked = await next_of(ws, "subscribed")  # its markets may still come
                    assert [(u["name"], u["kind"]) for u in acked["unknown"]] == [("KXAA", "series"), ("Weather", "category")]
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port, "series=KXB&channels=book") as ws:
                    found = await messages(ws)
                    while found[-1]["type"] != "book":
                        found += await messages(ws)
                    assert "unknown" not in next(m for m in found if m["type"] == "subscribed")
                async with gateway_of(server, tmp_path) as gateway, client_of(gateway.port) as ws:
                    await ws.send('{"op":"subscribe","id":"7","channels":["books"],"symbols":["*"]}')
                    assert (await next_of(ws, "error"))["id"] == "7"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"op":"subscribe","channels":["books"]}', "'books' is none of book, bbo, trade, ticker, market, gap, day"),
        (b'{"op":"subscribe","mode":"fast"}', "mode: 'fast' is none of realtime, conflated, latest"),
        (b'{"op":"configure","policy":"x"}', "policy: 'x' is none of drop_oldest, drop_newest, conflate, disconnect"),
        (b'{"op":"sub"}', "known: subscribe, unsubscribe, snapshot, configure, ping"),
        (b'{"op":"subscribe","interval_ms":5}', "interval_ms: Expected `int` >= 10"),
        (b"[]", "Expected `object`, got `array`"),
        (b"hello", "JSON is malformed"),
    ],
)
def test_a_request_that_cannot_be_understood_is_answered_with_what_can(data: bytes, said: str) -> None:
    with pytest.raises(CallerError) as error:
        parse(data)
    assert said in str(error.value)
    assert "a request is for example" in str(error.value)


def test_the_id_of_such_a_request_is_found_if_it_has_one() -> None:
    assert id_of(b'{"op":"subscribe","id":"8","mode":"fast"}') == "8"
    for data in (b"[]", b"{", b"\xff", b'{"id":8}', b'{"id":"' + b"x" * 65 + b'"}', b"[" * 5000):
        assert id_of(data) == ""


def test_words_are_told_in_urls_and_in_rest_too() -> None:
    with pytest.raises(CallerError, match="'fast' is none of realtime, conflated, latest"):
        parse_url("symbols=*&mode=fast")
    with pytest.raises(Problem, match="mode: 'fast' is none of realtime, conflated, latest"):
        read_body(SetMode, b'{"mode":"fast"}')
    with pytest.raises(Problem, match="write it as 2026"):
        read_segment("date", "foo")
