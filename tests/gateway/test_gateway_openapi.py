"""The descriptions that are served, held against the gateway that serves them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema_rs import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks
from websockets.asyncio.client import connect

from ssmd.gateway import asyncapi, message, openapi, request
from ssmd.gateway.routes import OPERATIONS
from tests.gateway.served import GOLD, Served, command, environ, gateway, seeded

EXAMPLES = 12  # of each operation; each is a request to a real process
DOCUMENT = json.loads(json.dumps(openapi.describe(OPERATIONS)))
NAMES = sorted((path, method) for path, methods in DOCUMENT["paths"].items() for method in methods)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data, told = seeded(tmp_path_factory.mktemp("openapi"))
    directory = data / "project"
    (directory / "exchanges" / "environments").mkdir(parents=True)
    (directory / "exchanges" / "feeds").mkdir()
    (directory / "exchanges" / "schemas").mkdir()
    limits = "gateway:\n  require_key: true\n  limits: {requests: 10000, burst: 10000}\n"
    (directory / "exchanges" / "environments" / "local.yaml").write_text(f"name: local\nfeed: kalshi\n{limits}")
    made = subprocess.run(
        command("gateway", "key", "create", "all", "--scope", "admin"), env=environ(data), capture_output=True, check=True
    )
    with gateway(data, told, directory=directory) as found:
        found.key = json.loads(made.stdout)["key"]
        yield found
        assert "Traceback" not in found.log


def test_what_is_served_is_what_was_made_from_the_code(served: Served) -> None:
    assert served.good("/openapi.json") == DOCUMENT
    assert served.good("/asyncapi.json") == json.loads(json.dumps(asyncapi.describe()))


def test_every_reference_leads_somewhere() -> None:
    for document in (DOCUMENT, json.loads(json.dumps(asyncapi.describe()))):
        for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
            place: Any = document
            for part in reference.split("/"):
                place = place[part]
            assert place


def test_each_operation_says_what_it_is_for_and_what_it_takes() -> None:
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert operation["summary"].endswith(".")
            assert all(parameter["description"] for parameter in operation.get("parameters", ()))
            assert {"200", "400", "429", "500"} <= operation["responses"].keys()
    past = {
        path for path, methods in DOCUMENT["paths"].items() if "as_of" in {p["name"] for p in methods.get("get", {}).get("parameters", ())}
    }
    timeless = {
        "/v1/clients",
        "/v1/clients/{id}",
        "/v1/health",
        "/v1/health/live",
        "/v1/health/ready",
        "/metrics",
        "/openapi.json",
        "/asyncapi.json",
    }
    assert {path for path, methods in DOCUMENT["paths"].items() if "get" in methods} == past | timeless


# Not held against it that it refuses what the schema allows: that cannot say that 2026-02-31 is no date, and which cursors are ours.
EXCLUDED: list[Any] = [openapi_checks.positive_data_acceptance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("path", "method"), NAMES)
def test_whatever_is_asked_is_answered_as_described(served: Served, path: str, method: str, mode: GenerationMode) -> None:
    """Requests made from the description, right and wrong ones: status, headers, media type and body are what it says."""
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method.upper()]
    if mode is GenerationMode.NEGATIVE and not (operation.definition.raw.get("parameters") or operation.definition.raw.get("requestBody")):
        return  # nothing can be wrong about it

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        headers = {"Authorization": f"Bearer {served.key}"} if operation.definition.raw.get("security") != [] else None
        case.call_and_validate(base_url=f"http://127.0.0.1:{served.port}", excluded_checks=EXCLUDED, headers=headers, timeout=60)

    ask()


def test_every_answer_is_what_its_schema_says(served: Served) -> None:
    """A client made of nothing but the description."""
    parts = {"symbol": quote(GOLD, safe=""), "date": "today", "id": "c1"}
    seen = set()

    async def run() -> None:
        async with connect(f"ws://127.0.0.1:{served.port}/v1/stream?symbols={GOLD}", additional_headers=bearer(served)) as stream:
            parts["id"] = json.loads(await stream.recv())[0]["client"]
            for path, methods in DOCUMENT["paths"].items():
                if "get" in methods:
                    answer = await asyncio.to_thread(served.ask, path.format(**parts))
                    content = methods["get"]["responses"][str(answer.status)]["content"]
                    media = answer.headers["content-type"].partition(";")[0]
                    if media == "application/json":
                        validator(DOCUMENT, content[media]["schema"]).validate(answer.json)
                    assert media in content
                    seen.add(path)

    asyncio.run(run())
    assert len(seen) == sum("get" in methods for methods in DOCUMENT["paths"].values())


def test_frames_of_the_stream_are_what_asyncapi_says(served: Served) -> None:
    document = served.good("/asyncapi.json")
    frame = validator(document, document["components"]["schemas"]["Frame"])
    types: set[str] = set()

    async def run() -> None:
        async with connect(f"ws://127.0.0.1:{served.port}/v1/stream", additional_headers=bearer(served)) as stream:
            for asked in (
                {"op": "subscribe", "id": "a", "symbols": ["*"], "channels": ["book", "bbo", "trade", "ticker", "market", "gap", "day"]},
                {"op": "snapshot", "symbols": [GOLD]}, {"op": "ping"}, {"op": "subscribe", "symbols": ["nothing"]}, {"op": "dance"},
                {"op": "configure", "policy": "conflate"},
            ):  # fmt: skip
                await stream.send(json.dumps(asked))
            while "pong" not in types or "configured" not in types or "ticker" not in types:
                found = json.loads(await asyncio.wait_for(stream.recv(), 30))
                frame.validate(found)
                types.update(said["type"] for said in found)

    asyncio.run(run())
    assert {"welcome", "subscribed", "book", "bbo", "ticker", "snapshots", "error", "pong", "configured"} <= types
    named = {
        schema["properties"]["type"]["enum"][0]
        for schema in document["components"]["schemas"].values()
        if "type" in schema.get("properties", {})
    }
    assert types <= named
    assert {kind.__struct_config__.tag for kind in (*message.DATA, *message.CONTROL)} == named
    assert {kind.__name__ for kind in request.REQUESTS} <= document["components"]["messages"].keys()


def bearer(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.key}"}


def validator(document: Any, schema: Any) -> Draft202012Validator:
    """Of a schema that refers into its document."""
    return Draft202012Validator({**schema, "components": document["components"]})
