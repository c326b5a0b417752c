"""Clients that others' generators make of the descriptions that are served, against the gateway that serves them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.served import DOTTED, GOLD, HIDDEN, SLASHED, Served, gateway, seeded
from tests.tools import environment

_REST = """
import json, sys
from rest import Client
from rest.api.default import list_candles, list_markets, list_trades, show_book, show_coverage, show_day, show_health, show_market
from rest.models import Definition, ProblemDocument

url, symbol, at, odd = sys.argv[1:]
with Client(base_url=url) as client:
    market = show_market.sync(symbol, client=client)
    assert isinstance(market.definition, Definition), market
    book = show_book.sync(symbol, client=client, depth=1, as_of=at)
    missing = show_market.sync_detailed("NO-SUCH", client=client)
    assert isinstance(missing.parsed, ProblemDocument)
    pages, cursor = [], None
    while True:
        page = list_markets.sync(client=client, limit=1, **({"cursor": cursor} if cursor else {}))
        pages += [line.symbol for line in page.markets]
        cursor = page.next_
        if not cursor:
            break
    print(json.dumps({
        "definition": [market.definition.title, market.definition.status, market.definition.price_ranges],
        "book": [book.position, book.bids, book.asks],
        "missing": [missing.status_code, missing.parsed.type_],
        "pages": pages,
        "searched": [line.symbol for line in list_markets.sync(client=client, q="kxsil").markets],
        "odd": show_market.sync(odd, client=client).symbol,
        "trades": [trade.price for trade in list_trades.sync(symbol, client=client).trades],
        "candles": len(list_candles.sync(symbol, client=client, interval="1m").candles),
        "day": show_day.sync("today", client=client).day.state,
        "ready": show_health.sync(client=client).ready,
        "channels": len(show_coverage.sync(client=client).channels),
    }))
"""
_STREAM = """
import json, sys
from stream import Model

said = []
for line in sys.stdin:
    frame = Model.model_validate_json(line)
    for message in frame.root:
        kept = json.loads(message.model_dump_json(exclude_unset=True))
        said.append([type(message).__name__, kept])
print(json.dumps(said))
"""
_PARSE = """
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";
const { document, diagnostics } = await new Parser().parse(readFileSync("asyncapi.json", "utf8"));
console.log(JSON.stringify({
  version: document?.version(), operations: document?.operations().all().map((operation) => operation.id()), diagnostics,
}));
"""
_LOCKED = Path(__file__).resolve().parents[1] / "servers" / "asyncapi"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("clients"))
    with gateway(data, told) as found:
        yield found


def run(folder: Path, *argv: str | Path, text: str | None = None) -> str:
    tools = environment("clients")
    environ = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run([tools / argv[0], *argv[1:]], env=environ, cwd=folder, capture_output=True, text=True, input=text, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_client_of_rest(served: Served, tmp_path: Path) -> None:
    """openapi-python-client: without a warning, and every answer is what its types say."""
    (tmp_path / "openapi.json").write_text(json.dumps(served.good("/openapi.json")))
    run(
        tmp_path, "openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none", "--output-path", "rest",
        "--fail-on-warning",
    )  # fmt: skip
    at = str(served.told.times["closed"] - 1)
    found = json.loads(run(tmp_path, "python", "-c", _REST, f"http://127.0.0.1:{served.port}", GOLD, at, SLASHED))
    definition = served.good(f"/v1/markets/{GOLD}")["definition"]
    book = served.good(f"/v1/markets/{GOLD}/book?depth=1&as_of={at}")
    assert found["definition"] == [definition["title"], "active", definition["price_ranges"]]
    assert found["book"] == [book["position"], book["bids"], book["asks"]]
    assert book["bids"]
    assert found["missing"] == [404, "urn:ssmd:problem:not-found"]
    assert found["pages"] == [SLASHED, GOLD, DOTTED, HIDDEN]
    assert found["searched"] == [HIDDEN]
    assert found["odd"] == SLASHED
    assert found["trades"]
    assert found["candles"]
    assert found["ready"] is True
    assert found["channels"]


def test_types_of_the_stream(served: Served, tmp_path: Path) -> None:
    """datamodel-code-generator: real frames become the types that their `type` names, and nothing of them is lost."""
    schemas = served.good("/asyncapi.json")["components"]["schemas"]
    text = json.dumps({"$defs": schemas, **schemas["Frame"], "title": "Model"}).replace("#/components/schemas/", "#/$defs/")
    (tmp_path / "frame.json").write_text(text)
    run(
        tmp_path, "datamodel-codegen", "--input", "frame.json", "--input-file-type", "jsonschema", "--output", "stream.py",
        "--output-model-type", "pydantic_v2.BaseModel", "--enum-field-as-literal", "all", "--target-python-version", "3.11",
    )  # fmt: skip
    frames: list[str] = []

    async def listen() -> None:
        url = f"ws://127.0.0.1:{served.port}/v1/stream?symbols=*&channels=book,bbo,trade,ticker,market,gap,day"
        async with connect(url) as ws:
            await ws.send('{"op": "dance"}')
            await ws.send(json.dumps({"op": "snapshot", "symbols": [GOLD]}))
            await asyncio.sleep(0.5)
            await ws.send('{"op": "ping"}')
            while not frames or '"pong"' not in frames[-1]:
                frame = await asyncio.wait_for(ws.recv(), 30)
                assert isinstance(frame, str)
                frames.append(frame)

    asyncio.run(listen())
    said: list[tuple[str, Any]] = json.loads(run(tmp_path, "python", "-c", _STREAM, text="\n".join(frames)))
    assert [kept for _, kept in said] == [message for frame in frames for message in json.loads(frame)]
    kinds = {kept["type"]: name for name, kept in said}
    named = {"welcome": "Welcome", "subscribed": "Subscribed", "book": "BookData", "bbo": "BboData", "error": "Failed", "pong": "Pong"}
    assert kinds.items() >= named.items()


@pytest.mark.npm
def test_the_parser_of_asyncapi_itself_finds_nothing_wrong(served: Served, tmp_path: Path) -> None:
    """@asyncapi/parser; that there is a newer version of AsyncAPI than the 3.0 asked for is no fault."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_LOCKED / name, tmp_path / name)
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-fund", "--no-audit", "--engine-strict=false", "--loglevel=error"],
        cwd=tmp_path, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (tmp_path / "asyncapi.json").write_text(json.dumps(served.good("/asyncapi.json")))
    done = subprocess.run(["node", "--input-type=module", "-e", _PARSE], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["version"] == "3.0.0"
    assert found["operations"] == ["receiveFrames", "sendRequests"]
    assert {d["code"] for d in found["diagnostics"]} <= {"asyncapi-latest-version"}, found
